"""Real workers: Ray actors on this machine, ranks that meet over gloo, DeepSpeed's shards."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from rl.config import Recipe, load_recipe
from rl.config_schema import ClusterConfig
from rl.learner import Learner
from rl.masks import PlanKey
from rl.own_plan import plan_of
from rl.step import train_step
from rollouts.checkpoints import save_policy
from rollouts.law import RAW
from rollouts.models import load_policy
from rollouts.strategy import Here
from tests.oracles.training import PROMPTS, SPEC, batch_for, preset_of, pull, tiny_folder

ray = pytest.importorskip("ray", reason="needs the extra 'cluster'")
pytest.importorskip("deepspeed", reason="needs the extra 'cluster'")
from ray.exceptions import RayTaskError  # noqa: E402

from rl import sampler_pool  # noqa: E402
from rl.ahead import DroppedError  # noqa: E402
from rl.cluster import Cluster, cluster_of  # noqa: E402
from rl.learners import ClusterError, LearnersLostError  # noqa: E402
from rl.placement import shares_of  # noqa: E402

# Starting workers takes seconds, longer where other tests run beside it; the first time on a machine DeepSpeed compiles a part of itself.
pytestmark = pytest.mark.timeout(420)

FAMILIES = {
    "token": "trajectory_grpo",
    "step and order": "order_grpo",
    "sequence": "espo",
    "pairs": "vrpo",
    "hints": "igpo",
}
# Each with one pass, after which the first moment is the gradient; and one that scores again what it has moved.
RUNS = [*((name, 1) for name in FAMILIES.values()), ("espo", 2)]
OPTIM = {"lr": 1e-3, "max_grad_norm": 1e9}


@pytest.fixture(scope="module", autouse=True)
def machine() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


def recipe_of(folder: Path, **cluster: Any) -> Recipe:
    return load_recipe(
        {
            "model": {"path": str(folder)},
            "data": {"train": {"path": "owner/rows"}},
            "rollout": {"canvas": 8, "block": 4, "steps": 4},
            "rewards": [{"fn": "gsm8k.correct"}],
            "method": {"preset": "order_grpo"},
            "optim": OPTIM,
            "train": {"threads": 1, "deterministic": True},
            "cluster": {"backend": "ray", **cluster},
        },
        provided=["data.train"],
    )


@pytest.fixture
def workers(folder: Path, tmp_path: Path) -> Iterator[Any]:
    started: list[Cluster] = []

    def start(async_depth: int = 0, **cluster: Any) -> Cluster:
        recipe = recipe_of(folder, **cluster)
        rollout = recipe.rollout.model_copy(update={"async_depth": async_depth})
        started.append(Cluster(recipe.model_copy(update={"rollout": rollout}), tmp_path, said.append))
        return started[-1]

    said: list[str] = []
    start.said = said  # type: ignore[attr-defined]
    yield start
    for one in started:
        one.close()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_are_one_learner(stage: int, folder: Path, workers: Any, tmp_path: Path) -> None:
    """Loss and gathered gradient of each family of methods; then state, resume, and the scores of what is saved."""
    cluster = workers(learners=2, zero_stage=stage)
    for name, passes in RUNS:
        method = preset_of(name, passes=passes)
        policy = load_policy(folder)
        group = cluster.learner(policy, "optim", 10, 4)
        pull(group)  # what the family before left
        single = Learner(load_policy(folder), cluster.recipe.optim, total_steps=10, micro_batch=4)
        for mine, theirs in zip(single.parameters, group.parameters, strict=True):
            mine.data.copy_(theirs)
        batch = batch_for(policy, method)
        if method.needs_reference:
            group.freeze_reference("start")
            single.freeze_reference("start")
        found = train_step(group, batch, method, seed=3, step=0).result()
        wanted = train_step(single, batch, method, seed=3, step=0).result()
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5, abs=2e-7)
        assert found["optim/grad_norm"] == pytest.approx(wanted["optim/grad_norm"], rel=1e-5)
        if method.inner_passes == 1:  # the first moment is the gradient times 1 - beta1
            mine, theirs = group.state()[0]["optimizer"], single.state()[0]["optimizer"]
            assert mine.keys() == theirs.keys()
            scale = max(float(value.abs().max()) for key, value in theirs.items() if key.startswith("exp_avg/"))
            for key, value in theirs.items():
                if key.startswith("exp_avg/"):
                    assert torch.allclose(mine[key], value, rtol=0, atol=1e-6 * scale), key
    tensors, rest = group.state()
    again = cluster.learner(load_policy(folder), "optim", 10, 4)
    again.load_state(tensors, rest)
    second = again.state()[0]
    assert all(torch.equal(second[part][key], value) for part, named in tensors.items() for key, value in named.items())
    kept = {name: value.clone() for name, value in tensors["weights"].items()}
    on = train_step(again, batch, method, seed=3, step=1).result()
    after = again.state()[0]["weights"]
    again.load_state(tensors, rest)
    assert train_step(again, batch, method, seed=3, step=1).result() == on  # a resumed run is the undisturbed one
    assert all(torch.equal(after[name], value) for name, value in again.state()[0]["weights"].items())
    assert any(not torch.equal(after[name], value) for name, value in kept.items())
    # What `unmask export` starts from: the folder that a run ends with computes what the ranks compute.
    pull(again)
    save_policy(again.policy, tmp_path / "model")
    saved = Learner(load_policy(tmp_path / "model"), cluster.recipe.optim, total_steps=1, micro_batch=4)
    assert batch.advantage is not None
    plan = plan_of(method.estimator, batch.rollouts, batch.advantage, PlanKey(3, 0))
    scores = [learner.score(batch.rollouts, plan, RAW) for learner in (again, saved)]
    torch.testing.assert_close(*scores, rtol=0, atol=2e-6)
    untrained = Learner(load_policy(folder), cluster.recipe.optim, total_steps=1, micro_batch=4)
    assert (untrained.score(batch.rollouts, plan, RAW) - scores[0]).abs().max() > 1e-3


def options(**more: Any) -> dict[str, Any]:
    return {"group_size": 2, "prompt_ids": range(len(PROMPTS)), "seed": 5, "step": 0, "deterministic": True, **more}


def test_workers_draw_what_one_process_draws_and_may_die(folder: Path, workers: Any) -> None:
    cluster = workers(samplers=2)
    alone = Here(load_policy(folder)).sample(PROMPTS, SPEC, pad_to=8, **options())
    rows: list[int] = []
    ours = cluster.samplers.sample(PROMPTS, SPEC, pad_to=8, on_rows=rows.append, **options())
    assert rows == [2] * len(PROMPTS)
    assert same(ours, alone)
    victim = ray.get(cluster.samplers.workers[0].ready.remote())
    os.kill(victim, signal.SIGKILL)
    assert same(cluster.samplers.sample(PROMPTS, SPEC, pad_to=8, **options()), alone)
    assert any("died and is replaced" in line for line in workers.said)
    assert ray.get(cluster.samplers.workers[0].ready.remote()) != victim


def test_all_samplers_may_die_at_once(folder: Path, workers: Any) -> None:
    cluster = workers(samplers=2, restarts=1)
    alone = Here(load_policy(folder)).sample(PROMPTS, SPEC, pad_to=8, **options())
    for worker in cluster.samplers.workers:
        os.kill(ray.get(worker.ready.remote()), signal.SIGKILL)
    assert same(cluster.samplers.sample(PROMPTS, SPEC, pad_to=8, **options()), alone)
    assert cluster.samplers.replaced == 2


def test_workers_that_keep_dying_end_the_run(folder: Path, workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = workers(samplers=2, restarts=1)
    start = cluster.samplers._start

    def doomed(number: int) -> Any:
        worker = start(number)
        ray.kill(worker)
        return worker

    monkeypatch.setattr(cluster.samplers, "_start", doomed)
    for worker in cluster.samplers.workers:
        ray.kill(worker)
    with pytest.raises(ClusterError, match="worker 2 in a row over the same piece of work"):
        cluster.samplers.sample(PROMPTS, SPEC, pad_to=8, **options())


def test_workers_draw_with_the_learners_weights(folder: Path, workers: Any) -> None:
    cluster = workers(samplers=1, learners=1)
    policy = load_policy(folder)
    method = preset_of("order_grpo")
    group = cluster.learner(policy, "optim", 10, 4)
    train_step(group, batch_for(policy, method), method, seed=3, step=0)
    before = Here(policy).sample(PROMPTS, SPEC, pad_to=8, **options())
    ours = cluster.samplers.sample(PROMPTS, SPEC, pad_to=8, **options())
    pull(group)
    after = Here(policy).sample(PROMPTS, SPEC, pad_to=8, **options())
    assert same(ours, after)
    assert not torch.equal(before.raw_logprob, after.raw_logprob)
    assert cluster.samplers.rows_run["without_gradient"] > 0


@pytest.mark.parametrize(("how", "stage"), [("store", 0), ("direct", 0), ("direct", 3)])
def test_weights_of_a_moment_stay_what_they_were_whoever_dies(
    folder: Path, workers: Any, how: str, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn ahead is drawn by the weights it was begun with, though the learner has gone on."""
    monkeypatch.setattr("rl.learners.PIECE", 20_000)
    learners = 2 if stage else 1
    cluster = workers(samplers=2, learners=learners, zero_stage=stage, weights=how, placement="separate", async_depth=1)
    policy = load_policy(folder)
    method = preset_of("order_grpo")
    group, batch = cluster.learner(policy, "optim", 10, 4), batch_for(policy, method)
    train_step(group, batch, method, seed=3, step=0)
    pull(group)
    then, leave = Here(policy).sample(PROMPTS, SPEC, pad_to=8, **options()), Event()
    pinned = cluster.pinned(leave)
    train_step(group, batch, method, seed=3, step=1)
    newer = cluster.samplers.sample(PROMPTS, SPEC, pad_to=8, **options())
    os.kill(ray.get(cluster.samplers.workers[1].ready.remote()), signal.SIGKILL)
    assert same(pinned.sample(PROMPTS, SPEC, pad_to=8, **options()), then)
    assert not torch.equal(newer.raw_logprob, then.raw_logprob)
    assert same(cluster.samplers.sample(PROMPTS, SPEC, pad_to=8, **options()), newer)
    with pytest.raises(RayTaskError, match="asked to draw with weights of version 1, and it holds"):
        ray.get(cluster.samplers.workers[0].sample.remote(1, PROMPTS, SPEC, options()))
    leave.set()
    with pytest.raises(DroppedError):
        pinned.sample(PROMPTS, SPEC, pad_to=8, **options())


def test_a_sampler_that_dies_on_the_line_is_left_out_and_replaced(
    folder: Path, workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = workers(samplers=2, learners=1, weights="direct", placement="separate")
    policy, method = load_policy(folder), preset_of("order_grpo")
    group = cluster.learner(policy, "optim", 10, 4)
    train_step(group, batch_for(policy, method), method, seed=3, step=0)
    asked: list[Any] = []

    def lives_and_dies(worker: Any) -> bool:
        asked.append(worker)
        if len(asked) == 2:  # it was there when it was asked, and is gone when its weights come
            os.kill(ray.get(worker.ready.remote()), signal.SIGKILL)
            return True
        return lives(worker)

    lives = sampler_pool._lives
    monkeypatch.setattr(sampler_pool, "_lives", lives_and_dies)
    monkeypatch.setattr(sampler_pool, "LINE_SECONDS", 4.0)
    ours = cluster.samplers.sample(PROMPTS, SPEC, pad_to=8, **options())
    pull(group)
    assert same(ours, Here(policy).sample(PROMPTS, SPEC, pad_to=8, **options()))
    assert cluster.samplers.replaced == 1


def test_a_lost_rank_is_said_and_replaced(folder: Path, workers: Any) -> None:
    cluster = workers(learners=2)
    policy = load_policy(folder)
    method = preset_of("order_grpo")
    batch = batch_for(policy, method)
    group = cluster.learner(policy, "optim", 10, 4)
    train_step(group, batch, method, seed=3, step=0)
    state = group.state()
    wanted = train_step(group, batch, method, seed=3, step=1).result()
    # While the other waits for it in a sum: that one raises, too, and must not be taken for the cause.
    victim = ray.get(cluster.crew.workers[1].ready.remote())
    os.kill(victim, signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (victim, signal.SIGKILL)).start()
    with pytest.raises(LearnersLostError, match="a learner died"):
        group.step()
    cluster.crew.start()
    fresh = cluster.learner(policy, "optim", 10, 4)
    fresh.load_state(*state)
    assert train_step(fresh, batch, method, seed=3, step=1).result() == wanted


def test_more_than_there_is(folder: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError, match="64 learners and 1 samplers need 65 CPUs, and the cluster has 8"),
        cluster_of(recipe_of(folder, learners=64), tmp_path, print),
    ):
        pass
    with (
        pytest.raises(ClusterError, match=r"need 2 GPUs, and the cluster has 0"),
        cluster_of(recipe_of(folder, gpus_per_learner=1, gpus_per_sampler=1), tmp_path, print),
    ):
        pass


def same(left: Any, right: Any) -> bool:
    tensors = ("tokens", "reveal_step", "raw_logprob", "sampler_logprob", "rollout_id", "group_id", "prompt_id")
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in tensors) and left.texts == right.texts


def test_whoever_shares_no_gpu_has_one_alone() -> None:
    def gpus(have: float, **cluster: Any) -> tuple[float, float, list[float]]:
        shares = shares_of(ClusterConfig(backend="ray", **cluster), have)
        return shares.learner, shares.sampler, [bundle.get("GPU", 0.0) for bundle in shares.bundles]

    assert gpus(8, learners=2, samplers=2) == (0.5, 0.5, [1, 1])
    assert gpus(8, learners=4, samplers=1) == (0.5, 0.5, [1, 1, 1, 1])
    assert gpus(8, learners=1, samplers=3) == (0.5, 0.5, [1, 1, 1])
    assert gpus(8, learners=2, samplers=1, placement="separate") == (1, 1, [1, 1, 1])
    assert gpus(8, learners=2, samplers=1, gpus_per_learner=2) == (2, 0.5, [2.5, 2])
    assert gpus(0, learners=2, samplers=1) == (0, 0, [0, 0])

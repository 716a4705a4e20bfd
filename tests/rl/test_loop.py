"""A whole run through the public API: what it writes, what repeats, warm start and reference, settings."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from rl.config import RecipeErrors, load_recipe
from rl.errors import DataError
from rl.learner import Learner
from rl.progress import Reporter
from rl.run import RunFolder, plain, read_jsonl
from rollouts.models import load_policy
from rollouts.policy import Policy
from tests.oracles.runs import ROWS, digits, recipe, same_weights, samples, train, written
from tests.oracles.training import tiny_policy

pytestmark = pytest.mark.usefixtures("own_folder")


# ---- what a run leaves behind


def test_a_run_leaves_recipe_metrics_rollouts_summary_and_weights(checkpoint: Path) -> None:
    run = train(recipe(checkpoint, train={"log_rollouts": 4, "updates": 3}))
    assert run.folder == Path("run")
    wanted = {
        "recipe.yaml",
        "metrics.jsonl",
        "timing.jsonl",
        "rollouts",
        "checkpoints",
        "summary.json",
        "report.html",
        "model",
    }
    assert {path.name for path in run.folder.iterdir()} == wanted

    again = load_recipe(run.folder / "recipe.yaml", provided=["data.train", "rewards"])
    assert again.model.path == str(checkpoint)
    assert (again.optim.lr, again.train.updates, again.method.preset) == (1e-3, 3, "trajectory_grpo")

    assert [row["update"] for row in run.metrics] == [0, 1, 2]
    for row in run.metrics:
        assert 0 <= row["outcome"] == row["reward"] == row["reward/digits"] <= 1
        assert row["sampler_gap_max"] < 1e-5
        assert row["optim/grad_norm"] > 0
        assert row["optim/lr"] == pytest.approx(1e-3)
        assert row["ratio"] == 1.0
        assert row["loss"] == pytest.approx(0.0, abs=1)
        assert {"length", "truncated", "entropy", "zero_signal_groups", "signal_share"} <= set(row)
    assert run.metrics[0]["first_pass_gap"] == 0.0

    kept = samples(run)
    assert [row["update"] for row in kept] == [0] * 4 + [1] * 4 + [2] * 4
    for row in kept:
        assert len(row["tokens"]) == len(row["reveal_step"]) == len(row["ratio"]) == 8
        assert row["reward"] == row["outcome"] == pytest.approx(digits([row["text"]])[0])
        assert row["prompt_id"] in range(6)

    assert run.summary == json.loads((run.folder / "summary.json").read_text())
    assert run.summary["name"] == "toy"
    assert run.summary["outcome"] == "digits"
    work = run.summary["forwards"]
    assert 0 < work["rollout"] <= 3 * 6 * 4
    assert 0 < work["train_backward"] <= work["train_forward"]
    assert run.summary["versions"]["torch"] == torch.__version__
    assert set(run.summary["wall_seconds"]) == {"rollout", "reward", "train", "save"}
    assert not same_weights(load_policy(run.folder / "model"), load_policy(checkpoint))


def test_evaluation_before_and_after(checkpoint: Path) -> None:
    held_out = [{"prompt": "11", "answer": 1, "grid": "a"}, {"prompt": "2", "answer": 2, "grid": "b"}] * 3
    source = recipe(checkpoint, eval={"steps": [2], "every": 1, "cluster": "grid", "limit": 5}, train={"updates": 3})
    run = train(source, eval_dataset=held_out)
    evaluations = read_jsonl(run.folder / "evaluations.jsonl")
    assert [(row["when"], sorted(row["outcomes"])) for row in evaluations] == [
        ("start", ["2", "4"]),
        ("update 1", ["4"]),
        ("update 2", ["4"]),
        ("end", ["2", "4"]),
    ]
    assert all(len(values) == 5 for row in evaluations for values in row["outcomes"].values())
    summary = run.summary
    before, after = evaluations[0]["outcomes"]["4"], evaluations[-1]["outcomes"]["4"]
    assert summary["accuracy_before"]["value"] == pytest.approx(sum(before) / 5)
    assert summary["accuracy_after"]["value"] == pytest.approx(sum(after) / 5)
    assert summary["gain"]["value"] == pytest.approx((sum(after) - sum(before)) / 5)
    assert summary["accuracy_before"]["n"] == 5
    assert sorted(summary["accuracy_by_steps_after"]) == ["2", "4"]
    assert summary["forwards"]["eval"] > 0
    # The same prompts get the same answers whenever the weights are the same: evaluation is greedy.
    assert before[0] == before[2] == before[4]
    # The saved weights are the ones that were measured.
    file = written(held_out, Path("eval.jsonl"))
    Path("mine.py").write_text("def digits(completions, **_):\n    return [len(c) / 8 for c in completions]\n")
    named = {**source, "rewards": [{"fn": "mine.py:digits"}], "data": {"eval": {"path": file}, "train": {"path": file}}}
    again = unmask.evaluate(named, run.folder / "model")
    assert {steps: found["n"] for steps, found in again.items()} == {2: 5, 4: 5}


def test_saved_weights_are_the_trained_ones(checkpoint: Path) -> None:
    """The accuracy at the end of a run is the accuracy of what it saved."""
    file = written(ROWS, Path("rows.jsonl"))
    Path("mine.py").write_text(
        "def share(completions, **_):\n    return [sum(map(int, c)) / 72 for c in completions]\n"
    )
    source = recipe(checkpoint, data={"train": {"path": file}, "eval": {"path": file}}, eval={}, optim={"lr": 0.01})
    source["rewards"] = [{"fn": "mine.py:share"}]
    run = unmask.train(source, reporter=Reporter(quiet=True))
    assert unmask.evaluate(source, run.folder / "model")[4] == run.summary["accuracy_after"]
    assert unmask.evaluate(source)[4] == run.summary["accuracy_before"]
    assert run.summary["accuracy_before"] != run.summary["accuracy_after"]


def test_a_lora_run_saves_an_adapter_that_plain_peft_loads(checkpoint: Path) -> None:
    from peft import PeftModel

    method = {"preset": "diffu_grpo", "inner_passes": 2}
    run = train(recipe(checkpoint, model={"lora": {"r": 4, "alpha": 8}}, method=method, optim={"lr": 0.01}))
    assert not (run.folder / "model").exists()
    plain_policy = load_policy(checkpoint)
    ids = torch.tensor([[1, 2, 3, plain_policy.mask_id, plain_policy.mask_id]])
    everywhere = torch.ones_like(ids, dtype=torch.bool)

    def logits(policy: Policy) -> torch.Tensor:
        with torch.no_grad():
            return policy.logits(policy(ids, None, everywhere))

    bare = logits(plain_policy)
    ours = logits(load_policy(checkpoint, adapter=run.folder / "adapter"))
    theirs_model = PeftModel.from_pretrained(plain_policy.causal_lm, run.folder / "adapter")
    with torch.no_grad():
        theirs = theirs_model(input_ids=ids, is_causal=False, use_cache=False).logits[0].float()
    torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-6)
    assert float((ours - bare).abs().max()) > 1e-3
    # And a run can start from it.
    more = train(
        recipe(checkpoint, model={"adapter": str(run.folder / "adapter")}, train={"out": "more", "updates": 1})
    )
    assert (more.folder / "adapter" / "adapter_config.json").is_file()


def test_a_run_of_no_updates_saves_what_it_loaded(checkpoint: Path) -> None:
    run = train(recipe(checkpoint, train={"updates": 0}))
    assert same_weights(load_policy(run.folder / "model"), load_policy(checkpoint))
    assert not (run.folder / "metrics.jsonl").exists()


def test_a_second_run_in_a_folder_moves_the_first_aside(checkpoint: Path) -> None:
    train(recipe(checkpoint))
    second = train(recipe(checkpoint, train={"updates": 1}))
    assert len(second.metrics) == 1
    # Nothing is deleted: the first one is complete where it was moved to.
    earlier = second.folder / "earlier" / "001"
    assert len(read_jsonl(earlier / "metrics.jsonl")) == 2
    assert {"model", "summary.json", "checkpoints", "recipe.yaml"} <= {path.name for path in earlier.iterdir()}
    train(recipe(checkpoint))
    assert (second.folder / "earlier" / "002" / "model").is_dir()


def test_the_tiny_model_needs_no_checkpoint() -> None:
    run = train(recipe(Path("tiny"), train={"updates": 1}))
    assert load_policy(run.folder / "model").vocab_size > 90


def test_a_reward_that_can_be_learnt_is_learnt(checkpoint: Path) -> None:
    source = recipe(
        checkpoint, optim={"lr": 3e-3}, train={"updates": 25, "prompts_per_update": 6}, rollout={"group_size": 8}
    )
    source["rollout"]["max_rows"] = 48
    source["train"]["micro_batch"] = 64
    rewards = [row["reward"] for row in train(source).metrics]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.15


# ---- what repeats


def test_the_same_seed_gives_the_same_run(checkpoint: Path) -> None:
    runs = [
        train(recipe(checkpoint, train={"deterministic": True, "seed": seed, "out": name}, method={"preset": preset}))
        for seed, name, preset in ((1, "a", "raft"), (1, "b", "raft"), (2, "c", "raft"))
    ]
    assert runs[0].metrics == runs[1].metrics != runs[2].metrics
    assert samples(runs[0]) == samples(runs[1]) != samples(runs[2])
    policies = [load_policy(run.folder / "model") for run in runs]
    assert same_weights(policies[0], policies[1])


@pytest.mark.parametrize("preset", ["diffu_grpo", "trajectory_grpo", "raft"])
def test_memory_settings_change_no_random_stream(checkpoint: Path, preset: str) -> None:
    runs = []
    for name, max_rows, micro_batch in (("a", 1, 1), ("b", 4, 3), ("c", 100, 100)):
        method = {"preset": preset, "inner_passes": 1}
        source = recipe(checkpoint, train={"micro_batch": micro_batch, "out": name, "log_rollouts": 9}, method=method)
        source["rollout"]["max_rows"] = max_rows
        source["model"]["lora"] = {"r": 4, "alpha": 8}
        runs.append(train(source))
    first = runs[0].metrics[0]
    for run in runs[1:]:
        for key in ("tokens", "reveal_step", "text", "reward", "prompt_id"):
            assert [row[key] for row in samples(run)] == [row[key] for row in samples(runs[0])]
        row = run.metrics[0]
        assert row.keys() == first.keys()
        for key in ("loss", "optim/grad_norm", "logprob", "signal_share"):  # same masks, same rollouts
            if key in row:
                assert row[key] == pytest.approx(first[key], rel=1e-4, abs=1e-6), key


def test_fewer_prompts_than_an_update_uses(checkpoint: Path) -> None:
    run = train(recipe(checkpoint, train={"prompts_per_update": 5}), rows=ROWS[:2])
    assert run.metrics[0]["signal_share"] <= 1
    assert run.summary["forwards"]["rollout"] > 0


# ---- warm start, reference


def warm(tmp_path: Path, **options: Any) -> dict[str, Any]:
    return {"data": {"path": written(ROWS, tmp_path / "rows.jsonl")}, "steps": 4, "batch": 4, "lr": 5e-3, **options}


@pytest.mark.parametrize(("reference", "moved"), [("start", False), ("moving", False), ("base", True)])
def test_with_a_warm_start_the_base_is_not_the_start(
    checkpoint: Path, tmp_path: Path, reference: str, moved: bool
) -> None:
    source = recipe(
        checkpoint,
        model={"lora": {"r": 4, "alpha": 8}},
        method={"preset": "diffu_grpo", "inner_passes": 1, "kl": {"reference": reference}},
        warm_start=warm(tmp_path),
    )
    run = train(source)
    losses = [row["loss"] for row in read_jsonl(run.folder / "warm_start.jsonl")]
    assert len(losses) == 4
    assert (run.folder / "warm_start" / "adapter" / "adapter_config.json").is_file()
    assert (run.metrics[0]["penalty"] > 1e-4) == moved
    assert (run.metrics[0]["penalty"] == 0.0) != moved
    assert run.metrics[1]["penalty"] > 0
    assert "warm_start" in run.summary["wall_seconds"]


def test_the_moving_reference_moves_when_it_should(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[tuple[float, int]] = []
    own = Learner.mix_reference

    def spy(self: Learner, share: float) -> None:
        shares.append((share, self.work.backward))
        own(self, share)

    monkeypatch.setattr(Learner, "mix_reference", spy)
    kl = {"beta": 0.1, "reference": "moving", "mix": 0.25, "every": 2}
    train(recipe(checkpoint, method={"kl": kl}, train={"updates": 5}))
    assert [share for share, _ in shares] == [0.25, 0.25]
    assert len({work for _, work in shares}) == 2


def test_sft_alone(checkpoint: Path, tmp_path: Path) -> None:
    source = recipe(checkpoint, warm_start=warm(tmp_path, steps=30, batch=6))
    runs = []
    for name in ("a", "b"):
        source["train"]["out"] = name
        runs.append(unmask.sft(source, reporter=Reporter(quiet=True)))
    losses = [row["loss"] for row in read_jsonl(runs[0].folder / "warm_start.jsonl")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert same_weights(*(load_policy(run.folder / "model") for run in runs))
    assert runs[0].summary["forwards"]["rollout"] == 0


def test_sft_with_an_evaluation_needs_a_reward_to_measure_by(checkpoint: Path, tmp_path: Path) -> None:
    file = written(ROWS, tmp_path / "rows.jsonl")
    source = recipe(checkpoint, warm_start=warm(tmp_path), eval={}, data={"eval": {"path": file}})
    with pytest.raises(RecipeErrors, match="no reward function is named"):
        unmask.sft(source, reporter=Reporter(quiet=True))
    Path("mine.py").write_text("def long(completions, **_):\n    return [len(c) / 8 for c in completions]\n")
    run = unmask.sft({**source, "rewards": [{"fn": "mine.py:long"}]}, reporter=Reporter(quiet=True))
    assert run.summary["accuracy_before"]["n"] == run.summary["accuracy_after"]["n"] == 6


def test_a_completion_that_does_not_fit_the_canvas_is_refused_by_its_row(checkpoint: Path, tmp_path: Path) -> None:
    rows = [*ROWS, {"prompt": "1", "completion": "123456789"}]
    data = {"path": written(rows, tmp_path / "long.jsonl")}
    with pytest.raises(
        DataError, match=r"warm_start\.data: 1 of 7 completions.*row 6 has 9 tokens.*8 positions\s+take a larger"
    ):
        unmask.sft(recipe(checkpoint, warm_start=warm(tmp_path, data=data)), reporter=Reporter(quiet=True))
    assert not Path("run").exists()


# ---- overrides and settings


def test_overrides_act_on_every_form_of_a_recipe(checkpoint: Path) -> None:
    source = recipe(checkpoint)
    checked = load_recipe(source, provided=["data.train", "rewards"])
    for form in (source, checked):
        run = train(form, overrides=["train.updates=1", "train.out=other"])
        assert run.folder == Path("other")
        assert len(run.metrics) == 1


def test_the_schedule_counts_optimizer_steps(checkpoint: Path) -> None:
    method = {"preset": "diffu_grpo", "inner_passes": 2, "kl": {"beta": 0.01, "reference": "start"}}
    optim = {"lr": 1e-3, "schedule": "linear", "warmup_steps": 2}
    run = train(recipe(checkpoint, method=method, optim=optim, train={"updates": 3}))
    rates = [row["optim/lr"] for row in run.metrics]  # means of two passes each
    assert rates == pytest.approx([0.75e-3, (1 + 2 / 3) / 2 * 1e-3, (1 / 3 + 0) / 2 * 1e-3])


# ---- the run folder


def test_what_json_cannot_hold_becomes_null(tmp_path: Path) -> None:
    folder, _ = RunFolder.begin(tmp_path / "x", "a: 1\n")
    values = {"a": float("nan"), "b": [float("inf"), torch.tensor(2), True], "c": {1: (None, "w")}}
    folder.append("metrics.jsonl", [values])
    assert read_jsonl(tmp_path / "x" / "metrics.jsonl") == [{"a": None, "b": [None, 2, True], "c": {"1": [None, "w"]}}]
    assert plain(tiny_policy().mask_id) == 12


# ---- what watches a run


def test_a_monitor_at_stop_ends_the_run_and_its_remedy_goes_on(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    health = {"zero_signal": "stop", "window": 2}
    source = recipe(checkpoint, train={"updates": 5}, health=health)
    run = unmask.train(source, lambda completions, **_: [1.0] * len(completions), ROWS)
    alarms = read_jsonl(run.folder / "health.jsonl")
    assert [alarm["level"] for alarm in alarms if alarm["monitor"] == "zero_signal"] == ["stop"]
    assert run.summary["updates"] == len(run.metrics) == alarms[-1]["update"] + 1 < 5
    said = " ".join(capsys.readouterr().out.split())
    assert "STOP: zero_signal" in said
    assert "health.zero_signal says stop" in said
    again = unmask.train(
        source,
        lambda completions, **_: [1.0] * len(completions),
        ROWS,
        overrides=["health.zero_signal=warn"],
        resume="auto",
        reporter=Reporter(quiet=True),
    )
    assert again.summary["updates"] == 5


def test_sinks_get_the_numbers_once_even_if_the_run_was_interrupted(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra 'track'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    source = recipe(checkpoint, train={"updates": 4}, track={"sinks": ["tensorboard"]}, save={"every": 1, "keep": 9})
    run = train(source)
    assert train(source, resume="run/checkpoints/update-000002").metrics == run.metrics
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("reward")]
    assert seen == [(row["update"] + 1, pytest.approx(row["reward"])) for row in run.metrics]


def test_a_moving_reference_moves_also_after_a_batch_without_signal(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flat_once(completions: list[str], trainer_state: Any = None, **_: Any) -> list[float]:
        return [1.0] * len(completions) if trainer_state.global_step == 1 else digits(completions)

    moved: list[float] = []
    monkeypatch.setattr(Learner, "mix_reference", lambda self, share: moved.append(share))
    method = {"preset": "trajectory_grpo", "approximations": ["order_conditional"]}
    kl = {"kl": {"beta": 0.1, "reference": "moving", "every": 2}}
    train(recipe(checkpoint, method=method | kl, train={"updates": 4}, rollout={"dynamic": {"rounds": 1}}), flat_once)
    assert len(moved) == 2

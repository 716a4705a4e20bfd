"""Drawing ahead: which weights draw which batch is fixed, whatever is slow, fails, or is interrupted."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import unmask
from rl import loop
from rl.ahead import Ahead, DroppedError
from rl.collect import Collected, collect
from rl.config import Recipe, load_recipe
from rl.learner import Learner
from rl.learners import LearnersLostError
from rl.progress import Reporter
from rl.run import Run, read_jsonl
from rl.session import Session
from rl.setup import Setup, load_model, set_up
from rl.step import train_step
from rollouts.models import load_policy
from rollouts.strategy import Here
from tests.oracles.runs import ROWS, digits, recipe, same_weights, train

pytest.importorskip("ray", reason="needs the extra 'cluster'")
pytestmark = pytest.mark.usefixtures("own_folder")


class Beside:
    """Workers in this process: a copy of the policy draws, and the learner is here."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.policy, self.slow = recipe, None, 0.0

    def take_on(self, setup: Setup) -> Setup:
        assert all(bool(parameter.isnan().all()) for parameter in setup.policy.parameters())  # a driver has no weights
        self.policy = load_model(self.recipe.model, seed=self.recipe.train.seed)
        return replace(setup, policy=self.policy)

    def learner(self, policy: Any, section: str, total_steps: int, micro_batch: int) -> Learner:
        return Learner(policy, getattr(self.recipe, section), total_steps=total_steps, micro_batch=micro_batch)

    def pinned(self, leave: Event) -> Here:
        return Here(copy.deepcopy(self.policy))

    def restart_learners(self, error: Exception) -> None:
        raise AssertionError(error)

    def well(self) -> None: ...

    def stats(self) -> dict[str, float]:
        time.sleep(self.slow)  # so that the learner is waiting, or is not
        return {}


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[Beside]:
    """The workers of each run."""
    made: list[Beside] = []

    @contextmanager
    def workers(recipe: Recipe, *_: Any) -> Iterator[Beside]:
        made.append(Beside(recipe))
        yield made[-1]

    monkeypatch.setattr(loop, "_workers", workers)
    monkeypatch.setattr(loop, "_cluster", lambda recipe: nullcontext())
    return made


def settings(checkpoint: Path, depth: int, updates: int = 5, **more: dict[str, Any]) -> dict[str, Any]:
    named = {"method": {"preset": "trajectory_grpo", "approximations": ["order_conditional", "stale_rollouts"]}}
    cluster = {"backend": "ray", "placement": "separate"} if depth else {}
    raw = recipe(
        checkpoint,
        rollout={"async_depth": depth},
        train={"updates": updates, "deterministic": True, "threads": 1},
        save={"every": 1, "keep": 9},
        **{**named, **more},
    )
    return {**raw, "cluster": cluster}


def plain_loop(source: dict[str, Any], depth: int) -> list[dict[str, Any]]:
    """What a run means: batch u is drawn by the weights after update u - depth, and learned from after u updates."""
    checked = load_recipe(source, provided=["data.train", "rewards"])
    setup = set_up(checked, reward_funcs=digits, train_dataset=ROWS)
    learner = Learner(setup.policy, checked.optim, total_steps=checked.train.updates, micro_batch=5)
    history, rows = [copy.deepcopy(setup.policy)], []
    for update in range(checked.train.updates):
        version = max(0, update - depth)
        drawn = collect(
            setup, Reporter(quiet=True), update, version=version, sampler=Here(copy.deepcopy(history[version]))
        )
        step = train_step(learner, drawn.batch, checked.method, seed=checked.train.seed, step=update).result()
        history.append(copy.deepcopy(setup.policy))
        rows.append({"update": update, **drawn.metrics, **step, "lag": update - version})
    return rows


@pytest.mark.parametrize("depth", [1, 2])
def test_a_batch_is_of_the_weights_that_the_recipe_says(checkpoint: Path, beside: list[Beside], depth: int) -> None:
    source = settings(checkpoint, depth)
    wanted = plain_loop(source, depth)
    run = train(source)
    assert len(beside) == 1
    rows = read_jsonl(run.folder / "metrics.jsonl")
    assert [row["lag"] for row in rows] == [min(u, depth) for u in range(5)]
    for row, other in zip(rows, wanted, strict=True):
        assert {key: row[key] for key in other} == {key: other[key] for key in row if key in other}
    for timing in read_jsonl(run.folder / "timing.jsonl"):
        hidden = 1 - timing["seconds/waiting"] / (timing["seconds/rollout"] + timing["seconds/reward"])
        assert timing["overlap"] == pytest.approx(max(0.0, hidden), abs=1e-6)
        assert timing["seconds/update"] >= timing["seconds/waiting"] + timing["seconds/train"]


def test_it_is_another_run_than_the_synchronous_one(checkpoint: Path, beside: list[Beside]) -> None:
    sync = plain_loop(settings(checkpoint, 0), 0)
    ahead = read_jsonl(train(settings(checkpoint, 1)).folder / "metrics.jsonl")
    assert ahead[0]["loss"] == sync[0]["loss"]
    assert ahead[2]["entropy"] != sync[2]["entropy"]


@pytest.mark.parametrize("depth", [1, 3])
def test_a_run_taken_up_again_is_the_undisturbed_one(checkpoint: Path, beside: list[Beside], depth: int) -> None:
    whole = train(settings(checkpoint, depth, 6))
    rows = read_jsonl(whole.folder / "metrics.jsonl")
    whole.folder.rename("whole")
    for stop in (1, 3):
        cut = settings(checkpoint, depth, 6, stop={"updates": stop})
        train(cut)
        again: Run = train(settings(checkpoint, depth, 6), resume="auto")
        assert read_jsonl(again.folder / "metrics.jsonl") == rows
        assert same_weights(load_policy(again.folder / "model"), load_policy(Path("whole/model")))
        assert again.summary["forwards"] == whole.summary["forwards"]
        assert again.summary["rows_run"] == whole.summary["rows_run"]
        again.folder.rename(f"cut{stop}")


def test_a_reward_that_raises_ends_the_run_at_its_own_update(checkpoint: Path, beside: list[Beside]) -> None:
    calls = []

    def fails_later(completions: list[str], **_: Any) -> list[float]:
        calls.append(len(completions))
        if len(calls) > 3:
            raise ZeroDivisionError("now")
        return digits(completions)

    with pytest.raises(Exception, match="3 of 5 updates are saved"):
        train(settings(checkpoint, 1), fails_later)
    assert len(read_jsonl(Path("run/metrics.jsonl"))) == 3
    again = train(settings(checkpoint, 1), resume="auto", accept_changes=True)
    assert [row["update"] for row in read_jsonl(again.folder / "metrics.jsonl")] == [0, 1, 2, 3, 4]


class Fragile(Beside):
    """Its learner is lost once, and comes back."""

    def learner(self, policy: Any, section: str, total_steps: int, micro_batch: int) -> Learner:
        return Learner(self.policy, getattr(self.recipe, section), total_steps=total_steps, micro_batch=micro_batch)

    def restart_learners(self, error: Exception) -> None: ...


@pytest.mark.parametrize("depth", [0, 2])
def test_hours_of_work_count_once_when_the_learner_was_lost(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    hours: list[float] = []
    update = Session.update

    def fails_once(self: Session, number: int) -> dict[str, Any]:
        if number == 1:
            self.started -= 3600 * 10
        if number == 2:
            hours.append(self.hours())
            if len(hours) == 1:
                raise LearnersLostError("gone")
        return update(self, number)

    @contextmanager
    def workers(recipe: Recipe, *_: Any) -> Iterator[Fragile]:
        yield Fragile(recipe)

    monkeypatch.setattr(Session, "update", fails_once)
    monkeypatch.setattr(loop, "_workers", workers)
    monkeypatch.setattr(loop, "_cluster", lambda recipe: nullcontext())
    train({**settings(checkpoint, depth), "cluster": {"backend": "ray", "placement": "separate"}})
    assert hours == pytest.approx([10, 10], abs=0.1)


def test_a_learner_lost_in_the_last_moment_costs_no_run(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish, lost = Session.finish, []

    def fails_once(self: Session) -> Run:
        if not lost:
            lost.append(True)
            raise LearnersLostError("gone")
        return finish(self)

    @contextmanager
    def workers(recipe: Recipe, *_: Any) -> Iterator[Fragile]:
        yield Fragile(recipe)

    monkeypatch.setattr(loop, "_workers", workers)
    monkeypatch.setattr(loop, "_cluster", lambda recipe: nullcontext())
    whole = train(settings(checkpoint, 1))
    whole.folder.rename("whole")
    monkeypatch.setattr(Session, "finish", fails_once)
    again = train(settings(checkpoint, 1))
    assert lost
    assert read_jsonl(again.folder / "metrics.jsonl") == read_jsonl(Path("whole/metrics.jsonl"))
    assert same_weights(load_policy(again.folder / "model"), load_policy(Path("whole/model")))


def test_the_start_is_measured_once_though_the_run_is_taken_up_there(checkpoint: Path, beside: list[Beside]) -> None:
    source = settings(checkpoint, 1, 3, eval={"at_start": True})
    unmask.train(source, digits, ROWS[:4], ROWS[4:], reporter=Reporter(quiet=True))
    whole = read_jsonl(Path("run/evaluations.jsonl"))
    resume = "run/checkpoints/update-000000"
    unmask.train(source, digits, ROWS[:4], ROWS[4:], reporter=Reporter(quiet=True), resume=resume)
    assert read_jsonl(Path("run/evaluations.jsonl")) == whole


# ---- by itself


def batch(update: int) -> Any:
    return f"batch {update}"


def ahead_of(depth: int, updates: int, work: Callable[[int, Event], Any]) -> tuple[Ahead, list[int]]:
    begun: list[int] = []

    def begin(update: int, leave: Event) -> Callable[[], Collected]:
        begun.append(update)
        return lambda: work(update, leave)

    return Ahead(depth, updates, begin), begun


def test_as_many_are_begun_as_the_depth_says_and_none_after_the_last() -> None:
    ahead, begun = ahead_of(2, 4, lambda update, _: batch(update))
    found = []
    for update in range(4):
        found.append(ahead.take(update))
        assert begun == list(range(min(update + 3, 4)))
    assert found == [batch(update) for update in range(4)]
    assert ahead.drawn() == {}
    ahead.close()


def test_what_failed_is_said_when_it_is_taken_and_is_not_kept() -> None:
    def work(update: int, _: Event) -> Any:
        if update == 1:
            raise ValueError("of update 1")
        return batch(update)

    ahead, _ = ahead_of(2, 9, work)
    assert ahead.take(0) == batch(0)
    assert ahead.drawn() == {2: batch(2)}
    with pytest.raises(ValueError, match="of update 1"):
        ahead.take(1)
    ahead.close()


def test_what_is_dropped_ends_and_is_begun_anew() -> None:
    started = Event()

    def work(update: int, leave: Event) -> Any:
        if update == 1:
            started.set()
            assert leave.wait(20)
            raise DroppedError
        return batch(update)

    ahead, begun = ahead_of(2, 9, work)
    ahead.take(0)
    assert started.wait(20)
    ahead.restore({5: batch(5)})  # type: ignore[dict-item]
    assert ahead.take(5) == batch(5)
    assert begun == [0, 1, 2, 6, 7]
    ahead.close()


@pytest.mark.parametrize(
    ("cluster", "more", "said"),
    [
        ({}, {}, "cluster.backend local does one thing after the other"),
        ({"backend": "ray"}, {}, "under cluster.placement colocate they take turns"),
        (
            {"backend": "ray", "placement": "separate"},
            {"approximations": ["order_conditional"]},
            "so rollouts are of older weights",
        ),
        ({"backend": "ray", "weights": "direct"}, {}, "NCCL, which takes each GPU once"),
    ],
)
def test_what_drawing_ahead_asks_for(
    checkpoint: Path, cluster: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    source = settings(checkpoint, 1)
    source["method"] = {**source["method"], **more}
    with pytest.raises(Exception, match=said):
        load_recipe({**source, "cluster": cluster}, provided=["data.train", "rewards"])

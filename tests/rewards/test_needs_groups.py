"""Rewards that compare the completions for a prompt: whole groups in one call, and the same scores whatever the number of processes."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.bench.run import Plan, bench
from rewards.contract import Grades, InfrastructureError, Reward, RewardError, grade, load_rewards
from rewards.contract.answers import Answer, Task
from rewards.contract.dealing import Reply, deal
from rewards.contract.graders import Graders, Processes
from rewards.contract.reward import needs_groups
from tests.oracles.rewards import GROUPS

PROMPTS = ["p", "q", "p", "q", "p", "r", "r", "q", "r", "p"]  # not even side by side
TEXTS = ["a", "bb", "ccc", "d", "ee", "ffff", "g", "hhhhh", "ii", "jjjj"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(GROUPS)
    return tmp_path


@pytest.fixture
def mark(folder: Path) -> Iterator[Any]:
    """mark(entry, size, prompts, texts) -> Grades of processes; and of this one where size is 0."""
    made: list[Graders] = []

    def call(entry: Any, size: int, prompts: Sequence[Any] = PROMPTS, texts: Sequence[str] = TEXTS) -> Grades:
        rewards = load_rewards([entry], base=folder)
        made.append(Graders(lambda: Processes([entry], str(folder), size), timeout=20, say=lambda _: None))
        rows = {"prompts": prompts, "completions": texts, "completion_ids": [[1]] * len(texts), "columns": {}}
        return (made[-1] if size else grade)(rewards, trainer_state=None, **rows)

    yield call
    for one in made:
        one.close()


def test_scores_are_those_of_one_process(mark: Any) -> None:
    wanted = mark({"fn": "own.py:rank"}, 0).components["rank"]
    assert wanted == [0, 0.5, 2 / 3, 0, 1 / 3, 1, 0, 1, 0.5, 1]
    for size in (1, 2, 3, 5):
        assert mark({"fn": "own.py:rank"}, size).components["rank"] == wanted
    assert mark({"fn": "own.py:alone"}, 3).components["alone"] != wanted  # what says nothing is cut anywhere


def test_messages_are_prompts_too(mark: Any) -> None:
    prompts = [[{"role": "user", "content": one}] for one in PROMPTS]
    assert mark({"fn": "own.py:rank"}, 3, prompts).components == mark({"fn": "own.py:rank"}, 0).components


def test_a_group_that_is_lost_is_lost_as_one(mark: Any) -> None:
    texts = [*TEXTS[:3], "die", *TEXTS[4:]]
    found = mark({"fn": "own.py:rank"}, 2, PROMPTS, texts)
    why = "reward rank: its process ended with status 3"
    assert found.dropped == [why if prompt == "q" else None for prompt in PROMPTS]
    assert [score for score in found.components["rank"] if score is not None] == [0, 2 / 3, 1 / 3, 1, 0, 0.5, 1]
    assert found.counts == {"rank/lost": 3}


def test_what_raises_costs_its_group(mark: Any) -> None:
    texts = [*TEXTS[:3], "raise", *TEXTS[4:]]
    for size in (0, 2):
        found = mark({"fn": "own.py:rank", "on_error": "drop"}, size, PROMPTS, texts)
        assert found.dropped == ["reward rank: ValueError: no" if prompt == "q" else None for prompt in PROMPTS]
        with pytest.raises(RewardError, match=r"(?s)reward rank raised ValueError on row 1: no"):
            mark({"fn": "own.py:rank"}, size, PROMPTS, texts)


def test_groups_of_a_row_that_failed_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.contract.batch.FIRST_WAIT", 0.001)
    seen: list[list[str]] = []

    def once(prompts: list[str], completions: list[str], **_: Any) -> list[Any]:
        seen.append(list(completions))
        failed: list[Any] = [InfrastructureError("down") if text == "bb" else 0.0 for text in completions]
        return failed if len(seen) == 1 else [1.0] * len(completions)

    once.needs_groups = True  # pyright: ignore[reportFunctionMemberAccess]
    rows = {"prompts": PROMPTS, "completions": TEXTS, "completion_ids": [[1]] * 10, "columns": {}}
    found = grade([Reward("once", once, retries=1)], trainer_state=None, **rows)
    assert seen[1:] == [["bb", "d", "hhhhh"]]
    assert found.total == [1.0 if prompt == "q" else 0.0 for prompt in PROMPTS]
    assert found.counts == {"once/retries": 3}


def test_a_cache_of_rows_is_refused(folder: Path) -> None:
    with pytest.raises(RewardError, match=r"rewards\[0\].cache: rank compares the completions of a group"):
        load_rewards([{"fn": "own.py:rank", "cache": True}], base=folder)
    load_rewards([{"fn": "own.py:alone", "cache": True}], base=folder)


def test_who_says_so() -> None:
    def plain(**_: Any) -> list[float]:
        return []

    def says(**_: Any) -> list[float]:
        return []

    def by_kwargs(**_: Any) -> list[float]:
        return []

    says.needs_groups = True  # pyright: ignore[reportFunctionMemberAccess]
    by_kwargs.needs_groups = lambda kwargs: kwargs.get("against") == "group"  # pyright: ignore[reportFunctionMemberAccess]
    assert not needs_groups(Reward("r", plain))
    assert needs_groups(Reward("r", says))
    assert needs_groups(Reward("r", functools.partial(says, a=1)))
    assert needs_groups(Reward("r", by_kwargs, kwargs={"against": "group"}))
    assert not needs_groups(Reward("r", by_kwargs))


class Noting:
    """Processes that answer how many rows of the row's prompt were in the call."""

    def __init__(self, size: int) -> None:
        self.size, self.pieces = size, 0

    def run(self, jobs: Sequence[Sequence[Task]], seconds: float, budget: float) -> list[Reply]:
        self.pieces = len(jobs)
        assert all(list(task.numbers) == sorted(task.numbers) for job in jobs for task in job)
        return [
            Reply(answers=[Answer([float(t.rows["prompts"].count(p)) for p in t.rows["prompts"]]) for t in job])
            for job in jobs
        ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 9))
def test_no_group_is_cut(groups: list[int], size: int) -> None:
    def whole(**_: Any) -> list[float]:
        return []

    def rows(**_: Any) -> list[float]:
        return []

    whole.needs_groups = True  # pyright: ignore[reportFunctionMemberAccess]
    values = {"prompts": [str(one) for one in groups], "completions": ["x"] * len(groups)}
    tasks = [
        Task(Reward("whole", whole), values, range(len(groups))),
        Task(Reward("rows", rows), values, range(len(groups))),
    ]
    workers = Noting(size)
    found = deal(workers, tasks, 10.0, lambda _: None)
    assert found[0].scores == [float(groups.count(one)) for one in groups]
    assert len(found[1].scores) == len(groups)
    assert workers.pieces <= size


def test_the_bench_keeps_groups_together(folder: Path) -> None:
    rows = [{"prompt": f"{n}?", "answer": n, "completions": ["a" * n, "b", "c" * 9]} for n in range(2, 8)]
    for name, verdict in (("rank", "pass"), ("alone", "fail")):
        plan = Plan(f"own.py:{name}", folder, rows=1, seconds=5)
        (one,) = [finding for finding in bench(plan, rows).findings if finding.check == "determinism"]
        assert one.status == verdict, one
        assert ("group by group" in one.seen) == (name == "rank")

"""Async rewards in a process of their own: one that hangs or holds up the event loop costs its neighbours nothing."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rewards.contract import Grades, Reward, TrainerState, grade, load_rewards
from rewards.contract.answers import Open, Task
from rewards.contract.calls import tried
from rewards.contract.graders import Graders, Processes

FILE = """
import asyncio, os, time

calls = []


async def honest(completions, log_extra, seconds=0.6, **kwargs):
    calls.append(os.getpid())
    await asyncio.sleep(seconds)
    log_extra("calls", [len(calls)] * len(completions))
    return [float(len(text)) for text in completions]


async def judge(text):
    if text == "hang":
        await asyncio.sleep(600)
    if text == "block":
        time.sleep(600)
    if text == "stubborn":
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass
    if text == "cancelled":
        raise asyncio.CancelledError("by a library")
    if text == "die":
        os._exit(3)
    if text == "raise":
        raise ValueError("no")
    return 1.0


async def bad(completions, **kwargs):
    return await asyncio.gather(*map(judge, completions))
"""


@pytest.fixture
def graders(tmp_path: Path) -> Iterator[Callable[..., tuple[Graders, tuple[Reward, ...]]]]:
    (tmp_path / "own.py").write_text(FILE)
    made: list[Graders] = []

    def make(*entries: Any, size: int = 1, timeout: float = 3.0) -> tuple[Graders, tuple[Reward, ...]]:
        rewards = load_rewards(entries, base=tmp_path)
        made.append(Graders(lambda: Processes(entries, str(tmp_path), size), timeout=timeout, say=lambda _: None))
        made[-1](rewards[:1], **rows(["a"]))  # starting is not what is measured
        return made[-1], rewards

    yield make
    for one in made:
        one.close()


def entry(name: str, fn: str = "honest", **options: Any) -> dict[str, Any]:
    return {"fn": f"own.py:{fn}", "name": name, **options}


def rows(completions: Sequence[str]) -> dict[str, Any]:
    size = len(completions)
    given = {"prompts": ["p"] * size, "completions": list(completions), "completion_ids": [[1]] * size}
    return {**given, "columns": {}, "trainer_state": TrainerState(3, 9)}


def timed(mark: Graders, rewards: Sequence[Reward], texts: Sequence[str]) -> tuple[Grades, float]:
    began = time.monotonic()
    found = mark(rewards, **rows(texts))
    return found, time.monotonic() - began


HUNG = "reward bad: did not answer in 3 s"


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("how", ["hang", "stubborn"])
def test_one_that_waits_for_ever_is_cancelled_and_its_neighbours_are_called_once(
    graders: Any, how: str, size: int
) -> None:
    mark, rewards = graders(entry("one"), entry("bad", "bad"), entry("two"), size=size)
    texts = ["a", "bb", how, "dd", "e"]
    found, seconds = timed(mark, rewards, texts)
    lengths = [float(len(text)) for text in texts]
    assert found.components == {"one": lengths, "bad": [1.0, 1.0, None, 1.0, 1.0], "two": lengths}
    assert found.dropped == [None, None, HUNG, None, None]
    assert found.counts == {"bad/lost": 1}
    assert seconds < 3.0 + 1.0
    if size == 1:  # the third and second call of that process: nothing was called again
        assert {*found.extras["calls"], *found.extras["two.calls"]} <= {1, 2, 3}
    assert mark(rewards, **rows(["a"])).dropped == [None]


@pytest.mark.parametrize("size", [1, 2])
def test_one_that_holds_up_the_loop_is_named_and_its_neighbours_are_called_again(graders: Any, size: int) -> None:
    quick = {"seconds": 0.4}  # more than its rows would get, called one by one
    mark, rewards = graders(entry("one", kwargs=quick), entry("bad", "bad"), entry("two", kwargs=quick), size=size)
    texts = ["a", "bb", "block", "dd"]
    found, seconds = timed(mark, rewards, texts)
    lengths = [float(len(text)) for text in texts]
    assert found.components == {"one": lengths, "bad": [1.0, 1.0, None, 1.0], "two": lengths}
    assert found.dropped == [None, None, HUNG, None]
    assert found.counts == {"bad/lost": 1}
    assert seconds < 3.0 + 1.5
    assert mark(rewards, **rows(["a"])).dropped == [None]


def test_one_that_ends_the_process_takes_its_own_row_only(graders: Any) -> None:
    quick = {"seconds": 0.1}
    mark, rewards = graders(entry("one", kwargs=quick), entry("bad", "bad"), entry("two", kwargs=quick))
    found, _ = timed(mark, rewards, ["a", "die", "b", "c", "d"])
    assert found.components == {
        "one": [1.0, 3.0, 1.0, 1.0, 1.0],
        "bad": [1.0, None, 1.0, 1.0, 1.0],
        "two": [1.0, 3.0, 1.0, 1.0, 1.0],
    }
    assert found.dropped == [None, "reward bad: its process ended with status 3", None, None, None]


def test_slow_rows_of_the_one_that_hangs_are_called_side_by_side(graders: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FILE.replace("    return 1.0", "    await asyncio.sleep(0.3)\n    return 1.0"))
    mark, rewards = graders(entry("bad", "bad"))
    found, seconds = timed(
        mark, rewards, ["a"] * 9 + ["hang"]
    )  # one by one that would be 2.7 s, and a quarter of the time is 0.75 s
    assert found.components["bad"] == [1.0] * 9 + [None]
    assert seconds < 3.0


def test_all_rows_hang(graders: Any) -> None:
    mark, rewards = graders(entry("one", kwargs={"seconds": 0.1}), entry("bad", "bad"))
    for how in ("hang", "block"):
        found, seconds = timed(mark, rewards, [how] * 6)
        assert found.components == {"one": [float(len(how))] * 6, "bad": [None] * 6}
        assert found.dropped == [HUNG] * 6
        assert seconds < 3.0 + 2.0


def test_each_has_the_time_of_its_own_entry(graders: Any) -> None:
    mark, rewards = graders(entry("one", timeout=8.0), entry("bad", "bad", timeout=1.0))
    found, seconds = timed(mark, rewards, ["a", "hang"])
    assert found.components == {"one": [1.0, 4.0], "bad": [1.0, None]}
    assert found.dropped == [None, "reward bad: did not answer in 1 s"]
    assert seconds < 2.0


def test_one_that_holds_up_the_loop_ends_in_its_own_time_and_not_its_neighbours(graders: Any) -> None:
    mark, rewards = graders(entry("one", timeout=120.0), entry("bad", "bad", timeout=1.0))
    found, seconds = timed(mark, rewards, ["a", "block"])
    assert found.components == {"one": [1.0, 5.0], "bad": [1.0, None]}
    assert found.dropped == [None, "reward bad: did not answer in 1 s"]
    assert seconds < 30


def test_errors_are_read_as_ever(graders: Any) -> None:
    mark, rewards = graders(entry("one", kwargs={"seconds": 0.1}), entry("bad", "bad", on_error="drop"))
    found, _ = timed(mark, rewards, ["a", "raise", "cancelled"])
    assert found.dropped == [None, "reward bad: ValueError: no", "reward bad: CancelledError: by a library"]
    found, _ = timed(mark, rewards, ["a", "raise", "hang"])
    assert found.dropped == [None, "reward bad: ValueError: no", HUNG]
    assert found.components["one"] == [1.0, 5.0, 4.0]


# ---- one process, by itself


def task(fn: Any, seconds: float | None, size: int = 1) -> Task:
    values = {"prompts": ["p"] * size, "completions": ["c"] * size, "completion_ids": [[1]] * size}
    return Task(Reward(fn.__name__, fn), values, range(size), seconds=seconds)


def test_what_a_call_that_is_over_time_leaves_behind() -> None:
    ended = []

    async def waits(completions: list[str], **_: Any) -> list[float]:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("waits")
        return [1.0]

    async def quick(completions: list[str], **_: Any) -> list[float]:
        await asyncio.sleep(0.01)
        return [2.0]

    late, done = tried([task(waits, 0.1), task(quick, 0.1)])
    assert late == Open(guilty=True, stuck=False)
    assert not isinstance(done, Open)
    assert done.scores == [2.0]
    assert ended == ["waits"]


def test_who_holds_up_the_loop_is_known_also_from_a_task_of_its_own() -> None:
    async def part() -> float:
        await asyncio.sleep(0)
        time.sleep(0.6)
        return 1.0

    async def holds(completions: list[str], **_: Any) -> list[float]:
        return [await asyncio.create_task(part())]

    async def quick(completions: list[str], **_: Any) -> list[float]:
        await asyncio.sleep(0.05)
        return [2.0]

    found = tried([task(quick, 0.2), task(holds, 0.2), task(quick, 0.2)])
    assert [(one.guilty, one.stuck) for one in found if isinstance(one, Open)] == [
        (False, True),
        (True, True),
        (False, True),
    ]
    (free,) = tried([task(quick, 5.0)])  # once the loop is free again
    assert not isinstance(free, Open)


def test_a_call_that_holds_up_the_loop_has_no_more_time_than_its_own() -> None:
    over = []

    async def holds(completions: list[str], **_: Any) -> list[float]:
        time.sleep(1.5)
        over.append("holds")
        return [1.0]

    async def patient(completions: list[str], **_: Any) -> list[float]:
        await asyncio.sleep(0.3)
        return [2.0]

    for until in (60.0, None):
        over.clear()
        found = tried([task(patient, until), task(holds, 0.2), task(patient, 0.1)])
        assert over == []
        assert found == [Open(False, True), Open(True, True), Open(False, True)]
        (free,) = tried([task(patient, 5.0)])
        assert not isinstance(free, Open)


def test_a_call_in_its_time_is_not_blamed_at_the_end_of_another_s() -> None:
    async def holds(completions: list[str], **_: Any) -> list[float]:
        time.sleep(0.5)
        return [1.0]

    async def patient(completions: list[str], **_: Any) -> list[float]:
        await asyncio.sleep(60)
        return [2.0]

    found = tried([task(holds, 30.0), task(patient, 0.1)])
    assert not isinstance(found[0], Open)
    assert found[1] == Open(guilty=True, stuck=False)


def test_without_a_limit_nothing_is_cut_short() -> None:
    async def slow(completions: list[str], **_: Any) -> list[float]:
        await asyncio.sleep(0.1)
        return [1.0]

    assert grade([Reward("slow", slow)], **rows(["a"])).total == [1.0]

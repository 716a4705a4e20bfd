"""Grading in processes: what one process gives; a row that hangs or kills its process is dropped alone, and in bounded time."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from rewards.contract import Grades, Reward, RewardError, TrainerState, grade, load_rewards
from rewards.contract.answers import Answer, Task
from rewards.contract.dealing import Reply, _remedy, deal
from rewards.contract.graders import Graders, Processes, needs_process
from tests.oracles.rewards import FILE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(FILE)
    return tmp_path


@pytest.fixture
def graders(folder: Path) -> Iterator[Callable[..., tuple[Graders, tuple[Reward, ...]]]]:
    """Makes graders of functions in own.py, each given as its name or as an entry."""
    made: list[Graders] = []

    def make(*entries: Any, size: int = 1, timeout: float = 30.0) -> tuple[Graders, tuple[Reward, ...]]:
        whole = [{"fn": f"own.py:{one}"} if isinstance(one, str) else one for one in entries]
        rewards = load_rewards(whole, base=folder)
        said: list[str] = []
        made.append(Graders(lambda: Processes(whole, str(folder), size), timeout=timeout, say=said.append))
        made[-1].said = said  # type: ignore[attr-defined]
        return made[-1], rewards

    yield make
    for one in made:
        one.close()


def rows(completions: Sequence[str], **columns: list[Any]) -> dict[str, Any]:
    return {
        "prompts": ["p"] * len(completions),
        "completions": list(completions),
        "completion_ids": [[1]] * len(completions),
        "columns": {"answer": ["a"] * len(completions), **columns},
        "trainer_state": TrainerState(3, 9),
    }


def plain(found: Grades) -> dict[str, Any]:
    return {name: value for name, value in vars(found).items() if name != "seconds"}


def said(graders: Graders) -> list[str]:
    return graders.said  # type: ignore[attr-defined]


def ended(pid: int) -> bool:
    """Whether a process is gone, or soon is. One that nobody waits for any more may stay a zombie."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


# ---- what one process gives


def test_processes_give_what_this_one_gives(graders: Any) -> None:
    batch = rows(["a", "bb", "a", "dddd", "a", "ffffff", "g"])
    entries = [
        "length",
        "risky",
        "judge",
        {"fn": "own.py:length", "name": "less", "where": {"kind": "x"}, "weight": -2},
    ]
    batch["columns"]["kind"] = ["x", "y", "x", "y", "y", "y", "x"]
    for size in (1, 2):
        mark, rewards = graders(*entries, size=size)
        wanted, found = grade(rewards, **batch), mark(rewards, **batch)
        assert found.metrics == pytest.approx(wanted.metrics)
        assert {**plain(found), "metrics": 0} == {**plain(wanted), "metrics": 0}
        assert set(found.seconds) == {"length", "risky", "judge", "less"}
        with pytest.raises(
            RewardError, match=r"(?s)reward risky raised ValueError on row 1: no.*own\.py.*completion: 'raise'"
        ):
            mark(rewards[:2], **rows(["a", "raise"]))
        assert mark(rewards[:2], **rows(["a"])).total == [2.0]


def test_the_row_that_is_named_is_the_one_of_the_batch(graders: Any) -> None:
    mark, rewards = graders("risky", size=2)
    with pytest.raises(RewardError, match=r"(?s)on row 5: no.*row 5 completion: 'raise'"):
        mark(rewards, **rows(["a"] * 5 + ["raise", "raise"]))


def test_the_loop_and_what_a_function_keeps_last_from_call_to_call(graders: Any) -> None:
    mark, rewards = graders("same_loop")
    assert [mark(rewards, **rows(["a"])).total for _ in range(3)] == [[1.0], [2.0], [3.0]]


def test_draws_from_the_global_stream_do_not_hang_on_what_was_graded_before(graders: Any) -> None:
    mark, rewards = graders("dice")
    first = mark(rewards, **rows(["a", "b"])).total
    mark(rewards, **rows(["c"]))
    assert mark(rewards, **rows(["a", "b"])).total == first
    mark.close()
    assert mark(rewards, **rows(["a", "b"])).total == first
    assert mark(rewards, **rows(["a", "c"])).total != first


def test_what_is_printed_is_seen(graders: Any, capfd: pytest.CaptureFixture[str]) -> None:
    mark, rewards = graders("talks")
    assert mark(rewards, **rows(["a"])).total == [1.0]
    deadline, seen = time.monotonic() + 10, ""
    while "hello from a reward" not in seen and time.monotonic() < deadline:
        seen += capfd.readouterr().err
        time.sleep(0.01)
    assert "hello from a reward" in seen


def test_a_file_that_is_gone_when_its_process_starts(graders: Any, folder: Path) -> None:
    mark, rewards = graders("length")
    (folder / "own.py").unlink()
    with pytest.raises(
        RewardError, match=r"process that calls reward functions cannot be started: rewards\[0\].fn: no file"
    ):
        mark(rewards, **rows(["a"]))


def test_a_file_that_kills_the_process_that_loads_it(graders: Any, folder: Path) -> None:
    mark, rewards = graders("length")
    (folder / "own.py").write_text("import os; os._exit(4)")
    with pytest.raises(RewardError, match=r"cannot be started: it ended with status 4 before it was ready$"):
        mark(rewards, **rows(["a"]))


def test_which_rewards_need_a_process() -> None:
    assert needs_process({"fn": "own.py:length"})
    assert needs_process({"fn": "package.module:length"})
    assert needs_process({"fn": "gsm8k.correct", "timeout": 5.0})
    assert not needs_process({"fn": "gsm8k.correct", "timeout": None})
    assert not needs_process({"fn": len})


def test_what_runs_inside_starts_no_process(folder: Path) -> None:
    def none() -> Any:
        raise AssertionError("started")

    mark = Graders(none, inside=["length"])
    rewards = load_rewards([{"fn": "own.py:length"}], base=folder)
    assert mark(rewards, **rows(["a"])).total == [1.0]


# ---- what breaks


@pytest.mark.parametrize("size", [1, 2])
def test_only_the_rows_that_do_it_are_dropped_and_in_the_time_of_the_reward(graders: Any, size: int) -> None:
    mark, rewards = graders("length", "risky", size=size, timeout=4.0)
    mark(rewards, **rows(["a"]))
    started = time.monotonic()
    found = mark(rewards, **rows(["a", "die", "b", "hang", "a", "segfault", "hang"]))
    assert time.monotonic() - started < 4.0 + 2.0  # starting anew is not counted, up to half of it
    hung = "reward risky: did not answer in 4 s"
    dropped = [None, "reward risky: its process ended with status 3", None, hung, None]
    assert found.dropped == [*dropped, "reward risky: its process was killed by SIGSEGV", hung]
    assert found.components["risky"] == [1.0, None, 0.0, None, 1.0, None, None]
    assert found.components["length"] == [1.0, 3.0, 1.0, 4.0, 1.0, 8.0, 4.0]
    assert found.counts == {"risky/lost": 4}
    assert len(said(mark)) == 3
    assert said(mark)[1].startswith(f"{hung}: rows 3, 6 of 7 dropped; where it is only slow, raise its timeout in")
    assert "\n  row 3 prompt:     'p'\n  row 3 completion: 'hang'\n" in said(mark)[1]
    assert mark(rewards, **rows(["a"])).total == [2.0]


def test_the_only_row_is_called_once(graders: Any) -> None:
    mark, rewards = graders("risky", timeout=1.0)
    mark(rewards, **rows(["a"]))
    started = time.monotonic()
    assert mark(rewards, **rows(["hang"])).dropped == ["reward risky: did not answer in 1 s"]
    assert time.monotonic() - started < 0.95


def test_an_entry_has_a_timeout_of_its_own(graders: Any) -> None:
    mark, rewards = graders({"fn": "own.py:risky", "timeout": 0.8}, timeout=300)
    found = mark(rewards, **rows(["hang"]))
    assert found.dropped == ["reward risky: did not answer in 0.8 s"]
    assert found.seconds["risky"] >= 0.4


def test_of_two_async_rewards_the_one_that_hangs_is_found(graders: Any) -> None:
    mark, rewards = graders("judge", "judge_hangs", timeout=3.0)
    found = mark(rewards, **rows(["a", "hang", "b"]))
    assert found.components == {"judge": [1.0, 4.0, 1.0], "judge_hangs": [1.0, None, 1.0]}
    assert found.dropped == [None, "reward judge_hangs: did not answer in 3 s", None]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: its order of killing where memory runs out")
def test_where_memory_runs_out_it_ends_before_the_run(graders: Any) -> None:
    mark, rewards = graders("first_to_go")
    assert mark(rewards, **rows(["a"])).total == [1000.0]


def test_children_of_a_hanging_reward_end_with_it(graders: Any, folder: Path) -> None:
    mark, rewards = graders("leaves_child", timeout=0.6)
    mark(rewards, **rows(["a"]))
    assert ended(int((folder / "child").read_text()))


def test_none_is_left_when_the_driver_is_killed(folder: Path) -> None:
    code = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {os.getcwd()!r})
        from pathlib import Path
        from rewards.contract import load_rewards
        from rewards.contract.graders import Graders, Processes
        entries = [{{"fn": "own.py:tells"}}]
        mark = Graders(lambda: Processes(entries, {str(folder)!r}))
        rewards = load_rewards(entries, base=Path({str(folder)!r}))
        mark(rewards, prompts=["p"], completions=["hang"], completion_ids=[[1]], columns={{}}, trainer_state=None)
    """)
    driver = subprocess.Popen([sys.executable, "-c", code])
    place, deadline = folder / "pid", time.monotonic() + 30
    while not (place.exists() and place.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait(10)
    assert ended(int(place.read_text()))


# ---- dealing, by itself


class Scripted:
    """Processes that answer 1.0 for every row at once, except rows that hang: those take all the time there is."""

    def __init__(self, size: int, hanging: set[int]) -> None:
        self.size, self.hanging = size, hanging
        self.asked: list[tuple[int, float]] = []  # rows of a job, seconds

    def run(self, jobs: Sequence[Sequence[Task]], seconds: float, budget: float) -> list[Reply]:
        assert len(self.asked) < self.size or budget == 20.0
        self.asked.extend((sum(map(len, job)), seconds) for job in jobs)
        return [self._reply(job) for job in jobs]

    def _reply(self, job: Sequence[Task]) -> Reply:
        if any(number in self.hanging for task in job for number in task.numbers):
            return Reply()
        return Reply(answers=[Answer([1.0] * len(task)) for task in job])


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("hanging", [set(), {0}, {2, 9}, set(range(10))])
def test_how_rows_are_dealt(size: int, hanging: set[int]) -> None:
    def none(**_: Any) -> list[float]:
        return []

    values = {"prompts": ["p"] * 10, "completions": [str(i) for i in range(10)]}
    workers = Scripted(size, hanging)
    (found,) = deal(workers, [Task(Reward("none", none), values, range(10))], 80.0, lambda _: None)
    assert [score == 1.0 for score in found.scores] == [i not in hanging for i in range(10)]
    first = min(size, 10)
    assert sum(count for count, _ in workers.asked[:first]) == 10 or size == 8  # 8 processes: pieces of two rows
    assert all(seconds == 40.0 for count, seconds in workers.asked if count > 1)
    alone = [seconds for count, seconds in workers.asked if count == 1 and seconds < 40.0]
    if hanging and size == 1:
        assert alone[:10] == [pytest.approx(2.0)] * 10  # a quarter of 80 s, among ten
        assert alone[10:] == [pytest.approx(20.0 / len(hanging))] * len(hanging)


def test_a_judge_ended_by_the_entry_s_limit_names_both_limits() -> None:
    """Its requests may take six times 60 s and 15.5 s of pauses, which a batch of 100 s does not wait for."""
    kwargs = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "rubric": "good?"}
    (patient,) = load_rewards([{"fn": "judge.rubric", "kwargs": kwargs}], base=Path.cwd())
    said = _remedy(patient, 100.0)
    assert "the entry's timeout in rewards, 100 s for a batch" in said
    assert "kwargs.timeout and kwargs.retries let one row take 244 s: set that timeout to 487 or more" in said
    (quick,) = load_rewards(
        [{"fn": "judge.rubric", "kwargs": {**kwargs, "timeout": 10, "retries": 1}}], base=Path.cwd()
    )
    assert _remedy(quick, 100.0) == "where it is only slow, raise its timeout in rewards"
    assert "kwargs.timeout and kwargs.retries let one row take 20 s: set that timeout to 41" in _remedy(quick, 40.0)
    (plain,) = load_rewards(["gsm8k.correct"], base=Path.cwd())
    assert _remedy(plain, 1.0) == "where it is only slow, raise its timeout in rewards"

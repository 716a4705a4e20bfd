"""A submission cannot have itself dropped: what it does to its tests, its checker, its keeper or its folder is scored.

A dropped row costs a policy nothing where a wrong program costs it reward; so "dropped" has to be out of a submission's reach.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rewards.isolation.watch import ENTRY, Clock, Usage, disk
from rewards.sandbox import Job, Limits, Sandbox, StdioTest
from tests.rewards.sandbox.conftest import LIMITS

SLOW = "import time\ndef f(x):\n    time.sleep(0.4)\n    return x"
ATTEMPTS = Path(__file__).parent / "attempts"
DEEP = """
import os
os.chdir(os.environ.get("TMPDIR", "/tmp"))
for _ in range(1500):
    os.mkdir("a")
    os.chdir("a")
def f(x): return x
"""
# A reply to "load" by hand: an exception whose names hold an exception whose names ...
FORGED = """
import json, os, struct
message = ["e", "x", "y"]
for _ in range(330):
    message = ["e", ["l", message], "y"]
data = json.dumps(["raise", message, "x"]).encode()
os.write(4, struct.pack("<I", len(data)) + data)
"""


@pytest.fixture(scope="module")
def weak(sandbox_at: Callable[[str], Sandbox]) -> Sandbox:
    return sandbox_at("weak")


def passed(sandbox: Sandbox, code: str, tests: Sequence[str]) -> tuple[bool, ...]:
    (report,) = sandbox.check([Job("item", "function", code, tuple(tests), ("f",))])
    assert report.infrastructure is None, report
    assert report.ungradable is None, report
    return report.passed


@pytest.mark.parametrize("name", ["StopIteration", "StopAsyncIteration", "GeneratorExit"])
def test_an_exception_that_ends_loops_passes_nothing(weak: Sandbox, name: str) -> None:
    tests = ("assert all(map(lambda case: f(case) == 1, [1, 2]))", "assert list(filter(f, [1, 2])) == []")
    assert passed(weak, f"class Stop({name}): pass\ndef f(x): raise {name}", tests) == (False, False)
    assert passed(weak, f"class Stop({name}): pass\ndef f(x): raise Stop", tests) == (False, False)


def test_an_error_without_a_text_does_not_end_the_checker(weak: Sandbox) -> None:
    """The text of a KeyError is its key's, and so large a number has none."""
    assert passed(weak, "def f(x): return 1 << 200_000", ("assert {1: 2}[f(1)] == 2", "assert True")) == (False, True)


def test_a_forged_reply_that_is_nested_deeply_does_not_end_the_checker(weak: Sandbox) -> None:
    assert passed(weak, FORGED, ("assert f(1) == 1",)) == (False,)


def test_long_messages_of_many_tests_do_not_end_the_round(weak: Sandbox) -> None:
    code = "def f(x): raise ValueError('\\U0001F600' * 300)"
    assert not any(passed(weak, code, ("assert f(1) == 1",) * 600))


def test_the_jobs_time_is_kept_within_a_round() -> None:
    """No test is too slow by itself; together they would outlast the pool's patience with a keeper."""
    with Sandbox("weak", Limits(seconds=5.0, job_seconds=1.5), workers=1) as sandbox:
        (report,) = sandbox.check([Job("item", "function", SLOW, ("assert f(1) == 1",) * 30, ("f",))])
    assert report.infrastructure is None
    assert report.passed[0]
    assert not report.passed[-1]
    assert report.details[-1] == "not run: the job's time was used up"
    assert sum(report.passed) < 10


@pytest.mark.parametrize("level", ["landlock", "weak"])
def test_folders_too_deep_for_python_are_removed(level: str, sandbox_at: Callable[[str], Sandbox]) -> None:
    sandbox_at(level)  # or skip
    with Sandbox(level, LIMITS, workers=1) as sandbox:
        for code in (DEEP, "def f(x): return x"):
            passed(sandbox, code, ("assert f(1) == 1",))
        assert passed(sandbox, "def f(x): return x", ("assert f(1) == 1",)) == (True,)


def test_disk_counts_what_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 100_000)
    assert 100_000 <= disk(str(tmp_path)) < 200_000
    for number in range(50):
        (tmp_path / f"empty{number}").touch()
    assert disk(str(tmp_path)) >= 100_000 + 50 * ENTRY
    assert disk(str(tmp_path / "gone")) == 0
    place, name = tmp_path, "d" * 250
    handle = os.open(place, os.O_RDONLY)
    for _ in range(20):  # beyond what a path can name
        os.mkdir(name, dir_fd=handle)
        inner = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)
    assert disk(str(tmp_path)) == float("inf")


def test_empty_files_take_room(strong: Sandbox, facts: dict[str, object]) -> None:
    """Also at level "namespace", where the size of a /tmp in memory does not bound how many there are."""
    code = (ATTEMPTS / "many_empty_files.py").read_text().replace("FACTS: dict = {}", f"FACTS: dict = {facts!r}")
    (report,) = strong.check([Job("item", "function", code, ("assert f(0)",), ("f",))])
    assert report.details == ("wrote too much to disk",)


def test_processes_that_wait_for_each_other_are_no_busy_machine() -> None:
    clock = object.__new__(Clock)
    clock.seconds, clock.limits, clock.starved, clock.most = 1.0, {"memory_bytes": 1000.0}, False, 0
    before = [Usage(0.0, 0.0, 10, 2)]
    assert clock.judge(10.0, [Usage(0.5, 9.5, 10, 30)], before) is None
    assert clock.judge(25.0, [Usage(0.5, 24.5, 10, 2)], before) == "timed out after 1 s"
    assert not clock.starved


def test_a_program_may_say_much_on_standard_error(sandbox: Sandbox) -> None:
    code = "import sys\nprint('x' * 300_000, file=sys.stderr)\nprint(input())"
    (report,) = sandbox.check([Job("item", "stdio", code, (StdioTest("3", "3"),))])
    assert report.solved, json.dumps(report.details)

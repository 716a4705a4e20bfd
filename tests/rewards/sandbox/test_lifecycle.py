"""Nothing survives: not the end of a job, of a sandbox, of a keeper or of the driver."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards.isolation import levels
from rewards.isolation.watch import tree
from rewards.sandbox import Job, Report, Sandbox

HANGS = """
import os, time
def f(n):
    try:
        if os.fork() == 0: time.sleep(50)
    except OSError:
        pass
    time.sleep(50)
"""
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files that every user can enter, so that what is left in it is ours."""
    with tempfile.TemporaryDirectory(prefix="unmask-test-") as folder:
        os.chmod(folder, 0o755)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def add(n: int) -> Job:
    return Job(f"add {n}", "function", f"def f(a):\n    return a + {n}", (f"assert f(1) == {n + 1}",), ("f",))


def gone(pids: set[int], seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while any(
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]
        for pid in pids
    ):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_closing_leaves_no_process_and_no_file(sandbox: Sandbox, room: Path) -> None:
    files = len(os.listdir("/proc/self/fd"))
    with Sandbox(sandbox.level, sandbox.limits, workers=2) as mine:
        started = HANGS.replace("    time.sleep(50)\n", "    return 1\n")
        reports = mine.check(
            [Job("child", "function", started, ("assert f(0) == 1",), ("f",)), *(add(n) for n in range(5))]
        )
        assert [report for report in reports if not report.solved] == []
        below = {pid for worker in mine._pool()._workers for pid in tree(worker.process.pid)}
        assert len(below) >= 4
    assert gone(below)
    assert not list(room.iterdir())
    assert len(os.listdir("/proc/self/fd")) <= files


def test_nothing_outlives_a_driver_that_is_killed(sandbox: Sandbox, room: Path) -> None:
    program = (
        "import threading, sys\nfrom rewards.sandbox import *\n"
        f"s = Sandbox({sandbox.level!r}, Limits(seconds=50), workers=2)\n"
        f"job = Job('hangs', 'function', {HANGS!r}, ('f(0)',), ('f',))\n"
        "s.check([Job('ok', 'function', 'def f(): pass', ('f()',), ('f',))])\nprint('going', flush=True)\ns.check([job, job])"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert driver.stdout is not None
    with driver.stdout as said:
        assert said.readline() == b"going\n"
        time.sleep(0.5)
        below = set(tree(driver.pid)) - {driver.pid}
        assert len(below) >= 4
        driver.kill()
        driver.wait()
    assert gone(below)
    until = time.monotonic() + 5
    while list(room.iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not list(room.iterdir())


def test_a_keeper_that_is_killed_takes_its_processes_along_and_is_replaced(sandbox: Sandbox, room: Path) -> None:
    with Sandbox(sandbox.level, sandbox.limits, workers=1) as mine:
        assert mine.check([add(1)])[0].solved
        (worker,) = mine._pool()._workers
        below: set[int] = set()

        def kill() -> None:
            below.update(tree(worker.process.pid))
            os.kill(worker.process.pid, signal.SIGKILL)

        timer = threading.Timer(0.5, kill)
        timer.start()
        (report,) = mine.check([Job("hangs", "function", HANGS, ("f(0)",), ("f",))])
        timer.join()
        assert report.infrastructure == "the sandbox's keeper ended with status -9"
        if sandbox.level != "weak":  # there, what a submission started survives a keeper that is killed
            assert len(below) >= 3
            assert gone(below)
        assert mine.check([add(2)])[0].solved
    assert not list(room.iterdir())  # the next keeper of that slot has cleared away what the first one left


def test_several_threads_and_a_forked_child_share_a_sandbox(sandbox: Sandbox) -> None:
    results: dict[int, Report] = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: sandbox.check([add(n)])[0]})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results[n].solved and results[n].id == f"add {n}" for n in range(4))
    pid = os.fork()
    if pid == 0:
        try:
            solved = sandbox.check([add(9)])[0].solved
            sandbox.close()
            os._exit(0 if solved else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sandbox.check([add(5)])[0].solved


def test_each_interpreter_serves_one_submission(sandbox: Sandbox) -> None:
    code = "import builtins\ndef f():\n    seen = getattr(builtins, 'seen', 0)\n    builtins.seen = seen + 1\n    return seen"
    for _ in range(3):
        (report,) = sandbox.check([Job("seen", "function", code, ("assert f() == 0", "assert f() == 1"), ("f",))])
        assert report.solved


def test_folders_of_keepers_that_were_killed_go_with_the_next_keeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only those of its own slot: after a crash of many, few may come back."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    holder, own = levels.claim_slot()
    other, held = levels.claim_slot()
    with holder:
        with other:
            for name in (f"{own}-a", f"{held}-b", "399-c", "x-d"):
                (tmp_path / f"unmask-sandbox-{name}").mkdir()
            found = {Path(folder).name for folder in levels.ownerless(own)}
            assert found == {f"unmask-sandbox-{own}-a", "unmask-sandbox-399-c"}
        assert len(list(levels.ownerless(own))) == 3  # `held` is nobody's now

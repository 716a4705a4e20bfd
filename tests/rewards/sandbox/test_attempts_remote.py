"""The attempts of `attempts/` and the honest code of `test_legal.py` at level "remote": the checker here, the submission at a service.

The services are not reached: a local one speaks their protocols (`local_service.py`) and runs what it is sent for real, in this
project's own sandbox. What is tried is our side: predicted calls, replays, forged answers, and who is blamed when a service breaks.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import pytest

from rewards.isolation.watch import tree
from rewards.sandbox import Job, Limits, Remote, Report, Sandbox, StdioTest
from tests.rewards.sandbox.test_attempts import ATTEMPTS, job_for, left_behind
from tests.rewards.sandbox.test_legal import HONEST

LIMITS = Limits(seconds=0.5, start_seconds=1.0, job_seconds=12.0)  # of which a service is told the times only
PARTS = 4
ROOT = Path(__file__).resolve().parents[3]
Kind = Literal["fusion", "e2b"]


@pytest.fixture(scope="module")
def service(sandbox_at: Callable[[str], Sandbox]) -> Iterator[tuple[str, int]]:
    """Its address and its process. Its limits are those that `sandbox_at` has seen to hold."""
    limits = replace(sandbox_at("namespace").limits, output_bytes=8 << 20)
    command = [sys.executable, str(Path(__file__).with_name("local_service.py")), json.dumps(asdict(limits))]
    paths = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=paths) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}", process.pid
        process.stdin.close()
        assert process.wait(30) == 0


def checked(service: tuple[str, int], kind: Kind, jobs: list[Job], limits: Limits = LIMITS) -> list[Report]:
    """The reports. Neither here nor at the service a process is left, and no sandbox."""
    before = left_behind()
    with Sandbox("remote", limits, workers=4, remote=Remote(kind, service[0], host="http://127.0.0.1:{id}")) as sandbox:
        reports = sandbox.check(jobs)
        ours = [worker.process.pid for worker in sandbox._pool()._workers]
        assert [pid for root in ours for pid in tree(root)] == ours
    until = time.monotonic() + 10.0  # a sandbox of E2B's ends after its deletion is answered
    while len(tree(service[1])) > 1 and time.monotonic() < until:
        time.sleep(0.05)
    assert tree(service[1]) == [service[1]]
    assert left_behind() == before
    return reports


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", ["fusion", "e2b"])
def test_attempts_gain_nothing(kind: Kind, part: int, service: tuple[str, int], facts: dict[str, object]) -> None:
    facts = {**facts, "seconds": LIMITS.seconds}
    jobs = [job_for(path, facts) for path in ATTEMPTS[part::PARTS]]
    reports = checked(service, kind, jobs)
    # scored, and not dropped
    wrong = [report for report in reports if any(report.passed) or report.ungradable or report.infrastructure]
    assert not wrong


@pytest.mark.parametrize("kind", ["fusion", "e2b"])
def test_honest_code_passes(kind: Kind, service: tuple[str, int]) -> None:
    jobs = [
        Job(name, "function", code, (f"assert {condition}",), ("f", "g")) for name, (code, condition) in HONEST.items()
    ]
    double = "import sys\nprint(int(input()) * 2, ' ')\nprint()\nsys.stderr.write('note' * 50_000)\nsys.exit()"
    jobs.append(Job("program", "stdio", double, (StdioTest("4\n", "8"), StdioTest("ü", ""))))
    sat = "def sat(x: list, n=3):\n    return sum(x) == n"
    jobs.append(Job("puzzle", "puzzle", "def f(n=5):\n    return [n]", (sat,), ("f",)))
    reports = {report.id: report for report in checked(service, kind, jobs, Limits(job_seconds=60.0))}
    assert reports.pop("program").passed == (True, False)
    assert [report for report in reports.values() if not report.solved] == []

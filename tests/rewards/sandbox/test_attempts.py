"""Every attempt to cheat in `attempts/`, at every level but "weak": no test is passed, and nothing is left behind.

An attempt is a submission. One test asks for a secret that it cannot know; another one passes if `f` says "escaped", which
the attempts do when they reached what they should not. Both must fail.
"""

import ast
import os
from pathlib import Path
from typing import Any, Literal

import pytest

from rewards.isolation.watch import tree
from rewards.sandbox import Job, Sandbox, StdioTest

ATTEMPTS = sorted((Path(__file__).parent / "attempts").glob("*.py"))
NAMES = ("unmask-left", "unmask-planted", "unmask-state")  # of what attempts leave where they can
Kind = Literal["function", "puzzle", "stdio"]


def kind_of(text: str) -> Kind:
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "KIND":
            return ast.literal_eval(node.value)
    return "function"


def job_for(path: Path, facts: dict[str, object]) -> Job:
    text = path.read_text()
    secret = f"{facts['marker']}{os.urandom(8).hex()}"
    code = text.replace("FACTS: dict = {}", f"FACTS: dict = {facts!r}")
    kind = kind_of(text)
    if kind == "stdio":
        return Job(path.stem, kind, code, (StdioTest("1\n", secret), StdioTest("2\n", secret)))
    if kind == "puzzle":
        return Job(path.stem, kind, code, ("def sat(x: int, n=7):\n    return x == n or x * x == 49",), ("f",))
    tests = (f"answer = f(0)\nassert answer == {secret!r}", "answer = f(1)\nassert str(answer).startswith('escaped')")
    return Job(path.stem, kind, code, tests, ("f",))


def below(sandbox: Sandbox) -> int:
    """How many processes the sandbox's keepers have started and not ended. What escapes from its parents is among them."""
    return sum(len(tree(worker.process.pid)) - 1 for worker in sandbox._pool()._workers)


def left_behind() -> dict[str, Any]:
    """What could outlive a process, apart from processes: files, shared memory, semaphores, queues."""
    kinds = ("shm", "sem", "msg")
    tables = {kind: Path(f"/proc/sysvipc/{kind}").read_text().count("\n") for kind in kinds}
    names = {
        folder: {path for path in os.listdir(folder) if path.startswith(NAMES)}
        for folder in ("/tmp", "/dev/shm", "/var/tmp")
    }
    return {**tables, **names}


def test_there_are_many_and_each_says_what_it_tries() -> None:
    assert len(ATTEMPTS) >= 25
    for path in ATTEMPTS:
        assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("path", ATTEMPTS, ids=lambda path: path.stem)
def test_attempt_gains_nothing(path: Path, strong: Sandbox, facts: dict[str, object]) -> None:
    job = job_for(path, facts)
    before = left_behind()
    (report,) = strong.check([job])
    assert report.infrastructure is None  # it is scored, and not dropped
    assert report.ungradable is None
    assert not any(report.passed), report
    assert left_behind() == before
    assert below(strong) <= 4  # the spare interpreter: bubblewrap twice, Python, and one on its way
    if path.stem == "state_between_jobs":
        (report,) = strong.check([job_for(path, facts)])
        assert not any(report.passed), report

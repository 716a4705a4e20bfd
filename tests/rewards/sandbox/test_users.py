"""Levels for a driver that is not root, and that no submission runs as root."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rewards.isolation.levels import FIRST_USER, SLOTS, UIDS, reachable
from rewards.isolation.watch import tree
from rewards.sandbox import Job, Sandbox

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534
PROGRAM = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from rewards.sandbox import Job, Limits, Sandbox, levels
level = sys.argv[2]
why = levels()[level]
if why is not None:
    print(json.dumps({"why": why})); raise SystemExit
CODE = '''
import os, time
def f(n):
    started = 0
    try:
        for _ in range(80):
            if os.fork() == 0:
                time.sleep(2)
                os._exit(0)
            started += 1
    except OSError:
        pass
    return started
def g(path):
    return open(path).read()
'''
tests = ("assert f(0) <= 24", "assert g(%r)" % sys.argv[3], "assert f.__name__")
with Sandbox(level, Limits(seconds=3.0, processes=24), workers=1) as sandbox:
    report, = sandbox.check([Job("x", "function", CODE, tests, ("f", "g"))])
print(json.dumps({"user": os.getuid(), "passed": report.passed, "details": report.details}))
"""


def python_for_all() -> str | None:
    """An interpreter that other users may start."""
    for path in (os.path.realpath(sys.executable), "/usr/local/bin/python3", "/usr/bin/python3"):
        if os.path.exists(path) and reachable(os.path.realpath(path)):
            asked = subprocess.run(
                [path, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True, text=True
            )
            if asked.stdout.strip() == "True":
                return path
    return None


@pytest.mark.parametrize("level", ["namespace", "landlock"])
def test_a_driver_without_rights_has_the_same_levels(level: str) -> None:
    python = python_for_all()
    if os.getuid() != 0 or python is None:
        pytest.skip(
            f"this machine gives no level '{level}' to another user: there is none to become, or no Python for it"
        )
    with tempfile.TemporaryDirectory(prefix="unmask-test-") as folder:
        os.chmod(folder, 0o755)
        shutil.copytree(ROOT / "rewards", Path(folder, "rewards"), ignore=shutil.ignore_patterns("__pycache__"))
        secret = Path(folder, "secret")  # the driver may read it, its submissions may not
        secret.write_text("secret")
        os.chown(secret, NOBODY, NOBODY)
        command = [python, "-c", PROGRAM, folder, level, str(secret)]
        environment = {"PATH": os.environ["PATH"], "HOME": "/tmp"}
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            env=environment,
            cwd="/",
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if "why" in found:
        pytest.skip(f"this machine gives no level '{level}' to another user: {found['why']}")
    assert found["user"] == NOBODY
    assert found["passed"] == [True, False, True], found


def test_submissions_have_users_of_their_own(strong: Sandbox) -> None:
    if os.getuid() != 0:
        pytest.skip(f"this machine gives no level '{strong.level}' with other users: we are not root")
    users = range(FIRST_USER, FIRST_USER + SLOTS * UIDS)
    (worker,) = strong._pool()._workers
    assert strong.check([Job("x", "function", "def f(): pass", ("f()",), ("f",))])[0].solved
    until = time.monotonic() + 10.0
    while not (owners := _owners(worker.process.pid)) or not all(owner in users for owner in owners):
        assert time.monotonic() < until, owners  # a child that has just been forked changes its user in a moment
        time.sleep(0.02)


def _owners(parent: int) -> list[int]:
    """The users of all that a process has started."""
    return [Path(f"/proc/{pid}").stat().st_uid for pid in tree(parent)[1:]]

"""Sandboxes for the tests, one a level, and what the attempts in `attempts/` are told about this machine."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rewards.isolation.levels import ENVIRONMENT
from rewards.sandbox import Job, Limits, Sandbox, levels

STRONG = ("namespace", "landlock")
LIMITS = Limits(
    seconds=1.0,
    start_seconds=2.0,
    job_seconds=30.0,
    memory_bytes=256 << 20,
    processes=24,
    open_files=40,
    file_bytes=4 << 20,
    tmp_bytes=16 << 20,
    output_bytes=1 << 20,
)
SLEEPERS = """
import os, threading, time

def processes():
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

def threads():
    started = 0
    try:
        for _ in range(80):
            threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
            started += 1
    except RuntimeError:
        pass
    return started
"""


@pytest.fixture(scope="session")
def sandbox_at() -> Iterator[Callable[[str], Sandbox]]:
    """The sandbox of a level. At the strong ones its limit on processes has been seen to hold, by a harmless count."""
    made: dict[str, Sandbox] = {}

    def at(level: str) -> Sandbox:
        if level not in made:
            reason = levels()[level]
            if reason is not None:
                pytest.skip(f"this machine gives no level '{level}': {reason}")
            made[level] = Sandbox(level, limits=LIMITS, workers=1)
            if level != "weak":
                most = LIMITS.processes if level == "namespace" else 0  # at level "landlock": threads only
                tests = (f"assert processes() <= {most}", f"assert 5 <= threads() <= {LIMITS.processes}")
                reports = made[level].check(
                    [Job(test, "function", SLEEPERS, (test,), ("processes", "threads")) for test in tests]
                )
                assert all(report.solved for report in reports), (
                    f"limits on processes do not hold at level {level}: {reports}"
                )
        return made[level]

    yield at
    for sandbox in made.values():
        sandbox.close()


@pytest.fixture(params=STRONG)
def strong(request: pytest.FixtureRequest, sandbox_at: Callable[[str], Sandbox]) -> Sandbox:
    return sandbox_at(request.param)


@pytest.fixture(params=(*STRONG, "weak"))
def sandbox(request: pytest.FixtureRequest, sandbox_at: Callable[[str], Sandbox]) -> Sandbox:
    return sandbox_at(request.param)


@pytest.fixture(scope="session")
def marker() -> str:
    """With 16 hexadecimal digits after it, what only the tests know. The marker alone is no secret."""
    return "unmask-secret-"


@pytest.fixture(scope="session")
def facts(marker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """All that an attacker could wish to know, and doors to knock at: a service on loopback, a socket without a file, a secret on disk."""
    canary = tmp_path_factory.mktemp("canary") / "expected.json"
    canary.write_text(f"{marker}{os.urandom(8).hex()}")
    canary.chmod(0o644)
    for folder in canary.parents:  # at level "weak" it can be read: it is the sandbox that hides it
        if folder.is_relative_to(tmp_path_factory.getbasetemp().parent):
            folder.chmod(0o755)
    with socket.socket() as service, socket.socket(socket.AF_UNIX) as hidden:
        service.bind(("127.0.0.1", 0))
        service.listen()
        abstract = f"unmask-test-{os.getpid()}"
        hidden.bind(f"\0{abstract}")
        hidden.listen()
        yield {
            "marker": marker,
            "canary": str(canary),
            "checkout": str(Path(__file__).resolve().parents[3]),
            "variables": [name for name in os.environ if name not in {*ENVIRONMENT, "TMPDIR", "PWD"}],
            "driver": os.getpid(),
            "port": service.getsockname()[1],
            "abstract": abstract,
            "seconds": LIMITS.seconds,
            "memory": LIMITS.memory_bytes,
            "file_bytes": LIMITS.file_bytes,
            "tmp_bytes": LIMITS.tmp_bytes,
            "processes": LIMITS.processes,
        }

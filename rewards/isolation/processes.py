"""The processes of a keeper: sandboxed interpreters and checkers, from their fork to the certainty that they are gone."""

from __future__ import annotations

import fcntl
import json
import marshal
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rewards.isolation import checker, confine, levels, wire
from rewards.isolation.interpreter import Interpreter
from rewards.isolation.levels import LevelError

USED_UP = "not run: the job's time was used up"
READY_SECONDS = 60.0  # for an interpreter to start: a busy machine is no reason to give up
CHECKER_MEMORY = 4 << 30  # bytes of address space
_ENDS: dict[int, str] = {
    signal.SIGKILL: "killed",
    signal.SIGXCPU: "out of processor time",
    signal.SIGSEGV: "segmentation fault",
}


class Dead(BaseException):
    """The driver is gone, or asks us to end."""


class Infrastructure(Exception):
    """Grading failed for a reason that lies with this machine or a service. The sample is dropped, not scored."""


def end_politely() -> None:
    """Take SIGTERM, which also comes at the driver's death, for the end of standard input.

    It is noticed where we look for that. Raised just anywhere it could interrupt the clean-up, or the moment between the
    start of a process and the note of it. Standard input alone would not do: a child that the driver forked holds it open.
    """

    def stop(*_: object) -> None:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    confine.prctl(confine.PR_SET_PDEATHSIG, signal.SIGTERM)


class Starter:
    """Starts interpreters of one slot at one level."""

    def __init__(self, level: str, limits: dict[str, float], packages: list[str], slot: int, workplace: str) -> None:
        self.level, self.limits, self.slot, self.workplace = level, limits, slot, workplace
        self.plan = levels.settle(level, packages, int(limits["tmp_bytes"]), workplace)
        self.program = _program(int(limits["processes"]), self.plan.packages)
        self.count = 0
        self.alive: set[int] = set()  # interpreters that were started and have not been ended

    def start(self) -> Interpreter:
        """Fork and confine one; it will say when it is ready. Raises OSError."""
        self.count += 1
        turn = self.count % (levels.UIDS - 1)
        user = levels.FIRST_USER + levels.UIDS * self.slot + turn if self._changes_user() else None
        folder = "" if self.level == "namespace" else self._folder(user)
        inner, outer = _pipes()
        os.write(outer[3], b"%08d" % len(self.program) + self.program)
        processes = int(self.limits["processes"]) + (3 if self.level == "namespace" else 0)  # bubblewrap's own
        if user is None:
            processes += levels.user_tasks()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                _restore_signals()
                _place(inner)
                levels.become(self.plan, user, folder or "/", parent, processes, self.limits)
            except BaseException as error:  # noqa: BLE001  a fork of the keeper must not go on as a second keeper
                os.write(2, f"{type(error).__name__}: {error}".encode()[:500])
            finally:
                os._exit(127)
        self.alive.add(pid)
        for fd in inner:
            os.close(fd)
        return Interpreter(pid, outer[3], outer[4], outer[0], outer[1], outer[2], outer[5], folder)

    def _changes_user(self) -> bool:
        return self.level != "weak" and os.getuid() == 0

    def _folder(self, user: int | None) -> str:
        folder = Path(self.workplace, f"{self.count}")
        folder.mkdir(mode=0o700)
        if user is not None:
            os.chown(folder, user, user)
        return str(folder)

    def await_ready(self, interpreter: Interpreter, *, idle: bool = False) -> None:
        """Wait for its first message. Raises LevelError with what it wrote to standard error; Dead if our standard input
        ends, but not when `idle`, where a job may come on it."""
        if interpreter.ready:
            return
        problem = "it said nothing"
        readable, _, _ = select.select(
            [interpreter.replies] if idle else [interpreter.replies, 0], [], [], READY_SECONDS
        )
        if readable == [0]:
            self.end(interpreter)
            raise Dead
        if readable:
            try:
                if wire.receive(interpreter.replies) == ["ready"]:
                    self._note_child(interpreter)
                    interpreter.ready = True
                    return
            except wire.BadMessage:
                pass
            problem = os.read(interpreter.stderr, 2000).decode(errors="replace").strip() or "it ended without a word"
        self.end(interpreter)
        raise LevelError(f"an interpreter at level {self.level!r} did not start: {problem[-500:]}")

    def _note_child(self, interpreter: Interpreter) -> None:
        if self.level == "namespace":
            interpreter.child = int(json.loads(os.read(interpreter.info, 4096))["child-pid"])

    def end(self, interpreter: Interpreter) -> None:
        """Kill it with all that it started, wait until nothing of that is left, and remove its folder."""
        for fd in (interpreter.requests, interpreter.replies, interpreter.stdin, interpreter.stdout):
            close(fd)
        if self.level == "namespace" and not interpreter.child:
            with suppress(OSError, ValueError, BlockingIOError):  # it was killed before anybody asked
                os.set_blocking(interpreter.info, False)
                interpreter.child = int(json.loads(os.read(interpreter.info, 4096))["child-pid"])
        close(interpreter.stderr)
        close(interpreter.info)
        # It is not waited for before this, so its number, which is its group's too, can be nobody else's.
        with suppress(ProcessLookupError):
            os.killpg(interpreter.pid, signal.SIGKILL)
        os.waitpid(interpreter.pid, 0)
        self._reap(interpreter)
        if self.level != "namespace":
            remove(interpreter.folder)

    def _reap(self, interpreter: Interpreter) -> None:
        """Wait for what we inherited: all orphans below a keeper become its children."""
        self.alive.discard(interpreter.pid)
        if interpreter.child:  # the first process of its namespace: with it the kernel ends all others
            with suppress(ChildProcessError):  # bubblewrap has waited for it: then that number may be another's by now
                if os.waitpid(interpreter.child, os.WNOHANG) == (0, 0):
                    kill(interpreter.child)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-interpreter.pid, 0)
        if self.level == "weak":  # which may leave the group
            from rewards.isolation.watch import strays

            while found := strays(self.alive):
                for pid in found:
                    kill(pid)


def fork_checker(
    job: dict[str, Any], first: int, interpreter: Interpreter, limits: dict[str, float]
) -> tuple[int, int]:
    """A checker process for the tests from `first` on: its id, and where its events are read."""
    events, write = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, events
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        quiet = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(quiet, fd)
        os.setsid()
        kept = sorted((interpreter.requests, interpreter.replies, write))
        for low, high in zip([2, *kept], [*kept, 65536]):
            os.closerange(low + 1, high)
        _confine_checker(parent, limits)
        checker.serve(job, first, interpreter.requests, interpreter.replies, write)
    finally:
        os._exit(1)


def _confine_checker(parent: int, limits: dict[str, float]) -> None:
    """Tests are the data set's code: it reads Python's files and packages, writes nowhere, reaches no network and starts nothing."""
    levels.limit_resources({**limits, "memory_bytes": CHECKER_MEMORY, "open_files": 256}, 4096)
    confine.die_with(parent)
    confine.prctl(confine.PR_SET_NO_NEW_PRIVS)
    if confine.landlock_version():
        reads = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", sys.base_prefix, *(path for path in sys.path if path)]
        confine.restrict_files(reads, [], ["/dev/null", "/dev/urandom"])
    with suppress(OSError):  # an architecture whose calls are not known
        confine.restrict_calls(confine.seccomp_program(os.getpid(), alone=True, final=True))


def noted(
    event: list[Any], index: int, results: list[tuple[bool, str]], report: dict[str, Any], ended: str
) -> tuple[int, bool]:
    """Enter one event of a checker into the results. Returns the test that is next, and whether the round is over.

    ended: what is known about the submission's process, for the event that it is gone
    """
    kind = event[0]
    if kind == "start":
        return event[1], False
    if kind == "end":
        results[index] = (event[2], event[3])
        return index + 1, False
    if kind == "broken":
        results[index] = (False, ended if event[2] == checker.ENDED else event[2])
        return index + 1, True
    if kind in ("setup", "unable") or (kind == "loaded" and event[1] is not None):
        return void(kind, ended if event[-1] == checker.ENDED else event[-1], index, results, report), True
    return index, kind == "done"


def void(kind: str, text: str, index: int, results: list[tuple[bool, str]], report: dict[str, Any]) -> int:
    """Nothing can be said about the remaining tests: the submission does not load, or the item cannot be graded."""
    report["error" if kind == "loaded" else "ungradable"] = text
    rest = (False, text if kind == "loaded" else "could not be graded")
    results[index:] = [rest] * (len(results) - index)
    return len(results)


def kill(pid: int) -> None:
    """Kill one child and wait for it."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def remove(folder: str) -> None:
    """Remove a folder whatever a submission has built in it: folders too deep for Python, folders closed to their owner."""
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        for command in (["chmod", "-R", "u+rwx", folder], ["rm", "-rf", folder]):
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def how_it_ended(interpreter: Interpreter) -> str:
    """In words, for a process whose replies have ended. It is given a moment to end, and is not waited for."""
    until = time.monotonic() + 1.0
    flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
    while (ended := os.waitid(os.P_PID, interpreter.pid, flags)) is None:
        if time.monotonic() > until:
            return "it closed its channel"
        time.sleep(0.002)
    code = ended.si_status
    if ended.si_code == os.CLD_EXITED:
        if not (interpreter.child and code > 128):  # bubblewrap says so what ended its child
            return f"exit status {code}"
        code -= 128
    return _ENDS.get(code, f"signal {code}")


def worker_text() -> str:
    """What runs inside a sandbox, as one program that does nothing yet: the wire's text and the worker's."""
    here = Path(__file__).parent
    worker = (here / "worker.py").read_text().split("\n")
    return "\n".join(
        [(here / "wire.py").read_text(), *(line for line in worker if not line.startswith("from rewards."))]
    )


def _program(processes: int, packages: str) -> bytes:
    return marshal.dumps(compile(f"{worker_text()}\nmain({processes}, {packages!r})", "sandbox", "exec"))


def _pipes() -> tuple[list[int], list[int]]:
    """Files 0 to 5 of an interpreter, and our ends of them."""
    inner, outer = [], []
    for number in range(6):
        read, write = os.pipe()
        inner.append(read if number in (0, 3) else write)
        outer.append(write if number in (0, 3) else read)
    with suppress(OSError):
        fcntl.fcntl(outer[3], fcntl.F_SETPIPE_SZ, 1 << 18)
    return inner, outer


def _place(inner: list[int]) -> None:
    """Put the files where they belong, in a child. They may lie on each other's places, so they move up first."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in inner]
    for number, fd in enumerate(high):
        os.dup2(fd, number)


def _restore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


def close(fd: int) -> None:
    """Close a file that may be closed already."""
    with suppress(OSError):
        os.close(fd)

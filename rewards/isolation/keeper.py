"""The keeper of one slot: starts sandboxed interpreters and checkers, watches the clock, and kills. A worker of `Pool`.

It runs no code of a submission and none of a data set, has one thread, and holds every process that it starts in its
hand: they die with it, and it ends when its standard input does. One job a line on standard input, one report a line on
standard output, as `sandbox.py` writes and reads them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rewards.isolation import checker, confine, levels, processes, wire
from rewards.isolation.interpreter import Interpreter
from rewards.isolation.processes import USED_UP, Dead, Infrastructure
from rewards.isolation.watch import Clock, Spell

TICK = 0.05  # seconds between looks at the clock
MAX_EVENTS = 1 << 20  # bytes of one checker's events
MAX_EVENT = 1 << 12  # and of those of each test: 200 characters, most of them escaped


class Keeper:
    """One slot of one level. `limits` as the fields of `sandbox.Limits`."""

    def __init__(self, level: str, limits: dict[str, float], packages: list[str]) -> None:
        self.limits = limits
        self.holder, self.slot = levels.claim_slot()
        for left in levels.ownerless(self.slot):  # of keepers that were killed
            processes.remove(left)
        self.workplace = tempfile.mkdtemp(prefix=f"{levels.FOLDER}{self.slot}-")
        os.chmod(self.workplace, 0o711)
        self.spare: Interpreter | None = None
        confine.prctl(confine.PR_SET_CHILD_SUBREAPER)
        self.starter = processes.Starter(level, limits, packages, self.slot, self.workplace)

    def close(self) -> None:
        if self.spare is not None:
            self.starter.end(self.spare)
        processes.remove(self.workplace)

    def prepare(self) -> None:
        """Have an interpreter that waits for a submission. Raises LevelError with the reason if none starts."""
        if self.spare is None:
            self.spare = self.starter.start()
            self.starter.await_ready(self.spare, idle=True)

    def take(self) -> Interpreter:
        """An interpreter that is ready, and another one on its way."""
        try:
            taken = self.spare or self.starter.start()
            self.spare = self.starter.start()
            self.starter.await_ready(taken)
        except (levels.LevelError, OSError) as error:
            self.spare = None
            raise Infrastructure(f"no sandbox started: {error}") from error
        return taken

    def check(self, job: dict[str, Any]) -> dict[str, Any]:
        """The report on one job, as JSON."""
        return reported(job, lambda results, report: self._check(job, results, report))

    def _check(self, job: dict[str, Any], results: list[tuple[bool, str]], report: dict[str, Any]) -> None:
        if job["kind"] == "stdio":
            self._programs(job, results)
        else:
            rounds(
                job, results, report, self.limits, lambda index, left: self._round(job, index, left, results, report)
            )

    def _round(
        self, job: dict[str, Any], first: int, left: float, results: list[tuple[bool, str]], report: dict[str, Any]
    ) -> int:
        """A fresh interpreter and a fresh checker for the tests from `first` on, for at most `left` seconds; the index where the
        next round begins."""
        interpreter = self.take()
        checker, events = processes.fork_checker(job, first, interpreter, self.limits)
        try:
            listener = _Listener(events, checker, interpreter, self.limits, report, results)
            return listener.listen(first, left)
        finally:
            os.close(events)
            processes.kill(checker)
            self.starter.end(interpreter)

    def _programs(self, job: dict[str, Any], results: list[tuple[bool, str]]) -> None:
        from rewards.isolation import stdio

        ends = time.monotonic() + self.limits["job_seconds"]
        for index, (given, wanted) in enumerate(job["tests"]):
            if time.monotonic() > ends:
                results[index:] = [(False, USED_UP)] * (len(results) - index)
                return
            interpreter = self.take()
            try:
                outcome = stdio.run(interpreter, job["code"], given, self.limits)
            finally:
                self.starter.end(interpreter)
            if outcome.starved:
                raise Infrastructure(outcome.problem)
            results[index] = stdio.verdict(outcome, wanted, job["tolerance"])
            if job["stop"] and not results[index][0]:
                return


class RemoteKeeper:
    """A keeper whose submissions run at a service. `service`: the fields of `sandbox.Remote`."""

    def __init__(self, service: dict[str, str], limits: dict[str, float]) -> None:
        self.service, self.limits = service, limits
        confine.prctl(confine.PR_SET_CHILD_SUBREAPER)

    def prepare(self) -> None: ...

    def close(self) -> None: ...

    def check(self, job: dict[str, Any]) -> dict[str, Any]:
        """The report on one job, as JSON."""
        return reported(job, lambda results, report: self._check(job, results, report))

    def _check(self, job: dict[str, Any], results: list[tuple[bool, str]], report: dict[str, Any]) -> None:
        from rewards.isolation import remote, service

        try:
            with service.connected(self.service) as run:
                if job["kind"] == "stdio":
                    remote.programs(job, run, self.limits, results)
                else:
                    one = lambda index, left: remote.listen(job, index, left, run, self.limits, results, report)  # noqa: E731
                    rounds(job, results, report, self.limits, one)
        except service.ServiceError as error:
            raise Infrastructure(str(error)) from error


def reported(job: dict[str, Any], check: Callable[[list[tuple[bool, str]], dict[str, Any]], None]) -> dict[str, Any]:
    """Run one check, and its report as JSON."""
    started = time.monotonic()
    report: dict[str, Any] = {"error": None, "ungradable": None, "infrastructure": None}
    results: list[tuple[bool, str]] = [(False, "not run")] * len(job["tests"])
    try:
        check(results, report)
    except Infrastructure as error:
        report["infrastructure"] = str(error)
    report["passed"] = [passed for passed, _ in results]
    report["details"] = [detail for _, detail in results]
    report["seconds"] = time.monotonic() - started
    return report


def rounds(
    job: dict[str, Any],
    results: list[tuple[bool, str]],
    report: dict[str, Any],
    limits: dict[str, float],
    one: Callable[[int, float], int],
) -> None:
    """Rounds of tests, each with processes of its own, until all are settled or the job's time is used up. `one` is told
    where it begins and how many seconds are left, and returns where the next one begins."""
    ends = time.monotonic() + limits["job_seconds"]
    index = 0
    while index < len(results):
        left = ends - time.monotonic()
        if left <= 0:
            results[index:] = [(False, USED_UP)] * (len(results) - index)
            return
        index = one(index, left)
        if report["error"] or report["ungradable"] or (job["stop"] and _failed_before(results, index)):
            return


def _failed_before(results: list[tuple[bool, str]], index: int) -> bool:
    return any(not passed for passed, _ in results[:index])


class _Listener:
    """Hears one checker and keeps the clocks of its tests."""

    def __init__(
        self,
        events: int,
        checker: int,
        interpreter: Interpreter,
        limits: dict[str, float],
        report: dict[str, Any],
        results: list[tuple[bool, str]],
    ) -> None:
        self.events, self.checker, self.interpreter, self.limits = events, checker, interpreter, limits
        self.report, self.results = report, results
        self.rest, self.heard = b"", 0

    def listen(self, index: int, left: float) -> int:
        """Until the checker is done or something has to be killed; the index of the first test that is not settled. After `left`
        seconds, that is all."""
        spell = Spell(self.interpreter, self.checker)
        clock = Clock(self.interpreter, self.checker, self.limits["start_seconds"], self.limits)
        loading = True
        while True:
            ready, _, _ = select.select([self.events, 0], [], [], TICK)
            if 0 in ready:  # in the middle of a job only the end of standard input can be there
                raise Dead
            if self.events in ready:
                for event in self._read():
                    if event[0] == "start":
                        loading = False
                        clock = Clock(self.interpreter, self.checker, self.limits["seconds"], self.limits)
                    ended = self._ended() if event[-1] == checker.ENDED else ""
                    index, done = processes.noted(event, index, self.results, self.report, ended)
                    if done:
                        return index
            problem = clock.problem()
            if problem is None:
                if spell.seconds() < left:
                    continue
                self.results[index:] = [(False, USED_UP)] * (len(self.results) - index)
                return len(self.results)
            if clock.starved:
                raise Infrastructure(problem)
            if loading:
                return processes.void("loaded", problem, index, self.results, self.report)
            self.results[index] = (False, problem)
            return index + 1

    def _ended(self) -> str:
        return f"its process ended ({processes.how_it_ended(self.interpreter)})"

    def _read(self) -> list[list[Any]]:
        data = os.read(self.events, 65536)
        self.heard += len(data)
        if not data or self.heard > MAX_EVENTS + MAX_EVENT * len(self.results):
            raise Infrastructure("the checker died")
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


def main(arguments: str) -> None:
    """Serve jobs until standard input ends. `arguments`: JSON with level, limits, packages, and parent, the driver's id."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets in tests' code is the same whenever they run
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONHASHSEED": "0"})
    given = json.loads(arguments)
    keeper = None
    try:
        processes.end_politely()
        if given["remote"]:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a request may take minutes; a checker dies with us
            keeper = RemoteKeeper(given["remote"], given["limits"])
        else:
            keeper = Keeper(given["level"], given["limits"], given["packages"])
        keeper.prepare()
        _say("ready")
        for line in iter(_line, ""):
            _say("= " + json.dumps(keeper.check(json.loads(line))))
    except (levels.LevelError, OSError) as error:
        with suppress(OSError):
            _say(f"! {' '.join(str(error).split())}")
    except Dead:
        pass
    finally:
        if keeper is not None:
            keeper.close()


def _line() -> str:
    """The next line of standard input, read without a buffer, so that `select` sees what is left."""
    data = bytearray()
    while not data.endswith(b"\n"):
        part = os.read(0, 1 << 16)
        if not part:
            return ""
        data += part
    return data.decode()


def _say(line: str) -> None:
    wire.send(1, line.encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])

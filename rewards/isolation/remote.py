"""Checking with a service that runs programs: the checker stays here, only calls of the submission travel.

A service keeps no process between two requests, so each program loads the submission and makes all calls so far again, in
their order; the last answers are what the checker asked for. Calls that can be read off the tests' text are made ahead, in
the first program: tests of the usual form cost one request in all. Nothing marks the program's lines as genuine, because
nothing needs to: a forged one is no better than a return value.

Programs are assumed to do the same each time. A submission that does not hurts itself only.
"""

from __future__ import annotations

import ast
import json
import os
import re
import select
import time
from itertools import islice
from typing import Any

from rewards.isolation import processes, stdio, wire
from rewards.isolation.interpreter import Interpreter
from rewards.isolation.processes import USED_UP, Dead
from rewards.isolation.service import Ran, Run

MAX_SECONDS = 120.0  # of one program
CHECKING = 60.0  # seconds that the tests' own code may compute between two calls


class Session:
    """One run of the submission, as the checker sees it: a process that answers requests until it ends."""

    def __init__(self, run: Run, limits: dict[str, float], ahead: list[list[Any]]) -> None:
        self.run, self.limits, self.ahead = run, limits, [json.dumps(request) for request in ahead]
        # Requests are kept as texts: as values, those of f(1), f(True) and f(1.0) would be equal.
        self.history: list[str] = []
        self.known: list[str] = []  # what the last program asked, and
        self.answers: list[str] = []  # its answers
        self.problem = ""

    def answer(self, request: list[Any]) -> bytes | None:
        """A frame, or None: the submission answers no more, and `problem` says why. Raises ServiceError."""
        self.history.append(json.dumps(request))
        count = len(self.history)
        if self.known[:count] != self.history:
            self.known = [*self.history, *(self.ahead if count == 1 else [])]
            self._make()
        if len(self.answers) < count:
            return None
        return _frame(self.answers[count - 1])

    def _make(self) -> None:
        seconds = self.limits["start_seconds"] + self.limits["seconds"] * len(self.known)
        ran = self.run(program(self.known, self.limits), "", min(seconds, MAX_SECONDS))
        lines = islice(re.finditer("[^\n]+", ran.output), len(self.known))  # of what may be many million
        self.answers = [line.group() for line in lines]
        self.problem = _told(ran, self.limits["seconds"])


def _told(ran: Ran, seconds: float) -> str:
    if ran.problem:
        return ran.problem
    if ran.status in (None, -14, 142):  # SIGALRM, by which a call that takes too long is ended
        return f"timed out after {seconds:g} s"
    return f"its process ended (exit status {ran.status})"


def _frame(line: str) -> bytes:
    """A line as a frame of the wire; what is no ASCII is no message of it, and the checker is told so by one."""
    data = line.encode("ascii", errors="replace")[: wire.MAX_FRAME]
    return len(data).to_bytes(4, "little") + data


def program(requests: list[str], limits: dict[str, float]) -> str:
    """The worker's text, and a call that makes it answer all requests, texts of JSON, of which the first loads the submission."""
    timed = [f"[{limits['seconds' if index else 'start_seconds']}, {text}]" for index, text in enumerate(requests)]
    return f"{processes.worker_text()}\nimport json\nreplay(json.loads({'[' + ', '.join(timed) + ']'!r}))\n"


def predicted(job: dict[str, Any], first: int) -> list[list[Any]]:
    """Calls with literal arguments, in the order of the text: what the tests from `first` on will most likely ask."""
    try:
        setup = {node.name: node for node in ast.parse(job["setup"]).body if isinstance(node, ast.FunctionDef)}
        trees = [ast.parse(test) for test in job["tests"][first:]]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []  # the checker will say so
    calls: list[list[Any]] = []
    for tree in trees:
        names = {name: name for name in job["names"]}
        checked = _checked(tree, setup, names)
        if checked is not None:  # check(f): the calls stand in `check`, under its parameter's name
            function, given = checked
            names[function.args.args[0].arg] = given
        calls += _literal_calls(checked[0] if checked else tree, names, mutation=job["mutation"])
    return calls


def _checked(
    tree: ast.Module, setup: dict[str, ast.FunctionDef], names: dict[str, str]
) -> tuple[ast.FunctionDef, str] | None:
    """For a test that only hands a function of the submission to one of the setup: that one, and the function's name."""
    match tree.body:
        case [ast.Expr(ast.Call(ast.Name(check), [ast.Name(given)], []))]:
            if check in setup and given in names and setup[check].args.args:
                return setup[check], given
    return None


def _literal_calls(tree: ast.AST, names: dict[str, str], *, mutation: bool) -> list[list[Any]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            try:
                args = [ast.literal_eval(argument) for argument in node.args]
                kwargs = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in node.keywords}
                message = [
                    "call",
                    names[node.func.id],
                    wire.encode(args),
                    wire.encode(kwargs),
                    mutation,
                ]
            except (ValueError, TypeError, MemoryError, RecursionError, wire.NotPlain, wire.TooLarge):
                continue
            found.append(((node.lineno, node.col_offset), message))
    return [message for _, message in sorted(found, key=lambda pair: pair[0])]


def listen(
    job: dict[str, Any],
    first: int,
    left: float,
    run: Run,
    limits: dict[str, float],
    results: list[tuple[bool, str]],
    report: dict[str, Any],
) -> int:
    """One round of checking with a checker of its own, for `left` seconds and one more answer; the index of the first test that
    is not settled."""
    ends = time.monotonic() + left
    requests, ask = os.pipe()
    hear, replies = os.pipe()
    end = Interpreter(0, ask, hear, -1, -1, -1, -1, "")
    checker, events = processes.fork_checker(job, first, end, limits)
    os.close(ask)
    os.close(hear)
    session = Session(run, limits, predicted(job, first))
    try:
        return _round(session, (requests, replies, events), first, ends, results, report)
    finally:
        processes.kill(checker)
        for fd in (requests, replies, events):
            processes.close(fd)


def _round(
    session: Session,
    files: tuple[int, int, int],
    index: int,
    ends: float,
    results: list[tuple[bool, str]],
    report: dict[str, Any],
) -> int:
    requests, replies, events = files
    rest = b""
    quiet = time.monotonic()
    while True:
        ready, _, _ = select.select([events, requests, 0], [], [], 1.0)
        if 0 in ready:
            raise Dead
        if not ready and time.monotonic() - quiet > CHECKING:
            results[index] = (False, f"checking its answer took more than {CHECKING:g} s")
            return index + 1
        if events in ready:
            data = os.read(events, 65536)
            if not data:
                raise processes.Infrastructure("the checker died")
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                index, done = processes.noted(json.loads(line), index, results, report, session.problem)
                if done:
                    return index
        elif requests in ready:
            if time.monotonic() > ends:  # each answer may take a program's time
                results[index:] = [(False, USED_UP)] * (len(results) - index)
                return len(results)
            frame = _one_answer(session, requests)
            if frame is None:
                processes.close(replies)
            else:
                _pass_on(replies, frame)
            quiet = time.monotonic()


def _one_answer(session: Session, requests: int) -> bytes | None:
    request = wire.receive(requests)
    return None if request is None else session.answer(request)


def _pass_on(replies: int, frame: bytes) -> None:
    try:
        wire.send(replies, frame)
    except OSError as error:
        raise processes.Infrastructure("the checker died") from error


def programs(job: dict[str, Any], run: Run, limits: dict[str, float], results: list[tuple[bool, str]]) -> None:
    """Whole programs, one request a test."""
    ends = time.monotonic() + limits["job_seconds"]
    for index, (given, wanted) in enumerate(job["tests"]):
        if time.monotonic() > ends:
            results[index:] = [(False, USED_UP)] * (len(results) - index)
            return
        ran = run(job["code"], given, limits["seconds"])
        problem = "" if ran.status == 0 and not ran.problem else _told(ran, limits["seconds"])
        if len(ran.output) > limits["output_bytes"]:
            problem = "wrote too much"
        outcome = stdio.Outcome(ran.output.encode(errors="replace"), problem)
        results[index] = stdio.verdict(outcome, wanted, job["tolerance"])
        if job["stop"] and not results[index][0]:
            return

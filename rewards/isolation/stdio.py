"""Whole programs: standard input in, standard output out, compared line by line."""

from __future__ import annotations

import math
import os
import select
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.isolation import processes, wire
from rewards.isolation.interpreter import Interpreter
from rewards.isolation.watch import Clock


@dataclass(frozen=True)
class Outcome:
    """What a program wrote, and what went wrong ("" if it ended by itself with status 0). `starved`: the machine's fault."""

    output: bytes
    problem: str = ""
    starved: bool = False


def run(interpreter: Interpreter, code: str, given: str, limits: dict[str, float]) -> Outcome:
    """Run `code` on standard input `given`. The interpreter is used up."""
    try:
        frame = wire.dump(["program", code])
    except wire.TooLarge:
        return Outcome(b"", "the program is too large")
    feeds = {interpreter.requests: memoryview(frame), interpreter.stdin: memoryview(given.encode(errors="replace"))}
    for fd in (*feeds, interpreter.stdout):
        os.set_blocking(fd, False)
    ended = os.pidfd_open(interpreter.pid)
    clock = Clock(interpreter, 0, limits["seconds"], limits)
    output = bytearray()
    try:
        while True:
            readable, writable, _ = select.select([ended, interpreter.stdout, 0], list(feeds), [], 0.05)
            if 0 in readable:
                raise processes.Dead
            for fd in writable:
                _feed(feeds, fd)
            if interpreter.stdout in readable:
                part = _read(interpreter.stdout)
                output += part
                if len(output) > limits["output_bytes"]:
                    return Outcome(bytes(output[:1000]), "wrote too much")
                if not part and ended not in readable:  # it closed its output and goes on
                    select.select([ended], [], [], 0.02)
            if ended in readable and interpreter.stdout not in readable:
                return _ended(interpreter, bytes(output))
            if ended in readable and not _read_on(interpreter, output, limits):
                return _ended(interpreter, bytes(output))
            problem = clock.problem()
            if problem is not None:
                return Outcome(bytes(output), problem, clock.starved)
    finally:
        os.close(ended)


def _feed(feeds: dict[int, memoryview], fd: int) -> None:
    try:
        feeds[fd] = feeds[fd][os.write(fd, feeds[fd][:65536]) :]
    except BlockingIOError:
        return
    except OSError:  # it does not want to read all of it
        feeds[fd] = memoryview(b"")
    if not feeds[fd]:
        del feeds[fd]
        os.close(fd)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""


def _read_on(interpreter: Interpreter, output: bytearray, limits: dict[str, float]) -> bool:
    """After its end: what still stands in the pipe. False once that is read, whoever else may hold the other end."""
    while len(output) <= limits["output_bytes"] and (part := _read(interpreter.stdout)):
        output += part
    return len(output) > limits["output_bytes"]


def _ended(interpreter: Interpreter, output: bytes) -> Outcome:
    how = processes.how_it_ended(interpreter)
    return Outcome(output, "" if how == "exit status 0" else f"its process ended ({how})")


def verdict(outcome: Outcome, wanted: str, tolerance: float) -> tuple[bool, str]:
    """Whether a program did what it should, and in words what it did."""
    if outcome.problem:
        return False, outcome.problem
    same = same_text(outcome.output.decode(errors="replace"), wanted, tolerance)
    return (True, "passed") if same else (False, "wrong")


def same_text(output: str, wanted: str, tolerance: float = 0.0) -> bool:
    """Equal, apart from white space at the ends of lines and of the text. With a tolerance, numbers may differ by that much,
    absolutely or relatively to the wanted one."""
    ours, theirs = _lines(output), _lines(wanted)
    if ours == theirs:
        return True
    if not tolerance or len(ours) != len(theirs):
        return False
    return all(_same_words(a.split(), b.split(), tolerance) for a, b in zip(ours, theirs))


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_words(ours: Sequence[str], theirs: Sequence[str], tolerance: float) -> bool:
    return len(ours) == len(theirs) and all(_same_word(a, b, tolerance) for a, b in zip(ours, theirs))


def _same_word(ours: str, wanted: str, tolerance: float) -> bool:
    if ours == wanted:
        return True
    try:
        a, b = float(ours), float(wanted)
    except ValueError:
        return False
    return math.isfinite(a) and math.isfinite(b) and abs(a - b) <= tolerance * max(1.0, abs(b))

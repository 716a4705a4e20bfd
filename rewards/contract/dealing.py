"""Calls of reward functions in processes that can be killed: how a batch is dealt to them, and what a row that breaks one costs.

A reward has a budget of T seconds a batch (its `timeout`). The batch is cut into as many pieces of adjacent rows as there are processes.
A piece that has no answer after T/2 is given up and its process killed; so is a piece whose process dies. The rows of such pieces are
then graded one by one, all processes at work: each may take an equal share of T/4, and those that did not answer then an equal share of
another T/4. What still has no answer is dropped, and counted; all other rows keep their scores. So a reward that hangs costs T, however
many rows do it. Time in which all that happens is that processes start is not counted, up to T/2.

A reward that compares the completions for a prompt (`needs_groups`) is dealt whole groups: where this says row, read group for it.

Who owns the processes (this machine: `rewards/contract/graders.py`; Ray) is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from signal import Signals
from typing import Protocol

from rewards.contract.answers import Answer, Drop, Task, assembled
from rewards.contract.calls import reason_for, sample
from rewards.contract.reward import RewardError
from rewards.contract.text import storable

LEAST = 0.1  # seconds that a single row is given at least
SHOWN_ROWS = 10

Unit = tuple[int, Sequence[int]]  # a task, as its place among the tasks, and places of rows of it


@dataclass(frozen=True)
class Reply:
    """What became of a job: its answers, one per task; or an error of the reward; or neither, where its process hung or died.

    code: None where it hung, or was not begun in time; else the exit status, or minus a signal's number, or words.
    """

    answers: Sequence[Answer] | None = None
    error: RewardError | None = None
    code: int | str | None = None

    @property
    def lost(self) -> bool:
        return self.answers is None and self.error is None


class Workers(Protocol):
    """Processes that make calls."""

    size: int

    def run(self, jobs: Sequence[Sequence[Task]], seconds: float, budget: float) -> list[Reply]:
        """One reply per job, each the tasks of a list together. seconds: of one job; budget: of all, those included that had not begun.
        Time in which all that happens is that processes start is not of the budget, up to as much again. None is busy afterwards. Raises
        RewardError where they do not start."""
        ...


def deal(workers: Workers, tasks: Sequence[Task], timeout: float, say: Callable[[str], None]) -> list[Answer]:
    """The answers to some tasks, made together. Raises RewardError, that of the first row, where a function did not keep the contract."""
    began = time.monotonic()
    jobs = _pieces(tasks, workers.size)
    replies = workers.run([[tasks[i].part(places) for i, places in job] for job in jobs], timeout / 2, float("inf"))
    _raise_first(replies)
    parts: list[list[tuple[Sequence[int], Answer]]] = [[] for _ in tasks]
    alone: list[Unit] = []
    for job, reply in zip(jobs, replies, strict=True):
        units = [(i, unit) for i, places in job for unit in _units(tasks[i], places)]
        if reply.lost and len(units) > 1:
            alone.extend(units)
            continue
        answers = reply.answers or [_dropped(tasks[i], len(places), reply, timeout) for i, places in job]
        for (i, places), part in zip(job, answers, strict=True):
            parts[i].append((places, part))
    for (i, places), part in zip(alone, _one_by_one(workers, tasks, alone, timeout), strict=True):
        parts[i].append((places, part))
    found = [assembled(len(task), part) for task, part in zip(tasks, parts, strict=True)]
    took = time.monotonic() - began
    for i, (task, part) in enumerate(zip(tasks, found, strict=True)):
        if _tell(task, part, say):
            found[i] = replace(part, seconds=took)
    return found


def _pieces(tasks: Sequence[Task], count: int) -> list[list[Unit]]:
    """For each process: which rows of which task. Tasks may differ in rows, and what must not be parted (`Task.units`) stays together."""
    jobs: list[list[Unit]] = [[] for _ in range(count)]
    for i, task in enumerate(tasks):
        full, pieces = (
            -(-len(task) // count),
            [[]],
        )  # rows from which a piece takes no more; so there are at most `count`
        for unit in task.units():
            if len(pieces[-1]) >= full:
                pieces.append([])
            pieces[-1].extend(unit)
        for job, places in zip(jobs, pieces if len(task) else [], strict=False):
            job.append((i, sorted(places)))
    return [job for job in jobs if job]


def _units(task: Task, places: Sequence[int]) -> list[list[int]]:
    """Rows of a piece that are called by themselves where the piece is lost."""
    return [[places[at] for at in unit] for unit in task.part(places).units()]


def _raise_first(replies: Sequence[Reply]) -> None:
    """Raises the error of the first reply that is one."""
    for reply in replies:
        if reply.error is not None:
            raise reply.error


def _one_by_one(workers: Workers, tasks: Sequence[Task], units: Sequence[Unit], timeout: float) -> list[Answer]:
    """Answers of rows or groups by themselves, in half the timeout."""
    if not units:
        return []
    jobs = [[tasks[i].part(places)] for i, places in units]
    found = workers.run(jobs, _share(timeout / 4, len(jobs), workers.size), timeout / 4)
    _raise_first(found)
    silent = [at for at, reply in enumerate(found) if reply.lost and reply.code is None]
    if silent:
        share = _share(timeout / 4, len(silent), workers.size)
        again = workers.run([jobs[at] for at in silent], share, timeout / 4)
        _raise_first(again)
        for at, reply in zip(silent, again, strict=True):
            found[at] = reply
    return [
        reply.answers[0] if reply.answers else _dropped(tasks[i], len(places), reply, timeout)
        for (i, places), reply in zip(units, found, strict=True)
    ]


def _share(seconds: float, jobs: int, size: int) -> float:
    """Of each job, where `size` run at a time."""
    return max(LEAST, seconds / max(1, -(-jobs // size)))


def _dropped(task: Task, rows: int, reply: Reply, timeout: float) -> Answer:
    name = task.reward.name
    if reply.code is None:
        how = f"did not answer in {timeout:g} s"
    elif isinstance(reply.code, str):
        how = reply.code
    elif reply.code < 0:
        how = f"its process was killed by {_signal(-reply.code)}"
    else:
        how = f"its process ended with status {reply.code}"
    return Answer([Drop("lost", f"{reason_for(name, '', '')}{how}")] * rows)


def _signal(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tell(task: Task, answer: Answer, say: Callable[[str], None]) -> bool:
    """Say what was lost, once for each reason, with the first row that it happened to. Whether anything was."""
    lost: dict[str, list[int]] = {}
    for place, score in enumerate(answer.scores):
        if isinstance(score, Drop) and score.kind == "lost":
            lost.setdefault(score.reason, []).append(place)
    for reason, places in lost.items():
        rows = ", ".join(str(task.numbers[place]) for place in places[:SHOWN_ROWS])
        more = ", ..." if len(places) > SHOWN_ROWS else ""
        what = "row" if len(places) == 1 else "rows"
        slow = "; where it is only slow, raise its timeout in rewards" if "did not answer" in reason else ""
        said = f"{reason}: {what} {rows}{more} of {len(task)} dropped{slow}\n{sample(task, places[0])}"
        say(storable(said))
    return bool(lost)

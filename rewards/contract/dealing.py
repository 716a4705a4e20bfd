"""Calls of reward functions in processes that can be killed: how a batch is dealt to them, and what a row that breaks one costs.

A reward has a budget of T seconds a batch (its `timeout`). The batch is cut into as many pieces of adjacent rows as there are processes.
A piece that has no answer after T/2 is given up and its process killed; so is a piece whose process dies. The rows of such pieces are
then graded one by one, all processes at work: each may take an equal share of T/4, and those that did not answer then an equal share of
another T/4. What still has no answer is dropped, and counted; all other rows keep their scores. So a reward that hangs costs T, however
many rows do it. Time in which all that happens is that processes start is not counted, up to T/2.

A reward that compares the completions for a prompt (`needs_groups`) is dealt whole groups: where this says row, read group for it.

Async functions run together in a process, T being that of the most patient. Each is cancelled shortly before its own T/2 is over, and
the others lose nothing; its rows then run side by side for T/4 in place of one by one. One that holds up the event loop cannot be
cancelled: after its own T/2 its process ends, those that it kept from answering run again without it for T/4, and its rows one by one
for another T/4.

Who owns the processes (this machine: `rewards/contract/graders.py`; Ray) is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from signal import Signals
from typing import Protocol

from rewards.contract.answers import Answer, Drop, Open, Task, assembled
from rewards.contract.calls import reason_for, sample
from rewards.contract.reward import Reward, RewardError, is_async
from rewards.contract.text import storable

LEAST = 0.1  # seconds that a single row is given at least
SHOWN_ROWS = 10
LEAST_SPARE, MOST_SPARE = 0.15, 2.0  # seconds between the end of an async call and that of its process

Unit = tuple[int, Sequence[int]]  # rows of a task, by its place and theirs: what is called together
Piece = list[Unit]


@dataclass(frozen=True)
class Reply:
    """What became of a job: its answers, one per task; or an error of the reward; or neither, where its process hung or died.

    code: None where it hung, or was not begun in time; else the exit status, or minus a signal's number, or words.
    """

    answers: Sequence[Answer | Open] | None = None
    error: RewardError | None = None
    code: int | str | None = None

    @property
    def lost(self) -> bool:
        return self.answers is None and self.error is None

    @property
    def stuck(self) -> bool:
        """Whether its process can be used no more, though it answered."""
        return any(isinstance(one, Open) and one.stuck for one in self.answers or ())


class Workers(Protocol):
    """Processes that make calls."""

    size: int

    def run(self, jobs: Sequence[Sequence[Task]], seconds: float, budget: float) -> list[Reply]:
        """One reply per job, each the tasks of a list together. seconds: of one job; budget: of all, those included that had not begun.
        Time in which all that happens is that processes start is not of the budget, up to as much again. None is busy afterwards. Raises
        RewardError where they do not start."""
        ...


def deal(workers: Workers, tasks: Sequence[Task], timeout: float, say: Callable[[str], None]) -> list[Answer]:
    """The answers to some tasks, made together. timeout: of rewards that name none. Raises RewardError, that of the first row, where a
    function did not keep the contract."""
    began = time.monotonic()
    batch = _Batch(workers, tasks, [task.reward.timeout or timeout for task in tasks])
    held = batch.together(_pieces(tasks, workers.size), 2)
    if held:
        again = batch.together(held, 4)
        batch.alone += [unit for job in again for piece in job for unit in batch.units(*piece)]
    elif batch.alone:
        batch.side_by_side()
    batch.one_by_one()
    found = [assembled(len(task), part) for task, part in zip(tasks, batch.parts, strict=True)]
    took = time.monotonic() - began
    for i, (task, part) in enumerate(zip(tasks, found, strict=True)):
        if _tell(task, part, batch.timeouts[i], say):
            found[i] = replace(part, seconds=took)
    return found


def _pieces(tasks: Sequence[Task], count: int) -> list[Piece]:
    """For each process: which rows of which task. Tasks may differ in rows, and what must not be parted (`Task.units`) stays together."""
    jobs: list[Piece] = [[] for _ in range(count)]
    for i, task in enumerate(tasks):
        full = -(-len(task) // count)  # rows from which a piece takes no more; so there are at most `count`
        pieces: list[list[int]] = [[]]
        for unit in task.units():
            if len(pieces[-1]) >= full:
                pieces.append([])
            pieces[-1].extend(unit)
        for job, places in zip(jobs, pieces if len(task) else [], strict=False):
            job.append((i, sorted(places)))
    return [job for job in jobs if job]


@dataclass
class _Batch:
    """Tasks while they are dealt. parts: answers so far, for each task; alone: rows that have none, to be called by themselves: one row,
    or a group that must not be parted."""

    workers: Workers
    tasks: Sequence[Task]
    timeouts: Sequence[float]  # of each task
    parts: list[list[tuple[Sequence[int], Answer]]] = field(init=False)
    alone: list[Unit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parts = [[] for _ in self.tasks]

    def units(self, i: int, places: Sequence[int]) -> list[Unit]:
        """Rows of a piece as they are called by themselves where the piece is lost."""
        return [(i, [places[at] for at in unit]) for unit in self.tasks[i].part(places).units()]

    def together(self, jobs: Sequence[Piece], part: int) -> list[Piece]:
        """Call pieces for the time's `part`-th part. Returns those that other calls held up; others without an answer go to `alone`."""
        seconds = max(self.timeouts[i] for job in jobs for i, _ in job) / part if jobs else 0.0
        budget = float("inf") if part == 2 else seconds
        asked = [[self._limited(i, places, self.timeouts[i] / part) for i, places in job] for job in jobs]
        replies = self.workers.run(asked, seconds, budget)
        _raise_first(replies)
        held: list[Piece] = []
        for job, reply in zip(jobs, replies, strict=True):
            held.append([])
            for (i, places), one in zip(job, reply.answers or [Open(True, True)] * len(job), strict=True):
                if isinstance(one, Answer):
                    self.parts[i].append((places, one))
                elif not one.guilty:
                    held[-1].append((i, places))
                elif len(units := self.units(i, places)) > 1 or (reply.lost and len(job) > 1):
                    self.alone.extend(units)
                else:
                    self._drop(i, places, reply)
        return [job for job in held if job]

    def side_by_side(self) -> None:
        """The rows of `alone` for a quarter of the time, those of async functions side by side: without an answer, they stay there if
        that may be another's fault."""
        jobs: list[Piece] = []
        for i, task in enumerate(self.tasks):  # one that ends its process takes no other function with it
            rows = [row for row in self.alone if row[0] == i]
            count = self.workers.size if is_async(task.reward.fn) else len(rows)
            jobs += [job for job in (rows[number::count] for number in range(count)) if job]
        replies = self._rows(jobs)
        self.alone = []
        for job, reply in zip(jobs, replies, strict=True):
            for (i, places), one in zip(job, reply.answers or [None] * len(job), strict=True):
                if isinstance(one, Answer):
                    self.parts[i].append((places, one))
                elif (one is not None and one.guilty) or (one is None and len(job) == 1 and reply.code is not None):
                    self._drop(i, places, reply)
                else:
                    self.alone.append((i, places))

    def one_by_one(self) -> None:
        """The rows of `alone`, each in a job of its own, for a quarter of the time. What has no answer then is dropped."""
        replies = self._rows([[row] for row in self.alone])
        for (i, places), reply in zip(self.alone, replies, strict=True):
            if reply.answers and isinstance(reply.answers[0], Answer):
                self.parts[i].append((places, reply.answers[0]))
            else:
                self._drop(i, places, reply)

    def _rows(self, jobs: Sequence[Piece]) -> list[Reply]:
        if not jobs:
            return []
        budget = max(self.timeouts[i] for job in jobs for i, _ in job) / 4
        share = _share(budget, len(jobs), self.workers.size)
        replies = self.workers.run(
            [[self._limited(i, places, share) for i, places in job] for job in jobs], share, budget
        )
        _raise_first(replies)
        return replies

    def _limited(self, i: int, places: Sequence[int], seconds: float) -> Task:
        """Some rows of a task; an async call of them ends in time to be answered before its process is killed."""
        spare = min(MOST_SPARE, max(LEAST_SPARE, seconds / 10))
        return replace(self.tasks[i].part(places), seconds=max(seconds / 2, seconds - spare))

    def _drop(self, i: int, places: Sequence[int], reply: Reply) -> None:
        self.parts[i].append((places, _dropped(self.tasks[i], len(places), reply, self.timeouts[i])))


def _raise_first(replies: Sequence[Reply]) -> None:
    """Raises the error of the first reply that is one."""
    for reply in replies:
        if reply.error is not None:
            raise reply.error


def _share(seconds: float, jobs: int, size: int) -> float:
    """Of each job, where `size` run at a time."""
    return max(LEAST, seconds / max(1, -(-jobs // size)))


def _dropped(task: Task, rows: int, reply: Reply, timeout: float) -> Answer:
    name = task.reward.name
    if reply.code is None or reply.answers is not None:
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


def _remedy(reward: Reward, timeout: float) -> str:
    """Which limit ended rows that did not answer, and what to raise. A function that bounds a row by its kwargs says so:
    `function.row_seconds(**kwargs)` are seconds, `function.row_seconds_by` the names of those kwargs."""
    bound = getattr(reward.fn, "row_seconds", None)
    longest = bound(**reward.kwargs) if bound is not None else 0.0
    if 2 * longest <= timeout:
        return "where it is only slow, raise its timeout in rewards"
    names = " and ".join(f"kwargs.{name}" for name in reward.fn.row_seconds_by)  # type: ignore[attr-defined]
    return (
        f"what ended it is the entry's timeout in rewards, {timeout:g} s for a batch, and {names} let one row take {longest:.0f} s: "
        f"set that timeout to {2 * longest:.0f} or more, or lower {names}"
    )


def _tell(task: Task, answer: Answer, timeout: float, say: Callable[[str], None]) -> bool:
    """Say what was lost, once for each reason, with the first row that it happened to. Whether anything was."""
    lost: dict[str, list[int]] = {}
    for place, score in enumerate(answer.scores):
        if isinstance(score, Drop) and score.kind == "lost":
            lost.setdefault(score.reason, []).append(place)
    for reason, places in lost.items():
        rows = ", ".join(str(task.numbers[place]) for place in places[:SHOWN_ROWS])
        more = ", ..." if len(places) > SHOWN_ROWS else ""
        what = "row" if len(places) == 1 else "rows"
        slow = f"; {_remedy(task.reward, timeout)}" if "did not answer" in reason else ""
        said = f"{reason}: {what} {rows}{more} of {len(task)} dropped{slow}\n{sample(task, places[0])}"
        say(storable(said))
    return bool(lost)

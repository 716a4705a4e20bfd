"""Grading in a process of its own, so that a reward that hangs, crashes or asks for all memory costs its rows and never the run.

What a recipe names runs there: started when it is first needed, kept for the whole run, ended with it. Two kinds of rewards run in the
process that asks: built-in ones that are quick and bounded whatever the text says, and functions passed as Python objects, which may hold
on to what the caller holds. Scores are the same in both places.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rewards.contract.answers import Answer, Task
from rewards.contract.batch import Grades, Reward, grade
from rewards.contract.cache import ScoreCache
from rewards.contract.calls import answer
from rewards.contract.dealing import Reply, Workers, deal
from rewards.contract.pool import Pool, PoolError
from rewards.contract.reward import RewardError
from rewards.contract.worker import ordered, read, written

# Modules of this package whose functions answer any text at once, or bound what they do by processes of their own.
BOUNDED = (
    "choice",
    "code",
    "countdown",
    "format",
    "gsm8k",
    "length",
    "math",
    "reasoning_gym",
    "repetition",
    "speed",
    "sudoku",
)
TIMEOUT = 600.0
START_SECONDS = 300.0
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.readline()); from rewards.contract.worker import main; main()"
)


def needs_process(entry: Mapping[str, Any]) -> bool:
    """Whether a recipe's reward is called in a process that can be killed."""
    fn = entry["fn"]
    if not isinstance(fn, str):
        return False
    return ":" in fn or fn.partition(".")[0] not in BOUNDED or entry.get("timeout") is not None


class Graders:
    """Stands in for `rewards.contract.batch.grade`, for the time of a run.

    workers: makes the processes, when they are first needed; None where there are none. inside: names of rewards that run in this process.
    timeout: seconds of rewards that name none. say: for people.
    """

    def __init__(
        self,
        workers: Callable[[], Workers] | None,
        *,
        inside: Collection[str] = (),
        timeout: float = TIMEOUT,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._make, self._workers = workers, None
        self.inside, self.timeout = frozenset(inside), timeout
        self.say = say or (lambda line: print(line, file=sys.stderr))
        self.cache = ScoreCache()

    @property
    def workers(self) -> Workers:
        if self._workers is None:
            assert self._make is not None
            self._workers = self._make()
        return self._workers

    def __call__(self, rewards: Sequence[Reward], **rows: Any) -> Grades:
        """As `rewards.contract.batch.grade`, also in what it raises."""
        return grade(rewards, **rows, caller=self._call, cache=self.cache)

    def _call(self, tasks: Sequence[Task]) -> list[Answer]:
        here = [i for i, task in enumerate(tasks) if self._make is None or task.reward.name in self.inside]
        there = [i for i in range(len(tasks)) if i not in here]
        found = dict(zip(here, answer([tasks[i] for i in here]), strict=True))
        if there:
            found |= zip(there, deal(self.workers, [tasks[i] for i in there], self.timeout, self.say), strict=True)
        return [found[i] for i in range(len(tasks))]

    def close(self) -> None:
        """End the processes; they start again when they are needed."""
        if isinstance(self._workers, Processes):
            self._workers.close()


class Processes:
    """Processes of this machine, `size` of them."""

    def __init__(
        self, entries: Sequence[Mapping[str, Any]], base: str, size: int = 1, start_seconds: float = START_SECONDS
    ) -> None:
        """entries: as `load_rewards` takes them, without Python objects; files are relative to `base`."""
        self.size = size
        words, self._errors = os.pipe()
        threading.Thread(target=_show, args=(words,), name="unmask-graders", daemon=True).start()
        self._pool = Pool(
            [sys.executable, "-P", "-c", _START],
            size,
            title="it",
            greeting=f"{json.dumps(sys.path)}\n{written((list(entries), base))}\n".encode(),
            errors=self._errors,
            start_seconds=start_seconds,
            retire=False,  # a function may keep a client, or an event loop's session, between calls
        )
        self._end = weakref.finalize(self, _end, self._pool, self._errors)

    def run(self, jobs: Sequence[Sequence[Task]], seconds: float, budget: float) -> list[Reply]:
        """As `rewards.contract.dealing.Workers` says."""
        try:
            replies = self._pool.run([written(ordered(job)) for job in jobs], seconds, budget)
        except PoolError as error:
            raise RewardError(f"the process that calls reward functions cannot be started: {error}") from error
        return [self._reply(reply.lines, None if reply.overran else reply.code) for reply in replies]

    def _reply(self, lines: Sequence[str], code: int | None) -> Reply:
        if not lines or lines[-1][:2] not in ("= ", "+ "):
            return Reply(code=code)
        found = read(lines[-1][2:])
        return Reply(error=found) if isinstance(found, RewardError) else Reply(answers=found)

    def close(self) -> None:
        self._pool.close()


def _end(pool: Pool, errors: int) -> None:
    pool.close()
    with suppress(OSError):
        os.close(errors)


def _show(words: int) -> None:
    """What reward functions print, until nobody is left who could."""
    with os.fdopen(words, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            print(line, end="", file=sys.stderr)

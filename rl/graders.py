"""Ray's processes that grade: how they are asked, and what becomes of one that dies or takes too long. The rest is
`rewards.contract.dealing`."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray  # type: ignore[import-not-found]
from ray.exceptions import RayTaskError  # type: ignore[import-not-found]

from rewards.contract.answers import Task
from rewards.contract.dealing import Reply
from rewards.contract.reward import RewardError
from rewards.contract.worker import ordered
from rl.placement import LOST
from rl.reward_worker import RewardWorker
from rl.site import Site

DIED = "its process died"
LONGEST = 3600.0  # seconds of one wait; then it is waited again


class RayWorkers:
    """As `rewards.contract.dealing.Workers` says."""

    def __init__(self, site: Site, entries: Sequence[Any]) -> None:
        self.site, self.entries = site, list(entries)
        self.size = site.recipe.cluster.reward_workers
        self.replaced = 0
        self.fresh: list[int] = []  # started anew, and not yet waited for
        self.actors = [self._start(number) for number in range(self.size)]
        self._wait(range(self.size))

    def _start(self, number: int) -> Any:
        return self.site.free_actor(RewardWorker, f"grader-{number}", self.entries, str(Path.cwd()))

    def _wait(self, numbers: Sequence[int]) -> None:
        """Until they are there: starting is no grading, and not in its time. Raises ClusterError."""
        self.site.started([self.actors[one].ready.remote() for one in numbers], [f"grader-{one}" for one in numbers])

    def run(self, jobs: Sequence[Sequence[Task]], seconds: float, budget: float) -> list[Reply]:
        replies = [Reply() for _ in jobs]
        waiting, free = deque(range(len(jobs))), deque(range(self.size))
        busy: dict[Any, tuple[int, int, float]] = {}  # call -> job, worker, when it is given up
        self._mended()
        until, latest = time.monotonic() + budget, time.monotonic() + 2 * budget
        try:
            while waiting or busy:
                while waiting and free and time.monotonic() < until:
                    job, who = waiting.popleft(), free.popleft()
                    call = self.actors[who].grade.remote(ordered(jobs[job]))
                    busy[call] = (job, who, min(until, time.monotonic() + seconds))
                if not busy:  # nobody has begun what is left
                    break
                for call in _ready(busy):
                    job, who, _ = busy.pop(call)
                    replies[job] = self._reply(call)
                    if replies[job].lost:
                        self._replace(who)
                    free.append(who)
                for call in [call for call, (_, _, end) in busy.items() if time.monotonic() >= end]:
                    _, who, _ = busy.pop(call)
                    self._replace(who)
                    free.append(who)
                until = min(latest, until + self._mended())
        except BaseException:  # Ctrl-C: what is under way would keep its worker from the next batch
            for _, who, _ in busy.values():
                self._replace(who)
            raise
        return replies

    def _reply(self, call: Any) -> Reply:
        try:
            found = ray.get(call)
        except RayTaskError as error:  # of ours: what rewards do wrong comes back as a value
            raise getattr(error, "cause", error) from None
        except LOST:  # how, its log says; Ray's words hold addresses and ids
            return Reply(code=DIED)
        return Reply(error=found) if isinstance(found, RewardError) else Reply(answers=found)

    def _replace(self, who: int) -> None:
        ray.kill(self.actors[who])
        self.actors[who] = self._start(who)
        self.fresh.append(who)
        self.replaced += 1

    def _mended(self) -> float:
        """Wait for those that were started anew; how many seconds that took."""
        before, fresh = time.monotonic(), self.fresh
        if fresh:
            self.fresh = []
            self._wait(fresh)
        return time.monotonic() - before


def _ready(busy: Mapping[Any, tuple[int, int, float]]) -> list[Any]:
    """Calls that are done; waits for one, until the first is to be given up."""
    patience = min(end for _, _, end in busy.values()) - time.monotonic()
    if not ray.wait(list(busy), num_returns=1, timeout=min(LONGEST, max(0.0, patience)))[0]:
        return []
    return ray.wait(list(busy), num_returns=len(busy), timeout=0)[0]

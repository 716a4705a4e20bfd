"""Drawing ahead: while the learner is at one batch, the samplers draw those of the next updates, by the weights of this moment.

Which weights draw which batch is fixed by the recipe alone (``rollout.async_depth``): batch u by the weights after update u - depth. So the
speed of workers, a death or an interruption changes no number, and a batch is at most depth versions old.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event

from rl.collect import Collected

# (update, leave) -> what draws the batch of that update, later and in another thread, with the weights of now. It ends early, with
# DroppedError, once ``leave`` is set.
Begin = Callable[[int, Event], Callable[[], Collected]]


class DroppedError(Exception):
    """What was asked for is not wanted any more."""


class Ahead:
    """Batches that are drawn or will be, one after the other. Called from one thread; what draws runs in one other."""

    def __init__(self, depth: int, updates: int, begin: Begin) -> None:
        """depth: of the recipe, above 0. updates: how many the run has; none is drawn for later ones."""
        self.depth, self.updates, self.begin = depth, updates, begin
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="drawing")
        self._jobs: dict[int, Future[Collected]] = {}
        self._leave = Event()

    def take(self, update: int) -> Collected:
        """The batch of an update, once it is there; drawing those up to ``depth`` later ones has begun. Raises what drawing raised."""
        for one in range(update, min(update + self.depth + 1, self.updates)):
            if one not in self._jobs:
                self._jobs[one] = self._pool.submit(self.begin(one, self._leave))
        return self._jobs.pop(update).result()

    def drawn(self) -> dict[int, Collected]:
        """Every batch that was begun and not taken, by update, once they are all there; those that failed are left out."""
        wait(self._jobs.values())
        return {update: job.result() for update, job in self._jobs.items() if job.exception() is None}

    def restore(self, drawn: Mapping[int, Collected]) -> None:
        """What `drawn` gave, in place of whatever was begun."""
        self.drop()
        for update, batch in drawn.items():
            self._jobs[update] = Future()
            self._jobs[update].set_result(batch)

    def drop(self) -> None:
        """End what was begun."""
        self._leave.set()
        for job in self._jobs.values():
            job.cancel()
        wait(self._jobs.values())
        self._jobs, self._leave = {}, Event()

    def close(self) -> None:
        self.drop()
        self._pool.shutdown()

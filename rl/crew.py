"""The learner's ranks as Ray's actors: started together, called together, and lost together."""

from collections.abc import Sequence
from typing import Any

import ray  # type: ignore[import-not-found]

from rl.backends import TrainingError
from rl.learners import ClusterError, LearnersLostError
from rl.placement import LOST, cause, gathered, raised
from rl.rank import Rank
from rl.site import Site


class RayCrew:
    """The ranks. When one is lost, all are: the others wait for it inside."""

    def __init__(self, site: Site) -> None:
        self.site, self.owner = site, None
        self.workers: list[Any] = []
        self.start()

    def start(self) -> None:
        """All ranks anew. Raises LearnersLostError where one dies meanwhile, ClusterError where it cannot start."""
        for worker in self.workers:
            ray.kill(worker)
        recipe, places, self.owner = self.site.recipe, self.site.places, None
        count = recipe.cluster.learners
        self.workers = [
            self.site.actor(Rank, bundle, places.gpus_per_learner, f"learner-{i}", recipe, i, count)
            for i, bundle in enumerate(places.of_learners)
        ]
        names = [f"learner-{number}" for number in range(count)]
        try:
            (self.address,) = self.site.started([self.workers[0].meeting_place.remote()], names)
            self.site.started([worker.join.remote(self.address) for worker in self.workers], names)
        except ClusterError as error:
            if isinstance(error.__cause__, LOST) and raised(error.__cause__) is None:
                raise LearnersLostError(str(error)) from error
            raise

    def __len__(self) -> int:
        return len(self.workers)

    def share(self, value: Any) -> Any:
        return value if isinstance(value, ray.ObjectRef) else ray.put(value)

    def call(self, verb: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return self._all(
            [getattr(worker, verb).remote(*own) for worker, own in zip(self.workers, arguments, strict=True)]
        )

    def keep(self, verb: str, *arguments: Any) -> tuple[Any, Any]:
        calls = [getattr(worker, verb).options(num_returns=2).remote(*arguments) for worker in self.workers]
        return calls[0][0], self._all([small for _, small in calls])[0]

    def _all(self, calls: Sequence[Any]) -> list[Any]:
        """What every rank returns. Raises LearnersLostError where one died, TrainingError where one raised."""
        found, failed = gathered(calls)
        if failed is None:
            return found
        number, error = failed
        if isinstance(error, LOST):
            raise LearnersLostError(f"a learner died: {cause(error)}{self.site.tail(f'learner-{number}')}") from error
        raise TrainingError(f"a learner: {cause(error)}") from error

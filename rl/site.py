"""The site of a run's workers on a Ray cluster: the places reserved for them, how one is started there, and the files they print to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray  # type: ignore[import-not-found]
from ray.util.placement_group import remove_placement_group  # type: ignore[import-not-found]
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # type: ignore[import-not-found]

from rl.config import Recipe
from rl.placement import Places, started
from rl.wire import teach

TAIL = 15  # lines of a failing worker's log that are shown


@dataclass(frozen=True, eq=False)
class Site:
    """logs: the folder of the workers' files; say: to the person who started the run."""

    recipe: Recipe
    logs: Path
    say: Callable[[str], None]
    places: Places

    def actor(self, kind: type, bundle: int, gpus: float, name: str, *arguments: Any) -> Any:
        """A worker in its place; it prints to a file of its own."""
        options = {
            "num_gpus": gpus,
            "num_cpus": self.recipe.cluster.cpus_per_worker,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self.places.group, bundle),
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(self.recipe.train.threads or 1)}},
        }
        worker = ray.remote(kind).options(**options).remote(*arguments, log=self._log(name))
        worker.__ray_call__.remote(teach)  # before anything else that it is asked
        return worker

    def free_actor(self, kind: type, name: str, *arguments: Any) -> Any:
        """A worker without GPU, wherever there is room for it."""
        return (
            ray.remote(kind)
            .options(num_cpus=self.recipe.cluster.cpus_per_worker)
            .remote(*arguments, log=self._log(name))
        )

    def started(self, calls: Sequence[Any], names: Sequence[str]) -> list[Any]:
        """As `rl.placement.started`, in the time of the recipe."""
        return started(calls, names, self.recipe.cluster.start_timeout, self.tail)

    def _log(self, name: str) -> str:
        return str((self.logs / f"{name}.log").absolute())

    def tail(self, name: str) -> str:
        """The last lines that a worker printed."""
        path = self.logs / f"{name}.log"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        shown = "\n".join(f"    {line}" for line in lines[-TAIL:])
        return f"; the end of {path}:\n{shown}" if shown else f"; {path} says nothing"

    def clear(self) -> None:
        """Give the places back, which ends whatever stands in them."""
        remove_placement_group(self.places.group)

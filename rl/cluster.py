"""Ray: starting or joining a cluster, placing the workers of a run on it, and replacing those that are lost.

The rest of the program sees a `Crew` (the ranks of a `LearnerGroup`) and a `Sampler` (a pool of workers). Plain actors in one placement
group: Ray Train would own the loop, and the pools of Ray's utilities restart nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import ray  # type: ignore[import-not-found]
from ray.util.placement_group import remove_placement_group  # type: ignore[import-not-found]
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # type: ignore[import-not-found]

from rewards.contract.graders import Graders
from rl.backends import TrainingError
from rl.config import Recipe
from rl.graders import RayWorkers
from rl.learners import ClusterError, LearnerGroup, LearnersLostError
from rl.placement import LOST, cause, check_room, connect, gathered, place, raised, started
from rl.rank import Rank
from rl.sampler_pool import Pinned, RaySamplers, Watch
from rl.setup import Setup
from rl.wire import teach

LOGS = "logs"
TAIL = 15  # lines of a failing worker's log that are shown


class Cluster:
    """The workers of one run."""

    def __init__(self, recipe: Recipe, folder: Path, say: Callable[[str], None]) -> None:
        teach()
        self.recipe, self.logs, self.say = recipe, folder / LOGS, say
        self.places = place(recipe)
        self.lost = 0  # times in a row that the learners were started anew
        self.restarted = 0  # times in all
        try:
            self.crew = RayCrew(self)
            self.samplers = RaySamplers(self)
        except ClusterError:
            remove_placement_group(self.places.group)  # which ends whatever stands in it
            raise
        self.graders: RayWorkers | None = None

    def learner(self, policy: Any, section: str, total_steps: int, micro_batch: int) -> LearnerGroup:
        return LearnerGroup(policy, self.crew, section=section, total_steps=total_steps, micro_batch=micro_batch)

    def take_on(self, setup: Setup) -> Setup:
        """The setup with these workers in it."""
        mark = setup.mark
        if self.recipe.cluster.reward_workers:
            entries = [entry.model_dump() for entry in setup.recipe.rewards]
            self.graders = workers = RayWorkers(self, [*entries, *setup.extra_rewards])
            mark = Graders(lambda: workers, timeout=self.recipe.cluster.reward_timeout, say=self.say)
        return replace(setup, sampler=self.samplers if self.samplers.workers else None, mark=mark)

    def pinned(self, leave: Event) -> "Pinned":
        """As `rl.learners.Workers` says."""
        return self.samplers.now(leave)

    def restart_learners(self, error: LearnersLostError) -> None:
        """As `rl.learners.Workers` says."""
        self.lost += 1
        most = self.recipe.cluster.restarts
        if self.lost > most:
            raise ClusterError(
                f"the learners were lost {self.lost} times in a row (cluster.restarts: {most}): {error}"
            ) from error
        self.restarted += 1
        self.crew.start()

    def well(self) -> None:
        self.lost = 0

    def stats(self) -> dict[str, float]:
        """As `rl.learners.Workers` says. idle: share of the time of drawing in which a sampler had nothing to do; waiting: pieces of work
        per sampler when drawing began."""
        samplers, self.samplers.watch = self.samplers.watch, Watch(len(self.samplers.workers))
        replaced = self.restarted + self.samplers.replaced + (self.graders.replaced if self.graders else 0)
        found = {"workers/replaced": float(replaced)}
        if samplers.wall and samplers.busy:
            idle = [max(0.0, 1 - one / samplers.wall) for one in samplers.busy]
            found |= {f"workers/idle/sampler-{number}": share for number, share in enumerate(idle)}
            found["workers/waiting"] = samplers.pieces / len(idle)
        return found

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

    def close(self) -> None:
        """End every worker."""
        graders = self.graders.actors if self.graders else []
        for worker in [*self.crew.workers, *self.samplers.workers, *graders]:
            ray.kill(worker)
        remove_placement_group(self.places.group)


class RayCrew:
    """The ranks. When one is lost, all are: the others wait for it inside."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.owner = cluster, None
        self.workers: list[Any] = []
        self.start()

    def start(self) -> None:
        """All ranks anew. Raises LearnersLostError where one dies meanwhile, ClusterError where it cannot start."""
        for worker in self.workers:
            ray.kill(worker)
        recipe, places, self.owner = self.cluster.recipe, self.cluster.places, None
        count = recipe.cluster.learners
        self.workers = [
            self.cluster.actor(Rank, bundle, places.gpus_per_learner, f"learner-{i}", recipe, i, count)
            for i, bundle in enumerate(places.of_learners)
        ]
        names = [f"learner-{number}" for number in range(count)]
        try:
            (self.address,) = self.cluster.started([self.workers[0].meeting_place.remote()], names)
            self.cluster.started([worker.join.remote(self.address) for worker in self.workers], names)
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
            raise LearnersLostError(
                f"a learner died: {cause(error)}{self.cluster.tail(f'learner-{number}')}"
            ) from error
        raise TrainingError(f"a learner: {cause(error)}") from error


@contextmanager
def joined(recipe: Recipe) -> Iterator[None]:
    """The recipe's cluster, started or joined for the time of the block, with room for all workers. Raises ClusterError; nothing else was
    done by then."""
    own = not ray.is_initialized()
    if own:
        connect(recipe)
    try:
        check_room(recipe)
        yield
    finally:
        if own:
            ray.shutdown()


@contextmanager
def cluster_of(recipe: Recipe, folder: Path, say: Callable[[str], None]) -> Iterator[Cluster]:
    """The workers of a recipe with ``cluster.backend: ray``, for the time of the block; none is left afterwards."""
    wanted = recipe.cluster
    with joined(recipe):
        where = "here" if wanted.address is None else f"at {wanted.address}"
        count = f"{wanted.learners} learners under ZeRO {wanted.zero_stage}, {wanted.samplers} samplers"
        graders = f", {wanted.reward_workers} reward workers" if wanted.reward_workers else ""
        say(f"Starting workers on Ray {where}: {count}{graders}; each prints to {folder / LOGS}")
        cluster = Cluster(recipe, folder, say)
        try:
            yield cluster
        finally:
            cluster.close()

"""Ray: starting or joining a cluster, placing the workers of a run on it, and replacing those that are lost.

The rest of the program sees a `Crew` (the ranks of a `LearnerGroup`) and a `Sampler` (a pool of workers). Plain actors in one placement
group: Ray Train would own the loop, and the pools of Ray's utilities restart nothing.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import ray  # type: ignore[import-not-found]
from ray.exceptions import RayTaskError  # type: ignore[import-not-found]
from ray.util.placement_group import remove_placement_group  # type: ignore[import-not-found]
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # type: ignore[import-not-found]

from rl.ahead import DroppedError
from rl.backends import TrainingError
from rl.config import Recipe
from rl.graders import RayGraders
from rl.learners import ClusterError, LearnerGroup, LearnersLostError
from rl.placement import LOST, cause, connect, failure, place, started
from rl.rank import Rank
from rl.setup import Setup, load_sampler
from rollouts.spec import SamplerSpec
from rollouts.strategy import deal, piece
from rollouts.trajectory import RolloutBatch
from rollouts.worker import SamplerWorker

LOGS = "logs"
TAIL = 15  # lines of a failing worker's log that are shown
GLANCE = 1.0  # seconds between two looks at whether a request is still wanted


class Cluster:
    """The workers of one run."""

    def __init__(self, recipe: Recipe, folder: Path, say: Callable[[str], None]) -> None:
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
        self.graders: RayGraders | None = None

    def learner(self, policy: Any, section: str, total_steps: int, micro_batch: int) -> LearnerGroup:
        return LearnerGroup(policy, self.crew, section=section, total_steps=total_steps, micro_batch=micro_batch)

    def take_on(self, setup: Setup) -> Setup:
        """The setup with these workers in it."""
        if self.recipe.cluster.reward_workers:
            entries = [entry.model_dump() for entry in setup.recipe.rewards]
            self.graders = RayGraders(self, [*entries, *setup.extra_rewards])
        return replace(setup, sampler=self.samplers if self.samplers.workers else None, mark=self.graders or setup.mark)

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
        return ray.remote(kind).options(**options).remote(*arguments, log=self._log(name))

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
        graders = self.graders.workers if self.graders else []
        for worker in [*self.crew.workers, *self.samplers.workers, *graders]:
            ray.kill(worker)
        remove_placement_group(self.places.group)


class Watch:
    """What the samplers did while they were watched. busy: seconds of each; wall: seconds of drawing; pieces: of work handed in."""

    def __init__(self, count: int) -> None:
        self.busy, self.wall, self.pieces = [0.0] * count, 0.0, 0


class RayCrew:
    """The ranks. When one is lost, all are: the others wait for it inside."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.owner = cluster, None
        self.workers: list[Any] = []
        self.start()

    def start(self) -> None:
        """All ranks anew."""
        for worker in self.workers:
            ray.kill(worker)
        recipe, places, self.owner = self.cluster.recipe, self.cluster.places, None
        count = recipe.cluster.learners
        self.workers = [
            self.cluster.actor(Rank, bundle, places.gpus_per_learner, f"learner-{i}", recipe, i, count)
            for i, bundle in enumerate(places.of_learners)
        ]
        names = [f"learner-{number}" for number in range(count)]
        (address,) = self.cluster.started([self.workers[0].meeting_place.remote()], names)
        self.cluster.started([worker.join.remote(address) for worker in self.workers], names)

    def __len__(self) -> int:
        return len(self.workers)

    def share(self, value: Any) -> Any:
        return value if isinstance(value, ray.ObjectRef) else ray.put(value)

    def call(self, verb: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        calls = [getattr(worker, verb).remote(*own) for worker, own in zip(self.workers, arguments, strict=True)]
        self._all_well(calls)
        return ray.get(calls)

    def keep(self, verb: str, *arguments: Any) -> tuple[Any, Any]:
        calls = [getattr(worker, verb).options(num_returns=2).remote(*arguments) for worker in self.workers]
        self._all_well([small for _, small in calls])
        return calls[0][0], ray.get(calls[0][1])

    def _all_well(self, calls: Sequence[Any]) -> None:
        """Wait for a call of every rank. Raises LearnersLostError where one died, TrainingError where one raised."""
        failed = failure(calls)
        if failed is None:
            return
        number, error = failed
        if isinstance(error, LOST):
            raise LearnersLostError(
                f"a learner died: {cause(error)}{self.cluster.tail(f'learner-{number}')}"
            ) from error
        raise TrainingError(f"a learner: {cause(error)}") from error


@dataclass(frozen=True, eq=False)
class Published:
    """Weights that samplers can take at any later time: they lie in the cluster's memory. number: of the publication; 0 is what all have
    loaded. pieces: (reference to tensors by name, their fingerprint)."""

    number: int
    pieces: tuple[tuple[Any, str], ...] = ()


class RaySamplers:
    """Workers that draw: groups are dealt out as workers come free; a lost worker is replaced, and what it had is drawn anew from the
    same streams. Each holds the weights that were asked for before it draws. One request at a time."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.lost = 0  # workers replaced since the last piece of work that came back
        self.replaced = 0  # in all
        self.watch = Watch(cluster.recipe.cluster.samplers)
        self.rows_run = {"without_gradient": 0, "with_gradient": 0}
        self._of: tuple[Any, int] = (None, 0)  # the learner and the count of its changes that `_newest` is of
        self._newest = Published(0)
        self.workers = [self._start(number) for number in range(cluster.recipe.cluster.samplers)]
        self.held = [0] * len(self.workers)  # the publication whose weights each has
        names = [f"sampler-{number}" for number in range(len(self.workers))]
        cluster.started([worker.ready.remote() for worker in self.workers], names)

    def _start(self, number: int) -> Any:
        cluster, recipe = self.cluster, self.cluster.recipe
        load = partial(load_sampler, recipe.model, seed=recipe.train.seed)
        places = cluster.places
        return cluster.actor(
            SamplerWorker,
            places.of_samplers[number],
            places.gpus_per_sampler,
            f"sampler-{number}",
            load,
            recipe.train.threads,
            recipe.train.deterministic,
        )

    # -- what a strategy asks -------------------------------------------------------------------------------------

    def sample(self, prompts: Sequence[Sequence[int]], spec: SamplerSpec, **options: Any) -> RolloutBatch:
        return self.now().sample(prompts, spec, **options)

    def hint_entropy(self, batch: RolloutBatch, rows: int) -> RolloutBatch:
        return self.now().hint_entropy(batch, rows)

    def now(self, leave: Event | None = None) -> "Pinned":
        """A sampler with the learners' weights of this moment, whatever becomes of those. leave: as `Pinned` takes it."""
        owner = self.cluster.crew.owner
        if owner is not None and self._of != (owner, owner.changes):
            self._newest = Published(self._newest.number + 1, tuple(owner.publish()))
            self._of = (owner, owner.changes)
        return Pinned(self, self._newest, leave or Event())

    # -- the queue ------------------------------------------------------------------------------------------------

    def done(
        self,
        verb: str,
        work: Sequence[tuple[Any, ...]],
        weights: Published,
        leave: Event,
        told: Callable[[int], None] | None = None,
    ) -> list[Any]:
        """Results of all pieces of work, in order, whoever did them and however often. Raises DroppedError once ``leave`` is set."""
        self._give(weights, [who for who, held in enumerate(self.held) if held != weights.number])
        start, watch = time.perf_counter(), self.watch
        watch.pieces += len(work)
        waiting, busy, found = deque(range(len(work))), {}, {}
        free = deque(range(len(self.workers)))
        while len(found) < len(work):
            while waiting and free:
                number, who = waiting.popleft(), free.popleft()
                call = getattr(self.workers[who], verb).remote(weights.number, *work[number])
                busy[call] = (number, who)
            ready, _ = ray.wait(list(busy), num_returns=1, timeout=GLANCE)
            if leave.is_set():
                raise DroppedError
            if not ready:
                continue
            number, who = busy.pop(ready[0])
            free.append(who)
            try:
                batch, rows_run, seconds = ray.get(ready[0])
            except LOST as error:
                self._replace(who, error, weights)
                waiting.appendleft(number)
                continue
            except RayTaskError as error:
                raise TrainingError(f"sampler-{who}: {cause(error)}") from error
            found[number], self.lost = batch, 0
            watch.busy[who] += seconds
            for kind, count in rows_run.items():
                self.rows_run[kind] += count
            if told is not None:
                told(len(batch))
        watch.wall += time.perf_counter() - start
        return [found[number] for number in range(len(work))]

    def _replace(self, who: int, error: BaseException, weights: Published) -> None:
        self.lost, self.replaced = self.lost + 1, self.replaced + 1
        name = f"sampler-{who}"
        if self.lost > self.cluster.recipe.cluster.restarts:
            raise ClusterError(
                f"{name} died, the {self.lost}th worker in a row without a result (cluster.restarts: "
                f"{self.cluster.recipe.cluster.restarts}): {cause(error)}{self.cluster.tail(name)}"
            ) from error
        self.cluster.say(f"{name} died and is replaced; what it was drawing is drawn anew ({cause(error)})")
        self.workers[who], self.held[who] = self._start(who), 0
        self._give(weights, [who] if weights.number else [])

    def _give(self, weights: Published, to: Sequence[int]) -> None:
        """A piece at a time, so that a worker never waits for more than one."""
        for number, (tensors, expected) in enumerate(weights.pieces):
            last = number == len(weights.pieces) - 1
            taken = [self.workers[who].take.remote(weights.number, tensors, expected, last) for who in to]
            try:
                ray.get(taken)
            except LOST:
                pass  # whoever it was is noticed, and replaced, by the work that it is given next
            except RayTaskError as error:
                raise TrainingError(f"a sampler: {cause(error)}") from error
        for who in to:
            self.held[who] = weights.number


@dataclass(frozen=True, eq=False)
class Pinned:
    """A sampler (`rollouts.strategy.Sampler`) of weights of one moment. leave: once set, whatever is asked of it ends early."""

    samplers: RaySamplers
    weights: Published
    leave: Event

    @property
    def rows_run(self) -> Mapping[str, int]:
        return self.samplers.rows_run

    def sample(self, prompts: Sequence[Sequence[int]], spec: SamplerSpec, **options: Any) -> RolloutBatch:
        told = options.pop("on_rows", None)
        size, most = options["group_size"], options.get("max_rows", 64)
        count, exact = len(self.samplers.workers), options.get("deterministic", False)
        parts = deal(len(prompts), size, most, count, deterministic=exact)
        work = [([prompts[p] for p in part], spec, piece(options, part)) for part in parts]
        return RolloutBatch.concat(self.samplers.done("sample", work, self.weights, self.leave, told))

    def hint_entropy(self, batch: RolloutBatch, rows: int) -> RolloutBatch:
        parts = [range(low, min(low + rows, len(batch))) for low in range(0, len(batch), rows)]
        work = [(batch.rows(list(one)), rows) for one in parts]
        return RolloutBatch.concat(self.samplers.done("hint_entropy", work, self.weights, self.leave))


@contextmanager
def cluster_of(recipe: Recipe, folder: Path, say: Callable[[str], None]) -> Iterator[Cluster]:
    """The workers of a recipe with ``cluster.backend: ray``, for the time of the block; none is left afterwards."""
    own = not ray.is_initialized()
    if own:
        connect(recipe)
    try:
        cluster = Cluster(recipe, folder, say)
        try:
            yield cluster
        finally:
            cluster.close()
    finally:
        if own:
            ray.shutdown()

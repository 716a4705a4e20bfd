"""The workers that draw: groups of rollouts are dealt out to them as they come free, and each holds the weights that were asked for."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

import ray  # type: ignore[import-not-found]
from ray.exceptions import RayTaskError  # type: ignore[import-not-found]

from rl.ahead import DroppedError
from rl.backends import TrainingError
from rl.crew import RayCrew
from rl.learners import ClusterError, LearnersLostError
from rl.placement import LOST, cause, gathered, ready
from rl.setup import load_sampler
from rl.site import Site
from rollouts.spec import SamplerSpec
from rollouts.strategy import deal, piece
from rollouts.trajectory import RolloutBatch
from rollouts.worker import SamplerWorker

LINE_SECONDS = 120.0  # that the two ends of a line wait for each other
GLANCE = 1.0  # seconds between two looks at whether a request is still wanted


class Watch:
    """What the samplers did while they were watched. busy: seconds of each; wall: seconds of drawing; pieces: of work handed in."""

    def __init__(self, count: int) -> None:
        self.busy, self.wall, self.pieces = [0.0] * count, 0.0, 0


@dataclass(frozen=True, eq=False)
class Published:
    """Weights that samplers can take at any later time. number: of the publication; 0 is what all have loaded. pieces: (reference to
    tensors by name in the cluster's memory, their fingerprint). names: of each piece, where they lie with the first learner instead."""

    number: int
    pieces: tuple[tuple[Any, str], ...] = ()
    names: tuple[list[str], ...] = ()


class RaySamplers:
    """Workers that draw: groups are dealt out as workers come free; a lost worker is replaced, and what it had is drawn anew from the
    same streams. Each holds the weights that were asked for before it draws. One request at a time."""

    def __init__(self, site: Site, crew: RayCrew) -> None:
        self.site, self.crew = site, crew  # the crew has the weights
        self.replaced = 0  # workers, since the start
        self.watch = Watch(site.recipe.cluster.samplers)
        self.rows_run = {"without_gradient": 0, "with_gradient": 0}
        self.line: tuple[Any, ...] = ()  # who is on the one that is open: the first learner, and samplers
        self.lines = 0  # opened so far
        self._of: tuple[Any, int] = (None, 0)  # the learner and the count of its changes that `_newest` is of
        self._newest = Published(0)
        self.workers = [self._start(number) for number in range(site.recipe.cluster.samplers)]
        self.held = [0] * len(self.workers)  # the publication whose weights each has
        names = [f"sampler-{number}" for number in range(len(self.workers))]
        site.started([worker.ready.remote() for worker in self.workers], names)

    def _start(self, number: int) -> Any:
        recipe, places = self.site.recipe, self.site.places
        load = partial(load_sampler, recipe.model, seed=recipe.train.seed)
        return self.site.actor(
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
        owner = self.crew.owner
        if owner is not None and self._of != (owner, owner.changes):
            number = self._newest.number + 1
            self._newest = Published(number)  # what lay there may go, unless something is still drawn with it
            if self.site.recipe.cluster.weights == "direct":
                keep = number - self.site.recipe.rollout.async_depth - 1
                self._newest = Published(number, names=tuple(owner.lay(number, keep)))
            else:
                self._newest = Published(number, tuple(owner.publish()))
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
        lost = [0] * len(work)  # workers that died over each piece: a machine that ends takes many workers at once
        while len(found) < len(work):
            while waiting and free:
                number, who = waiting.popleft(), free.popleft()
                call = getattr(self.workers[who], verb).remote(weights.number, *work[number])
                busy[call] = (number, who)
            done = ready(list(busy), GLANCE)
            if leave.is_set():
                raise DroppedError
            for call in done:
                number, who = busy.pop(call)
                free.append(who)
                try:
                    batch, rows_run, seconds = ray.get(call)
                except LOST as error:
                    lost[number] += 1
                    self._replace(who, error, weights, lost[number])
                    waiting.appendleft(number)
                    continue
                except RayTaskError as error:
                    raise TrainingError(f"sampler-{who}: {cause(error)}") from error
                found[number] = batch
                watch.busy[who] += seconds
                for kind, count in rows_run.items():
                    self.rows_run[kind] += count
                if told is not None:
                    told(len(batch))
        watch.wall += time.perf_counter() - start
        return [found[number] for number in range(len(work))]

    def _replace(self, who: int, error: BaseException, weights: Published, lost: int) -> None:
        self.replaced += 1
        name, most = f"sampler-{who}", self.site.recipe.cluster.restarts
        if lost > most:
            raise ClusterError(
                f"{name} died, worker {lost} in a row over the same piece of work (cluster.restarts: {most}): "
                f"{cause(error)}{self.site.tail(name)}"
            ) from error
        self.site.say(f"{name} died and is replaced; what it was drawing is drawn anew ({cause(error)})")
        self.workers[who], self.held[who] = self._start(who), 0
        self._give(weights, [who])

    def _give(self, weights: Published, to: Sequence[int]) -> None:
        """A piece at a time, so that a worker never waits for more than one. Whoever is gone is noticed, and replaced, by the work that it
        is given next."""
        if weights.names and to:
            send(self, weights, to)
        for number, (tensors, expected) in enumerate(weights.pieces):
            last = number == len(weights.pieces) - 1
            taken = [self.workers[who].take.remote(weights.number, tensors, expected, last) for who in to]
            try:
                ray.get(taken)
            except LOST:
                pass
            except RayTaskError as error:
                raise TrainingError(f"a sampler: {cause(error)}") from error
        for who in to:
            self.held[who] = weights.number


def send(pool: RaySamplers, weights: Published, to: Sequence[int]) -> None:
    """Weights that lie with the first learner, over a line to these workers. Where one of them dies on the way, the others try again
    without it. Raises ClusterError where that does not help, LearnersLostError where it is the learner that is gone."""
    failed: BaseException | None = None
    for _ in range(pool.site.recipe.cluster.restarts + 1):
        alive = [pool.workers[who] for who in to if _lives(pool.workers[who])]
        failed = _over_the_line(pool, weights, alive) if alive else None
        if failed is None:
            return
        pool.line = ()
    raise ClusterError(f"cluster.weights direct: the samplers did not get their weights: {cause(failed)}") from failed  # type: ignore[arg-type]


def _lives(worker: Any) -> bool:
    try:
        ray.get(worker.ready.remote())
    except LOST:
        return False
    return True


def _over_the_line(pool: RaySamplers, weights: Published, workers: Sequence[Any]) -> BaseException | None:
    """What went wrong, if something did. Raises TrainingError where other weights arrived than were sent."""
    crew, number = pool.crew, weights.number
    members = (crew.workers[0], *workers)

    def together(verb: str, first: tuple[Any, ...], others: Sequence[tuple[Any, ...]]) -> list[Any] | BaseException:
        """A call of the learner and one of each worker, which wait for each other inside."""
        verbs = [verb, *(verb if verb == "open_line" else "receive" for _ in others)]
        arguments = [first, *others]
        calls = [getattr(m, v).remote(*own) for m, v, own in zip(members, verbs, arguments, strict=True)]
        found, failed = gathered(calls)
        if failed is None:
            return found
        place, error = failed
        if place == 0 and isinstance(error, LOST):
            raise LearnersLostError(f"a learner died: {cause(error)}{pool.site.tail('learner-0')}") from error
        return error

    if pool.line != members:
        pool.lines += 1
        name, count = f"weights/{pool.lines}", len(members)
        others = [(crew.address, name, place, count, LINE_SECONDS) for place in range(1, count)]
        found = together("open_line", (name, count, LINE_SECONDS), others)
        if isinstance(found, BaseException):
            return found
        pool.line = members
    for place, names in enumerate(weights.names):
        last = place == len(weights.names) - 1
        found = together("send", (number, names), [(number, names, last)] * len(workers))
        if isinstance(found, BaseException):
            return found
        if len(set(found)) != 1:
            raise TrainingError(f"version {number}: other weights arrived at a sampler than were sent")
    return None


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

"""Ray: starting or joining a cluster, placing the workers of a run on it, and replacing those that are lost.

The rest of the program sees a `Crew` (the ranks of a `LearnerGroup`) and a `Sampler` (a pool of workers). Plain actors in one placement
group: Ray Train would own the loop, and the pools of Ray's utilities restart nothing.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray  # type: ignore[import-not-found]
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayTaskError  # type: ignore[import-not-found]
from ray.util.placement_group import remove_placement_group  # type: ignore[import-not-found]
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # type: ignore[import-not-found]

from rl.backends import TrainingError
from rl.config import Recipe
from rl.graders import RayGraders
from rl.learners import ClusterError, LearnerGroup, LearnersLostError
from rl.placement import cause, connect, place
from rl.rank import Rank
from rl.setup import Setup, load_sampler
from rl.wire import teach
from rollouts.spec import SamplerSpec
from rollouts.strategy import deal, piece
from rollouts.trajectory import RolloutBatch
from rollouts.worker import SamplerWorker

LOGS = "logs"
TAIL = 15  # lines of a failing worker's log that are shown


# A worker that is gone. Ray ends one itself where a machine's memory runs out.
LOST = (RayActorError, OutOfMemoryError)


class Cluster:
    """The workers of one run."""

    def __init__(self, recipe: Recipe, folder: Path, say: Callable[[str], None]) -> None:
        teach()
        self.recipe, self.logs, self.say = recipe, folder / LOGS, say
        self.places = place(recipe)
        self.lost = 0  # times in a row that the learners were started anew
        self.restarted = 0  # times in all
        self.crew = RayCrew(self)
        self.samplers = RaySamplers(self)
        self.graders: RayGraders | None = None

    def learner(self, policy: Any, section: str, total_steps: int, micro_batch: int) -> LearnerGroup:
        return LearnerGroup(policy, self.crew, section=section, total_steps=total_steps, micro_batch=micro_batch)

    def take_on(self, setup: Setup) -> Setup:
        """The setup with these workers in it."""
        if self.recipe.cluster.reward_workers:
            entries = [entry.model_dump() for entry in setup.recipe.rewards]
            self.graders = RayGraders(self, [*entries, *setup.extra_rewards])
        return replace(setup, sampler=self.samplers if self.samplers.workers else None, mark=self.graders or setup.mark)

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
        seconds = recipe.cluster.start_timeout
        try:
            address = ray.get(self.workers[0].meeting_place.remote(), timeout=seconds)
            ray.get([worker.join.remote(address) for worker in self.workers], timeout=seconds)
        except (*LOST, RayTaskError, GetTimeoutError) as error:
            raise ClusterError(f"the learners did not start: {cause(error)}{self._where(error)}") from error

    def __len__(self) -> int:
        return len(self.workers)

    def share(self, value: Any) -> Any:
        return value if isinstance(value, ray.ObjectRef) else ray.put(value)

    def call(self, verb: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        verbs = [getattr(worker, verb) for worker in self.workers]
        try:
            if verb == "publish":  # the weights stay with the rank, and samplers fetch them there; the rest comes
                one = [v.options(num_returns=2).remote(*own) for v, own in zip(verbs, arguments, strict=True)]
                rest = _results([rest for _, rest in one])
                return [(weights, about) for (weights, _), about in zip(one, rest, strict=True)]
            return _results([v.remote(*own) for v, own in zip(verbs, arguments, strict=True)])
        except LOST as error:
            raise LearnersLostError(f"a learner died: {cause(error)}{self._where(error)}") from error
        except RayTaskError as error:
            raise TrainingError(f"a learner: {cause(error)}") from error

    def _where(self, error: BaseException) -> str:
        for number, worker in enumerate(self.workers):
            if getattr(error, "actor_id", None) == worker._actor_id.hex():
                return self.cluster.tail(f"learner-{number}")
        return self.cluster.tail("learner-0")


class RaySamplers:
    """Workers that draw: groups are dealt out as workers come free; a lost worker is replaced, and what it had is drawn anew from the
    same streams. Each holds the learners' weights before it draws."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.held: tuple[Any, int] = (
            None,
            0,
        )  # the learner and the count of its changes whose weights the workers have
        self.lost = 0  # workers replaced since the last piece of work that came back
        self.replaced = 0  # in all
        self.watch = Watch(cluster.recipe.cluster.samplers)
        self.workers = [self._start(number) for number in range(cluster.recipe.cluster.samplers)]
        try:
            ray.get([worker.ready.remote() for worker in self.workers], timeout=cluster.recipe.cluster.start_timeout)
        except (*LOST, RayTaskError, GetTimeoutError) as error:
            raise ClusterError(f"the samplers did not start: {cause(error)}{cluster.tail('sampler-0')}") from error

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
        told = options.pop("on_rows", None)
        size, most = options["group_size"], options.get("max_rows", 64)
        work = deal(len(prompts), size, most, len(self.workers), deterministic=options.get("deterministic", False))
        calls = [("sample", ([prompts[p] for p in part], spec, piece(options, part))) for part in work]
        return RolloutBatch.concat(self._done(calls, told))

    def hint_entropy(self, batch: RolloutBatch, rows: int) -> RolloutBatch:
        parts = [range(low, min(low + rows, len(batch))) for low in range(0, len(batch), rows)]
        return RolloutBatch.concat(self._done([("hint_entropy", (batch.rows(list(one)), rows)) for one in parts]))

    # -- the queue ------------------------------------------------------------------------------------------------

    def _done(
        self, calls: Sequence[tuple[str, tuple[Any, ...]]], told: Callable[[int], None] | None = None
    ) -> list[Any]:
        """Results of all pieces of work, in order, whoever did them and however often."""
        self._bring_up_to_date()
        start, watch = time.perf_counter(), self.watch
        watch.pieces += len(calls)
        waiting, busy, found = deque(range(len(calls))), {}, {}
        free = deque(range(len(self.workers)))
        while len(found) < len(calls):
            while waiting and free:
                number, who = waiting.popleft(), free.popleft()
                verb, arguments = calls[number]
                busy[getattr(self.workers[who], verb).remote(*arguments)] = (number, who)
            for ready in _ready(list(busy)):
                number, who = busy.pop(ready)
                free.append(who)
                try:
                    batch, rows_run, seconds = ray.get(ready)
                except LOST as error:
                    self._replace(who, error)
                    waiting.appendleft(number)
                    continue
                except RayTaskError as error:
                    raise TrainingError(f"sampler-{who}: {cause(error)}") from error
                found[number], self.lost = batch, 0
                watch.busy[who] += seconds
                self._count(rows_run)
                if told is not None:
                    told(len(batch))
        watch.wall += time.perf_counter() - start
        return [found[number] for number in range(len(calls))]

    def _count(self, rows_run: dict[str, int]) -> None:
        owner = self.cluster.crew.owner
        if owner is not None:
            for kind, count in rows_run.items():
                owner.policy.rows_run[kind] += count

    def _replace(self, who: int, error: BaseException) -> None:
        self.lost, self.replaced = self.lost + 1, self.replaced + 1
        name = f"sampler-{who}"
        if self.lost > self.cluster.recipe.cluster.restarts:
            raise ClusterError(
                f"{name} died, the {self.lost}th worker in a row without a result (cluster.restarts: "
                f"{self.cluster.recipe.cluster.restarts}): {cause(error)}{self.cluster.tail(name)}"
            ) from error
        self.cluster.say(f"{name} died and is replaced; what it was drawing is drawn anew ({cause(error)})")
        self.workers[who] = self._start(who)
        self._send([self.workers[who]])

    def _bring_up_to_date(self) -> None:
        owner = self.cluster.crew.owner
        now = (owner, 0 if owner is None else owner.changes)
        if owner is not None and now != self.held:
            self._send(self.workers)
        self.held = now

    def _send(self, workers: Sequence[Any]) -> None:
        owner = self.cluster.crew.owner
        if owner is None:  # nothing was trained yet: all have loaded the same
            return
        taken: list[Any] = []

        def take(version: int, named: Any, expected: str, last: bool) -> None:
            taken.extend(worker.take.remote(version, named, expected, last) for worker in workers)

        owner.publish(take)
        try:
            ray.get(taken)
        except LOST:
            pass  # whoever it was is noticed, and replaced, by the work that it is given next
        except RayTaskError as error:
            raise TrainingError(f"a sampler: {cause(error)}") from error


def _results(calls: Sequence[Any]) -> list[Any]:
    """What the calls gave, in order. Raises what the first to fail raised: the others would wait for it until their own time is up."""
    found, left = {}, list(calls)
    while left:
        done = _ready(left)
        found |= dict(zip(done, ray.get(done), strict=True))
        left = [one for one in left if one not in found]
    return [found[one] for one in calls]


def _ready(calls: Sequence[Any]) -> list[Any]:
    """Wait for one of them; it, and all that are ready by then. Asked one by one, n calls would cost n^2."""
    done, left = ray.wait(list(calls), num_returns=1)
    return done + (ray.wait(left, num_returns=len(left), timeout=0)[0] if left else [])


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

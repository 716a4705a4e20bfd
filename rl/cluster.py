"""Ray: starting or joining a cluster, placing the workers of a run on it, and replacing those that are lost.

The rest of the program sees a `Crew` (the ranks of a `LearnerGroup`) and a `Sampler` (a pool of workers). Plain actors in one placement
group: Ray Train would own the loop, and the pools of Ray's utilities restart nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import ray  # type: ignore[import-not-found]

from rewards.contract.graders import Graders
from rl.config import Recipe
from rl.config_schema import ClusterConfig
from rl.crew import RayCrew
from rl.graders import RayWorkers
from rl.learners import ClusterError, LearnerGroup, LearnersLostError
from rl.placement import check_room, connect, place
from rl.sampler_pool import Pinned, RaySamplers, Watch
from rl.setup import Setup
from rl.site import Site
from rl.wire import teach

LOGS = "logs"


class Cluster:
    """The workers of one run."""

    def __init__(self, recipe: Recipe, folder: Path, say: Callable[[str], None]) -> None:
        teach()
        self.recipe, self.site = recipe, Site(recipe, folder / LOGS, say, place(recipe))
        self.lost = 0  # times in a row that the learners were started anew
        self.restarted = 0  # times in all
        try:
            self.crew = RayCrew(self.site)
            self.samplers = RaySamplers(self.site, self.crew)
        except ClusterError:
            self.site.clear()
            raise
        self.graders: RayWorkers | None = None

    def learner(self, policy: Any, section: str, total_steps: int, micro_batch: int) -> LearnerGroup:
        return LearnerGroup(policy, self.crew, section=section, total_steps=total_steps, micro_batch=micro_batch)

    def take_on(self, setup: Setup) -> Setup:
        """The setup with these workers in it."""
        mark = setup.mark
        if self.recipe.cluster.reward_workers:
            entries = [entry.model_dump() for entry in setup.recipe.rewards]
            self.graders = workers = RayWorkers(self.site, [*entries, *setup.extra_rewards])
            mark = Graders(lambda: workers, timeout=self.recipe.cluster.reward_timeout, say=self.site.say)
        return replace(setup, sampler=self.samplers if self.samplers.workers else None, mark=mark)

    def pinned(self, leave: Event) -> Pinned:
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

    def close(self) -> None:
        """End every worker."""
        graders = self.graders.actors if self.graders else []
        for worker in [*self.crew.workers, *self.samplers.workers, *graders]:
            ray.kill(worker)
        self.site.clear()


@contextmanager
def joined(recipe: Recipe) -> Iterator[None]:
    """The recipe's cluster, started or joined for the time of the block, with room for all workers. Raises ClusterError; nothing else was
    done by then."""
    own = not ray.is_initialized()
    try:
        if own:
            connect(recipe)
        check_room(recipe)
        yield
    finally:
        if own:
            ray.shutdown()


def _roles(wanted: ClusterConfig) -> str:
    """``2 learners under ZeRO 1, 1 sampler``: what is started, for a person."""
    roles = [(wanted.learners, "learner", f" under ZeRO {wanted.zero_stage}"), (wanted.samplers, "sampler", "")]
    roles += [(wanted.reward_workers, "reward worker", "")]
    return ", ".join(f"{count} {role}{'s' if count > 1 else ''}{how}" for count, role, how in roles if count)


@contextmanager
def cluster_of(recipe: Recipe, folder: Path, say: Callable[[str], None]) -> Iterator[Cluster]:
    """The workers of a recipe with ``cluster.backend: ray``, for the time of the block; none is left afterwards."""
    wanted = recipe.cluster
    with joined(recipe):
        where = "here" if wanted.address is None else f"at {wanted.address}"
        say(f"Starting workers on Ray {where}: {_roles(wanted)}; each prints to {folder / LOGS}")
        cluster = Cluster(recipe, folder, say)
        try:
            yield cluster
        finally:
            cluster.close()

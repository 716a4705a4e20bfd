"""A learner on several ranks, with the verbs of `rl.learner.Learner`: views are dealt out by whole rows, their scores put together again.

The maths between the two verbs sees the scores of the whole batch, as on one rank. So the number of ranks can change no loss, no
denominator and no coupling of rollouts, and a gradient only by the rounding of sums.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from threading import Event
from typing import Any, Protocol

import torch
from torch import Tensor

from rl.backends import TrainingError
from rl.learner import Learner, Work, micro_batches
from rl.masks import MaskPlan
from rollouts.law import Law
from rollouts.strategy import Sampler
from rollouts.trajectory import RolloutBatch


class ClusterError(RuntimeError):
    """The cluster cannot do what the recipe asks; the message says what to change."""


class LearnersLostError(ClusterError):
    """A rank is gone, and the others with it: the run goes on from its last checkpoint."""


PIECE = 256 * 2**20  # bytes of weights that travel at a time


class Crew(Protocol):
    """The ranks, wherever they run. Every call is made on all of them at once: they wait for each other inside.

    owner: the group whose optimizer the ranks hold now.
    """

    owner: Any

    def __len__(self) -> int: ...

    def share(self, value: Any) -> Any:
        """A value that all ranks will be given: sent once, whatever number of calls it is passed to."""
        ...

    def call(self, verb: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """``verb(*arguments[i])`` on rank i; what each returns. Raises what a rank raised."""
        ...

    def keep(self, verb: str, *arguments: Any) -> tuple[Any, Any]:
        """A verb that gives a pair, on every rank; of the first rank's pair what `share` would give for the one, and the other itself.
        The one stays where it is: it does not pass through this process."""
        ...


class Workers(Protocol):
    """The workers of a run (`rl.cluster.Cluster`), as far as a session knows them."""

    def learner(self, policy: Any, section: str, total_steps: int, micro_batch: int) -> "LearnerGroup": ...

    def pinned(self, leave: Event) -> Sampler:
        """Whoever draws with the weights of this moment, whatever becomes of those; once ``leave`` is set it raises DroppedError."""
        ...

    def restart_learners(self, error: LearnersLostError) -> None:
        """All ranks anew, without anything they had learned. Raises ClusterError when that was done too often in a row."""
        ...

    def well(self) -> None:
        """An update came through: whatever was lost before is made good."""

    def stats(self) -> dict[str, float]:
        """Of the workers since it was last asked, for timing.jsonl; replacements are counted since the start."""
        ...


@dataclass(frozen=True, eq=False)
class Share:
    """What one rank does of a plan. views: which; rows: of the batch; plan: the views, their rows counted in ``rows``. idle: forwards
    to make afterwards, so that all ranks make as many."""

    views: slice
    rows: Tensor
    plan: MaskPlan
    idle: int


def shares(plan: MaskPlan, count: int, micro_batch: int) -> list[Share]:
    """A plan dealt out to ``count`` ranks: adjacent views, whole rows, numbers as even as that allows. A rank may have none."""
    sizes = plan.row.unique_consecutive(return_counts=True)[1].tolist() if len(plan) else []
    cuts, done, filled = [0], 0, 0
    for size in sizes:  # a row goes to the rank that holds the middle of its views
        while len(cuts) <= min(count - 1, int((done + size / 2) * count / max(1, len(plan)))):
            cuts.append(filled)
        done += size
        filled = done
    cuts += [len(plan)] * (count + 1 - len(cuts))
    found = []
    for low, high in pairwise(cuts):
        part = plan.views(slice(low, high))
        rows, place = part.row.unique(return_inverse=True)
        kept = rows if len(rows) else torch.zeros(1, dtype=torch.int64)  # a row to be idle on
        found.append(Share(slice(low, high), kept, replace(part, row=place), len(micro_batches(place, micro_batch))))
    most = max(share.idle for share in found)
    return [replace(share, idle=most - share.idle) for share in found]


def in_pieces(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Names in order, together of at most ``most`` bytes a piece; a larger one is alone."""
    found: list[list[str]] = []
    held = most + 1
    for name, size in sizes.items():
        if held + size > most:
            found.append([])
            held = 0
        found[-1].append(name)
        held += size
    return found


class LearnerGroup:
    """Ranks that act as one learner. policy: the driver's own, which needs no weights: it has some within `weights`."""

    def __init__(self, policy: Any, crew: Crew, *, section: str, total_steps: int, micro_batch: int) -> None:
        """section: of the recipe whose optimizer this is, "optim" or "warm_start"."""
        self.policy, self.crew, self.micro_batch = policy, crew, micro_batch
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.names = [name for name, p in policy.named_parameters() if p.requires_grad]
        self.work = Work()
        self.changes = 0  # of the weights, so far
        self._which, self._shared = "policy", {}
        self._opening, self._opened = (section, total_steps, micro_batch), False

    # -- the two verbs --------------------------------------------------------------------------------------------

    def score(self, batch: RolloutBatch, plan: MaskPlan, law: Law, anchors: Any = None) -> Tensor:
        """As `Learner.score`; on the driver's device."""
        dealt = shares(plan, len(self.crew), self.micro_batch)
        where = self._send(batch)
        calls = [(where, one.rows, one.plan, law, self._which, anchors is not None, one.idle) for one in dealt]
        return self._gathered("score", calls)

    def anchors(self, batch: RolloutBatch, plan: MaskPlan) -> Any:
        """The ranks keep theirs; what is returned says that they have some."""
        where = self._send(batch)
        calls = [(where, one.rows, one.plan, one.idle) for one in shares(plan, len(self.crew), self.micro_batch)]
        self._gathered("anchors", calls)
        return "kept by the ranks"

    def backward(self, batch: RolloutBatch, plan: MaskPlan, cotangent: Any, law: Law, anchors: Any = None) -> Tensor:
        """As `Learner.backward`; a cotangent that is a function has a method ``share``, as `rl.step.LocalSlope`."""
        where, calls = self._send(batch), []
        for one in shares(plan, len(self.crew), self.micro_batch):
            slope = (
                cotangent[one.views]
                if isinstance(cotangent, Tensor)
                else cotangent.share(one.views, one.rows, one.plan)
            )
            calls.append((where, one.rows, one.plan, slope, law, anchors is not None, one.idle))
        return self._gathered("backward", calls)

    def step(self) -> dict[str, float]:
        self.changes += 1
        return self._everywhere("step")[0]

    # -- the reference --------------------------------------------------------------------------------------------

    def freeze_reference(self, kind: str) -> None:
        self._everywhere("freeze_reference", kind)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within the block `score` is of the reference."""
        self._which = "reference"
        try:
            yield
        finally:
            self._which = "policy"

    def mix_reference(self, share: float) -> None:
        self._everywhere("mix_reference", share)

    # -- weights and checkpoints ----------------------------------------------------------------------------------

    def publish(self) -> list[tuple[Any, str]]:
        """The trainable weights as they are now, for samplers to take at any later time: bounded pieces of (what `Crew.share` would
        give, their fingerprint)."""
        self._own()
        return [self.crew.keep("publish", names) for names in self._pieces()]

    def lay(self, version: int, keep: int) -> list[list[str]]:
        """The same stay with the first rank, under a number, and those below ``keep`` go; returns the names of each piece."""
        pieces = self._pieces()
        for names in pieces:
            self._everywhere("lay", version, names, keep)
        return pieces

    def _pieces(self) -> list[list[str]]:
        return in_pieces({name: p.numel() * 4 for name, p in zip(self.names, self.parameters, strict=True)}, PIECE)

    @contextmanager
    def weights(self, named: dict[str, Tensor] | None = None) -> Iterator[None]:
        """Within the block the driver's copy has these trainable weights (of a checkpoint); by default those of the ranks."""
        tensors: dict[str, Tensor] = self._everywhere("trained")[0] if named is None else named
        own = [p.data for p in self.parameters]
        try:
            for name, parameter in zip(self.names, self.parameters, strict=True):
                parameter.data = tensors[name].to(parameter.device, parameter.dtype)
            yield
        finally:
            for parameter, data in zip(self.parameters, own, strict=True):
                parameter.data = data

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """As `Learner.state`: the same whatever the number of ranks and the stage."""
        tensors, rest = self._everywhere("state")[0]
        return tensors, {**rest, "forward": self.work.forward, "backward": self.work.backward}

    def load_state(self, tensors: dict[str, dict[str, Tensor]], rest: dict[str, Any]) -> None:
        self.changes += 1
        self._everywhere("load_state", self.crew.share(tensors), rest)
        self.work = Work(rest["forward"], rest["backward"])

    # -- inside ---------------------------------------------------------------------------------------------------

    def _everywhere(self, verb: str, *arguments: Any) -> list[Any]:
        return self._call(verb, [arguments] * len(self.crew))

    def _call(self, verb: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        self._own()
        return self.crew.call(verb, calls)

    def _own(self) -> None:
        """The ranks' optimizer is this group's from its first verb on; the weights are those that the one before it left."""
        if self.crew.owner is not self:
            if self._opened:
                raise TrainingError("the ranks' optimizer was given to another learner, and this one's is gone")
            self.crew.call("open", [self._opening] * len(self.crew))
            self.crew.owner, self._opened = self, True

    def _send(self, batch: RolloutBatch) -> Any:
        """The batch of the verbs that follow; the last one is remembered, since an update asks many times of one."""
        if self._shared.get("batch") is not batch:
            self._shared = {"batch": batch, "where": self.crew.share(batch)}
        return self._shared["where"]

    def _gathered(self, verb: str, calls: Sequence[tuple[Any, ...]]) -> Tensor:
        """Values of all ranks in the order of the views; what was computed is counted here."""
        values = []
        for value, forward, backward, rows_run in self._call(verb, calls):
            values.append(value)
            self.work.forward += forward
            self.work.backward += backward
            for kind, count in rows_run.items():
                self.policy.rows_run[kind] += count
        return torch.cat(values).to(self.policy.device)


def new_learner(
    setup: Any, workers: Workers | None, section: str, total_steps: int, micro_batch: int
) -> Learner | LearnerGroup:
    """A learner of the setup's policy with the optimizer of the recipe's section ("optim", "warm_start"), here or on the workers."""
    if workers is not None:
        return workers.learner(setup.policy, section, total_steps, micro_batch)
    return Learner(setup.policy, getattr(setup.recipe, section), total_steps=total_steps, micro_batch=micro_batch)

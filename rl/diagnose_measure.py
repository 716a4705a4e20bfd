"""Measuring estimators on rollouts at hand: gradients under many mask plans, row values, log-ratios after a step, seconds and memory.

Everything goes through the learner's two verbs and ``rl.step.differentiate``, as in training. Nothing is left behind: weights moved for
the step are put back bit for bit, gradients are cleared, and no random stream of a run is advanced, since none has a state.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rl import masks, own_plan
from rl.diagnose_candidates import Candidate
from rl.diagnose_stats import Products, products, random_order, reduce_plans
from rl.learner import Learner
from rl.masks import MaskPlan, PlanKey
from rl.method import Method
from rl.scored import ScoredBatch
from rl.sketch import Sketch
from rl.step import LocalSlope, differentiate
from rollouts.law import RAW

PROBES = 8  # plans compared to find out whether an estimator draws anything at all
ENUMERABLE = 8  # tokens of a row whose every mask is scored: 2^8 - 1 views
NEVER_MORE_VIEWS = 100_000  # for that, over all rows
Tick = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Target:
    """The exact laws of the rollouts. gradients f32 ``[P, D]`` of the law held against, and tokens ``[P, D]`` of the tokens given their
    order; values f64 ``[B]`` under both; step: the whole gradient, per parameter; record_gap: largest difference to what the sampler
    wrote down."""

    gradients: np.ndarray
    tokens: np.ndarray
    values: np.ndarray
    token_values: np.ndarray
    step: list[Tensor]
    record_gap: float


@dataclass(frozen=True, eq=False)
class Measured:
    """What one candidate gave. plans: n; views: cost of a plan per rollout, in forwards and backwards of a row; values f64 ``[n, B]``;
    seconds: of a plan of all rollouts; peak: bytes of tensors that a plan of one prompt held at most."""

    candidate: Candidate
    plans: int
    views: float
    random: bool
    products: Products
    token_products: Products
    values: np.ndarray
    seconds: float
    peak: int


class Bench:
    """A learner, the rollouts of each prompt that has a signal, and the streams of the plans."""

    def __init__(
        self, learner: Learner, groups: Sequence[ScoredBatch], *, group_size: int, seed: int, sketch: Sketch
    ) -> None:
        self.learner, self.groups, self.sketch = learner, list(groups), sketch
        self.group_size, self.seed = group_size, seed

    @property
    def rows(self) -> int:
        return sum(map(len, self.groups))

    def key(self, number: int, passes: int = 1) -> PlanKey:
        """The address of plan ``number``: steps of their own, inner passes in turn."""
        return PlanKey(self.seed, number, number % passes, passes)

    def target(self, law: Method, tokens: Method) -> Target:
        """One plan holds every step, so both are exact."""
        gradients, own, values, token_values, step, gap = [], [], [], [], None, 0.0
        for group in self.groups:
            value = self.backward(group, law, self.key(0))
            values.append(value)
            gradients.append(self.sketch().numpy())
            parts = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.learner.parameters]
            if step is None:
                step = parts
            else:
                torch._foreach_add_(step, parts)
            if tokens is law:
                own.append(gradients[-1])
            else:
                value = self.backward(group, tokens, self.key(0))
                own.append(self.sketch().numpy())
            token_values.append(value)
            batch = group.rollouts
            recorded = torch.where(batch.drawn_mask, batch.sampler_logprob, 0.0).double().sum(1).numpy()
            gap = max(gap, float(np.abs(recorded - value).max()))
        self.clear()
        assert step is not None
        return Target(
            np.stack(gradients), np.stack(own), np.concatenate(values), np.concatenate(token_values), step, gap
        )

    def cost(self, candidate: Candidate) -> tuple[float, bool]:
        """(views of one plan per rollout, a scoring pass beforehand counted as a third of one; whether plans differ at all)."""
        first = self._plans(candidate, 0)
        views = sum(map(len, first)) / self.rows
        later = (self._plans(candidate, number) for number in range(1, PROBES))
        random = any(not _same(a, b) for plans in later for a, b in zip(first, plans, strict=True))
        alone = candidate.method.on_policy or self._one_forward(candidate.method, first)
        return views * (1.0 if alone else 4.0 / 3.0), random

    def measure(self, candidate: Candidate, count: int, target: Target, tick: Tick = lambda _: None) -> Measured:
        """``count`` plans of every prompt's rollouts."""
        views, random = self.cost(candidate)
        direction = target.gradients.mean(0)
        peak = peak_bytes(lambda: self.backward(self.groups[0], candidate.method, self.key(0)), self.learner)
        means, noise, along, values = [], [], [], []
        began = time.perf_counter()
        for group in self.groups:
            gradients = np.empty((count, self.sketch.size), dtype=np.float32)
            own = np.empty((count, len(group)))
            for number in range(count):
                own[number] = self.backward(group, candidate.method, self.key(number, candidate.passes))
                gradients[number] = self.sketch().numpy()
                tick(candidate.name)
            mean, spread, part = reduce_plans(gradients.astype(np.float64), direction.astype(np.float64))
            means.append(mean)
            noise.append(spread)
            along.append(part)
            values.append(own)
        seconds = (time.perf_counter() - began) / count
        self.clear()
        arrays = np.stack(means), np.array(noise), np.array(along), count
        return Measured(
            candidate,
            count,
            views,
            random,
            products(*arrays, target.gradients.astype(np.float64)),
            products(*arrays, target.tokens.astype(np.float64)),
            np.concatenate(values, axis=1),
            seconds,
            peak,
        )

    def values(self, method: Method, key: PlanKey) -> np.ndarray:
        """Row values without gradient, f64 ``[B]``."""
        parts = []
        for group in self.groups:
            plan = plan_of(method, group, key)
            parts.append(_row_values(method, group, plan, self.learner.score(group.rollouts, plan, self._law(method))))
        return np.concatenate(parts)

    def backward(self, group: ScoredBatch, method: Method, key: PlanKey) -> np.ndarray:
        """Leaves the gradient of -(1/G) sum_b A_b l_b in the parameters; returns the row values l, f64 ``[rows]``."""
        self.clear()
        rollouts, law = group.rollouts, self._law(method)
        plan = plan_of(method, group, key)
        scale = torch.full((len(group),), 1.0 / self.group_size)
        if method.on_policy:  # the derivative does not depend on the values: any will do
            some = torch.zeros(len(plan), rollouts.length, device=self.learner.policy.device)
            slope = differentiate(method, group, plan, some, None, None, scale).cotangent
        elif self._one_forward(method, [plan]):
            slope = LocalSlope(method, group, plan, None, None, scale)
        else:
            values = self.learner.score(rollouts, plan, law)
            slope = differentiate(method, group, plan, values, None, None, scale).cotangent
        fresh = self.learner.backward(rollouts, plan, slope, law)
        return _row_values(method, group, plan, torch.where(torch.isnan(fresh), 0.0, fresh))

    @contextmanager
    def stepped(self, direction: Sequence[Tensor], lr: float, eps: float) -> Iterator[None]:
        """Within the block the weights are one AdamW step of size ``lr`` further down ``direction``: its first, -lr g / (|g| + eps)."""
        kept = [parameter.detach().clone() for parameter in self.learner.parameters]
        with torch.no_grad():
            for parameter, slope in zip(self.learner.parameters, direction, strict=True):
                parameter.add_(slope / (slope.abs() + eps), alpha=-lr)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.learner.parameters, kept, strict=True):
                    parameter.copy_(value)

    def clear(self) -> None:
        for parameter in self.learner.parameters:
            parameter.grad = None

    def random_orders(self) -> np.ndarray | None:
        """Log-likelihood and ELBO of each row under random order, f64 ``[B, 2]``, by enumeration of every mask; None where too many."""
        longest = max(int(group.rollouts.loss_mask.sum(1).max()) for group in self.groups)
        if longest > ENUMERABLE or self.rows * 2**longest > NEVER_MORE_VIEWS:
            return None
        found = []
        for group in self.groups:
            plan = masks.every_subset(group.rollouts)
            values = self.learner.score(group.rollouts, plan, RAW).double().cpu()
            for row in range(len(group)):
                places = group.rollouts.loss_mask[row]
                own = values[plan.row == row][:, places].numpy()
                found.append(random_order(np.concatenate([np.zeros((1, own.shape[1])), own])))
        return np.array(found)

    def _one_forward(self, method: Method, plans: Sequence[MaskPlan]) -> bool:
        views = max((int(plan.row.bincount().max()) for plan in plans if len(plan)), default=0)
        return method.one_forward(views, self.learner.micro_batch)

    def _law(self, method: Method) -> Any:
        spec = self.groups[0].rollouts.sampler_spec
        return method.estimator.scoring_law(spec, tuple(self.learner.policy.forbidden_ids))

    def _plans(self, candidate: Candidate, number: int) -> list[MaskPlan]:
        key = self.key(number, candidate.passes)
        return [plan_of(candidate.method, group, key) for group in self.groups]


def split_groups(batch: ScoredBatch, *, mask_truncated: bool) -> list[ScoredBatch]:
    """The rows that have a gradient, prompt by prompt."""
    if batch.advantage is None:
        raise ValueError("the batch has no advantages yet")
    counts = batch.advantage != 0
    if mask_truncated:
        counts &= ~batch.rollouts.truncated
    group = batch.rollouts.group_id
    return [batch.rows(((group == one) & counts).nonzero().squeeze(1)) for one in group[counts].unique().tolist()]


def plan_of(method: Method, group: ScoredBatch, key: PlanKey) -> MaskPlan:
    assert group.advantage is not None
    return own_plan.plan_of(method.estimator, group.rollouts, group.advantage, key)


def peak_bytes(run: Callable[[], Any], learner: Learner) -> int:
    """Most bytes of tensors that a call held beyond those there before: by the profiler's memory events, on a GPU by its allocator."""
    if learner.policy.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    with _silent_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = cast(Any, profiler.profiler).kineto_results.events()
    held = peak = 0
    for _, size in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        held += size
        peak = max(peak, held)
    return peak


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """The profiler's library announces itself on the process's own standard error, in the middle of our progress."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _row_values(method: Method, group: ScoredBatch, plan: MaskPlan, scores: Tensor) -> np.ndarray:
    """The estimate of each whole row, f64 ``[rows]``."""
    estimate = method.estimator.reduce(scores.double(), plan, group.rollouts, group.advantage)
    return (torch.where(estimate.mask, estimate.value, 0.0) * estimate.weight).sum(1).cpu().numpy()


def _same(left: MaskPlan, right: MaskPlan) -> bool:
    pairs = [(getattr(left, name), getattr(right, name)) for name in ("row", "masked", "scored", "weight")]
    return all(a.shape == b.shape and bool((a == b).all()) for a, b in pairs)

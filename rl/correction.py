"""Weights for rollouts that another law drew than the policy's: older weights, above all (``rollout.async_depth``)."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rl.likelihood import Trajectory
from rl.masks import MaskPlan, PlanKey
from rl.metrics import Metrics
from rollouts.spec import SamplerSpec
from rollouts.trajectory import RolloutBatch


class Correction(BaseModel):
    """Importance weights, cut at ``most``; mu is the law that the sampler recorded.

        per trajectory:  w = min(most, pi(trajectory) / mu(trajectory))
        per unit:        w = min(most, pi(unit | its state) / mu(unit | its state)),  a unit: the estimator's token or step

    Per trajectory and without the cut, E_mu[w f] = E_pi[f] for every function f of a trajectory (but for those that mu could not draw), so
    the loss of a row times w is that of the policy itself; it costs a scoring of every step. Per unit is free where the estimator scores
    the sampler's own steps, and leaves out what the other units of the row say: biased even without the cut. The cut bounds the variance
    and biases both (truncated importance sampling: Ionides 2008; per token as in decoupled PPO, arXiv 2505.24298).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    per: Literal["trajectory", "unit"] = Field(
        default="trajectory",
        description="trajectory: one weight per rollout; unit: one per token or step, for no forward more",
    )
    most: float = Field(default=2.0, ge=1.0, description="larger weights are cut to it")

    def weights(self, log_ratio: Tensor) -> Tensor:
        """Of log pi - log mu, in its shape."""
        return log_ratio.exp().clamp(max=self.most)

    def log(self, metrics: Metrics, log_ratio: Tensor) -> None:
        """log_ratio ``[n]``. effective_share: of so many independent rollouts (or units), as many weigh in (Kish)."""
        weight = self.weights(log_ratio)
        metrics.mean("correction/weight", weight)
        metrics.mean("correction/cut", log_ratio.exp() > self.most)
        if len(weight):
            metrics.largest("correction/log_ratio_max", float(log_ratio.abs().max()))
            kept = weight.sum() ** 2 / (len(weight) * (weight**2).sum()).clamp(min=1e-30)
            metrics.set("correction/effective_share", float(kept))


def law_of(spec: SamplerSpec) -> Trajectory:
    """The estimator whose value is the log-probability of a whole trajectory as the sampler drew it: tokens, and their order where the
    policy chooses it. Exact for the selections `unrecorded` has nothing against."""
    return Trajectory(unit="sequence", length_normalized=False, law="sampler", order=spec.policy_orders)


def unrecorded(spec: SamplerSpec) -> str | None:
    """Why the law of a sampler's trajectories is not recorded; None where it is."""
    if spec.temperature == 0.0:
        return "at temperature 0 a trajectory is certain, and its probability under other weights is 0 or 1"
    if spec.top_p < 1.0:
        return "under rollout.top_p the policy's nucleus is another one now, and what was drawn may have no probability at all"
    if spec.policy_orders and spec.selection != "confidence":
        return f"under selection {spec.selection} the order is a certain function of the policy and has no density"
    return None


def log_ratios(score: Callable[[MaskPlan, Trajectory], Tensor], batch: RolloutBatch) -> Tensor:
    """log pi(trajectory) - log mu(trajectory), float32 ``[B]``. score: (plan, estimator) -> values ``[N, S]`` under the policy now."""
    estimator = law_of(batch.sampler_spec)
    plan = estimator.plan(batch, PlanKey(0, 0, 0, 1))  # every step of every row: nothing in it is random
    values = score(plan, estimator)
    now = estimator.reduce(values.double(), plan, batch).value.squeeze(1)
    then = torch.where(batch.drawn_mask, batch.sampler_logprob, 0.0).double().sum(1)
    if estimator.order:
        then = then + batch.select_logprob.double().sum(1)
    return (now - then.to(now.device)).float()


def recorded(plan: MaskPlan, batch: RolloutBatch, *, order: bool) -> Tensor:
    """What the sampler recorded of a plan's views, float32 ``[N, S]``: to be reduced as the scores of these views are. The plan's views
    are steps of the sampler. order: the choice of a step's positions counts with the first of its tokens."""
    values = torch.where(plan.scored, batch.sampler_logprob[plan.row], 0.0)
    if order:
        view = torch.arange(len(plan))
        values[view, plan.scored.int().argmax(1)] += batch.select_logprob[plan.row, plan.step]
    return values

"""Weights for rollouts that another law drew than the policy's: older weights, above all (``rollout.async_depth``)."""

from collections.abc import Callable

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rl.likelihood import Trajectory
from rl.masks import MaskPlan, PlanKey
from rollouts.spec import SamplerSpec
from rollouts.trajectory import RolloutBatch


class Correction(BaseModel):
    """Importance weights of whole trajectories, cut at ``most``:

        w = min(most, pi(trajectory) / mu(trajectory)),    mu: the law that the sampler recorded

    Without the cut, E_mu[w f] = E_pi[f] for every function f of a trajectory (but for those that mu could not draw), so the loss of a row
    times w is that of the policy itself. The cut bounds the variance and biases the result (truncated importance sampling: Ionides 2008).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    most: float = Field(default=2.0, ge=1.0, description="larger weights are cut to it")

    def weights(self, log_ratio: Tensor) -> Tensor:
        """``[B]`` of log pi - log mu ``[B]``."""
        return log_ratio.exp().clamp(max=self.most)


def law_of(spec: SamplerSpec) -> Trajectory:
    """The estimator whose value is the log-probability of a whole trajectory as the sampler drew it: tokens, and their order where the
    policy chooses it. Exact for the selections `unrecorded` has nothing against."""
    return Trajectory(unit="sequence", length_normalized=False, law="sampler", order=spec.policy_orders)


def unrecorded(spec: SamplerSpec) -> str | None:
    """Why the law of a sampler's trajectories is not recorded; None where it is."""
    if spec.temperature == 0.0:
        return "at temperature 0 a trajectory is certain, and its probability under other weights is 0 or 1"
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

"""Estimators beyond mean-field, trajectory and ELBO, and ``Estimator``, the union of all that a recipe can name."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rl import masks
from rl.likelihood import BaseEstimator, Elbo, Estimate, MeanField, Trajectory
from rl.masks import MaskPlan, PlanKey
from rl.noise import Noise
from rl.x0_action import X0Action
from rollouts.spec import SamplerSpec
from rollouts.trajectory import RolloutBatch

MOST_MASKED = 0.999  # the cap on the mask ratio in MaskGRPO's code


class Coupled(BaseEstimator):
    """DiffuCoder's token estimate (arXiv 2506.20639): the fully masked view averaged with a weighted complementary pair,

        l_i = 1/2 [log p(x_i | all masked) + w_i log p(x_i | the half of the pair that masks i)],  w = 1/t on M, 1/(1-t) beside it.

    A token's scores weigh 3/2 in expectation, not 1, and up to (1 + max(1/low, 1/(1-high))) / 2: the exponent of its ratio, which is
    therefore clipped unevenly. A surrogate.
    """

    kind: Literal["coupled"] = "coupled"
    low: float = Field(default=0.2, gt=0.0, lt=1.0, description="lowest mask ratio t of the pair")
    high: float = Field(default=0.8, gt=0.0, lt=1.0, description="highest mask ratio t of the pair")
    unit: Literal["token", "sequence"] = "token"
    length_normalized: bool = Field(default=True, description="sequence units: divide by the number of tokens")
    law: Literal["raw", "sampler"] = "raw"

    @model_validator(mode="after")
    def _ordered(self) -> "Coupled":
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}; swap them")
        return self

    def plan(self, batch: RolloutBatch, key: PlanKey) -> MaskPlan:
        return masks.coupled(batch, key, self.low, self.high)

    @property
    def scored_once(self) -> bool:
        return False

    def views_per_rollout(self, spec: SamplerSpec) -> int:
        return 3

    def scored_per_view(self, spec: SamplerSpec) -> float:
        return 2 * spec.canvas / 3

    def reduce(self, values: Tensor, plan: MaskPlan, batch: RolloutBatch, advantage: Tensor | None = None) -> Estimate:
        if self.unit == "sequence":
            return super().reduce(values, plan, batch)
        scored, weight = plan.scored.to(values.device), plan.weight.to(values.device)
        row, shape = plan.row.to(values.device), (len(batch), batch.length)
        value = values.new_zeros(shape).index_add(0, row, values * weight)
        seen = values.new_zeros(shape).index_add(0, row, scored.to(values)) > 0
        return Estimate(value, seen.to(value))


class RandomTokens(BaseEstimator):
    """log p(x_i | M masked) of the tokens of one random mask M (UniGRPO in MMaDA, arXiv 2505.15809); no 1/t in the value.

    The share r of masked tokens follows the inner passes i = 0..n-1. ``even``: r = low + (1 - low)(i + 1)/n, capped at 0.999 (MaskGRPO's
    code, its truncation to (low, 1)); ``random_start``: r = s + (1 - s) i / (n - 1), s ~ U(low, 1) (UniGRPO, as in IGPO's code). Biased for
    any likelihood of the row. A scored token's unit carries 1/r, so losses divide by the row's tokens, not by how many were masked; the
    public code divides by the latter, which is the same in expectation.
    """

    kind: Literal["random_tokens"] = "random_tokens"
    low: float = Field(default=0.6, gt=0.0, lt=1.0, description="lowest share of masked tokens")
    schedule: Literal["even", "random_start"] = Field(
        default="even", description="share over the inner passes: fixed steps up to 1; from a random start up to 1"
    )
    positions: Literal["uniform", "late"] = Field(
        default="uniform", description="late: later tokens are masked more often (MaskGRPO's AR-like masks)"
    )
    unit: Literal["token", "sequence"] = "token"
    length_normalized: bool = Field(default=True, description="sequence units: divide by the number of tokens")
    law: Literal["raw", "sampler"] = "raw"

    def plan(self, batch: RolloutBatch, key: PlanKey) -> MaskPlan:
        return masks.random_tokens(batch, key, lambda rollout: self.share(key, rollout), self.positions == "late")

    def share(self, key: PlanKey, rollout: int) -> float:
        """The share of tokens to mask in the key's inner pass."""
        done = key.inner_pass
        if self.schedule == "even":
            share = self.low + (1.0 - self.low) * (done + 1) / key.passes
        else:
            start = self.low + (1.0 - self.low) * float(key.of_step().stream(rollout, 1).random())
            share = start + (1.0 - start) * done / max(key.passes - 1, 1)
        return min(share, MOST_MASKED)

    def views_per_rollout(self, spec: SamplerSpec) -> int:
        return 1


class Sandwich(BaseEstimator, Noise):
    """SPG's estimate by the sign of the advantage (arXiv 2510.09541): a lower bound where A > 0, an upper bound mixed in elsewhere.

        A > 0:  ELBO           A <= 0:  mix * EUBO + (1 - mix) * ELBO
        EUBO = sum_i 1/beta log sum_views weight p(x_i | view)^beta      over the views that mask token i

    With exact expectations EUBO >= ELBO for every beta > 0, and EUBO >= log of the random-order likelihood for beta >= L (Hoelder); below L
    that need not hold. With few draws the mean inside the logarithm makes EUBO too low on average. Tokens that no view masks are left out
    of the EUBO and the sum is scaled up by L / (tokens seen); with pair: complement none is missed. Not linear in the scores.
    """

    linear: ClassVar[bool] = False

    kind: Literal["sandwich"] = "sandwich"
    beta: float = Field(default=1.5, gt=0.0, description="power of the evidence upper bound")
    mix: float = Field(
        default=0.5, ge=0.0, le=1.0, description="share of the EUBO where the advantage is not positive; 1: EUBO alone"
    )
    unit: Literal["sequence"] = "sequence"
    length_normalized: bool = Field(default=True, description="divide by the number of tokens")
    law: Literal["raw", "sampler"] = "raw"

    def plan(self, batch: RolloutBatch, key: PlanKey) -> MaskPlan:
        return masks.elbo(batch, key, self)

    def views_per_rollout(self, spec: SamplerSpec) -> int:
        return self.views

    def scored_per_view(self, spec: SamplerSpec) -> float:
        return (spec.canvas + 1) / 2

    def reduce(self, values: Tensor, plan: MaskPlan, batch: RolloutBatch, advantage: Tensor | None = None) -> Estimate:
        """Raises ``ValueError`` without advantages."""
        if advantage is None:
            raise ValueError("the sandwich is chosen by the sign of the advantage, and the batch has no advantages")
        lower = super().reduce(values, plan, batch)
        length = batch.loss_mask.sum(1, keepdim=True).to(values)
        upper, seen = _log_mean_power(values, plan, len(batch), self.beta)
        scale = 1.0 if self.length_normalized else length
        upper = scale * upper.sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1)
        share = self.mix * (advantage.to(values.device).reshape(-1, 1) <= 0).to(values)
        return Estimate((1.0 - share) * lower.value + share * upper, lower.weight)


def _log_mean_power(values: Tensor, plan: MaskPlan, rows: int, beta: float) -> tuple[Tensor, Tensor]:
    """(1/beta log sum_views weight exp(beta value), whether any view scores it) of each token; float and bool ``[B, S]``."""
    row, scored = plan.row.to(values.device), plan.scored.to(values.device)
    shape = (rows, values.shape[1])
    index = row.unsqueeze(1).expand_as(values)
    power = beta * values + torch.where(scored, plan.weight.to(values), 1.0).log()
    power = torch.where(scored, power, float("-inf"))
    peak = values.new_full(shape, float("-inf")).scatter_reduce(0, index, power.detach(), "amax")
    seen = peak > float("-inf")
    peak = torch.where(seen, peak, 0.0)
    share = torch.where(scored, power - peak[row], float("-inf")).exp()
    total = values.new_zeros(shape).index_add(0, row, share)
    return torch.where(seen, (torch.where(seen, total, 1.0).log() + peak) / beta, 0.0), seen


Estimator = Annotated[
    MeanField | Trajectory | Elbo | Coupled | RandomTokens | Sandwich | X0Action,
    Field(discriminator="kind"),
]

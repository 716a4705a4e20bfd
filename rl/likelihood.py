"""Estimators: a mask plan plus a reduction to one likelihood per unit; and ``score_views``, the only place that runs the policy.

Each estimator is a frozen value a recipe writes down. ``plan`` decides what is scored (slot 3 of a method), ``reduce`` how scores become
estimates (slot 4). Neither knows the objective, the model or the loop.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rl import masks
from rl.masks import MaskPlan, PlanKey
from rollouts import law as laws
from rollouts.denoise import row_chunks
from rollouts.forward import distinct_forward
from rollouts.law import Law
from rollouts.select import log_mass_below, threshold
from rollouts.spec import SamplerSpec
from rollouts.trajectory import RolloutBatch

Unit = Literal["token", "step", "sequence"]


@dataclass(frozen=True, eq=False)
class Estimate:
    """Likelihood estimates. value f32 [R,U]; weight f32 [R,U]: 0 where there is no unit, else 1 / inclusion probability."""

    value: Tensor
    weight: Tensor

    @property
    def mask(self) -> Tensor:
        return self.weight > 0


class _Estimator(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    unit: Unit
    length_normalized: bool
    law: Literal["raw", "sampler"]

    def scoring_law(self, spec: SamplerSpec, forbidden: tuple[int, ...]) -> Law:
        """``raw``: softmax at temperature 1 over all ids. ``sampler``: what the tokens were drawn from."""
        if self.law == "raw":
            return laws.RAW
        return Law(spec.temperature, spec.top_p, tuple(sorted({*forbidden, *spec.forbid})))

    def tokens(self, batch: RolloutBatch) -> Tensor:
        """Positions that count as this estimator's tokens, bool ``[B, S]``, by the batch alone."""
        return batch.loss_mask

    def unit_count(self, batch: RolloutBatch) -> Tensor:
        """Units of each row by the batch's own masks, int ``[B]``: what reductions divide by."""
        tokens = self.tokens(batch)
        return tokens.sum(1) if self.unit == "token" else tokens.any(1).long()

    def reduce(self, values: Tensor, plan: MaskPlan, batch: RolloutBatch) -> Estimate:
        """Scores ``[N,S]`` of a plan's views -> estimates. Units: token ``[B,S]``, step ``[B,T]``, sequence ``[B,1]``.

        A token or step is scored in one view at most; a sequence is the weighted sum over all its views.
        """
        device = values.device
        row, weight = plan.row.to(device), plan.weight.to(device)
        count = len(batch)
        if self.unit == "token":
            scored = plan.scored.to(device)
            shape = (count, batch.length)
            value = values.new_zeros(shape).index_add(0, row, values * scored)
            return Estimate(value, values.new_zeros(shape).index_add(0, row, weight * scored))
        if self.unit == "step":
            at = row * batch.steps + plan.step.to(device)
            value = values.new_zeros(count * batch.steps).index_add(0, at, (values * (weight > 0)).sum(1))
            inclusion = values.new_zeros(count * batch.steps).index_add(0, at, weight.amax(1))
            return Estimate(value.view(count, -1), inclusion.view(count, -1))
        value = values.new_zeros(count).index_add(0, row, (values * weight).sum(1))
        if self.length_normalized:
            value = value / self.tokens(batch).sum(1).clamp(min=1).to(value)
        seen = values.new_zeros(count).index_add(0, row, torch.ones_like(row, dtype=values.dtype)) > 0
        return Estimate(value.unsqueeze(1), seen.to(value).unsqueeze(1))


class MeanField(_Estimator):
    """d1's one-forward estimate: every completion token from the fully masked canvas. Biased, order-blind, cheap."""

    kind: Literal["mean_field"] = "mean_field"
    prompt_mask_prob: float = Field(
        default=0.15, ge=0.0, lt=1.0, description="probability of masking each prompt token"
    )
    unit: Literal["token", "sequence"] = "token"
    length_normalized: bool = Field(default=True, description="sequence units: divide by the number of tokens")
    law: Literal["raw", "sampler"] = "raw"

    def plan(self, batch: RolloutBatch, key: PlanKey) -> MaskPlan:
        return masks.mean_field(batch, key, self.prompt_mask_prob)

    def views_per_rollout(self, spec: SamplerSpec) -> int:
        return 1


class Trajectory(_Estimator):
    """Each token in the state that revealed it: with every step the exact law of the tokens given the order; with ``order`` the joint
    law of tokens and order under LLaDA's published selection."""

    kind: Literal["trajectory"] = "trajectory"
    segments: int | None = Field(
        default=None, ge=1, description="merge the steps into N segments (d2); null scores every step"
    )
    sample_steps: int | None = Field(
        default=None, ge=1, description="score K stratified steps, weighted by 1/inclusion (AGRPO)"
    )
    order: bool = Field(default=False, description="add the log-probability of the choice of positions")
    unit: Unit = "token"
    length_normalized: bool = Field(default=True, description="sequence units: divide by the number of tokens")
    law: Literal["raw", "sampler"] = "sampler"

    def tokens(self, batch: RolloutBatch) -> Tensor:
        return batch.drawn_mask

    def unit_count(self, batch: RolloutBatch) -> Tensor:
        if self.unit != "step":
            return super().unit_count(batch)
        step = masks.scoring_step(batch, self.segments)
        seen = torch.zeros(len(batch), batch.steps + 1, dtype=torch.int64).scatter_(1, step + 1, 1)
        return seen[:, 1:].sum(1)

    def plan(self, batch: RolloutBatch, key: PlanKey) -> MaskPlan:
        return masks.trajectory(batch, key, segments=self.segments, sample_steps=self.sample_steps, order=self.order)

    def views_per_rollout(self, spec: SamplerSpec) -> int:
        return min(n for n in (spec.steps, self.segments, self.sample_steps) if n is not None)


class Elbo(_Estimator):
    """Monte-Carlo evidence lower bound with fixed-count masks; the draws are shared by new, old and reference."""

    kind: Literal["elbo"] = "elbo"
    draws: int = Field(default=2, ge=1, description="masks per rollout")
    unit: Literal["sequence"] = "sequence"
    length_normalized: bool = Field(default=True, description="divide by the number of tokens")
    law: Literal["raw", "sampler"] = "raw"

    def plan(self, batch: RolloutBatch, key: PlanKey) -> MaskPlan:
        return masks.elbo(batch, key, self.draws)

    def views_per_rollout(self, spec: SamplerSpec) -> int:
        return self.draws


Estimator = Annotated[MeanField | Trajectory | Elbo, Field(discriminator="kind")]


def score_views(policy, plan: MaskPlan, tokens: Tensor, attention: Tensor, law: Law) -> Tensor:
    """Log-probabilities of a plan's scored positions, float32 ``[N, S]``, 0 elsewhere. Differentiable where autograd is on.

    tokens int64, attention bool ``[N, S]``: the rows of the views (not of the batch). Logits exist for the scored positions only, a
    bounded number of rows at a time; under autograd each chunk is recomputed in the backward pass.
    """
    device = policy.device
    need = plan.rows_scored.to(device)
    inputs = torch.where(plan.masked, policy.mask_id, tokens).to(device)
    states = distinct_forward(policy, inputs, attention.to(device), need)
    target = tokens.to(device)[need]
    value, raw = _token_logprobs(policy, states, target, law)
    if plan.order is not None:
        scored = plan.scored.to(device)
        is_token = scored[need]
        confidence = torch.zeros(need.shape, device=device).index_put((scored,), raw.detach()[is_token])
        tau, last = threshold(confidence, scored)
        view, place = need.nonzero(as_tuple=True)
        # Same rows as above, tokens included: a head run on other rows may round otherwise, and a confidence that moves
        # across the threshold by one rounding would change the law by whole nats.
        value = torch.where(is_token, value, _order_mass(policy, states, tau[view], place > last[view], law))
    return torch.zeros(need.shape, device=device).index_put(need.nonzero(as_tuple=True), value)


def _token_logprobs(policy, states: Tensor, target: Tensor, law: Law) -> tuple[Tensor, Tensor]:
    """log q(token) with gradient and log p(token), both float32 ``[R]``."""

    def one(rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        logits = policy.logits(rows)
        logp = laws.log_p(logits)
        logq = logp if law.is_raw else laws.log_q(logits, law, drawn=ids)
        return logq.gather(1, ids[:, None]).squeeze(1), logp.gather(1, ids[:, None]).squeeze(1)

    sampled, raw = _chunked(policy, one, states, target)
    return sampled, raw


def _order_mass(policy, states: Tensor, tau: Tensor, loses_ties: Tensor, law: Law) -> Tensor:
    """Factors of the order for positions left masked, float32 ``[R]``."""

    def one(rows: Tensor, bar: Tensor, ties: Tensor) -> tuple[Tensor]:
        logits = policy.logits(rows)
        return (log_mass_below(laws.log_q(logits, law), laws.log_p(logits), bar, ties),)

    return _chunked(policy, one, states, tau, loses_ties)[0]


def _chunked(policy, function, states: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """Apply ``function`` to bounded chunks of rows; with several chunks under autograd, keep their logits out of memory."""
    chunks = row_chunks(len(states), policy.vocab_size) or [slice(0, 0)]
    parts = []
    for chunk in chunks:
        rows = (states[chunk], *(column[chunk] for column in columns))
        keep_out = len(chunks) > 1 and torch.is_grad_enabled()
        parts.append(checkpoint(function, *rows, use_reentrant=False) if keep_out else function(*rows))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))

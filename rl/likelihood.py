"""Estimators: a mask plan plus a reduction to one likelihood per unit; and ``score_views``, the only place that runs the policy.

Each estimator is a frozen value a recipe writes down. ``plan`` decides what is scored (slot 3 of a method), ``reduce`` how scores become
estimates (slot 4). Neither knows the objective, the model or the loop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rl import masks
from rl.masks import MaskPlan, PlanKey
from rl.noise import Noise
from rollouts import law as laws
from rollouts.denoise import group_chunks, row_chunks
from rollouts.forward import distinct_forward
from rollouts.law import Law
from rollouts.select import log_mass_below, threshold
from rollouts.spec import SamplerSpec
from rollouts.trajectory import RolloutBatch

Unit = Literal["token", "step", "draw", "sequence", "action"]

# Rows of logits whose gradient is formed at a time: on the CPU such arrays stay below what malloc would map afresh each time.
SLICE_ROWS = 32


@dataclass(frozen=True, eq=False)
class Estimate:
    """Likelihood estimates. value f32 [R,U]; weight f32 [R,U]: 0 where there is no unit, else 1 / inclusion probability.

    factor f32 [R,U] or None: what some objectives multiply their surrogate by.
    """

    value: Tensor
    weight: Tensor
    factor: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        return self.weight > 0


class BaseEstimator(BaseModel):
    """What all estimators share. ``linear``: ``reduce`` is linear in the scores, so that its derivative is known without them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    linear: ClassVar[bool] = True
    # What a class of the user's own has to bring; an estimator that chooses by advantages has plan_of in place of plan.
    written: ClassVar[tuple[str, ...]] = ("plan|plan_of", "views_per_rollout")

    kind: str
    unit: Unit
    length_normalized: bool
    law: Literal["raw", "sampler"]

    @property
    def redraws(self) -> bool:
        """Whether each inner pass has masks of its own; if not, one scoring under old and reference serves all passes."""
        return True

    def scoring_law(self, spec: SamplerSpec, forbidden: tuple[int, ...]) -> Law:
        """``raw``: softmax at temperature 1 over all ids. ``sampler``: what the tokens were drawn from."""
        if self.law == "raw":
            return laws.RAW
        return Law(spec.temperature, spec.top_p, tuple(sorted({*forbidden, *spec.forbid})))

    def tokens(self, batch: RolloutBatch) -> Tensor:
        """Positions that count as this estimator's tokens, bool ``[B, S]``, by the batch alone."""
        return batch.loss_mask

    @property
    def scored_once(self) -> bool:
        """Each unit's value hangs on a single view."""
        return self.unit != "sequence"

    def unit_count(self, batch: RolloutBatch) -> Tensor:
        """Units of each row by the batch's own masks, int ``[B]``: what reductions divide by."""
        tokens = self.tokens(batch)
        return tokens.sum(1) if self.unit == "token" else tokens.any(1).long()

    def scored_per_view(self, spec: SamplerSpec) -> float:
        """Rows of the head per view, on average, if no rollout ends early; here every token is scored once over all views."""
        return spec.canvas / self.views_per_rollout(spec)

    def views_per_rollout(self, spec: SamplerSpec) -> int:
        """Views of one rollout, at most."""
        raise NotImplementedError

    def plan_of(self, batch: RolloutBatch, advantage: Tensor, key: PlanKey) -> MaskPlan:
        """The plan of a batch with these advantages; they matter to estimators that choose by them."""
        return self.plan(batch, key)  # type: ignore[attr-defined]

    def on_units(self, advantage: Tensor, plan: MaskPlan, batch: RolloutBatch, shape: torch.Size) -> Tensor:
        """Advantages of rows ``[B]`` or of their steps ``[B,T]`` as those of units, ``[R,U]``."""
        if advantage.dim() == 1:
            return advantage.unsqueeze(1).expand(shape)
        if self.unit == "step":
            return advantage
        if self.unit == "token":
            step = batch.reveal_step.to(advantage.device)
            inside = (step >= 0) & (step < batch.steps)
            return torch.where(inside, advantage.gather(1, step.clamp(0, batch.steps - 1)), 0.0)
        raise ValueError(f"a unit {self.unit} belongs to no step of its own, and the advantages are those of steps")

    def reduce(self, values: Tensor, plan: MaskPlan, batch: RolloutBatch, advantage: Tensor | None = None) -> Estimate:
        """Scores ``[N,S]`` of a plan's views -> estimates. Units: token ``[B,S]``, step ``[B,T]``, sequence ``[B,1]``.

        A token or step is scored in one view at most; a sequence is the weighted sum over all its views. advantage f32 ``[B]``: for the
        estimators that are chosen by its sign.
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


class MeanField(BaseEstimator):
    """d1's one-forward estimate: every completion token from the fully masked canvas. Biased, order-blind, cheap."""

    kind: Literal["mean_field"] = "mean_field"
    prompt_mask_prob: float = Field(
        default=0.15, ge=0.0, lt=1.0, description="probability of masking each prompt token"
    )
    hints: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        description="share of a row's hints, those of highest entropy, trained on as if sampled (IGPO); null: hints are shown",
    )
    unit: Literal["token", "sequence"] = "token"
    length_normalized: bool = Field(default=True, description="sequence units: divide by the number of tokens")
    law: Literal["raw", "sampler"] = "raw"

    @property
    def redraws(self) -> bool:
        return self.prompt_mask_prob > 0.0

    def plan(self, batch: RolloutBatch, key: PlanKey) -> MaskPlan:
        return masks.mean_field(batch, key, self.prompt_mask_prob, self.hints)

    def tokens(self, batch: RolloutBatch) -> Tensor:
        return batch.loss_mask if self.hints is None else batch.loss_mask | masks.trained_hints(batch, self.hints)

    def views_per_rollout(self, spec: SamplerSpec) -> int:
        return 1


class Trajectory(BaseEstimator):
    """Each token in the state that revealed it: with every step the exact law of the tokens given the order; with ``order`` the joint
    law of tokens and order under LLaDA's published selection."""

    kind: Literal["trajectory"] = "trajectory"
    segments: int | None = Field(
        default=None, ge=1, description="merge the steps into N segments (d2); null scores every step"
    )
    shrink: int | None = Field(default=None, ge=1, description="merge every s consecutive steps (TraceRL)")
    sample_steps: int | None = Field(
        default=None, ge=1, description="score K of the steps, weighted by 1/inclusion (AGRPO)"
    )
    sample_by: Literal["uniform", "entropy"] = Field(
        default="uniform",
        description="sampled steps: one of each of K equal strata; more often where the sampler was unsure",
    )
    order: bool = Field(default=False, description="add the log-probability of the choice of positions")
    unit: Literal["token", "step", "draw", "sequence"] = "token"
    length_normalized: bool = Field(default=True, description="sequence units: divide by the number of tokens")
    law: Literal["raw", "sampler"] = "sampler"

    @property
    def redraws(self) -> bool:
        return self.sample_steps is not None

    def tokens(self, batch: RolloutBatch) -> Tensor:
        return batch.drawn_mask

    def unit_count(self, batch: RolloutBatch) -> Tensor:
        if self.unit != "step":
            return super().unit_count(batch)
        step = masks.scoring_step(batch, self.segments, self.shrink)
        seen = torch.zeros(len(batch), batch.steps + 1, dtype=torch.int64).scatter_(1, step + 1, 1)
        return seen[:, 1:].sum(1)

    def plan(self, batch: RolloutBatch, key: PlanKey) -> MaskPlan:
        return masks.trajectory(
            batch,
            key,
            segments=self.segments,
            shrink=self.shrink,
            sample_steps=self.sample_steps,
            by_entropy=self.sample_by == "entropy",
            order=self.order,
        )

    def views_per_rollout(self, spec: SamplerSpec) -> int:
        merged = -(-spec.steps // (self.shrink or 1))
        return min(n for n in (merged, self.segments, self.sample_steps) if n is not None)

    def scored_per_view(self, spec: SamplerSpec) -> float:
        if self.sample_steps is not None:  # a sub-sample of the steps scores its share
            return spec.canvas / spec.steps
        return super().scored_per_view(spec)


class Elbo(BaseEstimator, Noise):
    """Monte-Carlo evidence lower bound (``rl.noise`` has the laws of the masks); the draws are shared by new, old and reference."""

    kind: Literal["elbo"] = "elbo"
    unit: Literal["sequence", "draw"] = Field(
        default="sequence",
        description="draw: each view is an estimate of its own, for objectives that are a mean over them (BGPO)",
    )
    length_normalized: bool = Field(default=True, description="divide by the number of tokens")
    law: Literal["raw", "sampler"] = "raw"

    def plan(self, batch: RolloutBatch, key: PlanKey) -> MaskPlan:
        return masks.elbo(batch, key, self)

    def views_per_rollout(self, spec: SamplerSpec) -> int:
        return self.views

    def scored_per_view(self, spec: SamplerSpec) -> float:
        return (spec.canvas + 1) / 2  # a count drawn from 1..canvas

    def reduce(self, values: Tensor, plan: MaskPlan, batch: RolloutBatch, advantage: Tensor | None = None) -> Estimate:
        """Draws: ``[B, views]``, each weighing 1 / views. A view that would have hidden nothing is an estimate of 0."""
        if self.unit == "sequence":
            return super().reduce(values, plan, batch)
        count, weight = self.views, plan.weight.to(values.device)
        at = plan.row.to(values.device) * count + plan.draw.to(values.device)
        value = values.new_zeros(len(batch) * count).index_add(0, at, (weight * values).sum(1)).view(-1, count) * count
        length = self.tokens(batch).sum(1, keepdim=True).to(value)
        value = value / length.clamp(min=1) if self.length_normalized else value
        return Estimate(value, (length > 0).to(value).expand_as(value) / count)


@dataclass(frozen=True, eq=False)
class Anchor:
    """The reference at a plan's scored positions. states ``[R, d]``, row-major; logits: its head, ``[r, d] -> [r, V]``, no gradient."""

    states: Tensor
    logits: Callable[[Tensor], Tensor]


def view_states(policy, plan: MaskPlan, tokens: Tensor, attention: Tensor) -> Tensor:
    """States ``[R, d]`` at the positions of ``plan.rows_scored``, row-major. tokens int64, attention bool ``[N, S]``."""
    inputs = torch.where(plan.masked, policy.mask_id, tokens).to(policy.device)
    return distinct_forward(policy, inputs, attention.to(policy.device), plan.rows_scored.to(policy.device))


def score_views(
    policy, plan: MaskPlan, tokens: Tensor, attention: Tensor, law: Law, anchor: Anchor | None = None
) -> Tensor:
    """Log-probabilities of a plan's scored positions, float32 ``[N, S]``, 0 elsewhere. Differentiable where autograd is on.

    tokens int64, attention bool ``[N, S]``: the rows of the views (not of the batch). Logits exist for the scored positions only, a
    bounded number of rows at a time, and outlive neither pass. With an anchor ``[N, S, 2]``: the second number of a position is the
    exact divergence KL(policy || reference) of its law.
    """
    device = policy.device
    need = plan.rows_scored.to(device)
    states = view_states(policy, plan, tokens, attention)
    target = (tokens if plan.target is None else plan.target).to(device)[need]
    if anchor is not None:
        score, size = partial(_with_kl, anchor.logits), SLICE_ROWS
        rows = row_chunks(len(states), policy.vocab_size)
        chunks = [(states[part], target[part], anchor.states[part]) for part in rows]
    elif plan.order is None:
        score, size = _token_logprobs, SLICE_ROWS
        chunks = [(states[rows], target[rows]) for rows in row_chunks(len(states), policy.vocab_size)]
    else:  # the views of a chunk are whole: what the order hangs on is seen in one run of the head
        score, size = _with_order, max(1, len(states))
        scored, counts = plan.scored.to(device), need.sum(1).tolist()
        views = group_chunks(counts, policy.vocab_size) if counts else []
        sizes = [sum(counts[part]) for part in views]
        chunks = [
            (rows, ids, need[part], scored[part])
            for rows, ids, part in zip(states.split(sizes), target.split(sizes), views, strict=True)
        ]
    with_gradient = torch.is_grad_enabled()
    frozen = with_gradient and states.requires_grad and law.temperature > 0.0
    # A head without trainable weights passes the gradient on to the states, and its logits are needed for nothing else.
    frozen = frozen and anchor is None and not policy.logits(states[:0].detach()).requires_grad

    def run(rows: Tensor, *columns: Tensor) -> Tensor:
        logits = policy.logits(rows)
        if with_gradient:
            return score(logits, law, *columns)
        parts = zip(*(column.split(size) for column in (logits, *columns)), strict=True)
        return torch.cat([score(part[0], law, *part[1:]) for part in parts])

    nothing = states.sum(1).float()
    values = [] if chunks else [nothing if anchor is None else torch.stack([nothing, nothing], 1)]
    for chunk in chunks:
        if frozen:
            values.append(_RowSlopes.apply(policy, score, law, size, *chunk))
        elif with_gradient and len(chunks) > 1:
            values.append(checkpoint(run, *chunk, use_reentrant=False))
        else:
            values.append(run(*chunk))
    found = torch.cat(values)
    return torch.zeros(*need.shape, *found.shape[1:], device=device).index_put(need.nonzero(as_tuple=True), found)


def _token_logprobs(logits: Tensor, law: Law, ids: Tensor) -> Tensor:
    """log q(token) ``[R]``."""
    return laws.log_q(logits, law, drawn=ids).gather(1, ids[:, None]).squeeze(1)


def _with_kl(reference: Callable[[Tensor], Tensor], logits: Tensor, law: Law, ids: Tensor, states: Tensor) -> Tensor:
    """(log q(token), sum_v q(v) (log q(v) - log q_ref(v))), float32 ``[R, 2]``. states ``[R, d]``: the reference's."""
    logq = laws.log_q(logits, law)
    return torch.stack([logq.gather(1, ids[:, None]).squeeze(1), laws.kl(logq, laws.log_q(reference(states), law))], 1)


def _with_order(logits: Tensor, law: Law, ids: Tensor, need: Tensor, scored: Tensor) -> Tensor:
    """Of whole views, float32 ``[R]``: log q(token) where a token is scored, and elsewhere the position's factor of the order.

    need, scored bool ``[n, S]``: where ``logits`` stand, and which of them are tokens.
    """
    is_token = scored[need]
    logp, logq = laws.log_p(logits.detach()), laws.log_q(logits, law, drawn=ids)
    raw = logp.gather(1, ids[:, None]).squeeze(1)
    confidence = torch.zeros(need.shape, device=logits.device).index_put((scored,), raw[is_token])
    tau, last = threshold(confidence, scored)
    view, place = need.nonzero(as_tuple=True)
    own = logq if law.top_p == 1.0 else laws.log_q(logits, law)
    mass = log_mass_below(own, logp, tau[view], place > last[view])
    return torch.where(is_token, logq.gather(1, ids[:, None]).squeeze(1), mass)


class _RowSlopes(torch.autograd.Function):
    """``score(policy.logits(states), law, *columns)``, where each value hangs on its own row alone.

    The slope of each value, ``[R, d]``, is found together with the value, so neither the logits nor a second run of the head is left for
    the backward pass. The logits' own gradient is written over them, ``size`` rows at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, policy: Any, score: Callable[..., Tensor], law: Law, size: int, states: Tensor, *columns: Tensor
    ) -> Tensor:
        with torch.enable_grad():
            own = states.detach().requires_grad_()
            logits = policy.logits(own)
            parts = zip(*(column.split(size) for column in (logits.detach(), *columns)), strict=True)
            values = [_slope_in_place(score, law, *part) for part in parts]
            (slope,) = torch.autograd.grad(logits, own, logits.detach())
        ctx.save_for_backward(slope)
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        gradient = (cotangents[0].unsqueeze(1) * slope).to(slope.dtype)
        return None, None, None, None, gradient, *(None for _ in ctx.needs_input_grad[5:])


def _slope_in_place(score: Callable[..., Tensor], law: Law, logits: Tensor, *columns: Tensor) -> Tensor:
    """The values ``[r]``; the gradient of their sum takes the place of the logits."""
    leaf = logits.detach().requires_grad_()
    values = score(leaf, law, *columns)
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    logits.copy_(gradient)
    return values.detach()

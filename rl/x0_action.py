"""MDPO's estimator (arXiv 2508.13148): the whole answer that a denoising step predicted is the step's action."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from rl.likelihood import BaseEstimator, Estimate
from rl.masks import MaskPlan, PlanKey
from rollouts.spec import SamplerSpec
from rollouts.trajectory import RolloutBatch


def x0_action(batch: RolloutBatch, picked: Tensor, confidence: bool = True) -> MaskPlan:
    """One view per picked step: the state of that step, every position it shows as MASK scored with the token of its recorded answer.

    picked bool ``[B, T]``. draw: the how-manieth picked step of its row. weight: (confidence of the token, or 1) / m, m the number of
    positions that the state shows as MASK, so that a step's tokens add up to a mean.
    """
    if batch.x0_pred is None or batch.confidence is None:
        raise ValueError("these rollouts have no recorded answers; use rollout.strategy recorded")
    row, step = (picked & batch.step_mask).nonzero(as_tuple=True)
    canvas = batch.canvas_mask & ~batch.hint_mask
    hidden = canvas[row] & (batch.reveal_step[row] >= step.unsqueeze(1))
    sure = batch.confidence[row, step] if confidence else torch.ones(hidden.shape)
    return MaskPlan(
        row=row,
        step=step,
        draw=((picked & batch.step_mask).long().cumsum(1) - 1)[row, step],
        masked=hidden,
        scored=hidden,
        weight=torch.where(hidden, sure / hidden.sum(1, keepdim=True), 0.0),
        target=torch.where(hidden, batch.x0_pred[row, step].long(), batch.tokens[row]),
    )


def largest_steps(advantage: Tensor, group: Tensor, count: int) -> Tensor:
    """The ``count`` steps of each group with the largest sum of |A| over its rows, first ones on ties. ``[B, T]`` -> bool ``[B, T]``."""
    _, index = group.unique(return_inverse=True)
    total = torch.zeros(int(index.max()) + 1, advantage.shape[1], dtype=torch.float64)
    total.index_add_(0, index, advantage.double().abs())
    best = total.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros(total.shape, dtype=torch.bool).scatter_(1, best, True)[index]


class X0Action(BaseEstimator):
    """log q(x0 of step s | x_s) of the tokens of K recorded answers, each token a unit: those of the steps with the largest advantages.

    A token weighs its confidence over the number masked, a step's tokens a mean; rows divide by their steps. With ``confidence`` the
    gradient is biased towards what the policy was sure of. Which steps are trained on is a choice, not a sample: nothing corrects it.
    """

    kind: Literal["x0_action"] = "x0_action"
    sample_steps: int = Field(default=8, ge=1, description="steps trained on, K: those of the largest |advantage|")
    confidence: bool = Field(default=True, description="weigh a token by the probability that it was predicted with")
    unit: Literal["action"] = "action"
    length_normalized: Literal[True] = Field(default=True, description="rows divide by their steps trained on")
    law: Literal["raw", "sampler"] = "sampler"

    @property
    def redraws(self) -> bool:
        return False

    def tokens(self, batch: RolloutBatch) -> Tensor:
        return batch.drawn_mask

    def unit_count(self, batch: RolloutBatch) -> Tensor:
        """Steps trained on, at most: what a row's loss is divided by."""
        return batch.step_mask.sum(1).clamp(max=self.sample_steps)

    def plan(self, batch: RolloutBatch, key: PlanKey) -> MaskPlan:
        """Without advantages: the first K steps."""
        return x0_action(batch, batch.step_mask & (batch.step_mask.cumsum(1) <= self.sample_steps), self.confidence)

    def plan_of(self, batch: RolloutBatch, advantage: Tensor, key: PlanKey) -> MaskPlan:
        return x0_action(batch, largest_steps(advantage, batch.group_id, self.sample_steps), self.confidence)

    def views_per_rollout(self, spec: SamplerSpec) -> int:
        return min(self.sample_steps, spec.steps)

    def scored_per_view(self, spec: SamplerSpec) -> float:
        return (spec.canvas + 1) / 2

    def on_units(self, advantage: Tensor, plan: MaskPlan, batch: RolloutBatch, shape: torch.Size) -> Tensor:
        if advantage.dim() == 1:
            return super().on_units(advantage, plan, batch, shape)
        device = advantage.device
        row, step = plan.row.to(device), plan.step.to(device)
        slots = advantage.new_zeros(len(batch) * self.sample_steps)
        slots[row * self.sample_steps + plan.draw.to(device)] = advantage[row, step]
        return slots.view(len(batch), -1, 1).expand(-1, -1, batch.length).reshape(shape)

    def reduce(self, values: Tensor, plan: MaskPlan, batch: RolloutBatch, advantage: Tensor | None = None) -> Estimate:
        """``[B, K * S]``: unit k * S + i is position i in the row's k-th picked step. factor: L / m of its step."""
        device, shape = values.device, (len(batch) * self.sample_steps, values.shape[1])
        at = plan.row.to(device) * self.sample_steps + plan.draw.to(device)
        scored = plan.scored.to(device)
        length = (batch.canvas_mask & ~batch.hint_mask).sum(1).to(device)[plan.row.to(device)]
        factor = (length / scored.sum(1).clamp(min=1)).unsqueeze(1) * scored

        def placed(part: Tensor) -> Tensor:
            return values.new_zeros(shape).index_add(0, at, part.to(values)).view(len(batch), -1)

        return Estimate(placed(values * scored), placed(plan.weight.to(device)), placed(factor))

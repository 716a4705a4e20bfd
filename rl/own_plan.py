"""Plans of an estimator of the user's own are looked at before the model is: what is built in is held to the same by tests."""

import torch
from torch import Tensor

from rl.learner import TrainingError
from rl.likelihood import BaseEstimator
from rl.masks import MaskPlan, PlanKey
from rollouts.trajectory import RolloutBatch


def plan_of(estimator: BaseEstimator, batch: RolloutBatch, advantage: Tensor, key: PlanKey) -> MaskPlan:
    """The estimator's plan. Raises ``TrainingError`` where one of the user's own is none, or would train on what it does not mean."""
    plan = estimator.plan_of(batch, advantage, key)
    problem = _problem(plan, batch) if ":" in estimator.kind else None
    if problem is not None:
        raise TrainingError(
            f"estimator {estimator.kind}: its plan {problem}. docs/methods.md has a whole estimator, rl/masks.py what each field holds"
        )
    return plan


def _problem(plan: MaskPlan, batch: RolloutBatch) -> str | None:
    if not isinstance(plan, MaskPlan):
        return f"is no MaskPlan but {type(plan).__name__}"
    views, wide = (len(plan.row),), (len(plan.row), batch.length)
    shapes = {"row": views, "step": views, "draw": views, "masked": wide, "scored": wide, "weight": wide}
    for name, shape in shapes.items():
        found = tuple(getattr(plan, name).shape)
        if found != shape:
            return f"has {name} of shape {list(found)}, and {list(shape)} is needed ([views], or [views, positions])"
    for name in ("masked", "scored"):
        if getattr(plan, name).dtype != torch.bool:
            return f"has {name} of {getattr(plan, name).dtype}, and torch.bool is needed"
    if len(plan) and not 0 <= int(plan.row.min()) <= int(plan.row.max()) < len(batch):
        return f"has rows from {int(plan.row.min())} to {int(plan.row.max())}, and the batch has {len(batch)}"
    if not torch.isfinite(plan.weight).all():
        return "has weights that are not finite"
    # A token that the view shows is copied, not predicted: its log-probability is near 0 and trains nothing that was meant.
    if (plan.scored & ~plan.masked).any():
        return "scores positions that the same view does not mask"
    return None

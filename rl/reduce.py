"""From losses per unit to one scalar. Denominators come from the batch, never from what a plan happened to score."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class Constant(BaseModel):
    """Divide by rows * constant: Dr. GRPO's fixed length (arXiv 2503.20783)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    constant: float = Field(gt=0.0, description="the length every row is divided by, usually rollout.canvas")


Reduction = Literal["token_mean", "sequence_mean"] | Constant


def row_scale(reduction: Reduction, count: Tensor, total_units: float, total_rows: float) -> Tensor:
    """The factor of every unit of a row in the scalar loss, ``[B]``.

    count ``[B]``: units of each row by the batch's own masks. total_units, total_rows: summed over the whole optimizer step and
    all ranks.

        token_mean     1 / sum_b count_b
        sequence_mean  1 / (rows * count_b)
        constant L     1 / (rows * L)
    """
    if isinstance(reduction, Constant):
        return torch.full_like(count, 1.0 / (max(total_rows, 1.0) * reduction.constant), dtype=torch.float32)
    if reduction == "token_mean":
        return torch.full_like(count, 1.0 / max(total_units, 1.0), dtype=torch.float32)
    return 1.0 / (max(total_rows, 1.0) * count.clamp(min=1).float())


def reduce_loss(per_unit: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """sum over units of per_unit * weight * scale(row). per_unit, weight ``[R, U]``; scale ``[R]`` (of the unit's row) -> scalar.

    weight is 0 where there is no unit, else 1 / (probability that the plan included it). Entries without weight may hold anything
    finite; they contribute exactly 0.
    """
    return (torch.where(weight > 0, per_unit, 0.0) * weight * scale.unsqueeze(1)).sum()

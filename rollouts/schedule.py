"""How many tokens a step reveals. Pure functions."""

import torch
from torch import Tensor


def fixed_quota(masked: Tensor, steps: int) -> Tensor:
    """Spread each row's masked positions over the steps of a block, remainders first (LLaDA).

    masked int ``[B]``: masked positions of the block; returns int ``[B, steps]`` with row sums ``masked``.
    """
    base = masked.div(steps, rounding_mode="floor").unsqueeze(1)
    remainder = (masked % steps).unsqueeze(1)
    return base + (torch.arange(steps, device=masked.device).unsqueeze(0) < remainder)

"""Forward each distinct row once. Rollouts of one prompt start from the same canvas, and so do their first views."""

import torch
from torch import Tensor


def distinct_forward(policy, input_ids: Tensor, attention: Tensor, select: Tensor) -> Tensor:
    """``policy(input_ids, attention, select)`` with equal rows forwarded together.

    input_ids int64 ``[n, S]``, attention and select bool ``[n, S]`` -> states ``[R, d]``, R = select.sum(), row-major. Gradients of equal
    rows add up in the one forward they share.
    """
    row_keys = torch.where(attention, input_ids, -1)
    distinct, owner = torch.unique(row_keys, dim=0, return_inverse=True)
    count = len(distinct)
    if count == len(input_ids):
        return policy(input_ids, attention, select)
    first = torch.full((count,), len(input_ids), device=owner.device)
    first = first.scatter_reduce(0, owner, torch.arange(len(owner), device=owner.device), "amin")
    wanted = torch.zeros(count, select.shape[1], dtype=torch.int64, device=select.device)
    wanted = wanted.index_add(0, owner, select.long()) > 0
    states = policy(input_ids[first], attention[first], wanted)
    place = (wanted.flatten().long().cumsum(0) - 1).view(count, -1)  # where a (row, position) stands in `states`
    return states[place[owner][select]]

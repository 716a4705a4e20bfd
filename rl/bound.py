"""The evidence lower bound of a text given a prompt, by Monte Carlo: what a masked diffusion model has in place of a log-likelihood."""

from collections.abc import Sequence

import numpy as np
import torch

from rl.noise import Noise, subsets
from rollouts.denoise import row_chunks
from rollouts.law import log_p


@torch.no_grad()
def log_bound(
    policy,
    prompt: Sequence[int],
    target: Sequence[int],
    noise: Noise,
    generators: Sequence[np.random.Generator],
    *,
    rows: int = 16,
) -> float:
    """An estimate, in nats, of the bound B <= log p(target | prompt) of ``rl.noise`` (LLaDA, arXiv 2502.09992, eq. 14).

    Unbiased for B, not for log p; over all ids, at temperature 1. generators: one per draw of `noise`. rows: views per forward.
    """
    views = subsets(noise, generators, len(target))
    start, total = len(prompt), 0.0
    whole = torch.tensor([*prompt, *target], dtype=torch.int64)
    training = policy.training
    policy.eval()
    try:
        for low in range(0, len(views), rows):
            part = views[low : low + rows]
            hidden = torch.zeros(len(part), len(whole), dtype=torch.bool)
            hidden[:, start:] = torch.from_numpy(np.stack([view.hidden for view in part]))
            tokens = torch.where(hidden, policy.mask_id, whole)
            weight = torch.tensor([view.weight for view in part], dtype=torch.float64)[:, None].expand(hidden.shape)[
                hidden
            ]
            wanted = whole.expand(hidden.shape)[hidden].to(policy.device)
            states = policy(tokens.to(policy.device), None, hidden.to(policy.device))
            for chunk in row_chunks(len(states), policy.vocab_size):
                found = log_p(policy.logits(states[chunk])).gather(1, wanted[chunk, None]).squeeze(1)
                total += float((found.double().cpu() * weight[chunk]).sum())
    finally:
        policy.train(training)
    return total

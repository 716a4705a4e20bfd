"""Which positions a denoising step reveals, and the log-probability of that choice. Pure functions.

Shapes: ``B`` rows, ``W`` positions of the active block, ``M`` = masked positions (flattened), ``V`` vocabulary. A step keeps a
set ``A`` of ``quota`` masked positions. Ties are broken by position, lowest first, everywhere.
"""

import math

import torch
from torch import Tensor

# Written instead of log 0 where a new policy could not have made an old choice at all: exp(-60) is nothing in float32,
# and the gradient there is zero rather than NaN.
LOG_NOTHING = -60.0


def keep_top(score: Tensor, masked: Tensor, quota: Tensor) -> Tensor:
    """The ``quota`` masked positions of highest score. score ``[B, W]``, masked bool ``[B, W]``, quota ``[B]`` -> bool ``[B, W]``."""
    order = score.masked_fill(~masked, float("-inf")).argsort(dim=-1, descending=True, stable=True)
    # Masked positions first even where a score itself is -inf.
    order = order.gather(-1, (~masked).gather(-1, order).int().argsort(dim=-1, stable=True))
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(score.shape[-1], device=score.device).expand_as(order)
    )
    return masked & (rank < quota.unsqueeze(-1))


def position_score(rule: str, logp: Tensor) -> Tensor:
    """Scores of the position-first rules from the raw law alone. ``[M, V] -> [M]``; higher is revealed earlier."""
    if rule == "max_prob":
        return logp.max(-1).values
    if rule == "margin":
        top = logp.topk(2, dim=-1).values.exp()
        return top[:, 0] - top[:, 1]
    if rule == "entropy":
        return torch.where(logp == float("-inf"), 0.0, logp.exp() * logp).sum(-1)
    raise ValueError(f"'{rule}' is not a position-first rule")


def threshold(confidence: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The bar that a position left masked must have missed: ``tau = min over A of confidence``, and where it stood.

    confidence ``[B, W]``, kept bool ``[B, W]``; returns tau ``[B]`` and the index ``[B]`` of the last position of A at that
    value. A row that keeps nothing has tau = +inf: nothing was excluded.
    """
    value = confidence.masked_fill(~kept, float("inf"))
    tau = value.min(-1).values
    width = confidence.shape[-1]
    at_tau = kept & (value == tau.unsqueeze(-1))
    last = torch.where(at_tau, torch.arange(width, device=kept.device), -1).max(-1).values
    return tau, last


def log_mass_below(logq: Tensor, logp: Tensor, tau: Tensor, loses_ties: Tensor) -> Tensor:
    """Log-probability that a position left masked drew a token whose confidence ranks below A's lowest.

    LLaDA's rule draws v_j ~ q_j at every masked position and keeps the most confident under p. Given A and
    tau = min_{i in A} p_i(v_i), a position j outside A contributes the factor (its own draw is summed out)

        sum_v q_j(v) 1[p_j(v) < tau  or  (p_j(v) = tau and j loses the tie)].

    logq, logp ``[M, V]``; tau ``[M]`` (a log-probability); loses_ties bool ``[M]``. Returns ``[M]``. Differentiable through q with
    the event held fixed; ``LOG_NOTHING`` where the mass is zero.
    """
    # Losing a tie, a position may also have drawn tau itself: anything below the next float32.
    bar = torch.where(loses_ties, tau.nextafter(torch.full_like(tau, float("inf"))), tau).unsqueeze(-1)
    safe = torch.where((logp < bar).detach(), logq, float("-inf"))
    possible = safe.detach().amax(-1) > float("-inf")
    # Rows without mass get finite dummy entries, so that logsumexp has a finite gradient before it is discarded.
    safe = torch.where(possible.unsqueeze(-1), safe, 0.0)
    return torch.where(possible, torch.logsumexp(safe, -1), torch.full_like(tau, LOG_NOTHING))


def random_choice_logprob(masked: Tensor, quota: Tensor) -> Tensor:
    """Log-probability of one uniformly chosen subset: ``-log C(masked, quota)``. int ``[B]``, int ``[B]`` -> float32 ``[B]``."""
    pairs = zip(masked.tolist(), quota.tolist(), strict=True)
    return torch.tensor([-math.log(math.comb(m, k)) for m, k in pairs], dtype=torch.float32, device=masked.device)

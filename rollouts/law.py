"""The law a token is drawn from, written once for the sampler and for the scorer. Pure functions on logits.

``p`` is the model's softmax at temperature 1 over all ids (the *raw* law); ``q`` is what the sampler draws from (the
*sampler* law): forbidden ids removed, divided by the temperature, cut to the top-p nucleus, renormalised.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Law:
    """temperature (0 = the most probable token), top_p in (0, 1], forbidden token ids."""

    temperature: float = 1.0
    top_p: float = 1.0
    forbidden: tuple[int, ...] = ()

    @property
    def is_raw(self) -> bool:
        return self.temperature == 1.0 and self.top_p == 1.0 and not self.forbidden


RAW = Law()


def log_p(logits: Tensor) -> Tensor:
    """Raw law, float32 ``[R, V] -> [R, V]``."""
    return torch.log_softmax(logits.float(), dim=-1)


def log_q(logits: Tensor, law: Law, drawn: Tensor | None = None) -> Tensor:
    """Sampler law, float32 ``[R, V] -> [R, V]``; ids outside the support are ``-inf``.

    drawn int64 ``[R]``: ids that were drawn before; they count as part of the nucleus even where the policy has since moved them
    out of it, so that an old draw keeps a finite log-probability and a gradient. Where nothing moved this changes nothing.

    Differentiable in the logits with the support held fixed. At temperature 0 all mass is on the most probable allowed id
    (the lowest id on ties) and there is no gradient.
    """
    z = _allowed(logits, law)
    if law.temperature == 0.0:
        best = z.argmax(-1, keepdim=True)
        return torch.full_like(z, float("-inf")).scatter(-1, best, 0.0)
    logq = torch.log_softmax(z if law.temperature == 1.0 else z / law.temperature, dim=-1)
    if law.top_p < 1.0:
        support = nucleus(logq, law.top_p)
        if drawn is not None:
            support = support.scatter(-1, drawn.unsqueeze(-1), True)
        logq = torch.log_softmax(logq.masked_fill(~support, float("-inf")), dim=-1)
    return logq


def most_probable(logits: Tensor, law: Law) -> Tensor:
    """The most probable allowed id, the lowest on ties: what temperature 0 draws. ``[R, V] -> [R]``."""
    return _allowed(logits, law).argmax(-1)


def _allowed(logits: Tensor, law: Law) -> Tensor:
    """float32 logits, forbidden ids at ``-inf``."""
    z = logits.float()
    if law.forbidden:
        z = z.index_fill(-1, torch.as_tensor(law.forbidden, device=z.device), float("-inf"))
    return z


def nucleus(logq: Tensor, top_p: float) -> Tensor:
    """Support of top-p: the smallest set of most probable ids with mass >= top_p. bool ``[R, V]``; never empty."""
    with torch.no_grad():
        ordered, ids = logq.exp().sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        return torch.zeros_like(logq, dtype=torch.bool).scatter(-1, ids, before < top_p)


def draw(logq: Tensor, u: Tensor) -> Tensor:
    """Exact draws by inverting the cumulative distribution in float64.

    logq ``[R, V]``, u float64 ``[R]`` in [0, 1). Returns int64 ``[R]``. One uniform per position (rather than V Gumbels) makes
    the stream short enough to be addressed per rollout; ids of zero probability are never returned.
    """
    # In place: on the CPU, fetching fresh memory for each pass takes longer than the pass.
    cdf = logq.to(torch.float64, copy=True).exp_().cumsum_(-1)
    point = u.to(cdf.device).unsqueeze(-1) * cdf[:, -1:]
    index = torch.searchsorted(cdf, point, right=True)
    # Rounding can put the point on the total itself: take the last id that has mass.
    last = torch.searchsorted(cdf, cdf[:, -1:].contiguous(), right=False)
    return torch.minimum(index, last).squeeze(-1)


def entropy(logp: Tensor) -> Tensor:
    """Entropy in nats, ``[R, V] -> [R]``; ids of zero probability contribute 0."""
    return -torch.where(logp == float("-inf"), 0.0, logp.exp() * logp).sum(-1)


def kl(logq: Tensor, logr: Tensor) -> Tensor:
    """KL(q || r) = sum_v q(v) (log q(v) - log r(v)) in nats, ``[R, V], [R, V] -> [R]``; ids that q excludes contribute 0."""
    out = logq == float("-inf")
    return (logq.exp() * (logq.masked_fill(out, 0.0) - logr.masked_fill(out, 0.0))).sum(-1)

"""The straightforward published procedures, as the other side of the comparisons. Written from what the public code is known to do:

* scoring (diffu-GRPO of d1, arXiv 2504.12216; the loops over draws of ESPO, arXiv 2512.03759, and over steps of CJ-GRPO, arXiv
  2509.23924): logits on every position of every row, a cross-entropy over the completion's columns, one forward per draw or step, and one
  autograd graph that holds all of them until the single backward;
* sampling (LLaDA's `generate`, arXiv 2502.09992, as d1 uses it): per step the logits of the whole canvas, float64 Gumbel noise over
  the whole vocabulary at every position, a softmax over all of it for the confidence, the choice of positions in a loop over rows, and no
  end before the last block.

Nothing here uses the code it is compared with. A model is a function: int64 ``[n, S]`` -> logits ``[n, S, V]``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class View:
    """One noised view of every row of a batch. masked: shown as MASK; weight: what a completion position counts, 0 = not scored.

    rows int64 [n]: which rows of the batch; masked bool [n, S]; weight f32 [n, L].
    """

    rows: Tensor
    masked: Tensor
    weight: Tensor


def view_logprobs(model: Model, tokens: Tensor, view: View, mask_id: int) -> Tensor:
    """Log-probability of each completion token in one view, float32 ``[n, L]``."""
    tokens = tokens[view.rows]
    logits = model(torch.where(view.masked, mask_id, tokens))
    length = view.weight.shape[1]
    logits = logits[:, -length:]
    loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, -length:].reshape(-1), reduction="none")
    return -loss.view(-1, length).float()


def scoring_update(
    model: Model,
    tokens: Tensor,
    passes: Sequence[Sequence[View]],
    advantage: Tensor,
    *,
    mask_id: int,
    unit: str,
    epsilon: float,
) -> Tensor:
    """Old log-probabilities of all passes up front, then per pass the clipped loss and its gradient. Returns the losses, summed. A single
    pass has its own scores for old ones (TRL, num_iterations 1).

    passes: the views of each. The optimizer's steps between them are left to the caller, who wants the gradients added up.
    unit: "token" (each scored position has a ratio; mean over positions) or "sequence" (the weighted mean over all views is one
    log-probability per row and token; mean over rows).
    """
    olds: list[list[Tensor] | None] = [None]
    if len(passes) > 1:
        with torch.no_grad():
            olds = [[view_logprobs(model, tokens, view, mask_id) for view in views] for views in passes]
    total = torch.zeros((), device=tokens.device)
    for views, old in zip(passes, olds, strict=True):
        new = [view_logprobs(model, tokens, view, mask_id) for view in views]
        before = [now.detach() for now in new] if old is None else old
        loss = (_token_loss if unit == "token" else _sequence_loss)(views, new, before, advantage, epsilon)
        loss.backward()
        total += loss.detach()
    return total


def _token_loss(
    views: Sequence[View], new: Sequence[Tensor], old: Sequence[Tensor], advantage: Tensor, epsilon: float
) -> Tensor:
    total, count = torch.zeros((), device=advantage.device), 0.0
    for view, now, before in zip(views, new, old, strict=True):
        counted = view.weight > 0
        total = total + (_clipped(now - before, advantage[view.rows, None], epsilon) * counted).sum()
        count += float(counted.sum())
    return total / count


def _sequence_loss(
    views: Sequence[View], new: Sequence[Tensor], old: Sequence[Tensor], advantage: Tensor, epsilon: float
) -> Tensor:
    change = torch.zeros_like(advantage)
    for view, now, before in zip(views, new, old, strict=True):
        length = view.weight.shape[1]
        change = change.index_add(0, view.rows, ((now - before) * view.weight).sum(1) / length)
    return _clipped(change, advantage, epsilon).mean()


def _clipped(change: Tensor, advantage: Tensor, epsilon: float) -> Tensor:
    ratio = torch.exp(change)
    return -torch.min(ratio * advantage, torch.clamp(ratio, 1 - epsilon, 1 + epsilon) * advantage)


def gumbel_scores(logits: Tensor, temperature: float) -> Tensor:
    """Whose argmax is a draw from softmax(logits / temperature): exp(logits) / (-log u)^temperature, in float64."""
    if temperature == 0:
        return logits
    logits = logits.to(torch.float64)
    noise = torch.rand_like(logits, dtype=torch.float64)
    return logits.exp() / (-torch.log(noise)) ** temperature


@torch.no_grad()
def generate(
    model: Model, canvas: Tensor, *, start: int, block: int, steps: int, temperature: float, mask_id: int
) -> Tensor:
    """Denoise rows of one prompt length. canvas int64 ``[B, S]``: prompt of ``start`` tokens, then masks (or given tokens)."""
    x = canvas.clone()
    blocks = (x.shape[1] - start) // block
    for first in range(start, x.shape[1], block):
        masks = (x[:, first : first + block] == mask_id).sum(1)
        for step in range(steps // blocks):
            hidden = x == mask_id
            logits = model(x)
            guess = gumbel_scores(logits, temperature).argmax(-1)
            confidence = torch.softmax(logits, -1).gather(-1, guess[..., None]).squeeze(-1)
            confidence[:, first + block :] = float("-inf")
            guess = torch.where(hidden, guess, x)
            confidence = torch.where(hidden, confidence, torch.full_like(confidence, float("-inf")))
            write = torch.zeros_like(hidden)
            for row in range(len(x)):
                per_step, rest = divmod(int(masks[row]), steps // blocks)
                chosen = torch.topk(confidence[row], per_step + (step < rest)).indices
                write[row, chosen] = True
            x[write] = guess[write]
    return x

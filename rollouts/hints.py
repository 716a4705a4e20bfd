"""Hints: parts of a reference trace that stand on the canvas before denoising begins (IGPO, arXiv 2509.10396). No rewards here."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rollouts import law as laws
from rollouts.denoise import row_chunks
from rollouts.forward import distinct_forward
from rollouts.streams import Purpose, stream
from rollouts.trajectory import RolloutBatch


def chunks(length: int, low: int, high: int, generator: np.random.Generator) -> list[range]:
    """Contiguous chunks of a trace of ``length`` tokens, sizes uniform on {low..high}; a rest shorter than ``low`` is left out."""
    found, start = [], 0
    while length - start >= low:
        size = min(int(generator.integers(low, high + 1)), length - start)
        found.append(range(start, start + size))
        start += size
    return found


def chosen(parts: Sequence[range], low: float, high: float, generator: np.random.Generator) -> list[int]:
    """Canvas offsets of a random share eta ~ U(low, high) of the chunks: floor(eta * N) of them, one at least; sorted."""
    eta = low + (high - low) * float(generator.random())
    count = max(1, int(eta * len(parts)))
    picks = generator.choice(len(parts), size=min(count, len(parts)), replace=False) if parts else []
    return sorted(offset for pick in picks for offset in parts[int(pick)])


def group_hints(
    trace: Sequence[int],
    count: int,
    *,
    room: int,
    sizes: tuple[int, int],
    share: tuple[float, float],
    special: Collection[int],
    address: tuple[int, int, int],
) -> list[dict[int, int]]:
    """The hints of ``count`` rollouts of a prompt: canvas offset -> token. Token i of the trace stands at offset i.

    room: canvas positions that may hold a hint. special: ids that are never given (MASK, and what ends a text). address: (seed, step,
    group). The chunks are those of the group, the choice each rollout's own.
    """
    seed, step, group = address
    parts = chunks(min(len(trace), room), *sizes, stream(seed, Purpose.HINTS, step, group, 0))
    rows = [chosen(parts, *share, stream(seed, Purpose.HINTS, step, group, 1 + i)) for i in range(count)]
    return [{offset: trace[offset] for offset in row if trace[offset] not in special} for row in rows]


@torch.no_grad()
def with_hint_entropy(policy, batch: RolloutBatch, rows: int = 64) -> RolloutBatch:
    """The batch with ``entropy`` at its hints: of the raw law where the whole canvas is masked, hints too. One more forward a row.

    A hint that is shown predicts itself; what the policy knew without it is what the whole canvas masked says. Rows of one prompt
    share the forward. rows: per call.
    """
    entropy, training = batch.entropy.clone(), policy.training
    policy.eval()
    try:
        for low in range(0, len(batch), rows):
            part = batch.rows(torch.arange(low, min(low + rows, len(batch))))
            inputs = torch.where(part.canvas_mask, part.mask_id, part.tokens).to(policy.device)
            hints = part.hint_mask.to(policy.device)
            if not hints.any():
                continue
            states = distinct_forward(policy, inputs, part.attention_mask.to(policy.device), hints)
            spread = [
                laws.entropy(laws.log_p(policy.logits(states[one])))
                for one in row_chunks(len(states), policy.vocab_size)
            ]
            entropy[low : low + rows][part.hint_mask] = torch.cat(spread).cpu()
    finally:
        policy.train(training)
    return replace(batch, entropy=entropy, forwards=batch.forwards + batch.hint_mask.any(1).long())


def failed_groups(group: Tensor, outcome: Tensor) -> list[int]:
    """Groups of which some rollout was graded and none is verified (outcome below 1). group int, outcome f32 ``[B]``."""
    return [
        int(one)
        for one in group.unique()
        if not (outcome[group == one] >= 1.0).any() and not outcome[group == one].isnan().all()
    ]


def mended(group: Tensor, outcome: Tensor, hinted_group: Tensor, hinted_outcome: Tensor, most: int) -> list[int]:
    """Which rows of (own rollouts, then hinted ones) form the batch, int ``[B]``: in each group the first K failed rollouts give their
    places to the first K verified hinted ones, K = min(verified, most). What could not be graded is left where it is."""
    order = list(range(len(group)))
    for one in hinted_group.unique().tolist():
        right = ((hinted_group == one) & (hinted_outcome >= 1.0)).nonzero().flatten().tolist()[:most]
        wrong = ((group == one) & (outcome < 1.0)).nonzero().flatten().tolist()
        for place, row in zip(wrong, right, strict=False):
            order[place] = len(group) + row
    return order

"""From prompts to canvases of masks, and from a finished canvas to its text: block layout and EOS semantics."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rollouts.spec import EosPolicy


@dataclass(frozen=True, eq=False)
class Canvas:
    """Rows ready to be denoised: prompt, canvas of MASK (hints filled in), right padding.

    tokens int64 [B,S]; prompt_mask, canvas_mask, hint_mask bool [B,S]; start int64 [B]: the canvas's first position.
    """

    tokens: Tensor
    prompt_mask: Tensor
    canvas_mask: Tensor
    hint_mask: Tensor
    start: Tensor


def make_canvas(
    prompts: Sequence[Sequence[int]],
    length: int,
    *,
    mask_id: int,
    pad_id: int,
    hints: Sequence[dict[int, int]] | None = None,
    pad_to: int | None = None,
) -> Canvas:
    """Lay out prompts with a canvas of ``length`` masks each.

    hints: per row, canvas offset -> token id that is given instead of generated. pad_to: prompt positions to pad for (so
    that every call has one row length); default the longest prompt.
    """
    longest = max(len(prompt) for prompt in prompts)
    if pad_to is not None and pad_to < longest:
        raise ValueError(f"a prompt of {longest} tokens does not fit pad_to {pad_to}")
    width = (pad_to or longest) + length
    start = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int64)
    position = torch.arange(width).unsqueeze(0)
    prompt_mask = position < start.unsqueeze(1)
    canvas_mask = ~prompt_mask & (position < (start + length).unsqueeze(1))
    tokens = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    tokens[canvas_mask] = mask_id
    hint_mask = torch.zeros_like(prompt_mask)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(list(prompt), dtype=torch.int64)
        given = hints[row] if hints else {}
        if not given:
            continue
        offsets = torch.tensor(list(given), dtype=torch.int64)
        if bool(((offsets < 0) | (offsets >= length)).any()):
            raise ValueError(f"hints at canvas offsets {sorted(given)}, but the canvas has {length} positions")
        tokens[row, len(prompt) + offsets] = torch.tensor(list(given.values()), dtype=torch.int64)
        hint_mask[row, len(prompt) + offsets] = True
    return Canvas(tokens, prompt_mask, canvas_mask, hint_mask, start)


def is_eos(tokens: Tensor, eos_ids: Sequence[int]) -> Tensor:
    """bool, same shape."""
    return torch.isin(tokens, torch.as_tensor(tuple(eos_ids), dtype=tokens.dtype, device=tokens.device))


def text_mask(tokens: Tensor, revealed: Tensor, eos_ids: Sequence[int], eos: EosPolicy) -> Tensor:
    """Where text counts: revealed canvas positions, under ``eos: first`` up to and including the first EOS. bool ``[B,S]``.

    tokens ``[B,S]``; revealed bool ``[B,S]``: canvas positions that hold a token (hints included).
    """
    if eos == "all":
        return revealed
    ends = is_eos(tokens, eos_ids) & revealed
    before = ends.int().cumsum(1) - ends.int()
    return revealed & (before == 0)

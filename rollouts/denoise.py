"""The denoising loop: one engine call, rows of any prompt lengths, without autograd and without dropout.

Per step: one forward of the rows still at work, logits only where a token may be revealed now, a draw per position from the
rollout's own stream, the selection rule, the log-probabilities of both.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rollouts import law as laws
from rollouts.canvas import Canvas, is_eos
from rollouts.forward import distinct_forward
from rollouts.schedule import fixed_quota
from rollouts.select import keep_top, log_mass_below, position_score, random_choice_logprob, threshold
from rollouts.spec import SamplerSpec

# Logits of one chunk of rows: this many float32 numbers at most (256 MB), whatever the vocabulary.
CHUNK_NUMBERS = 64 * 1024 * 1024


@dataclass(eq=False)
class Record:
    """What the loop writes down, ``[B,S]`` and ``[B,T]`` (see ``RolloutBatch``)."""

    tokens: Tensor
    reveal_step: Tensor
    raw_logprob: Tensor
    sampler_logprob: Tensor
    entropy: Tensor
    select_logprob: Tensor
    forwards: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.forwards = torch.zeros(self.tokens.shape[0], dtype=torch.int64, device=self.tokens.device)


@torch.no_grad()
def denoise(policy, canvas: Canvas, spec: SamplerSpec, streams: list[np.random.Generator]) -> Record:
    """Denoise every row of a canvas. ``streams[b]`` is row b's own random stream; nothing else is random."""
    device = policy.device
    tokens = canvas.tokens.to(device).clone()
    hidden = (canvas.canvas_mask & ~canvas.hint_mask).to(device)
    attention = (canvas.canvas_mask | canvas.prompt_mask).to(device)
    start = canvas.start.to(device)
    zeros = torch.zeros_like(tokens, dtype=torch.float32)
    record = Record(
        tokens=tokens,
        reveal_step=torch.where(hidden, spec.steps, -1),
        raw_logprob=zeros,
        sampler_logprob=zeros.clone(),
        entropy=zeros.clone(),
        select_logprob=torch.zeros(len(tokens), spec.steps, device=device),
    )
    law = laws.Law(spec.temperature, spec.top_p, tuple(sorted({*policy.forbidden_ids, *spec.forbid})))
    rows = torch.arange(len(tokens), device=device)
    training = policy.training
    policy.eval()
    try:
        for block in range(spec.blocks):
            window = start[rows, None] + block * spec.block + torch.arange(spec.block, device=device)
            _denoise_block(policy, record, attention, rows, window, block, spec, law, streams)
            if spec.early_stop:
                ended = is_eos(record.tokens[rows[:, None], window], policy.eos_ids).any(1)
                rows = rows[~ended]
                if not len(rows):
                    break
    finally:
        policy.train(training)
    return record


def _denoise_block(policy, record, attention, rows, window, block, spec, law, streams) -> None:
    """Reveal one block of the rows still at work. rows ``[n]``, window ``[n, W]`` (positions)."""
    masked = record.reveal_step[rows[:, None], window] == spec.steps
    quotas = fixed_quota(masked.sum(1), spec.steps_per_block)
    for offset in range(spec.steps_per_block):
        uniform = _uniforms(streams, rows, window.shape[1], spec.selection)
        at_work = quotas[:, offset] > 0
        if not at_work.any():
            continue
        # Rows with nothing to reveal at this step (hints filled their block) sit the forward out.
        pick = at_work.nonzero().squeeze(1)
        row, place, mask, quota = rows[pick], window[pick], masked[pick], quotas[pick, offset]
        step = block * spec.steps_per_block + offset
        kept = _denoise_step(
            policy, record, attention, row, place, mask, quota, uniform[:, pick.cpu()], step, spec, law
        )
        masked[pick] &= ~kept


def _uniforms(streams, rows: Tensor, width: int, selection: str) -> Tensor:
    """float64 ``[1 or 2, n, W]``: a uniform per position of the block for the token and, for random order, one for the place.

    Drawn at every step for every row at work, used or not, so that a rollout's numbers depend on nothing but its own stream.
    """
    kinds = 2 if selection == "random" else 1
    return torch.from_numpy(np.stack([streams[row].random((kinds, width)) for row in rows.tolist()], axis=1))


def _denoise_step(policy, record, attention, row, place, masked, quota, uniform, step, spec, law) -> Tensor:
    """One step of some rows; writes into ``record``; returns which block positions were revealed, bool ``[n, W]``."""
    select = torch.zeros_like(attention[row])
    select[torch.arange(len(row), device=row.device)[:, None].expand_as(place)[masked], place[masked]] = True
    # [M, d], row-major: the order of `masked`
    states = distinct_forward(policy, record.tokens[row], attention[row], select)
    record.forwards[row] += 1
    drawn = _draw_all(policy, states, uniform[0][masked.cpu()], spec.selection, law)

    def on_block(values: Tensor) -> Tensor:
        return torch.zeros(masked.shape, dtype=values.dtype, device=values.device).masked_scatter(masked, values)

    token, raw, sampler, spread, score = (on_block(values) for values in drawn)
    if spec.selection == "random":
        score = -uniform[1].to(score)  # the lowest uniforms are a uniformly chosen subset
    kept = keep_top(score, masked, quota)
    if spec.selection == "confidence":
        order = _order_logprob(policy, states, raw, masked, kept, law)
    elif spec.selection == "random":
        order = random_choice_logprob(masked.sum(1), quota)
    else:
        order = torch.zeros(len(row), device=row.device)  # given the state, the choice was certain
    at = (row[:, None].expand_as(place)[kept], place[kept])
    record.tokens[at] = token[kept]
    record.reveal_step[at] = step
    record.raw_logprob[at] = raw[kept]
    record.sampler_logprob[at] = sampler[kept]
    record.entropy[at] = spread[kept]
    record.select_logprob[row, step] = order
    return kept


def row_chunks(count: int, vocabulary: int) -> list[slice]:
    """Slices of logits rows that hold at most ``CHUNK_NUMBERS`` numbers each."""
    size = max(1, CHUNK_NUMBERS // max(1, vocabulary))
    return [slice(low, min(low + size, count)) for low in range(0, count, size)]


def _draw_all(policy, states: Tensor, uniform: Tensor, selection: str, law: laws.Law) -> tuple[Tensor, ...]:
    """Per masked position ``[M]``: token drawn, its raw and sampler log-probability, raw entropy, score for the selection."""
    parts = []
    for chunk in row_chunks(len(states), policy.vocab_size):
        logits = policy.logits(states[chunk])
        logp, logq = laws.log_p(logits), laws.log_q(logits, law)
        token = laws.draw(logq, uniform[chunk])
        raw = logp.gather(1, token[:, None]).squeeze(1)
        sampler = logq.gather(1, token[:, None]).squeeze(1)
        if selection in ("confidence", "random"):
            score = raw
        else:
            score = position_score(selection, logp)
        parts.append((token, raw, sampler, laws.entropy(logp), score))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _order_logprob(policy, states: Tensor, raw: Tensor, masked: Tensor, kept: Tensor, law: laws.Law) -> Tensor:
    """Log-probability ``[n]`` that every position left masked had drawn something less confident than the kept ones."""
    tau, last = threshold(raw, kept)
    left = (masked & ~kept)[masked]  # [M]
    owner, place = masked.nonzero(as_tuple=True)
    order = torch.zeros(len(masked), device=states.device)
    # The chunks of the draw, kept positions included: a head run on other rows may round otherwise, and a confidence
    # that moves across the threshold by one rounding would change the recorded law by whole nats.
    for chunk in row_chunks(len(states), policy.vocab_size):
        logits = policy.logits(states[chunk])
        mass = log_mass_below(
            laws.log_q(logits, law), laws.log_p(logits), tau[owner[chunk]], place[chunk] > last[owner[chunk]]
        )
        order.index_add_(0, owner[chunk], torch.where(left[chunk], mass, 0.0))
    return order

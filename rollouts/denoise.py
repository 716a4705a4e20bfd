"""The denoising loop: one engine call, rows of any prompt lengths, without autograd and without dropout.

Per step: one forward of the rows still at work, logits only where a token may be revealed now, a draw per position from the
rollout's own stream, the selection rule, the log-probabilities of both.
"""

import math
from collections.abc import Callable, Sequence
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

# Logits of one chunk of rows: about this many float32 numbers (128 MB, 265 rows of LLaDA's), whatever the vocabulary. Fewer rows would
# leave a matrix kernel idle (LLaDA's whole head, 2 GB in float32, is read for each chunk), more would only take memory.
CHUNK_NUMBERS = 32 * 1024 * 1024


@dataclass(eq=False)
class Record:
    """What the loop writes down, ``[B,S]``, ``[B,T]`` and, if asked, ``[B,T,S]`` (see ``RolloutBatch``)."""

    tokens: Tensor
    reveal_step: Tensor
    raw_logprob: Tensor
    sampler_logprob: Tensor
    entropy: Tensor
    select_logprob: Tensor
    x0_pred: Tensor | None = None
    confidence: Tensor | None = None
    forwards: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.forwards = torch.zeros(self.tokens.shape[0], dtype=torch.int64, device=self.tokens.device)


@torch.no_grad()
def denoise(
    policy,
    canvas: Canvas,
    spec: SamplerSpec,
    streams: list[np.random.Generator],
    on_step: Callable[[Record, int], None] | None = None,
    beside: list[np.random.Generator] | None = None,
) -> Record:
    """Denoise every row of a canvas. ``streams[b]`` is row b's own random stream; nothing else is random.

    on_step is shown the record after each step in which a row was at work; it must not change it. beside: record the answer that each
    step predicts; ``beside[b]`` draws it in the blocks to come, where the sampler draws nothing.
    """
    if beside is not None and spec.selection != "confidence":
        raise ValueError(f"selection {spec.selection} draws no answer at every masked position; use confidence")
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
    if beside is not None:
        record.x0_pred = tokens.new_zeros((len(tokens), spec.steps, tokens.shape[1]), dtype=torch.int32)
        record.confidence = torch.zeros(record.x0_pred.shape, device=device)
    law = laws.Law(spec.temperature, spec.top_p, tuple(sorted({*policy.forbidden_ids, *spec.forbid})))
    rows = torch.arange(len(tokens), device=device)
    training = policy.training
    policy.eval()
    try:
        for block in range(spec.blocks):
            window = start[rows, None] + block * spec.block + torch.arange(spec.block, device=device)
            _denoise_block(policy, record, attention, rows, window, block, spec, law, streams, on_step, beside)
            if spec.early_stop:
                ended = is_eos(record.tokens[rows[:, None], window], policy.eos_ids).any(1)
                rows = rows[~ended]
                if not len(rows):
                    break
    finally:
        policy.train(training)
    return record


def _denoise_block(policy, record, attention, rows, window, block, spec, law, streams, on_step, beside) -> None:
    """Reveal one block of the rows still at work. rows ``[n]``, window ``[n, W]`` (positions)."""
    masked = record.reveal_step[rows[:, None], window] == spec.steps
    quotas = fixed_quota(masked.sum(1), spec.steps_per_block)
    for offset in range(spec.steps_per_block):
        uniform = _uniforms(streams, rows, window.shape[1], spec.selection)
        later = None if beside is None else _uniforms(beside, rows, spec.canvas, "later blocks")[0]
        at_work = (quotas[:, offset] > 0) & masked.any(1)
        if not at_work.any():
            continue
        # Rows with nothing to reveal at this step (hints, or a threshold, filled their block) sit the forward out.
        pick = at_work.nonzero().squeeze(1)
        row, place, mask, quota = rows[pick], window[pick], masked[pick], quotas[pick, offset]
        step = block * spec.steps_per_block + offset
        kept = _denoise_step(
            policy,
            record,
            attention,
            row,
            place,
            mask,
            quota,
            uniform[:, pick.cpu()],
            step,
            spec,
            law,
            None if later is None else later[pick.cpu()],
        )
        masked[pick] &= ~kept
        if on_step:
            on_step(record, step)


def _uniforms(streams, rows: Tensor, width: int, selection: str) -> Tensor:
    """float64 ``[1 or 2, n, W]``: a uniform per position of the block for the token and, for random order, one for the place.

    Drawn at every step for every row at work, used or not, so that a rollout's numbers depend on nothing but its own stream.
    """
    kinds = 2 if selection == "random" else 1
    return torch.from_numpy(np.stack([streams[row].random((kinds, width)) for row in rows.tolist()], axis=1))


def _denoise_step(policy, record, attention, row, place, masked, quota, uniform, step, spec, law, later) -> Tensor:
    """One step of some rows; writes into ``record``; returns which block positions were revealed, bool ``[n, W]``.

    later: None, or float64 ``[n, canvas]``, with which the blocks to come are predicted for the record.
    """
    asked, order = masked, torch.zeros(len(row), device=row.device)
    if spec.selection == "random":
        score = -uniform[1].to(order)  # the lowest uniforms are a uniformly chosen subset, known before the forward
        asked, order = keep_top(score, masked, quota), random_choice_logprob(masked.sum(1), quota)
    select = torch.zeros_like(attention[row])
    select[torch.arange(len(row), device=row.device)[:, None].expand_as(place)[asked], place[asked]] = True
    beyond = torch.zeros_like(select) if later is None else (record.reveal_step[row] == spec.steps) & ~select
    # [M, d], row-major: the order of `asked`
    states = distinct_forward(policy, record.tokens[row], attention[row], select | beyond)
    record.forwards[row] += 1
    if later is not None:
        ahead, states = states[beyond[select | beyond]], states[select[select | beyond]]
        _predict_beyond(policy, record, ahead, row, beyond, step, later, law)
    counts, done, parts = asked.sum(1).tolist(), 0, []
    for part in group_chunks(counts, policy.vocab_size):
        rows = slice(done, done + sum(counts[part]))
        done = rows.stop
        logits = policy.logits(states[rows])
        parts.append(_reveal(logits, uniform[0][part], asked[part], quota[part], spec, law))
    kept, choice, drawn, certainty, token, raw, sampler, spread = (torch.cat(x) for x in zip(*parts, strict=True))
    if record.x0_pred is not None and record.confidence is not None:
        every = (row[:, None].expand_as(place)[asked], step, place[asked])
        record.x0_pred[every], record.confidence[every] = drawn.int(), certainty
    at = (row[:, None].expand_as(place)[kept], place[kept])
    record.tokens[at] = token
    record.reveal_step[at] = step
    record.raw_logprob[at] = raw
    record.sampler_logprob[at] = sampler
    record.entropy[at] = spread
    record.select_logprob[row, step] = order + choice
    return kept


def _reveal(
    logits: Tensor, uniform: Tensor, masked: Tensor, quota: Tensor, spec: SamplerSpec, law: laws.Law
) -> tuple[Tensor, ...]:
    """Choose and draw for whole rows, from the logits ``[M, V]`` of their masked positions.

    uniform float64 ``[n, W]``, masked bool ``[n, W]``, quota ``[n]``. Returns the kept positions bool ``[n, W]``, the log-probability of
    that choice ``[n]``, for each position that was drawn at (all of them, or those kept) its token and probability, and for each kept
    position ``[K]`` its token, raw and sampler log-probability and raw entropy.
    """

    def on_block(values: Tensor) -> Tensor:
        return torch.zeros(masked.shape, dtype=values.dtype, device=values.device).masked_scatter(masked, values)

    logp = laws.log_p(logits)
    if spec.selection != "confidence":
        # The choice does not depend on what is drawn, so only what is kept is drawn. Given the state it was certain.
        kept = masked
        if spec.selection != "random":
            score = on_block(position_score(spec.selection, logp))
            if spec.threshold is not None:
                quota = quota.maximum(((score >= math.log(spec.threshold)) & masked).sum(1))
            kept = keep_top(score, masked, quota)
        chosen = kept[masked]
        logp = logp[chosen]
        token, raw, sampler, _ = _draw(logits[chosen], logp, uniform[kept.to(uniform.device)], law)
        choice = torch.zeros(len(masked), device=logits.device)
        return kept, choice, token, raw.exp(), token, raw, sampler, laws.entropy(logp)
    token, raw, sampler, logq = _draw(logits, logp, uniform[masked.to(uniform.device)], law)
    kept = keep_top(on_block(raw), masked, quota)
    choice = _order_logprob(logq, logp, on_block(raw), masked, kept)
    chosen = kept[masked]
    spread = laws.entropy(logp[chosen])
    return kept, choice, token, raw.exp(), token[chosen], raw[chosen], sampler[chosen], spread


def _predict_beyond(policy, record, states, row, beyond, step, uniform, law) -> None:
    """Draw the answer of one step in the blocks to come, and copy what stands. beyond bool ``[n, S]``; uniform ``[n, canvas]``."""
    record.x0_pred[row, step] = record.tokens[row].int()
    start = (record.reveal_step[row] >= 0).int().argmax(1)  # any offset of the row's own will do
    owner, place = beyond.nonzero(as_tuple=True)
    chance = uniform.to(beyond.device)[owner, (place - start[owner]) % uniform.shape[1]]
    for part in row_chunks(len(states), policy.vocab_size):
        logits = policy.logits(states[part])
        token, raw, *_ = _draw(logits, laws.log_p(logits), chance[part], law)
        at = (row[owner[part]], step, place[part])
        record.x0_pred[at], record.confidence[at] = token.int(), raw.exp()


def row_chunks(count: int, vocabulary: int) -> list[slice]:
    """Slices of logits rows that hold at most ``CHUNK_NUMBERS`` numbers each."""
    size = max(1, CHUNK_NUMBERS // max(1, vocabulary))
    return [slice(low, min(low + size, count)) for low in range(0, count, size)]


def group_chunks(sizes: Sequence[int], vocabulary: int) -> list[slice]:
    """The same for groups of rows that must stay together: slices of groups, of one group at least."""
    most, chunks, low, rows = CHUNK_NUMBERS // max(1, vocabulary), [], 0, 0
    for index, size in enumerate(sizes):
        if index > low and rows + size > most:
            chunks.append(slice(low, index))
            low, rows = index, 0
        rows += size
    return [*chunks, slice(low, len(sizes))]


def _draw(logits: Tensor, logp: Tensor, uniform: Tensor, law: laws.Law) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Per row: the token drawn, its raw and sampler log-probability ``[R]``, and the law itself ``[R, V]``; None where it is certain."""
    if law.temperature == 0.0:
        token = laws.most_probable(logits, law)
        raw = logp.gather(1, token[:, None]).squeeze(1)
        return token, raw, torch.zeros_like(raw), None
    logq = laws.log_q(logits, law)
    token = laws.draw(logq, uniform)
    return token, logp.gather(1, token[:, None]).squeeze(1), logq.gather(1, token[:, None]).squeeze(1), logq


def _order_logprob(logq: Tensor | None, logp: Tensor, confidence: Tensor, masked: Tensor, kept: Tensor) -> Tensor:
    """Log-probability ``[n]`` that every position left masked had drawn something less confident than the kept ones."""
    order = torch.zeros(len(masked), device=logp.device)
    if logq is None:
        return order  # nothing was drawn, so nothing else could have been chosen
    tau, last = threshold(confidence, kept)
    left = (masked & ~kept)[masked]  # [M]
    owner, place = masked.nonzero(as_tuple=True)
    mass = log_mass_below(logq, logp, tau[owner], place > last[owner])
    return order.index_add(0, owner, torch.where(left, mass, 0.0))

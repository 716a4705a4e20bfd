"""Batching: many prompts through the denoising loop, in calls of bounded size, into one ``RolloutBatch``."""

from collections.abc import Callable, Sequence

import torch

from rollouts.canvas import Canvas, is_eos, make_canvas, text_mask
from rollouts.denoise import Record, denoise
from rollouts.spec import SamplerSpec
from rollouts.streams import Purpose, stream
from rollouts.trajectory import FINISH_EOS, FINISH_LENGTH, RolloutBatch


def generate(
    policy,
    prompts: Sequence[Sequence[int]],
    spec: SamplerSpec,
    *,
    seed: int,
    step: int,
    group_ids: Sequence[int],
    prompt_ids: Sequence[int],
    purpose: Purpose = Purpose.ROLLOUT,
    policy_version: int = 0,
    max_rows: int = 64,
    pad_to: int | None = None,
    hints: Sequence[dict[int, int]] | None = None,
    on_rows: Callable[[int], None] | None = None,
    on_step: Callable[[Record, int], None] | None = None,
    first_rollout: int = 0,
    recorded: bool = False,
) -> RolloutBatch:
    """Denoise one canvas per prompt.

    Row ``i`` draws from ``stream(seed, purpose, step, first_rollout + i)``, so its numbers do not depend on ``max_rows`` or on its
    neighbours.
    max_rows: rows per call (one group per call under ``deterministic``). pad_to: prompt positions every call is padded to;
    default the longest prompt of each call. on_rows is told how many rows each call finished; on_step sees the record of the
    call at hand after each of its steps. recorded: keep the answer predicted at each step (``x0_pred``, ``confidence``); what is
    sampled is the same.
    """
    batches = []
    for low in range(0, len(prompts), max_rows):
        part = slice(low, min(low + max_rows, len(prompts)))
        canvas = make_canvas(
            prompts[part],
            spec.canvas,
            mask_id=policy.mask_id,
            pad_id=policy.pad_id,
            hints=hints[part] if hints else None,
            pad_to=pad_to,
        )
        rollout_ids = torch.arange(first_rollout + part.start, first_rollout + part.stop)
        streams = [stream(seed, purpose, step, i) for i in rollout_ids.tolist()]
        beside = [stream(seed, Purpose.RECORD, step, i) for i in rollout_ids.tolist()] if recorded else None
        record = denoise(policy, canvas, spec, streams, on_step, beside)
        batches.append(
            _finish(
                policy,
                canvas,
                record,
                spec,
                policy_version=torch.full_like(rollout_ids, policy_version),
                group_id=torch.as_tensor(group_ids[part], dtype=torch.int64),
                prompt_id=torch.as_tensor(prompt_ids[part], dtype=torch.int64),
                rollout_id=rollout_ids,
            )
        )
        if on_rows:
            on_rows(part.stop - part.start)
    whole = RolloutBatch.concat(batches)
    whole.validate()
    return whole


def step_answers(policy, batch: RolloutBatch) -> list[tuple[int, int, str, list[int]]]:
    """(row, step, text, ids up to the first EOS) of every recorded answer, read as final ones are. Raises ``ValueError`` without any."""
    if batch.x0_pred is None:
        raise ValueError("these rollouts have no recorded answers")
    found = []
    for step in range(batch.steps):
        tokens = batch.x0_pred[:, step].long()
        whole = text_mask(tokens, batch.canvas_mask, policy.eos_ids, "first")
        text = whole & ~is_eos(tokens, policy.eos_ids)
        for row in batch.step_mask[:, step].nonzero().flatten().tolist():
            words = policy.tokenizer.decode(tokens[row][text[row]].tolist(), skip_special_tokens=True)
            found.append((row, step, words, tokens[row][whole[row]].tolist()))
    return sorted(found, key=lambda one: one[:2])


def _finish(policy, canvas: Canvas, record: Record, spec: SamplerSpec, **identities: torch.Tensor) -> RolloutBatch:
    """Bring a call's record home, apply the EOS policy (here, and nowhere else) and read the text."""
    tokens, reveal_step = record.tokens.cpu(), record.reveal_step.cpu()
    revealed = canvas.canvas_mask & (reveal_step < spec.steps)
    text = text_mask(tokens, revealed, policy.eos_ids, "first") & ~is_eos(tokens, policy.eos_ids)
    ended = (is_eos(tokens, policy.eos_ids) & revealed).any(1)
    decode = policy.tokenizer.decode
    return RolloutBatch(
        tokens=tokens,
        prompt_mask=canvas.prompt_mask,
        canvas_mask=canvas.canvas_mask,
        hint_mask=canvas.hint_mask,
        loss_mask=text_mask(tokens, revealed, policy.eos_ids, spec.eos) & ~canvas.hint_mask,
        reveal_step=reveal_step,
        raw_logprob=record.raw_logprob.cpu(),
        sampler_logprob=record.sampler_logprob.cpu(),
        entropy=record.entropy.cpu(),
        select_logprob=record.select_logprob.cpu(),
        forwards=record.forwards.cpu(),
        x0_pred=None if record.x0_pred is None else record.x0_pred.cpu(),
        confidence=None if record.confidence is None else record.confidence.cpu(),
        texts=tuple(
            decode(row[keep].tolist(), skip_special_tokens=True) for row, keep in zip(tokens, text, strict=True)
        ),
        finish_reason=tuple(FINISH_EOS if end else FINISH_LENGTH for end in ended.tolist()),
        sampler_spec=spec,
        mask_id=policy.mask_id,
        **identities,
    )

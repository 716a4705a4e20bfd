"""Masked supervised fine-tuning: the diffusion loss on prompt-completion rows, through the same learner.

L = -E_t [ 1/t sum_{i masked} log p(x_i | x_t) ] / length, with t ~ U(0, 1) and each completion token masked with probability t
(LLaDA, arXiv 2502.09992, eq. 5 and algorithm 2). The prompt is never masked.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch

from rl.learner import Learner, TrainingError
from rl.masks import MaskPlan
from rollouts import law as laws
from rollouts.canvas import make_canvas, text_mask
from rollouts.spec import EosPolicy, SamplerSpec
from rollouts.streams import Purpose, stream
from rollouts.trajectory import FINISH_GIVEN, RolloutBatch

MIN_T = 1e-3  # t = (1 - MIN_T) u + MIN_T, which bounds the weight 1/t (LLaDA's code uses the same floor)


def completion_batch(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    canvas: int,
    *,
    eos: EosPolicy = "all",
    groups: Sequence[int] | None = None,
    prompt_ids: Sequence[int] | None = None,
) -> RolloutBatch:
    """Rows of prompt and completion, laid out as rollouts that were given, not sampled; a completion is filled up to ``canvas`` with EOS.

    eos: how much of that end counts in ``loss_mask``; SFT learns all of it. groups, prompt_ids: per row; by default each row its own.

    Raises ``TrainingError`` naming the first completion that is longer than the canvas.
    """
    for row, completion in enumerate(completions):
        if len(completion) > canvas:
            raise TrainingError(
                f"completion {row} has {len(completion)} tokens, but the canvas has {canvas} positions; raise rollout.canvas or drop it"
            )
    end = policy.eos_ids[0]
    filled = [dict(enumerate([*row, *[end] * (canvas - len(row))])) for row in completions]
    layout = make_canvas(prompts, canvas, mask_id=policy.mask_id, pad_id=policy.pad_id, hints=filled)
    count = len(prompts)
    zeros = torch.zeros_like(layout.tokens, dtype=torch.float32)
    ids = torch.arange(count)
    text = text_mask(layout.tokens, layout.canvas_mask, policy.eos_ids, eos)
    return RolloutBatch(
        tokens=layout.tokens,
        prompt_mask=layout.prompt_mask,
        canvas_mask=layout.canvas_mask,
        hint_mask=torch.zeros_like(layout.hint_mask),
        loss_mask=text,
        reveal_step=torch.where(layout.canvas_mask, 0, -1),
        raw_logprob=zeros,
        sampler_logprob=zeros,
        entropy=zeros,
        select_logprob=torch.zeros(count, 1),
        policy_version=torch.zeros_like(ids),
        group_id=ids if groups is None else torch.tensor(groups, dtype=torch.int64),
        prompt_id=ids if prompt_ids is None else torch.tensor(prompt_ids, dtype=torch.int64),
        rollout_id=ids,
        forwards=torch.zeros_like(ids),
        texts=("",) * count,
        finish_reason=(FINISH_GIVEN,) * count,
        sampler_spec=SamplerSpec(canvas=canvas, block=canvas, steps=1, eos=eos, early_stop=False),
        mask_id=policy.mask_id,
    )


def sft_plan(batch: RolloutBatch, *, seed: int, step: int, stratified: bool, size: int | None = None) -> MaskPlan:
    """One view per row at a random noise level; weight 1/t on masked tokens.

    stratified: t_i = (permutation(i) + u_i) / n over the index in the step's global batch of ``size`` rows.
    """
    size = size or len(batch)
    order = stream(seed, Purpose.SFT, step).permutation(size)
    masked = torch.zeros_like(batch.loss_mask)
    weight = torch.zeros(batch.loss_mask.shape)
    for row, index in enumerate(batch.rollout_id.tolist()):
        generator = stream(seed, Purpose.SFT, step, index + 1)
        u = generator.random()
        t = (1.0 - MIN_T) * ((order[index] + u) / size if stratified else u) + MIN_T
        places = batch.loss_mask[row].nonzero().squeeze(1)
        hit = places[torch.from_numpy(generator.random(len(places)) < t)]
        masked[row, hit] = True
        weight[row, hit] = float(1.0 / t)
    rows = torch.arange(len(batch))
    return MaskPlan(
        row=rows,
        step=torch.full_like(rows, -1),
        draw=torch.zeros_like(rows),
        masked=masked,
        scored=masked,
        weight=weight,
    )


def sft_step(learner: Learner, batch: RolloutBatch, *, seed: int, step: int, stratified: bool) -> dict[str, float]:
    """One optimizer step. The loss is linear in the scores, so its cotangent is known beforehand and each row is forwarded once."""
    plan = sft_plan(batch, seed=seed, step=step, stratified=stratified)
    tokens = learner.total(batch.loss_mask.sum())
    cotangent = -plan.weight.to(learner.policy.device) / tokens
    values = learner.backward(batch, plan, cotangent, laws.RAW)
    loss = float((torch.where(plan.scored.to(values.device), values, 0.0) * cotangent).nansum())
    if not torch.isfinite(torch.tensor(loss)):
        raise TrainingError(f"the SFT loss is {loss} at step {step}")
    return {"loss": loss, **learner.step()}


def sft_loop(
    learner: Learner,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    canvas: int,
    steps: int,
    batch: int,
    seed: int,
    stratified: bool,
    first_step: int = 0,
    on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
) -> None:
    """``steps`` optimizer steps over (prompt ids, completion ids) rows; each epoch has its own keyed order.

    on_step is told (step, metrics); the loop ends where it answers True.
    """
    if not rows:
        raise TrainingError("SFT has no rows to train on")
    for step in range(first_step, first_step + steps):
        picked = [rows[_row_at(len(rows), seed, step * batch + i)] for i in range(batch)]
        data = completion_batch(learner.policy, [p for p, _ in picked], [c for _, c in picked], canvas)
        metrics = sft_step(learner, data, seed=seed, step=step, stratified=stratified)
        if on_step and on_step(step, metrics):
            return


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    return stream(seed, Purpose.SFT_DATA, epoch).permutation(count).tolist()


def _row_at(count: int, seed: int, position: int) -> int:
    """The row at a position of the endless stream of epochs, each a keyed permutation."""
    epoch, offset = divmod(position, count)
    return _epoch_order(count, seed, epoch)[offset]

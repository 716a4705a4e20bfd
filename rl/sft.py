"""Masked supervised fine-tuning: the diffusion loss on prompt-completion rows, through the same learner.

By default L = -E_t [ 1/t sum_{i masked} log p(x_i | x_t) ] / length, with t ~ U(0, 1) and each completion token masked with probability t
(LLaDA, arXiv 2502.09992, eq. 5 and algorithm 2); ``rl.sft_losses`` has the others. The prompt is never masked.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from rl.backends import TrainingError
from rl.learner import Learner
from rl.learners import LearnerGroup
from rl.mask_agnostic import mask_agnostic_step
from rl.masks import MaskPlan, token_views
from rl.noise import Subset
from rl.sft_losses import Denoising, MaskAgnostic, Uniform
from rollouts import law as laws
from rollouts.canvas import make_canvas, text_mask
from rollouts.spec import EosPolicy, SamplerSpec
from rollouts.streams import Purpose, stream
from rollouts.trajectory import FINISH_GIVEN, RolloutBatch

DENOISING = Denoising()


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


def sft_plan(
    batch: RolloutBatch,
    *,
    seed: int,
    step: int,
    stratified: bool,
    size: int | None = None,
    loss: Denoising | Uniform = DENOISING,
) -> MaskPlan:
    """The views of each row at its noise level, one or a pair, with their weights.

    stratified: the level of row i is (permutation(i) + u_i) / n of its range, over the index in the step's global batch of ``size`` rows.
    """
    size = size or len(batch)
    order = stream(seed, Purpose.SFT, step).permutation(size)
    picks = []
    for row, (index, length) in enumerate(zip(batch.rollout_id.tolist(), batch.loss_mask.sum(1).tolist(), strict=True)):
        generator = stream(seed, Purpose.SFT, step, index + 1)
        point = float(generator.random())
        views = loss.views(generator, length, float(order[index] + point) / size if stratified else point)
        # A row that hides nothing keeps its place: micro-batches have one composition.
        views = views or [Subset(0, np.zeros(length, dtype=bool), 0.0)]
        picks += [(row, view.draw, view.hidden, view.weight) for view in views]
    return token_views(batch, picks)


def sft_step(
    learner: Learner | LearnerGroup,
    batch: RolloutBatch,
    *,
    seed: int,
    step: int,
    stratified: bool,
    loss: Denoising | Uniform | MaskAgnostic = DENOISING,
) -> dict[str, float]:
    """One optimizer step. The loss is linear in the scores, so its cotangent is known beforehand and each view is forwarded once."""
    plan = sft_plan(batch, seed=seed, step=step, stratified=stratified, loss=loss)
    if isinstance(loss, MaskAgnostic):
        assert isinstance(learner, Learner)  # a recipe with workers is refused
        return mask_agnostic_step(learner, batch, plan, loss, seed=seed, step=step)
    tokens = float(batch.loss_mask.sum())
    cotangent = -plan.weight.to(learner.policy.device) / tokens
    values = learner.backward(batch, plan, cotangent, laws.RAW)
    value = float((torch.where(plan.scored.to(values.device), values, 0.0) * cotangent).nansum())
    if not torch.isfinite(torch.tensor(value)):
        raise TrainingError(f"the SFT loss is {value} at step {step}")
    return {"loss": value, **learner.step()}


def sft_loop(
    learner: Learner | LearnerGroup,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    canvas: int,
    steps: int,
    batch: int,
    seed: int,
    stratified: bool,
    loss: Denoising | Uniform | MaskAgnostic = DENOISING,
    first_step: int = 0,
    on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
) -> None:
    """``steps`` optimizer steps over (prompt ids, completion ids) rows; each epoch has its own keyed order.

    on_step is told (step, metrics); the loop ends where it answers True.
    """
    if not rows:
        raise TrainingError("SFT has no rows to train on")
    if isinstance(loss, MaskAgnostic):
        longest, most = max(len(prompt) for prompt, _ in rows) + canvas + loss.extra, learner.policy.max_length
        if longest > most:
            raise TrainingError(
                f"with warm_start.loss.extra: {loss.extra} the longest row has {longest} positions, and the model {most}; lower extra"
            )
    for step in range(first_step, first_step + steps):
        picked = [rows[_row_at(len(rows), seed, step * batch + i)] for i in range(batch)]
        data = completion_batch(learner.policy, [p for p, _ in picked], [c for _, c in picked], canvas)
        metrics = sft_step(learner, data, seed=seed, step=step, stratified=stratified, loss=loss)
        if on_step and on_step(step, metrics):
            return


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    return stream(seed, Purpose.SFT_DATA, epoch).permutation(count).tolist()


def _row_at(count: int, seed: int, position: int) -> int:
    """The row at a position of the endless stream of epochs, each a keyed permutation."""
    epoch, offset = divmod(position, count)
    return _epoch_order(count, seed, epoch)[offset]

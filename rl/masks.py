"""Mask plans: which noised views of each finished rollout are scored. A plan is data, not a seed.

The same plan serves the new, the old and the reference policy, so they are compared on identical inputs by construction. Every draw
comes from the stream addressed by (run seed, training step, rollout, inner pass, draw): a plan does not depend on batch shape, order,
micro-batches or ranks. Views of one row are adjacent, rows in batch order.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rl.noise import Noise, subsets
from rollouts.streams import Purpose, stream
from rollouts.trajectory import FINISH_GIVEN, RolloutBatch


@dataclass(frozen=True, eq=False)
class MaskPlan:
    """``N`` views of ``B`` rollouts.

    row, step, draw int64 [N]: the rollout, the denoising step whose state this is (-1: none), the Monte-Carlo draw
    masked bool [N,S]: positions shown as MASK;  scored bool [N,S]: positions whose token is scored, subset of masked
    order  bool [N,S] or None: positions left masked whose factor of the order is scored (``rollouts.select.log_mass_below``)
    target int64 [N,S] or None: the tokens that are scored where they are not the row's own (a predicted answer)
    weight f32  [N,S]: what a scored position counts in a sum that estimates the whole (1/inclusion, L/l, 1/draws)
    """

    row: Tensor
    step: Tensor
    draw: Tensor
    masked: Tensor
    scored: Tensor
    weight: Tensor
    order: Tensor | None = None
    target: Tensor | None = None

    def __len__(self) -> int:
        return len(self.row)

    def views(self, index: slice | Tensor) -> "MaskPlan":
        """These views only."""
        return replace(
            self,
            row=self.row[index],
            step=self.step[index],
            draw=self.draw[index],
            masked=self.masked[index],
            scored=self.scored[index],
            weight=self.weight[index],
            order=None if self.order is None else self.order[index],
            target=None if self.target is None else self.target[index],
        )

    def cut(self, width: int) -> "MaskPlan":
        """The first ``width`` positions of every view; what is cut off must be padding."""
        return replace(
            self,
            masked=self.masked[:, :width],
            scored=self.scored[:, :width],
            weight=self.weight[:, :width],
            order=None if self.order is None else self.order[:, :width],
            target=None if self.target is None else self.target[:, :width],
        )

    def one_view_each(self, unit: str) -> bool:
        """Whether no unit of a row is scored in two views: a token by its position, any other by its step and draw."""
        if unit == "token":
            count = torch.zeros(int(self.row.max()) + 1, self.scored.shape[1]).index_add_(
                0, self.row, self.scored.float()
            )
            return bool((count <= 1).all())
        return len(torch.stack([self.row, self.step, self.draw]).unique(dim=1)[0]) == len(self)

    @property
    def rows_scored(self) -> Tensor:
        """bool [N,S]: positions whose logits are needed."""
        return self.scored if self.order is None else self.scored | self.order


@dataclass(frozen=True)
class PlanKey:
    """The address of a plan's randomness: (run seed, training step, inner pass). passes: how many inner passes the step has."""

    seed: int
    step: int
    inner_pass: int = 0
    passes: int = 1

    def of_step(self) -> "PlanKey":
        """The address of what all inner passes of the step share."""
        return replace(self, inner_pass=0)

    def stream(self, rollout: int, draw: int = 0) -> np.random.Generator:
        return stream(self.seed, Purpose.MASKS, self.step, rollout, self.inner_pass, draw)


def _canvas(batch: RolloutBatch) -> Tensor:
    """What every view may show as MASK. bool ``[B, S]``: the canvas without hints."""
    return batch.canvas_mask & ~batch.hint_mask


def trained_hints(batch: RolloutBatch, share: float) -> Tensor:
    """The hints that are trained on as if they had been sampled: in each row the ``share`` of its hints with the highest ``entropy``,
    rounded down, one at least unless the share is 0; ties by position (IGPO's entropy filter, arXiv 2509.10396). bool ``[B, S]``.

    Hints after the end of the text do not count.
    """
    place = torch.arange(batch.length)
    text = batch.hint_mask.clone()
    if batch.sampler_spec.eos == "first":
        end = torch.where(batch.loss_mask, place, -1).amax(1, keepdim=True)  # the EOS, where one was drawn
        text &= batch.truncated.unsqueeze(1) | (place < end)
    keep = (share * text.sum(1) + 1e-6).long().clamp(min=1 if share > 0 else 0)
    order = batch.entropy.masked_fill(~text, float("-inf")).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, place.expand_as(order))
    return text & (rank < keep.unsqueeze(1))


def mean_field(
    batch: RolloutBatch, key: PlanKey, prompt_mask_prob: float = 0.0, hints: float | None = None
) -> MaskPlan:
    """One view per rollout: the whole canvas masked, each prompt token masked with a probability (d1, arXiv 2504.12216, sec. 3.2).

    Scores ``loss_mask``. Canvas positions after EOS stay masked, so the length of the answer is not given away.
    hints: None shows them, as the sampler did; a share masks them, too, and scores ``trained_hints``.
    """
    masked = (_canvas(batch) if hints is None else batch.canvas_mask).clone()
    scored = batch.loss_mask if hints is None else batch.loss_mask | trained_hints(batch, hints)
    if prompt_mask_prob > 0.0:
        for row, rollout in enumerate(batch.rollout_id.tolist()):
            places = batch.prompt_mask[row].nonzero().squeeze(1)
            hit = key.stream(rollout).random(len(places)) < prompt_mask_prob
            masked[row, places[torch.from_numpy(hit)]] = True
    rows = torch.arange(len(batch))
    keep = scored.any(1)  # a row with nothing to score needs no view
    plan = MaskPlan(
        row=rows,
        step=torch.full_like(rows, -1),
        draw=torch.zeros_like(rows),
        masked=masked,
        scored=scored,
        weight=scored.float(),
    )
    return plan.views(keep)


def trajectory(
    batch: RolloutBatch,
    key: PlanKey,
    *,
    segments: int | None = None,
    shrink: int | None = None,
    sample_steps: int | None = None,
    by_entropy: bool = False,
    order: bool = False,
) -> MaskPlan:
    """Views of the states that the sampler passed through; each drawn token is scored in the state that revealed it.

    segments: merge the T steps into N equal segments and score a token in the state at the start of its segment (d2-StepMerge, arXiv
    2509.21474; N = T is exact, N = 1 is mean-field without prompt noise).
    shrink: merge every s consecutive steps instead (TraceRL, arXiv 2509.06949; s = 1 is exact).
    sample_steps: K of the row's steps, one drawn uniformly from each of K equal strata (AGRPO, arXiv 2510.04019); a step is included
    with probability 1/(size of its stratum) and its weight is that size, so weighted sums are unbiased.
    by_entropy: K steps without replacement, more often where the sampler was unsure (AGRPO's other choice); see ``inclusion``.
    order: also score the positions left masked in the active block, for the exact law of the order.
    """
    if FINISH_GIVEN in batch.finish_reason:
        raise ValueError("given completions have no steps of revelation; score them by elbo or mean_field")
    spec = batch.sampler_spec
    _check_states(batch)
    state = scoring_step(batch, segments, shrink)
    row, step, weight = [], [], []
    for index, rollout in enumerate(batch.rollout_id.tolist()):
        own = state[index][state[index] >= 0].unique()  # sorted
        picked, inverse_probability = own, torch.ones(len(own))
        if sample_steps and by_entropy:
            size = np.array([float(batch.entropy[index][state[index] == one].double().sum()) for one in own])
            picked, inverse_probability = _systematic(own, inclusion(size, sample_steps), key.stream(rollout))
        elif sample_steps:
            picked, inverse_probability = _stratified(own, sample_steps, key.stream(rollout))
        row.append(torch.full_like(picked, index))
        step.append(picked)
        weight.append(inverse_probability)
    rows, at = torch.cat(row), torch.cat(step)
    scored = state[rows] == at.unsqueeze(1)
    hidden = _canvas(batch)[rows] & (batch.reveal_step[rows] >= at.unsqueeze(1))
    left = None
    if order:
        start = batch.canvas_mask.int().argmax(1)[rows]
        low = start + at.div(spec.steps_per_block, rounding_mode="floor") * spec.block
        place = torch.arange(batch.length).unsqueeze(0)
        left = hidden & ~scored & (place >= low.unsqueeze(1)) & (place < (low + spec.block).unsqueeze(1))
    counted = scored if left is None else scored | left
    return MaskPlan(
        row=rows,
        step=at,
        draw=torch.zeros_like(rows),
        masked=hidden,
        scored=scored,
        weight=counted * torch.cat(weight).unsqueeze(1),
        order=left,
    )


def _check_states(batch: RolloutBatch) -> None:
    """Raises ``ValueError`` for rows that no sampler of ours denoised: without reveal steps there are no states to score."""
    lost = (batch.loss_mask & (batch.reveal_step < 0)).any(1).nonzero().flatten().tolist()
    if lost:
        raise ValueError(
            f"a trajectory is scored in the states the sampler passed through, and rollout {int(batch.rollout_id[lost[0]])} "
            f"(of {len(lost)}) has no reveal steps; use an estimator that needs none, such as elbo or mean_field"
        )


def scoring_step(batch: RolloutBatch, segments: int | None = None, shrink: int | None = None) -> Tensor:
    """For each drawn token the step whose state scores it, -1 elsewhere; int64 ``[B, S]``."""
    steps = torch.arange(batch.steps)
    merge = _segment_starts(batch.steps, segments) if segments is not None else steps // (shrink or 1) * (shrink or 1)
    return torch.where(batch.drawn_mask, merge[batch.reveal_step.clamp(0, batch.steps - 1)], -1)


def _segment_starts(steps: int, segments: int) -> Tensor:
    """For each step the first step of its segment, int64 ``[T]``; N contiguous segments whose sizes differ by at most one."""
    starts = [int(part[0]) for part in np.array_split(np.arange(steps), segments) for _ in part]
    return torch.tensor(starts, dtype=torch.int64)


def _stratified(own: Tensor, count: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One of each of ``count`` contiguous strata of ``own``; returns the picks and the strata's sizes (1 / inclusion)."""
    strata = [part for part in np.array_split(np.arange(len(own)), count) if len(part)]
    picks = [int(part[generator.integers(len(part))]) for part in strata]
    return own[picks], torch.tensor([float(len(part)) for part in strata])


def inclusion(size: np.ndarray, count: int) -> np.ndarray:
    """Probability that each of n steps is among ``count`` sampled ones, proportional to its size where that stays below 1; ``[n]``.

        pi_t = min(1, c s_t),   s_t = 0.9 size_t / sum size + 0.1 / n,   c such that sum pi = count

    The tenth that is shared evenly is ours: without it a step the sampler was sure of would weigh without bound, or never be seen.
    """
    total = float(size.sum())
    even = np.full(len(size), 1.0 / max(len(size), 1))
    share = 0.9 * size / total + 0.1 * even if total > 0.0 else even
    certain = np.full(len(size), count >= len(size))
    while True:
        left = count - int(certain.sum())
        chance = np.where(certain, 1.0, left * share / max(float(share[~certain].sum()), 1e-300))
        over = (chance > 1.0) & ~certain
        if not over.any():
            return chance
        certain |= over


def _systematic(own: Tensor, chance: np.ndarray, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Systematic sampling with one uniform number: each of ``own`` with its ``chance``, as many as they add up to (Madow 1949).

    Returns the picks and 1 / chance.
    """
    edges = np.concatenate([[0.0], np.cumsum(chance)])
    ticks = np.ceil(edges - float(generator.random()))  # how many of u, u + 1, ... lie below each edge
    picks = np.flatnonzero(np.diff(ticks) > 0)
    return own[picks], torch.from_numpy(1.0 / chance[picks]).float()


def elbo(batch: RolloutBatch, key: PlanKey, noise: Noise) -> MaskPlan:
    """Views whose weighted sum of log p estimates the order-agnostic bound E_sigma sum_i log p(x_sigma(i) | x_sigma(<i)) <= log p(x |
    prompt), of the L positions of ``loss_mask``; ``rl.noise`` has the laws of their masks, their papers and conventions.
    """
    picks = []
    for index, (rollout, length) in enumerate(_lengths(batch)):
        if length:
            generators = [key.stream(rollout, number) for number in range(noise.draws)]
            picks += [(index, one.draw, one.hidden, one.weight) for one in subsets(noise, generators, length)]
    return token_views(batch, picks)


def coupled(batch: RolloutBatch, key: PlanKey, low: float, high: float) -> MaskPlan:
    """Three views: everything masked; M, each token with probability t ~ U(low, high); its complement (DiffuCoder, arXiv 2506.20639).

    Weights 1/2, 1/(2t) on M and 1/(2(1-t)) on the rest, so a token's two scores weigh 3/2 in expectation. The pair misses the fully
    masked state except by chance, which is why it has a view of its own.
    """
    picks = []
    for index, (rollout, length) in enumerate(_lengths(batch)):
        generator = key.stream(rollout)
        t = low + (high - low) * float(generator.random())
        hidden = np.asarray(generator.random(length) < t)
        views = ((np.ones(length, dtype=bool), 1.0), (hidden, 1 / t), (~hidden, 1 / (1 - t)))
        picks += [(index, draw, view, scale / 2) for draw, (view, scale) in enumerate(views) if view.any()]
    return token_views(batch, picks)


def random_tokens(batch: RolloutBatch, key: PlanKey, ratio: Callable[[int], float], late: bool = False) -> MaskPlan:
    """One view: each token masked independently, the share ``ratio(rollout)`` of them on average (UniGRPO, arXiv 2505.15809).

    late: later tokens are masked more often (MaskGRPO's AR-like masks, arXiv 2510.02880): the i-th of L is kept with probability
    min(1, d_i (1 - ratio) L / sum d), d = 1 - i/(L-1). The weight is L / (expected number of masked tokens), alike for all.
    """
    picks = []
    for index, (rollout, length) in enumerate(_lengths(batch)):
        chance = np.full(length, ratio(rollout))
        if late and length > 1:
            kept = np.linspace(1.0, 0.0, length)
            chance = 1.0 - np.minimum(1.0, kept * (1.0 - chance) * length / kept.sum())
        hidden = np.asarray(key.stream(rollout).random(length) < chance)
        if hidden.any():
            picks.append((index, 0, hidden, length / float(chance.sum())))
    return token_views(batch, picks)


def ar_order(batch: RolloutBatch) -> MaskPlan:
    """Each token of ``loss_mask`` where the canvas from it on is masked (JustGRPO, arXiv 2601.15165): the left-to-right factorisation

        log p(x) = sum_i log p(x_i | prompt, x_<i, MASK from i on),   L views.

    Hints stay shown, and canvas positions after EOS masked, so the answer's length is not given away.
    """
    row, place = batch.loss_mask.nonzero(as_tuple=True)
    at = torch.arange(batch.length)
    scored = at == place.unsqueeze(1)
    return MaskPlan(
        row=row,
        step=torch.full_like(row, -1),
        draw=batch.loss_mask.cumsum(1)[row, place] - 1,
        masked=_canvas(batch)[row] & (at >= place.unsqueeze(1)),
        scored=scored,
        weight=scored.float(),
    )


def blockwise(batch: RolloutBatch, key: PlanKey, noise: Noise, sample_blocks: int | None = None) -> MaskPlan:
    """Views of a block as the sampler saw it: earlier blocks shown, later ones masked, ``noise`` within the block alone.

    The weighted sum estimates sum over blocks of E_sigma sum_i log p(x_i | earlier blocks, those of its own block before it), at most the
    log-likelihood of decoding block by block, one token a step in random order. sample_blocks: K of the row's blocks, one from each of
    K equal strata, weighted by 1 / inclusion (SPG, arXiv 2510.09541, draws K of them).
    """
    size, start = batch.sampler_spec.block, batch.canvas_mask.int().argmax(1)
    block = (torch.arange(batch.length) - start.unsqueeze(1)).div(size, rounding_mode="floor")
    picks, at = [], []
    for index, rollout in enumerate(batch.rollout_id.tolist()):
        of_token = block[index][batch.loss_mask[index]]
        own = of_token.unique()
        picked, scale = own, torch.ones(len(own))
        if sample_blocks:
            picked, scale = _stratified(own, sample_blocks, key.stream(rollout))
        for here, inverse_probability in zip(picked.tolist(), scale.tolist(), strict=True):
            inside = (of_token == here).numpy()
            streams = [key.stream(rollout, 1 + here * noise.draws + number) for number in range(noise.draws)]
            for one in subsets(noise, streams, int(inside.sum())):
                hidden = np.zeros(len(inside), dtype=bool)
                hidden[inside] = one.hidden
                picks.append((index, here * noise.views + one.draw, hidden, one.weight * inverse_probability))
                at.append(here)
    plan = token_views(batch, picks)
    later = block[plan.row] > torch.tensor(at, dtype=torch.int64).unsqueeze(1)
    return replace(plan, masked=plan.masked | (later & _canvas(batch)[plan.row]))


def every_subset(batch: RolloutBatch) -> MaskPlan:
    """All 2^L - 1 views of each row that hide some of its L tokens in ``loss_mask``; view h - 1 of a row hides the bits of h."""
    picks = []
    for index, (_, length) in enumerate(_lengths(batch)):
        bits = np.arange(2**length)[:, None] >> np.arange(length) & 1
        picks += [(index, number, hidden, 1.0) for number, hidden in enumerate(bits[1:].astype(bool))]
    return token_views(batch, picks)


def _lengths(batch: RolloutBatch) -> list[tuple[int, int]]:
    """(rollout id, tokens in ``loss_mask``) of each row."""
    return list(zip(batch.rollout_id.tolist(), batch.loss_mask.sum(1).tolist(), strict=True))


def token_views(batch: RolloutBatch, picks: list[tuple[int, int, np.ndarray, float]]) -> MaskPlan:
    """A plan from (row, draw, which of the row's tokens in ``loss_mask`` are masked, their weight).

    Canvas positions outside ``loss_mask`` (after EOS) stay masked in every view.
    """
    hidden_tail = _canvas(batch) & ~batch.loss_mask
    rows = torch.tensor([row for row, *_ in picks], dtype=torch.int64)
    scored = torch.zeros(len(picks), batch.length, dtype=torch.bool)
    for view, (row, _, hidden, _) in enumerate(picks):
        scored[view, batch.loss_mask[row]] = torch.from_numpy(hidden)
    weight = torch.tensor([weight for *_, weight in picks], dtype=torch.float32)
    return MaskPlan(
        row=rows,
        step=torch.full_like(rows, -1),
        draw=torch.tensor([draw for _, draw, *_ in picks], dtype=torch.int64),
        masked=scored | hidden_tail[rows],
        scored=scored,
        weight=scored * weight.unsqueeze(1),
    )

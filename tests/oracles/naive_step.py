"""One pass of training the slow way: every view in one forward, the loss from scalars in loops, one backward through it all.

Nothing here knows of cotangents, micro-batches or vectorised reductions. Formulas are written again from their papers; only the
mask plan, which is data, is shared with the code under test.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rl.masks import MaskPlan
from rl.method import Method
from rl.reduce import Constant
from rl.scored import ScoredBatch
from rollouts.law import Law
from rollouts.trajectory import RolloutBatch

NOTHING = -60.0  # stands for log 0


def naive_scores(policy, batch: RolloutBatch, plan: MaskPlan, law: Law) -> dict[tuple[int, int], Tensor]:
    """(view, position) -> log-probability of the token there, or of the position's factor of the order; all with gradient."""
    assert law.top_p == 1.0
    tokens = batch.tokens[plan.row]
    inputs = tokens.clone()
    inputs[plan.masked] = policy.mask_id
    everywhere = torch.ones_like(plan.masked)
    states = policy(inputs, batch.attention_mask[plan.row], everywhere)
    logits = policy.logits(states).view(*inputs.shape, -1)
    logp = logits.log_softmax(-1)
    allowed = [v for v in range(logits.shape[-1]) if v not in law.forbidden]

    def log_q(view: int, place: int, ids: Sequence[int]) -> Tensor:
        """log of the mass that the law gives to a set of ids."""
        scaled = logits[view, place] / law.temperature
        return scaled[list(ids)].logsumexp(0) - scaled[allowed].logsumexp(0)

    scores = {}
    for view in range(len(plan)):
        kept = plan.scored[view].nonzero().flatten().tolist()
        for place in kept:
            scores[view, place] = log_q(view, place, [int(tokens[view, place])])
        if plan.order is None:
            continue
        confidence = {place: float(logp[view, place, tokens[view, place]].detach()) for place in kept}
        bar = min(confidence.values())
        last = max(place for place in kept if confidence[place] == bar)
        for place in plan.order[view].nonzero().flatten().tolist():
            own = logp[view, place].tolist()
            below = [v for v in allowed if own[v] < bar or (own[v] == bar and place > last)]
            scores[view, place] = log_q(view, place, below) if below else torch.tensor(NOTHING)
    return scores


def _tokens(method: Method, batch: RolloutBatch, row: int) -> list[int]:
    """Positions that count as the estimator's tokens in a row."""
    if method.estimator.kind != "trajectory":
        return batch.loss_mask[row].nonzero().flatten().tolist()
    canvas = (batch.canvas_mask[row] & ~batch.hint_mask[row]).nonzero().flatten().tolist()
    return [place for place in canvas if batch.reveal_step[row, place] < batch.steps]


def _units(method: Method, batch: RolloutBatch, row: int) -> int:
    """Units of a row, whether or not the plan scores them."""
    tokens, estimator = _tokens(method, batch, row), method.estimator
    if estimator.unit == "token":
        return len(tokens)
    if estimator.unit == "sequence" or estimator.kind != "trajectory":
        return min(1, len(tokens))
    steps = {int(batch.reveal_step[row, place]) for place in tokens}
    if estimator.segments is None:
        return len(steps)
    # N segments of T steps: the first T mod N hold one more.
    size, larger = divmod(batch.steps, estimator.segments)
    edges = [size * n + min(n, larger) for n in range(1, estimator.segments + 1)]
    return len({sum(step >= edge for edge in edges) for step in steps})


def naive_estimates(
    method: Method, batch: RolloutBatch, plan: MaskPlan, scores: dict[tuple[int, int], Tensor]
) -> dict[tuple[int, int], tuple[Tensor, float]]:
    """(row, unit) -> (log-probability, 1 / inclusion)."""
    estimator = method.estimator
    found: dict[tuple[int, int], tuple[Tensor, float]] = {}
    for (view, place), score in scores.items():
        row, weight = int(plan.row[view]), float(plan.weight[view, place])
        if estimator.unit == "token":
            assert (row, place) not in found
            found[row, place] = (score, weight)
        elif estimator.unit == "step":
            key = (row, int(plan.step[view]))
            found[key] = (found[key][0] + score if key in found else score, weight)
        else:
            length = len(_tokens(method, batch, row)) if estimator.length_normalized else 1
            part = score * weight / length
            found[row, 0] = (found[row, 0][0] + part if (row, 0) in found else part, 1.0)
    return found


def _surrogate(method: Method, new: Tensor, old: float, advantage: float) -> Tensor:
    if method.objective.kind == "raft":
        return -advantage * new
    low, high = method.objective.epsilon_low, method.objective.epsilon_high
    ratio = (new - old).exp()
    size = float(ratio.detach())
    if advantage > 0 and size > 1 + high:
        return torch.tensor(-(1 + high) * advantage)  # clipped: a constant
    if advantage < 0 and size < 1 - low:
        return torch.tensor(-(1 - low) * advantage)
    return -ratio * advantage


def _distance(method: Method, new: Tensor, reference: float) -> Tensor:
    if method.kl.estimator == "k2":
        return (new - reference) ** 2 / 2
    return (reference - new).exp() - (reference - new) - 1


def naive_loss(
    method: Method,
    batch: ScoredBatch,
    plan: MaskPlan,
    new: dict[tuple[int, int], Tensor],
    old: dict[tuple[int, int], Tensor],
    reference: dict[tuple[int, int], Tensor] | None,
) -> Tensor:
    """The scalar loss of a pass over all rows of the batch, those without advantage included."""
    assert batch.advantage is not None
    rollouts = batch.rollouts
    rows = [r for r in range(len(batch)) if not (method.mask_truncated and rollouts.finish_reason[r] == "length")]
    units = {row: _units(method, rollouts, row) for row in rows}
    filled = sum(count > 0 for count in units.values())
    ours, before = (naive_estimates(method, rollouts, plan, scores) for scores in (new, old))
    anchor = naive_estimates(method, rollouts, plan, reference) if reference is not None else {}
    total = torch.zeros(())
    for (row, unit), (value, weight) in ours.items():
        if row not in units:
            continue
        loss = _surrogate(method, value, float(before[row, unit][0]), float(batch.advantage[row]))
        if method.kl.beta > 0:
            loss = loss + method.kl.beta * _distance(method, value, float(anchor[row, unit][0]))
        if isinstance(method.reduction, Constant):
            share = 1 / (filled * method.reduction.constant)
        elif method.reduction == "token_mean":
            share = 1 / sum(units.values())
        else:
            share = 1 / (filled * units[row])
        assert math.isfinite(share)
        total = total + loss * weight * share
    return total

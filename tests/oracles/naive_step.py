"""One pass of training the slow way: every view in one forward, the loss from scalars in loops, one backward through it all.

Nothing here knows of cotangents, micro-batches or vectorised reductions. Formulas are written again from their papers; only the
mask plan, which is data, is shared with the code under test.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rl.estimators import Sandwich
from rl.likelihood import Elbo
from rl.masks import MaskPlan
from rl.method import Method
from rl.objectives import Clipped, LinearBound, Stepwise, WeightedCrossEntropy
from rl.preference import Dpo
from rl.reduce import Constant
from rl.scored import ScoredBatch
from rollouts.law import Law
from rollouts.trajectory import RolloutBatch

NOTHING = -60.0  # stands for log 0


def naive_scores(policy, batch: RolloutBatch, plan: MaskPlan, law: Law) -> dict[tuple[int, int], Tensor]:
    """(view, position) -> log-probability of the token there, or of the position's factor of the order; all with gradient."""
    assert law.top_p == 1.0
    inputs = batch.tokens[plan.row].clone()
    tokens = inputs.clone() if plan.target is None else plan.target
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
    share = getattr(method.estimator, "hints", None)
    if share is not None:
        own = batch.loss_mask[row].nonzero().flatten().tolist()
        end = own[-1] if batch.finish_reason[row] == "eos" else batch.length
        hints = [place for place in batch.hint_mask[row].nonzero().flatten().tolist() if place < end]
        hints.sort(key=lambda place: (-float(batch.entropy[row, place]), place))
        return sorted(own + hints[: max(1, math.floor(share * len(hints)))])
    if method.estimator.kind != "trajectory":
        return batch.loss_mask[row].nonzero().flatten().tolist()
    canvas = (batch.canvas_mask[row] & ~batch.hint_mask[row]).nonzero().flatten().tolist()
    return [place for place in canvas if batch.reveal_step[row, place] < batch.steps]


def _units(method: Method, batch: RolloutBatch, row: int) -> int:
    """Units of a row, whether or not the plan scores them."""
    tokens, estimator = _tokens(method, batch, row), method.estimator
    if estimator.kind == "x0_action":
        taken = {int(step) for step in batch.reveal_step[row] if 0 <= step < batch.steps}
        return min(estimator.sample_steps, len(taken))
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


def _sandwich(
    method: Method, batch: ScoredBatch, plan: MaskPlan, scores: dict[tuple[int, int], Tensor]
) -> dict[tuple[int, int], tuple[Tensor, float]]:
    """SPG's estimate of each row, by the sign of its advantage."""
    estimator, found = method.estimator, {}
    assert isinstance(estimator, Sandwich)
    assert batch.advantage is not None
    for row in sorted(set(plan.row.tolist())):
        tokens = _tokens(method, batch.rollouts, row)
        own = {k: v for k, v in scores.items() if int(plan.row[k[0]]) == row}
        lower = torch.stack([value * plan.weight[key] for key, value in own.items()]).sum()
        terms = [[plan.weight[k] * (v * estimator.beta).exp() for k, v in own.items() if k[1] == i] for i in tokens]
        logs = [torch.stack(term).sum().log() / estimator.beta for term in terms if term]
        share = estimator.mix if float(batch.advantage[row]) <= 0 else 0.0
        value = (1 - share) * lower + share * torch.stack(logs).sum() * len(tokens) / len(logs)
        found[row, 0] = (value / len(tokens) if estimator.length_normalized else value, 1.0)
    return found


def naive_estimates(
    method: Method, scored: ScoredBatch, plan: MaskPlan, scores: dict[tuple[int, int], Tensor]
) -> dict[tuple[int, int], tuple[Tensor, float]]:
    """(row, unit) -> (log-probability, 1 / inclusion)."""
    estimator, batch = method.estimator, scored.rollouts
    if estimator.kind == "sandwich":
        return _sandwich(method, scored, plan, scores)
    found: dict[tuple[int, int], tuple[Tensor, float]] = {}
    for (view, place), score in scores.items():
        row, weight = int(plan.row[view]), float(plan.weight[view, place])
        if estimator.kind == "x0_action":
            step, hidden = int(plan.step[view]), int(plan.masked[view].sum())
            sure = float(batch.confidence[row, step, place]) if estimator.confidence else 1.0  # type: ignore[index]
            found[row, step * batch.length + place] = (score, sure / hidden)
        elif estimator.kind == "coupled":
            found[row, place] = ((found[row, place][0] if (row, place) in found else 0.0) + score * weight, 1.0)
        elif estimator.unit == "token":
            assert (row, place) not in found
            found[row, place] = (score, weight)
        elif estimator.unit == "step":
            key = (row, int(plan.step[view]))
            found[key] = (found[key][0] + score if key in found else score, weight)
        elif isinstance(estimator, Elbo) and estimator.unit == "draw":
            key = (row, int(plan.draw[view]))
            length = len(_tokens(method, batch, row)) if estimator.length_normalized else 1
            part = score * weight * estimator.draws / length
            found[key] = (found[key][0] + part if key in found else part, 1 / estimator.draws)
        else:
            length = len(_tokens(method, batch, row)) if estimator.length_normalized else 1
            part = score * weight / length
            found[row, 0] = (found[row, 0][0] + part if (row, 0) in found else part, 1.0)
    return found


def _surrogate(method: Method, new: Tensor, old: float, advantage: float) -> Tensor:
    if not isinstance(method.objective, Clipped | LinearBound | Stepwise):
        return -advantage * new
    low, high, dual = method.objective.epsilon_low, method.objective.epsilon_high, method.objective.dual
    linear = method.objective.kind == "linear_bound" and advantage > 0
    ratio = 1 + new - old if linear else (new - old).exp()
    size = float(ratio.detach())
    if advantage > 0 and size > 1 + high:
        return torch.tensor(-(1 + high) * advantage)  # clipped: a constant
    if advantage < 0 and size < 1 - low:
        return torch.tensor(-(1 - low) * advantage)
    if advantage < 0 and dual is not None and size > dual:
        return torch.tensor(-dual * advantage)
    return -ratio * advantage


def _weights(
    method: Method, batch: ScoredBatch, old: dict[int, float], reference: dict[int, float]
) -> dict[int, float]:
    """DMPO's weight of each row that has an estimate: n (softmax over its group of log p_ref - log p_old + r / alpha, less a baseline)."""
    objective, group = method.objective, batch.rollouts.group_id.tolist()
    assert isinstance(objective, WeightedCrossEntropy)
    found = {}
    for row in old:
        peers = [peer for peer in old if group[peer] == group[row]]

        def share(sign: float, row: int = row, peers: list[int] = peers) -> float:
            rewards = {peer: float(batch.advantage[peer]) for peer in peers}  # type: ignore[index]
            terms = {p: math.exp(reference[p] - old[p] + sign * rewards[p] / objective.alpha) for p in peers}
            return terms[row] / sum(terms.values())

        less = {"none": 0.0, "mean": 1 / len(peers), "negative": share(-1)}[objective.baseline]
        found[row] = len(peers) * (share(1) - less)
    return found


def _advantage(method: Method, batch: ScoredBatch, row: int, unit: int) -> float:
    """Of the denoising step that a unit belongs to."""
    rollouts, kind = batch.rollouts, method.estimator.unit
    step = {
        "step": unit,
        "action": unit // rollouts.length,
        "token": int(rollouts.reveal_step[row, unit % rollouts.length]),
    }
    return float(batch.advantage[row, step[kind]])  # type: ignore[index]


def _pairs(
    method: Method, batch: ScoredBatch, new: dict[int, Tensor], reference: dict[int, float]
) -> dict[int, Tensor]:
    """Each paired row's share of its pair's loss: |A| times [-log sigmoid of the margin, smoothed, + the chosen row's loss per token]."""
    objective, group = method.objective, batch.rollouts.group_id.tolist()
    assert isinstance(objective, Dpo)
    assert batch.advantage is not None
    found = {}
    for up in new:
        for down in new:
            if group[up] != group[down] or not float(batch.advantage[up]) > 0 > float(batch.advantage[down]):
                continue
            margin = objective.beta * ((new[up] - reference[up]) - (new[down] - reference[down]))
            right, wrong = -(1 / (1 + (-margin).exp())).log(), -(1 / (1 + margin.exp())).log()
            e = objective.label_smoothing
            loss = ((1 - e) * right - e * wrong) / (1 - 2 * e)
            loss = loss - objective.sft_weight * new[up] / len(_tokens(method, batch.rollouts, up))
            for row in (up, down):
                found[row] = abs(float(batch.advantage[row])) * loss
    return found


def _distance(method: Method, new: Tensor, reference: float, length: int) -> Tensor:
    if method.kl.estimator == "k2_sum":
        return (length * new - length * reference) ** 2 / 2 / length
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
    ours, before = (naive_estimates(method, batch, plan, scores) for scores in (new, old))
    anchor = naive_estimates(method, batch, plan, reference) if reference is not None else {}
    total = torch.zeros(())
    advantage = {row: float(batch.advantage[row]) for row in rows if batch.advantage.dim() == 1}
    if method.objective.kind == "weighted_ce":
        kept = [(row, unit) for row, unit in ours if row in units]
        advantage = _weights(
            method,
            batch,
            {key[0]: float(before[key][0]) for key in kept},
            {key[0]: float(anchor[key][0]) for key in kept},
        )
    pairs = {}
    if method.objective.kind == "dpo":
        pairs = _pairs(
            method,
            batch,
            {row: value for (row, _), (value, _) in ours.items()},
            {row: float(value) for (row, _), (value, _) in anchor.items()},
        )
    for (row, unit), (value, weight) in ours.items():
        if row not in units:
            continue
        if method.objective.kind == "dpo":
            loss = pairs.get(row, torch.zeros(()))
        else:
            own = _advantage(method, batch, row, unit) if batch.advantage.dim() == 2 else advantage[row]
            loss = _surrogate(method, value, float(before[row, unit][0]), own)
        if method.objective.kind == "stepwise":
            on = (rollouts.canvas_mask[row] & ~rollouts.hint_mask[row]).nonzero().flatten().tolist()
            masked = sum(int(rollouts.reveal_step[row, place]) >= unit // rollouts.length for place in on)
            loss = loss * len(on) / masked
        if method.kl.beta > 0:
            length = len(_tokens(method, rollouts, row))
            loss = loss + method.kl.beta * _distance(method, value, float(anchor[row, unit][0]), length)
        if isinstance(method.reduction, Constant):
            share = 1 / (filled * method.reduction.constant)
        elif method.reduction == "token_mean":
            share = 1 / sum(units.values())
        else:
            share = 1 / (filled * units[row])
        assert math.isfinite(share)
        total = total + loss * weight * share
    return total

"""One training step: plans, frozen estimates, then per inner pass leaf -> reduce -> objective -> reduction -> cotangent -> backward."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rl.learner import Learner, TrainingError
from rl.likelihood import Estimate
from rl.masks import MaskPlan, PlanKey
from rl.method import Method
from rl.metrics import Metrics
from rl.objectives import KL_ESTIMATORS, Units, k2_sum
from rl.reduce import reduce_loss, row_scale
from rl.scored import ScoredBatch

# Rule 2: what the first pass may differ from `old` (log-probability of a scored position, the same micro-batches twice).
FIRST_PASS_BOUND = {torch.float32: 0.0, torch.bfloat16: 1e-2}


Watch = Callable[[Tensor, Estimate, Estimate], None]


@dataclass(frozen=True, eq=False)
class Derivative:
    """The scalar loss of a pass and its derivative with respect to the scored log-probabilities, ``[N, S]``."""

    loss: Tensor
    cotangent: Tensor
    new: Estimate
    old: Estimate
    units: Units  # what the objective saw, without its gradient


def differentiate(
    method: Method,
    batch: ScoredBatch,
    plan: MaskPlan,
    values: Tensor,
    old: Tensor,
    reference: Tensor | None,
    scale: Tensor,
) -> Derivative:
    """Everything between scoring and backward: pure, on small tensors. values, old, reference ``[N, S]``; scale ``[B]``."""
    if batch.advantage is None:
        raise ValueError("the batch has no advantages yet")
    leaf = values.detach().clone().requires_grad_()
    new = method.estimator.reduce(leaf, plan, batch.rollouts, batch.advantage)
    before = method.estimator.reduce(old, plan, batch.rollouts, batch.advantage)
    anchor = (
        None if reference is None else method.estimator.reduce(reference, plan, batch.rollouts, batch.advantage).value
    )
    advantage = batch.advantage.to(leaf.device).unsqueeze(1).expand_as(new.value)
    group = batch.rollouts.group_id.to(leaf.device)
    tokens = method.estimator.tokens(batch.rollouts).sum(1).to(leaf.device)
    units = Units(new.value, before.value, advantage, new.mask, anchor, group, tokens=tokens)
    per_unit = method.objective.per_unit(units)
    if anchor is not None and method.kl.beta > 0:
        per_unit = per_unit + method.kl.beta * _distance(method, batch, new.value, anchor)
    loss = reduce_loss(per_unit, new.weight, scale.to(leaf.device))
    if not torch.isfinite(loss):
        raise TrainingError(f"the loss is {float(loss.detach())}")
    (cotangent,) = torch.autograd.grad(loss, leaf)
    value = new.value.detach()
    return Derivative(loss.detach(), cotangent, Estimate(value, new.weight), before, replace(units, new=value))


def _distance(method: Method, batch: ScoredBatch, new: Tensor, anchor: Tensor) -> Tensor:
    """The KL term per unit, ``[R, U]``."""
    if method.kl.estimator == "k2_sum":
        length = method.estimator.tokens(batch.rollouts).sum(1, keepdim=True)
        return k2_sum(new, anchor, length.to(new))
    return KL_ESTIMATORS[method.kl.estimator](new, anchor)


def train_step(
    learner: Learner, batch: ScoredBatch, method: Method, *, seed: int, step: int, watch: Watch | None = None
) -> Metrics:
    """Train on one batch of scored rollouts; ``step`` addresses the random streams.

    watch is shown (rows of the batch, new, old) of every inner pass before its optimizer step.
    """
    metrics = Metrics()
    estimator = method.estimator
    law = estimator.scoring_law(batch.rollouts.sampler_spec, tuple(learner.policy.forbidden_ids))
    # Denominators: every row that counts, whether or not it has a gradient.
    count = estimator.unit_count(batch.rollouts)
    counted = ~batch.rollouts.truncated if method.mask_truncated else torch.ones(len(batch), dtype=torch.bool)
    units, rows = learner.total((count * counted).sum()), learner.total((counted & (count > 0)).sum())
    # Rows without advantage add exactly nothing unless a KL term or their group acts on them: they are never scored.
    signal = counted & (torch.ones_like(counted) if method.scores_every_row else batch.advantage != 0)  # type: ignore[operator]
    metrics.add({"signal_share": (signal.sum(), len(batch))})
    picked = signal.nonzero().squeeze(1)
    if not len(picked):
        metrics.set("skipped", 1)
        return metrics
    work = batch.rows(picked)
    scale = row_scale(method.reduction, count[picked], units, rows)

    passes = method.inner_passes
    plans = [estimator.plan(work.rollouts, PlanKey(seed, step, number, passes)) for number in range(passes)]
    shortcut = method.on_policy and step > 0
    if shortcut:
        # New equals old and nothing else is compared with it, so the derivative is known without the values: any will do.
        olds = [torch.zeros(len(plan), work.rollouts.length, device=learner.policy.device) for plan in plans]
    else:
        olds = [learner.score(work.rollouts, plan, law) for plan in plans]
    references: list[Tensor | None] = [None] * len(plans)
    if method.needs_reference:
        with learner.reference():
            references = [learner.score(work.rollouts, plan, law) for plan in plans]

    for number, (plan, old, reference) in enumerate(zip(plans, olds, references, strict=True)):
        values = old if number == 0 else learner.score(work.rollouts, plan, law)
        result = differentiate(method, work, plan, values, old, reference, scale)
        fresh = learner.backward(work.rollouts, plan, result.cotangent, law)
        if shortcut:  # only now are the values known, and with them the loss
            values = fresh
            known = torch.where(torch.isnan(fresh), 0.0, fresh)
            result = differentiate(method, work, plan, known, known, None, scale)
        else:
            _check_forward_twice(metrics, method, learner, values, fresh, plan)
        if number == 0:
            _compare_with_sampler(metrics, method, work, plan, values)
        _log_pass(metrics, method, work, result, values, plan)
        if watch is not None:
            watch(picked, result.new, result.old)
        metrics.add({name: (value, 1) for name, value in learner.step().items()}, prefix="optim/")
    return metrics


def _check_forward_twice(
    metrics: Metrics, method: Method, learner: Learner, values: Tensor, fresh: Tensor, plan: MaskPlan
) -> None:
    """Rule 2: the pass with gradient must repeat the pass without, or the first ratio is not 1."""
    scored = plan.rows_scored.to(fresh.device) & ~torch.isnan(fresh)
    gap = float((fresh - values)[scored].abs().max()) if scored.any() else 0.0
    metrics.largest("first_pass_gap", gap)
    bound = FIRST_PASS_BOUND[learner.policy.dtype]
    if not gap <= bound:
        raise TrainingError(
            f"the same weights scored the same views twice and differ by {gap:.2e} in log-probability (allowed: {bound:g}); "
            "something random or stateful acts in the forward pass: dropout, or a kernel that is not deterministic"
        )
    clip = min(getattr(method.objective, "epsilon_low", 1.0), getattr(method.objective, "epsilon_high", 1.0))
    if gap > clip:
        raise TrainingError(
            f"the clip range {clip:g} is below the noise of scoring, {gap:.2e}; widen it or train in float32"
        )


def _compare_with_sampler(metrics: Metrics, method: Method, work: ScoredBatch, plan: MaskPlan, values: Tensor) -> None:
    """How far the learner's law is from the one the tokens were drawn from; nothing but rounding where both score the same states."""
    if method.estimator.kind != "trajectory" or method.estimator.law != "sampler":
        return
    sampled = work.rollouts.sampler_logprob[plan.row].to(values.device)
    gap = (values - sampled)[plan.scored.to(values.device) & ~torch.isnan(values)].abs()
    metrics.add({"sampler_gap": (gap.sum(), gap.numel())})
    metrics.largest("sampler_gap_max", float(gap.max()) if gap.numel() else 0.0)


def _log_pass(
    metrics: Metrics,
    method: Method,
    work: ScoredBatch,
    result: Derivative,
    values: Tensor,
    plan: MaskPlan,
) -> None:
    units = result.units
    metrics.add({"loss": (result.loss, 1)})
    metrics.add(method.objective.metrics(units))
    for name, (least, most) in method.objective.tails(units).items():
        metrics.largest(f"{name}_max", most)
        metrics.smallest(f"{name}_min", least)
    metrics.mean("logprob", values, plan.scored.to(values.device) & ~torch.isnan(values))
    if units.reference is not None and method.kl.beta > 0:
        name = "kl" if method.estimator.kind == "trajectory" else "penalty"
        metrics.mean(name, _distance(method, work, units.new, units.reference), units.mask)

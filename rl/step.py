"""One training step: plans, frozen estimates, then per inner pass leaf -> reduce -> objective -> reduction -> cotangent -> backward."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rl.backends import TrainingError
from rl.correction import Correction, log_ratios, recorded
from rl.learner import Learner
from rl.learners import LearnerGroup
from rl.likelihood import Estimate, Trajectory
from rl.masks import MaskPlan, PlanKey
from rl.method import Method
from rl.metrics import Metrics
from rl.objectives import KL_ESTIMATORS, Units, k2_sum
from rl.own_plan import plan_of
from rl.reduce import reduce_loss, row_scale
from rl.scored import ScoredBatch
from rollouts.law import Law

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
    distance: Tensor | None  # the KL term per unit
    drift: Tensor | None  # log-ratio of old to what drew, per unit, where each is corrected


def differentiate(
    method: Method,
    batch: ScoredBatch,
    plan: MaskPlan,
    values: Tensor,
    old: Tensor | None,
    reference: Tensor | None,
    scale: Tensor,
) -> Derivative:
    """Everything between scoring and backward: pure, on small tensors. values ``[N, S]``, or ``[N, S, 2]`` with exact divergences beside
    them; old ``[N, S]``, None where the values are it; reference ``[N, S]``; scale ``[B]``."""
    if batch.advantage is None:
        raise ValueError("the batch has no advantages yet")
    leaf = values.detach().clone().requires_grad_()

    def reduce(scores: Tensor) -> Estimate:
        return method.estimator.reduce(scores, plan, batch.rollouts, batch.advantage)

    new, before = reduce(log_probs(leaf)), reduce(log_probs(values).detach() if old is None else old)
    anchor = None if reference is None else reduce(reference).value
    # A copy: an objective of the user's own may write into what it is given.
    advantage = method.estimator.on_units(
        batch.advantage.to(leaf.device).clone(), plan, batch.rollouts, new.value.shape
    )
    group = batch.rollouts.group_id.to(leaf.device)
    tokens = method.estimator.tokens(batch.rollouts).sum(1).to(leaf.device)
    units = Units(new.value, before.value, advantage, new.mask, anchor, group, tokens, new.factor)
    per_unit, distance = _per_unit(method, units), None
    if method.exact_kl:
        distance = reduce(leaf[..., 1]).value
    elif anchor is not None and method.kl.beta > 0:
        distance = _distance(method, batch, new.value, anchor)
    if distance is not None:
        per_unit = per_unit + method.kl.beta * distance
    drift = None
    if method.correction is not None and method.correction.per == "unit":
        order = getattr(method.estimator, "order", False)
        then = reduce(recorded(plan, batch.rollouts, order=order).to(leaf.device)).value
        drift = before.value - then
        per_unit = per_unit * method.correction.weights(drift)
    loss = reduce_loss(per_unit, new.weight, scale.to(leaf.device))
    if not torch.isfinite(loss):
        raise TrainingError(f"the loss is {float(loss.detach())}")
    if not loss.requires_grad:
        raise TrainingError(
            f"objective {method.objective.kind}: its loss does not depend on units.new, so there is no gradient"
        )
    (cotangent,) = torch.autograd.grad(loss, leaf)
    value = new.value.detach()
    return Derivative(
        loss=loss.detach(),
        cotangent=cotangent,
        new=Estimate(value, new.weight),
        old=before,
        units=replace(units, new=value),
        distance=None if distance is None else distance.detach(),
        drift=drift,
    )


def _per_unit(method: Method, units: Units) -> Tensor:
    """The objective's losses ``[R, U]``. Another shape would be spread over rows and units by broadcasting, and nobody would notice."""
    loss = method.objective.per_unit(units)
    if isinstance(loss, Tensor) and loss.shape == units.new.shape:
        return loss
    found = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise TrainingError(
        f"objective {method.objective.kind}: per_unit gave {found}, and a loss for each unit is needed, {list(units.new.shape)}"
    )


def log_probs(values: Tensor) -> Tensor:
    """``[N, S]`` of what `Learner.score` gives, with or without divergences."""
    return values if values.ndim == 2 else values[..., 0]


def _distance(method: Method, batch: ScoredBatch, new: Tensor, anchor: Tensor) -> Tensor:
    """The KL term per unit, ``[R, U]``."""
    if method.kl.estimator == "k2_sum":
        length = method.estimator.tokens(batch.rollouts).sum(1, keepdim=True)
        return k2_sum(new, anchor, length.to(new))
    return KL_ESTIMATORS[method.kl.estimator](new, anchor)


def train_step(
    learner: Learner | LearnerGroup,
    batch: ScoredBatch,
    method: Method,
    *,
    seed: int,
    step: int,
    watch: Watch | None = None,
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
    units, rows = float((count * counted).sum()), float((counted & (count > 0)).sum())
    # Rows without advantage add exactly nothing unless a KL term or their group acts on them: they are never scored.
    assert batch.advantage is not None
    loud = (batch.advantage != 0).reshape(len(batch), -1).any(1)
    signal = counted & (torch.ones_like(counted) if method.scores_every_row else loud)
    metrics.add({"signal_share": (signal.sum(), len(batch))})
    picked = signal.nonzero().squeeze(1)
    if not len(picked):
        metrics.set("skipped", 1)
        return metrics
    work = batch.rows(picked)
    scale = row_scale(method.reduction, count[picked], units, rows)

    if method.correction is not None and method.correction.per == "trajectory":
        scale = scale * _corrected(learner, method.correction, work, metrics)

    passes = method.inner_passes
    assert work.advantage is not None  # for the type checker
    # Where the passes share their masks, what is scored before the first update serves them all.
    distinct = passes if estimator.redraws else 1
    keys = [PlanKey(seed, step, number, passes) for number in range(distinct)]
    plans = [plan_of(estimator, work.rollouts, work.advantage, key) for key in keys]
    views = max((int(plan.row.bincount().max()) for plan in plans if len(plan)), default=0)
    once = method.one_forward(views, learner.micro_batch)
    if views > learner.micro_batch:  # rows are cut: an estimator of the user's own may have said too much
        once = once and all(plan.one_view_each(estimator.unit) for plan in plans if len(plan))
    # On the first pass new equals old. At the start of a run it is scored beforehand all the same, to assert that.
    known = step > 0 if once or method.on_policy else method.exact_kl
    olds = [
        None if known and number == 0 else learner.score(work.rollouts, plan, law) for number, plan in enumerate(plans)
    ]
    references: list[Tensor | None] = [None] * len(plans)
    if method.objective.needs_reference or (method.kl.beta > 0 and not method.exact_kl):
        with learner.reference():
            references = [learner.score(work.rollouts, plan, law) for plan in plans]

    for number in range(passes):
        which = number if estimator.redraws else 0
        frozen = _Frozen(plans[which], olds[which], references[which], first=number == 0)
        values, result = _one_pass(learner, method, work, frozen, law, scale, once, metrics)
        if olds[which] is None:
            olds[which] = values
        if number == 0:
            _compare_with_sampler(metrics, method, work, frozen.plan, values)
            if method.correction is not None and result.drift is not None:
                method.correction.log(metrics, result.drift[result.new.mask])
        _log_pass(metrics, method, result, values, frozen.plan)
        if watch is not None:
            watch(picked, result.new, result.old)
        metrics.add({name: (value, 1) for name, value in learner.step().items()}, prefix="optim/")
    return metrics


def _corrected(learner: Learner | LearnerGroup, correction: Correction, work: ScoredBatch, metrics: Metrics) -> Tensor:
    """The weight of each row, ``[B]``, under the policy before the first pass."""

    def score(plan: MaskPlan, estimator: Trajectory) -> Tensor:
        law = estimator.scoring_law(work.rollouts.sampler_spec, tuple(learner.policy.forbidden_ids))
        return learner.score(work.rollouts, plan, law)

    ratio = log_ratios(score, work.rollouts).cpu()
    correction.log(metrics, ratio)
    return correction.weights(ratio)


@dataclass(frozen=True, eq=False)
class _Frozen:
    """What a pass compares with, scored before the first update. old: None where the pass's own scores are it."""

    plan: MaskPlan
    old: Tensor | None
    reference: Tensor | None
    first: bool


def _one_pass(
    learner: Learner | LearnerGroup,
    method: Method,
    work: ScoredBatch,
    frozen: _Frozen,
    law: Law,
    scale: Tensor,
    once: bool,
    metrics: Metrics,
) -> tuple[Tensor, Derivative]:
    """Accumulate the gradient of a pass; its log-probabilities ``[N, S]`` and its derivative, for the log. once: in one forward."""
    plan, old, reference = frozen.plan, frozen.old, frozen.reference
    anchors = learner.anchors(work.rollouts, plan) if method.exact_kl else None
    before = old if frozen.first else None
    if once:
        slope = LocalSlope(method, work, plan, old, reference, scale)
    elif old is None and method.on_policy:  # the derivative is known without the scores: any will do
        some = torch.zeros(len(plan), work.rollouts.length, device=learner.policy.device)
        slope = differentiate(method, work, plan, some, None, reference, scale).cotangent
    else:
        before = learner.score(work.rollouts, plan, law, anchors) if before is None else before
        slope = differentiate(method, work, plan, before, old, reference, scale).cotangent
    fresh = learner.backward(work.rollouts, plan, slope, law, anchors)
    if before is not None:
        _check_forward_twice(metrics, method, learner, log_probs(before), log_probs(fresh), plan)
    values = torch.where(torch.isnan(fresh), 0.0, fresh) if before is None or once else before
    return log_probs(values), differentiate(method, work, plan, values, old, reference, scale)


@dataclass(frozen=True, eq=False)
class LocalSlope:
    """The cotangent of some of a plan's views from their own scores (a ``Slope``); old: None where these are it."""

    method: Method
    work: ScoredBatch
    plan: MaskPlan
    old: Tensor | None
    reference: Tensor | None
    scale: Tensor

    def __call__(self, part: slice, values: Tensor) -> Tensor:
        # On a rank these come from the driver, which may have no GPU.
        frozen = (None if whole is None else whole[part].to(values.device) for whole in (self.old, self.reference))
        before, anchor = frozen
        plan = self.plan.views(part)
        return differentiate(self.method, self.work, plan, values, before, anchor, self.scale).cotangent

    def share(self, views: slice, rows: Tensor, plan: MaskPlan) -> "LocalSlope":
        """The same for some of the views alone. rows: those of the batch that they are of; plan: the views, their rows counted in these."""
        old, reference = (None if whole is None else whole[views] for whole in (self.old, self.reference))
        return LocalSlope(self.method, self.work.rows(rows), plan, old, reference, self.scale[rows])


def _check_forward_twice(
    metrics: Metrics, method: Method, learner: Learner | LearnerGroup, values: Tensor, fresh: Tensor, plan: MaskPlan
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


def _log_pass(metrics: Metrics, method: Method, result: Derivative, values: Tensor, plan: MaskPlan) -> None:
    units = result.units
    metrics.add({"loss": (result.loss, 1)})
    metrics.add(method.objective.metrics(units))
    for name, (least, most) in method.objective.tails(units).items():
        metrics.largest(f"{name}_max", most)
        metrics.smallest(f"{name}_min", least)
    metrics.mean("logprob", values, plan.scored.to(values.device) & ~torch.isnan(values))
    if result.distance is not None:
        metrics.mean("kl" if method.estimator.kind == "trajectory" else "penalty", result.distance, units.mask)

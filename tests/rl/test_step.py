"""One training step against the naive computation: loss, gradient, denominators, and what is left out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rl.estimators import Coupled
from rl.masks import PlanKey
from rl.method import Method, forwards
from rl.presets import PRESETS
from rl.reduce import row_scale
from rl.scored import ScoredBatch
from rl.step import differentiate, train_step
from rollouts.policy import Policy
from rollouts.spec import SamplerSpec
from tests.oracles.training import (
    ESTIMATORS,
    FEW,
    OBJECTIVES,
    REDUCTIONS,
    SEQUENCES,
    SPEC,
    Weights,
    batch_for,
    copies,
    distance,
    lora_policy,
    make_batch,
    method_of,
    naive_gradient,
    prepared,
    preset_of,
    tiny_folder,
    tiny_policy,
    trained,
)

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


def check(policy: Policy, batch: ScoredBatch, method: Method, *, step: int = 0, **options: Any) -> dict[str, Any]:
    """Run a training step and hold every pass to the oracle; returns the metrics."""
    learner, recorder, anchor = prepared(policy, method, **options)
    metrics = train_step(learner, batch, method, seed=3, step=step).result()
    assert len(recorder.gradients) == method.inner_passes
    losses = []
    for number, gradient in enumerate(recorder.gradients):
        key = PlanKey(3, step, number, method.inner_passes)
        now, old = recorder.weights[number], recorder.weights[0]
        loss, wanted = naive_gradient(policy, batch, method, key, now=now, old=old, reference=anchor)
        assert distance(gradient, wanted) < TOLERANCE
        losses.append(loss)
    if not (method.on_policy and step):
        assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=TOLERANCE, abs=1e-6)
    return metrics


# ---- equal to the naive computation


# Every estimator meets every objective and every reduction; all three together for one estimator of each kind.
COMBINATIONS = [
    (estimator, objective, reduction)
    for e, estimator in enumerate(ESTIMATORS)
    for o, objective in enumerate(OBJECTIVES)
    for r, reduction in enumerate(REDUCTIONS)
    if estimator in FEW or (e + o) % len(REDUCTIONS) == r
]


@pytest.mark.parametrize(("estimator", "objective", "reduction"), COMBINATIONS)
def test_loss_and_gradient_equal_the_naive_computation(estimator: str, objective: str, reduction: str) -> None:
    """Two passes: at new = old, and with the weights moved in between, where some ratios are clipped."""
    policy = tiny_policy()
    method = method_of(estimator, objective, reduction, inner_passes=2)
    metrics = check(policy, batch_for(policy, method), method)
    assert metrics["first_pass_gap"] == 0.0
    if "clip_share" in metrics:
        assert 0 < metrics["clip_share"] < 0.5  # of both passes; the first clips nothing


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("objective", SEQUENCES)
def test_objectives_of_sequences_equal_the_naive_computation(objective: str, reduction: str) -> None:
    policy = tiny_policy()
    method = method_of(SEQUENCES[objective][0], objective, reduction, inner_passes=2)
    metrics = check(policy, batch_for(policy, method), method)
    assert metrics["first_pass_gap"] == 0.0
    assert metrics["signal_share"] == (pytest.approx(6 / 9) if objective in ("dpo", "dpo, smoothed") else 1.0)
    assert ("weight_ess" in metrics) == objective.startswith("weighted")
    assert ("preference/accuracy" in metrics) == objective.startswith("dpo")


def test_the_weights_of_a_group_are_those_of_the_rows_that_count() -> None:
    """Truncated rows leave the group; without tokens or peers nothing goes wrong."""
    policy = tiny_policy()
    method = method_of("elbo, sum", "weighted cross-entropy, mean", "sequences", inner_passes=2, mask_truncated=True)
    check(policy, make_batch(policy), method)
    single = method_of("elbo, sum", "weighted cross-entropy", "sequences", inner_passes=2)
    learner, recorder, _ = prepared(policy, single)
    batch = make_batch(policy)
    metrics = train_step(learner, batch.rows(torch.tensor([0, 4, 8])), single, seed=3, step=0).result()
    assert (metrics["weight_min"], metrics["weight_max"]) == (0.0, 0.0)  # alone in its group a row weighs 1 - 1
    assert all(not gradient.any() for gradient in recorder.gradients[0])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_same_under_lora_and_checkpointing(estimator: str, folder: Path) -> None:
    policy = lora_policy(folder, gradient_checkpointing=True)
    method = method_of(estimator, "clipped, k3", inner_passes=2)
    assert check(policy, make_batch(policy), method, size=0.05)["first_pass_gap"] == 0.0


@pytest.mark.parametrize("estimator", FEW)
def test_three_passes_of_the_real_optimizer(estimator: str) -> None:
    policy = tiny_policy()
    method = method_of(estimator, "clipped, k3", "sequences", inner_passes=3)
    metrics = check(policy, make_batch(policy), method, size=None, lr=3e-3, max_grad_norm=0.1)
    assert metrics["optim/lr"] == pytest.approx(3e-3)
    assert 0 < metrics["clip_share"] < 1


@pytest.mark.parametrize("preset", PRESETS)
def test_the_presets_equal_the_naive_computation(preset: str) -> None:
    policy = tiny_policy()
    method = preset_of(preset)
    metrics = check(policy, batch_for(policy, method), method)
    assert metrics["first_pass_gap"] == 0.0
    if "ratio" in metrics and method.inner_passes == 1:
        assert metrics["ratio"] == 1.0


@pytest.mark.parametrize("selection", ["confidence", "max_prob", "random"])
def test_whole_canvas_in_one_block_with_every_selection(selection: Any) -> None:
    spec = SamplerSpec(canvas=6, block=6, steps=4, selection=selection, eos="all", early_stop=False)
    policy = tiny_policy()
    for name in ("every step, token", "segments, step", "elbo"):
        method = method_of(name, inner_passes=2)
        check(policy, make_batch(policy, spec), method)


# ---- what must not matter


INVARIANT = [
    *((estimator, objective) for estimator in FEW for objective in ("clipped, k3", "raft")),
    *(("elbo", objective) for objective in ("dual", "policy gradient")),
    ("elbo, draw", "bound"),
    ("mean field, hints", "clipped, k3"),
    *((estimator, objective) for objective, (estimator, _) in SEQUENCES.items()),
]


@pytest.mark.parametrize(("estimator", "objective"), INVARIANT)
def test_micro_batches_padding_and_order_change_nothing(estimator: str, objective: str) -> None:
    assert_invariant(method_of(estimator, objective, "sequences", inner_passes=2))


@pytest.mark.parametrize("preset", PRESETS)
def test_nor_do_they_for_any_preset(preset: str) -> None:
    assert_invariant(preset_of(preset), fewer=True)


def assert_invariant(method: Method, fewer: bool = False) -> None:
    policy = tiny_policy()
    batch = batch_for(policy, method)
    start = copies(trained(policy))
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(5))
    padded = replace(batch, rollouts=batch.rollouts.padded(batch.rollouts.length + 6))
    variants = [
        (batch, 4),
        (batch, 1),
        (batch, 3),
        (batch, 10_000),
        (padded, 3),
        (batch.rows(order), 5),
        (padded.rows(order.flip(0)), 2),
    ]
    results = []
    for variant, micro_batch in variants[::6] if fewer else variants:
        for parameter, value in zip(trained(policy), start, strict=True):
            parameter.data.copy_(value)
        learner, recorder, _ = prepared(policy, method, micro_batch=micro_batch)
        metrics = train_step(learner, variant, method, seed=3, step=0).result()
        results.append((recorder.gradients, metrics))
    first, first_metrics = results[0]
    for gradients, metrics in results[1:]:
        for one, other in zip(gradients, first, strict=True):
            assert distance(one, other) < TOLERANCE
        for name in ("loss", "logprob", "signal_share"):
            assert metrics[name] == pytest.approx(first_metrics[name], rel=TOLERANCE, abs=1e-6)


@pytest.mark.parametrize("estimator", FEW)
def test_a_batch_scored_in_halves_gives_the_gradient_of_the_whole(estimator: str) -> None:
    """Accumulation: what two parts contribute under the whole's denominators adds up."""
    policy = tiny_policy()
    method = method_of(estimator, inner_passes=1)
    batch = make_batch(policy)
    learner, recorder, _ = prepared(policy, method)
    train_step(learner, batch, method, seed=3, step=0)
    law = method.estimator.scoring_law(batch.rollouts.sampler_spec, policy.forbidden_ids)
    count = method.estimator.unit_count(batch.rollouts)
    scale = row_scale("token_mean", count, float(count.sum()), float(len(batch)))
    for parameter, value in zip(learner.parameters, recorder.weights[0], strict=True):
        parameter.data.copy_(value)
    for part in (torch.tensor([1, 4, 7]), torch.tensor([8, 2, 5, 0, 3, 6])):
        some = batch.rows(part)
        plan = method.estimator.plan(some.rollouts, PlanKey(3, 0))
        values = learner.score(some.rollouts, plan, law)
        result = differentiate(method, some, plan, values, values, None, scale[part])
        learner.backward(some.rollouts, plan, result.cotangent, law)
    learner.step()
    assert distance(recorder.gradients[1], recorder.gradients[0]) < TOLERANCE


# ---- what is left out


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("objective", ["clipped", "bound", "policy gradient", "raft"])
def test_the_shortcut_on_policy_has_the_gradient_of_the_full_path(estimator: str, objective: str) -> None:
    """After step 0, with one pass and no reference, nothing is scored beforehand: the rows of a micro-batch are whole, or else the
    derivative is known without scores. The oracle scores everything."""
    method = method_of(estimator, objective, "sequences")
    assert method.on_policy == method.estimator.linear
    for micro_batch in (100, 1):
        policy = tiny_policy()
        batch = batch_for(policy, method)
        metrics = check(policy, batch, method, step=4, micro_batch=micro_batch)
        whole = method.estimator.scored_once or micro_batch > 1
        assert ("first_pass_gap" in metrics) == (not whole and not method.on_policy)
        if objective == "clipped":
            assert metrics["ratio"] == 1.0


def test_no_shortcut_where_the_weights_hang_on_the_scores() -> None:
    """With one pass, at a later step: everything is scored, the reference too, and the gradient is the oracle's."""
    policy = tiny_policy()
    method = method_of("elbo, sum", "weighted cross-entropy", "sequences")
    assert not method.on_policy
    metrics = check(policy, batch_for(policy, method), method, step=4)
    assert metrics["first_pass_gap"] == 0.0
    assert "penalty" not in metrics


@pytest.mark.parametrize("objective", ["clipped", "dual", "policy gradient", "raft"])
def test_the_shortcut_reports_the_loss_of_the_full_path(objective: str) -> None:
    policy = tiny_policy()
    method = method_of("every step, token", objective, "sequences")  # the plan is the same at every step
    batch = batch_for(policy, method)
    reported = []
    for step in (0, 4):
        learner, _, _ = prepared(policy, method, size=0.0)
        reported.append(train_step(learner, batch, method, seed=3, step=step).result()["loss"])
    assert reported[1] == pytest.approx(reported[0], rel=1e-5)


def test_the_shortcut_saves_the_scoring_pass() -> None:
    policy = tiny_policy()
    method = method_of("every step, token")
    batch = make_batch(policy)
    work = []
    for step in (0, 1):
        learner, _, _ = prepared(policy, method)
        train_step(learner, batch, method, seed=3, step=step)
        work.append((learner.work.forward, learner.work.backward))
    assert work[0][0] == 2 * work[1][0]
    assert work[0][1] == work[1][1] == work[1][0]


@pytest.mark.parametrize(
    ("estimator", "distinct"), [("every step, token", 1), ("left to right", 1), ("elbo", 3), ("sandwich", 3)]
)
def test_a_pass_takes_one_forward_where_rows_are_whole(estimator: str, distinct: int) -> None:
    """Three passes, each with gradient, and before them old scores of the masks that the first pass does not have; under a reference,
    too. Otherwise the first pass and the coupling of the others are scored beforehand."""
    policy = tiny_policy()
    method = method_of(estimator, "clipped, k3", inner_passes=3)
    batch = batch_for(policy, method)
    views = [len(method.estimator.plan(batch.rollouts, PlanKey(3, 1, number, 3))) for number in range(3)]
    found = {}
    for micro_batch in (100, 1):
        learner, _, _ = prepared(policy, method, micro_batch=micro_batch, size=0.0)
        train_step(learner, batch, method, seed=3, step=1)
        found[micro_batch] = learner.work.forward - sum(views[:distinct])  # the reference's
        cost = forwards(method, SPEC, 1, len(batch), micro_batch)
        assert found[micro_batch] <= cost["old"] + cost["train"]
    assert found[100] == sum(views[1:distinct]) + sum(views)
    if not method.estimator.scored_once:
        assert found[1] == sum(views[:distinct]) + sum(views[1:]) + learner.work.backward
        assert 0 < learner.work.backward <= sum(views)


class Boastful(Coupled):
    """Scores a token in two views and says that it does not."""

    @property
    def scored_once(self) -> bool:
        return True


def test_an_estimator_that_says_too_much_is_not_believed() -> None:
    for micro_batch in (100, 1):
        policy = tiny_policy()
        method = method_of("coupled", inner_passes=2).model_copy(update={"estimator": Boastful()})
        check(policy, batch_for(policy, method), method, step=1, micro_batch=micro_batch)


@pytest.mark.parametrize("estimator", FEW)
def test_rows_without_advantage_are_never_scored_and_change_nothing(estimator: str) -> None:
    policy = tiny_policy()
    method = method_of(estimator, reduction="sequences", inner_passes=2)
    batch = make_batch(policy)
    assert batch.advantage is not None
    silent = int((batch.advantage == 0).sum())
    assert silent == 3
    learner, recorder, _ = prepared(policy, method, micro_batch=1)
    metrics = train_step(learner, batch, method, seed=3, step=0).result()
    assert metrics["signal_share"] == pytest.approx(1 - silent / len(batch))
    views = len(method.estimator.plan(batch.rows((batch.advantage != 0).nonzero().flatten()).rollouts, PlanKey(3, 0)))
    # Two old scores, the second pass once more where rows are in parts, two passes with gradient.
    assert learner.work.forward <= 5 * views
    # A gradient of such a row is nothing, but its units count: without the rows themselves the gradient is larger.
    learner, fewer, _ = prepared(policy, method, micro_batch=1)
    for parameter, value in zip(learner.parameters, recorder.weights[0], strict=True):
        parameter.data.copy_(value)
    train_step(learner, batch.rows((batch.advantage != 0).nonzero().flatten()), method, seed=3, step=0)
    grown = [gradient * (len(batch) - silent) / len(batch) for gradient in fewer.gradients[0]]
    assert distance(grown, recorder.gradients[0]) < TOLERANCE


def test_under_a_reference_every_row_counts() -> None:
    policy = tiny_policy()
    method = method_of("every step, token", "clipped, k2")
    batch = make_batch(policy)
    silent = batch.with_advantage(torch.zeros(len(batch)))
    metrics = check(policy, silent, method)
    assert metrics["signal_share"] == 1.0
    assert metrics["kl"] > 0


def test_a_batch_without_signal_is_skipped_and_counted() -> None:
    policy = tiny_policy()
    method = method_of("every step, token")
    batch = make_batch(policy)
    learner, recorder, _ = prepared(policy, method)
    metrics = train_step(learner, batch.with_advantage(torch.zeros(len(batch))), method, seed=3, step=0).result()
    assert metrics == {"signal_share": 0.0, "skipped": 1}
    assert recorder.gradients == []


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("estimator", FEW)
def test_truncated_rows_leave_loss_and_denominators(estimator: str, reduction: str) -> None:
    policy = tiny_policy()
    method = method_of(estimator, "clipped, k3", reduction, inner_passes=2, mask_truncated=True)
    batch = make_batch(policy)
    assert 0 < int(batch.rollouts.truncated.sum()) < len(batch)
    check(policy, batch, method)
    whole = batch.rows((~batch.rollouts.truncated).nonzero().flatten())
    plain = method.model_copy(update={"mask_truncated": False})
    gradients = []
    for one, data in ((method, batch), (plain, whole)):
        fresh = tiny_policy()
        learner, recorder, _ = prepared(fresh, one)
        train_step(learner, data, one, seed=3, step=0)
        gradients.append(recorder.gradients[0])
    assert distance(*gradients) < TOLERANCE


def test_a_batch_that_is_all_truncated_is_skipped() -> None:
    policy = tiny_policy()
    method = method_of("every step, token", "clipped, k3", mask_truncated=True)
    batch = make_batch(policy)
    batch = batch.rows(batch.rollouts.truncated.nonzero().flatten())
    learner, _, _ = prepared(policy, method)
    assert train_step(learner, batch, method, seed=3, step=0).result()["skipped"] == 1


def test_denominators_come_from_the_batch_not_from_the_plan() -> None:
    """Half the steps scored at twice the weight: the expectation over plans is the gradient of the full plan."""
    policy = tiny_policy()
    batch = make_batch(policy)
    full = naive(policy, batch, method_of("every step, step"), 0)
    sampled = [naive(policy, batch, method_of("sampled, step"), step) for step in range(100)]
    # 100 plans of few rows leave a few per cent of noise; plan-made denominators would double the gradient.
    mean = [torch.stack(parts).mean(0) for parts in zip(*sampled, strict=True)]
    length = sum(float((a * b).sum()) for a, b in zip(mean, full, strict=True)) / sum(
        float((b * b).sum()) for b in full
    )
    assert length == pytest.approx(1.0, abs=0.1)


def naive(policy: Policy, batch: ScoredBatch, method: Method, step: int) -> Weights:
    """The gradient by the learner, weights left alone."""
    learner, recorder, _ = prepared(policy, method, size=0.0, micro_batch=1000)
    train_step(learner, batch, method, seed=3, step=step)
    return recorder.gradients[0]

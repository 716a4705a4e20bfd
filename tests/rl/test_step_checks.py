"""What a training step asserts and logs: the first ratio, dropout, the reference, what stops a run, metrics."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rl.backends import TrainingError
from rl.masks import PlanKey
from rl.method import Method
from rl.presets import PRESETS
from rl.step import FIRST_PASS_BOUND, differentiate, train_step
from rollouts.models import load_policy
from rollouts.policy import Policy
from tests.oracles.training import (
    ESTIMATORS,
    FEW,
    batch_for,
    copies,
    lora_policy,
    make_batch,
    make_learner,
    method_of,
    prepared,
    preset_of,
    tiny_folder,
    tiny_policy,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


# ---- the first pass


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("lora", "checkpointing"), [(False, False), (False, True), (True, False), (True, True)])
def test_the_first_ratio_is_exactly_one(preset: str, dtype: str, lora: bool, checkpointing: bool, folder: Path) -> None:
    load = lora_policy if lora else load_policy
    policy = load(folder, dtype=dtype, gradient_checkpointing=checkpointing)
    method = preset_of(preset).model_copy(update={"inner_passes": 2})
    learner, _, _ = prepared(policy, method, micro_batch=3, size=0.0)  # both passes at the starting weights
    metrics = train_step(learner, batch_for(policy, method), method, seed=3, step=0).result()
    assert metrics["first_pass_gap"] == 0.0
    if "ratio" in metrics:
        assert metrics["ratio"] == 1.0
        assert metrics["clip_share"] == metrics["approx_kl_old"] == 0.0
    assert FIRST_PASS_BOUND[torch.float32] == 0.0


def test_the_learner_scores_what_the_sampler_recorded() -> None:
    policy = tiny_policy()
    for estimator, bound in (("every step, token", 1e-5), ("order, sequence", 1e-5)):
        learner, _, _ = prepared(policy, method_of(estimator), size=0.0)
        metrics = train_step(learner, make_batch(policy), method_of(estimator), seed=3, step=0).result()
        assert 0 <= metrics["sampler_gap"] <= metrics["sampler_gap_max"] < bound
    learner, _, _ = prepared(policy, method_of("segments, token"), size=0.0)
    metrics = train_step(learner, make_batch(policy), method_of("segments, token"), seed=3, step=0).result()
    assert metrics["sampler_gap_max"] > 0.1  # merged steps are another law, and the log says so


def switch_on_lora_dropout(policy: Policy) -> None:
    from peft.tuners.lora import LoraLayer

    for module in policy.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout["default"] = torch.nn.Dropout(0.3)


def switch_on_attention_dropout(policy: Policy) -> None:
    for layer in policy.causal_lm.model.layers:
        layer.self_attn.attention_dropout = 0.3


@pytest.mark.parametrize("switch", [switch_on_lora_dropout, switch_on_attention_dropout])
@pytest.mark.parametrize("objective", ["clipped", "clipped, k3"])
def test_dropout_is_caught(switch: Any, objective: str, folder: Path) -> None:
    policy = lora_policy(folder)
    batch = make_batch(policy)
    switch(policy)
    method = method_of("every step, token", objective)
    learner, recorder, _ = prepared(policy, method)
    with pytest.raises(TrainingError, match=r"scored the same views twice and differ by .* dropout, or a kernel"):
        train_step(learner, batch, method, seed=3, step=0)
    assert recorder.gradients == []  # before the update


def test_a_clip_range_below_the_noise_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(folder, dtype="bfloat16")
    objective = {"kind": "clipped", "epsilon_low": 0.001, "epsilon_high": 0.2}
    method = Method.model_validate({"estimator": ESTIMATORS["every step, token"], "objective": objective})
    learner, _, _ = prepared(policy, method)
    own = learner.backward

    def noisy(*args: Any) -> torch.Tensor:
        return own(*args) + 0.005  # within the bound of bfloat16

    monkeypatch.setattr(learner, "backward", noisy)
    with pytest.raises(TrainingError, match=r"the clip range 0\.001 is below the noise of scoring, 5\.0.*e-03"):
        train_step(learner, make_batch(policy), method, seed=3, step=0)


# ---- the reference in a step


@pytest.mark.parametrize("kind", ["base", "start", "moving"])
@pytest.mark.parametrize("estimator", ["every step, token", "mean field, token"])
def test_the_distance_to_the_reference_is_zero_at_the_start(kind: str, estimator: str, folder: Path) -> None:
    policy = lora_policy(folder, filled=False)
    method = method_of(estimator, kl={"beta": 0.5, "reference": kind})
    learner = make_learner(policy)
    learner.freeze_reference(kind)
    metrics = [train_step(learner, make_batch(policy), method, seed=3, step=step).result() for step in range(2)]
    name = "kl" if estimator.startswith("every") else "penalty"
    assert metrics[0][name] == 0.0
    assert metrics[1][name] > 0.0


def test_without_a_frozen_reference_the_step_says_so() -> None:
    policy = tiny_policy()
    with pytest.raises(TrainingError, match="no reference was frozen"):
        train_step(make_learner(policy), make_batch(policy), method_of("elbo", "clipped, k3"), seed=3, step=0)


# ---- what stops a run


def test_a_loss_that_is_not_finite_stops_before_backward() -> None:
    policy = tiny_policy()
    method = method_of("every step, token", inner_passes=2)
    batch = make_batch(policy)
    with torch.no_grad():
        policy.causal_lm.lm_head.weight[2] = float("nan")
    learner, recorder, _ = prepared(policy, method)
    with pytest.raises(TrainingError, match="the loss is nan"):
        train_step(learner, batch, method, seed=3, step=0)
    assert recorder.gradients == []


@pytest.mark.parametrize("step", [0, 4])
def test_a_gradient_that_is_not_finite_stops_before_the_update(step: int) -> None:
    policy = tiny_policy()
    method = method_of("every step, token")
    batch = make_batch(policy)
    learner = make_learner(policy)
    hook = policy.causal_lm.model.norm.weight.register_hook(lambda gradient: gradient / 0.0)
    before = copies(learner.parameters)
    with pytest.raises(TrainingError, match=r"the gradient norm is (nan|inf)"):
        train_step(learner, batch, method, seed=3, step=step)
    hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters, strict=True))


def test_weights_that_are_not_finite_stop_the_shortcut_too() -> None:
    policy = tiny_policy()
    batch = make_batch(policy)
    with torch.no_grad():
        policy.causal_lm.lm_head.weight[2] = float("nan")
    with pytest.raises(TrainingError, match="nan"):
        train_step(make_learner(policy), batch, method_of("every step, token"), seed=3, step=4)


def test_a_batch_needs_advantages() -> None:
    policy = tiny_policy()
    batch = replace(make_batch(policy), advantage=None)
    method = method_of("every step, token", "clipped, k3")
    plan = method.estimator.plan(batch.rollouts, PlanKey(0, 0))
    values = torch.zeros(len(plan), batch.rollouts.length)
    with pytest.raises(ValueError, match="no advantages"):
        differentiate(method, batch, plan, values, values, None, torch.ones(len(batch)))


# ---- metrics


def test_metrics_are_means_over_units_and_passes() -> None:
    policy = tiny_policy()
    method = method_of("every step, token", "clipped, k3", inner_passes=2)
    batch = make_batch(policy)
    learner, recorder, anchor = prepared(policy, method)
    metrics = train_step(learner, batch, method, seed=3, step=0).result()
    law = method.estimator.scoring_law(batch.rollouts.sampler_spec, policy.forbidden_ids)
    scored = []
    for weights in (*recorder.weights, anchor):
        assert weights is not None
        for parameter, value in zip(learner.parameters, weights, strict=True):
            parameter.data.copy_(value)
        plan = method.estimator.plan(batch.rollouts, PlanKey(3, 0))
        scored.append(learner.score(batch.rollouts, plan, law)[plan.scored])
    old, new, reference = scored
    ratio = (new - old).exp()
    assert metrics["logprob"] == pytest.approx(float((old.mean() + new.mean()) / 2), rel=1e-4)
    assert metrics["ratio"] == pytest.approx(float((1 + ratio.mean()) / 2), rel=1e-4)
    d = [reference - old, reference - new]
    assert metrics["kl"] == pytest.approx(float(sum((x.exp() - x - 1).mean() for x in d)) / 2, rel=1e-4)
    assert metrics["approx_kl_old"] == pytest.approx(float((ratio - 1 - (new - old)).mean() / 2), rel=1e-4)


def test_names_of_the_loss_terms() -> None:
    """On surrogate log-probabilities the term is called a penalty, not a KL."""
    policy = tiny_policy()
    for estimator in FEW:
        method = method_of(estimator, "clipped, k2")
        learner, _, _ = prepared(policy, method, size=0.0)
        metrics = train_step(learner, make_batch(policy), method, seed=3, step=0).result()
        assert ("kl" in metrics) == (method.estimator.kind == "trajectory")
        assert ("penalty" in metrics) != ("kl" in metrics)

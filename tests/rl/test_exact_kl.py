"""The KL term summed over the vocabulary: its value, its gradient, that chunks and micro-batches do not show, and what is refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rl import compatibility
from rl.masks import PlanKey
from rl.method import Method
from rl.step import train_step
from rollouts import law as laws
from rollouts.policy import Policy
from rollouts.spec import SamplerSpec
from tests.oracles.training import (
    Weights,
    batch_for,
    distance,
    lora_policy,
    make_batch,
    method_of,
    naive_gradient,
    prepared,
    restore,
    tiny_folder,
    tiny_policy,
    trained,
)

EXACT = {"beta": 0.3, "estimator": "exact"}


def test_the_divergence_is_the_sum_over_the_vocabulary() -> None:
    nothing = float("-inf")
    q = torch.tensor([[0.5, 0.25, 0.25, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    r = torch.tensor([[0.25, 0.5, 0.25, 0.0], [0.5, 0.0, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25]])
    wanted = [0.5 * math.log(2) - 0.25 * math.log(2), math.log(2), 0.0]
    assert laws.kl(q.log(), r.log()).tolist() == pytest.approx(wanted, abs=1e-7)
    leaf = torch.tensor([[0.3, -0.2, nothing]], requires_grad=True)
    laws.kl(leaf.log_softmax(-1), torch.tensor([[0.5, 0.5, 0.0]]).log()).sum().backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()


def naive_divergence(
    policy: Policy, method: Method, batch: Any, key: PlanKey, now: Weights, anchor: Weights
) -> tuple[float, Weights]:
    """sum over scored positions of weight * KL / (units of the batch; for a sequence also its length), and the gradient of that."""
    rollouts, parameters = batch.rollouts, trained(policy)
    plan = method.estimator.plan(rollouts, key)
    law = method.estimator.scoring_law(rollouts.sampler_spec, policy.forbidden_ids)
    allowed = [v for v in range(policy.vocab_size) if v not in law.forbidden]
    tokens = rollouts.tokens[plan.row].clone()
    tokens[plan.masked] = policy.mask_id

    def log_law(weights: Weights) -> Tensor:
        restore(parameters, weights)
        states = policy(tokens, rollouts.attention_mask[plan.row], torch.ones_like(plan.masked))
        logits = policy.logits(states).view(*tokens.shape, -1)
        return logits[..., allowed].div(law.temperature).log_softmax(-1)

    with torch.no_grad():
        theirs = log_law(anchor)
    ours, total = log_law(now), torch.zeros(())
    units = sum(int(method.estimator.tokens(rollouts)[row].sum()) for row in range(len(batch)))
    for view, place in plan.scored.nonzero().tolist():
        length = 1.0
        if method.estimator.unit == "sequence":
            length = float(rollouts.loss_mask[plan.row[view]].sum())
        divergence = (ours[view, place].exp() * (ours[view, place] - theirs[view, place])).sum()
        share = 1.0 / (len(batch) if method.estimator.unit == "sequence" else units)
        total = total + divergence * plan.weight[view, place] * share / length
    gradient = torch.autograd.grad(total, parameters, allow_unused=True)
    return float(total.detach()), [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradient, strict=True)
    ]


@pytest.mark.parametrize("micro_batch", [9, 1])
@pytest.mark.parametrize("estimator", ["every step, token", "mean field, token", "sampled, token", "elbo"])
@pytest.mark.parametrize("lora", [False, True])
def test_loss_and_gradient_are_those_of_the_sum(
    estimator: str, micro_batch: int, lora: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """All weights train, the head too, which the reference then has of its own; or an adapter, and the head is shared."""
    policy = lora_policy(tiny_folder(tmp_path_factory.mktemp("tiny"))) if lora else tiny_policy()
    method = method_of(estimator, inner_passes=2, kl=EXACT)
    batch = batch_for(policy, method)
    learner, recorder, anchor = prepared(policy, method, micro_batch=micro_batch)
    metrics = train_step(learner, batch, method, seed=3, step=1).result()
    plain = method.model_copy(update={"kl": method.kl.model_copy(update={"beta": 0.0})})
    losses = []
    assert anchor is not None
    for number, found in enumerate(recorder.gradients):
        key, now = PlanKey(3, 1, number, 2), recorder.weights[number]
        loss, one = naive_gradient(policy, batch, plain, key, now=now, old=recorder.weights[0])
        far, two = naive_divergence(policy, method, batch, key, now, anchor)
        assert far > 0
        assert distance(found, [a + 0.3 * b for a, b in zip(one, two, strict=True)]) < 1e-5
        losses.append(loss + 0.3 * far)
    assert metrics["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5, abs=1e-6)
    assert metrics["kl" if estimator.startswith(("every", "sampled")) else "penalty"] > 0


def test_it_is_zero_at_the_reference_and_so_is_its_gradient() -> None:
    policy = tiny_policy()
    method = method_of("every step, token", kl=EXACT)
    batch = make_batch(policy)
    batch = batch.with_advantage(torch.zeros(len(batch)))
    learner, recorder, _ = prepared(policy, method)
    learner.freeze_reference("start")
    metrics = train_step(learner, batch, method, seed=3, step=0).result()
    assert metrics["signal_share"] == 1.0
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-7)
    assert metrics["first_pass_gap"] == 0.0
    assert max(float(gradient.abs().max()) for gradient in recorder.gradients[0]) < 1e-6


def test_chunks_of_the_head_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for numbers in (10**9, 40):
        monkeypatch.setattr("rollouts.denoise.CHUNK_NUMBERS", numbers)
        policy = tiny_policy()
        method = method_of("every step, token", kl=EXACT)
        learner, recorder, _ = prepared(policy, method)
        train_step(learner, batch_for(policy, method), method, seed=3, step=1)
        gradients.append(recorder.gradients[0])
    assert distance(*gradients) < 1e-5


def test_it_takes_one_forward_for_the_reference_and_one_for_the_policy() -> None:
    policy = tiny_policy()
    method = method_of("every step, token", kl=EXACT)
    batch = batch_for(policy, method)
    learner, _, _ = prepared(policy, method)
    train_step(learner, batch, method, seed=3, step=1)
    views = len(method.estimator.plan(batch.rollouts, PlanKey(3, 1)))
    assert (learner.work.forward, learner.work.backward) == (2 * views, views)


@pytest.mark.parametrize(
    ("estimator", "sampler", "why"),
    [
        ({"kind": "sandwich"}, {}, "sandwich is no sum over positions"),
        ({"kind": "trajectory", "order": True, "unit": "step"}, {}, "the order is no token"),
        ({"kind": "trajectory"}, {"top_p": 0.9}, "no finite divergence"),
    ],
)
def test_what_has_no_exact_divergence_is_refused(estimator: Any, sampler: Any, why: str) -> None:
    spec = SamplerSpec(canvas=4, block=4, steps=2, selection="confidence", **sampler)
    method = Method.model_validate({"estimator": estimator, "kl": EXACT})
    assert [key for key, message in compatibility.problems(method, spec, 4) if why in message] == ["kl.estimator"]
    milder = method.model_copy(update={"kl": method.kl.model_copy(update={"estimator": "k2"})})
    assert not [message for _, message in compatibility.problems(milder, spec, 4) if why in message]

"""The learner alone: schedules, scoring, backward of a cotangent, the optimizer step and its checks, the reference."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rl.backends import TrainingError
from rl.config import Split, WarmStartConfig
from rl.learner import Learner, lr_factor, micro_batches
from rl.likelihood import Elbo, MeanField, Trajectory
from rl.masks import PlanKey
from rollouts.checkpoints import save_adapter
from rollouts.law import RAW
from rollouts.lora import LoraSpec
from rollouts.models import load_policy
from rollouts.policy import Policy
from tests.oracles.naive_step import naive_scores
from tests.oracles.tabular import TabularPolicy
from tests.oracles.training import (
    Weights,
    copies,
    distance,
    lora_policy,
    make_batch,
    make_learner,
    move,
    tiny_folder,
    tiny_policy,
    trained,
)

KEY = PlanKey(seed=0, step=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def policy() -> Policy:
    return tiny_policy()


def fill_gradients(learner: Learner, value: float = 1.0) -> None:
    for parameter in learner.parameters:
        parameter.grad = torch.full_like(parameter, value)


# ---- learning rate


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 7), (1, 7), (3, 7), (7, 7), (9, 7), (1, 1)])
def test_the_warm_up_rises_to_one_and_never_wastes_a_step(schedule: str, warmup: int, total: int) -> None:
    factors = [lr_factor(schedule, warmup, total, 0.1)(step) for step in range(total)]
    assert factors[:warmup] == pytest.approx([(step + 1) / warmup for step in range(total)][:warmup] if warmup else [])
    assert all(0.1 - 1e-12 <= factor <= 1.0 for factor in factors[warmup:])
    assert min(factors) > 0
    if warmup < total:
        assert factors[warmup] == 1.0


def test_the_schedules_end_where_they_say() -> None:
    linear = [lr_factor("linear", 2, 8, 0.2)(step) for step in range(8)]
    assert linear == pytest.approx([0.5, 1.0, 1.0, 0.84, 0.68, 0.52, 0.36, 0.2])
    cosine = [lr_factor("cosine", 0, 5, 0.0)(step) for step in range(5)]
    assert cosine == pytest.approx([(1 + math.cos(math.pi * k / 4)) / 2 for k in range(5)])
    assert [lr_factor("constant", 0, 3, 0.0)(step) for step in range(5)] == [1.0] * 5
    assert lr_factor("cosine", 0, 5, 0.3)(99) == pytest.approx(0.3)  # past the end: stays


def test_every_step_uses_its_own_factor(policy: Policy) -> None:
    learner = make_learner(policy, lr=0.1, warmup_steps=2, schedule="linear", total_steps=5)
    rates = []
    for _ in range(5):
        fill_gradients(learner)
        rates.append(learner.step()["lr"])
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.05, 0.0])


def test_the_optimizer_is_adamw_with_the_recipes_numbers(policy: Policy) -> None:
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    learner = make_learner(policy, **settings, max_grad_norm=0.5)
    twins = [torch.nn.Parameter(p.detach().clone()) for p in learner.parameters]
    plain = torch.optim.AdamW(twins, **settings)
    for number in range(3):
        for parameter, twin in zip(learner.parameters, twins, strict=True):
            parameter.grad = torch.sin(parameter.detach() * 40 + number)
            twin.grad = parameter.grad.clone()
        norm = math.sqrt(sum(float(twin.grad.double().square().sum()) for twin in twins if twin.grad is not None))
        for twin in twins:
            assert twin.grad is not None
            twin.grad *= 0.5 / norm  # clipped: the norm is far above
        plain.step()
        assert learner.step()["grad_norm"] == pytest.approx(norm, rel=1e-5)  # reported before clipping
        assert all(parameter.grad is None for parameter in learner.parameters)
    for parameter, twin in zip(learner.parameters, twins, strict=True):
        torch.testing.assert_close(parameter.data, twin.data, rtol=1e-5, atol=1e-6)


def test_a_warm_start_configures_a_learner_as_well(policy: Policy) -> None:
    warm = WarmStartConfig(data=Split(path="x"), steps=3, lr=0.01)
    learner = Learner(policy, warm, total_steps=3, micro_batch=2)
    fill_gradients(learner)
    assert learner.step()["lr"] == 0.01


# ---- checks of an update


def test_parameters_in_half_precision_are_refused(policy: Policy) -> None:
    with pytest.raises(TrainingError, match=r"must be float32 masters, found torch\.bfloat16"):
        make_learner(policy.to(torch.bfloat16))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_before_it_does_harm(policy: Policy, value: float) -> None:
    learner = make_learner(policy)
    before = copies(learner.parameters)
    fill_gradients(learner)
    gradient = learner.parameters[3].grad
    assert gradient is not None
    gradient.view(-1)[5] = value
    with pytest.raises(TrainingError, match=f"the gradient norm is {value}"):
        learner.step()
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters, strict=True))


def test_an_optimizer_that_holds_other_parameters_is_an_error(policy: Policy) -> None:
    learner = make_learner(policy)
    learner.optimizer.param_groups[0]["params"] = [torch.nn.Parameter(torch.zeros(3))]
    fill_gradients(learner)
    with pytest.raises(TrainingError, match="changed no parameter: the optimizer does not hold the parameters"):
        learner.step()


def test_a_step_below_the_resolution_of_float32_is_an_error(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(1.0)  # the next float32 is 1.2e-7 away
    learner = make_learner(policy, lr=1e-9)
    fill_gradients(learner)
    with pytest.raises(TrainingError, match=r"learning rate 1e-09 .* below float32 resolution"):
        learner.step()


def test_one_moving_element_is_enough(policy: Policy) -> None:
    learner = make_learner(policy)
    learner.parameters[0].grad = torch.zeros_like(learner.parameters[0])
    learner.parameters[0].grad.view(-1)[7] = 1e-3
    before = learner.parameters[0].detach().clone()
    assert learner.step()["grad_norm"] == pytest.approx(1e-3)
    assert (learner.parameters[0] != before).nonzero().tolist() == [[0, 7]]


@pytest.mark.parametrize(("lr", "gradient"), [(0.0, 1.0), (0.1, 0.0)])
def test_nothing_need_change_without_learning_rate_or_gradient(policy: Policy, lr: float, gradient: float) -> None:
    learner = make_learner(policy, lr=lr)
    fill_gradients(learner, gradient)
    before = copies(learner.parameters)
    assert learner.step()["changed_bf16"] == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters, strict=True))


def test_a_step_without_any_gradient_does_nothing(policy: Policy) -> None:
    assert make_learner(policy).step()["grad_norm"] == 0.0


def test_what_bfloat16_would_have_swallowed_is_counted(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(1.0)
    learner = make_learner(policy, lr=1e-4)  # bfloat16 resolves 1 +- 0.004
    fill_gradients(learner)
    assert learner.step()["changed_bf16"] == 0.0
    learner.optimizer.param_groups[0]["lr"] = 0.1
    fill_gradients(learner)
    assert learner.step()["changed_bf16"] == 1.0


# ---- the two verbs


@pytest.mark.parametrize("estimator", [MeanField(prompt_mask_prob=0.3), Trajectory(order=True, unit="step"), Elbo()])
@pytest.mark.parametrize("micro_batch", [1, 3, 1000])
def test_scores_are_the_oracles(policy: Policy, estimator: Any, micro_batch: int) -> None:
    learner = make_learner(policy, micro_batch=micro_batch)
    batch = make_batch(policy).rollouts
    padded = batch.padded(batch.length + 5)
    plan = estimator.plan(padded, KEY)
    law = estimator.scoring_law(batch.sampler_spec, policy.forbidden_ids)
    values = learner.score(padded, plan, law)
    assert values.shape == (len(plan), padded.length)
    assert not values.requires_grad
    wanted = torch.zeros_like(values)
    with torch.no_grad():
        for place, score in naive_scores(policy, padded, plan, law).items():
            wanted[place] = score
    torch.testing.assert_close(values, wanted, rtol=1e-5, atol=1e-5)
    assert learner.work.forward == len(plan)
    assert learner.work.backward == 0


@pytest.mark.parametrize("micro_batch", [1, 3, 1000])
def test_backward_is_the_gradient_of_the_product_and_accumulates(policy: Policy, micro_batch: int) -> None:
    learner = make_learner(policy, micro_batch=micro_batch)
    batch = make_batch(policy).rollouts
    estimator = Trajectory()
    plan = estimator.plan(batch, KEY)
    cotangent = torch.randn(len(plan), batch.length, generator=torch.Generator().manual_seed(1))
    policy.eval()
    values = learner.backward(batch, plan, cotangent, RAW)
    assert policy.training
    scores = naive_scores(policy, batch, plan, RAW)
    loss = torch.stack([cotangent[place] * score for place, score in scores.items()]).sum()
    wanted = torch.autograd.grad(loss, learner.parameters)
    assert distance([p.grad for p in learner.parameters if p.grad is not None], list(wanted)) < 1e-5
    for place, score in scores.items():
        assert float(values[place]) == pytest.approx(float(score.detach()), abs=1e-5)
    learner.backward(batch, plan, cotangent, RAW)
    assert distance([p.grad for p in learner.parameters if p.grad is not None], [2 * g for g in wanted]) < 1e-5
    assert learner.work.backward == 2 * len(plan)


@pytest.mark.parametrize("micro_batch", [1, 3, 1000])
def test_a_cotangent_may_be_a_function_of_its_micro_batch(policy: Policy, micro_batch: int) -> None:
    """d(sum of squares) / 2: the cotangent of a value is the value; it is asked for once per view, with the values of the pass."""
    learner = make_learner(policy, micro_batch=micro_batch)
    batch = make_batch(policy)
    plan = Trajectory().plan(batch.rollouts, PlanKey(3, 0))
    law = Trajectory().scoring_law(batch.rollouts.sampler_spec, policy.forbidden_ids)
    values = learner.score(batch.rollouts, plan, law)
    learner.backward(batch.rollouts, plan, values, law)
    wanted = [p.grad.clone() for p in learner.parameters if p.grad is not None]
    learner.optimizer.zero_grad()
    seen: list[int] = []

    def slope(part: slice, own: torch.Tensor) -> torch.Tensor:
        assert torch.equal(own, values[part])
        seen.extend(range(part.start, part.stop))
        return own

    assert torch.equal(learner.backward(batch.rollouts, plan, slope, law), values)
    assert seen == list(range(len(plan)))
    for parameter, gradient in zip(learner.parameters, wanted, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)
    learner.optimizer.zero_grad()
    work = learner.work.backward
    learner.backward(batch.rollouts, plan, lambda part, own: torch.zeros_like(own), law)
    assert learner.work.backward == work  # nothing to go back for


def test_micro_batches_hold_whole_rows_where_they_fit() -> None:
    def parts(sizes: list[int], most: int) -> list[tuple[int, int]]:
        row = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
        return [(part.start, part.stop) for part in micro_batches(row, most)]

    assert parts([2, 2, 2], 4) == [(0, 4), (4, 6)]
    assert parts([2, 2, 2], 3) == [(0, 2), (2, 4), (4, 6)]
    assert parts([1] * 5, 2) == [(0, 2), (2, 4), (4, 5)]
    assert parts([5, 1, 3], 3) == [
        (0, 3),
        (3, 6),
        (6, 9),
    ]  # a row that does not fit is cut, and its rest may have company
    assert parts([5, 2], 3) == [(0, 3), (3, 5), (5, 7)]
    assert parts([3], 100) == [(0, 3)]
    assert parts([], 4) == []
    for most in range(1, 9):
        cut = parts([3, 1, 4, 1, 5, 2], most)
        assert [low for low, _ in cut] == [0, *(high for _, high in cut[:-1])]
        assert cut[-1][1] == 16
        assert all(high - low <= most for low, high in cut)


def test_micro_batches_without_cotangent_are_left_out(policy: Policy) -> None:
    learner = make_learner(policy, micro_batch=2)
    batch = make_batch(policy).rollouts
    plan = Trajectory().plan(batch, KEY)
    cotangent = torch.zeros(len(plan), batch.length)
    cotangent[2, plan.scored[2]] = 1.0
    values = learner.backward(batch, plan, cotangent, RAW)
    assert learner.work.forward == learner.work.backward == 2
    width = int(batch.attention_mask[plan.row[2:4]].sum(1).max())
    done = torch.zeros_like(values, dtype=torch.bool)
    done[2:4, :width] = True
    assert torch.equal(~values.isnan(), done)


def test_forwards_are_no_wider_than_their_longest_row() -> None:
    policy = TabularPolicy(14, max_length=40, dtype=torch.float32)
    batch = make_batch(tiny_policy()).rollouts
    padded = batch.padded(batch.length + 9)
    learner = make_learner(policy, micro_batch=4)
    plan = MeanField().plan(padded, KEY)
    learner.score(padded, plan, RAW)
    lengths = padded.attention_mask.sum(1)
    assert [inputs.shape[1] for inputs in policy.inputs] == [int(part.max()) for part in lengths.split(4)]
    assert policy.modes == [(True, False)] * len(policy.modes)


# ---- the reference


def reference_scores(learner: Learner, policy: Policy) -> torch.Tensor:
    batch = make_batch(tiny_policy()).rollouts
    with learner.reference():
        return learner.score(batch, MeanField(prompt_mask_prob=0.0).plan(batch, KEY), RAW)


def scores(learner: Learner) -> torch.Tensor:
    batch = make_batch(tiny_policy()).rollouts
    return learner.score(batch, MeanField(prompt_mask_prob=0.0).plan(batch, KEY), RAW)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_start_is_what_the_policy_was(kind: str, folder: Path) -> None:
    policy = tiny_policy() if kind == "full" else lora_policy(folder)
    learner = make_learner(policy)
    learner.freeze_reference("start")
    before = scores(learner)
    assert torch.equal(reference_scores(learner, policy), before)  # at the start the distance is exactly 0
    fill_gradients(learner)
    learner.step()
    assert not torch.equal(scores(learner), before)
    assert torch.equal(reference_scores(learner, policy), before)


def test_base_is_the_model_without_its_adapter(folder: Path) -> None:
    policy = lora_policy(folder)
    learner = make_learner(policy)
    bare = scores(make_learner(load_policy(folder)))
    assert float((scores(learner) - bare).abs().max()) > 0.01
    learner.freeze_reference("base")
    torch.testing.assert_close(reference_scores(learner, policy), bare, rtol=1e-6, atol=1e-6)
    move(learner.parameters, 0.1, seed=1)
    torch.testing.assert_close(reference_scores(learner, policy), bare, rtol=1e-6, atol=1e-6)


def test_base_under_a_loaded_adapter_is_still_the_bare_model(folder: Path, tmp_path: Path) -> None:
    save_adapter(lora_policy(folder), tmp_path)
    policy = load_policy(folder, adapter=tmp_path)
    learner = make_learner(policy)
    learner.freeze_reference("base")
    bare = scores(make_learner(load_policy(folder)))
    torch.testing.assert_close(reference_scores(learner, policy), bare, rtol=1e-6, atol=1e-6)
    learner.freeze_reference("start")
    assert float((reference_scores(learner, policy) - bare).abs().max()) > 0.01


def test_a_fresh_adapter_starts_at_the_base(folder: Path) -> None:
    policy = load_policy(folder, lora=LoraSpec(r=4, alpha=8))
    learner = make_learner(policy)
    learner.freeze_reference("base")
    assert torch.equal(reference_scores(learner, policy), scores(learner))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_weights_come_back_whatever_happens_inside(kind: str, folder: Path) -> None:
    policy = tiny_policy() if kind == "full" else lora_policy(folder)
    learner = make_learner(policy)
    learner.freeze_reference("start")
    move(learner.parameters, 0.1, seed=1)
    own, pointers = copies(learner.parameters), [p.data_ptr() for p in learner.parameters]

    def fail() -> None:
        assert not any(torch.equal(a, b) for a, b in zip(own, learner.parameters, strict=True))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), learner.reference():
        fail()
    assert [p.data_ptr() for p in learner.parameters] == pointers
    assert all(torch.equal(a, b) for a, b in zip(own, learner.parameters, strict=True))


def test_the_reference_is_mixed_in_float32(policy: Policy) -> None:
    learner = make_learner(policy)
    learner.freeze_reference("moving")
    start = copies(learner.parameters)
    move(learner.parameters, 1e-4, seed=1)  # bfloat16 would not see a tenth of this
    now = copies(learner.parameters)
    learner.mix_reference(0.1)
    with learner.reference():
        mixed = copies(learner.parameters)
    for old, new, value in zip(start, now, mixed, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, old + 0.1 * (new - old), rtol=2e-7, atol=1e-9)
        assert not torch.equal(value, old)
    assert all(torch.equal(a, b) for a, b in zip(now, learner.parameters, strict=True))
    learner.mix_reference(1.0)
    with learner.reference():
        assert all(torch.equal(a, b) for a, b in zip(now, learner.parameters, strict=True))


def test_a_reference_that_was_never_frozen_is_an_error(policy: Policy) -> None:
    learner = make_learner(policy)
    with pytest.raises(TrainingError, match="no reference was frozen"), learner.reference():
        pass
    with pytest.raises(TrainingError, match="no reference was frozen"):
        learner.mix_reference(0.5)


def test_frozen_weights_are_not_touched_by_an_update(folder: Path) -> None:
    policy = lora_policy(folder)
    frozen = {name: p.detach().clone() for name, p in policy.named_parameters() if not p.requires_grad}
    learner = make_learner(policy)
    weights: Weights = trained(policy)
    assert len(weights) == 28  # A and B of seven matrices in each of two layers
    assert all(a is b for a, b in zip(learner.parameters, weights, strict=True))
    fill_gradients(learner)
    learner.step()
    assert all(torch.equal(frozen[n], p) for n, p in policy.named_parameters() if not p.requires_grad)

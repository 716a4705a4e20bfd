"""Compositions: presets, overrides, and combinations that are refused with their remedy."""

import copy

import pytest
import torch

from rl.likelihood import Elbo, MeanField, Trajectory
from rl.masks import PlanKey
from rl.method import PRESETS, Method, forwards, resolve
from rl.objectives import Clipped, Raft
from rollouts.spec import SamplerSpec
from tests.oracles.batches import sample
from tests.oracles.tabular import TabularPolicy

SAMPLER = SamplerSpec(canvas=8, block=4, steps=4)


def method(**raw) -> Method:
    return Method(**resolve(raw))


def keys(value: Method, sampler: SamplerSpec = SAMPLER, group_size: int = 8) -> list[str]:
    return [key for key, _ in value.problems(sampler, group_size)]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound(name: str) -> None:
    found = method(preset=name)
    assert found.preset == name
    assert found.problems(SAMPLER, 8) == []
    assert Method.model_validate(found.model_dump()) == found


def test_presets_are_the_published_choices() -> None:
    d1 = method(preset="diffu_grpo")  # hyper-parameters of the d1 paper's code
    assert d1.estimator == MeanField(prompt_mask_prob=0.15, unit="token")
    assert d1.objective == Clipped(epsilon_low=0.5, epsilon_high=0.5)
    assert (d1.advantage, d1.inner_passes, d1.kl.beta, d1.kl.reference) == ("group_centered", 12, 0.04, "base")
    path = method(preset="trajectory_grpo")
    assert path.estimator == Trajectory(unit="token", law="sampler")
    assert (path.advantage, path.kl.beta) == ("group_normalized", 0.0)
    raft = method(preset="raft")
    assert raft.estimator == Elbo(draws=2)
    assert raft.objective == Raft()
    assert raft.advantage == "verified"


def test_default_preset() -> None:
    assert method() == method(preset="trajectory_grpo")


def test_overrides_merge_within_a_kind() -> None:
    found = method(preset="diffu_grpo", estimator={"prompt_mask_prob": 0.3}, kl={"beta": 0.1}, inner_passes=2)
    assert found.estimator == MeanField(prompt_mask_prob=0.3, unit="token")
    assert (found.kl.beta, found.kl.reference, found.inner_passes) == (0.1, "base", 2)
    assert found.objective == Clipped(epsilon_low=0.5, epsilon_high=0.5)


def test_another_kind_drops_the_preset_s_settings_for_it() -> None:
    found = method(preset="diffu_grpo", estimator={"kind": "elbo", "draws": 4})
    assert found.estimator == Elbo(draws=4)
    assert found.objective == Clipped(epsilon_low=0.5, epsilon_high=0.5)


def test_resolve_changes_neither_its_argument_nor_the_table() -> None:
    raw = {"preset": "diffu_grpo", "estimator": {"prompt_mask_prob": 0.3}}
    before = copy.deepcopy((raw, PRESETS))
    resolve(raw)
    assert (raw, PRESETS) == before


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(KeyError, match="did you mean 'diffu_grpo'"):
        resolve({"preset": "difu_grpo"})
    with pytest.raises(KeyError, match="Presets: diffu_grpo"):
        resolve({"preset": "zzz"})


def test_unknown_keys_are_refused() -> None:
    for raw in ({"estimators": {}}, {"estimator": {"kind": "elbo", "draw": 2}}, {"kl": {"betas": 1}}):
        with pytest.raises(ValueError):
            method(**raw)


@pytest.mark.parametrize(
    ("raw", "key", "remedy"),
    [
        ({"estimator": {"segments": 2, "sample_steps": 2}}, "estimator.sample_steps", "keep one"),
        ({"estimator": {"segments": 5}}, "estimator.segments", "rollout.steps"),
        ({"estimator": {"sample_steps": 5}}, "estimator.sample_steps", "rollout.steps"),
        ({"estimator": {"order": True}}, "estimator.unit", "unit: step"),
        ({"estimator": {"order": True, "unit": "step", "segments": 2}}, "estimator.segments", "leave segments out"),
        ({"estimator": {"order": True, "unit": "step", "law": "raw"}}, "estimator.law", "law: sampler"),
        ({"preset": "raft", "advantage": "group_centered"}, "advantage", "advantage: verified"),
        ({"preset": "raft", "kl": {"beta": 0.1}}, "kl.beta", "kl.beta: 0"),
        ({"advantage": "verified", "inner_passes": 2}, "advantage", "group advantage"),
    ],
)
def test_impossible_combinations(raw: dict, key: str, remedy: str) -> None:
    problems = method(**raw).problems(SAMPLER, 8)
    assert [k for k, _ in problems] == [key]
    assert remedy in problems[0][1]


@pytest.mark.parametrize("advantage", ["group_centered", "group_normalized", "leave_one_out"])
def test_a_group_of_one_has_no_baseline(advantage: str) -> None:
    assert keys(method(advantage=advantage), group_size=1) == ["advantage"]
    assert keys(method(preset="raft"), group_size=1) == []


@pytest.mark.parametrize(("selection", "key"), [("random", "estimator.order"), ("margin", "estimator.order")])
def test_order_needs_the_published_rule(selection: str, key: str) -> None:
    value = method(estimator={"order": True, "unit": "step"})
    assert keys(value, SAMPLER.model_copy(update={"selection": selection})) == [key]
    assert keys(value) == []


def test_temperature_zero_has_no_gradient_under_the_sampler_s_law() -> None:
    cold = SAMPLER.model_copy(update={"temperature": 0.0})
    assert keys(method(), cold) == ["estimator.law"]
    assert keys(method(estimator={"law": "raw"}), cold) == []


def test_forwards_are_an_upper_bound_on_what_the_plans_ask_for() -> None:
    policy = TabularPolicy(6, seed=3)
    batch = sample(policy, [(0, 1)] * 6, SAMPLER)
    for raw in ({}, {"preset": "diffu_grpo"}, {"preset": "raft"}, {"estimator": {"sample_steps": 2}}):
        value = method(**raw)
        budget = forwards(value, SAMPLER, 3, 2)
        views = sum(len(value.estimator.plan(batch, PlanKey(0, 0, p))) for p in range(value.inner_passes))
        assert views <= budget["train"]
        assert budget["views_per_pass"] * value.inner_passes == budget["train"]
        assert int(batch.forwards.sum()) <= budget["rollout"] == 24
        assert budget["reference"] == (budget["train"] if value.kl.beta else 0)
    assert forwards(method(preset="diffu_grpo"), SAMPLER, 3, 2)["train"] == 72


def test_a_plan_is_data_new_old_and_reference_share_it() -> None:
    batch = sample(TabularPolicy(6, seed=3), [(0, 1)] * 4, SAMPLER)
    for name in PRESETS:
        estimator = method(preset=name).estimator
        one, two = (estimator.plan(batch, PlanKey(3, 1, 0)) for _ in range(2))
        assert torch.equal(one.masked, two.masked)
        assert torch.equal(one.weight, two.weight)

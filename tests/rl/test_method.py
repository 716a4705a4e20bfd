"""Compositions: presets, overrides, and combinations that are refused with their remedy."""

import copy

import pytest
import torch

from rl.advantages import GROUP_ADVANTAGES
from rl.likelihood import Elbo, MeanField, Trajectory
from rl.masks import PlanKey
from rl.method import Method, forwards
from rl.objectives import Clipped, LinearBound, PolicyGradient, Raft, WeightedCrossEntropy
from rl.preference import Dpo
from rl.presets import PRESETS, resolve
from rollouts.spec import SamplerSpec
from tests.oracles.batches import sample
from tests.oracles.tabular import TabularPolicy
from tests.oracles.training import preset_of

SAMPLER = SamplerSpec(canvas=8, block=4, steps=4)
PUBLISHED = SamplerSpec(canvas=256, block=32, steps=128)  # what most papers sample with


def method(**raw) -> Method:
    return Method(**resolve(raw))


def keys(value: Method, sampler: SamplerSpec = SAMPLER, group_size: int = 8) -> list[str]:
    return [key for key, _ in value.problems(sampler, group_size)]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound(name: str) -> None:
    found = method(preset=name)
    assert found.preset == name
    assert found.problems(PUBLISHED, 8) == []
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


def test_presets_of_sequences_and_weights_are_the_published_choices() -> None:
    """The figures of the papers' own recipes; docs/methods.md says where a value is not theirs."""
    espo = method(preset="espo")
    assert espo.estimator == Elbo(draws=2, pair="complement")  # K = 2 pairs
    assert espo.objective == Clipped(epsilon_low=0.2, epsilon_high=0.2)
    assert (espo.advantage, espo.inner_passes, espo.reduction) == ("leave_one_out", 8, "sequence_mean")
    assert (espo.kl.beta, espo.kl.estimator, espo.kl.reference) == (1e-3, "k2_sum", "base")
    wd1 = method(preset="wd1")
    assert wd1.estimator == MeanField(prompt_mask_prob=0.15, unit="sequence", length_normalized=False)
    assert wd1.objective == PolicyGradient()
    assert (wd1.advantage, wd1.inner_passes, wd1.kl.beta) == ("softmax_difference", 12, 0.0)
    dmpo = method(preset="dmpo")
    assert dmpo.estimator == Elbo(draws=2, pair="complement", length_normalized=False)  # 4 replicates in pairs
    assert dmpo.objective == WeightedCrossEntropy(alpha=0.04, baseline="negative")
    assert (dmpo.advantage, dmpo.inner_passes, dmpo.kl.beta) == ("group_centered", 8, 0.0)
    bgpo = method(preset="bgpo")
    assert bgpo.estimator == Elbo(draws=16, unit="draw")
    assert bgpo.objective == LinearBound(epsilon_low=0.2, epsilon_high=0.2, dual=3.0)
    gspo = method(preset="gspo")
    assert gspo.estimator == MeanField(prompt_mask_prob=0.0, unit="sequence")
    assert gspo.objective == Clipped(epsilon_low=3e-4, epsilon_high=4e-4)


def test_presets_of_trajectories_are_the_published_choices() -> None:
    assert method(preset="order_grpo").estimator == Trajectory(unit="step", order=True)
    assert method(preset="d2").estimator == Trajectory(segments=8, law="raw")
    assert method(preset="cj_grpo").estimator == Trajectory(law="raw")
    for name, passes in (("d2", 12), ("cj_grpo", 8)):
        found = method(preset=name)
        assert (found.inner_passes, found.advantage, found.kl.beta) == (passes, "group_centered", 0.04)
    agrpo = method(preset="agrpo")
    assert agrpo.estimator == Trajectory(sample_steps=24)
    assert (agrpo.inner_passes, agrpo.kl.beta, agrpo.advantage) == (1, 0.0, "group_centered")


def test_presets_of_preferences_are_the_published_choices() -> None:
    for name in ("vrpo", "online_vrpo"):
        found = method(preset=name)
        assert found.estimator == Elbo(draws=8, masks_per_level=1, length_normalized=False)  # n_t = 8, n_y = 1
        assert found.objective == Dpo(beta=0.2, sft_weight=0.05, label_smoothing=0.0)
        assert (found.advantage, found.inner_passes, found.kl.beta) == ("best_worst", 1, 0.0)
        assert found.kl.reference == "start"
        assert found.needs_reference
        assert not found.on_policy
        assert not found.scores_every_row
    cost = forwards(method(preset="online_vrpo"), PUBLISHED, 6, 2, 8)  # of six rollouts a prompt, two are trained on
    assert (cost["rollout"], cost["old"], cost["reference"], cost["train"]) == (12 * 128, 32, 32, 32)
    assert forwards(method(preset="vrpo"), PUBLISHED, 2, 2, 8)["train"] == 32
    assert forwards(method(preset="vrpo", kl={"beta": 0.1}), PUBLISHED, 6, 2, 8)["train"] == 96  # a KL term acts on all


def test_what_a_method_asks_of_the_step() -> None:
    """No reference and no scores beforehand where nothing needs them."""
    cost = {name: forwards(method(preset=name), PUBLISHED, 4, 1, 8) for name in ("dmpo", "bgpo", "wd1")}
    # DMPO's weights couple the rows of a group: all passes are scored, and all but the first once more before their gradient.
    assert (cost["dmpo"]["reference"], cost["dmpo"]["train"]) == (4 * 4 * 8, 4 * 4 * 8)
    assert cost["dmpo"]["old"] == 4 * 4 * (8 + 7)
    assert (cost["bgpo"]["reference"], cost["bgpo"]["old"], cost["bgpo"]["train"]) == (0, 0, 4 * 16)
    assert (cost["wd1"]["reference"], cost["wd1"]["old"], cost["wd1"]["train"]) == (0, 4 * 11, 4 * 12)
    espo = {size: forwards(method(preset="espo"), PUBLISHED, 4, 1, size)["old"] for size in (3, 4)}
    assert espo == {3: 4 * 4 * (8 + 7), 4: 4 * 4 * 7}  # a row's four views in one micro-batch, or not
    assert not method(preset="dmpo", inner_passes=1).on_policy
    assert method(preset="bgpo").on_policy
    assert method(preset="wd1", inner_passes=1).on_policy
    assert [method(preset=name).scores_every_row for name in ("dmpo", "espo", "wd1", "bgpo")] == [
        True,
        True,
        False,
        False,
    ]


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
        ({"preset": "bgpo", "estimator": {"unit": "sequence"}}, "estimator.unit", "unit: draw"),
        ({"estimator": {"kind": "elbo", "unit": "draw"}}, "estimator.unit", "unit: sequence"),
        ({"preset": "dmpo", "estimator": {"length_normalized": True}}, "estimator.unit", "length_normalized: false"),
        ({"preset": "dmpo", "estimator": {"kind": "trajectory"}}, "estimator.unit", "unit: sequence"),
        ({"preset": "dmpo", "advantage": "group_normalized"}, "advantage", "advantage: group_centered"),
        ({"kl": {"beta": 0.1, "estimator": "k2_sum"}}, "kl.estimator", "unit: sequence"),
        ({"preset": "vrpo", "estimator": {"kind": "coupled"}}, "estimator.unit", "unit: sequence"),
        ({"preset": "vrpo", "estimator": {"unit": "draw"}}, "estimator.unit", "unit: sequence"),
        (
            {"preset": "vrpo", "estimator": {"length_normalized": True}},
            "estimator.length_normalized",
            "length_normalized: false",
        ),
        ({"preset": "vrpo", "advantage": "group_normalized"}, "advantage", "advantage: best_worst"),
        ({"preset": "online_vrpo", "mask_truncated": True}, "mask_truncated", "mask_truncated: false"),
        ({"preset": "espo", "estimator": {"length_normalized": False}}, "kl.estimator", "length_normalized: true"),
    ],
)
def test_impossible_combinations(raw: dict, key: str, remedy: str) -> None:
    problems = method(**raw).problems(SAMPLER, 8)
    assert [k for k, _ in problems] == [key]
    assert remedy in problems[0][1]


@pytest.mark.parametrize("advantage", GROUP_ADVANTAGES)
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
        budget = forwards(value, SAMPLER, 3, 2, 8)
        views = sum(len(value.estimator.plan(batch, PlanKey(0, 0, p))) for p in range(value.inner_passes))
        assert views <= budget["train"]
        assert budget["views_per_pass"] * value.inner_passes == budget["train"]
        assert int(batch.forwards.sum()) <= budget["rollout"] == 24
        assert budget["reference"] == (budget["train"] if value.kl.beta else 0)
    assert forwards(method(preset="diffu_grpo"), SAMPLER, 3, 2, 8)["train"] == 72


def test_a_plan_is_data_new_old_and_reference_share_it() -> None:
    batch = sample(TabularPolicy(6, seed=3), [(0, 1)] * 4, SAMPLER)
    recorded = sample(TabularPolicy(6, seed=3), [(0, 1)] * 4, SAMPLER, recorded=True)
    for name in PRESETS:
        estimator = preset_of(name).estimator
        batch = recorded if estimator.kind == "x0_action" else batch
        one, two = (estimator.plan(batch, PlanKey(3, 1, 0)) for _ in range(2))
        assert torch.equal(one.masked, two.masked)
        assert torch.equal(one.weight, two.weight)

"""Compositions: presets, overrides, and combinations that are refused with their remedy."""

import copy

import pytest
import torch

from rl import compatibility
from rl.advantages import GROUP_ADVANTAGES
from rl.estimators import ArOrder, Coupled, RandomTokens, Sandwich
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

NAMED = {"approximations": ("biased_ratio",)}
SAMPLER = SamplerSpec(canvas=8, block=4, steps=4)
PUBLISHED = SamplerSpec(canvas=256, block=32, steps=128)  # what most papers sample with


def method(**raw) -> Method:
    return Method(**resolve(raw))


def keys(value: Method, sampler: SamplerSpec = SAMPLER, group_size: int = 8) -> list[str]:
    return [key for key, _ in compatibility.problems(value, sampler, group_size)]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound(name: str) -> None:
    found = method(preset=name)
    assert found.preset == name
    assert compatibility.problems(found, PUBLISHED, 8) == []
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


def test_presets_of_masks_and_bounds_are_the_published_choices() -> None:
    uni, late = method(preset="uni_grpo"), method(preset="mask_grpo")
    assert uni.estimator == RandomTokens(schedule="random_start", low=0.234)
    assert late.estimator == RandomTokens(schedule="even", low=0.6, positions="late")
    for found in (uni, late):
        assert found.objective == Clipped(epsilon_low=0.2, epsilon_high=0.2)
        assert (found.advantage, found.inner_passes, found.kl.beta) == ("group_normalized", 12, 0.01)
    coupled = method(preset="coupled_grpo")
    assert coupled.estimator == Coupled(low=0.2, high=0.8)
    assert coupled.objective == Clipped(epsilon_low=0.5, epsilon_high=0.5)
    assert (coupled.advantage, coupled.inner_passes, coupled.kl.beta) == ("leave_one_out", 2, 0.01)
    assert (coupled.kl.reference, coupled.kl.every * coupled.inner_passes) == ("moving", 64)
    gdpo = method(preset="gdpo")
    assert gdpo.estimator == Elbo(noise="quadrature", draws=2)
    assert gdpo.advantage == "group_centered"
    spg = method(preset="spg")
    assert spg.estimator == Sandwich(draws=2, beta=1.5, mix=0.5, length_normalized=False)
    assert (spg.objective, spg.advantage, spg.inner_passes) == (PolicyGradient(), "group_centered", 4)
    trace = method(preset="tracerl")
    assert trace.estimator == Trajectory(shrink=8, law="raw")
    assert trace.objective == Clipped(epsilon_low=0.2, epsilon_high=0.2)
    just = method(preset="just_grpo")
    assert (just.estimator, just.advantage, just.inner_passes) == (ArOrder(), "group_normalized", 1)


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
        (
            {"preset": "dmpo", "estimator": {"kind": "trajectory"}, "approximations": ("order_conditional",)},
            "estimator.unit",
            "unit: sequence",
        ),
        ({"estimator": {"segments": 2, "shrink": 2}}, "estimator.shrink", "keep one"),
        ({"estimator": {"shrink": 2, "sample_steps": 2}}, "estimator.sample_steps", "keep one"),
        ({"estimator": {"shrink": 5}}, "estimator.shrink", "rollout.steps"),
        ({"estimator": {"sample_by": "entropy"}}, "estimator.sample_by", "set sample_steps"),
        ({"estimator": {"order": True, "unit": "step", "shrink": 2}}, "estimator.shrink", "leave shrink out"),
        ({"estimator": {"kind": "blockwise", "sample_blocks": 3}, **NAMED}, "estimator.sample_blocks", "leave sample"),
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
    problems = compatibility.problems(method(**raw), SAMPLER, 8)
    assert [k for k, _ in problems] == [key]
    assert remedy in problems[0][1]


def test_a_token_product_under_an_order_that_the_policy_chose_says_so() -> None:
    bare = method(preset="diffu_grpo", estimator={"kind": "trajectory"})
    (problem,) = compatibility.problems(bare, SAMPLER, 8)
    assert problem[0] == "approximations"
    assert "conditional" in problem[1]
    # Each of the two remedies, as they are written there.
    assert "approximations: [order_conditional]" in problem[1]
    assert (
        keys(method(preset="diffu_grpo", estimator={"kind": "trajectory"}, approximations=("order_conditional",))) == []
    )
    assert "estimator: {order: true, unit: step, law: sampler}" in problem[1]
    exact = {"kind": "trajectory", "order": True, "unit": "step", "law": "sampler"}
    assert keys(method(preset="diffu_grpo", estimator=exact)) == []
    # Where the policy has no say in the order, or the order is a function of the state, there is nothing to name.
    for change in (
        {"selection": "random"},
        {"selection": "margin"},
        {"block": 8, "steps": 1},
        {"block": 1, "steps": 8},
    ):
        assert keys(bare, SAMPLER.model_copy(update=change)) == []
    assert method(preset="order_grpo").approximations == ()
    assert keys(method(preset="order_grpo", estimator={"order": False})) == ["approximations"]


@pytest.mark.parametrize(
    "estimator",
    [
        {"kind": "trajectory", "sample_steps": 2, "unit": "sequence"},
        {"kind": "blockwise", "sample_blocks": 1},
    ],
)
def test_a_ratio_of_a_sampled_sum_says_that_it_is_biased(estimator: dict) -> None:
    order = ("order_conditional",)
    twice = method(estimator=estimator, inner_passes=2, approximations=order)
    (problem,) = compatibility.problems(twice, SAMPLER, 8)
    assert problem[0] == "approximations"
    assert "approximations: [biased_ratio]" in problem[1]
    named = twice.model_copy(update={"approximations": (*order, "biased_ratio")})
    assert keys(named) == []
    # Linear uses are unbiased: one pass without a reference has no ratio, and a policy gradient never has one.
    assert keys(method(estimator=estimator, approximations=order)) == []
    assert keys(method(estimator=estimator, approximations=order, kl={"beta": 0.1})) == ["approximations"]
    linear = {"objective": {"kind": "policy_gradient"}, "inner_passes": 2, "approximations": order}
    assert keys(method(estimator=estimator, **linear)) == []
    assert keys(method(estimator=estimator, **linear, kl={"beta": 0.1})) == ["approximations"]
    if estimator["kind"] == "trajectory":  # a step is scored whole or not at all
        assert keys(method(estimator=estimator | {"unit": "step"}, inner_passes=2, approximations=order)) == []


@pytest.mark.parametrize(
    ("preset", "change", "law"),
    [
        ("order_grpo", {}, "sampler, joint with the order"),
        ("trajectory_grpo", {}, "sampler, given the order"),
        ("trajectory_grpo", {"selection": "random"}, "sampler, exact"),
        ("trajectory_grpo", {"steps": 2}, "sampler, exact"),
        ("cj_grpo", {"selection": "entropy"}, "raw, given the order"),
        ("cj_grpo", {"selection": "random", "temperature": 0.5}, "raw, on the sampler's states"),
        ("tracerl", {}, "raw, merged steps"),
        ("d2", {"canvas": 32, "steps": 32}, "raw, merged steps"),
        ("d2", {"canvas": 8, "steps": 8}, "raw, given the order"),
        ("agrpo", {"canvas": 32, "steps": 32}, "sampler, given the order"),
        ("just_grpo", {}, "raw, left to right"),
        ("espo", {}, "raw, surrogate"),
    ],
)
def test_the_scoring_law_is_named(preset: str, change: dict, law: str) -> None:
    assert method(preset=preset).scoring_law(SAMPLER.model_copy(update=change)) == law


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


@pytest.mark.parametrize(
    ("raw", "old"),
    [
        ({"preset": "cj_grpo"}, 0),  # the same states in all eight passes, scored in the first
        ({"preset": "just_grpo", "inner_passes": 3}, 0),
        ({"preset": "gspo"}, 0),
        ({"preset": "diffu_grpo"}, 11),  # other prompt tokens masked in each
        ({"preset": "agrpo", "inner_passes": 3}, 48),
        ({"preset": "espo"}, 28),
    ],
)
def test_only_masks_that_the_first_pass_does_not_have_are_scored_beforehand(raw: dict, old: int) -> None:
    cost = forwards(method(**raw), PUBLISHED, 1, 1, 32)
    assert cost["old"] == old
    if cost["reference"]:
        assert cost["reference"] == (cost["views_per_pass"] if old == 0 else cost["train"])


def test_a_plan_is_data_new_old_and_reference_share_it() -> None:
    batch = sample(TabularPolicy(6, seed=3), [(0, 1)] * 4, SAMPLER)
    recorded = sample(TabularPolicy(6, seed=3), [(0, 1)] * 4, SAMPLER, recorded=True)
    for name in PRESETS:
        estimator = preset_of(name).estimator
        batch = recorded if estimator.kind == "x0_action" else batch
        one, two = (estimator.plan(batch, PlanKey(3, 1, 0)) for _ in range(2))
        assert torch.equal(one.masked, two.masked)
        assert torch.equal(one.weight, two.weight)

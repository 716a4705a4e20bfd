"""Importance weights of whole trajectories, against an enumeration of everything that either policy could draw."""

import math
from typing import Any

import pytest
import torch

from rl import compatibility
from rl.correction import Correction, log_ratios
from rl.likelihood import Trajectory
from rl.masks import MaskPlan
from rl.method import Method
from rl.scored import ScoredBatch
from rl.step import differentiate, train_step
from rollouts.spec import SamplerSpec, Selection
from rollouts.trajectory import RolloutBatch
from tests.oracles.batches import force, score
from tests.oracles.sampling import Key, Outcome, enumerate_law
from tests.oracles.tabular import TabularPolicy
from tests.oracles.training import Recorder, make_learner, move

PROMPT = (0, 1)
Law = dict[Key, Outcome]


def two_policies() -> tuple[TabularPolicy, TabularPolicy]:
    """The one that draws, and the one that learns: the same after some updates."""
    old, new = (TabularPolicy(seed=1, dtype=torch.float32) for _ in range(2))
    move(list(new.parameters()), 0.3, seed=5)
    return old, new


def everything(spec: SamplerSpec) -> tuple[TabularPolicy, Law, Law, RolloutBatch]:
    """The new policy, the laws of old and new, and one rollout of the old policy for each outcome."""
    old, new = two_policies()
    law = enumerate_law(old, PROMPT, spec)
    batch = force(old, [PROMPT] * len(law), spec, [outcome.scripts[0] for outcome in law.values()])
    return new, law, enumerate_law(new, PROMPT, spec), batch


def ratios(policy: TabularPolicy, batch: RolloutBatch) -> torch.Tensor:
    def values(plan: MaskPlan, estimator: Trajectory) -> torch.Tensor:
        found, scored, _ = score(policy, estimator, batch)
        assert torch.equal(found.masked, plan.masked)
        return scored.detach()

    return log_ratios(values, batch)


@pytest.mark.parametrize("selection", ["confidence", "random"])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_the_weight_is_the_ratio_of_the_laws(selection: Selection, blocks: int, temperature: float) -> None:
    spec = SamplerSpec(canvas=4, block=4 // blocks, steps=2 * blocks, selection=selection, temperature=temperature)
    new, old_law, new_law, batch = everything(spec)
    found = ratios(new, batch)
    # What the published rule could keep under the one policy and never under the other is possible, and weighs nothing.
    both = [key in new_law for key in old_law]
    pairs = [(new_law[key].probability, one.probability) for key, one in old_law.items() if key in new_law]
    wanted = torch.tensor([math.log(new / old) for new, old in pairs])
    torch.testing.assert_close(found[torch.tensor(both)], wanted, rtol=0, atol=1e-4)
    assert (found[~torch.tensor(both)] < -40).all()
    assert wanted.abs().max() > 0.3


def test_the_policy_s_own_rollouts_weigh_one() -> None:
    old, _ = two_policies()
    spec = SamplerSpec(canvas=4, block=2, steps=4)
    law = enumerate_law(old, PROMPT, spec)
    batch = force(old, [PROMPT] * len(law), spec, [outcome.scripts[0] for outcome in law.values()])
    torch.testing.assert_close(ratios(old, batch), torch.zeros(len(batch)), rtol=0, atol=3e-5)


def method_of(estimator: dict[str, Any], most: float, **more: Any) -> Method:
    names = ("order_conditional", "truncated_correction")
    raw = {"estimator": estimator, "objective": {"kind": "policy_gradient"}, "reduction": {"constant": 1.0}}
    return Method.model_validate({**raw, "correction": {"most": most}, "approximations": names, **more})


@pytest.mark.parametrize("passes", [1, 2])
def test_the_corrected_gradient_is_that_of_the_policy_itself(passes: int) -> None:
    """sum over outcomes of mu f w grad log pi = grad E_pi[f], through the real step; f in the advantages, mu in them too."""
    spec = SamplerSpec(canvas=4, block=2, steps=4)
    new, old_law, new_law, batch = everything(spec)
    f = torch.linspace(-1.0, 2.0, len(batch))
    nothing = Outcome(0.0)
    mu, pi = (torch.tensor([law.get(key, nothing).probability for key in old_law]) for law in (old_law, new_law))
    whole = {"kind": "trajectory", "order": True, "unit": "sequence", "length_normalized": False}

    def gradient(method: Method, advantage: torch.Tensor) -> list[torch.Tensor]:
        learner = make_learner(new, micro_batch=7)
        recorder = Recorder(learner, size=0.0)
        rows = ScoredBatch(batch, f.clone(), f.clone()).with_advantage(advantage * len(batch))
        train_step(learner, rows, method, seed=0, step=1)
        return recorder.gradients[-1]

    found = gradient(method_of(whole, 1e9, inner_passes=passes), mu * f)
    wanted = gradient(method_of(whole, 1e9, correction=None), pi * f)
    stale = gradient(method_of(whole, 1e9, correction=None), mu * f)
    size = max(float(one.abs().max()) for one in wanted)
    assert max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)) < 1e-4 * size
    assert max(float((a - b).abs().max()) for a, b in zip(stale, wanted, strict=True)) > 1e-2 * size


def test_a_cut_weight_is_the_most() -> None:
    ratio = torch.tensor([-3.0, 0.0, 0.5, 4.0])
    assert torch.equal(Correction(most=1.5).weights(ratio), torch.tensor([math.exp(-3.0), 1.0, 1.5, 1.5]))


def test_what_is_logged_and_that_any_estimator_can_be_corrected() -> None:
    spec = SamplerSpec(canvas=4, block=2, steps=4)
    new, _, _, batch = everything(spec)
    f = torch.linspace(-1.0, 2.0, len(batch))
    weight = ratios(new, batch).exp()
    cut = weight.clamp(max=1.2)
    learner = make_learner(new, micro_batch=7)
    recorder = Recorder(learner, size=0.0)
    rows = ScoredBatch(batch, f, f).with_advantage(f)
    elbo: dict[str, Any] = {"kind": "elbo", "draws": 2}
    row = train_step(learner, rows, method_of(elbo, 1.2), seed=0, step=1).result()
    assert row["correction/weight"] == pytest.approx(float(cut.mean()), rel=1e-4)
    assert row["correction/cut"] == pytest.approx(float((weight > 1.2).float().mean()))
    assert row["correction/effective_share"] == pytest.approx(
        float(cut.sum() ** 2 / (cut**2).sum() / len(cut)), rel=1e-4
    )
    assert row["correction/log_ratio_max"] == pytest.approx(float(weight.log().abs().max()), rel=1e-4)
    # The whole loss of a row is weighed: the same as its advantage, where nothing else is in the loss.
    other = make_learner(new, micro_batch=7)
    plain = Recorder(other, size=0.0)
    train_step(other, rows.with_advantage(f * cut), method_of(elbo, 1.2, correction=None), seed=0, step=1)
    for ours, theirs in zip(recorder.gradients[0], plain.gradients[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("estimator", [{"unit": "token"}, {"unit": "step", "order": True}])
@pytest.mark.parametrize("more", [{}, {"inner_passes": 2, "objective": {"kind": "clipped"}}, {"kl": {"beta": 0.2}}])
def test_each_unit_weighs_what_its_own_ratio_is(estimator: dict[str, Any], more: dict[str, Any]) -> None:
    """The loss of a unit times its weight; the weights by the law of the policy that drew, scored anew."""
    spec = SamplerSpec(canvas=4, block=2, steps=4)
    old, new = two_policies()
    law = enumerate_law(old, PROMPT, spec)
    batch = force(old, [PROMPT] * len(law), spec, [outcome.scripts[0] for outcome in law.values()])
    whole = Trajectory(**estimator)
    _, _, then = score(old, whole, batch)
    plan, _, now = score(new, whole, batch)
    wanted = (now.value - then.value).detach().exp().clamp(max=1.3)
    method = method_of({"kind": "trajectory", **estimator}, 1.3, correction={"per": "unit", "most": 1.3}, **more)
    assert not method.on_policy
    f = torch.linspace(-1.0, 2.0, len(batch))
    rows = ScoredBatch(batch, f, f).with_advantage(f)
    learner = make_learner(new, micro_batch=7)
    if method.needs_reference:
        learner.freeze_reference("start")
    scale = torch.full((len(batch),), 0.5)
    values = learner.score(batch, plan, whole.scoring_law(spec, tuple(new.forbidden_ids)))
    reference = values + 0.1 if method.needs_reference else None
    ours = differentiate(method, rows, plan, values, None, reference, scale)
    plain = differentiate(method.model_copy(update={"correction": None}), rows, plan, values, None, reference, scale)
    # Without KL and at new = old the derivative of a unit is -advantage * scale.
    assert ours.drift is not None
    torch.testing.assert_close(ours.drift[now.mask].exp().clamp(max=1.3), wanted[now.mask], rtol=1e-4, atol=1e-5)
    by_step = wanted[plan.row, plan.step][:, None].expand_as(values) if whole.unit == "step" else wanted[plan.row]
    torch.testing.assert_close(ours.cotangent, plain.cotangent * by_step, rtol=1e-4, atol=1e-6)
    row = train_step(learner, rows, method, seed=0, step=1).result()
    assert row["correction/weight"] == pytest.approx(float(wanted[now.mask].mean()), rel=1e-4)
    assert 0 < row["correction/cut"] < 1


def problems(
    selection: Selection = "confidence", temperature: float = 1.0, top_p: float = 1.0, **more: Any
) -> list[str]:
    spec = SamplerSpec(canvas=8, block=4, steps=4, selection=selection, temperature=temperature, top_p=top_p)
    method = Method.model_validate({"correction": {}, "approximations": ["order_conditional"], **more})
    return [f"{key}: {said}" for key, said in compatibility.problems(method, spec, 4)]


def test_what_cannot_be_corrected_is_refused() -> None:
    names = ["order_conditional", "truncated_correction"]
    assert problems(approximations=names) == []
    assert problems("random", approximations=names) == []
    assert any(said.startswith("approximations: weights above 2 are cut") for said in problems())
    assert any("under selection entropy" in said for said in problems("entropy", approximations=names))
    assert any("under rollout.top_p" in said for said in problems(top_p=0.9, approximations=names))
    assert any("at temperature 0" in said for said in problems(temperature=0.0, approximations=names))
    sums = {"kind": "elbo", "length_normalized": False}
    pairs = problems(estimator=sums, objective={"kind": "dpo"}, advantage="best_worst", approximations=names)
    assert any(said.startswith("correction: the loss of dpo is of several rollouts at once") for said in pairs)
    weighted = {"kind": "weighted_ce"}
    found = problems(estimator=sums, objective=weighted, advantage="group_centered", approximations=names)
    assert any(said.startswith("correction: the loss of weighted_ce") for said in found)
    for wrong in ({"segments": 2}, {"law": "raw"}, {"unit": "sequence"}, {"kind": "mean_field"}):
        found = problems(estimator={"kind": "trajectory", **wrong}, correction={"per": "unit"}, approximations=names)
        assert any(said.startswith("correction.per: the sampler recorded tokens and steps") for said in found)
    answers = {"kind": "x0_action", "sample_steps": 2}
    found = problems(estimator=answers, objective={"kind": "stepwise"}, advantage="stepwise", approximations=names)
    assert any("correction: stepwise advantages" in said for said in found)

"""A method of the user's own: the walk-through of docs/methods.md as it stands, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from rl.config import RecipeErrors, load_recipe
from rl.learner import TrainingError
from rl.likelihood import BaseEstimator, MeanField
from rl.masks import PlanKey
from rl.method import Method
from rl.objectives import BaseObjective, Units
from rl.own import find_class
from rl.resume import ResumeError
from rl.step import train_step
from rollouts.models import load_policy
from rollouts.spec import SamplerSpec
from tests.oracles.batches import ScriptedKey, sample, score
from tests.oracles.draws import outcomes
from tests.oracles.runs import recipe, same_weights, train
from tests.oracles.tabular import TabularPolicy
from tests.oracles.training import batch_for, copies, distance, naive_gradient, prepared, tiny_policy, trained

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"
GIVEN = ("data.train", "rewards")
OBJECTIVE = """
from rl.objectives import BaseObjective

class Pull(BaseObjective):
    kind: str = "pull.py:Pull"
    strength: float = 1.0

    def per_unit(self, units):
        return -self.strength * units.advantage * units.new

    def metrics(self, units):
        return {"pulled": (units.mask.sum(), units.mask.sum())}
"""

pytestmark = pytest.mark.usefixtures("own_folder")


def snippet() -> str:
    found = re.search(r"<!-- example: cuts\.py -->\n```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def cuts(own_folder: None) -> Path:
    path = Path("cuts.py").absolute()
    path.write_text(snippet(), encoding="utf-8")
    return path


def estimator_of(cuts: Path, **options) -> BaseEstimator:
    found = find_class(f"{cuts}:Cuts", BaseEstimator)(**options)
    assert isinstance(found, BaseEstimator)
    return found


def test_the_walk_through_is_short() -> None:
    assert len(snippet().splitlines()) < 60


def test_its_mean_over_every_plan_is_the_left_to_right_log_likelihood(cuts: Path) -> None:
    policy = TabularPolicy(4, seed=2)
    batch = sample(policy, [(0, 1)], SamplerSpec(canvas=3, block=3, steps=3, eos="all", early_stop=False))
    exact = Method.model_validate({"estimator": {"kind": "ar_order", "unit": "sequence", "length_normalized": False}})
    wanted = score(policy, exact.estimator, batch)[2].value.item()
    own = estimator_of(cuts, length_normalized=False)

    def run(every) -> float:
        return score(policy, own, batch, ScriptedKey(lambda *_: every))[2].value.item()  # type: ignore[arg-type]

    assert sum(p * v for p, v in outcomes(run)) == pytest.approx(wanted, abs=1e-5)


def test_its_gradient_is_the_naive_one_whatever_the_batching(cuts: Path) -> None:
    policy = tiny_policy()
    method = Method(estimator=estimator_of(cuts), inner_passes=2)  # type: ignore[arg-type]
    assert Method.model_validate(method.model_dump() | {"estimator": method.estimator}) == method
    batch, start = batch_for(policy, method), copies(trained(policy))
    rollouts = batch.rollouts.padded(batch.rollouts.length + 5)
    padded = batch.__class__(rollouts, batch.reward, batch.outcome, advantage=batch.advantage)
    for variant, micro_batch in ((batch, 9), (padded.rows(torch.arange(len(batch) - 1, -1, -1)), 2)):
        for parameter, value in zip(trained(policy), start, strict=True):
            parameter.data.copy_(value)
        learner, recorder, _ = prepared(policy, method, micro_batch=micro_batch)
        assert train_step(learner, variant, method, seed=3, step=0).result()["first_pass_gap"] == 0.0
        for number, gradient in enumerate(recorder.gradients):
            now, old = recorder.weights[number], recorder.weights[0]
            _, wanted = naive_gradient(policy, batch, method, PlanKey(3, 0, number, 2), now=now, old=old)
            assert distance(gradient, wanted) < 1e-5


def test_a_recipe_names_both_and_a_resumed_run_is_the_undisturbed_one(cuts: Path, checkpoint: Path) -> None:
    """By a path relative to the recipe, which the resolved recipe holds whole; weights bit for bit."""
    Path("pull.py").write_text(OBJECTIVE, encoding="utf-8")
    sections = {
        "method": {"estimator": {"kind": "cuts.py:Cuts", "draws": 3}, "objective": {"kind": "pull.py:Pull"}},
        "save": {"every": 1, "keep": 3},
        "train": {"deterministic": True, "updates": 3},
    }
    whole = train(recipe(checkpoint, **sections))
    resolved = load_recipe(whole.folder / "recipe.yaml", provided=GIVEN)
    assert resolved.method.estimator.kind == f"{cuts}:Cuts"
    assert resolved.method.estimator.model_dump()["draws"] == 3
    assert type(resolved.method.objective).__name__ == "Pull"
    assert load_recipe(resolved, provided=GIVEN) == resolved
    assert all(row["pulled"] == 1.0 for row in whole.metrics)

    stopped = recipe(checkpoint, **sections | {"train": {**sections["train"], "out": "part"}, "stop": {"updates": 1}})
    assert len(train(stopped).metrics) == 1
    rest = train(recipe(checkpoint, **sections | {"train": {**sections["train"], "out": "part"}}), resume="auto")
    assert [row["update"] for row in rest.metrics] == [0, 1, 2]
    assert same_weights(*(load_policy(run.folder / "model") for run in (rest, whole)))


def test_its_changed_code_is_another_run(cuts: Path, checkpoint: Path) -> None:
    Path("pull.py").write_text(OBJECTIVE, encoding="utf-8")
    method = {"estimator": {"kind": "cuts.py:Cuts"}, "objective": {"kind": "pull.py:Pull"}}
    source = recipe(checkpoint, method=method, save={"every": 1}, train={"updates": 1})
    train(source)
    for path, slot in ((cuts, "estimator"), (Path("pull.py"), "objective")):
        before = path.read_text(encoding="utf-8")
        path.write_text(before + "\n# changed\n", encoding="utf-8")
        with pytest.raises(ResumeError, match=rf"method\.{slot}: not what"):
            train(recipe(checkpoint, method=method, save={"every": 1}, train={"updates": 2}), resume="auto")
        path.write_text(before, encoding="utf-8")


def test_an_objective_whose_slope_hangs_on_the_scores_has_the_naive_gradient() -> None:
    """Without a word about it: no pass on policy takes its derivative at other scores. The loss is of a row's probability."""

    class Probability(BaseObjective):
        kind: str = "mine:Probability"
        couples_rows: ClassVar[bool] = True  # so that it is not scored in the forward that trains

        def per_unit(self, units: Units) -> torch.Tensor:
            return -units.advantage * units.new.exp()

    policy, slopes = tiny_policy(), []
    method = Method(estimator=MeanField(unit="sequence", prompt_mask_prob=0.0), objective=Probability())  # type: ignore[arg-type]
    batch = batch_for(policy, method)
    for step in (0, 1):  # at the start of a run it is scored beforehand in any case
        learner, recorder, _ = prepared(tiny_policy(), method)
        train_step(learner, batch, method, seed=3, step=step)
        slopes.append(recorder.gradients[0])
    assert distance(*slopes) < 1e-6
    assert max(float(part.abs().max()) for part in slopes[0]) > 0.0


class Loss(BaseObjective):
    kind: str = "mine:Loss"
    gives: str

    def per_unit(self, units: Units) -> Any:
        loss = -units.advantage * units.new
        return {"nothing": None, "row": loss.sum(1), "mean": loss.mean(), "data": loss.detach()}[self.gives]


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        ("nothing", "gave NoneType"),
        ("row", r"gave a tensor \[6\], and a loss for each unit is needed, \[6, 1\]"),
        ("mean", r"gave a tensor \[\]"),
        ("data", "does not depend on units.new"),
    ],
)
def test_a_loss_that_is_not_one_for_each_unit_is_refused(gives: str, says: str) -> None:
    policy = tiny_policy()
    method = Method(estimator=MeanField(unit="sequence"), objective=Loss(gives=gives))  # type: ignore[arg-type]
    learner, _, _ = prepared(policy, method)
    with pytest.raises(TrainingError, match=f"objective mine:Loss: .*{says}"):
        train_step(learner, batch_for(policy, method), method, seed=3, step=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda plan: None, "is no MaskPlan but NoneType"),
        (lambda plan: replace(plan, weight=plan.weight[:, :3]), r"has weight of shape \[\d+, 3\]"),
        (lambda plan: replace(plan, scored=plan.scored.long()), "has scored of torch.int64"),
        (lambda plan: replace(plan, row=plan.row + 100), "has rows from 100 to 105, and the batch has 6"),
        (lambda plan: replace(plan, row=plan.row - 100), "has rows from -100"),
        (lambda plan: replace(plan, weight=plan.weight * float("nan")), "weights that are not finite"),
        (lambda plan: replace(plan, masked=plan.masked & False), "scores positions that the same view does not mask"),
    ],
)
def test_a_plan_that_is_none_is_refused_before_the_model_sees_it(cuts: Path, change: Any, says: str) -> None:
    class Changed(find_class(f"{cuts}:Cuts", BaseEstimator)):  # type: ignore[misc]
        def plan(self, batch: Any, key: Any) -> Any:
            return change(super().plan(batch, key))  # type: ignore[misc]

    policy = tiny_policy()
    method = Method(estimator=Changed())  # type: ignore[arg-type]
    learner, _, _ = prepared(policy, method)
    with pytest.raises(TrainingError, match=rf"estimator cuts\.py:Cuts: its plan .*{says}"):
        train_step(learner, batch_for(policy, method), method, seed=3, step=0)


@pytest.mark.parametrize(
    ("base", "body", "says"),
    [
        (BaseEstimator, "", "no method plan or plan_of"),
        (BaseEstimator, "    def plan(self, batch, key): ...", "no method views_per_rollout"),
        (BaseObjective, "", "no method per_unit"),
    ],
)
def test_what_a_class_has_to_bring_is_said_when_it_is_named(base: Any, body: str, says: str) -> None:
    code = (
        f"from {base.__module__} import {base.__name__}\n\nclass Half({base.__name__}):\n    kind: str = 'h'\n{body}\n"
    )
    Path("half.py").write_text(code, encoding="utf-8")
    with pytest.raises(ValueError, match=f"Half has {says}, which it has to bring"):
        find_class("half.py:Half", base)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("nowhere.py:Cuts", "no file"),
        ("cuts.py:Cut", "has no class Cut derived from BaseEstimator; of those it has: Cuts"),
        ("cuts.py:MaskPlan", "of those it has: Cuts"),
        ("no_such_module:Cuts", "no module named"),
    ],
)
def test_what_cannot_be_found_is_said_with_what_is_there(kind: str, says: str, cuts: Path, checkpoint: Path) -> None:
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe(checkpoint, method={"estimator": {"kind": kind}}), provided=GIVEN)
    (problem,) = caught.value.problems
    assert problem.key == "method.estimator"
    assert says in problem.message


def test_a_class_that_cannot_be_read_is_the_only_problem(cuts: Path, checkpoint: Path) -> None:
    """A default stands in for it, and does not go together with the rest of the method."""
    Path("broken.py").write_text("class Broken(:", encoding="utf-8")
    method = {"preset": "espo", "kl": {"reference": "start"}, "estimator": {"kind": "broken.py:Broken"}}
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe(checkpoint, method=method), provided=GIVEN)
    (problem,) = caught.value.problems
    assert "SyntaxError" in problem.message


def test_an_objective_may_write_into_what_it_is_given() -> None:
    class Doubled(BaseObjective):
        kind: str = "mine:Doubled"

        def per_unit(self, units: Units) -> torch.Tensor:
            return -units.advantage.mul_(2) * units.new

    sequence = Method(estimator=MeanField(unit="sequence", prompt_mask_prob=0.0), objective=Doubled())  # type: ignore[arg-type]
    batch = batch_for(tiny_policy(), sequence)
    before = batch.advantage.clone()  # type: ignore[union-attr]
    learner, _, _ = prepared(tiny_policy(), sequence)
    train_step(learner, batch, sequence, seed=3, step=0)
    assert torch.equal(batch.advantage, before)  # type: ignore[arg-type]


def test_an_unknown_key_of_its_own_is_refused(cuts: Path, checkpoint: Path) -> None:
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(
            recipe(checkpoint, method={"estimator": {"kind": "cuts.py:Cuts", "draw": 3}}),
            provided=GIVEN,
        )
    (problem,) = caught.value.problems
    assert (problem.key, problem.message) == ("method.estimator.draw", "there is no such key")


def test_a_built_in_kind_needs_no_file() -> None:
    assert json.loads(Method().model_dump_json())["estimator"]["kind"] == "trajectory"
    assert issubclass(type(Method().objective), BaseObjective)

"""Which estimators ``unmask diagnose`` measures: those of the presets, every kind with its defaults, the recipe's own, and a few more.

Compared is the gradient of sum_b A_b l_b, with l_b the estimate of a whole row: at new = old every objective on ratios has it, whatever
its unit. So candidates are brought to unit ``sequence`` without length normalisation, and those that differ in these alone are one.
"""

from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from rl import compatibility
from rl.config import Recipe
from rl.estimators import Estimator
from rl.likelihood import Elbo, Trajectory
from rl.method import Method
from rl.objectives import PolicyGradient
from rl.presets import PRESETS
from rl.reduce import Constant
from rollouts.strategies import Inpaint

OWN = "this recipe"


@dataclass
class Candidate:
    """An estimator to measure. used_by: presets that have it, first of all the recipe; passes: inner passes its masks may depend on."""

    name: str
    method: Method
    used_by: list[str] = field(default_factory=list)
    passes: int = 1

    @property
    def estimator(self) -> Any:
        return self.method.estimator


def candidates(recipe: Recipe) -> tuple[list[Candidate], dict[str, str]]:
    """The estimators to measure with the recipe's sampler, and those that have no meaning there: name -> why."""
    found: dict[str, Candidate] = {}
    refused: dict[str, str] = {}
    for label, raw, passes in _listed(recipe):
        method = measured_method(recipe, raw)
        name = describe(method.estimator)
        problems = compatibility.problems(method, recipe.rollout.sampler, recipe.rollout.group_size)
        if problems:
            why = "; ".join(message for _, message in problems)
            refused[f"{name}, of {label}" if label else name] = why
            continue
        entry = found.setdefault(name, Candidate(name, method, passes=passes))
        if label and label not in entry.used_by:
            entry.used_by.append(label)
    return list(found.values()), refused


def _listed(recipe: Recipe) -> list[tuple[str, dict[str, Any], int]]:
    """(who uses it, estimator, inner passes), the recipe's own first."""
    few = max(1, min(recipe.rollout.steps // 2, 8))
    further: list[dict[str, Any]] = [
        {"kind": "trajectory", "order": True},
        {"kind": "trajectory", "segments": few},
        {"kind": "trajectory", "sample_steps": few},
        {"kind": "elbo", "draws": 1, "pair": "complement"},
        {"kind": "elbo", "draws": 1, "pair": "mirror"},
        {"kind": "elbo", "draws": 4, "levels": "stratified"},
    ]
    own = recipe.method
    presets = [(name, raw["estimator"], raw.get("inner_passes", 1)) for name, raw in PRESETS.items()]
    kinds = [("", {"kind": one.model_fields["kind"].default}, 1) for one in get_args(get_args(Estimator)[0])]
    return [
        (OWN, own.estimator.model_dump(), own.inner_passes),
        *presets,
        *kinds,
        *(("", raw, 1) for raw in further),
    ]


def measured_method(recipe: Recipe, estimator: dict[str, Any]) -> Method:
    """The method whose gradient is compared: -(1/B) sum_b A_b l_b of an estimator, without KL, on the policy that sampled."""
    rest: dict[str, Any] = {
        "objective": PolicyGradient(),
        "advantage": recipe.method.advantage,
        "reduction": Constant(constant=1.0),
    }
    if "approximations" in Method.model_fields:  # all are named: how far each is from the law is what is measured
        rest["approximations"] = ("order_conditional", "biased_ratio")
    if not isinstance(recipe.rollout.strategy, Inpaint):  # no rollout has hints, so what is done with them is all one
        estimator = {key: value for key, value in estimator.items() if key != "hints"}
    whole = {**estimator, "unit": "sequence", "length_normalized": False}
    try:
        method = Method.model_validate({"estimator": whole, **rest})
    except ValidationError:  # a kind without whole sequences; the sum over its units is the same
        method = Method.model_validate({"estimator": estimator, **rest})
    if one_by_one(method.estimator):
        method = method.model_copy(update={"estimator": method.estimator.model_copy(update={"draws": 1})})
    return method


def one_by_one(estimator: Any) -> bool:
    """n independent draws of it are n plans of one draw: averages are made of plans, as many as the budget allows."""
    return isinstance(estimator, Elbo) and estimator.levels == "independent" and estimator.noise != "quadrature"


def target_of(recipe: Recipe) -> tuple[Trajectory, Trajectory]:
    """(the law that gradients are held against, the law of the tokens given their order).

    Under LLaDA's own selection the first is the joint law of tokens and order; elsewhere they are the same: a random order does not depend
    on the policy, and one chosen from the distributions has no density.
    """
    tokens = Trajectory(unit="sequence", length_normalized=False)
    if recipe.rollout.selection != "confidence":
        return tokens, tokens
    return tokens.model_copy(update={"order": True}), tokens


def describe(estimator: BaseModel) -> str:
    """Its kind and what differs from the kind's defaults; unit and length are the same for all."""
    parts = [str(getattr(estimator, "kind"))]  # noqa: B009  # every member of the union has one
    for name, field_info in type(estimator).model_fields.items():
        value = getattr(estimator, name)
        if name in ("kind", "unit", "length_normalized") or value == field_info.default:
            continue
        if name == "draws" and one_by_one(estimator):
            continue
        words = name.replace("_", " ")
        parts.append(value if isinstance(value, str) else words if value is True else f"{words} {_plain(value)}")
    return parts[0] if len(parts) == 1 else f"{parts[0]} ({', '.join(parts[1:])})"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

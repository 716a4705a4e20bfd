"""A method is a composition: estimator, objective, advantage, reduction, KL. There is no trainer class per method.

``PRESETS`` names published compositions; a recipe starts from one and overrides any choice.
"""

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rl.advantages import GROUP_ADVANTAGES, AdvantageName
from rl.estimators import Estimator
from rl.likelihood import Elbo, MeanField, Trajectory
from rl.objectives import Clipped, LinearBound, PolicyGradient, Raft, WeightedCrossEntropy
from rl.reduce import Constant, Reduction
from rollouts.spec import SamplerSpec

Objective = Annotated[Clipped | LinearBound | PolicyGradient | Raft | WeightedCrossEntropy, Field(discriminator="kind")]


class Kl(BaseModel):
    """Distance to the reference, per unit of the estimator; a penalty (not a KL) where the estimate is a surrogate."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    beta: float = Field(default=0.0, ge=0.0, description="weight; 0 builds no reference")
    estimator: Literal["k2", "k3", "k2_sum"] = Field(
        default="k3", description="k2, k3 per unit; k2_sum: k2 of a sequence's sum, per token (ESPO)"
    )
    reference: Literal["base", "start", "moving"] = Field(
        default="start",
        description="base: the loaded model without adapter; start: the policy when RL starts; moving: mixed in",
    )
    mix: float = Field(
        default=0.1, gt=0.0, le=1.0, description="moving: reference += mix * (policy - reference), in float32"
    )
    every: int = Field(default=64, ge=1, description="moving: updates between two mixings")


class Method(BaseModel):
    """What one update does with scored rollouts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    preset: str | None = Field(default=None, description="the composition this one started from")
    estimator: Estimator = Trajectory()
    objective: Objective = Clipped()
    advantage: AdvantageName = "group_normalized"
    reduction: Reduction = "token_mean"
    kl: Kl = Kl()
    inner_passes: int = Field(
        default=1, ge=1, description="optimizer steps on one batch of rollouts, each with its own mask plan"
    )
    mask_truncated: bool = Field(
        default=False, description="leave rollouts without EOS out of the loss (TRL: mask_truncated_completions)"
    )

    def problems(self, sampler: SamplerSpec, group_size: int) -> list[tuple[str, str]]:
        """``(key, message with remedy)`` for every combination that has no meaning; empty if sound."""
        found: list[tuple[str, str]] = []
        if self.advantage in GROUP_ADVANTAGES and group_size < 2:
            found.append(
                (
                    "advantage",
                    f"{self.advantage} compares the rollouts of a prompt, but rollout.group_size is {group_size}; use 2 or more",
                )
            )
        if isinstance(self.objective, Raft) and self.advantage != "verified":
            found.append(
                ("advantage", f"objective raft needs 0/1 weights, not {self.advantage}; use advantage: verified")
            )
        if isinstance(self.objective, Raft) and self.kl.beta > 0:
            found.append(("kl.beta", "objective raft has no reference term; set kl.beta: 0"))
        if isinstance(self.estimator, Trajectory):
            found += _trajectory_problems(self.estimator, sampler)
        if self.estimator.law == "sampler" and sampler.temperature == 0.0:
            found.append(
                ("estimator.law", "at temperature 0 the sampler's law has no gradient; use rollout.temperature > 0")
            )
        found += _objective_problems(self)
        if self.advantage == "verified" and self.inner_passes > 1 and isinstance(self.objective, Clipped | LinearBound):
            found.append(
                ("advantage", "verified weights never push down; with a clipped objective use a group advantage")
            )
        return found

    @property
    def on_policy(self) -> bool:
        """One pass and no reference, under an objective and an estimator whose derivative at new = old does not depend on the scores: the
        scoring pass without gradient can be left out."""
        return (
            self.inner_passes == 1
            and not self.needs_reference
            and self.objective.known_on_policy
            and self.estimator.linear
        )

    @property
    def needs_reference(self) -> bool:
        """A KL term acts, or the objective itself compares with the reference."""
        return self.kl.beta > 0.0 or self.objective.needs_reference

    @property
    def scores_every_row(self) -> bool:
        """A row without advantage still has a gradient, or decides what others weigh."""
        return self.kl.beta > 0.0 or self.objective.couples_groups


def _objective_problems(method: Method) -> list[tuple[str, str]]:
    """What an objective asks of the estimator and the advantage."""
    found, estimator, objective = [], method.estimator, method.objective
    whole = estimator.unit == "sequence"
    if isinstance(objective, LinearBound) and estimator.unit != "draw":
        found.append(
            (
                "estimator.unit",
                f"linear_bound is a mean over draws, not over a {estimator.unit}; use elbo with unit: draw",
            )
        )
    if isinstance(objective, WeightedCrossEntropy):
        if not whole or estimator.length_normalized:
            found.append(
                (
                    "estimator.unit",
                    "weighted_ce weighs whole sequences by their log-probability; use unit: sequence with length_normalized: false",
                )
            )
        if method.advantage != "group_centered":
            found.append(
                (
                    "advantage",
                    f"weighted_ce divides the reward itself by alpha, not {method.advantage}; use advantage: group_centered",
                )
            )
    if method.kl.estimator == "k2_sum" and not (whole and estimator.length_normalized):
        found.append(
            (
                "kl.estimator",
                "k2_sum is of a sequence's sum, per token; use unit: sequence with length_normalized: true, or k2",
            )
        )
    if isinstance(objective, Clipped) and estimator.unit == "draw":
        found.append(
            (
                "estimator.unit",
                "a ratio of a single draw is not the policy's; use unit: sequence, or objective linear_bound",
            )
        )
    return found


def _trajectory_problems(estimator: Trajectory, sampler: SamplerSpec) -> list[tuple[str, str]]:
    found = []
    if estimator.segments is not None and estimator.sample_steps is not None:
        found.append(("estimator.sample_steps", "segments and sample_steps exclude each other; keep one of them"))
    for key in ("segments", "sample_steps"):
        value = getattr(estimator, key)
        if value is not None and value > sampler.steps:
            found.append(
                (f"estimator.{key}", f"{value} is more than the {sampler.steps} denoising steps of rollout.steps")
            )
    if not estimator.order:
        return found
    if estimator.unit == "token":
        found.append(
            (
                "estimator.unit",
                "the order belongs to a whole step, not to a token; with order: true use unit: step or sequence",
            )
        )
    if estimator.segments is not None:
        found.append(
            ("estimator.segments", "merged steps have no law of the order; with order: true leave segments out")
        )
    if estimator.law != "sampler":
        found.append(("estimator.law", "the order is drawn by the sampler; with order: true use law: sampler"))
    if sampler.selection == "random":
        found.append(
            ("estimator.order", "the random order does not depend on the policy; set order: false, which is exact")
        )
    elif sampler.selection != "confidence":
        found.append(
            (
                "estimator.order",
                f"under selection {sampler.selection} the order is a certain function of the policy and has no density; "
                "use rollout.selection: confidence, or order: false",
            )
        )
    return found


# Each entry: what differs from the defaults. docs/methods.md gives the paper, the equation and the departures.
PRESETS: dict[str, dict[str, Any]] = {
    "diffu_grpo": {
        "estimator": {"kind": "mean_field", "prompt_mask_prob": 0.15, "unit": "token"},
        "objective": {"kind": "clipped", "epsilon_low": 0.5, "epsilon_high": 0.5},
        "advantage": "group_centered",
        "reduction": "token_mean",
        "kl": {"beta": 0.04, "estimator": "k3", "reference": "base"},
        "inner_passes": 12,
    },
    "trajectory_grpo": {
        "estimator": {"kind": "trajectory", "unit": "token", "law": "sampler"},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "group_normalized",
        "reduction": "token_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 1,
    },
    "order_grpo": {
        "estimator": {"kind": "trajectory", "unit": "step", "law": "sampler", "order": True},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "group_normalized",
        "reduction": "token_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 1,
    },
    "cj_grpo": {
        "estimator": {"kind": "trajectory", "unit": "token", "law": "raw"},
        "objective": {"kind": "clipped", "epsilon_low": 0.5, "epsilon_high": 0.5},
        "advantage": "group_centered",
        "reduction": "token_mean",
        "kl": {"beta": 0.04, "estimator": "k3", "reference": "base"},
        "inner_passes": 8,
    },
    "d2": {
        "estimator": {"kind": "trajectory", "segments": 8, "unit": "token", "law": "raw"},
        "objective": {"kind": "clipped", "epsilon_low": 0.5, "epsilon_high": 0.5},
        "advantage": "group_centered",
        "reduction": "token_mean",
        "kl": {"beta": 0.04, "estimator": "k3", "reference": "base"},
        "inner_passes": 12,
    },
    "agrpo": {
        "estimator": {"kind": "trajectory", "sample_steps": 24, "unit": "token", "law": "sampler"},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "group_centered",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 1,
    },
    "gspo": {
        "estimator": {"kind": "mean_field", "prompt_mask_prob": 0.0, "unit": "sequence"},
        "objective": {"kind": "clipped", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
        "advantage": "group_normalized",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 4,
    },
    "espo": {
        "estimator": {"kind": "elbo", "draws": 2, "pair": "complement"},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "leave_one_out",
        "reduction": "sequence_mean",
        "kl": {"beta": 1e-3, "estimator": "k2_sum", "reference": "base"},
        "inner_passes": 8,
    },
    "bgpo": {
        "estimator": {"kind": "elbo", "draws": 16, "unit": "draw"},
        "objective": {"kind": "linear_bound", "epsilon_low": 0.2, "epsilon_high": 0.2, "dual": 3.0},
        "advantage": "group_normalized",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 1,
    },
    "wd1": {
        "estimator": {
            "kind": "mean_field",
            "prompt_mask_prob": 0.15,
            "unit": "sequence",
            "length_normalized": False,
        },
        "objective": {"kind": "policy_gradient"},
        "advantage": "softmax_difference",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 12,
    },
    "dmpo": {
        "estimator": {"kind": "elbo", "draws": 2, "pair": "complement", "length_normalized": False},
        "objective": {"kind": "weighted_ce", "alpha": 0.04, "baseline": "negative"},
        "advantage": "group_centered",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0, "reference": "base"},
        "inner_passes": 8,
    },
    "raft": {
        "estimator": {"kind": "elbo", "draws": 2},
        "objective": {"kind": "raft"},
        "advantage": "verified",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 1,
    },
}
DEFAULT_PRESET = "trajectory_grpo"

UNION_KEYS = ("estimator", "objective")


def resolve(raw: dict[str, Any]) -> dict[str, Any]:
    """A recipe's ``method:`` merged over its preset. Changing the ``kind`` of a component drops the preset's settings for it.

    Raises ``KeyError`` with the nearest name for an unknown preset.
    """
    name = raw.get("preset") or DEFAULT_PRESET
    if name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise KeyError(f"unknown preset '{name}'{hint} Presets: {', '.join(PRESETS)}")
    merged: dict[str, Any] = {**PRESETS[name], **raw, "preset": name}
    for key in (*UNION_KEYS, "kl"):
        ours, theirs = PRESETS[name].get(key, {}), raw.get(key)
        if isinstance(theirs, dict) and theirs.get("kind", ours.get("kind")) == ours.get("kind"):
            merged[key] = {**ours, **theirs}
    return merged


def forwards(method: Method, sampler: SamplerSpec, group_size: int, prompts: int) -> dict[str, int]:
    """Forwards of one row each for one update, at most (early stops and groups without signal save some).

    rollout: denoising; old, reference: scoring without gradient; train: scoring with gradient (count a backward as two more).
    """
    rows = prompts * group_size
    views = rows * method.estimator.views_per_rollout(sampler) * method.inner_passes
    return {
        "rollout": rows * sampler.steps,
        "old": 0 if method.on_policy else views,
        "reference": views if method.needs_reference else 0,
        "train": views,
        "views_per_pass": views // method.inner_passes,
    }


__all__ = [
    "PRESETS",
    "Clipped",
    "Constant",
    "Elbo",
    "Kl",
    "LinearBound",
    "MeanField",
    "Method",
    "PolicyGradient",
    "Raft",
    "Trajectory",
    "WeightedCrossEntropy",
    "forwards",
    "resolve",
]

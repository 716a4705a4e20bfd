"""Which choices of a method have a meaning together. Every refusal names its remedy; `rl.method.Method.problems` collects them."""

from typing import TYPE_CHECKING

from rl.advantages import GROUP_ADVANTAGES
from rl.likelihood import Trajectory
from rl.objectives import Clipped, LinearBound, Raft, Stepwise, WeightedCrossEntropy
from rl.preference import Dpo
from rollouts.spec import SamplerSpec

if TYPE_CHECKING:
    from rl.method import Method


def problems(method: "Method", sampler: SamplerSpec, group_size: int) -> list[tuple[str, str]]:
    """``(key, message with remedy)`` for every combination that has no meaning; empty if sound."""
    found: list[tuple[str, str]] = []
    if method.advantage in GROUP_ADVANTAGES and group_size < 2:
        found.append(
            (
                "advantage",
                f"{method.advantage} compares the rollouts of a prompt, but rollout.group_size is {group_size}; use 2 or more",
            )
        )
    if isinstance(method.objective, Raft) and method.advantage != "verified":
        found.append(
            ("advantage", f"objective raft needs 0/1 weights, not {method.advantage}; use advantage: verified")
        )
    if isinstance(method.objective, Raft) and method.kl.beta > 0:
        found.append(("kl.beta", "objective raft has no reference term; set kl.beta: 0"))
    if isinstance(method.estimator, Trajectory):
        found += _trajectory_problems(method.estimator, sampler, method.exact_kl)
    if method.estimator.law == "sampler" and sampler.temperature == 0.0:
        found.append(
            ("estimator.law", "at temperature 0 the sampler's law has no gradient; use rollout.temperature > 0")
        )
    if method.exact_kl and method.estimator.law == "sampler" and sampler.top_p < 1.0:
        found.append(
            (
                "kl.estimator",
                "under rollout.top_p the two laws have different supports and no finite divergence; use kl.estimator: k2",
            )
        )
    found += _objective_problems(method)
    if (
        method.advantage == "verified"
        and method.inner_passes > 1
        and isinstance(method.objective, Clipped | LinearBound)
    ):
        found.append(("advantage", "verified weights never push down; with a clipped objective use a group advantage"))
    return found


def _objective_problems(method: "Method") -> list[tuple[str, str]]:
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
    if isinstance(objective, Stepwise) != (estimator.unit == "action"):
        found.append(
            (
                "objective",
                f"objective {objective.kind} and estimator {estimator.kind} do not go together: stepwise is of recorded answers; "
                "use objective stepwise with estimator x0_action, or neither",
            )
        )
    elif isinstance(objective, Stepwise) and method.advantage != "stepwise":
        found.append(
            (
                "advantage",
                f"objective stepwise weighs each step by itself, not by {method.advantage}; use advantage: stepwise",
            )
        )
    if method.advantage == "stepwise" and estimator.unit in ("sequence", "draw"):
        found.append(
            (
                "estimator.unit",
                f"stepwise advantages are of denoising steps, not of a {estimator.unit}; use unit: step or token",
            )
        )
    if method.advantage == "stepwise" and estimator.kind not in ("x0_action", "trajectory"):
        found.append(
            (
                "estimator.kind",
                f"a token of {estimator.kind} belongs to no denoising step; use estimator x0_action or trajectory",
            )
        )
    if isinstance(objective, Dpo):
        found += _dpo_problems(method)
    if method.kl.estimator == "k2_sum" and not (whole and estimator.length_normalized):
        found.append(
            (
                "kl.estimator",
                "k2_sum is of a sequence's sum, per token; use unit: sequence with length_normalized: true, or k2",
            )
        )
    if method.exact_kl and not estimator.linear:
        found.append(
            (
                "kl.estimator",
                f"exact is of each position, and {estimator.kind} is no sum over positions; use kl.estimator: k2",
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


def _dpo_problems(method: "Method") -> list[tuple[str, str]]:
    """A pair compares two whole answers, and needs both."""
    found, estimator = [], method.estimator
    if estimator.unit != "sequence":
        found.append(
            (
                "estimator.unit",
                f"dpo compares whole answers, and a {estimator.unit} is none; use unit: sequence with length_normalized: false",
            )
        )
    elif estimator.length_normalized:
        found.append(
            (
                "estimator.length_normalized",
                "beta of dpo acts on log-likelihoods of whole answers, and a mean over tokens is not one; use length_normalized: false",
            )
        )
    if method.advantage != "best_worst":
        found.append(
            (
                "advantage",
                f"dpo needs one chosen and one rejected row, not {method.advantage}; use advantage: best_worst",
            )
        )
    if method.mask_truncated:
        found.append(
            ("mask_truncated", "leaving single rollouts out would tear pairs apart; set mask_truncated: false")
        )
    return found


def _trajectory_problems(estimator: Trajectory, sampler: SamplerSpec, exact: bool) -> list[tuple[str, str]]:
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
    if exact:
        found.append(
            ("kl.estimator", "exact is of tokens, and the order is no token; with order: true use kl.estimator: k2")
        )
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

"""Which choices of a method have a meaning together. Every refusal names its remedy."""

from collections.abc import Iterator

from rl.advantages import GROUP_ADVANTAGES
from rl.correction import unrecorded
from rl.estimators import Blockwise
from rl.likelihood import BaseEstimator, Trajectory
from rl.method import Method
from rl.objectives import Clipped, LinearBound, Raft, Stepwise, WeightedCrossEntropy
from rl.preference import Dpo
from rollouts.spec import SamplerSpec

# (key, message with remedy)
Problem = tuple[str, str]


def problems(method: Method, sampler: SamplerSpec, group_size: int) -> list[Problem]:
    """``(key, message with remedy)`` for every combination that has no meaning; empty if sound."""
    found = [*_of_the_advantage(method, group_size), *_of_the_estimator(method, sampler)]
    found += [*_of_the_objective(method), *_of_the_kl(method, sampler), *_of_the_correction(method, sampler)]
    return [*found, *_unnamed(method, sampler)]


def _of_the_advantage(method: Method, group_size: int) -> Iterator[Problem]:
    key, name, objective, estimator = "advantage", method.advantage, method.objective, method.estimator
    if name in GROUP_ADVANTAGES and group_size < 2:
        said = f"{name} compares the rollouts of a prompt, but rollout.group_size is {group_size}"
        yield key, f"{said}; use 2 or more"
    if isinstance(objective, Raft) and name != "verified":
        yield key, f"objective raft needs 0/1 weights, not {name}; use advantage: verified"
    if isinstance(objective, WeightedCrossEntropy) and name != "group_centered":
        yield key, f"weighted_ce divides the reward itself by alpha, not {name}; use advantage: group_centered"
    if isinstance(objective, Stepwise) and estimator.unit == "action" and name != "stepwise":
        yield key, f"objective stepwise weighs each step by itself, not by {name}; use advantage: stepwise"
    if isinstance(objective, Dpo) and name != "best_worst":
        yield key, f"dpo needs one chosen and one rejected row, not {name}; use advantage: best_worst"
    if name == "verified" and method.inner_passes > 1 and isinstance(objective, Clipped | LinearBound):
        yield key, "verified weights never push down; with a clipped objective use a group advantage"
    if name == "stepwise" and estimator.unit in ("sequence", "draw"):
        said = f"stepwise advantages are of denoising steps, not of a {estimator.unit}"
        yield "estimator.unit", f"{said}; use unit: step or token"
    if name == "stepwise" and estimator.kind not in ("x0_action", "trajectory"):
        said = f"a token of {estimator.kind} belongs to no denoising step"
        yield "estimator.kind", f"{said}; use estimator x0_action or trajectory"


def _of_the_estimator(method: Method, sampler: SamplerSpec) -> Iterator[Problem]:
    estimator = method.estimator
    if isinstance(estimator, Blockwise) and (estimator.sample_blocks or 0) > sampler.blocks:
        said = f"{estimator.sample_blocks} is more than the {sampler.blocks} blocks of rollout.canvas"
        yield "estimator.sample_blocks", f"{said}; leave sample_blocks out to score them all"
    if isinstance(estimator, Trajectory):
        yield from _of_the_steps(estimator, sampler)
    if isinstance(estimator, Trajectory) and estimator.order:
        yield from _of_the_order(estimator, sampler)
    if estimator.law == "sampler" and sampler.temperature == 0.0:
        yield "estimator.law", "at temperature 0 the sampler's law has no gradient; use rollout.temperature > 0"


def _of_the_steps(estimator: Trajectory, sampler: SamplerSpec) -> Iterator[Problem]:
    chosen = [key for key in ("segments", "shrink", "sample_steps") if getattr(estimator, key) is not None]
    if len(chosen) > 1:
        yield f"estimator.{chosen[-1]}", f"{' and '.join(chosen)} exclude each other; keep one of them"
    if estimator.sample_by == "entropy" and estimator.sample_steps is None:
        said = "entropy chooses among steps, and all are scored"
        yield "estimator.sample_by", f"{said}; set sample_steps, or leave it out"
    for key in chosen:
        value = getattr(estimator, key)
        if value > sampler.steps:
            yield f"estimator.{key}", f"{value} is more than the {sampler.steps} denoising steps of rollout.steps"


def _of_the_order(estimator: Trajectory, sampler: SamplerSpec) -> Iterator[Problem]:
    """What scoring the order of the positions needs."""
    if estimator.unit == "token":
        said = "the order belongs to a whole step, not to a token"
        yield "estimator.unit", f"{said}; with order: true use unit: step or sequence"
    for key in ("segments", "shrink"):
        if getattr(estimator, key) is not None:
            yield f"estimator.{key}", f"merged steps have no law of the order; with order: true leave {key} out"
    if estimator.law != "sampler":
        yield "estimator.law", "the order is drawn by the sampler; with order: true use law: sampler"
    if sampler.selection == "random":
        said = "the random order does not depend on the policy"
        yield "estimator.order", f"{said}; set order: false, which is exact"
    elif sampler.selection != "confidence":
        said = f"under selection {sampler.selection} the order is a certain function of the policy and has no density"
        yield "estimator.order", f"{said}; use rollout.selection: confidence, or order: false"


def _of_the_objective(method: Method) -> Iterator[Problem]:
    """What an objective asks of the estimator's unit."""
    key, estimator, objective = "estimator.unit", method.estimator, method.objective
    unit, whole = estimator.unit, estimator.unit == "sequence"
    if isinstance(objective, LinearBound) and unit != "draw":
        yield key, f"linear_bound is a mean over draws, not over a {unit}; use elbo with unit: draw"
    if isinstance(objective, Clipped) and unit == "draw":
        said = "a ratio of a single draw is not the policy's"
        yield key, f"{said}; use unit: sequence, or objective linear_bound"
    if isinstance(objective, WeightedCrossEntropy) and not (whole and not estimator.length_normalized):
        said = "weighted_ce weighs whole sequences by their log-probability"
        yield key, f"{said}; use unit: sequence with length_normalized: false"
    if isinstance(objective, Stepwise) != (unit == "action"):
        said = f"objective {objective.kind} and estimator {estimator.kind} do not go together"
        remedy = "use objective stepwise with estimator x0_action, or neither"
        yield "objective", f"{said}: stepwise is of recorded answers; {remedy}"
    if isinstance(objective, Dpo):
        yield from _of_pairs(method)


def _of_pairs(method: Method) -> Iterator[Problem]:
    """A pair compares two whole answers, and needs both."""
    estimator = method.estimator
    if estimator.unit != "sequence":
        said = f"dpo compares whole answers, and a {estimator.unit} is none"
        yield "estimator.unit", f"{said}; use unit: sequence with length_normalized: false"
    elif estimator.length_normalized:
        said = "beta of dpo acts on log-likelihoods of whole answers, and a mean over tokens is not one"
        yield "estimator.length_normalized", f"{said}; use length_normalized: false"
    if method.mask_truncated:
        yield "mask_truncated", "leaving single rollouts out would tear pairs apart; set mask_truncated: false"


def _of_the_kl(method: Method, sampler: SamplerSpec) -> Iterator[Problem]:
    key, estimator = "kl.estimator", method.estimator
    if isinstance(method.objective, Raft) and method.kl.beta > 0:
        yield "kl.beta", "objective raft has no reference term; set kl.beta: 0"
    if method.kl.estimator == "k2_sum" and not (estimator.unit == "sequence" and estimator.length_normalized):
        said = "k2_sum is of a sequence's sum, per token"
        yield key, f"{said}; use unit: sequence with length_normalized: true, or k2"
    if not method.exact_kl:
        return
    if not estimator.linear:
        yield key, f"exact is of each position, and {estimator.kind} is no sum over positions; use kl.estimator: k2"
    if estimator.law == "sampler" and sampler.top_p < 1.0:
        said = "under rollout.top_p the two laws have different supports and no finite divergence"
        yield key, f"{said}; use kl.estimator: k2"
    if isinstance(estimator, Trajectory) and estimator.order:
        yield key, "exact is of tokens, and the order is no token; with order: true use kl.estimator: k2"


def _of_the_correction(method: Method, sampler: SamplerSpec) -> Iterator[Problem]:
    """A weight of a whole row needs the law that drew it, and a loss that is an expectation over rows."""
    if method.correction is None:
        return
    key, why = "correction", unrecorded(sampler)
    if why is not None:
        yield (
            key,
            f"{why}; use rollout.selection confidence or random, temperature > 0 and top_p 1, or correction: null",
        )
    if method.objective.couples_rows or method.objective.couples_groups:
        said = f"the loss of {method.objective.kind} is of several rollouts at once, and each would weigh by itself"
        yield key, f"{said}; use correction: null"
    if method.correction.per == "unit":
        yield from _of_the_unit(method.estimator)
    if method.advantage == "stepwise":
        yield key, "stepwise advantages are of answers that were drawn apart from the trajectory; use correction: null"


def _of_the_unit(estimator: BaseEstimator) -> Iterator[Problem]:
    """A unit can be compared with the record if it is of the sampler's own steps and law."""
    own = isinstance(estimator, Trajectory) and estimator.segments is None and estimator.shrink is None
    if not own or estimator.law != "sampler" or estimator.unit not in ("token", "step"):
        said = "the sampler recorded tokens and steps under its own law, and this estimator scores something else"
        remedy = "use correction.per: trajectory, or estimator trajectory with law: sampler and unit: token or step"
        yield "correction.per", f"{said}; {remedy}"


def _unnamed(method: Method, sampler: SamplerSpec) -> Iterator[Problem]:
    """What is an approximation and does not say so."""
    if method.correction is not None and "truncated_correction" not in method.approximations:
        said = f"weights above {method.correction.most:g} are cut, which biases the gradient"
        yield "approximations", f"{said}; name it with approximations: [truncated_correction], or use correction: null"
    key, estimator = "approximations", method.estimator
    product = isinstance(estimator, Trajectory) and not estimator.order
    chosen = sampler.selection == "confidence" and sampler.policy_orders
    if product and chosen and "order_conditional" not in method.approximations:
        said = (
            "under rollout.selection confidence the order depends on the policy, and a product of token probabilities is "
            "conditional on it; name it with approximations: [order_conditional], or score the order with "
            "estimator: {order: true, unit: step, law: sampler}"
        )
        yield key, said
    sampled = (isinstance(estimator, Trajectory) and estimator.sample_steps is not None) or (
        isinstance(estimator, Blockwise) and estimator.sample_blocks is not None
    )
    ratio = isinstance(method.objective, Clipped | LinearBound) and not method.on_policy
    nonlinear = ratio or isinstance(method.objective, WeightedCrossEntropy)
    nonlinear = nonlinear or (method.kl.beta > 0 and not method.exact_kl)
    if sampled and estimator.unit == "sequence" and nonlinear and "biased_ratio" not in method.approximations:
        said = "a ratio, weight or KL of a sum over sampled steps or blocks is biased, though the sum is not"
        yield key, f"{said}; name it with approximations: [biased_ratio], or score every step or block"

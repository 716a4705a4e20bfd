"""What tests of the learning side start from: a small policy, a batch of its rollouts, and a recorder in place of the optimizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rl.advantages import best_worst
from rl.config import OptimConfig
from rl.learner import Learner
from rl.masks import PlanKey
from rl.method import Method
from rl.presets import PRESETS
from rl.scored import ScoredBatch
from rollouts.checkpoints import save_policy
from rollouts.hints import with_hint_entropy
from rollouts.lora import LoraSpec
from rollouts.models import load_policy
from rollouts.policy import Policy
from rollouts.spec import SamplerSpec
from rollouts.strategy import sample_groups
from rollouts.tiny import build_tiny
from tests.oracles.naive_step import naive_loss, naive_scores

DIGITS = "0123456789"
# Several blocks, ragged prompts, early stop, a law that is not the raw one.
SPEC = SamplerSpec(canvas=8, block=4, steps=4, temperature=0.9, forbid=(3,))
PROMPTS = ((1, 2, 4), (5, 6, 7, 8, 9, 1), (2, 2, 0, 1))
Weights = list[Tensor]

ESTIMATORS: dict[str, dict[str, Any]] = {
    "mean field, token": {"kind": "mean_field", "prompt_mask_prob": 0.3},
    "mean field, hints": {"kind": "mean_field", "prompt_mask_prob": 0.3, "unit": "token", "hints": 0.5},
    "mean field, sequence": {"kind": "mean_field", "unit": "sequence", "law": "sampler"},
    "every step, token": {"kind": "trajectory"},
    "every step, raw": {"kind": "trajectory", "law": "raw"},
    "every step, step": {"kind": "trajectory", "unit": "step"},
    "every step, sequence": {"kind": "trajectory", "unit": "sequence"},
    "every step, sum": {"kind": "trajectory", "unit": "sequence", "length_normalized": False},
    "segments, token": {"kind": "trajectory", "segments": 3},
    "segments, step": {"kind": "trajectory", "segments": 3, "unit": "step"},
    "shrunk, token": {"kind": "trajectory", "shrink": 3},
    "shrunk, step": {"kind": "trajectory", "shrink": 2, "unit": "step"},
    "sampled, token": {"kind": "trajectory", "sample_steps": 2},
    "sampled, step": {"kind": "trajectory", "sample_steps": 2, "unit": "step"},
    "sampled, sequence": {"kind": "trajectory", "sample_steps": 2, "unit": "sequence"},
    "sampled by entropy": {"kind": "trajectory", "sample_steps": 2, "sample_by": "entropy"},
    "order, step": {"kind": "trajectory", "order": True, "unit": "step"},
    "order, sequence": {"kind": "trajectory", "order": True, "unit": "sequence"},
    "order, sampled": {"kind": "trajectory", "order": True, "unit": "step", "sample_steps": 2},
    "elbo": {"kind": "elbo", "draws": 3},
    "elbo, draw": {"kind": "elbo", "draws": 3, "unit": "draw"},
    "elbo, pairs": {"kind": "elbo", "draws": 2, "levels": "stratified", "pair": "complement"},
    "coupled": {"kind": "coupled"},
    "sandwich": {"kind": "sandwich", "draws": 3},
    "random tokens": {"kind": "random_tokens", "schedule": "random_start"},
    "left to right": {"kind": "ar_order"},
    "blocks": {"kind": "blockwise", "draws": 2},
    "one block": {"kind": "blockwise", "draws": 1, "pair": "complement", "sample_blocks": 1},
    "elbo, sum": {"kind": "elbo", "draws": 2, "length_normalized": False, "law": "sampler"},
}
CLIPPED = {"kind": "clipped", "epsilon_low": 0.05, "epsilon_high": 0.1}
WEIGHTED = {"kind": "weighted_ce", "alpha": 0.5}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "clipped": {"objective": CLIPPED},
    "clipped, k2": {"objective": CLIPPED, "kl": {"beta": 0.3, "estimator": "k2"}},
    "clipped, k3": {"objective": CLIPPED, "kl": {"beta": 0.3, "estimator": "k3"}},
    "dual": {"objective": CLIPPED | {"dual": 1.15}},
    "bound": {"objective": CLIPPED | {"kind": "linear_bound", "dual": 1.15}},
    "policy gradient": {"objective": {"kind": "policy_gradient"}, "advantage": "softmax_difference"},
    "raft": {"objective": {"kind": "raft"}, "advantage": "verified"},
}
# Objectives that only sequences have, each with an estimator of theirs.
SEQUENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "clipped, k2 of the sum": ("elbo", {"objective": CLIPPED, "kl": {"beta": 0.3, "estimator": "k2_sum"}}),
    "weighted cross-entropy": ("elbo, sum", {"objective": WEIGHTED, "advantage": "group_centered"}),
    "weighted cross-entropy, mean": (
        "every step, sum",
        {"objective": WEIGHTED | {"baseline": "mean"}, "advantage": "group_centered"},
    ),
    "weighted cross-entropy, k3": (
        "elbo, sum",
        {"objective": WEIGHTED | {"baseline": "none"}, "kl": {"beta": 0.1}, "advantage": "group_centered"},
    ),
    "dpo": ("elbo, sum", {"objective": {"kind": "dpo"}, "advantage": "best_worst"}),
    "dpo, smoothed": (
        "every step, sum",
        {"objective": {"kind": "dpo", "label_smoothing": 0.2, "sft_weight": 0.0}, "advantage": "best_worst"},
    ),
    "dpo, k3": (
        "elbo, sum",
        {"objective": {"kind": "dpo", "beta": 0.5}, "kl": {"beta": 0.1}, "advantage": "best_worst"},
    ),
}
# Methods on recorded answers, with advantages of their steps.
STEPWISE: dict[str, dict[str, Any]] = {
    "answers": {"estimator": {"kind": "x0_action", "sample_steps": 2}},
    "answers, k2": {"estimator": {"kind": "x0_action", "sample_steps": 3}, "kl": {"beta": 0.3, "estimator": "k2"}},
    "answers, equal": {"estimator": {"kind": "x0_action", "sample_steps": 9, "confidence": False, "law": "raw"}},
    "token of a step": {"estimator": {"kind": "trajectory"}, "objective": CLIPPED},
    "step": {"estimator": {"kind": "trajectory", "unit": "step"}, "objective": CLIPPED | {"dual": 1.15}},
}
REDUCTIONS: dict[str, Any] = {"tokens": "token_mean", "sequences": "sequence_mean", "constant": {"constant": 5.0}}
# One of each kind, for what need not be tried in every combination.
FEW = ("mean field, token", "sampled, step", "order, sequence", "elbo")


def tiny_policy(seed: int = 0, *, spread: float = 0.2, **options: Any) -> Policy:
    """14 tokens, two of which end a text; matrices wide enough that no distribution is flat."""
    policy = build_tiny(
        seed, **{"d_model": 32, "layers": 2, "heads": 2, "alphabet": DIGITS, "max_length": 40} | options
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, spread, generator=generator))
    return policy


def tiny_folder(folder: Path, **options: Any) -> Path:
    """The same as a checkpoint."""
    save_policy(tiny_policy(**options), folder)
    return folder


def lora_policy(folder: Path, *, filled: bool = True, **options: Any) -> Policy:
    """A checkpoint under LoRA. filled: B is random too, so that the adapter does something and A has a gradient."""
    policy = load_policy(folder, lora=LoraSpec(r=4, alpha=8), **options)
    if filled:
        move(list(policy.parameters()), 0.05, seed=9)
    return policy


def trained(policy: torch.nn.Module) -> Weights:
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


@torch.no_grad()
def move(parameters: Sequence[Tensor], size: float, seed: int) -> None:
    """Add a fixed random amount to every trainable parameter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.add_(torch.empty(parameter.shape).normal_(0.0, size, generator=generator))


def copies(parameters: Sequence[Tensor]) -> Weights:
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def restore(parameters: Sequence[Tensor], weights: Weights) -> None:
    for parameter, value in zip(parameters, weights, strict=True):
        parameter.copy_(value)


# Canvas offset -> token, of two in three rows.
HINTS = ({0: 5, 2: 6, 5: 7}, {}, {1: 4, 3: 2, 4: 8, 7: 9})


def make_batch(
    policy: Policy,
    spec: SamplerSpec = SPEC,
    *,
    seed: int = 8,
    binary: bool = False,
    group_size: int = 3,
    hinted: bool = False,
    recorded: bool = False,
) -> ScoredBatch:
    """Rollouts with invented rewards and advantages; every third row has no advantage. binary: 0/1, as raft wants them.

    recorded: with answers, and advantages of steps.
    """
    count = len(PROMPTS) * group_size
    rollouts = sample_groups(
        policy,
        PROMPTS,
        spec,
        group_size=group_size,
        prompt_ids=range(len(PROMPTS)),
        seed=seed,
        step=0,
        hints=[HINTS[i % len(HINTS)] for i in range(count)] if hinted else None,
        recorded=recorded,
    )
    if hinted:
        rollouts = with_hint_entropy(policy, rollouts)
    generator = torch.Generator().manual_seed(seed)
    advantage = torch.randn(len(rollouts), generator=generator)
    advantage[::3] = 0.0
    if binary:
        advantage = (advantage > 0).float()
    scored = ScoredBatch(rollouts, advantage.clone(), advantage.clone())
    if recorded:
        own = advantage.unsqueeze(1) * torch.randn(count, rollouts.steps, generator=generator)
        advantage = torch.where(rollouts.step_mask, own, 0.0)
    return scored.with_advantage(advantage)


def make_learner(policy: Any, *, micro_batch: int = 9, total_steps: int = 10, **optim: Any) -> Learner:
    settings: dict[str, Any] = {"lr": 1e-3, "max_grad_norm": 1e9} | optim
    return Learner(policy, OptimConfig(**settings), total_steps=total_steps, micro_batch=micro_batch)


@torch.no_grad()
def pull(group: Any) -> None:
    """The driver's own policy takes the ranks' weights, to compare with or to draw from."""
    with group.weights():
        found = copies(group.parameters)
    for parameter, value in zip(group.parameters, found, strict=True):
        parameter.copy_(value)


class Recorder:
    """Takes the place of the learner's optimizer step: keeps gradient and weights of every pass, then moves the weights by a fixed
    amount (so that passes of two learners meet at the same weights), or lets the optimizer move them."""

    def __init__(self, learner: Learner, *, size: float | None = 0.02) -> None:
        self.parameters, self.size, self.own_step = learner.parameters, size, learner.step
        self.gradients: list[Weights] = []
        self.weights: list[Weights] = []
        learner.step = self.step  # pyright: ignore[reportAttributeAccessIssue]

    def step(self) -> dict[str, float]:
        self.weights.append(copies(self.parameters))
        self.gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters])
        if self.size is None:
            return self.own_step()
        for parameter in self.parameters:
            parameter.grad = None
        move(self.parameters, self.size, seed=len(self.weights))
        return {"grad_norm": 1.0}


def naive_gradient(
    policy: Policy,
    batch: ScoredBatch,
    method: Method,
    key: PlanKey,
    *,
    now: Weights,
    old: Weights,
    reference: Weights | None = None,
) -> tuple[float, Weights]:
    """Loss and gradient by the oracle, with the policy at the weights ``now``; leaves the policy there."""
    parameters = trained(policy)
    assert batch.advantage is not None
    plan = method.estimator.plan_of(batch.rollouts, batch.advantage, key)
    law = method.estimator.scoring_law(batch.rollouts.sampler_spec, policy.forbidden_ids)

    def scores(weights: Weights) -> dict[tuple[int, int], Tensor]:
        restore(parameters, weights)
        return naive_scores(policy, batch.rollouts, plan, law)

    with torch.no_grad():
        before = scores(old)
        anchor = None if reference is None else scores(reference)
    loss = naive_loss(method, batch, plan, scores(now), before, anchor)
    gradient = torch.autograd.grad(loss, parameters, allow_unused=True)
    return float(loss.detach()), [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradient, strict=True)
    ]


def distance(left: Weights, right: Weights) -> float:
    """Largest relative distance of any tensor. A tensor with little gradient is measured by a thousandth of the whole's."""
    whole = float(torch.stack([value.norm() for value in right]).norm())
    gaps = [float((a - b).norm()) / max(float(b.norm()), 1e-3 * whole) for a, b in zip(left, right, strict=True)]
    return max(gaps)


def method_of(estimator: str, objective: str = "clipped", reduction: str = "tokens", **rest: Any) -> Method:
    found = SEQUENCES[objective][1] if objective in SEQUENCES else OBJECTIVES[objective]
    parts = {"estimator": ESTIMATORS[estimator], **found, "reduction": REDUCTIONS[reduction]}
    return Method.model_validate({**parts, **rest})


def stepwise_of(name: str, reduction: str = "sequences", **rest: Any) -> Method:
    parts = {"objective": CLIPPED | {"kind": "stepwise"}, "advantage": "stepwise", **STEPWISE[name]}
    return Method.model_validate({**parts, "reduction": REDUCTIONS[reduction], **rest})


def preset_of(name: str, *, passes: int = 2, steps: int = 4) -> Method:
    """A preset cut down to the toy size: as many draws, segments and passes as fit."""
    raw = PRESETS[name]
    most = {"segments": steps - 1, "shrink": steps // 2, "sample_steps": steps // 2, "draws": 3}
    estimator = {key: min(value, most[key]) if key in most else value for key, value in raw["estimator"].items()}
    return Method.model_validate(
        {**raw, "estimator": estimator, "inner_passes": min(passes, raw["inner_passes"]), "preset": name}
    )


def batch_for(policy: Policy, method: Method, spec: SamplerSpec = SPEC) -> ScoredBatch:
    hinted = getattr(method.estimator, "hints", None) is not None
    recorded = method.advantage == "stepwise"
    batch = make_batch(policy, spec, binary=method.advantage == "verified", hinted=hinted, recorded=recorded)
    if method.advantage == "best_worst":
        return batch.with_advantage(best_worst(batch.reward, batch.rollouts.group_id))
    return batch


def prepared(policy: Policy, method: Method, **options: Any) -> tuple[Learner, Recorder, Weights | None]:
    """A learner whose optimizer is a recorder and whose reference is a little away from the policy."""
    size = options.pop("size", 0.02)
    learner = make_learner(policy, **options)
    anchor = None
    if method.needs_reference:
        own = copies(learner.parameters)
        move(learner.parameters, 0.03, seed=77)
        learner.freeze_reference("start")
        anchor = copies(learner.parameters)
        for parameter, value in zip(learner.parameters, own, strict=True):
            parameter.data.copy_(value)
    return learner, Recorder(learner, size=size), anchor

"""What can go wrong in a run, and how its rows show it: one small function per monitor, and the table of them.

A monitor gets a `View` and answers with what it saw, numbers included, and what to do, recipe keys included; or None.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rl.health_config import HealthConfig

Finding = tuple[str, str]  # what was seen, with its numbers; what to do, with the recipe's keys
UNTRAINED = "no reward applies"  # rl.grading's reason for a row to which every reward answered None


@dataclass(frozen=True)
class Facts:
    """What monitors must know of a run besides its rows. weights: reward -> weight; outcome: the reward reported as accuracy;
    dtype: what the weights are rounded to in a forward pass."""

    group_size: int
    outcome: str
    weights: Mapping[str, float]
    dtype: str


@dataclass(frozen=True)
class View:
    """What a monitor sees: the newest row, the last updates, the first ones. A metric that the newest row lacks is not judged."""

    config: HealthConfig
    facts: Facts
    row: Mapping[str, Any]
    now: Mapping[str, float]
    recent: Mapping[str, list[float]]
    early: Mapping[str, list[float]]

    def values(self, name: str) -> list[float]:
        """The metric in the last ``window`` updates that had it; empty until there are so many."""
        values = self.recent.get(name, [])[-self.config.window :]
        return values if name in self.now and len(values) == self.config.window else []

    def mean(self, name: str) -> float | None:
        """Mean over the window."""
        values = self.values(name)
        return math.fsum(values) / len(values) if values else None

    def median(self, name: str) -> float | None:
        """Median over the window: one wild update does not move it."""
        values = self.values(name)
        return statistics.median(values) if values else None

    def first(self, name: str) -> float | None:
        """Mean over the first ``baseline`` updates that had the metric; None until there are so many."""
        values = self.early.get(name, [])
        return math.fsum(values) / len(values) if len(values) == self.config.baseline else None

    def gain(self, name: str) -> float:
        """Mean of now less that of the first updates; 0 where either is missing."""
        now, first = self.mean(name), self.first(name)
        return 0.0 if now is None or first is None else now - first

    @property
    def lately(self) -> str:
        return "in the last update" if self.config.window == 1 else f"in the last {self.config.window} updates"


# ---- the monitors


def group_collapse(view: View) -> Finding | None:
    """Distinct completions of a group, as a share of what is possible."""
    size, diversity = view.facts.group_size, view.mean("group_diversity")
    if diversity is None or size < 2:
        return None
    if (diversity * size - 1) / (size - 1) > view.config.limits.variety:
        return None
    return (
        f"{view.lately} the {size} completions of a prompt were copies of each other: {diversity * size:.1f} different ones on average",
        "Raise rollout.temperature and set rollout.top_p: 1. If it began during the run, resume from an earlier checkpoint with "
        "a lower optim.lr or a method.kl.beta. If the outcome is near its maximum, the prompts of data.train are solved",
    )


def reward_all_format(view: View) -> Finding | None:
    """The outcome near 0, and the reward moved by everything else."""
    name = view.facts.outcome
    trained = {one: weight for one, weight in view.facts.weights.items() if weight}
    others = [one for one in trained if one != name]
    outcome, reward = view.mean("outcome"), view.mean("reward")
    if not others or outcome is None or reward is None or abs(outcome) > view.config.limits.outcome:
        return None
    spread = {one: (weight * (view.mean(f"reward/{one}/std") or 0.0)) ** 2 for one, weight in trained.items()}
    early = sum((weight * (view.first(f"reward/{one}/std") or 0.0)) ** 2 for one, weight in trained.items())
    total, before = sum(spread.values()), view.first("reward")
    if before is not None and reward - before > 0.5 * math.sqrt(max(total, early)) > 0:
        main = max(others, key=lambda one: trained[one] * view.gain(f"reward/{one}"))
        what = f"while the reward rose from {before:.3g} at first to {reward:.3g}, most of it {main}"
    elif name in trained and total > 0 and 1 - spread[name] / total >= view.config.limits.other_rewards:
        main = max(others, key=lambda one: spread[one])
        what = (
            f"and {1 - spread[name] / total:.0%} of the reward's variance was that of other rewards, most of it {main}"
        )
    else:
        return None
    return (
        f"{view.lately} the outcome {name} was {outcome:.2g}, {what}",
        f"The form of an answer is being learnt, not the answer. Lower the weight of {main} in rewards, and bring right answers "
        "within reach: easier rows in data.train, a warm_start on solutions, a larger rollout.group_size, more rollout.steps",
    )


def zero_signal(view: View) -> Finding | None:
    """Groups that teach nothing."""
    dead, outcome, cut = view.mean("dead_groups"), view.mean("outcome"), view.mean("truncated")
    if dead is None or outcome is None or dead < view.config.limits.zero_signal:
        return None
    equal = view.mean("zero_signal_groups")
    if equal is not None and equal < view.config.limits.zero_signal:
        seen = f"{view.lately} there was next to nothing to train on although rewards differed"
        if cut is not None and cut > 0.5:
            return f"{seen}: {cut:.0%} of the completions were cut off before EOS", (
                "method.mask_truncated: true leaves those out: raise rollout.canvas, or set it to false"
            )
        return f"{seen}: no outcome was 1 (mean {outcome:.2g})", (
            "The advantage verified trains on an outcome of 1 alone: use easier rows in data.train, a warm_start, or another preset"
        )
    if outcome >= 0.8:
        remedy = "The prompts are solved: use harder rows in data.train, or end the run here"
    elif abs(outcome) <= 0.05:
        remedy = (
            "Hardly a completion is right: use easier rows in data.train, a warm_start, a larger rollout.group_size, more "
            "rollout.steps, or a reward with partial credit in rewards. Check on a few rollouts that right answers are recognised"
        )
    else:
        remedy = (
            "A prompt is either always solved or never: use a larger rollout.group_size, a higher rollout.temperature, or a reward "
            "that tells completions apart"
        )
    return (
        f"{view.lately} {dead:.0%} of the groups taught nothing: one reward for all (mean outcome {outcome:.2g})",
        remedy,
    )


def empty_batch(view: View) -> Finding | None:
    """Every rollout dropped."""
    count = view.config.limits.empty_updates
    if view.recent["empty"][-count:] != [1.0] * count:
        return None
    reasons = {name.removeprefix("dropped/"): n for name, n in view.row.items() if name.startswith("dropped/") and n}
    listed = ", ".join(f"{n:g} x '{reason}'" for reason, n in sorted(reasons.items(), key=lambda item: -item[1]))
    if set(reasons) == {UNTRAINED}:
        remedy = (
            "A reward that returns None says that it does not apply to the row: return 0.0 for a wrong answer, and name a reward "
            "for every kind of row in data.train"
        )
    else:
        remedy = "Grading itself failed: see that what the reward needs (a judge, a sandbox, its files) is there"
    many = "this update" if count == 1 else f"the last {count} updates"
    return f"no rollout of {many} could be used, so nothing was trained: {listed or 'no reason was counted'}", remedy


def length_drift(view: View) -> Finding | None:
    """Length, and the share of completions with EOS, against the first updates."""
    limits, seen, remedies = view.config.limits, [], []
    length, before = view.mean("length"), view.first("length")
    if length is not None and before is not None:
        factor = max(length, 1.0) / max(before, 1.0)
        times = max(factor, 1 / factor)
        if times >= limits.length_factor:
            how = f"{times:.1f} times {'more' if factor > 1 else 'fewer'} than at first ({before:.3g})"
            seen.append(f"{view.lately} completions had {length:.3g} tokens, {how}")
            remedies.append(
                "If they ramble until they are cut off, raise rollout.canvas or set method.mask_truncated: true"
                if factor > 1
                else "If reasoning or answers have vanished, some reward pays for brevity or for saying nothing: look at rewards"
            )
    eos, before = view.mean("eos"), view.first("eos")
    if eos is not None and before is not None and abs(eos - before) >= limits.eos_change:
        seen.append(f"{view.lately} {eos:.0%} of the completions ended with EOS, at first {before:.0%}")
        remedies.append(
            "Check that the reward does not read past the end of an answer"
            if eos < before
            else "Check that early endings are not paid for"
        )
    if not seen:
        return None
    return "; ".join(seen), (
        f"Read some completions in the report. {'. '.join(remedies)}. If the change is meant, raise health.limits.length_factor or "
        "health.limits.eos_change"
    )


def ratio_tails(view: View) -> Finding | None:
    """Ratios new / old so uneven that a few units decide the update."""
    limits = view.config.limits
    ess, high, low = view.mean("ess"), view.median("ratio_max"), view.median("ratio_min")
    seen = []
    if ess is not None and ess <= limits.ess:
        seen.append(f"the ratios new/old counted for {ess:.0%} of their number (effective sample size)")
    if high is not None and high >= limits.ratio:
        seen.append(f"the largest ratio of a typical update was {high:.3g}")
    if not seen:
        return None
    if low is not None:  # a small ratio alone does no harm: its gradient is small, too
        seen.append(f"the smallest was {low:.2g}")
    return f"{view.lately} {' and '.join(seen)}", (
        "One batch moves the policy too far: lower optim.lr, method.inner_passes or optim.max_grad_norm, or raise "
        "train.prompts_per_update"
    )


def reference_drift(view: View) -> Finding | None:
    """Distance to the reference."""
    for name, word in (("kl", "KL"), ("penalty", "penalty")):
        value = view.mean(name)
        if value is not None and value >= view.config.limits.kl:
            return (
                f"{view.lately} the {word} to the reference was {value:.3g} nats per unit of the estimator",
                "The policy has left its reference: lower optim.lr or raise method.kl.beta; for a long run method.kl.reference: "
                "moving. If the distance is meant, raise health.limits.kl",
            )
    return None


def entropy_collapse(view: View) -> Finding | None:
    """Entropy of the drawn tokens, against the first updates."""
    entropy, before = view.mean("entropy"), view.first("entropy")
    if entropy is None or not before or entropy > view.config.limits.entropy * before:
        return None
    outcome = view.mean("outcome")
    left = f"{100 * entropy / before:.2g}% of the {before:.2g} at first"
    stands = "" if outcome is None else f"; the mean outcome is {outcome:.2g}"
    return (
        f"{view.lately} the entropy of a drawn token was {entropy:.2g} nats, {left}{stands}",
        "With a high outcome the task is learnt, and there is little left to explore. Otherwise resume from an earlier checkpoint with "
        "a lower optim.lr, a higher rollout.temperature, or a method.kl.beta",
    )


def no_change(view: View) -> Finding | None:
    """Optimizer steps that leave no trace. (A step that changed no float32 master is an error in `rl.learner` already.)"""
    norms, changed = view.values("optim/grad_norm"), view.values("changed")
    if norms and not any(norms):
        return (
            f"{view.lately} the gradient was exactly 0 although rollouts differed in reward",
            "No trained parameter acts on what is scored: see that model.lora.targets names modules of this model, and that "
            "method.objective.epsilon_low and epsilon_high do not clip everything away",
        )
    if not changed or any(changed) or view.facts.dtype != "bfloat16":
        return None
    return (
        f"{view.lately} no weight that was looked at changed in bfloat16 (learning rate {view.now['optim/lr']:.2g}): the updates are "
        "smaller than its resolution, and the sampler's policy stays as it is",
        "Raise optim.lr, train model.lora instead of all weights, or set model.dtype: float32. During a long optim.warmup_steps this "
        "passes by itself",
    )


MONITORS: dict[str, Callable[[View], Finding | None]] = {
    check.__name__: check
    for check in (
        group_collapse,
        reward_all_format,
        zero_signal,
        empty_batch,
        length_drift,
        ratio_tails,
        reference_drift,
        entropy_collapse,
        no_change,
    )
}

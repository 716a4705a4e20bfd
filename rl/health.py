"""Health of a run: reads the rows of ``metrics.jsonl`` and says in plain words what is wrong and what to do.

Pure: rows in, alarms out, no clock and no files, and a state that is plain JSON, so that a resumed run goes on as the undisturbed one.
What is looked at is `rl.monitors`; which of it, and from where on it counts, is the recipe's (`rl.health_config`).
"""

import copy
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rl.health_config import HealthConfig
from rl.monitors import MONITORS, Facts, Finding, View

if TYPE_CHECKING:
    from rl.setup import Setup

EVAL_FALLS = "eval_falls"  # reads evaluations, not rows
WATCHED = [
    "outcome",
    "reward",
    "dead_groups",
    "zero_signal_groups",
    "truncated",
    "group_diversity",
    "empty",
    "length",
    "eos",
    "ess",
    "ratio_min",
    "ratio_max",
    "kl",
    "penalty",
    "entropy",
    "optim/grad_norm",
    "changed",
]


@dataclass(frozen=True)
class Alarm:
    """One line of ``health.jsonl``. update: of the row it speaks of, or updates done for an evaluation; level: warn or stop."""

    update: int
    monitor: str
    level: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.monitor}, update {self.update}: {self.message}. {self.remedy}"


class Health:
    """Feed it every row of metrics and every evaluation, in order; it answers with what to tell."""

    def __init__(self, config: HealthConfig, facts: Facts) -> None:
        self._config = config
        self._facts = facts
        trained = [f"reward/{name}" for name, weight in facts.weights.items() if weight]
        self._names = [*WATCHED, *trained, *(f"{name}/std" for name in trained)]
        self._kept = max(config.window, config.limits.empty_updates)
        self._recent: dict[str, list[float]] = {}
        self._early: dict[str, list[float]] = {}
        self._told: dict[str, int] = {}
        self._best: dict[str, dict[str, Any]] = {}
        self._highest_lr = 0.0

    @staticmethod
    def of(setup: "Setup") -> "Health":
        """The monitors of a run that was set up."""
        recipe = setup.recipe
        weights = {reward.name: reward.weight for reward in setup.rewards}
        return Health(
            recipe.health,
            Facts(recipe.rollout.group_size, setup.outcome, weights, recipe.model.dtype),
        )

    def observe(self, row: Mapping[str, Any]) -> list[Alarm]:
        """The alarms of one row of ``metrics.jsonl``. Metrics that a method does not have are left unjudged."""
        now = self._numbers(row)
        for name in self._names:
            if name in now:
                self._recent[name] = [*self._recent.get(name, []), now[name]][-self._kept :]
                early = self._early.setdefault(name, [])
                if len(early) < self._config.baseline:
                    early.append(now[name])
        view = View(self._config, self._facts, row, now, self._recent, self._early)
        found = {name: check(view) for name, check in MONITORS.items() if getattr(self._config, name) != "off"}
        update = int(row["update"])
        alarms = [self._alarm(update, name, finding) for name, finding in found.items() if finding is not None]
        return [alarm for alarm in alarms if alarm is not None]

    def observe_evaluation(
        self, update: int, accuracy: Mapping[str, float | None], *, split: str = "eval"
    ) -> list[Alarm]:
        """The alarms of an evaluation after ``update`` updates. accuracy: ``{value, low, high, n}``; split: eval or validation.

        A stop comes from the validation split alone: the reported split is never used to choose anything, not even an end.
        """
        value = accuracy["value"]
        if value is None or not math.isfinite(value) or self._config.eval_falls == "off":
            return []
        rewards = self._recent.get("reward", [])[-self._config.window :]
        reward = math.fsum(rewards) / len(rewards) if rewards else None
        best = self._best.get(split)
        if best is None or value > best["value"]:
            self._best[split] = {**accuracy, "update": update, "reward": reward}
            return []
        finding = self._fallen(split, best, value, reward)
        alarm = None if finding is None else self._alarm(update, EVAL_FALLS, finding, split)
        return [] if alarm is None else [alarm]

    def state(self) -> dict[str, Any]:
        """All it remembers, as plain JSON."""
        kept = {"recent": self._recent, "early": self._early, "told": self._told, "best": self._best}
        return copy.deepcopy({**kept, "highest_lr": self._highest_lr})

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state()``. Windows and levels are the config's, which may have changed."""
        state = copy.deepcopy(dict(state))
        self._recent = {name: values[-self._kept :] for name, values in state["recent"].items()}
        self._early = {name: values[: self._config.baseline] for name, values in state["early"].items()}
        self._told, self._best, self._highest_lr = state["told"], state["best"], state["highest_lr"]

    # -- inside

    def _numbers(self, row: Mapping[str, Any]) -> dict[str, float]:
        """The finite numbers of a row, and three that are made from several."""
        numbers = (int, float)
        now = {k: float(v) for k, v in row.items() if isinstance(v, numbers) and not isinstance(v, bool)}
        # An overflow is the largest of numbers, not a missing one.
        now = {name: sys.float_info.max if value == math.inf else value for name, value in now.items()}
        now = {name: value for name, value in now.items() if math.isfinite(value)}
        now["empty"] = float("reward" not in row and "pairs" not in row)  # stored pairs have no rewards to log
        if "zero_signal_groups" in now:
            # Verified rollouts teach in groups of one reward, too; a KL term gives every rollout a gradient, but not of the reward.
            silent = 1.0 if {"kl", "penalty"} & set(now) else 1.0 - now.get("signal_share", 0.0)
            now["dead_groups"] = 1.0 if now.get("signal_share") == 0.0 else min(now["zero_signal_groups"], silent)
        lr = now.get("optim/lr", 0.0)
        self._highest_lr = max(self._highest_lr, lr)
        # The end of a schedule changes little, as it should.
        if "optim/changed_bf16" in now and lr > 0.1 * self._highest_lr:
            now["changed"] = now["optim/changed_bf16"]
        return now

    def _fallen(self, split: str, best: Mapping[str, Any], value: float, reward: float | None) -> Finding | None:
        """A value below the interval of the best one, with a higher reward than then."""
        early = self._early.get("reward", [])
        before = best["reward"]
        if before is None and early:  # the best evaluation came before the first update
            before = math.fsum(early) / len(early)
        if before is None or reward is None or reward <= before or value >= best["low"]:
            return None
        return (
            f"the result on data.{split} is {value:.3f}; after {best['update']} updates it was {best['value']:.3f} "
            f"[{best['low']:.3f}, {best['high']:.3f}]; meanwhile the training reward rose from {before:.3g} to {reward:.3g}",
            "The reward is gained in a way that does not carry over: read rollouts of high reward, and mend rewards. The weights of "
            "that time were better (save.best_by keeps the best by data.validation). More rows in data.train, a method.kl.beta or fewer "
            "train.updates work against it",
        )

    def _alarm(self, update: int, monitor: str, finding: Finding, split: str = "") -> Alarm | None:
        """A stop always; a warning on its first update and then every ``repeat`` updates at most."""
        level = getattr(self._config, monitor)
        level = "warn" if split == "eval" else level
        key = f"{monitor}/{split}" if split else monitor
        told = self._told.get(key)
        if level == "warn" and told is not None and update - told < self._config.repeat:
            return None
        self._told[key] = update
        message, remedy = finding
        if level == "stop":
            remedy += f". To go on all the same: --resume auto health.{monitor}=warn"
        return Alarm(update, monitor, level, message, remedy)

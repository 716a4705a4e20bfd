"""``ScoredBatch``: rollouts with their rewards, as every estimator and objective receives them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rollouts.trajectory import RolloutBatch

_TENSORS = ("reward", "outcome", "advantage", "step_reward")


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """rollouts; reward f32 [B] (weighted sum); outcome f32 [B] (the metric reported as accuracy, NaN = not applicable);
    components name -> f32 [B]; advantage f32 [B] or [B,T]; step_reward f32 [B,T] of recorded answers, NaN at steps that a row did not
    take; dropped: reason -> rows taken out before this batch."""

    rollouts: RolloutBatch
    reward: Tensor
    outcome: Tensor
    components: dict[str, Tensor] = field(default_factory=dict)
    advantage: Tensor | None = None
    step_reward: Tensor | None = None
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rollouts)

    def rows(self, index: Tensor) -> "ScoredBatch":
        """The batch with these rows only."""
        return replace(
            self,
            rollouts=self.rollouts.rows(index),
            reward=self.reward[index],
            outcome=self.outcome[index],
            components={name: value[index] for name, value in self.components.items()},
            advantage=None if self.advantage is None else self.advantage[index],
            step_reward=None if self.step_reward is None else self.step_reward[index],
        )

    def without(self, drop: Tensor, reason: str) -> "ScoredBatch":
        """The batch without the rows of ``drop`` (bool [B]), counted under ``reason``."""
        count = int(drop.sum())
        if not count:
            return self
        kept = self.rows((~drop).nonzero().squeeze(1))
        return replace(kept, dropped={**self.dropped, reason: self.dropped.get(reason, 0) + count})

    @staticmethod
    def concat(batches: Sequence["ScoredBatch"]) -> "ScoredBatch":
        """One batch from several with the same components, rows in order; counts of dropped rows add up."""
        first = batches[0]
        dropped: Counter[str] = Counter()
        for batch in batches:
            dropped.update(batch.dropped)

        def joined(name: str) -> Tensor | None:
            values = [getattr(batch, name) for batch in batches]
            return None if values[0] is None else torch.cat(values)

        return replace(
            first,
            rollouts=RolloutBatch.concat([batch.rollouts for batch in batches]),
            reward=joined("reward"),
            outcome=joined("outcome"),
            components={name: torch.cat([batch.components[name] for batch in batches]) for name in first.components},
            advantage=joined("advantage"),
            step_reward=joined("step_reward"),
            dropped=dict(dropped),
        )

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, none sharing memory with another, and the rest as plain JSON."""
        rolled, rest = self.rollouts.parts()
        own = {name: getattr(self, name) for name in _TENSORS if getattr(self, name) is not None}
        tensors = {f"rollouts/{name}": value for name, value in rolled.items()} | own
        tensors |= {f"components/{name}": value for name, value in self.components.items()}
        return {name: value.clone() for name, value in tensors.items()}, {"rollouts": rest, "dropped": self.dropped}

    @staticmethod
    def of(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> "ScoredBatch":
        """From what `parts` gave."""
        named: dict[str, dict[str, Tensor]] = {"rollouts": {}, "components": {}, "": {}}
        for key, value in tensors.items():
            place, _, name = key.partition("/") if "/" in key else ("", "", key)
            named[place][name] = value
        rollouts = RolloutBatch.of(named["rollouts"], rest["rollouts"])
        return ScoredBatch(rollouts, components=named["components"], dropped=rest["dropped"], **named[""])

    def with_advantage(self, advantage: Tensor) -> "ScoredBatch":
        if advantage.shape[0] != len(self):
            raise ValueError(f"{advantage.shape[0]} advantages for {len(self)} rollouts")
        return replace(self, advantage=advantage.to(torch.float32))

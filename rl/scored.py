"""``ScoredBatch``: rollouts with their rewards, as every estimator and objective receives them."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rollouts.trajectory import RolloutBatch


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """rollouts; reward f32 [B] (weighted sum); outcome f32 [B] (the metric reported as accuracy, NaN = not applicable);
    components name -> f32 [B]; advantage f32 [B] or [B,T]; dropped: reason -> rows taken out before this batch."""

    rollouts: RolloutBatch
    reward: Tensor
    outcome: Tensor
    components: dict[str, Tensor] = field(default_factory=dict)
    advantage: Tensor | None = None
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
        )

    def without(self, drop: Tensor, reason: str) -> "ScoredBatch":
        """The batch without the rows of ``drop`` (bool [B]), counted under ``reason``."""
        count = int(drop.sum())
        if not count:
            return self
        kept = self.rows((~drop).nonzero().squeeze(1))
        return replace(kept, dropped={**self.dropped, reason: self.dropped.get(reason, 0) + count})

    def with_advantage(self, advantage: Tensor) -> "ScoredBatch":
        if advantage.shape[0] != len(self):
            raise ValueError(f"{advantage.shape[0]} advantages for {len(self)} rollouts")
        return replace(self, advantage=advantage.to(torch.float32))

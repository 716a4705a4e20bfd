"""What a process that only grades runs. It loads neither torch nor a model."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewards.contract import Grades, TrainerState, grade, load_rewards
from rewards.ready import check_ready
from rl import origin
from rollouts.logs import log_to


class RewardWorker:
    """Made an actor by `rl.cluster`."""

    def __init__(self, entries: Sequence[Any], base: str, log: str) -> None:
        """entries: as `load_rewards` takes them, functions included; files are relative to ``base``."""
        log_to(log)
        origin.check()
        rewards = load_rewards(entries, base=Path(base))
        check_ready(rewards)
        self.rewards = {reward.name: reward for reward in rewards}

    def ready(self) -> int:
        return os.getpid()

    def grade(self, wanted: Sequence[tuple[str, float]], rows: Mapping[str, Any], state: TrainerState) -> Grades:
        """wanted: names and weights of the rewards; rows: what `rewards.contract.grade` takes of the batch."""
        chosen = [replace(self.rewards[name], weight=weight) for name, weight in wanted]
        return grade(chosen, **rows, trainer_state=state)

"""What a process of Ray's that only grades runs. It loads neither torch nor a model."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewards.contract.answers import Answer, Open
from rewards.contract.load import load_rewards
from rewards.contract.ready import check_ready
from rewards.contract.reward import RewardError
from rewards.contract.worker import Order, answered
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

    def grade(self, orders: Sequence[Order]) -> list[Answer | Open] | RewardError:
        """As `rewards.contract.worker.answered`."""
        return answered(self.rewards, orders)

"""Everything a run counts: what a checkpoint holds of it besides weights and random streams."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """Everything a run counts; plain JSON, so that a checkpoint holds it. updates: done; version: of the weights."""

    updates: int = 0
    sft_steps: int = 0
    warmed: bool = False
    version: int = 0
    worked: float = 0.0  # seconds of all parts of the run that a checkpoint closed
    seconds: dict[str, float] = field(default_factory=dict)
    rollout_forwards: int = 0
    eval_forwards: int = 0
    rows_run: dict[str, int] = field(default_factory=dict)
    best: dict[str, Any] | None = None  # {"update", "value", "reward"} on data.validation
    stale: int = 0  # evaluations in a row without a new best
    unhealthy: str = ""  # the monitor that asked for an end
    changed: list[dict[str, Any]] = field(
        default_factory=list
    )  # {"update", "what"}: files that were changed between parts

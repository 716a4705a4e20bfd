"""math-verify in worker processes that can be killed (`rewards/math_worker.py`). Who is to blame when one does not come back:

- reading the *gold* answer broke it: the data's fault, not the model's. The row is dropped with a counted reason.
- reading or comparing the *model's* answer used up its seconds of processor time, or all memory, or crashed the worker:
  the model's fault. The score is 0, counted as `math_runaway_answers`. A dropped row would be a way out of being wrong.
- the worker was killed from outside, or had no processor time on a busy machine: nobody's fault; dropped and counted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rewards.contract.answers import InfrastructureError
from rewards.contract.pool import Pool, PoolError, Reply, per_process
from rewards.contract.reward import RewardError

MAX_WORKERS = 4
BAD_GOLD = "the gold answer cannot be read"
_PATIENCE = 20.0  # wall time of a request, as a multiple of its processor time


def _make_pool() -> Pool:
    # -P: the folder of the script, where this file is called math.py, must not come before the standard library.
    worker = Path(__file__).with_name("math_worker.py")
    return Pool([sys.executable, "-P", str(worker)], min(MAX_WORKERS, os.cpu_count() or 1))


_pool = per_process(_make_pool)


@dataclass(frozen=True)
class Question:
    """What a worker is asked. `echoed`: the answer stands in the prompt."""

    gold: str
    answer: str
    echoed: bool


def compare(questions: Sequence[Question], seconds: float) -> list[float | InfrastructureError | None]:
    """For each question: 1.0, 0.0, None for an answer that broke its worker, or why the row is to be dropped."""
    return [verdict(reply) for reply in replies([{**asdict(question), "seconds": seconds} for question in questions])]


def replies(requests: Sequence[dict[str, Any]]) -> list[Reply]:
    """What the workers say to requests that `math_worker.py` reads, all with the same `seconds`. Raises RewardError, or
    InfrastructureError where workers that did start do so no more."""
    if not requests:
        return []
    pool = _pool()
    try:
        return pool.run([json.dumps(request) for request in requests], requests[0]["seconds"] * _PATIENCE)
    except PoolError as error:
        if pool.worked:  # a machine in trouble, which may pass
            raise InfrastructureError("the workers do not start any more") from error
        raise RewardError(f"reward math.correct: its worker processes do not start: {error}") from error


def verdict(reply: Reply) -> float | InfrastructureError | None:
    """1.0, 0.0, None for an answer that broke its worker, or why the row is to be dropped."""
    if reply.code is None:
        return float(reply.lines[-1] == "= right")
    if reply.overran:
        return InfrastructureError("the worker had no processor time")
    if reply.code == -9:  # SIGKILL, most often by a system that is out of memory
        return InfrastructureError("the worker was killed from outside")
    if "answer" not in reply.lines:
        return InfrastructureError(BAD_GOLD)
    return None

r"""Tasks of reasoning-gym (extra `tasks`): 105 generators of puzzles with a scorer each, here as rewards.

Rows need the columns `task`, `task_config` (JSON) and `task_index`, as `data.train: {path: reasoning_gym/NAME}` gives them: the
item is built again from them where it is scored, so that no live data set travels to another process.

The answer is what the last `<answer>` tag holds (inside it the last `\boxed{}`), without a tag the last `\boxed{}`; without
either the score is 0. reasoning-gym's own score of it is in [0, 1], and a wrong answer is not always 0: 0.01 to 0.05 in
countdown and fifteen other tasks. So `correct`, a score of 1, is the outcome, and `score` shaping.

The scores are reasoning-gym's, flaws included (0.1.25: `puzzle24` takes any four numbers within its range, and
`game_of_life_halting` any text where the answer is no). Scoring runs in worker processes that can be killed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rewards.contract.answers import InfrastructureError
from rewards.contract.pool import Pool, PoolError, Reply, per_process
from rewards.contract.reward import RewardError
from rewards.countdown import stated_answer
from rewards.extract import text_of

MAX_WORKERS = 4
MAX_ANSWER_CHARS = 20_000
_PATIENCE = 20.0  # wall time of a request, as a multiple of its processor time
_BUILD_WALL_SECONDS = 600.0


def score(
    completions: Sequence[Any],
    task: Sequence[str | None],
    task_config: Sequence[str | None],
    task_index: Sequence[int | None],
    seconds: float = 2.0,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> list[float | InfrastructureError | None]:
    """reasoning-gym's own score of the answer, in [0, 1]; 0.0 without an answer; None where the row has no task. Shaping.

    seconds  processor time for scoring one answer: beyond it the score is 0
    Logged: `gym_runaway_answers`, which used up time or memory; `gym_refused_answers`, which the task's scorer would have
    evaluated although they are no plain expression, and which score 0.
    """
    if seconds <= 0:
        raise ValueError(f"seconds must be more than 0, got {seconds}")
    scores: list[float | InfrastructureError | None] = []
    requests: list[str] = []
    asked: list[int] = []
    for row, completion in enumerate(completions):
        name = task[row]
        answer = stated_answer(text_of(completion))
        scores.append(None if name is None else 0.0)
        if name is not None and answer is not None and len(answer) <= MAX_ANSWER_CHARS:
            item = {"task": name, "config": task_config[row], "index": task_index[row]}
            requests.append(json.dumps({**item, "answer": answer, "seconds": seconds}))
            asked.append(row)
    runaway = refused = 0
    for row, reply in zip(asked, _replies(requests, seconds), strict=True):
        verdict = _verdict(reply)
        runaway += verdict is None
        refused += verdict == "refused"
        scores[row] = 0.0 if verdict is None or isinstance(verdict, str) else verdict
    if log_metric is not None:
        log_metric("gym_runaway_answers", runaway)
        log_metric("gym_refused_answers", refused)
    return scores


def correct(
    completions: Sequence[Any],
    task: Sequence[str | None],
    task_config: Sequence[str | None],
    task_index: Sequence[int | None],
    threshold: float = 1.0,
    seconds: float = 2.0,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> list[float | InfrastructureError | None]:
    """1.0 where reasoning-gym's own score is `threshold` or more, else 0.0; None where the row has no task."""
    scored = score(completions, task, task_config, task_index, seconds, log_metric)
    return [float(value >= threshold) if isinstance(value, float) else value for value in scored]


REWARDS = (score, correct)


def _make_pool() -> Pool:
    start = f"import sys; sys.path[:] = {sys.path!r}; from rewards.gym_worker import main; main()"
    return Pool([sys.executable, "-c", start], min(MAX_WORKERS, os.cpu_count() or 1))


_pool = per_process(_make_pool)


def _replies(requests: Sequence[str], seconds: float) -> list[Reply]:
    if not requests:
        return []
    pool = _pool()
    try:
        return pool.run(requests, _BUILD_WALL_SECONDS + seconds * _PATIENCE)
    except PoolError as error:
        if pool.worked:  # a machine in trouble, which may pass
            raise InfrastructureError("the workers do not start any more") from error
        raise RewardError(f"reward reasoning_gym: its worker processes do not start: {error}") from error


def _verdict(reply: Reply) -> float | str | InfrastructureError | None:
    """A score, "refused", None for an answer that broke its worker, or why the row is to be dropped."""
    if reply.code is None:
        said = reply.lines[-1].removeprefix("= ")
        return said if said == "refused" else float(said)
    if reply.overran:
        return InfrastructureError("the worker had no processor time")
    if reply.code == -9:  # SIGKILL, most often by a system that is out of memory
        return InfrastructureError("the worker was killed from outside")
    if "answer" not in reply.lines:
        return InfrastructureError("the item cannot be built")
    return None

"""A call of a judge reward: what surrounds the asking. Kwargs to settings, texts out of TRL's shapes, failures, the log."""

from __future__ import annotations

import asyncio
import functools
import inspect
import statistics
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rewards.contract.answers import InfrastructureError
from rewards.contract.reward import RewardError
from rewards.extract import text_of
from rewards.judging.client import NAMES, Judge, RefusedError, Settings, settings_problems
from rewards.judging.prompts import prompt_text

Score = float | InfrastructureError | None


@dataclass
class Rows:
    """What a call of a judge reward works on: texts of its n rows, the other columns, and what is to be saved beside them."""

    tasks: list[str]
    answers: list[str]
    columns: Mapping[str, Any]
    judge: Judge
    extras: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def column(self, name: str | None) -> list[Any] | None:
        """The column that a kwarg names. Raises RewardError where there is none."""
        if name is None:
            return None
        if name not in self.columns:
            raise RewardError(f"the judge's texts come from a column {name!r}, and the data has none of this name")
        return list(self.columns[name])

    def save(self, row: int, **values: Any) -> None:
        for name, value in values.items():
            self.extras.setdefault(name, [None] * len(self.tasks))[row] = value


Grader = Callable[..., Coroutine[Any, Any, list[Score]]]


def judge_reward(check: Callable[[Mapping[str, Any]], list[tuple[str, str]]]) -> Callable[[Grader], Callable[..., Any]]:
    """Makes a reward function of `grader(rows, **its own kwargs)`: adds the kwargs of Settings, asks, logs.

    check: (kwarg, message) of what is wrong among the grader's own kwargs; `load_rewards` asks before anything starts.
    """

    def made(grader: Grader) -> Callable[..., Any]:
        own = [one.replace(kind=one.KEYWORD_ONLY) for one in list(inspect.signature(grader).parameters.values())[1:]]
        names = [one.name for one in own]
        columns_by = tuple(name for name in names if name.endswith("_column"))

        def problems(kwargs: Mapping[str, Any]) -> list[tuple[str, str]]:
            defaults = {one.name: one.default for one in own}
            return settings_problems(kwargs) + check(
                defaults | {name: kwargs[name] for name in names if name in kwargs}
            )

        @functools.wraps(grader)
        async def reward(
            prompts: Sequence[Any],
            completions: Sequence[Any],
            *,
            log_extra: Callable[..., None] | None = None,
            log_metric: Callable[..., None] | None = None,
            **given: Any,
        ) -> list[Score]:
            named = {given.get(name) for name in columns_by if isinstance(given.get(name), str)}
            kwargs = {
                name: value for name, value in given.items() if name not in named
            }  # rubric_column: rubric is no rubric
            wrong = problems(kwargs)
            if wrong:  # called without `load_rewards`
                raise RewardError("\n".join(f"judge.{grader.__name__}: {name}: {message}" for name, message in wrong))
            settings = Settings(**{name: kwargs[name] for name in NAMES if name in kwargs})
            options = {name: kwargs[name] for name in names if name in kwargs}
            rows = Rows(list(map(prompt_text, prompts)), list(map(text_of, completions)), given, Judge(settings))
            try:
                scores = await grader(rows, **options)
            finally:
                await rows.judge.close()
            _check_refusals(rows, scores)
            _log(rows, scores, settings.log_as or f"judge.{grader.__name__}", log_extra, log_metric)
            return scores

        kind = inspect.Parameter.KEYWORD_ONLY
        keywords = [inspect.Parameter(one.name, kind, default=one.default) for one in fields(Settings)]
        fixed = list(inspect.signature(reward, follow_wrapped=False).parameters.values())
        reward.__signature__ = inspect.Signature([*fixed[:2], *keywords, *own, *fixed[2:]])  # type: ignore[attr-defined]
        reward.kwargs_problems = problems  # type: ignore[attr-defined]
        reward.column_kwargs = columns_by  # type: ignore[attr-defined]
        reward.needs_groups = lambda kwargs: kwargs.get("against") == "group"  # type: ignore[attr-defined]
        reward.file_kwargs = tuple(name for name in names if name.endswith("_file"))  # type: ignore[attr-defined]
        return reward

    return made


async def together(work: Sequence[Coroutine[Any, Any, float]]) -> list[float | InfrastructureError]:
    """All results; an InfrastructureError is one. Anything else that is raised ends the rest."""

    async def kept(one: Coroutine[Any, Any, float]) -> float | InfrastructureError:
        try:
            return await one
        except InfrastructureError as error:
            return error

    tasks = [asyncio.create_task(kept(one)) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _check_refusals(rows: Rows, scores: Sequence[Score]) -> None:
    """Raises RewardError where the endpoint has refused every request so far: that is nobody's answer's fault."""
    failed = [score for score in scores if isinstance(score, InfrastructureError)]
    if failed and not rows.judge.client.answered and all(isinstance(one, RefusedError) for one in failed):
        one = rows.judge.settings
        raise RewardError(
            f"the judge at {one.base_url} (model {one.model!r}) refuses every request: {failed[0]}\n    check base_url (it mostly ends in "
            "/v1), model, and which fields it takes: max_tokens and temperature may be null, logprobs off, others go into extra_body"
        )


def _log(rows: Rows, scores: Sequence[Score], label: str, log_extra: Any, log_metric: Any) -> None:
    if log_extra is not None:
        for name, values in rows.extras.items():
            log_extra(name, values)
    if log_metric is None or not scores:
        return
    tally, price, count = rows.judge.tally, rows.judge.settings.price, len(scores)
    sums = {
        name: getattr(tally, name) for name in ("requests", "cached", "reasked", "retries", "tokens_in", "tokens_out")
    }
    if price is not None:
        sums["cost"] = (tally.tokens_in * price[0] + tally.tokens_out * price[1]) / 1e6
    sums["failed"] = sum(isinstance(score, InfrastructureError) for score in scores)
    found = {name: value / count for name, value in sums.items()}
    if tally.requests:
        found["seconds"] = tally.seconds / tally.requests
    found |= {f"failed/{kind}": number / count for kind, number in tally.failures.items()}
    for name in (name for name in rows.metrics if not name.endswith("/n")):
        found[name] = rows.metrics[name] / rows.metrics.get(f"{name}/n", 1.0)
    good = [(score, len(text)) for score, text in zip(scores, rows.answers, strict=True) if isinstance(score, float)]
    if len({score for score, _ in good}) > 1 and len({length for _, length in good}) > 1:
        found["length_correlation"] = statistics.correlation(*map(list, zip(*good, strict=True)))
    for name, value in found.items():
        log_metric(f"{label}/{name}", value)

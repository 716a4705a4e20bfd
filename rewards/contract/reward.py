"""What a reward is: a function, its place in a recipe, and what its signature asks for."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

# What every reward function receives besides the data columns.
FIXED_ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
# What diffusion gives besides, to functions that name the parameter; one value per completion.
ROLLOUT_ARGUMENTS = ("reveal_steps", "intermediate_texts", "forwards", "truncated", "finish_reason")
# How numbers of a reward are logged beside its mean.
LOGGED = ("std", "hits", "infrastructure_failures", "errors", "lost", "retries", "cache_hits")


class RewardError(Exception):
    """A reward that cannot be found or did not keep the contract. The message is for the author, not for the machine.

    `problems` holds (key, message) pairs such as ("rewards[1].fn", "..."), all of them at once, when it comes from
    `load_rewards`; otherwise it is empty.
    """

    def __init__(self, message: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.problems)


@dataclass(frozen=True)
class Reward:
    """A reward function with its place in the recipe. `name` is the key of its scores; weight 0 means: log only.

    where     column -> value, or list of values: the function sees only rows that have them in all these columns
    timeout   seconds that grading a batch may take where the function runs in a process that can be killed; None: the default
    retries   how often rows whose grading failed are tried again
    cache     equal rows are graded once
    on_error  "stop": an exception in the function ends the run; "drop": it drops the row that raises
    """

    name: str
    fn: Callable[..., Any]
    weight: float = 1.0
    kwargs: dict[str, Any] = field(default_factory=dict)
    where: dict[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    retries: int = 0
    cache: bool = False
    on_error: str = "stop"


def missing_columns(reward: Reward, columns: Sequence[str]) -> list[str]:
    """The data columns that the function cannot do without and that are not among `columns`.

    A function may say that one of several optional columns is enough: `function.one_of_columns = (...)`. Where none of
    them is there, the first counts as missing. `function.column_kwargs` names kwargs that hold names of columns.
    """
    signature = signature_of(reward.fn)
    if signature is None:
        return []
    known = {*FIXED_ARGUMENTS, *ROLLOUT_ARGUMENTS, *reward.kwargs, *columns}
    one_of = tuple(getattr(reward.fn, "one_of_columns", ()))
    named = [reward.kwargs.get(name) for name in getattr(reward.fn, "column_kwargs", ())]
    lacking = [name for name in named if isinstance(name, str) and name not in columns]
    return [*lacking, *(one_of[:1] if known.isdisjoint(one_of) else ())] + [
        name
        for name, parameter in signature.parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in known
    ]


def needs_groups(reward: Reward) -> bool:
    """Whether the score of a row hangs on the other completions for its prompt, so that all of them have to be in one call.

    The function says so: `function.needs_groups = True`, or a function of the recipe's kwargs that tells.
    """
    fn: Any = reward.fn
    while isinstance(fn, functools.partial) and not hasattr(fn, "needs_groups"):
        fn = fn.func
    said = getattr(fn, "needs_groups", False)
    return bool(said(reward.kwargs) if callable(said) else said)


def asked_for(fn: Callable[..., Any], names: Sequence[str] = ROLLOUT_ARGUMENTS) -> tuple[str, ...]:
    """Those of `names` that are parameters of `fn`; what only its **kwargs would take is not asked for."""
    signature = signature_of(fn)
    if signature is None:
        return ()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(one for one in names if one in signature.parameters and signature.parameters[one].kind in kinds)


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether `fn(...)` gives a coroutine: an async function, a partial of one, an object with an async `__call__`."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)


def signature_of(fn: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(fn)
    except (TypeError, ValueError):  # some built-in and extension callables have none
        return None


def callable_name(fn: Callable[..., Any]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__name__", type(fn).__name__)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""

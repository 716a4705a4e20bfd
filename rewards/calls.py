"""One call of one reward function: its arguments, running it (plain or async), and what is said when it fails."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewards.load import FIXED_ARGUMENTS, Reward, RewardError, is_async, missing_columns

# Columns that TRL keeps from reward functions: they arrive as `prompts`, `completions` and `completion_ids`.
WITHHELD = frozenset({"prompt", "completion", "completion_ids"})
_REPLAY_SECONDS = 10.0
_WRITABLE_BITS = 14_000  # Python writes integers of up to 4300 digits


class InfrastructureError(Exception):
    """Raise it in a reward function when grading itself failed (a judge that cannot be reached, a sandbox that died).

    The rows of that call are dropped with a counted reason: a crash in grading is not a wrong answer. To drop single
    rows, return an instance in their place in the list.
    """


@dataclass
class Call:
    """One function's call: its arguments, what it logs, what it returned or failed with, and how long it took."""

    reward: Reward
    arguments: dict[str, Any]
    extras: dict[str, list[Any]]
    metrics: dict[str, list[float]]
    outcome: list[Any] | InfrastructureError = field(default_factory=list)
    seconds: float = 0.0


def prepare(
    reward: Reward,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]],
    trainer_state: Any,
) -> Call:
    """The arguments that TRL would pass. RewardError for a column that the function needs and the data lacks."""
    given = {name: list(values) for name, values in columns.items() if name not in WITHHELD}
    missing = missing_columns(reward, list(given))
    if missing:
        raise RewardError(
            f"reward {reward.name}: the data has no column {', '.join(map(repr, missing))} (columns: "
            f"{', '.join(sorted(given)) or 'none besides the prompt'}); "
            f"map one with data.train.columns: {{{missing[0]}: <name in the file>}}"
        )
    clash = sorted(set(reward.kwargs) & set(given))
    if clash:
        raise RewardError(f"reward {reward.name}: kwargs {clash} are also data columns; rename the kwarg or the column")
    extras: dict[str, list[Any]] = defaultdict(list)
    metrics: dict[str, list[float]] = defaultdict(list)
    arguments = {
        "prompts": list(prompts),
        "completions": list(completions),
        "completion_ids": list(completion_ids),
        **given,
        **reward.kwargs,
        "trainer_state": trainer_state,
        "log_extra": lambda column, values: extras[storable(column)].extend(map(storable, values)),
        "log_metric": lambda name, value: metrics[storable(name)].append(value),
    }
    return Call(reward, arguments, extras, metrics)


# -------------------------------------------------------------------------------------------------------------- running


def run(calls: Sequence[Call]) -> None:
    """Make every call and fill in its outcome and seconds: plain functions in order, then the async ones together."""
    for call in calls:
        if not is_async(call.reward.fn):
            error = _attempt(call)
            if error is not None:
                raise _failure(call, error) from error
    waiting = [call for call in calls if is_async(call.reward.fn)]
    for call, error in zip(waiting, _in_loop(_gather(waiting)) if waiting else [], strict=True):
        if error is not None:
            raise _failure(call, error) from error


def _attempt(call: Call) -> BaseException | None:
    started = time.perf_counter()
    try:
        call.outcome = _as_list(call.reward, call.reward.fn(**_fresh(call.arguments)))
    except InfrastructureError as error:
        call.outcome = error
    except (Exception, SystemExit) as error:  # noqa: BLE001  authors' code may raise anything
        return error
    call.seconds = time.perf_counter() - started
    return None


async def _attempt_async(call: Call) -> BaseException | None:
    started = time.perf_counter()
    try:
        call.outcome = _as_list(call.reward, await call.reward.fn(**_fresh(call.arguments)))
    except InfrastructureError as error:
        call.outcome = error
    except (Exception, SystemExit) as error:  # noqa: BLE001  as above; SystemExit would also end the loop's thread
        return error
    call.seconds = time.perf_counter() - started
    return None


def _fresh(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of its own for every call: a function that changes its arguments must not change the next one's."""
    return {name: list(value) if isinstance(value, list) else value for name, value in arguments.items()}


async def _gather(calls: Sequence[Call]) -> list[BaseException | None]:
    return await asyncio.gather(*map(_attempt_async, calls))


_loops: dict[int, asyncio.AbstractEventLoop] = {}
_loops_lock = threading.Lock()


def _in_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on this process's reward loop.

    One loop for the whole run, so that a session or a semaphore that an author keeps between calls stays usable; on a
    thread of its own, so that it also works inside a notebook's loop.
    """
    with _loops_lock:
        loop = _loops.get(os.getpid())  # a forked child inherits the table but not the thread
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="unmask-rewards", daemon=True).start()
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()  # Ctrl-C while a judge is slow
        raise


def _as_list(reward: Reward, output: Any) -> list[Any]:
    if isinstance(output, (str, bytes, Mapping)) or not hasattr(output, "__iter__"):
        raise RewardError(
            f"reward {reward.name} returned {type(output).__name__} ({shorten(output)}); it must return a list with "
            "one number or None per completion"
        )
    return list(output)


def storable(value: Any) -> Any:
    """`value` as it can be written to a file: half characters (surrogates) and overlong integers in it replaced."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, Mapping):
        return {storable(key) if isinstance(key, str) else key: storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(item) for item in value]
    if isinstance(value, int) and value.bit_length() > _WRITABLE_BITS:
        return f"an integer of {value.bit_length()} bits"
    return value


# ------------------------------------------------------------------------------------------------------------- failures


def _failure(call: Call, error: BaseException) -> BaseException:
    if isinstance(error, RewardError):
        return error
    row = _guilty_row(call, error)
    where = f"row {row}" if row is not None else "the whole batch (no single row fails alone; row 0 is shown)"
    hint = ""
    if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
        hint = "\n  Reward functions receive every data column as a keyword: end the signature with **kwargs."
    return RewardError(
        f"reward {call.reward.name} raised {type(error).__name__} on {where}: {storable(str(error))}{hint}\n"
        f"{_place(call, error)}{sample(call, row or 0)}"
    )


def _place(call: Call, error: BaseException) -> str:
    """Where in the author's code it happened: the last frame in the function's own file, else the last one that is not ours.

    The function may have called a library, which raised: its author looks at the line that called.
    """
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename != __file__]
    own = getattr(inspect.unwrap(_innermost(call.reward.fn)), "__code__", None)
    inside = [one for one in frames if own is not None and one.filename == own.co_filename] or frames
    if not inside:
        return ""
    last = inside[-1]
    code = f": {last.line.strip()}" if last.line else ""
    deeper = "" if last is frames[-1] else f" (raised in {frames[-1].filename}, line {frames[-1].lineno})"
    return f"  {last.filename}, line {last.lineno}, in {last.name}{code}{deeper}\n"


def _innermost(fn: Any) -> Any:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn if hasattr(fn, "__code__") else getattr(fn, "__func__", None) or getattr(type(fn), "__call__", fn)  # noqa: B004


def _guilty_row(call: Call, error: BaseException) -> int | None:
    """The first row that fails alone in the same way.

    The run ends here, so calling the function again row by row costs only time, and little of it is spent.
    """
    deadline = time.perf_counter() + _REPLAY_SECONDS
    for row in range(len(call.arguments["prompts"])):
        if time.perf_counter() > deadline:
            break
        one = {name: _row(call, name, value, row) for name, value in call.arguments.items()}
        alone = Call(call.reward, one, {}, {})
        again = _in_loop(_attempt_async(alone)) if is_async(call.reward.fn) else _attempt(alone)
        if type(again) is type(error):
            return row
    return None


def _row(call: Call, name: str, value: Any, row: int) -> Any:
    if name in ("log_extra", "log_metric"):
        return _no_log
    if name == "trainer_state" or name in call.reward.kwargs:
        return value
    return [value[row]]


def _no_log(*_: Any, **__: Any) -> None:
    """Stands in for the loggers while a failing row is looked for."""


def sample(call: Call, row: int) -> str:
    """The prompt, completion and columns of a row, shortened, for a message."""
    prompts, completions = call.arguments["prompts"], call.arguments["completions"]
    lines = [f"  row {row} prompt:     {shorten(prompts[row])}", f"  row {row} completion: {shorten(completions[row])}"]
    for name, value in call.arguments.items():
        if name not in FIXED_ARGUMENTS and name not in call.reward.kwargs:
            lines.append(f"  row {row} column {name}: {shorten(value[row], 200)}")
    return "\n".join(lines)


def shorten(value: Any, limit: int = 600) -> str:
    """The repr of `value` (so that whitespace shows) in about `limit` characters at most, the middle left out."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else f"{text[: limit * 2 // 3]} ... {text[-limit // 3 :]}"

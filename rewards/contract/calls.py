"""One call of one reward function: its arguments, running it (plain or async), reading what it returns, and what is said when it fails."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import math
import os
import re
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from rewards.contract.answers import Answer, Drop, InfrastructureError, Score, Task, assembled
from rewards.contract.reward import FIXED_ARGUMENTS, Reward, RewardError, is_async
from rewards.contract.text import shorten, storable

_REPLAY_SECONDS = 10.0
MAX_REASON_CHARS = 80
# Hexadecimal ids and digits, but not what may be a status (HTTP 503): those are few.
_CHANGING = re.compile(
    r"\b(?=[a-f]*[0-9])[0-9a-f-]{8,}\b|\b(?![1-5][0-9]{2}\b)[0-9]+|(?<=[^\W0-9])[0-9]+", re.IGNORECASE
)


# -------------------------------------------------------------------------------------------------------------- running


@dataclass
class _Call:
    task: Task
    extras: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    metrics: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    output: list[Any] | InfrastructureError = field(default_factory=list)
    error: BaseException | None = None
    seconds: float = 0.0

    def arguments(self) -> dict[str, Any]:
        """What the function is called with: copies, so that what it does to them changes nothing for anybody else."""
        reward = self.task.reward
        found = {name: [_copied(value) for value in values] for name, values in self.task.rows.items()}
        found |= {name: _plain_copy(value) for name, value in reward.kwargs.items()}
        if reward.cache:  # of rows that are not graded again, these would say nothing
            return found
        return found | {
            "trainer_state": _copied(self.task.state),
            "log_extra": lambda column, values: self.extras[storable(column)].extend(map(storable, values)),
            "log_metric": lambda name, value: self.metrics[storable(name)].append(value),
        }


def answer(tasks: Sequence[Task]) -> list[Answer]:
    """Make every call here, in this process: plain functions in order, then the async ones together. Raises RewardError."""
    found: dict[int, Answer] = {}
    for i, task in enumerate(tasks):
        if not is_async(task.reward.fn):
            found[i] = _settled(_attempt(_Call(task)))
    waiting = [i for i in range(len(tasks)) if i not in found]
    if waiting:
        calls = _in_loop(_gather([_Call(tasks[i]) for i in waiting]))
        found |= {i: _settled(call) for i, call in zip(waiting, calls, strict=True)}
    return [found[i] for i in range(len(tasks))]


def _attempt(call: _Call) -> _Call:
    arguments, started = call.arguments(), time.perf_counter()
    try:
        call.output = _as_list(call, call.task.reward.fn(**arguments))
    except InfrastructureError as error:
        call.output = error
    except (Exception, SystemExit) as error:  # noqa: BLE001  authors' code may raise anything
        call.error = error
    call.seconds = time.perf_counter() - started
    return call


async def _attempt_async(call: _Call) -> _Call:
    arguments, started = call.arguments(), time.perf_counter()
    try:
        call.output = _as_list(call, await call.task.reward.fn(**arguments))
    except InfrastructureError as error:
        call.output = error
    except (Exception, SystemExit) as error:  # noqa: BLE001  as above; SystemExit would also end the loop's thread
        call.error = error
    call.seconds = time.perf_counter() - started
    return call


async def _gather(calls: Sequence[_Call]) -> list[_Call]:
    return await asyncio.gather(*map(_attempt_async, calls))


def _again(tasks: Sequence[Task]) -> list[_Call]:
    """Calls that share nothing: one after the other, or together if the function is async."""
    calls = [_Call(task) for task in tasks]
    return _in_loop(_gather(calls)) if tasks and is_async(tasks[0].reward.fn) else [_attempt(call) for call in calls]


def _copied(value: Any) -> Any:
    """Another object of the same value; the value itself where it cannot be copied."""
    if value is None or isinstance(value, (str, int, float, bytes)):
        return value
    if type(value) is list:
        return [_copied(item) for item in value]
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    with suppress(Exception):  # a row may hold any object
        return copy.deepcopy(value)
    return value


def _plain_copy(value: Any) -> Any:
    """As `_copied`, of what a recipe can hold; an object passed from Python (a client, a model) is the author's to share."""
    if type(value) is list:
        return [_plain_copy(item) for item in value]
    return {key: _plain_copy(item) for key, item in value.items()} if type(value) is dict else value


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


# -------------------------------------------------------------------------------------------------- reading the outcome


class _BrokenError(RewardError):
    """short: without the reward's name, for counting."""

    def __init__(self, message: str, short: str) -> None:
        super().__init__(message)
        self.short = short

    def __reduce__(self) -> tuple[Any, ...]:
        return RewardError, (str(self),)


def _settled(call: _Call) -> Answer:
    """The answer that a call gave. An exception, or an output that is none, ends the run, or drops the rows that it is about."""
    name, task = call.task.reward.name, call.task
    if task.reward.on_error == "stop":
        if call.error is not None:
            raise _failure(call, call.error) from call.error
        return _read(call)
    error = call.error
    if isinstance(error, RewardError) and not isinstance(error, _BrokenError):
        raise error  # not of a row: something is missing that grading needs
    if error is None:
        try:
            return _read(call)
        except RewardError as raised:
            error = raised
    units = task.units()
    if len(units) == 1:
        said = error.short if isinstance(error, _BrokenError) else f"{type(error).__name__}: {error}"
        return Answer([Drop("errors", reason_for(name, said))] * len(task), seconds=call.seconds)
    alone = [_settled(one) for one in _again([task.part(unit) for unit in units])]
    whole = assembled(len(task), list(zip(units, alone, strict=True)))
    return replace(whole, seconds=call.seconds + sum(one.seconds for one in alone))


def _as_list(call: _Call, output: Any) -> list[Any]:
    if isinstance(output, (str, bytes, Mapping)) or not hasattr(output, "__iter__"):
        name, short = call.task.reward.name, f"returned {type(output).__name__}"
        what = (
            f"reward {name} {short} ({shorten(output)}); it must return a list with one number or None per completion"
        )
        raise _BrokenError(what, short)
    return list(output)


def _read(call: _Call) -> Answer:
    reward, size = call.task.reward, len(call.task)
    metrics = {name: [(one, size) for one in _numbers(reward, name, values)] for name, values in call.metrics.items()}
    if isinstance(call.output, InfrastructureError):  # it may have stopped half-way through its extras
        failed: list[Score] = [_failed(reward, call.output)] * size
        return Answer(failed, {}, metrics, call.seconds)
    if len(call.output) != size:
        short = f"returned {len(call.output)} scores for {size} completions"
        what = f"{short}; it must return exactly one per completion, None where it does not apply"
        raise _BrokenError(f"reward {reward.name} {what}\n{sample(call.task, 0)}", short)
    scores = [_score(call, place, value) for place, value in enumerate(call.output)]
    for column, values in call.extras.items():
        if len(values) != size:
            short = f"log_extra({column!r}, ...) got {len(values)} values for {size} completions"
            raise _BrokenError(f"reward {reward.name}: {short}; it needs one per completion", short)
    return Answer(scores, dict(call.extras), metrics, call.seconds)


def _score(call: _Call, place: int, value: Any) -> Score:
    reward = call.task.reward
    if isinstance(value, InfrastructureError):
        return _failed(reward, value)
    if value is None:
        return None
    if not isinstance(value, (str, bytes)) and hasattr(value, "__float__"):
        with suppress(TypeError, ValueError, RuntimeError, OverflowError):  # an array or tensor of several elements
            number = float(value)
            if math.isfinite(number):
                return number
    short = f"returned {shorten(value)} ({type(value).__name__})"
    if reward.on_error == "drop":
        return Drop("errors", reason_for(reward.name, short))
    raise _BrokenError(
        f"reward {reward.name} {short} for row {call.task.numbers[place]}; scores are finite numbers, or None where the reward "
        f"does not apply\n{sample(call.task, place)}",
        short,
    )


def _numbers(reward: Reward, name: str, values: Sequence[Any]) -> list[float]:
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # as for scores
        short = f"log_metric({name!r}, ...) needs a number, got {shorten(list(values))}"
        raise _BrokenError(f"reward {reward.name}: {short}", short) from error


def _failed(reward: Reward, error: InfrastructureError) -> Drop:
    return Drop("infrastructure_failures", reason_for(reward.name, str(error), "infrastructure error"))


def reason_for(name: str, said: str, default: str = "error") -> str:
    """Why a row was dropped. It names a metric, so it is short, and what differs from request to request is left out."""
    first_line = storable(said).strip().split("\n", 1)[0]
    alike = _CHANGING.sub("#", first_line[: 4 * MAX_REASON_CHARS])[:MAX_REASON_CHARS]
    return f"reward {name}: {alike or default}"


# ------------------------------------------------------------------------------------------------------------- failures


def _failure(call: _Call, error: BaseException) -> BaseException:
    if isinstance(error, RewardError):
        return error
    place = _guilty_row(call, error)
    row = call.task.numbers[place or 0]
    where = f"row {row}" if place is not None else f"the whole batch (no single row fails alone; row {row} is shown)"
    hint = ""
    if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
        hint = "\n  Reward functions receive every data column as a keyword: end the signature with **kwargs."
    return RewardError(
        f"reward {call.task.reward.name} raised {type(error).__name__} on {where}: {storable(str(error))}{hint}\n"
        f"{_place(call, error)}{sample(call.task, place or 0)}"
    )


def _place(call: _Call, error: BaseException) -> str:
    """Where in the author's code it happened: the last frame in the function's own file, else the last one that is not ours.

    The function may have called a library, which raised: its author looks at the line that called.
    """
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename != __file__]
    own = getattr(inspect.unwrap(_innermost(call.task.reward.fn)), "__code__", None)
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


def _guilty_row(call: _Call, error: BaseException) -> int | None:
    """The first row that fails alone in the same way, or the first of such a group.

    The run ends here, so calling the function again row by row costs only time, and little of it is spent.
    """
    deadline = time.perf_counter() + _REPLAY_SECONDS
    for unit in call.task.units():
        if time.perf_counter() > deadline:
            break
        (again,) = _again([call.task.part(unit)])
        if type(again.error) is type(error):
            return unit[0]
    return None


def sample(task: Task, place: int) -> str:
    """The prompt, completion and columns of a row, shortened, for a message."""
    row, rows = task.numbers[place], task.rows
    lines = [
        f"  row {row} prompt:     {shorten(rows['prompts'][place])}",
        f"  row {row} completion: {shorten(rows['completions'][place])}",
    ]
    for name, values in rows.items():
        if name not in FIXED_ARGUMENTS:
            lines.append(f"  row {row} column {name}: {shorten(values[place], 200)}")
    return "\n".join(lines)

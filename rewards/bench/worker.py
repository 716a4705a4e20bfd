"""The process in which `unmask reward test` runs an author's function: it may hang, crash or print, and nothing else suffers.

Started by `rewards/bench/calls.py` through a pool. One request a line on standard input, a pickle in base64 from the
parent: {"columns": [...]} asks what the function is; {"prompts", "completions", "completion_ids", "columns"} is a call,
made by `rewards.contract.batch.grade` as a run makes it. The answer is one line of JSON behind `= `.
"""

from __future__ import annotations

import base64
import copy
import functools
import inspect
import json
import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rewards.contract import Reward, RewardError, TrainerState, grade, load_rewards, missing_columns
from rewards.contract.reward import FIXED_ARGUMENTS, ROLLOUT_ARGUMENTS, asked_for, is_async, needs_groups
from rewards.contract.text import HIDDEN
from rewards.extract import text_of

_STEPS = 16  # of an invented rollout: the texts between are as long as the completion


def main(entry: Mapping[str, Any], base: str) -> None:
    """Serve requests until standard input ends. `entry` is a recipe's reward entry, `base` the folder files are relative to."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the author's prints are no replies
    try:
        (reward,) = load_rewards([entry], base=Path(base))
    except RewardError as error:
        _say(replies, f"! {json.dumps(str(error))}")
        return
    _say(replies, "ready")
    for line in sys.stdin:
        request = pickle.loads(base64.b64decode(line))
        reply = call(reward, request) if "prompts" in request else describe(reward, request["columns"])
        _say(replies, f"= {json.dumps(reply)}")


def describe(reward: Reward, columns: list[str]) -> dict[str, Any]:
    """What a function asks for: its name, the data columns it reads by name, those that are missing, and how it runs."""
    try:
        parameters = inspect.signature(reward.fn).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have none
        parameters = ()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {
        "name": reward.name,
        "asynchronous": is_async(reward.fn),
        "columns": [p.name for p in named if p.name not in FIXED_ARGUMENTS and p.name not in reward.kwargs],
        "missing": missing_columns(reward, columns),
        "groups": needs_groups(reward),
    }


def call(reward: Reward, request: Mapping[str, Any]) -> dict[str, Any]:
    """One call of the function: scores, or the message that a run would stop with, and what was noticed on the way."""
    seen: dict[str, Any] = {}
    watched = Reward(reward.name, _watched(reward.fn, seen), 1.0, reward.kwargs)
    columns = dict(request["columns"])
    rollout = {name: columns.pop(name) for name in ROLLOUT_ARGUMENTS if name in columns}
    if asked := [name for name in asked_for(reward.fn) if name not in rollout]:
        facts = [
            _invented(text_of(text), len(ids)) for text, ids in zip(request["completions"], request["completion_ids"])
        ]
        rollout |= {name: [fact[name] for fact in facts] for name in asked}
    started = time.perf_counter()
    try:
        grades = grade([watched], trainer_state=TrainerState(), rollout=rollout, **{**request, "columns": columns})
    except RewardError as error:
        cause = error.__cause__  # a RewardError: the contract was broken, nothing was raised by the author's code
        raised = None if cause is None or isinstance(cause, RewardError) else type(cause).__name__
        return {"error": str(error), "raised": raised, **seen}
    return {
        "scores": grades.components[reward.name],
        "dropped": grades.dropped,
        "seconds": time.perf_counter() - started,
        **seen,
    }


def _invented(text: str, size: int) -> dict[str, Any]:
    """Of a completion that nobody drew, with `size` tokens: as if revealed from left to right, in up to _STEPS equal steps."""
    steps = max(1, min(size, _STEPS))
    words = text.split(" ")
    shown = [len(words) * (step + 1) // steps for step in range(steps - 1)]
    return {
        "forwards": steps,
        "truncated": False,
        "finish_reason": "eos",
        "reveal_steps": [place * steps // size for place in range(size)],
        "intermediate_texts": [" ".join(words[:count]) + HIDDEN * (len(words) - count) for count in shown] + [text],
    }


def _watched(fn: Callable[..., Any], seen: dict[str, Any]) -> Callable[..., Any]:
    """`fn`, noting for its first call the type of what it returned and the arguments that it changed.

    `grade` calls a function that raised again, row by row: those calls are not noted.
    """

    def before(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {} if "returned" in seen else {n: copy.deepcopy(v) for n, v in arguments.items() if isinstance(v, list)}

    def after(kept: Mapping[str, Any], arguments: Mapping[str, Any], output: Any) -> Any:
        if kept:
            seen["changed"] = [name for name, value in kept.items() if value != arguments[name]]
            seen["returned"] = type(output).__name__
        return output

    @functools.wraps(fn)
    def plain(**arguments: Any) -> Any:
        kept = before(arguments)
        return after(kept, arguments, fn(**arguments))

    @functools.wraps(fn)
    async def later(**arguments: Any) -> Any:
        kept = before(arguments)
        return after(kept, arguments, await fn(**arguments))

    return later if is_async(fn) else plain


def _say(replies: Any, line: str) -> None:
    replies.write(f"{line}\n")
    replies.flush()

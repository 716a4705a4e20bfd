"""A process that calls reward functions for `graders.py`, which can kill it. It loads neither torch nor a model of its own.

On standard input, lines of base64 of pickles: first what a recipe's `rewards:` names and the folder that files are relative to, then
one job a line. On standard output `ready`, then for each job `=` and the pickled answers, or the error that the reward gave; `+` and the
answers where it ends with them, because an async function did not.
"""

from __future__ import annotations

import base64
import faulthandler
import hashlib
import os
import pickle
import random
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rewards.contract.answers import Answer, Open, Task
from rewards.contract.calls import tried
from rewards.contract.load import load_rewards
from rewards.contract.reward import Reward, RewardError
from rewards.math_worker import die_with_parent


class Order(NamedTuple):
    """A task on its way to another process, where the function of that name is known."""

    name: str
    rows: Mapping[str, list[Any]]
    numbers: Sequence[int]
    state: Any
    seconds: float | None


def ordered(tasks: Sequence[Task]) -> list[Order]:
    return [Order(task.reward.name, task.rows, task.numbers, task.state, task.seconds) for task in tasks]


def answered(rewards: Mapping[str, Reward], orders: Sequence[Order]) -> list[Answer | Open] | RewardError:
    """The answers to some orders, made together, or the first error. Functions that draw from the global streams of `random` or numpy
    draw the same for the same rows, whichever process they run in and whatever it did before."""
    tasks = [Task(rewards[one.name], one.rows, one.numbers, one.state, one.seconds) for one in orders]
    words = repr([(one.name, getattr(one.state, "global_step", 0), one.rows["completions"]) for one in orders])
    seed = int.from_bytes(hashlib.sha256(words.encode(errors="surrogatepass")).digest()[:4])
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    try:
        found = tried(tasks)
    except RewardError as error:
        return RewardError(str(error), error.problems)
    return [one if isinstance(one, Open) else replace(one, extras=_sendable(one.extras)) for one in found]


def main() -> None:
    """Serve until standard input ends."""
    die_with_parent()
    _go_first()
    faulthandler.enable()  # where in the author's code it was
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what functions print is for people; only replies may stand there
    entries, base = read(sys.stdin.readline())
    try:
        rewards = {reward.name: reward for reward in load_rewards(entries, base=Path(base))}
    except RewardError as error:
        print("!", " ".join(str(error).split()), file=replies, flush=True)
        return
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        found = answered(rewards, read(line))
        sys.stdout.flush()
        stuck = isinstance(found, list) and any(isinstance(one, Open) and one.stuck for one in found)
        print("+" if stuck else "=", written(found), file=replies, flush=True)
        if stuck:  # a function holds up the event loop, and cannot be stopped in any other way
            os.killpg(0, signal.SIGKILL)  # with what it has started; the group is this process's own


def _go_first() -> None:
    """Where memory runs out, the kernel ends this process and not the run."""
    with suppress(OSError):  # Linux has it
        Path("/proc/self/oom_score_adj").write_text("1000")


def written(value: Any) -> str:
    return base64.b64encode(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)).decode()


def read(line: str) -> Any:
    return pickle.loads(base64.b64decode(line))


def _sendable(extras: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """What was logged may be anything, also what cannot be sent."""

    def one(value: Any) -> Any:
        try:
            pickle.loads(pickle.dumps(value))
        except Exception:  # noqa: BLE001  an author's object
            return repr(value)
        return value

    return {name: [one(value) for value in values] for name, values in extras.items()}

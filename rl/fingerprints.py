"""What a run read from files besides its recipe: a digest of each local data file, of each reward's code and of an estimator or
objective of the user's own, kept in checkpoints.

A continuation under other data or other rewards is another run; it is refused unless its author says that this is meant.
"""

import functools
import hashlib
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rewards as rewards_room
from rewards.contract import Reward
from rl.config_schema import Recipe, Split
from rl.setup import Setup

REPORTED = ("data.eval", "data.validation")  # may differ between the parts of a run, as its recipe may there


def fingerprints(setup: Setup) -> dict[str, str]:
    """``{"data.train": digest, "reward gsm8k.correct": digest, "method.estimator": digest}``, of what lies in files of this machine."""
    recipe = setup.recipe
    found = {key: _digest(path.read_bytes()) for key, path in _data_files(recipe).items()}
    for index, reward in enumerate(setup.rewards):
        code = _code(reward, whole_file=index < len(recipe.rewards))
        files = [reward.kwargs.get(name) for name in getattr(reward.fn, "file_kwargs", ())]
        if code is not None:
            found[f"reward {reward.name}"] = _digest(
                b"\0".join([code, *(Path(one).read_bytes() for one in files if one)])
            )
    if setup.train is not None and any(rule.on_overlap == "drop" for rule in recipe.data.hold_out):
        # What is dropped hangs on held-out data, which may otherwise change between the parts of a run.
        found["data.hold_out"] = _digest(repr([prompt.prompt_id for prompt in setup.train.prompts]).encode())
    for slot in ("estimator", "objective"):
        file = _own_file(getattr(recipe.method, slot).kind)
        if file is not None:
            found[f"method.{slot}"] = _digest(file.read_bytes())
    return found


def code_digests(rewards: Sequence[Reward]) -> dict[str, str]:
    """``{name: digest}`` of the file that each reward stands in, for a built-in one of all files of its room, which share what reads
    answers; "" where that is unknown."""
    room = Path(rewards_room.__file__).parent
    whole = _digest(b"\0".join(file.read_bytes() for file in sorted(room.rglob("*.py"))))
    found = {}
    for reward in rewards:
        code = _code(reward, whole_file=True)
        built_in = str(getattr(reward.fn, "__module__", "")).startswith("rewards.")
        found[reward.name] = whole if built_in else "" if code is None else _digest(code)
    return found


def changes(before: Mapping[str, str], now: Mapping[str, str], *, warmed: bool) -> tuple[list[str], list[str]]:
    """Names of what is not what it was: (what changes the computation, what is only reported). A data set that only one of the two read
    from a file is told by the recipe's difference.

    warmed: the warm start is over, and its data are not read again.
    """
    changed = [name for name in before if name in now and before[name] != now[name]]
    changed = [name for name in changed if not (warmed and name == "warm_start.data")]
    return [name for name in changed if name not in REPORTED], [name for name in changed if name in REPORTED]


def _data_files(recipe: Recipe) -> dict[str, Path]:
    names = ("train", "preferences", "eval", "validation")
    splits: dict[str, Any] = {f"data.{name}": getattr(recipe.data, name) for name in names}
    splits["warm_start.data"] = recipe.warm_start.data if recipe.warm_start else None
    splits |= {f"data.hold_out.{n}": rule.against for n, rule in enumerate(recipe.data.hold_out)}
    paths = {key: Path(split.path) for key, split in splits.items() if isinstance(split, Split)}
    return {key: path for key, path in paths.items() if path.is_file()}


def _own_file(kind: str) -> Path | None:
    """The file of a class that a recipe names, by file or by module; None for what comes along."""
    where, colon, _ = kind.rpartition(":")
    if not colon:
        return None
    if not where.endswith(".py"):
        spec = importlib.util.find_spec(where)
        where = (spec.origin or "") if spec is not None else ""
    path = Path(where)
    return path if path.is_file() else None


def _code(reward: Reward, *, whole_file: bool) -> bytes | None:
    """The file that a recipe's reward stands in, helpers and all; of a function passed as an object, its own lines.

    None: unknown. So is a lambda passed as an object, whose lines are those of the call it stands in.
    """
    fn: Any = reward.fn
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = fn if inspect.isfunction(fn) or inspect.ismethod(fn) else type(fn)
    try:
        if not whole_file and getattr(fn, "__name__", "") == "<lambda>":
            return None
        if not whole_file:
            return inspect.getsource(fn).encode()
        file = inspect.getsourcefile(inspect.unwrap(fn))
        return Path(file).read_bytes() if file else None
    except (OSError, TypeError):  # made in a shell, or no Python
        return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

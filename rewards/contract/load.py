"""From a recipe's `rewards:` entries to functions: built-in names, files loaded by path, dotted paths, callables."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rewards.contract.reward import (
    FIXED_ARGUMENTS,
    LOGGED,
    ROLLOUT_ARGUMENTS,
    Reward,
    RewardError,
    asked_for,
    callable_name,
    did_you_mean,
    needs_groups,
    signature_of,
)

_BUILTIN_MODULES = (
    "choice",
    "code",
    "countdown",
    "format",
    "gsm8k",
    "judge",
    "length",
    "math",
    "reasoning_gym",
    "repetition",
    "speed",
    "sudoku",
)
_ENTRY_KEYS = ("fn", "weight", "kwargs", "name", "where", "timeout", "retries", "cache", "on_error")


def load_rewards(entries: Sequence[Mapping[str, Any] | str | Callable[..., Any]], *, base: Path) -> tuple[Reward, ...]:
    """The rewards that a recipe names, in its order.

    An entry is a mapping with `fn` and any of the fields of `Reward`, or only what `fn` would be:
    - `"sudoku.solved"`: a function of this package (`available()`);
    - `"my_rewards.py:brevity"`: a function in a file, relative to `base` (the recipe's folder);
    - `"package.module:function"`: anything that can be imported;
    - a callable.

    Names default to the built-in's full name or the function's own. Raises RewardError with every problem of every
    entry, each with the nearest valid name.
    """
    rewards: list[Reward] = []
    problems: list[tuple[str, str]] = []
    for index, entry in enumerate(entries):
        found = _load_entry(entry, Path(base), f"rewards[{index}]", problems)
        if found is None:
            continue
        if found.name in {reward.name for reward in rewards}:
            problems.append(
                (f"rewards[{index}].name", f"two rewards are called {found.name!r}; give one of them another `name`")
            )
            continue
        rewards.append(found)
    taken = {reward.name: index for index, reward in enumerate(rewards)}
    problems.extend(
        (
            f"rewards[{index}].name",
            f"{name!r} is how a number of {name.rpartition('/')[0]!r} is logged; give it another `name`",
        )
        for name, index in taken.items()
        if name.rpartition("/")[0] in taken and name.rpartition("/")[2] in LOGGED
    )
    if problems:
        raise RewardError("\n".join(f"{key}: {message}" for key, message in problems), problems)
    return tuple(rewards)


def available() -> list[str]:
    """The built-in rewards, as recipes name them, sorted."""
    modules = ((name, importlib.import_module(f"rewards.{name}")) for name in _BUILTIN_MODULES)
    return sorted(f"{name}.{fn.__name__}" for name, module in modules for fn in module.REWARDS)


# -------------------------------------------------------------------------------------------------------------- entries


def _load_entry(entry: Any, base: Path, where: str, problems: list[tuple[str, str]]) -> Reward | None:
    fields: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {"fn": entry}
    before = len(problems)
    for key in fields:
        if key not in _ENTRY_KEYS:
            problems.append(
                (f"{where}.{key}", f"unknown key{did_you_mean(str(key), _ENTRY_KEYS)}; keys: {', '.join(_ENTRY_KEYS)}")
            )
    weight, kwargs, name = fields.get("weight", 1.0), fields.get("kwargs") or {}, fields.get("name")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
        problems.append((f"{where}.weight", f"must be a finite number, got {weight!r}"))
    if not isinstance(kwargs, Mapping):
        problems.append((f"{where}.kwargs", f"must be a mapping of argument names to values, got {kwargs!r}"))
        kwargs = {}
    if name is not None and (not isinstance(name, str) or not name):
        problems.append((f"{where}.name", f"must be a word, got {name!r}"))
    try:
        fn, default_name = _resolve(fields.get("fn"), base)
    except RewardError as error:
        problems.append((f"{where}.fn", str(error)))
        return None
    problems.extend((f"{where}.{key}", message) for key, message in _signature_problems(fn, kwargs))
    options = {key: fields[key] for key in _ENTRY_KEYS[4:] if fields.get(key) is not None}
    problems.extend((f"{where}.{key}", message) for key, message in _option_problems(fn, options))
    if kwargs.get("compat") is not None and getattr(fn, "originals", ()):  # a rule in place of ours: a name of its own
        default_name = f"{default_name}_{kwargs['compat']}"
    if len(problems) > before:
        return None
    found = Reward(name or default_name, fn, float(weight), dict(kwargs), **options)
    if found.cache and needs_groups(found):
        said = f"{callable_name(fn)} compares the completions of a group, so no score of it can be kept for a row; drop the cache"
        problems.append((f"{where}.cache", said))
    return found


def _option_problems(fn: Callable[..., Any], options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with how a reward is called. Recipes were read by a schema; entries from Python come here first."""

    def number(value: Any, kinds: tuple[type, ...]) -> bool:
        return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)

    timeout, retries, where = options.get("timeout", 1), options.get("retries", 0), options.get("where", {})
    cache, on_error = options.get("cache", False), options.get("on_error", "stop")
    problems = []
    if not number(timeout, (int, float)) or timeout <= 0:
        problems.append(("timeout", f"must be a number of seconds above 0, got {timeout!r}"))
    if not number(retries, (int,)) or retries < 0:
        problems.append(("retries", f"must be a whole number, 0 or more, got {retries!r}"))
    if not isinstance(where, Mapping):
        problems.append(("where", f"must be a mapping of columns to a value or a list of values, got {where!r}"))
    elif empty := [column for column, wanted in where.items() if isinstance(wanted, (list, tuple)) and not wanted]:
        problems.append(("where", f"an empty list for {empty[0]!r} is no value that a row could have; list some"))
    if on_error not in ("stop", "drop"):
        problems.append(
            ("on_error", f"must be stop or drop, got {on_error!r}{did_you_mean(str(on_error), ('stop', 'drop'))}")
        )
    if not isinstance(cache, bool):
        problems.append(("cache", f"must be true or false, got {cache!r}"))
    elif cache and (asked := asked_for(fn, FIXED_ARGUMENTS[3:])):
        problems.append(
            (
                "cache",
                f"a row that was graded before is not graded again, and {callable_name(fn)} asks for {', '.join(asked)}, "
                "of which such a row would get nothing; drop the argument or the cache",
            )
        )
    return problems


def _resolve(fn: Any, base: Path) -> tuple[Callable[..., Any], str]:
    if callable(fn):
        return fn, callable_name(fn)
    if not isinstance(fn, str) or not fn.strip():
        raise RewardError(
            f"needs the name of a function, such as 'sudoku.solved' or 'my_rewards.py:brevity'; got {fn!r}"
        )
    _, colon, attribute = fn.strip().rpartition(":")
    if not colon:
        return _builtin(fn.strip())
    module, where = load_module(fn.strip(), base)
    return _attribute(module, attribute, where), attribute


def load_module(name: str, base: Path) -> tuple[ModuleType, str]:
    """The module of `file.py:Name` (a file relative to `base`) or `package.module:Name`, and what to call it in messages.

    Raises RewardError.
    """
    source = name.rpartition(":")[0]
    if source.endswith(".py") or "/" in source or "\\" in source:
        path = (base / Path(source).expanduser()).resolve()
        return _load_file(path), f"the file {path}"
    return _import(source, name), f"the module {source}"


def _builtin(name: str) -> tuple[Callable[..., Any], str]:
    known = available()
    if name in known:
        module, _, function = name.partition(".")
        return getattr(importlib.import_module(f"rewards.{module}"), function), name
    family = [full for full in known if full.startswith(f"{name}.")]
    if family:
        raise RewardError(f"{name!r} is a family of rewards; choose one: {', '.join(family)}")
    if name.endswith(".py"):
        raise RewardError(f"{name!r} is a file; say which function in it: '{name}:my_function'")
    kin = [full for full in known if full.partition(".")[0] == name.partition(".")[0]]
    raise RewardError(
        f"unknown reward {name!r}{did_you_mean(name, known)}; built in: {', '.join(kin or known)}; your own: "
        "'my_rewards.py:function' or 'package.module:function'"
    )


def _import(module: str, fn: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    # Importing runs other people's code, which may raise anything; the cause is chained and its text shown.
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            hint = f"; a file is named by its path: './{module.replace('.', '/')}.py:{fn.rpartition(':')[2]}'"
            raise RewardError(f"no module named {error.name!r} can be imported{hint}") from error
        raise RewardError(f"importing {module} failed: {type(error).__name__}: {error}") from error


def _load_file(path: Path) -> ModuleType:
    """The module in a file, under a private name made of its path and content.

    So it shadows nothing, two files of one name stay apart, and an unchanged file is loaded once. It stands in
    sys.modules, where dataclasses and pickle look for it.
    """
    if not path.is_file():
        folder = path.parent
        near = [p.name for p in folder.glob("*.py")] if folder.is_dir() else []
        seen = f"{did_you_mean(path.name, near)}; Python files there: {', '.join(sorted(near)[:8]) or 'none'}"
        raise RewardError(f"no file {path}" + (seen if folder.is_dir() else f"; the folder {folder} does not exist"))
    digest = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()[:16]
    name = f"unmask_user_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RewardError(f"{path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the author's code, as in _import
        del sys.modules[name]
        line = getattr(error, "lineno", None) or _line_in(error, path)
        hint = ""
        if isinstance(error, ModuleNotFoundError):
            hint = (
                " (files beside it are not importable by name: keep the reward in one file, or install what it imports)"
            )
        at = f", line {line}" if line else ""
        raise RewardError(f"loading {path} failed{at}: {type(error).__name__}: {error}{hint}") from error
    return module


def _line_in(error: BaseException, path: Path) -> int | None:
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _attribute(module: ModuleType, name: str, where: str) -> Callable[..., Any]:
    target: Any = module
    for part in name.split("."):
        if not hasattr(target, part):
            functions = _functions_of(module, near=name)
            raise RewardError(
                f"{where} has no function {name!r}{did_you_mean(name, functions)}; it has: "
                f"{', '.join(functions[:12]) or 'none'}"
            )
        target = getattr(target, part)
    if not callable(target) or inspect.isclass(target):
        kind = "a class; name a function or an instance of it" if inspect.isclass(target) else type(target).__name__
        raise RewardError(f"{name!r} in {where} is not a function but {kind}")
    return target


def _functions_of(module: ModuleType, near: str) -> list[str]:
    """The names of what could be a reward, the most like `near` first: functions of the module (or package) itself, those that
    one of its builders made, partials and instances. What was imported from elsewhere is none of these."""

    def own(value: Any) -> bool:
        home = getattr(value, "__module__", None) or ""
        if f"{home}.".startswith(f"{module.__name__}."):
            return True
        if inspect.isroutine(value):
            return "<locals>" in getattr(value, "__qualname__", "")
        return not type(value).__module__.startswith(("typing", "collections"))

    names = [
        name
        for name, value in vars(module).items()
        if callable(value) and not inspect.isclass(value) and not name.startswith("_") and own(value)
    ]
    return sorted(names, key=lambda name: -difflib.SequenceMatcher(None, near, name).ratio())


# ----------------------------------------------------------------------------------------------------------- signatures


def _signature_problems(fn: Callable[..., Any], kwargs: Mapping[str, Any]) -> list[tuple[str, str]]:
    problems = [
        (f"kwargs.{name}", f"{name!r} is passed by the trainer and cannot be set; rename the argument")
        for name in kwargs
        if name in FIXED_ARGUMENTS or name in asked_for(fn)
    ]
    signature = signature_of(fn)
    if signature is None:
        return problems
    parameters = signature.parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    swallows = any(p.kind is p.VAR_KEYWORD for p in parameters)
    ours = getattr(fn, "__module__", "") in {f"rewards.{module}" for module in _BUILTIN_MODULES}
    if not swallows and not set(FIXED_ARGUMENTS) <= set(named):
        builds = not {"prompts", "completions", "completion_ids"} & set(named)
        hint = f" (if it builds a reward, do that in a file of your own: my_reward = {callable_name(fn)}(...))"
        problems.append(
            (
                "fn",
                f"the function {callable_name(fn)}{signature} must end its arguments with **kwargs: it is called with "
                f"{', '.join(FIXED_ARGUMENTS)} and every data column as keywords{hint if builds else ''}",
            )
        )
    if ours or not swallows:
        # A function that takes **kwargs may read any name from it; ours use it for data columns only.
        options = [name for name in named if name not in FIXED_ARGUMENTS and name not in ROLLOUT_ARGUMENTS]
        problems.extend(
            (f"kwargs.{name}", f"{callable_name(fn)} has no argument {name!r}{did_you_mean(str(name), options)}")
            for name in kwargs
            if name not in named
        )
    check = getattr(fn, "kwargs_problems", None)  # a function that looks at its kwargs before anything starts
    if check is not None and not problems:
        problems.extend((f"kwargs.{name}", message) for name, message in check(kwargs))
    return problems

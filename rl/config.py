"""Reading a recipe: file, name or mapping, plus overrides, to a checked `Recipe`, or every problem at once.

The schema is in `rl.config_schema`, the checks between sections in `rl.config_checks`, the wording of schema errors in
`rl.config_explain`.
"""

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from rl import presets
from rl.config_checks import checks
from rl.config_errors import Problem, RecipeErrors, listing, nearest
from rl.config_explain import explain, models_at
from rl.config_overrides import Origin, apply_overrides
from rl.config_schema import (
    DataConfig,
    EvalConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    PromptConfig,
    Recipe,
    RewardEntry,
    RolloutConfig,
    Split,
    TrainConfig,
    WarmStartConfig,
)
from rl.config_yaml import Document, Key, dotted, read_file
from rl.recipes import recipe_folder, recipe_names
from rollouts.families import MADE
from rollouts.spec import SamplerSpec

__all__ = [
    "DataConfig",
    "EvalConfig",
    "LoraConfig",
    "ModelConfig",
    "OptimConfig",
    "Problem",
    "PromptConfig",
    "Recipe",
    "RecipeErrors",
    "RewardEntry",
    "RolloutConfig",
    "Split",
    "TrainConfig",
    "WarmStartConfig",
    "load_recipe",
]

Command = Literal["train", "sft", "pairs"]
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_ROUNDS = 6  # of repairing a broken recipe far enough to run the checks between sections, too


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    *,
    provided: Collection[str] = (),
    command: Command = "train",
) -> Recipe:
    """A checked, resolved recipe.

    source     path of a YAML file, name of a shipped recipe, the same content as a mapping, or a Recipe
    overrides  ``"optim.lr=1e-4"``; values are read as YAML, list items have numbers (``rewards.0.weight=0``)
    provided   what the caller passes as Python objects, so that the recipe need not name it: ``data.train``,
               ``data.eval``, ``rewards``
    command    what the recipe is for: ``train`` needs rewards and prompts, ``sft`` needs ``warm_start``, ``pairs`` chooses no checkpoint

    Local files are looked for beside the recipe, then in the working folder (those named in `overrides`: in the working
    folder alone), and become absolute paths, so that the resolved recipe can be moved. Raises RecipeErrors, holding
    everything that is wrong.
    """
    document = _document(source)
    problems = list(document.problems)
    if document.problems and not document.data:  # no YAML: nothing else could be said of it
        raise RecipeErrors(problems)
    origin = apply_overrides(document, overrides, problems)
    document.data = _without_nul(document.data, (), problems, origin)
    is_file = isinstance(source, (str, Path))
    is_shipped = is_file and Path(document.file).parent == recipe_folder()
    # A shipped recipe lies in the package; its data files are the user's.
    base = Path(document.file).resolve().parent if is_file and not is_shipped else Path.cwd()
    inherited = _resolve(document.data, base, problems, origin, provided)
    if document.data.get("name") is None and is_file:
        document.data["name"] = Path(document.file).stem

    recipe, schema_problems, bad = _validate(document.data, inherited, origin)
    problems += schema_problems
    if recipe is not None:
        for check in checks(recipe, provided, command):
            if not any(_touches(key, bad) for key in check.keys):
                problems.append(origin.problem(check.keys[0], check.message, check.nearest, check.remedy))
    if problems:
        raise RecipeErrors(problems)
    assert recipe is not None
    return recipe


def _document(source: str | Path | Mapping[str, Any] | Recipe) -> Document:
    if isinstance(source, Recipe):
        return Document("recipe", _plain(source))
    if isinstance(source, Mapping):
        return Document("recipe (dict)", _plain(source))
    path = Path(source).expanduser()
    shipped = recipe_folder() / f"{source}.yaml"
    if not path.is_file() and str(source) in recipe_names():
        path = shipped
    try:
        document = read_file(path)
    except OSError as error:
        raise RecipeErrors([_unreadable(path, error)]) from None
    document.data = _plain(document.data)
    return document


def _unreadable(path: Path, error: OSError) -> Problem:
    if path.is_dir():
        return Problem(str(path), "", "this is a folder, not a recipe", None, "name the .yaml file in it")
    if not isinstance(error, FileNotFoundError):
        return Problem(str(path), "", f"cannot be read: {error.strerror}")
    neighbours = [str(one) for one in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = nearest(str(path), neighbours) or nearest(path.stem, recipe_names())
    remedy = f"shipped recipes: {listing(recipe_names())}" if recipe_names() else None
    return Problem(str(path), "", "there is no such recipe file, and no shipped recipe of this name", near, remedy)


def _plain(value: Any) -> Any:
    """A deep copy with text keys, lists for tuples and text for paths."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    return str(value) if isinstance(value, Path) else value


def _without_nul(value: Any, path: Key, problems: list[Problem], origin: Origin) -> Any:
    """The value without NUL characters, which no path or text here can hold; each is a problem."""
    if isinstance(value, dict):
        return {name: _without_nul(item, (*path, name), problems, origin) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nul(item, (*path, index), problems, origin) for index, item in enumerate(value)]
    if isinstance(value, str) and "\0" in value:
        problems.append(origin.problem(dotted(path), "holds a NUL character", None, "remove it"))
        return value.replace("\0", "")
    return value


def _resolve(
    data: dict[str, Any], base: Path, problems: list[Problem], origin: Origin, provided: Collection[str]
) -> set[Key]:
    """Completes plain data in place: method preset, an evaluation where there is data for it, its sampler, absolute paths.

    Returns the keys that were inherited from another section, where an error would be reported twice.
    """
    raw = data.get("method") or {}
    if isinstance(raw, str):
        raw = {"preset": raw}
    if isinstance(raw, dict):
        preset = raw.get("preset")
        if preset is not None and (not isinstance(preset, str) or preset not in presets.PRESETS):
            near = nearest(str(preset), presets.PRESETS)
            remedy = f"presets: {listing(list(presets.PRESETS))}"
            problems.append(origin.problem("method.preset", f"there is no preset {preset!r}", near, remedy))
            raw = {key: value for key, value in raw.items() if key != "preset"}
        data["method"] = presets.resolve(raw)

    inherited: set[Key] = set()
    has_rewards = bool(data.get("rewards")) or "rewards" in provided
    if "eval" not in data and has_rewards and (_at(data, ("data", "eval")) or "data.eval" in provided):
        data["eval"] = {}  # prompts to report on: measure before and after
    evaluation, rollout = data.get("eval"), data.get("rollout")
    if isinstance(evaluation, dict) and isinstance(evaluation.get("sampler") or {}, dict):
        own = evaluation.get("sampler") or {}
        shared = rollout if isinstance(rollout, dict) else {}
        sampler = {key: shared[key] for key in SamplerSpec.model_fields if key in shared} | {"temperature": 0.0}
        inherited = {("eval", "sampler", key) for key in sampler if key not in own}
        evaluation["sampler"] = sampler | own

    _reward_names(data)
    named: list[tuple[Key, tuple[str, ...]]] = [
        (("data", "train", "path"), DATA_SUFFIXES),
        (("data", "preferences", "path"), DATA_SUFFIXES),
        (("data", "eval", "path"), DATA_SUFFIXES),
        (("data", "validation", "path"), DATA_SUFFIXES),
        (("warm_start", "data", "path"), DATA_SUFFIXES),
        *(
            (("data", "hold_out", n, "against", "path"), DATA_SUFFIXES)
            for n in range(_length(data, ("data", "hold_out")))
        ),
        (("model", "path"), ()),
        (("model", "adapter"), ()),
    ]
    named += [(("method", part, "kind"), (".py",)) for part in presets.UNION_KEYS]
    for index in range(_length(data, ("rewards",))):
        named += [(("rewards", index, "fn"), (".py",)), (("rewards", index, "kwargs", "rubric_file"), (".md", ".txt"))]
    for path, suffixes in named:
        # What stands on the command line is meant from the working folder.
        folders = (Path.cwd(),) if origin.is_overridden(path) else (base, Path.cwd())
        _absolute(data, path, folders, suffixes)
        if suffixes == DATA_SUFFIXES and path in origin.overridden:
            _only_file(data, path[:-1], origin)
    return inherited


def _reward_names(data: dict[str, Any]) -> None:
    """`outcome` and `save.best_by` may spell a reward as its entry does, ``my_rewards.py:brevity``; what is meant is its name."""
    rewards = data.get("rewards")
    names = {
        entry["fn"]: entry.get("name") or entry["fn"].rpartition(":")[2]
        for entry in (rewards if isinstance(rewards, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("fn"), str) and ":" in entry["fn"]
    }
    for node, key in ((data, "outcome"), (data.get("save"), "best_by")):
        if isinstance(node, dict) and isinstance(node.get(key), str):
            node[key] = names.get(node[key], node[key])


def _only_file(data: dict[str, Any], split: Key, origin: Origin) -> None:
    """A file named on the command line takes the place of a data set: its configuration and split names go with it.

    A file has one split, called train; a slice such as ``test[:100]`` is kept, as ``train[:100]``.
    """
    node = _at(data, split)
    if not isinstance(node, dict) or Path(str(node.get("path"))).suffix not in DATA_SUFFIXES:
        return
    if not origin.is_overridden((*split, "name")):
        node.pop("name", None)
    if isinstance(node.get("split"), str) and not origin.is_overridden((*split, "split")):
        node["split"] = re.sub(r"^\w+", "train", node["split"])


def _absolute(data: dict[str, Any], path: Key, folders: tuple[Path, ...], suffixes: tuple[str, ...]) -> None:
    """Makes a local path absolute: in the first of `folders` where it is.

    A name with one of `suffixes` is taken for a file even where there is none, so that the message can say where it was
    expected; any other name that is not there is left alone (a Hub name).
    """
    node = _at(data, path[:-1])
    if not isinstance(node, dict) or not isinstance(node.get(path[-1]), str):
        return
    if path == ("model", "path") and node["path"] in MADE:  # made on the spot, whatever the working folder holds
        return
    name, colon, function = node[path[-1]].partition(":") if ".py" in suffixes else (node[path[-1]], "", "")
    local = Path(name).expanduser()
    is_file = local.suffix in suffixes or name.startswith((".", "/", "~"))
    if ".py" in suffixes and local.suffix != ".py":
        return
    for folder in folders:
        if (folder / local).exists() and name:
            node[path[-1]] = f"{(folder / local).resolve()}{colon}{function}"
            return
    if is_file:
        node[path[-1]] = f"{(folders[0] / local).resolve()}{colon}{function}"


def _validate(
    data: dict[str, Any], inherited: set[Key], origin: Origin
) -> tuple[Recipe | None, list[Problem], list[Key]]:
    """Validates, and where that fails repairs a copy and tries again, so that other checks can still run.

    Returns the recipe (of a repaired copy perhaps, None if beyond repair), the schema problems, and their keys.
    """
    data = copy.deepcopy(data)
    problems: list[Problem] = []
    bad: list[Key] = []
    for attempt in range(_ROUNDS):
        try:
            return Recipe.model_validate(_tuples(data), strict=True), problems, bad
        except ValidationError as error:
            faults = explain(error, data)
        for fault in faults:
            bad += fault.without
            if attempt == 0 and fault.path not in inherited:
                problems.append(origin.problem(dotted(fault.path), fault.message, fault.nearest, fault.remedy))
        for fault in sorted(faults, key=lambda one: [str(part).zfill(6) for part in one.path], reverse=True):
            _repair(data, fault.path, fault.missing)
    return None, problems, bad


def _repair(data: dict[str, Any], path: Key, missing: bool) -> None:
    node = _at(data, path[:-1])
    if not isinstance(node, (dict, list)):
        return
    if not missing:
        if isinstance(node, dict):
            node.pop(path[-1], None)
        elif isinstance(node, list) and isinstance(path[-1], int) and path[-1] < len(node):
            if path[:-1] == ("rewards",):  # so that the other entries keep their numbers
                node[path[-1]] = {"fn": "missing"}
            else:
                del node[path[-1]]
        return
    for model in models_at(path[:-1], data):
        if isinstance(node, dict) and path[-1] in model.model_fields:
            node[path[-1]] = _placeholder(model.model_fields[str(path[-1])].annotation)


def _placeholder(annotation: Any) -> Any:
    for option in (annotation, *get_args(annotation)):
        if get_origin(option) is Literal:
            return get_args(option)[0]
    for kind, value in ((str, "missing"), (int, 1), (float, 1.0), (bool, False)):
        if annotation is kind or kind in get_args(annotation):
            return value
    return {}


def _at(data: Any, path: Key) -> Any:
    """What stands at `path` in plain data; None where the path leads nowhere."""
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _length(data: Any, path: Key) -> int:
    """Items of a list in plain data; 0 where there is none."""
    found = _at(data, path)
    return len(found) if isinstance(found, list) else 0


def _tuples(value: Any, key: str = "") -> Any:
    """Lists to tuples, which is what strict validation wants; arguments of reward functions are left as written."""
    if isinstance(value, dict):
        return {name: item if name == "kwargs" else _tuples(item, name) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _touches(key: str, bad: list[Key]) -> bool:
    """Whether a check on `key` would only repeat or misread an error already reported there."""
    return any(key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.") for name in map(dotted, bad))

"""Schema errors in plain words: which key, what is wrong, the nearest valid name, the remedy."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from rl.config_errors import listing, nearest
from rl.config_schema import Recipe
from rl.config_yaml import Key, describe, dotted

# What other trainers call the same thing. TRL and d1 users arrive with these names.
ELSEWHERE = {
    "learning_rate": "optim.lr",
    "beta": "method.kl.beta",
    "num_generations": "rollout.group_size",
    "max_completion_length": "rollout.canvas",
    "gen_length": "rollout.canvas",
    "block_length": "rollout.block",
    "diffusion_steps": "rollout.steps",
    "remasking": "rollout.selection",
    "num_iterations": "method.inner_passes",
    "per_device_train_batch_size": "train.micro_batch",
    "batch_size": "train.prompts_per_update",
    "max_steps": "train.updates",
    "output_dir": "train.out",
    "model_name_or_path": "model.path",
    "lora_r": "model.lora.r",
    "lora_alpha": "model.lora.alpha",
    "load_in_4bit": "model.quantization",
    "reward_funcs": "rewards",
    "reward_weights": "rewards.0.weight",
    "warmup_ratio": "optim.warmup_steps",
    "lr_scheduler_type": "optim.schedule",
    "adam_beta1": "optim.betas",
    "adam_beta2": "optim.betas",
    "dataset_name": "data.train.path",
    "mask_truncated_completions": "method.mask_truncated",
}


@dataclass(frozen=True)
class Fault:
    """One schema error; `missing` if the key is not there, `unknown` if the schema has none of this name."""

    path: Key
    message: str
    nearest: str | None = None
    remedy: str | None = None
    missing: bool = False
    unknown: bool = False

    @property
    def without(self) -> list[Key]:
        """The keys that have no value of the author's because of this: its own, and those that it was probably meant to be."""
        meant = self.nearest.split(" or ") if self.unknown and self.nearest else []
        return [self.path, *(tuple(key.split(".")) for key in meant)]


def explain(error: ValidationError, data: dict[str, Any], root: type[BaseModel] = Recipe) -> list[Fault]:
    """The errors of validating `data` against `root`, one Fault per key, in the order of the schema."""
    located = [(_path(item, data), item) for item in error.errors(include_url=False)]
    # A mapping that fits no branch of a union fails once per branch; what is wrong inside it says more.
    deep = [path for path, _ in located]
    faults: dict[Key, Fault] = {}
    for path, item in located:
        if isinstance(item["input"], dict) and any(
            len(other) > len(path) and other[: len(path)] == path for other in deep
        ):
            continue
        fault = _fault(path, item, data, root)
        earlier = faults.get(path)
        if earlier is not None and earlier.message != fault.message:
            fault = Fault(
                path, _either(earlier.message, fault.message), earlier.nearest or fault.nearest, earlier.remedy
            )
        faults[path] = fault
    # A misspelt required key is one mistake, not two.
    meant = {fault.nearest for fault in faults.values() if not fault.missing}
    return [fault for fault in faults.values() if not (fault.missing and dotted(fault.path) in meant)]


def models_at(path: Key, data: Any, root: type[BaseModel] = Recipe) -> list[type[BaseModel]]:
    """The schema classes that may stand at `path`; `data` decides between the branches of a union by their `kind`."""
    models: list[type[BaseModel]] = [root]
    node = data
    for part in path:
        if isinstance(part, int):
            node = node[part] if isinstance(node, (list, tuple)) and part < len(node) else None
            continue
        annotations = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        models = [model for annotation in annotations for model in _models_in(annotation)]
        node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and "kind" in node:
            models = [model for model in models if node["kind"] in _kinds(model)] or models
    return models


def nearest_key(path: Key, data: Any, root: type[BaseModel] = Recipe) -> str | None:
    """The key that `path`, which the schema does not have, was probably meant to be."""
    name, parent = str(path[-1]), path[:-1]
    everywhere = _all_keys(root)
    if name in ELSEWHERE and root is Recipe:
        return ELSEWHERE[name]
    siblings = {
        field: dotted((*parent, field)) for model in models_at(parent, data, root) for field in model.model_fields
    }
    same_name = [key for key in everywhere if key.rsplit(".", 1)[-1] == name]
    if close := nearest(name, siblings, cutoff=0.75):
        return siblings[close]
    if same_name:
        return " or ".join(same_name[:3])
    if close := nearest(name, siblings):
        return siblings[close]
    leaves = {key.rsplit(".", 1)[-1]: key for key in reversed(everywhere)}
    close = nearest(name, leaves, cutoff=0.75)
    return leaves[close] if close else None


def _path(item: Any, data: Any) -> Key:
    """pydantic's location without the names of union branches: parts that the data has, or lacks as a required key."""
    path: list[str | int] = []
    node = data
    location = item["loc"]
    for index, part in enumerate(location):
        inside = isinstance(node, dict) and part in node
        if inside or (isinstance(node, (list, tuple)) and isinstance(part, int) and part < len(node)):
            path.append(part)
            node = node[part]
        elif item["type"] == "missing" and index == len(location) - 1:
            path.append(part)
    return tuple(path)


def _fault(path: Key, item: Any, data: Any, root: type[BaseModel]) -> Fault:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        near = nearest_key(path, data, root)
        if near is not None and dotted(path) in near.split(" or "):  # a key of another kind of the same section
            section = path[-2] if len(path) > 1 and isinstance(path[-2], str) else "section"
            remedy = f"it belongs to another kind of {section}; drop it"
            if path[:1] == ("method",):
                remedy += ", or take a method as it is: method=NAME on the command line, without the parts of another"
            return Fault(path, "there is no such key here", None, remedy)
        fields = [field for model in models_at(path[:-1], data, root) for field in model.model_fields]
        return Fault(
            path,
            "there is no such key",
            near,
            None if near else f"keys here: {listing(dict.fromkeys(fields))}",
            unknown=True,
        )
    if kind == "missing" and isinstance(path[-1], int):
        return Fault(path[:-1], f"has too few items; item {path[-1]} (counted from 0) is missing")
    if kind == "missing":
        return Fault(path, "is required", None, f"add {dotted(path)}: ...", missing=True)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = str(context.get("discriminator", "'kind'")).strip("'")
        tags = [one.strip(" '") for one in str(context.get("expected_tags", "")).split(",") if one.strip()]
        written = value.get(tag) if isinstance(value, dict) else None
        if not tags:
            tags = [one for model in models_at(path, data, root) for one in _kinds(model)]
        what = f"{tag} is {describe(written)}" if written is not None else f"needs a {tag}"
        return Fault(path, f"{what}; one of {listing(tags)}", nearest(str(written), tags) if written else None)
    message, remedy = _wording(kind, value, context, item["msg"])
    near = None
    if kind == "literal_error" and isinstance(value, str):
        near = nearest(value, [one.strip(" '") for one in context["expected"].replace(" or ", ",").split(",")])
    return Fault(path, message, near, remedy)


_LIMITS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _wording(kind: str, value: Any, context: dict[str, Any], message: str) -> tuple[str, str | None]:
    """(what is wrong, remedy or None) for a pydantic error type."""
    has = describe(value)
    if kind == "literal_error":
        return f"must be {context['expected']}, but is {has}", None
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return f"must be {words} {context[key]}, but is {has}", None
    if kind in ("int_type", "int_parsing", "int_from_float"):
        whole = isinstance(value, float) and value.is_integer()
        return f"must be a whole number, but is {has}", f"write {int(value)}" if whole else _unquote(value)
    if kind in ("float_type", "float_parsing"):
        return f"must be a number, but is {has}", _unquote(value)
    if kind == "finite_number":
        return f"must be a finite number, but is {has}", None
    if kind in ("bool_type", "bool_parsing"):
        return f"must be true or false, but is {has}", None
    if kind == "string_type":
        hint = "put the text in quotes" if isinstance(value, (dict, int, float)) else None
        return f"must be text, but is {has}", hint
    if kind in ("tuple_type", "list_type"):
        return f"must be a list, but is {has}", "write [a, b], or one item a line after a dash"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"must be a section with keys of its own, but is {has}", None
    if kind in ("missing_keyword_only_argument", "too_short", "too_long"):
        return f"has the wrong number of items: {has}", None
    return f"{message.removeprefix('Value error, ')} (is {has})", None


def _unquote(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        return f"write {float(value):g} without quotes"
    except ValueError:
        return None


def _either(first: str, second: str) -> str:
    """Two branches of a union as one message: "must be A, or must be B"."""
    return f"{first.split(', but is')[0]}, or {second}"


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


@cache
def _all_keys(root: type[BaseModel] = Recipe) -> tuple[str, ...]:
    """Every key of the schema as a dotted path; the first item stands for the items of a list."""
    return tuple(dict.fromkeys(_walk(root, ())))


def _walk(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        here = (*path, name)
        yield ".".join(here)
        inside = (*here, "0") if _is_list(field.annotation) else here
        for child in _models_in(field.annotation):
            yield from _walk(child, inside)


def _is_list(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_is_list(part) for part in get_args(annotation))
    return get_origin(annotation) in (tuple, list)

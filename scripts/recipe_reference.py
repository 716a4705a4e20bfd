"""Writes the second half of docs/recipes.md: every key of a recipe, from the schema itself.

Usage: python scripts/recipe_reference.py
"""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rl.config_schema import Recipe

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
MARK = "<!-- from here on: python scripts/recipe_reference.py -->\n"
WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "anything"}
# Meanings that the estimators and objectives share.
SHARED = {
    "kind": "chooses this one",
    "unit": "what one likelihood, and so one ratio, belongs to",
    "law": "scored under softmax at temperature 1 over all ids (raw), or under what was sampled from (sampler)",
    "epsilon_low": "ratios are clipped below at 1 - this",
    "epsilon_high": "ratios are clipped above at 1 + this",
    "advantage": "from the rewards of a group to advantages; docs/methods.md has the formulas",
}
# Where the name of a key does not say what it counts.
UNITS = {
    "canvas": "tokens", "block": "tokens", "steps": "steps", "updates": "updates", "every": "updates", "hours": "hours",
    "group_size": "rollouts", "max_rows": "rows", "prompts_per_update": "prompts", "micro_batch": "rows", "batch": "rows",
    "limit": "rows", "warmup_steps": "optimizer steps", "plateau": "evaluations", "n": "completions", "keep": "checkpoints",
    "log_rollouts": "rollouts", "threads": "threads", "window": "updates", "baseline": "updates", "repeat": "updates",
    "empty_updates": "updates", "sft_every": "optimizer steps", "draws": "draws", "kl": "nats", "inner_passes": "passes",
}  # fmt: skip


def reference() -> str:
    """Markdown: a heading and a table for every section."""
    return "\n".join(["## Every key\n", *_section(Recipe, "", {})])


def undescribed() -> list[str]:
    """Keys without a meaning."""
    return sorted({f"{model.__name__}.{name}" for model, name, field in _fields(Recipe) if not _meaning(name, field)})


def page(text: str) -> str:
    """The page with a fresh reference below the mark."""
    return text.partition(MARK)[0] + MARK + "\n" + reference()


def _section(model: type[BaseModel], path: str, told: dict[type[BaseModel], str]) -> Iterator[str]:
    """The table of a section, then those of the sections in it."""
    kinds = get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()
    title = f"`{path}`" + (f" with `kind: {kinds[0]}`" if kinds else "") if path else "Top level"
    yield f"### {title}\n"
    if model in told:
        yield f"The keys of `{told[model]}`.\n"
        return
    told[model] = path
    summary = (model.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
    yield (
        f"{' '.join(summary.split()).rstrip(':,')}\n"
        if path
        else "The sections of a recipe, and what stands beside them.\n"
    )
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    inner: list[tuple[type[BaseModel], str]] = []
    for name, field in model.model_fields.items():
        here = f"{path}.{name}" if path else name
        yield f"| `{name}` | {_cell(_kind(field, name))} | {_cell(_default(field))} | {_cell(_meaning(name, field))} |"
        many = ".0" if _is_list(field.annotation) else ""
        inner += [(child, here + many) for child in _models(field.annotation)]
    yield ""
    for child, where in inner:
        yield from _section(child, where, told)


def _fields(model: type[BaseModel]) -> Iterator[tuple[type[BaseModel], str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield model, name, field
        for child in _models(field.annotation):
            yield from _fields(child)


def _meaning(name: str, field: FieldInfo) -> str:
    if field.description:
        return field.description
    models = _models(field.annotation)
    if models:
        return "a section of its own, below" if len(models) == 1 else "one of the sections below, by its `kind`"
    return SHARED.get(name, "")


def _kind(field: FieldInfo, name: str) -> str:
    unit = f", {UNITS[name]}" if name in UNITS and _counts(field.annotation) else ""
    kind = _type(field.annotation)
    bare = kind.removesuffix(" or null")
    return bare + _bounds(field.metadata) + unit + kind[len(bare) :]


def _counts(annotation: Any) -> bool:
    return annotation in (int, float) or any(_counts(part) for part in get_args(annotation) if part is not type(None))


def _type(annotation: Any) -> str:
    if annotation in WORDS:
        return WORDS[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " / ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        words = dict.fromkeys(_type(part) for part in parts if part is not type(None))
        return " or ".join(words) + (" or null" if type(None) in parts else "")
    if origin is tuple:
        inner = dict.fromkeys(_type(part) for part in parts if part is not Ellipsis)
        return "list of " + (" and ".join(inner)) + ("" if Ellipsis in parts else f", {len(parts)} items")
    if origin is dict:
        return f"mapping of {_type(parts[0])} to {_type(parts[1])}"
    if hasattr(annotation, "__metadata__"):
        return _type(parts[0]) + _bounds(annotation.__metadata__)
    return str(annotation)


def _bounds(metadata: Any) -> str:
    signs = {annotated_types.Ge: ("≥", "ge"), annotated_types.Gt: (">", "gt"),
             annotated_types.Le: ("≤", "le"), annotated_types.Lt: ("<", "lt")}  # fmt: skip
    found = []
    for one in metadata:
        if isinstance(one, FieldInfo):
            found.append(_bounds(one.metadata).strip())
        elif type(one) in signs:
            sign, name = signs[type(one)]
            limit = getattr(one, name)
            found.append(f"{sign} {limit if abs(limit) < 1e6 else f'2^{int(limit).bit_length() - 1}'}")
    return "".join(f" {one}" for one in found if one)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.is_required() else "empty"
    value = field.default
    if isinstance(value, BaseModel):
        kind = getattr(value, "kind", None)
        return f"`kind: {kind}`" if kind else "its defaults"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _is_list(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_is_list(part) for part in get_args(annotation))
    return get_origin(annotation) in (tuple, list)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

"""Whether plain data has exactly the type that an annotation names: bool is no int, and lists are looked through."""

from __future__ import annotations

import types
import typing
from typing import Any


def matches(value: Any, wanted: Any) -> bool:
    """True where `value` is of the annotated type, its parts included. Without an annotation everything matches."""
    if wanted is None or wanted is Any:
        return True
    if isinstance(wanted, str):
        wanted = eval(
            wanted, {**vars(typing), "__builtins__": {}}, {"int": int, "str": str, "float": float, "bool": bool}
        )
    origin, parts = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return any(matches(value, part) if part is not type(None) else value is None for part in parts)
    if origin is None:
        return type(value) is _BARE.get(wanted, wanted)
    if type(value) is not origin:
        return False
    if origin is tuple:
        if len(parts) == 2 and parts[1] is Ellipsis:
            return all(matches(item, parts[0]) for item in value)
        return len(parts) == len(value) and all(matches(item, part) for item, part in zip(value, parts))
    if origin is dict:
        return all(matches(key, parts[0]) and matches(item, parts[1]) for key, item in value.items())
    return all(matches(item, parts[0]) for item in value)


_BARE = {typing.List: list, typing.Dict: dict, typing.Set: set, typing.Tuple: tuple}  # noqa: UP006  as puzzles write them

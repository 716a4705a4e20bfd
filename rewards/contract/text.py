"""Values as text: for messages, and for files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HIDDEN = "░"  # stands for a token that is not revealed yet, in `intermediate_texts`
_WRITABLE_BITS = 14_000  # Python writes integers of up to 4300 digits


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


def shorten(value: Any, limit: int = 600) -> str:
    """The repr of `value` (so that whitespace shows) in about `limit` characters at most, the middle left out."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else f"{text[: limit * 2 // 3]} ... {text[-limit // 3 :]}"

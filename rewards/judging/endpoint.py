"""What every request to an OpenAI-compatible endpoint has to look after: its address, and a key that appears nowhere."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

EXAMPLE = "http://127.0.0.1:8000/v1"
SHORTEST_KEY = 8
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PREFIXED_KEY = re.compile(r"(?:sk-|sk_|hf_|gsk_|xai-|AIza|Bearer\s)[A-Za-z0-9_-]{8,}|ey[A-Za-z0-9_-]{10,}\.ey")
_SECRET_NAME = re.compile(r"(?i)(?:^|[-_])(?:api[-_]?key|authorization|secret|password|bearer|access[-_]?token)s?$")


def address_problem(url: Any) -> str | None:
    """What is wrong with an address, or None. The address is not repeated: it may hold a password."""
    parts = urllib.parse.urlsplit(url) if isinstance(url, str) and not any(one.isspace() for one in url) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        return f"this is no address of an endpoint; write it as {EXAMPLE}"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "an address with a user, a password or a query is not taken: it would be written down. Leave them out"
    return None


def key_problem(key: str | None) -> str | None:
    """What is wrong with a key, or None. An HTTP library's own message would show it."""
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        return "the key holds a blank, a line break or a letter that no key has"
    return None


def read_key(variable: str) -> str | None:
    """The key in an environment variable; None where it is not set or empty."""
    return os.environ.get(variable, "").strip() or None


def hidden(text: str, key: str | None) -> str:
    """`text` without the key: a server may repeat the request's headers in what it answers.

    What is shorter than any key is a placeholder, such as EMPTY, and may well be a part of a good answer.
    """
    return text.replace(key, "***") if key and len(key) >= SHORTEST_KEY else text


def looks_like_key(text: str) -> bool:
    """Whether `text` is more probably a key than the name of a variable: a known beginning, or long and mixed."""
    if _PREFIXED_KEY.search(text):
        return True
    mixed = any(one.isdigit() for one in text) and (any(one.islower() for one in text) or "_" not in text)
    return len(text) >= 20 and mixed and not any(one.isspace() for one in text)


def variable_problem(name: Any) -> str | None:
    """What is wrong with the name of an environment variable that holds a key, or None. What stands there is never shown."""
    if isinstance(name, str) and _VARIABLE.fullmatch(name) and not looks_like_key(name):
        return None
    return (
        "takes the name of an environment variable, such as OPENAI_API_KEY, and what stands there is none (it is not "
        "shown, it may be a key). Put the key into the environment: everything in a recipe is written to the run folder"
    )


def secret_in(value: Any) -> bool:
    """Whether plain data carries something that looks like a key, by its name or by itself."""
    if isinstance(value, Mapping):
        return any(_SECRET_NAME.search(str(name)) or secret_in(item) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return any(map(secret_in, value))
    return isinstance(value, str) and _PREFIXED_KEY.search(value) is not None

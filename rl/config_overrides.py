"""``key.path=value`` on the command line, put into plain data; and where each key was written, for messages."""

import re
from collections.abc import Sequence
from typing import Any

import yaml

from rl.config_errors import COMMAND_LINE, Problem
from rl.config_yaml import Document, Key, describe, dotted, parse_value

NUMBER = re.compile("[0-9]{1,9}")  # of a list item; str.isdigit would take superscripts, too


class Origin:
    """Says where a key was written: which file and line, or the command line."""

    def __init__(self, document: Document):
        self.document = document
        self.overridden: list[Key] = []

    def is_overridden(self, path: Key) -> bool:
        return any(path[: len(one)] == one or one[: len(path)] == path for one in self.overridden)

    def problem(self, key: str, message: str, near: str | None = None, remedy: str | None = None) -> Problem:
        path = tuple(int(part) if NUMBER.fullmatch(part) else part for part in key.split("."))
        if self.is_overridden(path):
            return Problem(COMMAND_LINE, key, message, near, remedy)
        while path and path not in self.document.lines:
            path = path[:-1]
        return Problem(self.document.file, key, message, near, remedy, self.document.lines.get(path))


def apply_overrides(document: Document, overrides: Sequence[str], problems: list[Problem]) -> Origin:
    """Changes `document`; what cannot be read or set goes to `problems`."""
    origin = Origin(document)
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not key:
            problems.append(
                Problem(COMMAND_LINE, override, "is not an override", None, "write key.path=value, without spaces")
            )
            continue
        try:
            value = parse_value(text)
        except (yaml.YAMLError, ValueError):
            problems.append(
                Problem(COMMAND_LINE, key, f"the value {text!r} is not valid YAML", None, "put the value in quotes")
            )
            continue
        path = tuple(int(part) if NUMBER.fullmatch(part) else part for part in key.split("."))
        if path[0] == "method" and len(path) > 1 and isinstance(document.data.get("method"), str):
            # The name of a preset may stand for the method.
            document.data["method"] = {"preset": document.data["method"]}
        fault = set_value(document.data, path, value)
        if fault:
            problems.append(Problem(COMMAND_LINE, key, *fault))
        else:
            origin.overridden.append(path)
    return origin


def set_value(data: dict[str, Any], path: Key, value: Any) -> tuple[str, None, str] | None:
    """Sets a value deep in plain data, making sections on the way. (message, None, remedy) where that cannot be."""
    node: Any = data
    for index, part in enumerate(path):
        where = dotted(path[:index])
        if isinstance(node, list):
            if not isinstance(part, int) or part >= len(node):
                return f"{where} is a list of {len(node)}; {part!r} is no item of it", None, f"items: {where}.0 and on"
        elif not isinstance(node, dict):
            return f"{where} is {describe(node)}, it has no keys", None, f"set {where} itself"
        place: Any = part if isinstance(node, list) else str(part)
        if index == len(path) - 1:
            node[place] = value
        elif isinstance(node, dict) and node.get(place) is None:
            node[place] = {}
            node = node[place]
        else:
            node = node[place]
    return None

"""Recipe files: YAML 1.2 scalars, no duplicate keys, and the line of every key.

PyYAML reads YAML 1.1, in which ``1e-5`` is text, ``on``, ``off``, ``yes`` and ``no`` are booleans (as keys, too),
``010`` is eight and ``12:30`` is 750. A recipe means none of these, so scalars follow the YAML 1.2 core schema.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rl.config_errors import Problem

Key = tuple[str | int, ...]


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the implicit types of the YAML 1.2 core schema, and ``1_000`` for 1000."""

    yaml_implicit_resolvers: dict = {}


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes any text which either schema, 1.1 or 1.2, would read as something else."""


_FLOAT = (
    r"^[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)
for _tag, _pattern, _first in [
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9][0-9_]*$|^0x[0-9a-fA-F]+$", list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
]:
    for _class in (_CoreLoader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 16) if text.lower().startswith("0x") else int(text)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(re.sub(r"\.(?=inf|nan)", "", loader.construct_scalar(node).lower()))


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _integer)
_CoreLoader.add_constructor("tag:yaml.org,2002:float", _float)


@dataclass
class Document:
    """A parsed recipe: plain data, where each key stands, and what was wrong with the file itself."""

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Key, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


_FORBIDDEN = yaml.reader.Reader.NON_PRINTABLE
DEEPEST = 50  # levels of nesting; an alias that contains itself has no bottom


def parse_value(text: str) -> Any:
    """The value of a command-line override, read as YAML: numbers, true/false, null, lists, mappings, else text."""
    document = Document("")
    if _FORBIDDEN.search(text):
        raise ValueError("a character that YAML does not allow")
    loader = _CoreLoader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _construct(loader, node, (), document)
    finally:
        loader.dispose()


def read_yaml(text: str, file: str) -> Document:
    """Parses a recipe. A file that is no YAML, or no mapping, gives a Document with problems and no data."""
    document = Document(file)
    if bad := _FORBIDDEN.search(text):  # the reader refuses them with a position in characters, of all lines together
        line = text.count("\n", 0, bad.start()) + 1
        what = f"this is not valid YAML: it holds the character U+{ord(bad[0]):04X}"
        document.problems.append(Problem(file, "", what, None, "remove it", line))
        return document
    loader = _CoreLoader(text)
    try:
        node = loader.get_single_node()
        data = {} if node is None else _construct(loader, node, (), document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else None
        document.problems.append(
            Problem(
                file, "", f"this is not valid YAML: {what}", None, "check indentation, colons and quotes there", line
            )
        )
        return document
    except yaml.YAMLError as error:
        document.problems.append(Problem(file, "", f"this is not valid YAML: {error}"))
        return document
    finally:
        loader.dispose()
    if isinstance(data, dict):
        document.data = data
    else:
        document.problems.append(
            Problem(
                file,
                "",
                f"a recipe is a mapping of sections, this file holds {describe(data)}",
                None,
                "start with: model:",
            )
        )
    return document


def _construct(loader: yaml.SafeLoader, node: yaml.Node, path: Key, document: Document) -> Any:
    """Node to plain data, noting lines and duplicate keys. Keys stay the text that was written: `on` is "on"."""
    if len(path) > DEEPEST:
        what = f"nested deeper than {DEEPEST} levels; does an alias contain itself?"
        raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(loader, node, path, document)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, child in enumerate(node.value):
            document.lines[(*path, index)] = child.start_mark.line + 1
            items.append(_construct(loader, child, (*path, index), document))
        return items
    return loader.construct_object(node)


def _construct_mapping(
    loader: yaml.SafeLoader, node: yaml.MappingNode, path: Key, document: Document
) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.problems.append(
                Problem(document.file, dotted(path), "a key must be a name", None, "write key: value", line)
            )
            continue
        key = str(key_node.value)
        here = (*path, key)
        if key in mapping:
            first = document.lines[here]
            document.problems.append(
                Problem(
                    document.file, dotted(here), f"stands twice, first on line {first}", None, "keep one of them", line
                )
            )
            continue
        document.lines[here] = line
        mapping[key] = _construct(loader, value_node, here, document)
    return mapping


def dotted(path: Key) -> str:
    """``("rewards", 0, "fn") -> "rewards.0.fn"``."""
    return ".".join(str(part) for part in path)


def describe(value: Any) -> str:
    """A value as a message names it: with its kind, cut if long."""
    if value is None:
        return "empty (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value[:57] + '...' if len(value) > 60 else value!r}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"a section with {', '.join(map(str, list(value)[:4])) or 'no keys'}"
    return f"{type(value).__name__} {value!r:.60}"


def to_yaml(data: dict[str, Any]) -> str:
    """Plain data as YAML that `read_yaml` reads back equal."""
    options: dict[str, Any] = {"Dumper": _Dumper, "sort_keys": False, "width": 110}
    text = yaml.dump(data, allow_unicode=True, **options)
    # PyYAML writes some line separators of Unicode so that they do not come back; escaped, they do.
    return text if read_yaml(text, "").data == data else yaml.dump(data, **options)


def read_file(path: Path) -> Document:
    """Reads and parses a recipe file. Raises OSError if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problem = Problem(str(path), "", f"this is not UTF-8 text (byte {error.start})", None, "save it as UTF-8")
        return Document(str(path), problems=[problem])
    return read_yaml(text, str(path))

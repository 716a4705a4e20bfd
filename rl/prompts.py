"""Prompts that a person hands to a command: an argument, a file, or standard input; every bad line is named."""

import json
import string
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl.config_checks import missing_file
from rl.config_errors import listing, nearest
from rl.config_schema import PromptConfig, Split
from rl.errors import CommandError
from rl.tables import BUILDERS, read_table

Row = dict[str, Any]
LINES = (".jsonl", ".txt")
SHOWN = 8  # bad lines named in one message


def template_fields(config: PromptConfig) -> tuple[str, ...]:
    """The columns that a run's prompt template is made from; ``prompt`` where it has none."""
    if config.template is None:
        return ("prompt",)
    return tuple(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(config.template) if name))


def read_prompts(
    prompt: str | None, file: Path | None, fields: Sequence[str], columns: Mapping[str, str] | None = None
) -> list[Row]:
    """Rows with the columns in ``fields``.

    prompt   text; it fills the one field there is
    file     jsonl with a row in each line, txt with a prompt in each line (empty ones do not count), or csv, json, parquet
    columns  {our name: the file's}, used for those of ``fields`` that the file does not have

    Raises CommandError: neither or both given, nothing in them, or bad lines, each with its number.
    """
    if prompt is not None and file is not None:
        raise CommandError("a prompt and --file: give one of them")
    if file is not None:
        return _file_rows(file.expanduser(), fields, columns or {})
    if prompt is None:
        if getattr(sys.stdin, "isatty", lambda: True)():
            raise CommandError("there is nothing to sample from: give a prompt in quotes, or --file prompts.jsonl")
        text = sys.stdin.read().removesuffix("\n")
    else:
        text = prompt
    if not text.strip():
        raise CommandError("the prompt is empty")
    if len(fields) > 1:
        raise CommandError(
            f"the prompts of this run are made from {len(fields)} columns ({listing(fields)}): give them with --file rows.jsonl"
        )
    return [{fields[0]: text}]


def _file_rows(file: Path, fields: Sequence[str], columns: Mapping[str, str]) -> list[Row]:
    """The wanted columns of every row. Raises CommandError naming each line that will not do."""
    rows, problems = [], []
    for number, found in _numbered(file, fields):
        if isinstance(found, str):
            problems.append((number, found))
            continue
        picked = {name: found.get(name, found.get(columns.get(name, name))) for name in fields}
        problem = _problem(picked, found)
        if problem:
            problems.append((number, problem))
        rows.append(picked)
    if problems:
        lines = [f"{file}:{number}  {what}" for number, what in problems[:SHOWN]]
        lines += [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        count = "1 line" if len(problems) == 1 else f"{len(problems)} lines"
        raise CommandError("\n    ".join([f"{count} of {file} will not do:", *lines]))
    if not rows:
        raise CommandError(f"{file}: there is no prompt in it")
    for name in fields:  # a table wants one type in a column, and a template makes text of them all
        if name != "prompt" and len({type(row[name]) for row in rows}) > 1:
            rows = [{**row, name: str(row[name])} for row in rows]
    return rows


def _numbered(file: Path, fields: Sequence[str]) -> list[tuple[int, Row | str]]:
    """(line number, row, or what is wrong with the line) of a file."""
    if not file.is_file():
        if file.is_dir():
            raise CommandError(f"--file {file}: this is a folder")
        message, remedy, near = missing_file(file.absolute())
        hint = f"did you mean {near}?" if near else remedy
        raise CommandError(f"--file: {message}" + (f"\n    {hint}" if hint else ""))
    if file.suffix not in LINES:
        if file.suffix not in BUILDERS:
            known = listing(sorted({*BUILDERS, *LINES}))
            raise CommandError(f"--file {file}: the ending {file.suffix!r} is unknown; known: {known}")
        table = read_table(Split(path=str(file.absolute())), "--file")
        return [(number, dict(row)) for number, row in enumerate(table, 1)]  # type: ignore[call-overload]
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"--file {file}: this is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise CommandError(f"--file {file}: cannot be read: {error.strerror}") from error
    # Not splitlines: text in JSON may hold U+2028.
    lines = [(number, line.strip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if file.suffix == ".jsonl":
        return [(number, _parsed(line)) for number, line in lines]
    if len(fields) > 1:
        raise CommandError(f"--file {file}: the prompts of this run need the columns {listing(fields)}; give jsonl")
    return [(number, {fields[0]: line}) for number, line in lines]


def _parsed(line: str) -> Row | str:
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"not valid JSON ({error})"
    return row if isinstance(row, dict) else f"{line.strip()[:40]} is no row in braces"


def _problem(picked: Row, row: Row) -> str | None:
    for name, value in picked.items():
        if value is None:
            near = nearest(name, row)
            hint = f"; did you mean {near}?" if near else f"; it has {listing(list(row)) or 'nothing'}"
            return f"there is no {name!r}{hint}"
        messages = isinstance(value, list) and all(isinstance(one, dict) for one in value)
        if name == "prompt" and not (isinstance(value, str) or messages):
            return f"the prompt is {type(value).__name__}, not text or messages"
        if isinstance(value, str) and name == "prompt" and not value.strip():
            return "the prompt is empty"
    return None

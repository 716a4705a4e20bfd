"""Stored generations of any repo: JSON, JSON lines or parquet -> one `Stored` per generation.

Read as rows: a list of objects; an object that holds such a list (d1's `{"generations": [...], "metrics": ...}`) or objects by
id; one object a line; the rows of a parquet file. A row has a text, or several (lists, lists of lists as lm-eval's `resps`,
chat messages), a question and a gold answer, each under one of the usual names. What is nested in `doc`, `extra_info` and
the like counts as the row's own.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.contract.reward import RewardError

TEXT_FIELDS = (
    "generations", "generation", "raw_generation", "generated_text", "completions", "completion", "responses", "response",
    "resps", "model_output", "model_outputs", "full_output", "outputs", "output", "predictions", "prediction", "text",
)  # fmt: skip
QUESTION_FIELDS = ("question", "problem", "prompt", "origin_prompt", "input", "query", "instruction")
_ROWS = ("generations", "samples", "results", "data", "rows", "records", "outputs", "predictions", "examples")
_NESTED = ("doc", "extra_info", "reward_model", "row", "example", "metadata")
_SPOKEN = ("content", "text", "generation", "response", "output", "completion")


@dataclass(frozen=True)
class Stored:
    """One generation. fields: its row, with nested fields beside its own. repeat: it also stands in a file before this one."""

    question: str
    text: str
    fields: Mapping[str, Any]
    file: str
    row: int
    repeat: bool = False


def read_generations(files: Sequence[Path], text: str | None = None) -> list[Stored]:
    """All generations, file after file. text: the field that holds them, where it has no usual name.

    A generation is a repeat if its question and text also stand in a file before: samplers of several ranks pad with rows
    of each other. Within one file, the same text twice is two samples. lm-eval writes each generation once for every filter of
    its task: such rows are one.

    Raises RewardError for a file that cannot be read, and for a row without a text, with what it has.
    """
    found: list[Stored] = []
    seen: set[tuple[str, str]] = set()
    for file in files:
        own: set[tuple[str, str]] = set()
        for number, row in _once(read_rows(file)):
            fields = _flat(row)
            question = _question(fields)
            for one in _texts(fields, text, f"{file}, row {number}"):
                key = (question, one)
                own.add(key)
                found.append(Stored(question, one, fields, str(file), number, repeat=bool(question) and key in seen))
        seen |= own
    return found


def _once(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Numbered rows, without those of lm-eval that differ from one before by nothing but the filter that read the answer."""
    filters: dict[str, Any] = {}
    for number, row in enumerate(rows):
        if "filter" in row and "doc_id" in row and "resps" in row:
            said = json.dumps([row["doc_id"], row.get("doc_hash"), row["resps"]], default=str)
            if filters.setdefault(said, row["filter"]) != row["filter"]:
                continue
        yield number, row


def read_golds(file: Path) -> Mapping[str, Mapping[str, Any]]:
    """The rows of a data file by their question, and by their `task_id` where they have one. Raises RewardError."""
    rows: dict[str, Mapping[str, Any]] = {}
    for fields in map(_flat, read_rows(file)):
        rows.update({key: fields for key in (_question(fields), task_id(fields)) if key})
    if not rows:
        raise RewardError(
            f"{file} has no rows with a question: one of {', '.join(QUESTION_FIELDS)}; nor with a task_id"
        )
    return rows


def task_id(fields: Mapping[str, Any]) -> str:
    """The id by which samples of programs name their task; "" without one."""
    found = fields.get("task_id")
    return "" if found is None else f"task {found}"


def read_rows(file: Path) -> list[Mapping[str, Any]]:
    """The objects in a file. Raises RewardError."""
    if file.is_dir():
        raise RewardError(f"{file} is a folder; name the files in it, as in {file}/*.json")
    try:
        rows = _parquet(file) if file.suffix == ".parquet" else _json(file)
    except FileNotFoundError:
        raise RewardError(f"there is no file {file}") from None
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise RewardError(f"{file} cannot be read: {error}") from error
    objects = [row for row in rows if isinstance(row, Mapping)]
    if not objects or len(objects) != len(rows):
        raise RewardError(
            f"{file} holds no rows: a list of objects was expected, one object a line, or an object with a list of them under "
            f"one of {', '.join(_ROWS)}"
        )
    return objects


def _parquet(file: Path) -> list[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise RewardError(f"{file} is no parquet file: {error}") from error


def _json(file: Path) -> list[Any]:
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8") as stream:
        content = stream.read()
    if not content.strip():
        raise RewardError(f"{file} is empty")
    try:
        return _rows_in(json.loads(content))
    except json.JSONDecodeError as error:
        if len(content.strip().split("\n")) < 2 or error.msg != "Extra data":
            raise RewardError(f"{file} is not JSON (cut off?): {error}") from error
    rows = []
    for number, line in enumerate(content.split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise RewardError(f"{file} is not JSON lines: line {number}: {error}") from error
    return rows


def _rows_in(value: Any) -> list[Any]:
    """The rows of a JSON document: see the head of this file."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return []
    for name in _ROWS:
        if isinstance(value.get(name), list) and value[name] and isinstance(value[name][0], dict):
            return value[name]
    if any(value.get(name) == [] for name in _ROWS) and not any(name in value for name in QUESTION_FIELDS):
        return []
    if value and all(isinstance(row, dict) for row in value.values()):
        return list(value.values())
    return [value]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name in _NESTED:
        if isinstance(row.get(name), Mapping):
            flat |= row[name]
    return flat | {name: value for name, value in row.items() if value is not None or name not in flat}


def _question(fields: Mapping[str, Any]) -> str:
    """The question as text; of chat messages, the last of the user's."""
    value = next((fields[name] for name in QUESTION_FIELDS if fields.get(name)), "")
    if isinstance(value, (list, tuple)):
        messages = [message for message in value if isinstance(message, Mapping)]
        asked = [message for message in messages if message.get("role") in ("user", "HUMAN")] or messages
        value = (asked[-1].get("content") or asked[-1].get("prompt") or "") if asked else ""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _texts(fields: Mapping[str, Any], named: str | None, where: str) -> Iterator[str]:
    # MBPP's `text` is the task.
    usual = [name for name in TEXT_FIELDS if name in fields and not (name == "text" and "test_list" in fields)]
    name = named if named is not None else next(iter(usual), None)
    if name is None or name not in fields:
        looked = f"field {name!r}" if name else f"text: none of the fields {', '.join(TEXT_FIELDS)}"
        raise RewardError(f"{where} has no {looked}; it has {', '.join(map(repr, fields))}: name one with --text")
    yield from _spoken(fields[name])


def _spoken(value: Any) -> Iterator[str]:
    """The texts in a field. Nothing was generated where it is null: an empty text."""
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(one, Mapping) and "role" in one for one in value):
            spoken = [one for one in value if one["role"] == "assistant"]
            yield "\n".join(text for one in spoken for text in _spoken(one.get("content")))
        else:
            for one in value:
                yield from _spoken(one)
    elif isinstance(value, Mapping):
        yield from _spoken(next((value[name] for name in _SPOKEN if name in value), None))
    else:
        yield "" if value is None else str(value)

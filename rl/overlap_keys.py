"""Rows under a rule of ``data.hold_out``: the columns that their keys are made of, and which rows of two data sets share one.

What makes two rows the same is `rewards.overlap`; here its keys meet a data set's columns, and are told in words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.overlap import KINDS, Keys, Shared, row_keys, shared
from rl.config_errors import listing, nearest
from rl.config_schema import HoldOut, PromptConfig
from rl.errors import DataError
from rl.prompts import template_fields

Row = Mapping[str, Any]
EXAMPLES = 3
MAX_EXAMPLE = 160  # characters of a row in a message


@dataclass(frozen=True)
class Keyed:
    """Rows of one data set under a rule: what their keys are made of, and the keys."""

    name: str
    cells: list[dict[str, Any]]
    keys: list[Keys]

    def __len__(self) -> int:
        return len(self.keys)


def keyed(rule: HoldOut, rows: Sequence[Row], config: PromptConfig, name: str, where: str) -> Keyed:
    """Rows with their keys. name: of the data set, where: of the rule, for messages.

    Raises DataError for a column that is not there, and for a cell that cannot be read.
    """
    cells = [_cells(rule, row, config) for row in rows]
    lacking = [column for column in KINDS[rule.by].needs if cells and column not in cells[0]]
    if lacking:
        raise _no_column(rule, lacking[0], list(rows[0]), name, where)
    keys = []
    for number, one in enumerate(cells):
        try:
            keys.append(row_keys(rule.by, one, rule.ngram))
        except ValueError as error:
            raise DataError.at(
                where, f"row {number} of {name}: {error}", None, "mend the row, or leave it out"
            ) from error
    return Keyed(name, cells, keys)


def compare(rule: HoldOut, train: Keyed, held: Keyed) -> Shared:
    return shared(train.keys, held.keys, rule.similarity)


def examples(found: Shared, train: Keyed, held: Keyed) -> list[str]:
    """A few pairs of rows, a line each."""

    def shown(cells: Row) -> str:
        text = ", ".join(" ".join(str(value).split()) for value in cells.values() if value is not None)
        return text if len(text) <= MAX_EXAMPLE else f"{text[:MAX_EXAMPLE]} ..."

    return [
        f"row {one} and held-out row {other}: {shown(train.cells[one])} | {shown(held.cells[other])}"
        for one, other in found.pairs[:EXAMPLES]
    ]


def said(rule: HoldOut) -> str:
    """What makes two rows the same, in words."""
    if rule.by != "ngrams":
        return f"{rule.by} ({KINDS[rule.by].said})"
    enough = "one shared" if rule.similarity is None else f"similarity {rule.similarity:g}"
    return f"ngrams ({enough}, runs of {rule.ngram} words)"


def _no_column(rule: HoldOut, wanted: str, columns: list[str], name: str, where: str) -> DataError:
    column = rule.columns.get(wanted, wanted)
    what = f"by: {rule.by} needs a column {column!r}, which {name} does not have"
    if wanted == "text" and wanted not in rule.columns:
        what = f"by: {rule.by} compares prompts, or what a template is filled with, and {name} has neither"
    usual = [name for name in ("question", "problem", "instruction", "query", "text") if name in columns]
    value = usual[0] if wanted == "text" and usual else "..."
    option = f"{where} {wanted}={value}" if where.startswith("--") else f"columns: {{{wanted}: {value}}}"
    remedy = f"name it, {option} (dots lead into nested ones); columns: {listing(columns)}"
    return DataError.at(where, what, nearest(column, columns), remedy)


def _cells(rule: HoldOut, row: Row, config: PromptConfig) -> dict[str, Any]:
    """What a key is made of: {name: value} of the columns that are there."""
    kind, found = KINDS[rule.by], {}
    for name in (*kind.needs, *kind.may_use):
        there, value = look_up(row, rule.columns.get(name, name))
        if name == "text" and name not in rule.columns:
            there, value = _asked(row, config)
        if there:
            found[name] = value
    return found


def look_up(row: Row, column: str) -> tuple[bool, Any]:
    """(is it there, its value) of a column; dots lead into nested ones, as in `extra_info.puzzle`."""
    if column in row:
        return True, row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _asked(row: Row, config: PromptConfig) -> tuple[bool, Any]:
    """The text that is a row's own: its prompt, or what a template is filled with; never the template, which all rows share."""
    names = template_fields(config)
    if any(name not in row for name in names):
        return False, None
    values = [row[name] for name in names]
    if any(value is None for value in values):
        return True, None
    return True, values[0] if len(values) == 1 else "\n".join(map(str, values))

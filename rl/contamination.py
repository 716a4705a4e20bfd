"""What a recipe holds out: training rows that are the same problem as held-out ones are refused, dropped or counted; never silent.

What makes two rows the same is `rewards.overlap`. Without any declaration, prompts that are the same token for token are counted and said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from rewards.overlap import KINDS, Keys, Shared, row_keys, shared
from rl.config_errors import listing, nearest
from rl.config_schema import HoldOut, PromptConfig, Recipe, Split
from rl.data import Prompt, PromptSet
from rl.errors import DataError
from rl.pairs import PairSet
from rl.prompts import template_fields
from rl.run import RunFolder
from rl.tables import read_table, source_of

Row = Mapping[str, Any]
T = TypeVar("T", PromptSet, PairSet)
TRAINING = {"train": "data.train", "preferences": "data.preferences", "warm_start": "warm_start.data"}
REPORTED = ("data.eval", "data.validation")
EXAMPLES = 3
MAX_EXAMPLE = 160  # characters of a row in a message
EXACT = "prompt, token for token"


@dataclass(frozen=True)
class Overlap:
    """Rows that training data share with held-out data. done: dropped, counted, or said (where nothing is declared)."""

    train: str
    held: str
    by: str
    rows: int
    of: int
    held_rows: int
    held_of: int
    done: str

    def __str__(self) -> str:
        what = {
            "dropped": f"these rows of {self.train} are left out",
            "counted": "training uses them all the same, as the recipe says",
            "said": f"results on {self.held} are no test of unseen problems there. Split anew, or declare it: data.hold_out",
        }
        return f"{self.shared}; {what[self.done]}"

    @property
    def shared(self) -> str:
        here, there = (
            f"{self.rows} of {self.of} rows of {self.train}",
            f"{self.held_rows} of {self.held_of} of {self.held}",
        )
        return f"{here} and {there} are the same by {self.by}"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "text": str(self)}


def keep_overlaps(folder: RunFolder, overlaps: Sequence[Overlap]) -> None:
    """``overlap.json`` of a run, which the report reads; none where nothing is shared."""
    if overlaps:
        folder.write_json("overlap.json", {"overlaps": [one.as_json() for one in overlaps]})
    else:
        (folder.path / "overlap.json").unlink(missing_ok=True)


@dataclass(frozen=True)
class Guarded:
    """Data without the rows that a recipe drops, and what was found."""

    sets: dict[str, PromptSet]
    preferences: PairSet | None
    overlaps: tuple[Overlap, ...]


def guard(recipe: Recipe, sets: Mapping[str, PromptSet], preferences: PairSet | None, problems: list[str]) -> Guarded:
    """Compare all training data with what the recipe holds out. Refusals, and columns that are missing, go to `problems`."""
    training: dict[str, Any] = {key: sets[key] for key in TRAINING.values() if key in sets}
    if preferences is not None:
        training["data.preferences"] = preferences
    overlaps: list[Overlap] = []
    for number, rule in enumerate(recipe.data.hold_out):
        where = f"data.hold_out.{number}"
        try:
            held = _held_out(rule, recipe.data.prompt, sets, where)
            for name, key in TRAINING.items():
                if held is not None and key in training and name in (rule.among or TRAINING):
                    training[key], found = _apply(rule, where, key, training[key], held, recipe.data.prompt)
                    overlaps += [found] if found else []
        except DataError as error:
            problems.append(str(error))
    for key, data in training.items():
        for name in (name for name in REPORTED if name in sets):
            overlaps += _exact(key, data.prompts, name, sets[name].prompts)
    preferences = training.pop("data.preferences", None)
    return Guarded({**sets, **training}, preferences, tuple(overlaps))


# ----------------------------------------------------------------------------------------------------------------- rules


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


def _held_out(rule: HoldOut, prompt: PromptConfig, sets: Mapping[str, PromptSet], where: str) -> Keyed | None:
    """What a rule holds out; None where the command at hand does not load it (that it is named was checked with the recipe)."""
    if isinstance(rule.against, Split):
        rows = [dict(row) for row in read_table(rule.against, f"{where}.against")]  # type: ignore[arg-type]
        return keyed(rule, rows, prompt, source_of(rule.against), where)
    name = f"data.{rule.against}"
    return keyed(rule, _rows(sets[name].prompts), prompt, name, where) if name in sets else None


def _apply(rule: HoldOut, where: str, key: str, data: T, held: Keyed, prompt: PromptConfig) -> tuple[T, Overlap | None]:
    """The training data under a rule, and what they shared. Raises DataError where that is refused."""
    if key == "data.preferences":  # a stored prompt stands as it is
        prompt = prompt.model_copy(update={"template": None})
    train = keyed(rule, _rows(data.prompts), prompt, key, where)
    found, by = compare(rule, train, held), said(rule)
    if not found:
        return data, None
    overlap = Overlap(key, held.name, by, len(found.train), len(train), len(found.held), len(held), "counted")
    if rule.on_overlap == "count":
        return data, overlap
    if rule.on_overlap == "refuse":
        what = f"{overlap.shared}:"
        remedy = "set on_overlap: drop to leave these rows out of training, count to use them and have it said, or split anew"
        raise DataError.at(where, "\n    ".join([what, *examples(found, train, held)]), None, remedy)
    if len(found.train) == len(train):
        what = f"no row of {key} is left: all {len(train)} are in {held.name} by {by}"
        raise DataError.at(where, what, None, "split anew, or set on_overlap: count to use them and have it said")
    return _without(data, found.train, f"in {held.name} by {by}"), replace(overlap, done="dropped")


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


# -------------------------------------------------------------------------------------------------------------- helpers


def _exact(key: str, prompts: Sequence[Prompt], name: str, held: Sequence[Prompt]) -> list[Overlap]:
    """Prompts that the model reads in the same tokens."""
    there, here = {one.token_ids for one in held}, {one.token_ids for one in prompts}
    rows = sum(one.token_ids in there for one in prompts)
    held_rows = sum(one.token_ids in here for one in held)
    return [Overlap(key, name, EXACT, rows, len(prompts), held_rows, len(held), "said")] if rows else []


def _rows(prompts: Sequence[Prompt]) -> list[Row]:
    return [{"prompt": one.raw, **one.columns} for one in prompts]


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


def _without(data: T, rows: Sequence[int], reason: str) -> T:
    gone, dropped = set(rows), {**data.dropped, reason: len(rows)}
    if isinstance(data, PromptSet):
        kept = tuple(one for number, one in enumerate(data.prompts) if number not in gone)
        return replace(data, prompts=kept, dropped=dropped)
    return replace(
        data, pairs=tuple(one for number, one in enumerate(data.pairs) if number not in gone), dropped=dropped
    )

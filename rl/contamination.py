"""What a recipe holds out: training rows that are the same problem as held-out ones are refused, dropped or counted; never silent.

What makes two rows the same is `rewards.overlap`. Without any declaration, prompts that are the same token for token are counted and said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from rl.config_schema import HoldOut, PromptConfig, Recipe, Split
from rl.data import Prompt, PromptSet
from rl.errors import DataError
from rl.overlap_keys import Keyed, Row, compare, examples, keyed, said
from rl.pairs import PairSet
from rl.run import RunFolder
from rl.tables import read_table, source_of

T = TypeVar("T", PromptSet, PairSet)
TRAINING = {"train": "data.train", "preferences": "data.preferences", "warm_start": "warm_start.data"}
REPORTED = ("data.eval", "data.validation")
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


def _exact(key: str, prompts: Sequence[Prompt], name: str, held: Sequence[Prompt]) -> list[Overlap]:
    """Prompts that the model reads in the same tokens."""
    there, here = {one.token_ids for one in held}, {one.token_ids for one in prompts}
    rows = sum(one.token_ids in there for one in prompts)
    held_rows = sum(one.token_ids in here for one in held)
    return [Overlap(key, name, EXACT, rows, len(prompts), held_rows, len(held), "said")] if rows else []


def _rows(prompts: Sequence[Prompt]) -> list[Row]:
    return [{"prompt": one.raw, **one.columns} for one in prompts]


def _without(data: T, rows: Sequence[int], reason: str) -> T:
    gone, dropped = set(rows), {**data.dropped, reason: len(rows)}
    if isinstance(data, PromptSet):
        kept = tuple(one for number, one in enumerate(data.prompts) if number not in gone)
        return replace(data, prompts=kept, dropped=dropped)
    return replace(
        data, pairs=tuple(one for number, one in enumerate(data.pairs) if number not in gone), dropped=dropped
    )

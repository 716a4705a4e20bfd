"""``unmask overlap``: what two data sets share, before anything is trained on one and reported on the other."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rewards.overlap import KINDS
from rl.config_errors import nearest
from rl.config_schema import HoldOut, PromptConfig, Split
from rl.errors import CommandError
from rl.overlap_keys import Keyed, compare, examples, keyed, said
from rl.tables import read_table, source_of


@dataclass(frozen=True)
class Found:
    """Rows of two data sets that are the same by a rule. keys: different ones on either side, and in both."""

    train: str
    held: str
    by: str
    rows: int
    of: int
    held_rows: int
    held_of: int
    keys: int
    held_keys: int
    shared_keys: int
    examples: tuple[str, ...]


def examine(
    train: Split,
    held: Split,
    *,
    by: str,
    columns: Mapping[str, str] | None = None,
    held_columns: Mapping[str, str] | None = None,
    ngram: int = 13,
    similarity: float | None = None,
) -> Found:
    """Compare two data sets. columns, held_columns: {what the key needs: the data set's column}.

    Raises DataError for data and columns that cannot be read, CommandError for settings that do not go together.
    """
    _check(by, {**(columns or {}), **(held_columns or {})}, similarity)
    settings: dict[str, Any] = {"against": held, "by": by, "ngram": ngram, "similarity": similarity}
    rule, held_rule = (HoldOut(**settings, columns=dict(names or {})) for names in (columns, held_columns))
    ours, theirs = _keyed(rule, train, "TRAIN", "--column"), _keyed(held_rule, held, "HELD", "--held-column")
    found = compare(rule, ours, theirs)
    here, there = (frozenset[Any]().union(*one.keys) for one in (ours, theirs))
    return Found(
        train=ours.name,
        held=theirs.name,
        by=said(rule),
        rows=len(found.train),
        of=len(ours),
        held_rows=len(found.held),
        held_of=len(theirs),
        keys=len(here),
        held_keys=len(there),
        shared_keys=len(here & there),
        examples=tuple(examples(found, ours, theirs)),
    )


def text(found: Found) -> str:
    """What a person reads."""
    share = f"{found.held_rows / found.held_of:.1%}"
    lines = [
        f"by {found.by}:",
        f"  {found.rows} of {found.of} rows of {found.train}",
        f"  {found.held_rows} of {found.held_of} rows of {found.held} ({share})",
        f"  {found.keys} different keys, {found.held_keys} held out, {found.shared_keys} in both",
        *(f"  {one}" for one in found.examples),
    ]
    return "\n".join(lines if found.rows else [f"nothing is shared {lines[0]}", *lines[1:4]])


def as_json(found: Found) -> str:
    return json.dumps(asdict(found), ensure_ascii=False)


def mapping(given: Sequence[str], option: str) -> dict[str, str]:
    """``puzzle=Puzzle`` as a mapping. Raises CommandError."""
    pairs = [one.partition("=") for one in given]
    wrong = [one for one, (name, sign, column) in zip(given, pairs, strict=True) if not (name and sign and column)]
    if wrong:
        raise CommandError(f"{option} {wrong[0]}: write NAME=COLUMN, as in puzzle=extra_info.puzzle")
    return {name: column for name, _, column in pairs}


def _check(by: str, columns: Mapping[str, str], similarity: float | None) -> None:
    if by not in KINDS:
        near = nearest(by, KINDS)
        raise CommandError(f"--by {by}: {f'did you mean {near}? ' if near else ''}one of {', '.join(KINDS)}")
    used = (*KINDS[by].needs, *KINDS[by].may_use)
    for name in columns:
        if name not in used:
            raise CommandError(f"--column {name}=...: --by {by} has no use for {name!r}; names: {', '.join(used)}")
    if similarity is not None and by != "ngrams":
        raise CommandError(f"--similarity is of --by ngrams, and this is --by {by}")


def _keyed(rule: HoldOut, split: Split, where: str, option: str) -> Keyed:
    rows: list[Any] = [dict(row) for row in read_table(split, where)]  # type: ignore[arg-type]
    return keyed(rule, rows, PromptConfig(), source_of(split), option)

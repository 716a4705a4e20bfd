"""Results that are to be compared: read, found below folders, and whether two were measured alike."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.errors import CommandError
from rl.evaluation_files import RESULT, SAMPLES, STATE, read_rows

SHOWN = 5  # differences of two protocols that are written out
# Of result.json, by a comparison.
NEEDED = ("protocol", "hash", "changed", "changes", "settings", "model", "data", "parsers")
BULKY = ("token_ids", "reveal_step", "model_input", "generated", "completion")  # no comparison reads them


class MixError(CommandError):
    """The two were not measured alike."""


@dataclass(frozen=True, eq=False)
class Side:
    """One result. result: what result.json says; {} for samples alone."""

    path: str
    result: Mapping[str, Any]
    rows: list[dict[str, Any]]

    @property
    def parsers(self) -> list[str]:
        return list(self.rows[0]["scores"])

    @property
    def protocol(self) -> str:
        """Its name and the start of its hash."""
        return f"{self.result['protocol']} ({self.result['hash'][:12]})" if self.result else f"{self.path}, unknown"


def read_side(path: Path) -> Side:
    """A result folder, or its samples.parquet. Raises CommandError."""
    folder, file = (path, path / SAMPLES) if path.is_dir() else (path.parent, path)
    if not file.is_file():
        if (folder / STATE).is_file():
            raise CommandError(f"{path}: this evaluation is not whole; the command that began it goes on with it")
        raise CommandError(f"{path}: there is no {SAMPLES}; name a folder that unmask eval wrote")
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8")) if (folder / RESULT).is_file() else {}
    except ValueError as error:
        raise CommandError(f"{folder / RESULT}: not valid JSON ({error})") from error
    absent = [key for key in NEEDED if key not in result] if isinstance(result, dict) else list(NEEDED)
    if absent and result != {}:
        raise CommandError(
            f"{folder / RESULT}: is not what unmask eval writes (it lacks {', '.join(absent)}); measure again, or take it away and "
            "compare with --mix"
        )
    rows = read_rows(file, without=BULKY)
    if not rows:
        raise CommandError(f"{file}: holds no answers")
    return Side(str(path), result, rows)


def read_sides(paths: Sequence[Path]) -> tuple[list[list[Side]], list[str]]:
    """The results that each path names: itself, or all below it, each once; and notes about those that are not whole.

    Raises CommandError where a path holds no result.
    """
    found: list[list[Side]] = []
    notes, seen = [], set()
    for path in paths:
        places = [path] if path.is_file() or (path / SAMPLES).is_file() else list(_below(path))
        whole = [place for place in places if place.is_file() or (place / SAMPLES).is_file()]
        notes += [f"{place} is not whole, and is left out" for place in places if place not in whole]
        if places and not whole:
            raise CommandError(f"{path}: no evaluation below it is whole; the commands that began them go on with them")
        if not whole:
            found.append([read_side(path)])  # says what is missing
            continue
        fresh = [place for place in whole if place.resolve() not in seen]
        seen |= {place.resolve() for place in fresh}
        found.append([read_side(place) for place in fresh])
    return [one for one in found if one], list(dict.fromkeys(notes))


def _below(path: Path) -> Iterator[Path]:
    """Folders of evaluations, whole or not, below one that is none; 128 stands before 1024."""
    for place, folders, files in os.walk(path):
        if SAMPLES in files or STATE in files:
            folders.clear()
            if Path(place) != path:
                yield Path(place)
        folders[:] = sorted((one for one in folders if not one.startswith(".")), key=natural)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def unlike(a: Side, b: Side) -> list[str]:
    """What makes two results incomparable, in words."""
    absent = [side.path for side in (a, b) if not side.result]
    if absent:
        return [f"nobody knows how {path} was measured: there is no {RESULT} beside it" for path in absent]
    found = []
    if a.result["hash"] != b.result["hash"]:
        names = " and ".join(f"{side.result['protocol']} ({side.result['hash'][:12]})" for side in (a, b))
        found.append(f"protocols: {names}")
        found += _settings(a.result["settings"], b.result["settings"])
    if a.result["data"]["fingerprint"] != b.result["data"]["fingerprint"]:
        first, second = ({row["prompt_id"]: row["prompt"] for row in side.rows} for side in (a, b))
        both = first.keys() & second.keys()
        other = sum(first[i] != second[i] for i in both)
        said = [f"{len(rows)} of {side.result['data']['source']}" for side, rows in ((a, first), (b, second))]
        found.append(f"rows: {' and '.join(said)}; {len(both)} are in both, {other} of these with another prompt")
    return found


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    from rl.protocol import flat, shown

    before, now = flat(a), flat(b)
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    lines = [f"{key}: {shown(before.get(key))} and {shown(now.get(key))}" for key in keys[:SHOWN]]
    return lines + ([f"and {len(keys) - SHOWN} more"] if len(keys) > SHOWN else [])

"""Rollouts for the report's viewer: which of them go into the page, and how they are made small.

Tokens are held once in a table; a rollout keeps indices into it. Log-probabilities and entropies travel in hundredths, ratios and
advantages in thousandths; a list whose values are all equal becomes that one value.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl.report_data import RunData, at, embedded, finite, is_count, is_whole, text_of

MAX_FILES, MAX_ROWS = 100, 32  # files of updates per report, rollouts per file
NEEDED = {"tokens", "token_texts", "reveal_step"}
_PER_TOKEN = ("hint", "counted", "raw_logprob", "entropy", "token_advantage", "ratio")  # beside those
_NUMBERS = ("prompt_id", "rollout_id", "group_id", "forwards", "reward", "outcome", "advantage")
_COLUMNS = (
    *(
        "prompt_id",
        "rollout_id",
        "group_id",
        "prompt",
        "reward",
        "outcome",
        "components",
        "advantage",
        "finish_reason",
        "forwards",
    ),
    *(
        "extras",
        "tokens",
        "token_texts",
        "reveal_step",
        "hint",
        "counted",
        "raw_logprob",
        "entropy",
        "token_advantage",
        "ratio",
    ),
)


@dataclass
class Table:
    """Values that occur often, each held once. size: bytes of them all in the page."""

    items: list[Any] = field(default_factory=list)
    size: int = 0
    _index: dict[Any, int] = field(default_factory=dict)

    def add(self, value: Any) -> int:
        """The value's number."""
        if value not in self._index:
            self._index[value] = len(self.items)
            self.size += size_of(value)
            self.items.append(value)
        return self._index[value]


@dataclass
class Shelf:
    """Where rollouts are put while there is room. budget: bytes in the page, tables included; short: what was left out, in words."""

    run: RunData
    tokens: Table
    texts: Table
    budget: int
    sets: list[dict[str, Any]] = field(default_factory=list)
    short: list[str] = field(default_factory=list)

    def put(self, path: Path, update: int | None, steps: Any, room: int) -> bool:
        """Add the rollouts of a file, as many as fit into ``room`` bytes, at least one. False where nothing could be read."""
        rows: list[dict[str, Any]] = []
        before = self.budget
        read = _rows(path, self.run.notes)
        for row in read[:MAX_ROWS]:
            tables = self.tokens.size + self.texts.size
            small = _small(row, steps, self.tokens, self.texts)
            self.budget -= size_of(small) + self.tokens.size + self.texts.size - tables
            rows.append(small)
            if before - self.budget > room:
                break
        if len(rows) < len(read):
            self.short.append(f"{path.name}: {len(rows)} of {len(read)} rollouts")
        if rows:
            self.sets.append({"name": path.stem, "update": update, "rows": rows})
        return bool(rows)


def collect(run: RunData, tokens: Table, texts: Table, budget: int, files: int = MAX_FILES) -> list[dict[str, Any]]:
    """Sets of rollouts, in order of update: evaluation at the start and at the end, then updates spread evenly until ``budget`` bytes
    of the page or ``files`` are reached. Adds a note to the run about what was left out."""
    folder = run.folder / "rollouts"
    shelf = Shelf(run, tokens, texts, budget)
    for name in ("eval-start", "eval-end"):
        if (folder / f"{name}.parquet").is_file():
            shelf.put(folder / f"{name}.parquet", None, at(run.recipe, "eval.sampler.steps"), budget // 5)
    paths = sorted(path for path in folder.glob("*.parquet") if is_count(path.stem))
    taken = unread = 0
    for index in spread(len(paths)):
        if taken == files or (taken and shelf.budget <= 0):
            break
        found = shelf.put(
            paths[index], int(paths[index].stem), at(run.recipe, "rollout.steps"), max(shelf.budget, budget // 10)
        )
        taken, unread = taken + found, unread + (not found)
    if taken + unread < len(paths):
        shelf.short.insert(0, f"rollouts of {taken} of {len(paths)} updates, spread evenly")
    if shelf.short:
        more = f"; and {len(shelf.short) - 4} more such files" if len(shelf.short) > 4 else ""
        run.notes.append(
            f"To keep the page small it holds {'; '.join(shelf.short[:4])}{more}; all of them are in {folder.name}/"
        )
    return sorted(shelf.sets, key=lambda one: (one["update"] is not None, one["update"] or 0))


def size_of(value: Any) -> int:
    """Bytes of a value in the page."""
    return len(embedded(value).encode()) + 1


def spread(count: int) -> Iterator[int]:
    """0 .. count-1 so that any beginning of the sequence is spread evenly: the ends, then van der Corput's order (the bits of
    0, 1, 2, ... reversed)."""
    seen = set()
    bits = max(1, (count - 1).bit_length())
    order = (int(f"{k:0{bits}b}"[::-1], 2) * count >> bits for k in range(1 << bits))
    for index in (0, count - 1, *order):
        if 0 <= index < count and index not in seen:
            seen.add(index)
            yield index


def _rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The rollouts of one file; empty where there are none that can be read (a file from elsewhere, or damaged)."""
    # Read here rather than by rl.samples, which loads torch: a report needs none, and only some of the columns.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if not set(names) >= NEEDED:
                notes.append(f"{path.name} lacks the columns that the viewer needs")
                return []
            rows = finite(file.read(columns=[name for name in _COLUMNS if name in names]).to_pylist())
    except (OSError, ValueError, OverflowError, pa.ArrowException):
        notes.append(f"{path.name} could not be read")
        return []
    kept = [row for row in map(_checked, rows) if row is not None]
    if len(kept) < len(rows):
        notes.append(f"{path.name}: {len(rows) - len(kept)} of {len(rows)} rollouts could not be read and are left out")
    return kept


def _checked(row: dict[str, Any]) -> dict[str, Any] | None:
    """The row without what the viewer cannot show; None where its tokens do not go together."""
    tokens, texts, reveal = row["tokens"], row["token_texts"], row["reveal_step"]
    if not (_all(int, tokens) and _all(str, texts) and _all(int, reveal) and len(tokens) == len(texts) == len(reveal)):
        return None
    kept = {"tokens": tokens, "token_texts": texts, "reveal_step": reveal}
    for name in _PER_TOKEN:
        values: Any = row.get(name)
        if _all((int, float, type(None)), values) and len(values) == len(tokens):
            kept[name] = values
    kept |= {name: row[name] for name in _NUMBERS if isinstance(row.get(name), (int, float))}
    kept |= {name: row[name] for name in ("prompt", "finish_reason") if text_of(row.get(name)) is not None}
    return kept | {name: row.get(name) for name in ("components", "extras")}


def _all(kind: Any, values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _small(row: Mapping[str, Any], steps: Any, tokens: Table, texts: Table) -> dict[str, Any]:
    """One rollout. ``steps`` is T; positions revealed at T were never revealed."""
    reveal = row["reveal_step"]
    last = steps if is_whole(steps) and steps > 0 else max(reveal, default=0) + 1
    table = [tokens.add(pair) for pair in zip(row["tokens"], row["token_texts"], strict=True)]
    drawn = [0 <= step < last for step in reveal]
    small: dict[str, Any] = {
        name: row[name]
        for name in ("prompt_id", "rollout_id", "group_id", "finish_reason", "forwards")
        if row.get(name) is not None
    }
    for name in ("reward", "outcome", "advantage"):
        if row.get(name) is not None:
            small[name] = _short(row[name])
    small |= {name: _parsed(row[name]) for name in ("components", "extras") if row.get(name)}
    if row.get("prompt") is not None:
        small["prompt"] = texts.add(row["prompt"])
    small |= {"steps": last, "tokens": table, "reveal": reveal}
    small["hint"] = [i for i, one in enumerate(row.get("hint") or []) if one]
    if row.get("counted") is not None:
        small["uncounted"] = _ranges([not one for one in row["counted"]])
    for name, column, scale in (
        ("logprob", "raw_logprob", 100),
        ("entropy", "entropy", 100),
        ("token_advantage", "token_advantage", 1000),
        ("ratio", "ratio", 1000),
    ):
        values = row.get(column)
        if values is not None:
            small[name] = _packed([value if one else None for value, one in zip(values, drawn, strict=True)], scale)
    return small


def _packed(values: Sequence[float | None], scale: int) -> list[int | None] | int | None:
    """Rounded to 1 / scale; one number where all present values agree, None where there are none."""
    whole = [None if value is None else round(value * scale) for value in values]
    present = {value for value in whole if value is not None}
    if not present:
        return None
    return present.pop() if len(present) == 1 else whole


def _ranges(flags: Sequence[bool]) -> list[list[int]]:
    """``[start, end)`` of the runs of true values."""
    found: list[list[int]] = []
    for i, one in enumerate(flags):
        if one and found and found[-1][1] == i:
            found[-1][1] = i + 1
        elif one:
            found.append([i, i + 1])
    return found


def _parsed(text: Any) -> Any:
    """JSON in a column, or what stands there: always names and values, as the viewer lists them."""
    try:
        value = finite(json.loads(text)) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        value = text
    return _shortened(value if isinstance(value, Mapping) else {"value": value})


def _shortened(value: Any) -> Any:
    """Numbers to four digits; long texts cut: the file holds them whole."""
    if isinstance(value, Mapping):
        return {name: _shortened(item) for name, item in value.items()}
    if isinstance(value, float):
        return _short(value)
    text = (
        value if isinstance(value, (str, int, bool, type(None))) else json.dumps(value, ensure_ascii=False, default=str)
    )
    return f"{text[:300]}…" if isinstance(text, str) and len(text) > 300 else text


def _short(value: float) -> float:
    return float(f"{value:.4g}")

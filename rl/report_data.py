"""A run folder as the report needs it: read while the run goes on or after it, and made small.

Everything here is forgiving: a file may be missing, cut in its last line, or older than the reader. What could not be read is counted and
said on the page. The recipe is read as plain data, never checked: a report must open on recipes that today's schema would refuse.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from rl.config_yaml import read_file
from rl.report_panels import ALARM_METRICS

_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
MAX_POINTS = 600  # per curve; more updates are averaged in buckets
BEYOND = 1e300  # no quantity of a run; sums and hundredfolds of smaller numbers stay numbers
# What a damaged JSON text raises: it is none, its bytes are no UTF-8, a number is too long to convert, it is nested too deep.
_NO_JSON = (ValueError, RecursionError)
# The same of a recipe: also characters that YAML forbids, and what PyYAML lets through where an explicit tag (`!!bool 7`) does not
# fit its value.
_NO_YAML = (*_NO_JSON, yaml.YAMLError, OSError, AttributeError, KeyError, TypeError)
_SECTIONS = ("model", "data", "rollout", "method", "optim", "train", "eval")
_LARGEST, _SMALLEST = (
    {"ratio_max", "weight_max", "score_max", "sampler_gap_max", "first_pass_gap", "lag", "correction/log_ratio_max"},
    {"ratio_min", "weight_min", "score_min"},
)


@dataclass
class RunData:
    """One run, read. curves and warm_start: ``{"x": [..], "values": {name: [number or None]}}``; recipe: plain data; single: metrics
    with one value, in words."""

    folder: Path
    recipe: dict[str, Any]
    recipe_text: str
    curves: dict[str, Any]
    warm_start: dict[str, Any]
    evaluations: list[dict[str, Any]]
    alarms: list[dict[str, Any]]
    summary: dict[str, Any]
    updates: int
    written: str
    single: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.summary.get("name") or self.recipe.get("name") or self.folder.name)

    @property
    def planned(self) -> int | None:
        value = at(self.recipe, "train.updates")
        return value if is_whole(value) else None

    @property
    def finished(self) -> bool:
        return bool(self.summary)

    @property
    def main_steps(self) -> str | None:
        """The step count of the accuracy that is drawn over the updates: the evaluation sampler's, else the one every row has."""
        wanted = at(self.recipe, "eval.sampler.steps") or at(self.recipe, "rollout.steps")
        counts = [name for row in self.evaluations for name in row["accuracy"]]
        if str(wanted) in counts or not counts:
            return str(wanted) if counts else None
        return max(sorted(set(counts), key=int), key=counts.count)


def read_run(folder: Path) -> RunData:
    """Read a run folder."""
    notes: list[str] = []
    text, recipe = _recipe(folder / "recipe.yaml", notes)
    metrics = _rows(folder / "metrics.jsonl", notes)
    by_update = {row["update"]: row for row in metrics if is_whole(row.get("update"))}
    for row in _rows(folder / "timing.jsonl", notes):
        update = row.get("update")
        # timing may be a row ahead of the metrics, or hold rows from before a resume
        if is_whole(update) and update in by_update:
            by_update[update] = {**by_update[update], **row}
    rows = [by_update[update] for update in sorted(by_update)]
    drawn = curves(rows, "update", notes)
    warm_start = _rows(folder / "warm_start.jsonl", notes)
    overlaps = _json(folder / "overlap.json", []).get("overlaps")
    notes += [str(at(one, "text")) for one in (overlaps if isinstance(overlaps, list) else ()) if at(one, "text")]
    return RunData(
        folder=folder,
        recipe=recipe,
        recipe_text=text,
        single=take_single(drawn),
        curves=drawn,
        warm_start=curves([row for row in warm_start if is_whole(row.get("step"))], "step", []),
        evaluations=_evaluations(_rows(folder / "evaluations.jsonl", notes), len(rows)),
        alarms=_alarms(_rows(folder / "health.jsonl", notes)),
        summary=_json(folder / "summary.json", notes),
        updates=len(rows),
        written=_written(folder),
        notes=notes,
    )


def at(data: Any, key: str) -> Any:
    """The value at ``"rollout.steps"`` in plain data; None where the path leads nowhere."""
    for part in key.split("."):
        if not isinstance(data, Mapping):
            return None
        data = data.get(part)
    return data


def section(data: Any, key: str) -> Mapping[str, Any]:
    """The mapping at a key; empty where there is none, or something else stands there."""
    found = at(data, key)
    return found if isinstance(found, Mapping) else {}


def flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Plain data as ``{"rollout.steps": 64}``; lists stay values."""
    if not isinstance(data, Mapping) or not data:
        return {prefix: data} if prefix else {}
    found: dict[str, Any] = {}
    for key, value in data.items():
        found.update(flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return found


def finite(value: Any) -> Any:
    """The value with null for NaN, infinities and numbers that no run measures, whose sums JSON or the page could not hold.
    (rl.run.plain does more, and loads torch.)"""
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    # An integer may be longer than any float: comparing is exact, converting would raise.
    return None if isinstance(value, (int, float)) and not -BEYOND < value < BEYOND else value


def is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(text: str) -> bool:
    """Whether a text is a number of updates, steps or completions. (str.isdigit is true of superscripts, too.)"""
    return text.isascii() and text.isdecimal() and len(text) < 16


def embedded(data: Any) -> str:
    """JSON that cannot end the script element it stands in, or start another: no ``<``, ``>``, ``&``; lone surrogates escaped, too."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def curves(rows: Sequence[Mapping[str, Any]], axis: str, notes: list[str]) -> dict[str, Any]:
    """Columns of the numbers in the rows, at most ``MAX_POINTS`` long: bucket means; for smallest and largest values their extremes."""
    names = sorted({name for row in rows for name, value in row.items() if name != axis and _is_number(value)})
    width = -(-len(rows) // MAX_POINTS) if rows else 1
    buckets = [rows[start : start + width] for start in range(0, len(rows), width)]
    if width > 1:
        notes.append(
            f"{len(rows)} updates are drawn as {len(buckets)} points, each the mean of {width} (ratios: their extremes)"
        )
    return {
        "x": [_bucket([row.get(axis) for row in bucket], axis) for bucket in buckets],
        "values": {
            name: [_bucket([row.get(name, _absent(name)) for row in bucket], name) for bucket in buckets]
            for name in names
        },
    }


def _absent(name: str) -> int | None:
    """What a row means that lacks a metric: counts are written only where there is something to count."""
    return 0 if name in ("skipped", "seconds/eval", "seconds/save") or name.startswith("dropped/") else None


def take_single(table: dict[str, Any]) -> list[str]:
    """Take the metrics out of curves that have one value among several rows, such as a check of the first update; say them in words."""
    x, values = table["x"], table["values"]
    said = []
    for name in [
        name for name, list_ in values.items() if len(x) > 3 and sum(value is not None for value in list_) == 1
    ]:
        at_row, value = next((i, value) for i, value in enumerate(values.pop(name)) if value is not None)
        if not name.startswith("seconds/"):  # the head has those
            said.append(f"{name} {value:.4g} (update {x[at_row]})")
    return said


def _bucket(values: Sequence[Any], name: str) -> float | int | None:
    kept = [value for value in values if _is_number(value)]
    if not kept:
        return None
    if len(kept) == 1 or name in ("update", "step"):
        value = kept[0]
    elif name in _LARGEST:
        value = max(kept)
    else:
        value = min(kept) if name in _SMALLEST else sum(kept) / len(kept)
    return value if isinstance(value, int) else float(f"{value:.5g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -BEYOND < value < BEYOND


def _rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file. A last line without its end is being written; other lines that are no mapping are counted."""
    if not path.is_file():
        return []
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except OSError as error:
        notes.append(f"{path.name} could not be read: {error.strerror}")
        return []
    rows, bad = [], 0
    for line in [*lines, last]:
        try:
            row = finite(json.loads(line)) if line.strip() else None
        except _NO_JSON:
            bad += line is not last
            continue
        if isinstance(row, dict):
            rows.append(row)
        elif row is not None:
            bad += 1
    if bad:
        notes.append(
            f"{path.name}: {bad} {'line' if bad == 1 else 'lines'} could not be read and {'is' if bad == 1 else 'are'} left out"
        )
    return rows


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = finite(json.loads(path.read_text(encoding="utf-8")))
    except (*_NO_JSON, OSError):
        notes.append(f"{path.name} could not be read; the run is shown as unfinished")
        return {}
    return value if isinstance(value, dict) else {}


def _recipe(path: Path, notes: list[str]) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        notes.append("recipe.yaml is missing: nothing is known of the settings")
        return "", {}
    problem = "recipe.yaml is not a readable recipe: nothing is known of the settings"
    text = ""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        document = read_file(path)
    except _NO_YAML:
        notes.append(problem)
        return text, {}
    if document.problems:
        notes.append(problem)
    recipe = finite(document.data)
    if isinstance(recipe.get("method"), str):  # a preset's name may stand for the method
        recipe["method"] = {"preset": recipe["method"]}
    wrong = [key for key in _SECTIONS if not isinstance(recipe.get(key) or {}, dict)]
    wrong += ["rewards"] if not isinstance(recipe.get("rewards") or [], list) else []
    if wrong:
        notes.append(
            f"recipe.yaml: {', '.join(wrong)} could not be read and {'is' if len(wrong) == 1 else 'are'} left out"
        )
    return text, recipe


def _evaluations(rows: Iterable[Mapping[str, Any]], updates: int) -> list[dict[str, Any]]:
    """Rows without the outcome per prompt. Older rows lack ``update`` and ``split``; these follow from ``when``."""
    found = []
    for row in rows:
        when, accuracy = str(row.get("when", "")), row.get("accuracy")
        if not isinstance(accuracy, Mapping):
            continue
        update = row.get("update")
        if not is_whole(update):
            number = when.rpartition(" ")[2]
            update = 0 if when == "start" else int(number) if is_count(number) else updates
        item = {"when": when, "update": update, "split": row.get("split", "eval"), "accuracy": _intervals(accuracy)}
        item["reward"] = text_of(row.get("reward"))  # validation may choose by another reward than the outcome
        passes = row.get("pass_at_k")
        if isinstance(passes, Mapping):
            item["pass_at_k"] = _intervals(passes)
        found.append(item)
    return found


def interval_of(cell: Any) -> dict[str, Any] | None:
    """The numbers of ``{value, low, high, n}``, the two ends together or not at all; None without a value."""
    if not isinstance(cell, Mapping) or not _is_number(cell.get("value")):
        return None
    ends = ("low", "high") if all(_is_number(cell.get(name)) for name in ("low", "high")) else ()
    return {name: cell[name] for name in ("value", *ends, "n") if _is_number(cell.get(name))}


def text_of(value: Any) -> str | None:
    """The value where it is a name."""
    return value if isinstance(value, str) else None


def _intervals(cells: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: interval_of(cell) for name, cell in cells.items() if is_count(name)}
    return {name: cell for name, cell in found.items() if cell is not None}


def _alarms(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per monitor and level: its updates, how often, the last message and remedy, the metrics it is marked on."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        monitor, level, update = str(row.get("monitor", "")), str(row.get("level", "warn")), row.get("update")
        if not is_whole(update):
            continue
        entry = found.setdefault(
            (monitor, level),
            {"monitor": monitor, "level": level, "updates": [], "metrics": ALARM_METRICS.get(monitor, ())},
        )
        entry["updates"].append(update)
        entry |= {"message": str(row.get("message", "")), "remedy": str(row.get("remedy", ""))}
    for entry in found.values():
        entry["count"] = len(entry["updates"])
        entry["updates"] = entry["updates"][:: max(1, len(entry["updates"]) // 50)]
    return sorted(found.values(), key=lambda entry: (entry["level"] != "stop", entry["updates"][0]))


def _written(folder: Path) -> str:
    """When the run last wrote something the report shows, in UTC."""
    times = [path.stat().st_mtime for path in folder.glob("*.jsonl")] + [
        path.stat().st_mtime for path in (folder / "summary.json", folder / "recipe.yaml") if path.is_file()
    ]
    return f"{datetime.fromtimestamp(max(times), UTC):%Y-%m-%d %H:%M} UTC" if times else ""

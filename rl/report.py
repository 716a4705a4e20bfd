"""``report.html``: one self-contained page about a run, or several compared. It opens offline and asks the network for nothing.

The page is a template, a style sheet and a few small scripts in ``rl/_report``, with the data as JSON inside. The curves are plain SVG
drawn by those scripts: the page needs aligned small panels with bands, stacks, alarms and one shared crosshair, in two themes; uPlot
(50 kB, canvas) would still leave most of that to write, and be an inlined dependency to look after.

Nothing that a model or a data set wrote can become markup: data stands in a JSON block without ``<``, scripts put it into the page as text
nodes only, and a Content-Security-Policy allows exactly this style sheet and this script.
"""

import base64
import hashlib
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from rl.report_data import RunData, embedded, interval_of, read_run, text_of
from rl.report_facts import duration, facts, recipe_differences, said, sampler_differences
from rl.report_panels import panels
from rl.report_rollouts import MAX_FILES, Table, collect

ROLLOUT_BYTES = 2_500_000  # of JSON, all runs together; the page stays under 5 MB
MAX_RUNS = 8
_ASSETS = Path(__file__).parent / "_report"
_SCRIPTS = ("dom.js", "chart.js", "curves.js", "head.js", "tokens.js", "viewer.js", "page.js")
_RUN_FILES = ("recipe.yaml", "metrics.jsonl", "warm_start.jsonl", "evaluations.jsonl", "summary.json")


class ReportError(ValueError):
    """What was asked for is no run folder, or too many; the message says what to do."""


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of one run, or of up to eight compared, and return its path. A run may still be going on.

    out: the file; None: ``report.html`` in the run folder, or in the folder that holds all the compared ones. A file that is there is
    replaced whole. Raises ReportError where a folder is no run.
    """
    folders = [Path(run) for run in runs]
    _check(folders)
    if out is None:
        parents = [folder.resolve() for folder in folders]
        out = (
            folders[0] if len(folders) == 1 else Path(os.path.commonpath([folder.parent for folder in parents]))
        ) / "report.html"
    page = render(payload([read_run(folder) for folder in folders]))
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".writing-{out.name}")
    part.write_text(page, encoding="utf-8", errors="replace", newline="\n")
    part.replace(out)
    return out


def payload(runs: Sequence[RunData]) -> dict[str, Any]:
    """Everything the page shows, as plain data."""
    tokens, texts = Table(), Table()
    described = [
        _describe(run, name, tokens, texts, len(runs)) for run, name in zip(runs, run_names(runs), strict=True)
    ]
    metrics = {name for run in runs for name in run.curves["values"]}
    warm_start = {name for run in runs for name in run.warm_start["values"]}
    return {
        "runs": described,
        "panels": panels(metrics, warm_start),
        "differences": recipe_differences(runs) if len(runs) > 1 else [],
        "tokens": tokens.items,
        "texts": texts.items,
    }


def render(data: Mapping[str, Any]) -> str:
    """The page."""
    style, script = _asset("page.css"), "\n".join(["'use strict';", *map(_asset, _SCRIPTS)])
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    names = ", ".join(run["name"] for run in data["runs"])
    return Template(_asset("page.html")).substitute(
        policy=policy, title=html.escape(f"{names} · unmask report"), style=style, script=script, data=embedded(data)
    )


def run_names(runs: Sequence[RunData]) -> list[str]:
    """What each run is called on the page. Runs of one recipe have one name, so their folders are added, as deep as tells them apart."""
    given = [run.name for run in runs]
    folders = [run.folder.resolve().parts for run in runs]

    def called(index: int) -> str:
        alike = [other for other, name in enumerate(given) if name == given[index] and other != index]
        if not alike:
            return given[index]
        parts = folders[index]
        for depth in range(1, len(parts)):
            if all(folders[other][-depth:] != parts[-depth:] for other in alike):
                break
        else:
            depth = len(parts)
        return f"{given[index]} ({'/'.join(parts[-depth:])})"

    return [called(index) for index in range(len(runs))]


def _describe(run: RunData, name: str, tokens: Table, texts: Table, count: int) -> dict[str, Any]:
    rollouts = collect(run, tokens, texts, ROLLOUT_BYTES // count, max(4, MAX_FILES // count))
    return {
        "name": name,
        "folder": str(run.folder),
        "finished": run.finished,
        "updates": run.updates,
        "planned": run.planned,
        "written": run.written,
        "seconds": _seconds(run),
        "outcome": text_of(run.summary.get("outcome")) or text_of(run.recipe.get("outcome")),
        "facts": facts(run),
        "samplers": [(key, said(one), said(other)) for key, one, other in sampler_differences(run.recipe)],
        "gain": interval_of(run.summary.get("gain")),
        "main_steps": run.main_steps,
        "curves": run.curves,
        "warm_start": run.warm_start,
        "evaluations": run.evaluations,
        "alarms": run.alarms,
        "rollouts": rollouts,
        "recipe": run.recipe_text,
        "single": run.single,
        "notes": run.notes,
    }


def _seconds(run: RunData) -> str | None:
    """Wall time of the run, as text: by its summary, or of the updates so far."""
    known, curves = run.summary.get("wall_seconds"), run.curves["values"]
    beside = ("rollout", "reward") if "seconds/waiting" in curves else ()  # drawn ahead: while the rest went on
    if isinstance(known, Mapping):
        own = {name: value for name, value in known.items() if name not in ("total", *beside)}
        return duration(known.get("total", sum(value for value in own.values() if isinstance(value, (int, float)))))
    names = [name for name in ("rollout", "reward", "waiting", "train", "eval", "save") if name not in beside]
    phases = [curves.get(f"seconds/{name}", []) for name in names]
    total = sum(value for values in phases for value in values if value is not None)
    buckets = len(run.curves["x"])
    return duration(total * run.updates / buckets) if total else None


def _check(folders: Sequence[Path]) -> None:
    if not folders:
        raise ReportError("no run was named; give a run folder, such as runs/quickstart")
    if len(folders) > MAX_RUNS:
        raise ReportError(f"a report compares at most {MAX_RUNS} runs, and {len(folders)} were named; leave some out")
    for folder in folders:
        if not folder.is_dir():
            near = sorted(
                path.name for path in folder.parent.glob("*") if any((path / name).is_file() for name in _RUN_FILES)
            )
            hint = (
                f"runs in {folder.parent}: {', '.join(near[:8])}"
                if near
                else "a run folder is what train.out names, runs/<name> by default"
            )
            raise ReportError(f"there is no folder {folder}; {hint}")
        if not any((folder / name).is_file() for name in _RUN_FILES):
            raise ReportError(f"{folder} is no run folder: it holds none of {', '.join(_RUN_FILES)}")


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

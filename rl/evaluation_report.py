"""The result of an evaluation for people: a table on the terminal, and the same as Markdown."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Result = Mapping[str, Any]


def show(result: Result, folder: Path | None, console: Console | None = None) -> None:
    """Print it."""
    console = console or Console(highlight=False)
    for line in _head(result):
        console.print(line, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("value", "95 % interval", "n", "not graded"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in _rows(result):
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console.print(table)
    for line in (*_costs(result), *_notes(result)):
        console.print(line, markup=False, soft_wrap=True)
    if folder is not None:
        console.print(f"wrote {folder}", markup=False, soft_wrap=True)


def markdown(result: Result) -> str:
    """The same as a page."""
    lines = [f"# {result['protocol']}", "", *(f"{line}  " for line in _head(result)), ""]
    lines += ["| | value | 95 % interval | n | not graded |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(result)]
    lines += ["", *(f"{line}  " for line in _costs(result)), ""]
    notes = list(_notes(result))
    lines += [*(f"- {line}" for line in notes), *([""] if notes else [])]
    return "\n".join(lines)


def _head(result: Result) -> Iterator[str]:
    changed = ", CHANGED" if result["changed"] else ""
    yield f"{result['protocol']}{changed} ({result['hash'][:12]}): {result['source']['what']}"
    model = result["model"]
    yield f"model {model['checkpoint'] or model['adapter'] or model['path']} ({model['fingerprint'][:12]})"
    data, sampler = result["data"], result["settings"]["sampler"]
    yield f"data {data['source']}, {data['prompts']} prompts ({data['fingerprint'][:12]})"
    answers = result["samples"] * len(result["seeds"])
    yield (
        f"canvas {sampler['canvas']}, block {sampler['block']}, {sampler['steps']} steps, {sampler['selection']}, temperature "
        f"{sampler['temperature']:g}, {result['settings']['dtype']}"
        + (f", {answers} answers to each prompt" if answers > 1 else "")
    )


def _rows(result: Result) -> Iterator[tuple[str, str, str, str, str]]:
    for parser, cell in result["accuracy"].items():
        yield (parser, *_cell(cell), str(sum(cell["ungraded"].values()) or ""))
    for title, kind in (("pass", "pass_at_k"), ("maj", "maj_at_k")):
        for parser, found in result[kind].items():
            for k, cell in found.items():
                if k == "1":  # the mean score, which stands above
                    continue
                yield (f"{title}@{k}, {parser}", *_cell(cell), "")


def _cell(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    if not cell["n"]:
        return "none", "", "0"
    return f"{cell['value']:.3f}", f"[{cell['low']:.3f}, {cell['high']:.3f}]", str(cell["n"])


def _costs(result: Result) -> Iterator[str]:
    speed = result["tokens_per_second"]
    yield (
        f"{result['forwards_per_answer']:.1f} forwards and {result['tokens_per_answer']:.1f} tokens an answer, "
        f"{speed:.1f} tokens/s, {result['sampling_seconds']:.1f} s of sampling, {result['truncated']:.1%} filled the canvas without an end"
    )
    for parser, found in result["by_seed"].items():
        values = ", ".join(f"{value:.3f}" for value in found["values"].values())
        yield f"{parser} by seed: {values}; standard deviation {found['deviation']:.3f}"


def _notes(result: Result) -> Iterator[str]:
    if result["changed"]:
        yield f"not {result['protocol']} as it is stated ({result['stated_hash'][:12]}): {'; '.join(result['changes'])}"
    departures = result["departures"]
    if len(departures) == 1:
        yield f"departs from what was published: {departures[0]}"
    elif departures:
        yield "departs from what was published: " + "; ".join(f"({n}) {one}" for n, one in enumerate(departures, 1))
    for parser, cell in result["accuracy"].items():
        for reason, count in cell["ungraded"].items():
            yield f"{parser}: {count} not graded: {reason}"

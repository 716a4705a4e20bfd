"""Commands around rewards. Nothing here loads torch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from rewards.grading.regrade import Regraded


def grade(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="gsm8k, math (or math500), countdown, sudoku, code (or mbpp, humaneval, ...).",
            show_default=False,
        ),
    ],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES...",
            help="Generations: JSON, JSON lines or parquet; files of one run together.",
            show_default=False,
        ),
    ],
    as_json: Annotated[
        bool,
        typer.Option("--json", help="{parser: {accuracy, n, low, high}}; accuracies are percentages, as in the table."),
    ] = False,
    text: Annotated[
        str | None, typer.Option("--text", metavar="FIELD", help="The field with the generation.", show_default=False)
    ] = None,
    gold: Annotated[
        str | None, typer.Option("--gold", metavar="FIELD", help="The field with the gold answer.", show_default=False)
    ] = None,
    golds: Annotated[
        Path | None,
        typer.Option("--golds", metavar="FILE", help="Gold answers from a data file, by question.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.jsonl", help="Write each row with what each parser gave.", show_default=False
        ),
    ] = None,
    disagree: Annotated[
        int, typer.Option("--disagree", metavar="N", help="Show N rows on which parsers disagree.", min=0)
    ] = 0,
) -> None:
    """Grade stored generations again, by every parser there is for the task: ours and those of published code.

    The same text is 76 % right by one rule and 0 % by another; docs/grading.md says whose rule each is.
    """
    from rewards.contract.reward import RewardError
    from rewards.grading.parsers import tasks
    from rewards.grading.regrade import regrade

    known = tasks()
    if task not in known:
        from rl.config_errors import nearest

        near = nearest(task, list(known))
        raise RewardError(
            f"there is no task {task!r}{f'; did you mean {near}?' if near else ''}; tasks: {', '.join(known)}"
        )
    found = regrade(known[task], files, text=text, gold=gold, golds=golds)
    if out is not None:
        _write(found, out)
    if as_json:
        typer.echo(_as_json(found))
        for note in found.notes():
            typer.echo(f"note: {note}", err=True)
        return
    show(found, disagree)
    if out is not None:
        typer.echo(f"\nwrote {out}")


def _as_json(found: "Regraded") -> str:
    figures = {
        name: {
            "accuracy": round(100 * one.accuracy, 6),
            "n": one.n,
            "low": round(100 * one.low, 6),
            "high": round(100 * one.high, 6),
        }
        for name, one in found.tallies().items()
        if one.n
    }
    return json.dumps(figures, indent=2)


def _write(found: "Regraded", out: Path) -> None:
    from rewards.contract.reward import RewardError

    try:
        with out.open("w", encoding="utf-8", errors="backslashreplace") as stream:
            for index in range(len(found.rows)):
                stream.write(json.dumps(found.row(index), default=str) + "\n")
    except OSError as error:
        raise RewardError(f"{out} cannot be written: {error}") from error


def show(found: "Regraded", disagree: int = 0) -> None:
    """The table, what a reader has to know about it, and rows on which parsers disagree."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for name in ("parser", "%", "95 %", "n", "what it is"):
        table.add_column(name, justify="right" if name in ("%", "95 %", "n") else "left", no_wrap=name != "what it is")
    tallies = found.tallies()
    for parser in found.task.parsers:
        one = tallies[parser.name]
        figures = (f"{100 * one.accuracy:.2f}", f"{100 * one.low:.1f} to {100 * one.high:.1f}") if one.n else ("-", "-")
        cells = f"; {one.units:.0f} cells" if one.units != one.n else ""
        table.add_row(parser.name, *figures, str(one.n), f"{parser.what}{cells}")
    console.print(table)
    differ, spread = found.disagreements(), found.spread()
    if spread is not None:
        low, high = (f"{100 * end:.2f}" for end in spread)
        divided = f"; parsers disagree on {len(differ)}" if differ else ""
        console.print(f"\naccuracy is {low} to {high} on the same {len(found.rows)} generations{divided}")
    for note in found.notes():
        console.print(f"note: {note}", markup=False)
    for index in differ[:disagree]:
        _show_row(found, index, console)


def _show_row(found: "Regraded", index: int, console: "Console") -> None:
    from rewards.extract import strip_end_markers

    row = found.row(index)
    text = strip_end_markers(row["text"])
    said = {parser.name: row["parsers"][parser.name] for parser in found.task.parsers if not parser.shaping}
    by = {side: [name for name, value in said.items() if value == side] for side in (1.0, 0.0)}
    console.print(f"\n{row['file']}, row {row['row']}: gold {row['gold']!r}", markup=False)
    console.print(f"  right: {', '.join(by[1.0])}\n  wrong: {', '.join(by[0.0])}", markup=False)
    console.print(f"  question ends: {row['question'][-160:]!r}\n  text ends: {text[-300:]!r}", markup=False)

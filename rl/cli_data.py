"""Commands about data. `rl.cli` registers them; all that is heavy is imported inside."""

from typing import Annotated

import typer

DATA = "A jsonl, json, csv or parquet file, a folder, or a Hub name."


def overlap(
    train: Annotated[str, typer.Argument(metavar="TRAIN", help=DATA, show_default=False)],
    held: Annotated[str, typer.Argument(metavar="HELD", help="What it must not hold, likewise.", show_default=False)],
    by: Annotated[
        str,
        typer.Option(
            "--by", help="What makes rows the same: sudoku, countdown, math, text or ngrams.", show_default=False
        ),
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column", metavar="NAME=COLUMN", help="As in puzzle=extra_info.puzzle or text=problem.  [default: prompt]"
        ),
    ] = None,
    held_column: Annotated[
        list[str] | None,
        typer.Option("--held-column", metavar="NAME=COLUMN", help="The same for HELD.  [default: as --column]"),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of TRAIN.")] = "train",
    held_split: Annotated[
        str | None, typer.Option("--held-split", help="Of HELD.  [default: train for a file, else test]")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Configuration of a Hub data set, for both.")] = None,
    ngram: Annotated[int, typer.Option("--ngram", help="Words in a run, for --by ngrams.", min=1)] = 13,
    similarity: Annotated[
        float | None,
        typer.Option(
            "--similarity",
            help="Jaccard index of the runs, for --by ngrams.  [default: one shared run]",
            min=0.01,
            max=1,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Count problems that two data sets share: by solution grid, by numbers and target, by text, or by runs of words.

    Exit status 1 where they share any.
    """
    from pathlib import Path

    from rl.config_schema import Split
    from rl.overlap_report import as_json as written
    from rl.overlap_report import examine, mapping, text

    def source(path: str, part: str) -> Split:
        return Split(path=path, split=part, name=None if Path(path).expanduser().is_file() else name)

    file = Path(held).expanduser()
    there = held_split or ("train" if file.exists() or file.suffix else "test")
    ours = mapping(column or [], "--column")
    theirs = mapping(held_column, "--held-column") if held_column else ours
    settings = {"by": by, "columns": ours, "held_columns": theirs, "ngram": ngram, "similarity": similarity}
    found = examine(source(train, split), source(held, there), **settings)
    typer.echo(written(found) if as_json else text(found))
    if found.rows:
        raise typer.Exit(1)


COMMANDS = {"overlap": overlap}

"""`unmask reward ...`: tools for authors of rewards. `rl.cli` registers them; all that is heavy is imported inside."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

reward_app = typer.Typer(help="Tools for authors of reward functions.", no_args_is_help=True)


def reward_test(
    fn: Annotated[
        str,
        typer.Argument(
            metavar="FN",
            help="As in a recipe: gsm8k.correct, my_rewards.py:brevity (from here), package.module:function.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str, typer.Option("--data", metavar="FILE", help="jsonl, json, csv, parquet, a folder or a Hub name.")
    ],
    split: Annotated[str, typer.Option(help="Of the data set; slices as in train[:100].")] = "train",
    kwargs: Annotated[
        str, typer.Option(metavar="JSON", help="Arguments of the function, as in '{\"limit\": 3}'.")
    ] = "{}",
    kwarg: Annotated[
        list[str] | None, typer.Option("--kwarg", metavar="K=V", help="One argument, read as YAML. May be repeated.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", metavar="OURS=THEIRS", help="Rename a column, as in answer=gold. May be repeated."),
    ] = None,
    gold: Annotated[str | None, typer.Option(help="Column of the right answer; guessed without it.")] = None,
    completions: Annotated[str | None, typer.Option(help="Column of your own completions; guessed without it.")] = None,
    prompt_template: Annotated[str | None, typer.Option(help="Prompt made from columns: 'Solve: {question}'.")] = None,
    limit: Annotated[int, typer.Option(help="Only the first rows of the data.", min=1)] = 256,
    rows: Annotated[int, typer.Option(help="Rows on which the battery is tried.", min=1)] = 6,
    seconds: Annotated[float, typer.Option(help="Time that one row may take.", min=0.1)] = 20.0,
    chat: Annotated[
        bool, typer.Option("--chat", help="Pass prompts and completions as messages, as for conversational data.")
    ] = False,
    outcome: Annotated[
        bool, typer.Option("--outcome", help="It is meant as the accuracy: credit for format is a failure.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Put a reward function to the test: contract, determinism, odd text, cheating, format, signal, speed.

    Exit code 1 where a check failed, 2 where there is nothing to test.
    """
    from rewards.bench.run import Plan, bench

    table, source = _rows(data, split, _pairs(columns, "--columns"), limit)
    arguments = _arguments(kwargs, kwarg)
    report = bench(
        Plan(fn, Path.cwd(), arguments, gold, completions, prompt_template, rows, limit, seconds, outcome, chat),
        table,
        source,
    )
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=1))
    else:
        from rich.console import Console

        from rewards.bench.report import show

        show(report, Console())
    if report.failed:
        raise typer.Exit(1)


def _arguments(kwargs: str, pairs: list[str] | None) -> dict[str, Any]:
    import yaml

    from rewards.contract.reward import RewardError

    try:
        found = json.loads(kwargs)
    except ValueError as error:
        raise RewardError(f"--kwargs is no JSON ({error}); write it as in --kwargs '{{\"limit\": 3}}'") from error
    if not isinstance(found, dict):
        raise RewardError(f"--kwargs must be a JSON object, as in --kwargs '{{\"limit\": 3}}', got {kwargs}")
    try:
        return found | {name: yaml.safe_load(value) for name, value in _pairs(pairs, "--kwarg").items()}
    except yaml.YAMLError as error:
        raise RewardError(f"--kwarg cannot be read: {' '.join(str(error).split())}") from error


def _pairs(values: list[str] | None, option: str) -> dict[str, str]:
    from rewards.contract.reward import RewardError

    parts = [part for value in values or [] for part in (value.split(",") if option == "--columns" else [value])]
    for part in parts:
        if "=" not in part:
            raise RewardError(f"{option} {part}: must be NAME=VALUE")
    return {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in parts)}


def _rows(path: str, split: str, columns: dict[str, str], limit: int) -> tuple[list[dict[str, Any]], str]:
    """Rows of a file or data set. A JSON object that holds one list of rows (d1's generations) counts as that list."""
    from datasets import Dataset

    from rl.config_schema import Split
    from rl.tables import read_table, rename, source_of

    asked = Split(path=path, split=split, columns=columns, limit=limit)
    inside = _list_in(Path(path).expanduser())
    if inside is not None:
        # No table is made of them: a pair of numbers and target, as d1 stores it, is no cell of a column with one type.
        names = list(dict.fromkeys(name for row in inside[:limit] for name in row))
        ours = rename(Dataset.from_dict({name: [] for name in names}), columns, "--columns").column_names
        moved = list(zip(names, ours, strict=True))
        return [{new: row.get(old) for old, new in moved} for row in inside[:limit]], source_of(asked)
    return [dict(row) for row in read_table(asked, "--data")], source_of(asked)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _list_in(path: Path) -> list[dict[str, Any]] | None:
    if path.suffix != ".json" or not path.is_file():
        return None
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        return None  # the reader of tables says this better
    lists = [value for value in whole.values() if isinstance(value, list)] if isinstance(whole, dict) else []
    rows = [one for one in lists if one and all(isinstance(row, dict) for row in one)]
    return rows[0] if len(rows) == 1 else None

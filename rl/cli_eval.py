"""The command `unmask eval`: a recipe's or run's own evaluation, a frozen protocol, and the comparison of two results.

All that is heavy is imported inside.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rl.cli_tools import AdapterOption, ToyOption, made_small

if TYPE_CHECKING:
    from rl.source import Source

DEFAULT = "measure"


TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="PROTOCOL|RECIPE|RUN",
        help="A protocol (a name from: unmask eval list, or a file), a recipe, or a run folder with its weights.",
        show_default=False,
    ),
]
ChangesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY.PATH=VALUE]...",
        help="What differs from the recipe, as in data.eval.limit=100; or from the protocol, which makes another protocol of it.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A checkpoint, Hub name or run; needed for a protocol, else in place of the recipe's.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR|FILE.json",
        help="Protocol: the folder, default evals/...; what it holds is kept, and the rest is sampled. Recipe: also write the numbers.",
        show_default=False,
    ),
]


class Group(TyperGroup):
    """``unmask eval TARGET`` is short for ``unmask eval measure TARGET``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


def measure(
    target: TargetArgument,
    overrides: ChangesArgument = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="FILE_OR_HUB", help="Protocol: where its rows lie.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Protocol: ask only the first rows.", min=1, show_default=False)
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Protocol: answers to each prompt.", min=1, show_default=False)
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="0,1,2", help="Protocol: seeds of the draws.", show_default=False)
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", help="Protocol: rows denoised together.  [default: 16]", min=1, show_default=False),
    ] = None,
    toy: ToyOption = False,
    out: OutOption = None,
) -> None:
    """Accuracy by a frozen protocol, or on a recipe's own evaluation prompts."""
    from rl.protocol import is_protocol

    settings = list(overrides or [])
    asked = {"data.limit": limit, "samples": samples, "seeds": None if seeds is None else f"[{seeds}]"}
    if is_protocol(target):
        settings += [f"{key}={value}" for key, value in asked.items() if value is not None]
        _by_protocol(target, settings, model, adapter, data=data, out=out, batch=batch, toy=toy)
        return
    options = {"--data": data, "--limit": limit, "--samples": samples, "--seeds": seeds, "--batch": batch}
    _by_recipe(
        target, settings, model, adapter, out, toy, [name for name, value in options.items() if value is not None]
    )


def _by_recipe(
    target: str,
    settings: list[str],
    model: str | None,
    adapter: Path | None,
    out: Path | None,
    toy: bool,
    for_protocols: list[str],
) -> None:
    from rl.errors import CommandError

    _check_name(target)
    if for_protocols:
        raise CommandError(
            f"{', '.join(for_protocols)}: for protocols (unmask eval list), and {target} is none; a recipe has keys for this, as in "
            "data.eval.path=FILE data.eval.limit=100 eval.n=8 train.seed=1 eval.batch=64"
        )
    from rl import measure as own

    if toy:
        settings = made_small(target, settings, (model, adapter), own.UNUSED, ("data.train",))
    found = own.measure(target, settings, model=model, adapter=adapter, out=out)
    own.show(found)
    if out is not None:
        own.write(found, out)


def _check_name(target: str) -> None:
    """Raises CommandError for a name that is nothing, and near that of a protocol."""
    from rl.config_errors import nearest
    from rl.errors import CommandError
    from rl.recipes import protocol_names, recipe_names

    if target in recipe_names() or Path(target).expanduser().exists():
        return
    near = nearest(target, protocol_names(), cutoff=0.8)
    if near is not None and nearest(target, recipe_names(), cutoff=0.8) is None:
        raise CommandError(
            f"there is no protocol, recipe or run {target}; did you mean {near}? All protocols: unmask eval list"
        )


def _by_protocol(
    target: str, settings: list[str], model: str | None, adapter: Path | None, *, toy: bool, **options: Any
) -> None:
    from rich.console import Console

    from rl.errors import CommandError
    from rl.protocol import load_protocol
    from rl.source import find_source

    if toy:
        raise CommandError(
            f"--toy makes a recipe small; for {target} name a small model, and what differs: "
            "--model tiny-llada sampler.canvas=32 sampler.steps=16"
        )
    loaded = load_protocol(target, settings)
    if model is None:
        raise CommandError(f"{target} is a protocol, and says nothing of a model: add --model MODEL_OR_RUN")
    source: Source = find_source(model, adapter)
    if source.note:
        Console(stderr=True, highlight=False).print(f"note: {source.note}", markup=False, soft_wrap=True)
    from rl.evaluation import BATCH, evaluate_protocol
    from rl.evaluation_report import show
    from rl.progress import Reporter

    options["batch"] = options["batch"] or BATCH
    try:
        found = evaluate_protocol(loaded, source, reporter=Reporter(Console(stderr=True)), **options)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    show(found.result, found.folder)


def list_protocols() -> None:
    """Name each shipped protocol, with the first line of its header."""
    from rich.console import Console
    from rich.table import Table

    from rl.recipes import headline, protocol_folder, protocol_names

    table = Table(box=None, show_header=False, pad_edge=False)
    for name in protocol_names():
        table.add_row(f"[bold]{name}[/bold]", headline(protocol_folder() / f"{name}.yaml"))
    Console().print(table)


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT",
            help="Folders that unmask eval wrote, their samples.parquet, or folders that hold several of them, by other protocols or of "
            "other models. The model of the first is the base.",
            show_default=False,
        ),
    ],
    parsers: Annotated[
        list[str] | None,
        typer.Option(
            "--parser",
            metavar="NAME",
            help="Whose scores; again for more, or all. Default: of two results all, of more the first of each protocol.",
            show_default=False,
        ),
    ] = None,
    mix: Annotated[
        bool, typer.Option("--mix", help="Compare what was measured by different protocols or on different rows, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.png|.svg|.pdf", help="Also draw the differences.", show_default=False),
    ] = None,
) -> None:
    """Whether models differ from a base, prompt by prompt: paired intervals and tests, corrected for their number, in words."""
    import json

    from rl.compare_family import compare_results
    from rl.compare_picture import check_picture, draw
    from rl.compare_report import show
    from rl.run import plain

    if out is not None:
        check_picture(out)
    found = compare_results(results, mix=mix, parsers=parsers or ())
    if as_json:
        typer.echo(json.dumps(plain(found.plain()), ensure_ascii=False))
    else:
        show(found)
    if out is not None:
        draw(found, out)
        typer.echo(f"wrote {out}", err=True)


def application(guard: Callable[[Any], Any]) -> typer.Typer:
    """The commands of `unmask eval`. guard: wraps each, so that what a user can mend is told without a traceback."""
    app = typer.Typer(
        cls=Group,
        help="Accuracy of a model: by a frozen protocol, or on a recipe's own evaluation prompts. `unmask eval TARGET ...` is short for "
        "`unmask eval measure TARGET ...`.",
        no_args_is_help=True,
    )
    app.command(DEFAULT)(guard(measure))
    app.command("compare")(guard(compare))
    app.command("list")(guard(list_protocols))
    return app

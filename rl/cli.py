"""The command `unmask`. Everything heavy is imported inside the commands, so that `unmask --help` answers at once."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from rl import cli_bench, cli_data, cli_eval, cli_tools, origin

app = typer.Typer(
    name="unmask",
    help="Reinforcement learning for masked diffusion language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipes_app = typer.Typer(help="The recipes that come with unmask.", no_args_is_help=True)
app.add_typer(recipes_app, name="recipes")

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or a name from: unmask recipes list", show_default=False)
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY.PATH=VALUE]...", help="What differs from the recipe, as in optim.lr=1e-4.", show_default=False
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Run folder.  [default: runs/<name of the recipe>]", show_default=False)
]
ResumeOption = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="auto|PATH",
        help="Continue: auto, the run in the recipe's folder if there is one; or a run folder, or a checkpoint in it.",
        show_default=False,
    ),
]
AcceptOption = Annotated[
    bool,
    typer.Option("--accept-changes", help="Continue although data files or reward code were changed since."),
]
ToyOption = Annotated[
    bool,
    typer.Option(
        "--toy",
        help="The recipe at toy size: a random model of its family, few rows and steps. Runs in about a minute on a CPU.",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, show prompts and plan, start nothing.")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"unmask {version('unmask')}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    dry_run: DryRunOption = False,
    toy: ToyOption = False,
    out: OutOption = None,
    resume: ResumeOption = None,
    accept_changes: AcceptOption = False,
) -> None:
    """Train a policy by reinforcement learning, as the recipe says."""
    with _errors_for_people():
        loaded = cli_tools.read_recipe(recipe, _overrides(overrides, out), toy=toy)
        if dry_run:
            from rl.plan import dry_run as show

            show(loaded)
            return
        from rl.loop import train as run

        run(loaded, resume=resume, accept_changes=accept_changes)


@app.command()
def sft(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    dry_run: DryRunOption = False,
    toy: ToyOption = False,
    out: OutOption = None,
    resume: ResumeOption = None,
    accept_changes: AcceptOption = False,
) -> None:
    """Masked supervised fine-tuning alone: the section warm_start of the recipe."""
    with _errors_for_people():
        loaded = cli_tools.read_recipe(recipe, _overrides(overrides, out), toy=toy, command="sft")
        if dry_run:
            from rl.plan import dry_run as show

            show(loaded, command="sft")
            return
        from rl.loop import sft as run

        run(loaded, resume=resume, accept_changes=accept_changes)


@app.command()
def quickstart(
    overrides: OverridesArgument = None,
    seed: Annotated[int, typer.Option(help="Seed of the whole run.", min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder.  [default: runs/quickstart]", show_default=False)
    ] = None,
    resume: ResumeOption = None,
) -> None:
    """Watch RL improve a small diffusion model on 4x4 Sudoku, from scratch, in minutes on a laptop."""
    with _errors_for_people():
        from rl.quickstart import main as run

        run(seed=seed, out=out, overrides=overrides or [], resume=resume)


@recipes_app.command("list")
def list_recipes() -> None:
    """Name each shipped recipe, with the first line of its header."""
    from rich.console import Console
    from rich.table import Table

    from rl.recipes import headline, recipe_folder, recipe_names

    table = Table(box=None, show_header=False, pad_edge=False)
    for name in recipe_names():
        table.add_row(f"[bold]{name}[/bold]", headline(recipe_folder() / f"{name}.yaml"))
    Console().print(table)


@recipes_app.command("copy")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="Name of a shipped recipe.", show_default=False)],
    to: Annotated[
        Path | None, typer.Option("--to", help="File to write.  [default: ./NAME.yaml]", show_default=False)
    ] = None,
) -> None:
    """Copy a shipped recipe here, to change it. An existing file is left alone."""
    from rl.config_errors import listing, nearest
    from rl.recipes import recipe_folder, recipe_names

    name = name.removesuffix(".yaml")
    if name not in recipe_names():
        near = nearest(name, recipe_names())
        hint = f"did you mean {near}?" if near else f"recipes: {listing(recipe_names())}"
        _fail(f"there is no recipe {name!r}; {hint}")
    target = to or Path(f"{name}.yaml")
    if target.is_dir():
        target = target / f"{name}.yaml"
    if target.exists():
        _fail(f"{target} is there already; name another file with --to")
    if not target.parent.is_dir():
        _fail(f"there is no folder {target.parent}")
    shutil.copyfile(recipe_folder() / f"{name}.yaml", target)
    typer.echo(f"wrote {target}; start it with: unmask train {target}")


def _overrides(overrides: list[str] | None, out: Path | None) -> list[str]:
    # JSON is YAML, and quotes what YAML would read as something else.
    return [*(overrides or []), *([f"train.out={json.dumps(str(out))}"] if out is not None else [])]


@contextmanager
def _errors_for_people() -> Iterator[None]:
    """No traceback for what a user can mend (exit code 2) or a run that had to stop (1). All else is a bug of ours."""
    try:
        yield
    except _loaded(
        ("rl.config_errors", "RecipeErrors"),
        ("rl.plan", "PlanErrors"),
        ("rl.errors", "DataError"),
        ("rollouts.families", "ModelError"),
        ("rewards.contract.load", "RewardError"),
        ("rl.resume", "ResumeError"),
        ("rl.errors", "CommandError"),
        ("rl.report", "ReportError"),
    ) as error:
        _fail(str(error))
    except _loaded(
        ("rl.backends", "TrainingError"),
        ("rl.learners", "ClusterError"),
        ("rl.checkpoint", "CheckpointError"),
        ("rl.track", "TrackError"),
        ("rl.run", "FolderBusyError"),
        ("rl.rewrite", "RewriteError"),
    ) as error:
        _fail(str(error), code=1)  # nothing that was typed is wrong
    except _loaded(("rl.interrupt", "RunInterrupted")) as error:
        typer.echo(str(error))
        raise typer.Exit(130) from None


def _loaded(*errors: tuple[str, str]) -> tuple[type[Exception], ...]:
    """The exception classes among (module, name) whose modules are loaded; the others cannot have been raised."""
    return tuple(getattr(sys.modules[module], name) for module, name in errors if module in sys.modules)


def _fail(message: str, code: int = 2) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


for _name, _command in (cli_tools.COMMANDS | cli_data.COMMANDS).items():
    app.command(_name)(_errors_for_people()(_command))
cli_bench.reward_app.command("test")(_errors_for_people()(cli_bench.reward_test))
app.add_typer(cli_bench.reward_app, name="reward")
app.add_typer(cli_eval.application(_errors_for_people()), name="eval")


def main() -> int:
    """Entry point. Returns the exit code: 0, or 2 for anything wrong with what the user gave."""
    try:
        origin.check()
    except origin.ShadowedError as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    app(prog_name="unmask")
    return 0


if __name__ == "__main__":
    sys.exit(main())

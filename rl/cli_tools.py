"""Commands around a run: sample, eval, diagnose, plan, report, ... `rl.cli` registers them; all that is heavy is imported inside."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rl import cli_rewards

if TYPE_CHECKING:
    from rl.config import Command, Recipe

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL_OR_RUN",
        help="A run folder (also its best, warm_start or checkpoints/update-...), a checkpoint or adapter folder, or a Hub name.",
        show_default=False,
    ),
]
AdapterOption = Annotated[
    Path | None,
    typer.Option("--adapter", metavar="DIR", help="A PEFT adapter to put on the model.", show_default=False),
]
RecipeArgument = Annotated[
    str,
    typer.Argument(metavar="RECIPE_OR_RUN", help="A recipe, or a run folder with its weights.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.PATH=VALUE]...", help="What differs from the recipe, as in data.train.limit=100."),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="A checkpoint, Hub name or run in place of the recipe's.", show_default=False),
]
ToyOption = Annotated[
    bool, typer.Option("--toy", help="The recipe at toy size, with a random model of its family. Not for a run.")
]
Dtype = Literal["float32", "bfloat16"]


def read_recipe(name: str, overrides: Sequence[str], *, toy: bool, command: "Command" = "train") -> "Recipe":
    """The checked recipe; with `toy` at toy size, and what that changes is printed."""
    if not toy:
        from rl.config import load_recipe

        return load_recipe(name, overrides, command=command)
    from rl.toy import describe, toy_recipe

    recipe, changes = toy_recipe(name, overrides, command=command)
    typer.echo(describe(changes))
    return recipe


def made_small(
    recipe: str,
    overrides: Sequence[str],
    weights: Sequence[object],
    unused: Sequence[str],
    provided: Sequence[str] = (),
) -> list[str]:
    """The overrides that give a recipe at toy size, for a command that may also take weights; what they change is printed.

    unused, provided: what the command drops of the recipe or brings along, as `rl.toy.toy_recipe` needs to read it.
    """
    from rl.errors import CommandError
    from rl.source import locate_run
    from rl.toy import describe, toy_recipe

    if any(weights) or locate_run(recipe):
        raise CommandError("--toy makes a recipe's own model small; a run, --model and --adapter bring weights along")
    _, changes = toy_recipe(recipe, [*unused, *overrides], provided=provided)
    typer.echo(describe(changes))
    return [*(change.override for change in changes), *overrides]


def sample(
    model: ModelArgument,
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt. Without one and without --file: standard input.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="Prompts: jsonl (a row in each line), txt (a prompt in each line), csv, json, parquet."
        ),
    ] = None,
    adapter: AdapterOption = None,
    canvas: Annotated[int | None, typer.Option(help="Positions to generate.", min=1)] = None,
    block: Annotated[int | None, typer.Option(help="Positions denoised together.", min=1)] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps over the whole canvas.", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the most probable token.", min=0)] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus; 1 keeps everything.", min=0, max=1)] = None,
    selection: Annotated[
        str | None, typer.Option(help="Which positions a step keeps: confidence, max_prob, margin, entropy or random.")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Completions of each prompt.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Of the draws.", min=0)] = 0,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Of the computation; default: the run's or the checkpoint's.")
    ] = None,
    quantization: Annotated[
        Literal["none", "nf4"] | None, typer.Option(help="Of the base weights; default: the run's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per completion, a line each.")] = False,
    delay: Annotated[float, typer.Option(help="Seconds each step stays on the screen.", min=0, max=10)] = 0.05,
) -> None:
    """Generate, and watch the text unmask. A run brings its prompt format and evaluation sampler along.

    Where the output is no terminal, only the finished text is printed.
    """
    from rl.sample import sample as run

    sampler = {
        "canvas": canvas,
        "block": block,
        "steps": steps,
        "temperature": temperature,
        "top_p": top_p,
        "selection": selection,
    }
    run(
        model,
        prompt,
        file=file,
        adapter=adapter,
        sampler=sampler,
        dtype=dtype,
        quantization=quantization,
        count=n,
        seed=seed,
        as_json=as_json,
        delay=delay,
    )


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="HTML file to write.", show_default=False)
    ] = None,
) -> None:
    """One self-contained HTML page about a run, or about several side by side."""
    from rl.errors import CommandError
    from rl.report import write_report
    from rl.source import check_file, check_runs

    check_runs(runs)
    if out is not None:
        check_file(out, "report.html")
    try:
        page = write_report(runs, out)
    except OSError as error:
        raise CommandError(f"the report cannot be written: {error}") from error
    typer.echo(f"wrote {page}")


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or its best, warm_start or checkpoints/update-...")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write.", show_default=False)],
    merge: Annotated[bool, typer.Option("--merge", help="Merge the adapter into full weights.")] = False,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of full weights; default: that of the base checkpoint.", show_default=False),
    ] = None,
    names: Annotated[
        Literal["transformers", "official"],
        typer.Option(
            help="Module names of an adapter: those of transformers' decoder, or of the model's published code."
        ),
    ] = "transformers",
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model", metavar="OWNER/NAME", help="Name of the base model, where the run used a local copy."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")] = False,
    push: Annotated[
        str | None, typer.Option("--push", metavar="OWNER/NAME", help="Also upload to the Hugging Face Hub.")
    ] = None,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Of the Hub repository.  [default: private]", show_default=False),
    ] = None,
) -> None:
    """What a run trained, as others load it: a PEFT adapter, or full weights in the family's official format."""
    from rl.export import ExportOptions, export_run

    options = ExportOptions(
        merge=merge, dtype=dtype, names=names, base_model=base_model, force=force, push=push, private=private
    )
    export_run(run, out, options, say=typer.echo)


def rewrite(
    data: Annotated[Path, typer.Option("--data", help="Rows with traces: jsonl, json, csv or parquet.")],
    url: Annotated[
        str, typer.Option("--url", help="An OpenAI-compatible endpoint, as http://127.0.0.1:8000/v1 (vllm serve).")
    ],
    model: Annotated[str, typer.Option("--model", help="Name of the model behind it.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.jsonl", help="Rewritten rows; those it holds are skipped.")
    ],
    column: Annotated[str, typer.Option("--column", help="Column with the trace.")] = "trace",
    problem: Annotated[
        str | None, typer.Option("--problem", help="Column with the problem, shown beside the trace.")
    ] = None,
    to: Annotated[str, typer.Option("--to", help="Column that receives the rewritten trace.")] = "completion",
    instruction: Annotated[
        str | None, typer.Option("--instruction", help="What to do, in place of the default.")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Longest rewrite.", min=1)] = 512,
    temperature: Annotated[float, typer.Option("--temperature", min=0)] = 0.0,
    concurrency: Annotated[int, typer.Option("--concurrency", help="Requests under way at a time.", min=1)] = 8,
    retries: Annotated[int, typer.Option("--retries", help="Of a request, with growing pauses.", min=0)] = 6,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds for one answer.", min=1)] = 120.0,
    key_env: Annotated[
        str, typer.Option("--key-env", help="Environment variable that holds the key; it is never written anywhere.")
    ] = "OPENAI_API_KEY",
) -> None:
    """Make the traces of a data set short, by a model behind an endpoint: as long as rollouts, for supervised fine-tuning before IGPO.

    Rows are appended as they come; the same command continues, and asks again for rows that failed.
    """
    from rewards.judging.endpoint import read_key
    from rl.config_schema import Split
    from rl.rewrite import Endpoint
    from rl.rewrite import rewrite as run

    endpoint = Endpoint(url, model, max_tokens, temperature, timeout, retries, read_key(key_env))
    options = {"column": column, "problem": problem, "to": to, "instruction": instruction}
    if run(Split(path=str(data)), endpoint, out, concurrency=concurrency, **options):  # type: ignore[arg-type]
        raise typer.Exit(1)


def diagnose(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    toy: ToyOption = False,
    prompts: Annotated[
        int | None, typer.Option(help="Prompts sampled.  [default: those of an update, at most 16]", min=1)
    ] = None,
    plans: Annotated[
        int, typer.Option(help="Mask plans of the budget's size that each estimator is measured with.", min=2)
    ] = 16,
    budget: Annotated[
        int | None,
        typer.Option(
            help="Views per rollout at which estimators are compared.  [default: the sampler's steps, from 4 to 16]",
            min=1,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder for diagnose.json, .png, .html.  [default: runs/NAME-diagnose]"
        ),
    ] = None,
) -> None:
    """What each estimator's gradient is worth per forward, on this recipe's model, prompts and rollouts.

    A view is one forward and backward of one row. Nothing is trained.
    """
    from rl.diagnose import UNUSED, named
    from rl.diagnose import diagnose as run
    from rl.diagnose_report import show, write
    from rl.errors import check_folder

    folder = out or Path("runs") / f"{named(recipe)}{'-toy' if toy else ''}-diagnose"
    check_folder(folder)
    settings = list(overrides or [])
    if toy:
        settings = made_small(recipe, settings, (model, adapter), UNUSED)
    found = run(recipe, settings, model=model, adapter=adapter, prompts=prompts, plans=plans, budget=budget)
    files = write(found, folder)
    show(found)
    typer.echo(f"\nwrote {', '.join(map(str, files))}")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What this machine can do, and what to do about what it cannot."""
    from rl.doctor import examine, show

    if not show(examine(), as_json=as_json):
        raise typer.Exit(1)


def pairs(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE_OR_RUN",
            help="A recipe with data.train and rewards, or a run folder with its weights.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.jsonl", help="File to write.", show_default=False)],
    overrides: Overrides = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    toy: ToyOption = False,
) -> None:
    """Preference pairs by sampling and verifying: the best and the worst of a group for each prompt of data.train.

    The file is a preference data set in TRL's format (prompt, chosen, rejected). The same command goes on where it stopped.
    """
    from rl.make_pairs import UNUSED, make_pairs

    settings = list(overrides or [])
    if toy:
        settings = made_small(recipe, settings, (model, adapter), UNUSED)
    make_pairs(recipe, out, settings, model=model, adapter=adapter)


def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe; nothing of it is loaded.")],
    gpus: Annotated[
        str, typer.Option("--gpus", metavar="8x80", help="GPUs of a node, and GiB of each.", show_default=False)
    ],
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option(help="Such nodes.", min=1)] = 1,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="NAME", help="As in H100-80 or A100-80.  [default: the first of this size]"),
    ] = None,
    utilisation: Annotated[
        float, typer.Option(help="Share of the peak FLOP/s that is reached.", min=0.01, max=1.0)
    ] = 0.35,
    prompt_tokens: Annotated[
        int | None, typer.Option("--prompt-tokens", help="Of a prompt.  [default: by the data, else 256]", min=1)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What a recipe needs on given GPUs: memory, seconds of an update, how to lay it out, and what to do where it does not fit.

    Nothing is started and no weights are read; docs/scaling.md derives every number.
    """
    from rl.doctor import without_waiting
    from rl.hardware import read_hardware
    from rl.plan_gpus import plan_gpus
    from rl.plan_gpus_report import as_json as written
    from rl.plan_gpus_report import show

    hardware = read_hardware(gpus, nodes, gpu)
    without_waiting()
    found = plan_gpus(recipe, list(overrides or []), hardware, utilisation=utilisation, prompt_tokens=prompt_tokens)
    if as_json:
        typer.echo(written(found))
    else:
        show(found)


COMMANDS = {
    "sample": sample,
    "diagnose": diagnose,
    "report": report,
    "export": export,
    "pairs": pairs,
    "plan": plan,
    "rewrite": rewrite,
    "doctor": doctor,
    "grade": cli_rewards.grade,
}

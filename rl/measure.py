"""`unmask eval`: accuracy of a model on a recipe's evaluation prompts, as a table and as a file."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rl.config import Recipe, load_recipe
from rl.errors import CommandError, DataError
from rl.evaluate import clusters, interval, outcomes_by_steps, pass_at_k, sampled_outcomes
from rl.loop import torch_settings
from rl.progress import Reporter
from rl.run import plain, provenance
from rl.setup import Setup, set_up
from rl.source import RECIPE, Source, check_file, find_source, locate_run
from rollouts.families import MADE

# Overrides that drop what evaluation does not need, and what would need it: a run's training files may be gone by now, and its
# sinks not installed here.
UNUSED = (
    *(
        f"{key}=null"
        for key in ("data.train", "data.preferences", "data.validation", "warm_start", "save.best_by", "stop.plateau")
    ),
    "data.hold_out=[]",
    "track={}",
    "cluster={}",
)

Interval = Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """Accuracy by number of denoising steps, and pass@k where the recipe asks for it (``eval.n``)."""

    recipe: Recipe
    outcome: str
    prompts: str  # how many, from where
    accuracy: dict[str, Interval]
    outcomes: dict[str, list[float]]  # per prompt; NaN where it could not be graded
    pass_at_k: dict[str, Interval]
    forwards: int
    seconds: float
    checkpoint: Path | None = None


def measure(
    target: str,
    overrides: Sequence[str] = (),
    *,
    model: str | None = None,
    adapter: Path | None = None,
    out: Path | None = None,
    reporter: Reporter | None = None,
) -> Measured:
    """Evaluate.

    target          a recipe (file or name), or a run folder or part of one, whose weights are evaluated
    model, adapter  other weights: as `rl.source.find_source` takes them
    out             where the result will be written; refused now rather than hours later

    Raises CommandError, RecipeErrors, DataError, ModelError, RewardError.
    """
    if out is not None:
        check_file(out, "accuracy.json")
    recipe, source = recipe_and_source(target, overrides, model, adapter)
    if recipe.eval is None:
        raise CommandError(
            f"{target} says nothing of evaluation; add to the command: data.eval.path=test.jsonl eval.batch=64"
        )
    if source is not None and source.note:
        Console(stderr=True, highlight=False).print(f"note: {source.note}", markup=False, soft_wrap=True)
    return evaluate_recipe(recipe, source, reporter)


def evaluate(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    model: str | Path | None = None,
    adapter: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
) -> dict[int, Interval]:
    """Accuracy on the recipe's ``data.eval`` at each of its step counts: steps -> ``{value, low, high, n}``.

    recipe          also a run folder or a part of one, whose weights are then evaluated
    model, adapter  a run, a checkpoint or a PEFT adapter in place of the recipe's

    What only training needs may be absent. Raises CommandError, RecipeErrors, DataError, ModelError, RewardError.
    """
    stated, source = recipe_and_source(
        recipe, overrides, None if model is None else str(model), None if adapter is None else Path(adapter)
    )
    if stated.eval is None or stated.data.eval is None:
        raise DataError("data.eval: the recipe names no evaluation data; add data.eval and eval")
    found = evaluate_recipe(stated, source, Reporter(quiet=True))
    return {int(name): value for name, value in found.accuracy.items()}


def recipe_and_source(
    target: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str],
    model: str | None,
    adapter: Path | None,
    unused: Sequence[str] = UNUSED,
    provided: Sequence[str] = ("data.train",),
) -> tuple[Recipe, Source | None]:
    """The recipe that a target stands for, without what the command does not need, and the weights that replace its model.

    unused: overrides that take that out. provided: what the recipe need not name.
    """
    run = locate_run(target) if isinstance(target, (str, Path)) else None
    own = None
    if run is not None:
        own = find_source(str(target)) if model is None and adapter is None else None
        # What the run started from may be gone; its own weights are put in by the caller.
        path = "" if own is None or own.checkpoint or own.model.path in MADE else own.model.path
        whole = [f"model.path={json.dumps(path)}", "model.adapter=null"] if path else []
        recipe = load_recipe(run[0] / RECIPE, [*unused, *whole, *overrides], provided=provided)
    else:
        recipe = load_recipe(target, [*unused, *overrides], provided=provided)
    return recipe, find_source(model or recipe.model.path, adapter) if model or adapter else own


def evaluate_recipe(recipe: Recipe, source: Source | None = None, reporter: Reporter | None = None) -> Measured:
    """Accuracy on ``data.eval`` of the recipe's model, or of another that takes its place."""
    if source is not None:
        recipe = recipe.model_copy(update={"model": model_of(recipe, source)})
    began = time.perf_counter()
    trainable = source is not None and source.checkpoint is not None
    setup = set_up(recipe, trainable=trainable)
    if source is not None:
        source.restore(setup.policy)
    assert recipe.eval is not None
    assert setup.eval is not None
    prompts = setup.eval.prompts[: recipe.eval.limit]
    counts = {recipe.eval.sampler.steps, *recipe.eval.steps}
    with torch_settings(recipe), reporter or Reporter(Console(stderr=True)) as live:
        live.phase("evaluation", len(counts) * len(prompts), transient=True)
        values, forwards, _ = outcomes_by_steps(setup, counts, lambda rows: live.advance("evaluation", rows))
        several, more = _several(setup, live)

    def summed(outcomes: Any) -> Interval:
        return interval(outcomes, clusters(setup), seed=recipe.train.seed)

    return Measured(
        recipe=recipe,
        outcome=setup.outcome,
        prompts=f"{len(prompts)} prompts of {setup.eval.source}",
        accuracy={name: summed(value) for name, value in values.items()},
        outcomes={name: value.tolist() for name, value in values.items()},
        pass_at_k={k: summed(value) for k, value in several.items()},
        forwards=forwards + more,
        seconds=time.perf_counter() - began,
        checkpoint=None if source is None else source.checkpoint,
    )


def _several(setup: Setup, live: Reporter) -> tuple[Mapping[str, Any], int]:
    """pass@k per prompt from ``eval.n`` sampled completions, and the forwards used."""
    recipe = setup.recipe
    assert recipe.eval is not None
    assert setup.eval is not None
    if not recipe.eval.n:
        return {}, 0
    live.phase("pass@k", len(setup.eval.prompts[: recipe.eval.limit]) * recipe.eval.n, transient=True)
    outcomes, forwards = sampled_outcomes(setup, lambda rows: live.advance("pass@k", rows))
    return pass_at_k(outcomes), forwards


def model_of(recipe: Recipe, source: Source) -> Any:
    """The recipe's way of loading, with the source's weights."""
    changes: dict[str, Any] = {"path": source.model.path, "adapter": source.model.adapter, "lora": source.model.lora}
    if source.model.adapter is None and source.model.lora is None:  # 4-bit weights go with an adapter
        changes["quantization"] = "none"
    return recipe.model.model_copy(update=changes)


def show(found: Measured, console: Console | None = None) -> None:
    """The table a person reads."""
    console = console or Console(highlight=False)
    model = found.recipe.model
    name = str(found.checkpoint or model.adapter or model.path)
    assert found.recipe.eval is not None
    spec = found.recipe.eval.sampler
    law = f"canvas {spec.canvas}, block {spec.block}, {spec.selection}, temperature {spec.temperature:g}"
    console.print(f"{name}\n{found.outcome}, {found.prompts}\n{law}", markup=False)
    console.print(_table("steps", found.accuracy))
    if found.pass_at_k:
        law = f"{found.recipe.eval.n} completions each, temperature {found.recipe.rollout.temperature:g}"
        console.print(f"\npass@k, {law}", markup=False)
        console.print(_table("k", found.pass_at_k))


def _table(first: str, rows: Mapping[str, Interval]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (first, "accuracy", "95 % interval", "n"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, cell in sorted(rows.items(), key=lambda row: int(row[0])):
        span = f"[{cell['low']:.3f}, {cell['high']:.3f}]".replace("[", r"\[")
        table.add_row(name, f"{cell['value']:.3f}", span, str(cell["n"]))
    return table


def write(found: Measured, out: Path) -> None:
    """Everything measured, as one JSON object. Raises CommandError where the disk refuses."""
    recipe = found.recipe
    assert recipe.eval is not None
    value = {
        "recipe": recipe.name,
        "model": recipe.model.path,
        "adapter": recipe.model.adapter,
        "checkpoint": None if found.checkpoint is None else str(found.checkpoint),
        "outcome": found.outcome,
        "prompts": found.prompts,
        "sampler": recipe.eval.sampler.model_dump(),
        "seed": recipe.train.seed,
        "accuracy": found.accuracy,
        "pass_at_k": found.pass_at_k,
        "outcomes": found.outcomes,
        "forwards": found.forwards,
        "seconds": found.seconds,
        **provenance(),
    }
    try:
        out.write_text(json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"--out {out}: cannot be written: {error.strerror}") from error

"""`unmask diagnose`: what each estimator's gradient is worth per forward, on a recipe's own model, prompts and rollouts.

Rollouts are those of the recipe's first update, sampled and graded as in training. ``rl.diagnose_stats`` has the equations,
``rl.diagnose_measure`` the measuring, ``rl.diagnose_report`` the table, the picture and the words.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl.collect import collect
from rl.config import Recipe
from rl.diagnose_candidates import Candidate, candidates, measured_method, target_of
from rl.diagnose_measure import Bench, Measured, Target, split_groups
from rl.diagnose_rows import Diagnosis, gram_of, ranked_rows
from rl.diagnose_stats import StepSummary, chance_share, summarise_step
from rl.errors import CommandError
from rl.learner import Learner
from rl.loop import torch_settings
from rl.measure import model_of, recipe_and_source
from rl.method import Method
from rl.progress import Reporter
from rl.run import RunFolder, provenance
from rl.scored import ScoredBatch
from rl.session import Session
from rl.setup import Setup, set_up
from rl.sketch import Sketch
from rl.source import Source, locate_run

MOST_PROMPTS = 16  # where none are asked for

# What diagnosing does not need, and what would need it.
UNUSED = (
    *(f"{key}=null" for key in ("data.eval", "data.validation", "eval", "save.best_by", "stop.plateau")),
    "data.hold_out=[]",
    "track={}",
    "cluster={}",
)


def diagnose(
    target: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    model: str | None = None,
    adapter: Path | None = None,
    prompts: int | None = None,
    plans: int = 16,
    budget: int | None = None,
    reward_funcs: Any = None,
    train_dataset: Any = None,
    reporter: Reporter | None = None,
) -> Diagnosis:
    """Measure.

    target          a recipe (file, name, mapping), or a run folder or part of one, whose weights are used
    model, adapter  other weights: as `rl.source.find_source` takes them
    prompts         how many of the recipe's first update are sampled; default: at most 16
    plans           mask plans of the size of the budget that each estimator is measured with
    budget          views (one forward and backward of one row) that a rollout's gradient may cost where estimators are compared
    reward_funcs, train_dataset  Python objects, as `unmask.train` takes them

    Raises CommandError, RecipeErrors, DataError, ModelError, RewardError.
    """
    began = time.perf_counter()
    given = {"data.train": train_dataset, "rewards": reward_funcs}
    provided = [name for name, value in given.items() if value is not None]
    recipe, source, note = _recipe(target, overrides, model, adapter, provided)
    _check(recipe)
    count = min(recipe.train.prompts_per_update, MOST_PROMPTS) if prompts is None else prompts
    sized = recipe.train.model_copy(update={"prompts_per_update": count})
    recipe = recipe.model_copy(update={"train": sized})
    setup = set_up(recipe, reward_funcs=reward_funcs, train_dataset=train_dataset)
    if source is not None:
        trained = [parameter for parameter in setup.policy.parameters() if parameter.requires_grad]
        source.restore(setup.policy)
        for parameter in trained:  # a checkpoint freezes what it is put into
            parameter.requires_grad_(True)
    with torch_settings(recipe), reporter or Reporter() as live:
        return _diagnose(setup, source, note, plans, budget, live, began)


def named(target: str) -> str:
    """A name for what is measured: of the recipe's file, or of the run's folder."""
    return Path(target).stem or "recipe"


def _recipe(
    target: Any, overrides: Sequence[str], model: str | None, adapter: Path | None, provided: Sequence[str]
) -> tuple[Recipe, Source | None, str]:
    """The recipe without its warm start, the weights that replace its model, and what to know of them."""
    run = locate_run(target) if isinstance(target, (str, Path)) else None
    unused = UNUSED if run is None else (*UNUSED, "warm_start=null")
    recipe, source = recipe_and_source(target, overrides, model, adapter, unused, provided)
    note = "" if source is None else source.note
    if recipe.warm_start is not None and source is None:
        note = "the recipe's warm start has not been run: this is the model before it. Name the run, or its weights with --model"
    recipe = recipe.model_copy(update={"warm_start": None})
    if source is not None:
        loaded = model_of(recipe, source)
        if source.run is None and source.model.adapter is None:  # a bare checkpoint is trained as the recipe says
            loaded = loaded.model_copy(update={"lora": recipe.model.lora, "quantization": recipe.model.quantization})
        recipe = recipe.model_copy(update={"model": loaded})
    return recipe, source, note


def _check(recipe: Recipe) -> None:
    """Raises CommandError where there are no trajectories with one advantage each."""
    if recipe.data.preferences is not None:
        raise CommandError(
            "data.preferences: stored pairs have no trajectory to measure against; name data.train and rewards"
        )
    if recipe.method.advantage in ("stepwise", "best_worst"):
        raise CommandError(
            f"method.advantage: {recipe.method.advantage} is no advantage of a rollout, which estimators are compared by; measure with "
            "method.advantage=group_centered and an estimator and objective that go with it"
        )


def _diagnose(
    setup: Setup,
    source: Source | None,
    note: str,
    plans: int,
    budget: int | None,
    live: Reporter,
    began: float,
) -> Diagnosis:
    recipe = setup.recipe
    if plans < 2:
        raise CommandError(f"--plans {plans}: a variance needs at least 2 plans")
    count = recipe.train.prompts_per_update
    budget = min(max(4, recipe.rollout.steps), 16) if budget is None else budget
    session = Session.open(setup, live, RunFolder(recipe.out))  # nothing is written to it
    learner, seed = session.learner, recipe.train.seed
    assert isinstance(learner, Learner)  # no workers: all is measured in this process
    batch = collect(setup, live, 0).batch
    if not len(batch):
        reasons = ", ".join(f"{reason} ({n})" for reason, n in batch.dropped.items())
        raise CommandError(f"none of the {count * recipe.rollout.group_size} rollouts could be graded: {reasons}")
    groups = split_groups(batch, mask_truncated=recipe.method.mask_truncated)
    if not groups:
        raise CommandError(_no_signal(batch, count, recipe))
    sketch = Sketch(learner.parameters, seed)
    bench = Bench(learner, groups, group_size=recipe.rollout.group_size, seed=seed, sketch=sketch)
    entries, refused = candidates(recipe)
    law, tokens = (measured_method(recipe, one.model_dump()) for one in target_of(recipe))
    joint = law.estimator != tokens.estimator
    training = setup.policy.training
    live.say(f"{len(entries)} estimators on {bench.rows} rollouts of {len(groups)} prompts with a signal (of {count})")
    exact = bench.target(law, tokens if joint else law)
    measured = _measure_all(bench, entries, exact, plans, budget, live)
    steps, (moved, moved_tokens) = _after_step(bench, measured, (law, tokens), exact, recipe, plans, live)
    orders = bench.random_orders()
    setup.policy.train(training)
    gram = gram_of(exact.gradients)
    rows = ranked_rows(measured, exact, steps, gram, orders, budget, seed)
    return Diagnosis(
        recipe=recipe,
        model=str((source and source.checkpoint) or recipe.model.adapter or recipe.model.path),
        selection=recipe.rollout.selection,
        joint=joint,
        prompts=count,
        groups=len(groups),
        rollouts=bench.rows,
        outcome=float(batch.outcome.nanmean()),
        reward_name=setup.outcome,
        budget=budget,
        parameters=sum(parameter.numel() for parameter in learner.parameters),
        sketch=None if sketch.exact else sketch.size,
        chance=chance_share(gram),
        record_gap=exact.record_gap,
        step=moved,
        step_tokens=moved_tokens,
        step_size=recipe.optim.lr,
        random_order=None
        if orders is None
        else {"log_likelihood": float(orders[:, 0].mean()), "elbo": float(orders[:, 1].mean())},
        rows=rows,
        refused=refused,
        notes=(note,) if note else (),
        seconds=time.perf_counter() - began,
        provenance=provenance(),
    )


def _no_signal(batch: ScoredBatch, count: int, recipe: Recipe) -> str:
    low, high = float(batch.reward.min()), float(batch.reward.max())
    if recipe.method.advantage == "verified":
        remedy = "easier rows, a warm start, or more --prompts"
        return f"none of the {len(batch)} rollouts of {count} prompts is verified, so there is no gradient to measure; {remedy}"
    what = f"all rewards are {low:g}" if low == high else "within each prompt all rollouts have the same reward"
    return (
        f"{what} ({len(batch)} rollouts of {count} prompts), so there is no gradient to measure. Never solved: easier rows, a warm start "
        "(--model RUN/warm_start), partial credit; always solved: harder rows; else more --prompts or a larger rollout.group_size"
    )


def _measure_all(
    bench: Bench, entries: Sequence[Candidate], exact: Target, plans: int, budget: int, live: Reporter
) -> list[Measured]:
    counts = []
    for entry in entries:
        views, random = bench.cost(entry)
        counts.append(max(plans, int(plans * budget / views)) if random else 1)
    live.phase("gradients", sum(counts) * len(bench.groups))
    return [
        bench.measure(entry, count, exact, lambda name: live.advance("gradients", estimator=name))
        for entry, count in zip(entries, counts, strict=True)
    ]


def _after_step(
    bench: Bench,
    measured: Sequence[Measured],
    laws: tuple[Method, Method],
    exact: Target,
    recipe: Recipe,
    plans: int,
    live: Reporter,
) -> tuple[list[StepSummary], tuple[StepSummary, StepSummary]]:
    """Log-ratios of all after one step along the exact gradient, with the masks that were used before it; and of the exact laws."""
    counts = [min(one.plans, plans) for one in measured]
    live.phase("after a step", sum(counts), transient=True)
    found = []
    with bench.stepped(exact.step, recipe.optim.lr, recipe.optim.eps):
        truth = bench.values(laws[0], bench.key(0)) - exact.values
        tokens = bench.values(laws[1], bench.key(0)) - exact.token_values
        for one, count in zip(measured, counts, strict=True):
            moved = np.empty((count, bench.rows))
            for number in range(count):
                key = bench.key(number, one.candidate.passes)
                moved[number] = bench.values(one.candidate.method, key) - one.values[number]
                live.advance("after a step")
            found.append(summarise_step(moved, tokens))
    return found, (summarise_step(truth[None], tokens), summarise_step(tokens[None], tokens))

"""`unmask diagnose`: what each estimator's gradient is worth per forward, on a recipe's own model, prompts and rollouts.

Rollouts are those of the recipe's first update, sampled and graded as in training. ``rl.diagnose_stats`` has the equations,
``rl.diagnose_measure`` the measuring, ``rl.diagnose_report`` the table, the picture and the words.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewards.contract import TrainerState
from rl.advantages import advantages
from rl.config import Recipe
from rl.data import batches
from rl.diagnose_candidates import Candidate, candidates, measured_method, target_of
from rl.diagnose_measure import Bench, Measured, Target, split_groups
from rl.diagnose_rows import Diagnosis, gram_of, ranked_rows
from rl.diagnose_stats import StepSummary, chance_share, summarise_step
from rl.grading import grade_rollouts
from rl.learner import Learner
from rl.loop import torch_settings
from rl.measure import model_of, recipe_and_source
from rl.method import Method
from rl.progress import Reporter
from rl.run import provenance
from rl.scored import ScoredBatch
from rl.setup import Setup, set_up
from rl.sketch import Sketch
from rl.source import CommandError, Source, locate_run
from rollouts.strategy import sample_groups

# What diagnosing does not need, and what would need it.
UNUSED = (
    *(f"{key}=null" for key in ("data.eval", "data.validation", "eval", "save.best_by", "stop.plateau")),
    "track={}",
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
    setup = set_up(recipe, reward_funcs=reward_funcs, train_dataset=train_dataset)
    if source is not None:
        trained = [parameter for parameter in setup.policy.parameters() if parameter.requires_grad]
        source.restore(setup.policy)
        for parameter in trained:  # a checkpoint freezes what it is put into
            parameter.requires_grad_(True)
    with torch_settings(recipe), reporter or Reporter() as live:
        return _diagnose(setup, source, note, prompts, plans, budget, live, began)


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


def _diagnose(
    setup: Setup,
    source: Source | None,
    note: str,
    prompts: int | None,
    plans: int,
    budget: int | None,
    live: Reporter,
    began: float,
) -> Diagnosis:
    recipe = setup.recipe
    if plans < 2:
        raise CommandError(f"--plans {plans}: a variance needs at least 2 plans")
    count = min(recipe.train.prompts_per_update, 16) if prompts is None else prompts
    budget = min(max(4, recipe.rollout.steps), 16) if budget is None else budget
    batch = collect(setup, count, live)
    groups = split_groups(batch, mask_truncated=recipe.method.mask_truncated)
    if not groups:
        raise CommandError(_no_signal(batch, count, recipe))
    seed = recipe.train.seed
    learner = Learner(setup.policy, recipe.optim, total_steps=1, micro_batch=recipe.train.micro_batch)
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


def collect(setup: Setup, count: int, live: Reporter) -> ScoredBatch:
    """The rollouts of the first ``count`` prompts of the recipe's first update, graded, with advantages."""
    recipe = setup.recipe
    assert setup.train is not None
    prompts = batches(setup.train.prompts, count, recipe.train.seed, 0)
    longest = max(len(prompt.token_ids) for prompt in setup.train.prompts)
    live.phase("rollouts", count * recipe.rollout.group_size, transient=True)
    rollouts = sample_groups(
        setup.policy,
        [prompt.token_ids for prompt in prompts],
        recipe.rollout.sampler,
        group_size=recipe.rollout.group_size,
        prompt_ids=[prompt.prompt_id for prompt in prompts],
        seed=recipe.train.seed,
        step=0,
        max_rows=recipe.rollout.max_rows,
        deterministic=recipe.train.deterministic,
        pad_to=longest if recipe.train.deterministic else None,
        on_rows=lambda rows: live.advance("rollouts", rows),
    )
    batch, _ = grade_rollouts(
        rollouts,
        {prompt.prompt_id: prompt for prompt in prompts},
        setup.rewards,
        setup.outcome,
        eos_ids=setup.policy.eos_ids,
        prefill=setup.prefill,
        state=TrainerState(global_step=0, max_steps=recipe.train.updates),
    )
    if not len(batch):
        reasons = ", ".join(f"{reason} ({n})" for reason, n in batch.dropped.items())
        raise CommandError(f"none of the {count * recipe.rollout.group_size} rollouts could be graded: {reasons}")
    return batch.with_advantage(
        advantages(recipe.method.advantage, batch.reward, batch.outcome, batch.rollouts.group_id)
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

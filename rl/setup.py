"""From a recipe to what a run needs: policy, prompts, rewards. What can be wrong is found here, before anything starts."""

import contextlib
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rewards.contract import Reward, RewardError, grade, load_rewards
from rewards.contract.ready import check_ready, unfit_rows
from rl import origin
from rl.config import ModelConfig, Recipe
from rl.config_errors import nearest
from rl.contamination import Overlap, guard
from rl.data import Prompt, PromptSet, check_columns, check_completions, columns_for_rewards, load_split
from rl.errors import DataError
from rl.grading import Mark, graders_of
from rl.pairs import PairSet, load_pairs
from rl.reward_checks import answer_problems, column_problems, routing_problems
from rl.tables import read_table
from rollouts.checkpoints import save_adapter, save_policy
from rollouts.families import MADE
from rollouts.lora import LoraSpec
from rollouts.models import load_policy
from rollouts.policy import Policy
from rollouts.strategies import Inpaint
from rollouts.strategy import Here, Sampler


@dataclass(frozen=True, eq=False)
class Setup:
    """Loaded and checked. outcome: the reward reported as accuracy."""

    recipe: Recipe
    policy: Policy
    rewards: tuple[Reward, ...]
    outcome: str
    train: PromptSet | None
    eval: PromptSet | None
    validation: PromptSet | None
    warm_start: PromptSet | None
    preferences: PairSet | None = None
    # Who draws rollouts, where it is not the policy itself; who calls the rewards, where it is not this process.
    sampler: Sampler | None = None
    mark: Mark = grade
    extra_rewards: tuple[Callable[..., Any], ...] = ()  # functions that came as Python objects
    overlaps: tuple[Overlap, ...] = ()  # what training data share with held-out data

    @property
    def drawn_by(self) -> Sampler:
        return self.sampler or Here(self.policy)

    @property
    def prefill(self) -> str:
        return self.recipe.data.prompt.prefill or ""


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(model: ModelConfig, *, seed: int, trainable: bool = True, hollow: bool = False) -> Policy:
    """The policy of a recipe, on the GPU where there is one. trainable: False freezes it and holds it in its dtype. hollow: without
    weights, as `rollouts.models.load_policy` says, and on no GPU."""
    lora = None if model.lora is None else LoraSpec(r=model.lora.r, alpha=model.lora.alpha, targets=model.lora.targets)
    options: dict[str, Any] = {
        "dtype": model.dtype,
        "attention": model.attention,
        "lora": lora,
        "adapter": model.adapter,
        "quantization": model.quantization,
        "gradient_checkpointing": model.gradient_checkpointing,
        "device": "cpu" if hollow else default_device(),
        "hollow": hollow,
        "seed": seed,
        "trainable": trainable,
    }
    if model.path not in MADE:
        return load_policy(model.path, family=model.family, **options)
    from rollouts.tiny import make

    with tempfile.TemporaryDirectory() as folder:  # made, saved and loaded like any other
        save_policy(make(model.path, seed), folder)
        return load_policy(folder, **options)


def load_sampler(model: ModelConfig, *, seed: int) -> Policy:
    """The policy of a worker that only draws. An adapter stays in float32, as the learner has it; all else is held in its dtype."""
    origin.check()
    adapted = model.lora is not None or model.adapter is not None
    policy = load_model(model, seed=seed, trainable=adapted)
    policy.requires_grad_(False)
    return policy


def set_up(
    recipe: Recipe,
    *,
    reward_funcs: Sequence[Callable[..., Any]] | Callable[..., Any] | None = None,
    train_dataset: Any = None,
    eval_dataset: Any = None,
    trainable: bool = True,
    hollow: bool = False,
) -> Setup:
    """Load everything a recipe names. Rewards first (quick), then data and model.

    reward_funcs, train_dataset, eval_dataset: Python objects in place of (rewards: in addition to) what the recipe names.
    trainable: False for what only evaluates. hollow: the policy's weights are with workers, and are not loaded here.
    """
    extra = [reward_funcs] if callable(reward_funcs) else list(reward_funcs or [])
    rewards = load_rewards([*(entry.model_dump() for entry in recipe.rewards), *extra], base=Path.cwd())
    names = [reward.name for reward in rewards]
    outcome = recipe.outcome or (names[0] if names else "")
    if rewards and outcome not in names:
        raise RewardError(f"outcome: '{outcome}' is none of the rewards {', '.join(names)}")
    best_by = recipe.save.best_by
    if rewards and best_by is not None and best_by not in names:
        raise RewardError(f"save.best_by: '{best_by}' is none of the rewards {', '.join(names)}")
    if recipe.cluster.backend == "local":  # else the workers that grade ask themselves
        check_ready(rewards)
    policy = load_model(recipe.model, seed=recipe.train.seed, trainable=trainable, hollow=hollow)
    unknown = [token for token in recipe.rollout.forbid if token >= policy.vocab_size]
    if unknown:
        raise DataError(f"rollout.forbid: {unknown} are no token ids; the vocabulary has {policy.vocab_size}")
    if len({*recipe.rollout.forbid, *policy.forbidden_ids}) >= policy.vocab_size:
        raise DataError("rollout.forbid: names every token id; leave at least one that may be sampled")
    problems = list(answer_problems(recipe, rewards))
    sets = load_sets(recipe, policy, rewards, problems, {"data.train": train_dataset, "data.eval": eval_dataset})
    guarded = guard(recipe, sets, load_preferences(recipe, policy, problems), problems)
    if problems:
        raise DataError("\n\n".join(problems))
    sets = guarded.sets
    for key, found in sets.items():
        for reason in (reason for reason in found.dropped if reason.startswith(UNGRADABLE)):
            rows = f"{found.dropped[reason]} row{'s' if found.dropped[reason] > 1 else ''}"
            logging.getLogger("unmask").warning("%s: %s left out: %s", key, rows, reason)
    validation, evaluation = sets.get("data.validation"), sets.get("data.eval")
    if validation is not None and evaluation is not None:
        reported = {prompt.token_ids for prompt in evaluation.prompts}
        shared = sum(prompt.token_ids in reported for prompt in validation.prompts)
        if shared:
            raise DataError(
                f"data.validation: {shared} of {len(validation)} prompts are in data.eval, too; what is chosen by them cannot be "
                "reported on them: use other rows"
            )
    return Setup(
        recipe=recipe,
        policy=policy,
        rewards=rewards,
        outcome=outcome,
        train=sets.get("data.train"),
        eval=evaluation,
        validation=validation,
        warm_start=sets.get("warm_start.data"),
        preferences=guarded.preferences,
        mark=graders_of(recipe, rewards),
        extra_rewards=tuple(extra),
        overlaps=guarded.overlaps,
    )


def load_sets(
    recipe: Recipe,
    model: Any,
    rewards: Sequence[Reward],
    problems: list[str],
    given: Mapping[str, Any] | None = None,
) -> dict[str, PromptSet]:
    """The prompts of every split, by its key. What is wrong goes to `problems`, all of it: sizes, rows, columns.

    model: a Policy, or a Network of `rl.plan`; None where there is none: tables and columns are checked all the same, and nothing
    comes back. given: Python objects in place of the recipe's splits, by key.
    """
    sets: dict[str, PromptSet] = {}
    if model is not None:
        problems += canvas_problems(recipe, model.max_length)
    named = {"data.train": recipe.data.train, "data.eval": recipe.data.eval, "data.validation": recipe.data.validation}
    named["warm_start.data"] = recipe.warm_start.data if recipe.warm_start else None
    named |= {key: value for key, value in (given or {}).items() if value is not None}
    for key, source in named.items():
        if source is None:
            continue
        sft = key == "warm_start.data"
        columns: list[str] | None = None
        try:
            if model is None:
                columns = check_columns(source, recipe.data.prompt, where=key, need_completion=sft)
            else:
                found = load_split(
                    source,
                    recipe.data.prompt,
                    model,
                    room=_room(recipe, key, model.max_length),
                    where=key,
                    need_completion=sft,
                    canvas_key=_canvas_of(recipe, key)[0],
                )
                found = found if sft else gradable(found, rewards, key)
                sets[key], columns = found, list(found.prompts[0].columns)
                if key == "data.train" and isinstance(recipe.rollout.strategy, Inpaint):
                    problems += trace_problems(recipe.rollout.strategy, found)
                if not sft:
                    problems += routing_problems(recipe, rewards, key, found)
                if sft:
                    check_completions(found, model.tokenizer, canvas=recipe.rollout.canvas, where=key)
        except DataError as error:
            problems.append(str(error))
        if columns is None:  # rows that do not fit, or a template that names none of its columns: they may lack another
            with contextlib.suppress(DataError):  # said above
                columns = columns_for_rewards(source, key)
        if columns is not None and not sft:
            problems += column_problems(recipe, rewards, key, columns)
    return sets


UNGRADABLE = "cannot be graded"  # begins the reason for which such a row is left out
ID_COLUMNS = ("task_id", "question_id", "id")
NAMED_IDS = 8  # of the rows left out, in a message


def gradable(found: PromptSet, rewards: Sequence[Reward], where: str) -> PromptSet:
    """Without the prompts that some reward could never grade. They are counted by reason, with their ids, or their numbers in the data set.

    DataError where none is left.
    """
    columns = {name: [prompt.columns.get(name) for prompt in found.prompts] for name in found.prompts[0].columns}
    reasons = unfit_rows(rewards, columns) if columns else [None] * len(found)
    rows: dict[str, list[Any]] = {}
    name = next((name for name in ID_COLUMNS if name in columns), "row")
    for prompt, reason in zip(found.prompts, reasons, strict=True):
        if reason is not None:
            rows.setdefault(reason, []).append(prompt.columns.get(name, prompt.prompt_id))
    if not rows:
        return found
    dropped = dict(found.dropped)
    for reason, ids in rows.items():
        more = f" and {len(ids) - NAMED_IDS} more" if len(ids) > NAMED_IDS else ""
        dropped[f"{UNGRADABLE}, {reason} ({name} {', '.join(map(str, ids[:NAMED_IDS]))}{more})"] = len(ids)
    kept = tuple(prompt for prompt, reason in zip(found.prompts, reasons, strict=True) if reason is None)
    if not kept:
        raise DataError(f"{where}: no row of {len(found)} can be graded: {'; '.join(rows)}")
    return replace(found, prompts=kept, dropped=dropped)


def load_preferences(recipe: Recipe, model: Any, problems: list[str]) -> PairSet | None:
    """The stored pairs of a recipe that has some; arguments as for `load_sets`."""
    source, key = recipe.data.preferences, "data.preferences"
    if source is None:
        return None
    try:
        if model is None:
            read_table(source, key)
            return None
        room = _room(recipe, key, model.max_length)
        return load_pairs(source, recipe.data.prompt, model, room=room, canvas=recipe.rollout.canvas, where=key)
    except DataError as error:
        problems.append(str(error))
    return None


def canvas_problems(recipe: Recipe, positions: int) -> list[str]:
    """Canvases that leave no room for a prompt in the model's positions: that of training, and that of the evaluation."""
    wanted = {"rollout.canvas": recipe.rollout.canvas}
    if recipe.eval is not None and recipe.eval.sampler.canvas != recipe.rollout.canvas:
        wanted["eval.sampler.canvas"] = recipe.eval.sampler.canvas
    return [
        f"{key}: {canvas} leaves no room for a prompt in the model's {positions} positions; use a shorter canvas"
        for key, canvas in wanted.items()
        if canvas >= positions
    ]


def _room(recipe: Recipe, key: str, positions: int) -> int:
    """Prompt tokens that fit beside the canvas that a split is sampled with; all there are where the canvas itself does not."""
    canvas = _canvas_of(recipe, key)[1]
    return positions - canvas if canvas < positions else sys.maxsize


def _canvas_of(recipe: Recipe, key: str) -> tuple[str, int]:
    """(key, positions) of the canvas that a split is sampled with."""
    if key in ("data.eval", "data.validation") and recipe.eval is not None:
        own = recipe.eval.sampler.canvas
        return "rollout.canvas" if own == recipe.rollout.canvas else "eval.sampler.canvas", own
    return "rollout.canvas", recipe.rollout.canvas


def trace_problems(strategy: Inpaint, prompts: PromptSet) -> list[str]:
    """Hints without traces: a column that is not there, rows without a text in it, or without the mark before the answer."""
    columns, name = list(prompts.prompts[0].columns), strategy.trace
    if name not in columns:
        near = nearest(name, columns)
        hint = f"did you mean {near!r}? " if near else ""
        return [
            f"data.train: rollout.strategy inpaint takes its hints from a column {name!r}, and there are no traces\n    "
            f"{hint}name it: rollout.strategy.trace; columns: {', '.join(columns) or 'none'}"
        ]
    rows = [(prompt.prompt_id, prompt.columns[name]) for prompt in prompts.prompts]
    empty = [row for row, trace in rows if not isinstance(trace, str) or not trace.strip()]
    if empty:
        return [
            f"data.train: {len(empty)} of {len(rows)} rows have no text in the trace column {name!r}, the first is row {empty[0]}; "
            "leave these rows out"
        ]
    unmarked = [row for row, trace in rows if strategy.given(trace) is None]
    if unmarked:
        return [
            f"data.train: {len(unmarked)} of {len(rows)} traces do not hold {strategy.answer_after!r}, so their answers might be "
            f"given away; the first is row {unmarked[0]}. Change rollout.strategy.answer_after, or leave these rows out"
        ]
    return []


def sft_rows(policy: Policy, prompts: Sequence[Prompt]) -> list[tuple[Sequence[int], Sequence[int]]]:
    """(prompt ids, completion ids) of prompt-completion rows."""
    rows = []
    for prompt in prompts:
        if prompt.completion is None:
            raise DataError(
                f"row {prompt.prompt_id} has no completion; SFT needs a 'completion' column (map yours with "
                "columns: {completion: your_column})"
            )
        rows.append((prompt.token_ids, policy.tokenizer(prompt.completion, add_special_tokens=False).input_ids))
    return rows


def save_weights(setup: Setup, folder: Path) -> None:
    """``adapter/`` where there is one, else ``model/``."""
    if setup.recipe.model.lora is not None or setup.recipe.model.adapter is not None:
        save_adapter(setup.policy, folder / "adapter")
    else:
        save_policy(setup.policy, folder / "model")

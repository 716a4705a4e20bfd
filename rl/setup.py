"""From a recipe to what a run needs: policy, prompts, rewards. What can be wrong is found here, before anything starts."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rewards.calls import WITHHELD
from rewards.contract import Reward, RewardError, load_rewards, missing_columns
from rewards.load import FIXED_ARGUMENTS
from rl.config import ModelConfig, Recipe
from rl.config_errors import nearest
from rl.data import DataError, Prompt, PromptSet, check_completions, load_split
from rl.pairs import PairSet, load_pairs
from rollouts.checkpoints import save_adapter, save_policy
from rollouts.models import LoraSpec, Policy, load_policy
from rollouts.strategies import Inpaint

TINY = "tiny"  # model.path of a small model made on the spot


@dataclass(frozen=True, eq=False)
class Setup:
    """Loaded and checked. outcome: the reward reported as accuracy; room: prompt tokens that fit beside the canvas."""

    recipe: Recipe
    policy: Policy
    rewards: tuple[Reward, ...]
    outcome: str
    train: PromptSet | None
    eval: PromptSet | None
    validation: PromptSet | None
    warm_start: PromptSet | None
    room: int
    preferences: PairSet | None = None

    @property
    def prefill(self) -> str:
        return self.recipe.data.prompt.prefill or ""


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(model: ModelConfig, *, seed: int, trainable: bool = True) -> Policy:
    """The policy of a recipe, on the GPU where there is one. trainable: False freezes it and holds it in its dtype."""
    lora = None if model.lora is None else LoraSpec(r=model.lora.r, alpha=model.lora.alpha, targets=model.lora.targets)
    options: dict[str, Any] = {
        "dtype": model.dtype,
        "attention": model.attention,
        "lora": lora,
        "adapter": model.adapter,
        "quantization": model.quantization,
        "gradient_checkpointing": model.gradient_checkpointing,
        "device": default_device(),
        "seed": seed,
        "trainable": trainable,
    }
    if model.path != TINY:
        return load_policy(model.path, family=model.family, **options)
    from rollouts.tiny import build_tiny

    with tempfile.TemporaryDirectory() as folder:  # made, saved and loaded like any other
        save_policy(build_tiny(seed), folder)
        return load_policy(folder, **options)


def set_up(
    recipe: Recipe,
    *,
    reward_funcs: Sequence[Callable[..., Any]] | Callable[..., Any] | None = None,
    train_dataset: Any = None,
    eval_dataset: Any = None,
    trainable: bool = True,
) -> Setup:
    """Load everything a recipe names. Rewards first (quick), then data and model.

    reward_funcs, train_dataset, eval_dataset: Python objects in place of (rewards: in addition to) what the recipe names.
    trainable: False for what only evaluates.
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
    policy = load_model(recipe.model, seed=recipe.train.seed, trainable=trainable)
    unknown = [token for token in recipe.rollout.forbid if token >= policy.vocab_size]
    if unknown:
        raise DataError(f"rollout.forbid: {unknown} are no token ids; the vocabulary has {policy.vocab_size}")
    if len({*recipe.rollout.forbid, *policy.forbidden_ids}) >= policy.vocab_size:
        raise DataError("rollout.forbid: names every token id; leave at least one that may be sampled")
    room = policy.max_length - recipe.rollout.canvas
    if room < 1:
        raise DataError(
            f"rollout.canvas {recipe.rollout.canvas} leaves no room for a prompt in the model's {policy.max_length} positions; "
            "use a shorter canvas"
        )

    def load(source: Any, where: str, **options: Any) -> PromptSet | None:
        return (
            None
            if source is None
            else load_split(source, recipe.data.prompt, policy, room=room, where=where, **options)
        )

    train = load(train_dataset if train_dataset is not None else recipe.data.train, "data.train")
    evaluation = load(eval_dataset if eval_dataset is not None else recipe.data.eval, "data.eval")
    validation = load(recipe.data.validation, "data.validation")
    if validation is not None and evaluation is not None:
        reported = {prompt.token_ids for prompt in evaluation.prompts}
        shared = sum(prompt.token_ids in reported for prompt in validation.prompts)
        if shared:
            raise DataError(
                f"data.validation: {shared} of {len(validation)} prompts are in data.eval, too; what is chosen by them cannot be "
                "reported on them: use other rows"
            )
    named = (("data.train", train), ("data.eval", evaluation), ("data.validation", validation))
    sets = {name: part for name, part in named if part is not None}
    problems = column_problems(recipe, rewards, sets)
    if problems:
        raise DataError("\n".join(problems))
    warm = None if recipe.warm_start is None else recipe.warm_start.data
    warm_start = load(warm, "warm_start.data", need_completion=True)
    if warm_start is not None:
        check_completions(warm_start, policy.tokenizer, canvas=recipe.rollout.canvas, where="warm_start.data")
    stored = recipe.data.preferences
    preferences = (
        None
        if stored is None
        else load_pairs(stored, recipe.data.prompt, policy, room=room, canvas=recipe.rollout.canvas)
    )
    return Setup(
        recipe=recipe,
        policy=policy,
        rewards=rewards,
        outcome=outcome,
        train=train,
        eval=evaluation,
        validation=validation,
        warm_start=warm_start,
        room=room,
        preferences=preferences,
    )


def column_problems(recipe: Recipe, rewards: Sequence[Reward], sets: Mapping[str, PromptSet | PairSet]) -> list[str]:
    """Columns that a reward or `eval.cluster` needs and the prompts of a split do not have."""
    problems = []
    for key in ("data.train", "data.eval", "data.validation"):
        if key not in sets:
            continue
        split = sets[key]
        columns = list(split.prompts[0].columns)
        for name in sorted(set(columns) & (set(FIXED_ARGUMENTS) - WITHHELD)):
            problems.append(
                f"{key}: the column {name!r} has the name of an argument that rewards receive; rename it in the data"
            )
        for reward in rewards:
            for name in sorted(set(reward.kwargs) & set(columns)):
                problems.append(
                    f"{key}: reward {reward.name} has a kwarg {name!r}, which is also a column; rename one of them"
                )
            for name in missing_columns(reward, columns):
                near = nearest(name, columns)
                hint = f"did you mean {near!r}? " if near else ""
                remedy = f"map it: {key}.columns: {{{name}: ...}}; columns: {', '.join(columns) or 'none'}"
                problems.append(f"{key}: reward {reward.name} needs a column {name!r}\n    {hint}{remedy}")
        if key == "data.train" and isinstance(recipe.rollout.strategy, Inpaint) and isinstance(split, PromptSet):
            problems += trace_problems(recipe.rollout.strategy, split)
        cluster = recipe.eval.cluster if recipe.eval and key == "data.eval" else None
        if cluster is not None and cluster not in columns:
            near = nearest(cluster, columns)
            hint = f"; did you mean {near!r}?" if near else ""
            problems.append(f"eval.cluster: data.eval has no column {cluster!r}{hint}")
    return problems


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

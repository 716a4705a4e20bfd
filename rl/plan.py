"""`--dry-run`: everything a run would trip over, two prompts as the model will read them, and what an update costs.

Nothing is started: the network is built on the meta device, without memory, and no weights are read or downloaded.
"""

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from rewards.compat import notes
from rewards.contract import Reward, RewardError, TrainerState, load_rewards
from rewards.contract.ready import check_ready
from rl.config import Recipe
from rl.contamination import guard
from rl.data import Prompt, PromptSet
from rl.doctor import without_waiting
from rl.errors import DataError
from rl.grading import columns_of, completion_of, graders_of
from rl.gym_tasks import is_task
from rl.method import forwards
from rl.pairs import PairSet
from rl.reward_checks import answer_problems
from rl.rollout_arguments import invented_arguments
from rl.setup import load_preferences, load_sets
from rollouts.checkpoints import list_tensors, read_config, resolve_folder
from rollouts.decoders import build_decoder
from rollouts.denoise import CHUNK_NUMBERS
from rollouts.families import MADE, Family, ModelError, find_family
from rollouts.lora import lora_matches
from rollouts.tokens import load_tokenizer, special_ids

T = TypeVar("T")
SHOWN_PROMPTS = 2
WRONG = "I do not know."  # the completion that each reward is tried on
FLOAT = 4  # bytes; logits and scores are float32
PHASES = ("rollout", "old", "reference", "correction", "train")  # of rl.method.forwards


@dataclass(frozen=True)
class Network:
    """What is known of a model without its weights."""

    family: str
    parameters: int
    trainable: int
    adapted: int  # modules under LoRA
    vocabulary: int
    width: int
    max_length: int
    tokenizer: Any
    mask_id: int


class PlanErrors(ValueError):
    """What is wrong with the files that a recipe names: data, model, rewards, all at once."""

    def __init__(self, messages: list[str]):
        count = "1 problem" if len(messages) == 1 else f"{len(messages)} problems"
        super().__init__("\n\n".join([f"{count} with what this recipe names; nothing was started:", *messages]))


def names_hub(recipe: Recipe) -> bool:
    """Whether the model or some data are named as on the Hub, `owner/name`, and are no folder or file here."""
    data, warm_start = recipe.data, recipe.warm_start
    splits = (data.train, data.eval, data.validation, data.preferences, warm_start.data if warm_start else None)
    names = [recipe.model.path, *(split.path for split in splits if split is not None and not is_task(split))]
    return any(name.count("/") == 1 and not Path(name).expanduser().exists() for name in names)


def dry_run(recipe: Recipe, command: str = "train", console: Console | None = None) -> None:
    """Checks what `recipe` names and prints prompts and plan. Raises PlanErrors with everything that is wrong."""
    console = console or Console(highlight=False, soft_wrap=True)
    problems: list[str] = []
    if names_hub(recipe) and (why := without_waiting()):
        console.print(
            f"note: the Hub does not answer ({why}): only what this machine holds is looked at\n", markup=False
        )
    network = _collect(problems, lambda: inspect_model(recipe))
    rewards = load_rewards([entry.model_dump() for entry in recipe.rewards], base=Path.cwd())
    problems += answer_problems(recipe, rewards)
    _collect(problems, lambda: check_ready(rewards))
    sets = load_sets(recipe, network, rewards, problems)
    guarded = guard(recipe, sets, load_preferences(recipe, network, problems), problems)
    sets, pairs = guarded.sets, guarded.preferences
    main = sets.get("warm_start.data") if command == "sft" else pairs or sets.get("data.train")
    graded = "data.train" if "data.train" in sets else "data.eval"
    tried = None
    if rewards and network is not None and not problems:
        tokenizer = network.tokenizer
        tried = _collect(problems, lambda: try_rewards(recipe, rewards, sets[graded], tokenizer))
    if problems:
        raise PlanErrors(problems)
    assert network is not None
    assert main is not None
    for prompt in main.prompts[:SHOWN_PROMPTS]:
        _print_prompt(prompt, console)
    for key, prompts in sets.items():
        dropped = "".join(f"; dropped {count}: {reason}" for reason, count in prompts.dropped.items())
        console.print(f"{key}: {len(prompts)} prompts from {prompts.source}{dropped}", markup=False)
    if pairs is not None:
        console.print(f"data.preferences: {len(pairs)} pairs from {pairs.source}", markup=False)
    for overlap in guarded.overlaps:
        console.print(f"overlap: {overlap}", markup=False)
    if tried:
        console.print(
            f"rewards for prompt {sets[graded].prompts[0].prompt_id} of {graded} and the completion {WRONG!r}:"
        )
        console.print(_table(tried))
    for note in notes(rewards, recipe.outcome or (rewards[0].name if rewards else None)):
        console.print(f"note: {note}", markup=False)
    console.print()
    console.print(_table(plan(recipe, network, main, command)))
    if recipe.model.quantization == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        note = "the run itself needs bitsandbytes, which this machine lacks: pip install 'unmask[quant]'"
        console.print(f"\nnote: {note}", markup=False)
    console.print(f"\nnothing was started; a run would write to {recipe.out}", markup=False)


def inspect_model(recipe: Recipe) -> Network:
    """Family, tokenizer, sizes and LoRA targets of the recipe's model, from its small files. Raises ModelError."""
    return describe_network(recipe, *open_network(recipe))


def open_network(recipe: Recipe) -> tuple[Family, Any, Any, int]:
    """(family, decoder without weights, tokenizer, mask id) of the recipe's model. Raises ModelError."""
    model = recipe.model
    if model.path in MADE:
        from rollouts.tiny import make

        policy = make(model.path, recipe.train.seed)
        return policy.family, policy.causal_lm, policy.tokenizer, policy.mask_id
    folder = _small_files(model.path)
    where = str(folder / "config.json")
    config = read_config(folder)
    family = find_family(config, where, model.family)
    tokenizer = load_tokenizer(folder, family)
    decoder = build_decoder(family, config, where, attention=model.attention)
    if Path(model.path).is_dir():
        list_tensors(folder)
    return family, decoder, tokenizer, special_ids(family, config, tokenizer, decoder.config.vocab_size, where).mask


def describe_network(recipe: Recipe, family: Family, decoder: Any, tokenizer: Any, mask_id: int) -> Network:
    """What `open_network` gave, counted."""
    model = recipe.model
    total = sum(parameter.numel() for parameter in decoder.parameters())
    trainable, adapted = total, 0
    if model.lora is not None:
        matched = {name for names in lora_matches(decoder, family, model.lora.targets).values() for name in names}
        adapted = len(matched)
        weights = [decoder.get_parameter(f"{name}.weight") for name in matched]
        trainable = sum(model.lora.r * sum(weight.shape) for weight in weights)
    return Network(
        family=family.name,
        parameters=total,
        trainable=trainable,
        adapted=adapted,
        vocabulary=decoder.config.vocab_size,
        width=decoder.config.hidden_size,
        max_length=decoder.config.max_position_embeddings,
        tokenizer=tokenizer,
        mask_id=mask_id,
    )


def plan(
    recipe: Recipe, network: Network, prompts: PromptSet | PairSet, command: str = "train"
) -> list[tuple[str, str]]:
    """(what, how much) of one update, resolved. A row is a sequence of prompt and canvas; bytes are of float32."""
    mean_prompt = sum(len(prompt.token_ids) for prompt in prompts.prompts) / len(prompts)
    length = mean_prompt + recipe.rollout.canvas
    trained = f"{network.trainable:,}"
    trained += f", LoRA on {network.adapted} modules of {network.parameters:,}" if network.adapted else ", all"
    lines = [
        ("model", f"{recipe.model.path}, family {network.family}, {recipe.model.dtype}"),
        ("trained parameters", trained),
        ("optimizer state", _bytes(network.trainable * 4 * FLOAT) + " (weights, gradients and two moments, float32)"),
    ]
    if recipe.warm_start is not None:
        warm = recipe.warm_start
        lines.append(("warm start", f"{warm.steps} steps of {warm.batch} rows"))
    if command == "sft":
        return lines
    sampler, group, count = recipe.rollout.sampler, recipe.rollout.group_size, recipe.train.prompts_per_update
    cost = forwards(recipe.method, sampler, group, count, recipe.train.micro_batch)
    cost["rollout"] *= 0 if recipe.data.preferences is not None else recipe.rollout.draws_per_rollout
    total = sum(cost[key] for key in PHASES)
    views = cost["views_per_pass"]
    scored = views * _scored_rows_per_view(recipe)
    together = min(scored, recipe.train.micro_batch * _scored_rows_per_view(recipe))
    chunk = max(1, min(round(together), CHUNK_NUMBERS // network.vocabulary))
    method = recipe.method
    lines += [
        ("method", f"{method.preset or 'own'}: {method.estimator.kind}, {method.objective.kind}, {method.advantage}"),
        ("scoring law", method.scoring_law(sampler)),
        (
            ("pairs per update", f"{count}, stored; nothing is sampled for training")
            if recipe.data.preferences is not None
            else ("rollouts per update", f"{count} prompts x {group} = {count * group}")
        ),
        ("sampler", f"canvas {sampler.canvas}, {sampler.blocks} blocks, {sampler.steps} steps, {sampler.selection}"),
        ("forwards per update", f"{total:,} rows: {_parts(cost)}; at most, and {cost['train']:,} backward"),
        ("tokens per update", f"{total * length:,.0f} forward, at {mean_prompt:.0f} prompt tokens on average"),
        ("optimizer steps", f"{recipe.train.updates} updates x {method.inner_passes} = {_steps(recipe):,}"),
        (
            "scoring pass",
            f"{views:,} views, about {scored:,.0f} rows scored, micro-batches of {recipe.train.micro_batch}",
        ),
        ("  its scores", _bytes(views * length * FLOAT)),
        ("  its logits, whole", _bytes(scored * network.vocabulary * FLOAT) + " (never held)"),
        ("  its logits, held", _bytes(chunk * network.vocabulary * FLOAT) + f" ({chunk:,} rows at a time)"),
    ]
    return lines


def try_rewards(recipe: Recipe, rewards: Sequence[Reward], prompts: PromptSet, tokenizer: Any) -> list[tuple[str, str]]:
    """(name, what it returned) of every reward called once, on the first prompt and a completion that is plainly wrong, as if one token of
    it had been revealed a step, from left to right.

    Raises RewardError, as a run would after its first rollouts.
    """
    prompt, prefill = prompts.prompts[0], recipe.data.prompt.prefill or ""
    ids = tokenizer(WRONG, add_special_tokens=False)["input_ids"]
    with closing(graders_of(recipe, rewards)) as mark:
        grades = mark(
            rewards,
            prompts=[prompt.raw],
            completions=[completion_of(prompt, WRONG, prefill)],
            completion_ids=[ids],
            columns=columns_of([prompt]),
            trainer_state=TrainerState(max_steps=recipe.train.updates),
            rollout=invented_arguments(WRONG, ids, tokenizer, prefill),
        )

    def said(name: str) -> str:
        score = grades.components[name][0]
        if score is not None:
            return f"{score:g}"
        failed = any(f"{name}/{kind}" in grades.counts for kind in ("infrastructure_failures", "errors", "lost"))
        return f"could not grade: {grades.dropped[0] or 'see above'}" if failed else "none (does not apply)"

    return [(reward.name, said(reward.name)) for reward in rewards]


def _small_files(path: str) -> Path:
    """The folder of a checkpoint; for a Hub name its config and tokenizer alone, not its weights."""
    if Path(path).exists() or "/" not in path:
        return resolve_folder(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.jinja", "merges.txt"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model.path {path}: no such folder, and the hub did not give it ({type(error).__name__}). Check the name "
            "and the connection, or download the model and give its folder."
        ) from error


def _collect(problems: list[str], load: Callable[[], T]) -> T | None:
    try:
        return load()
    except (DataError, ModelError, RewardError) as error:
        problems.append(str(error))
        return None


def _scored_rows_per_view(recipe: Recipe) -> float:
    """Rows of the head per view, on average, if no rollout ends early."""
    return recipe.method.estimator.scored_per_view(recipe.rollout.sampler)


def _print_prompt(prompt: Prompt, console: Console) -> None:
    console.rule(f"prompt {prompt.prompt_id}, {len(prompt.token_ids)} tokens", align="left")
    console.print(prompt.text, markup=False)
    console.print(f"token ids: {list(prompt.token_ids)}", markup=False, style="dim")
    console.print()


def _table(lines: list[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for what, how_much in lines:
        table.add_row(what, how_much)
    return table


def _parts(cost: dict[str, int]) -> str:
    return ", ".join(f"{cost[key]:,} {key}" for key in PHASES if cost[key])


def _steps(recipe: Recipe) -> int:
    return recipe.train.updates * recipe.method.inner_passes


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"

"""`unmask plan`: from a recipe and a choice of GPUs to what `rl.layout` needs, and the remedies where nothing fits.

No weights are read. Where the Hub is out of reach, sizes come from `rollouts.published` and the length of prompts from an assumption,
and the plan says so.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from rl.capacity import Adapter, Setting, Sizes
from rl.config import ModelConfig, Recipe, RecipeErrors, load_recipe
from rl.errors import CommandError
from rl.hardware import Hardware
from rl.layout import Choice, Workload, choose, fits
from rl.method import forwards
from rl.plan import Network, describe_network, open_network
from rl.setup import load_preferences, load_sets
from rollouts.decoders import build_decoder
from rollouts.families import Family, ModelError, find_family
from rollouts.lora import lora_matches
from rollouts.published import PUBLISHED

PROMPT_TOKENS = 256  # where the data cannot be read
UNREAD = "not/read"  # in place of a data file that is not there
FRESH_RANK = 16  # of an adapter that a remedy proposes
# Settings of a recipe that save memory, in the order in which they are proposed.
CHANGES = ("model.gradient_checkpointing=true", f"model.lora={{r: {FRESH_RANK}}}", "model.quantization=nf4")
MOST_GPUS = 1024
_INPUTS = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",)  # that share an input


@dataclass(frozen=True)
class GpuPlan:
    """Everything that is printed. remedies: what would make it fit, each tried; notes: what was assumed."""

    recipe: Recipe
    name: str
    setting: Setting
    family: str
    work: Workload
    hardware: Hardware
    utilisation: float
    choice: Choice
    remedies: tuple[str, ...]
    notes: tuple[str, ...]


def plan_gpus(
    source: str,
    overrides: Sequence[str],
    hardware: Hardware,
    *,
    utilisation: float = 0.35,
    prompt_tokens: int | None = None,
) -> GpuPlan:
    """Raises RecipeErrors, ModelError and CommandError."""
    recipe, notes = read_for_plan(source, overrides)
    setting, network, family, said = model_of(recipe)
    notes += said
    positions = network.max_length if network else _positions(recipe)
    assumed = max(1, min(PROMPT_TOKENS, positions - recipe.rollout.canvas))
    mean, longest, said = prompt_lengths(recipe, network, prompt_tokens, assumed)
    notes += said
    work = workload_of(recipe, mean, longest)
    if work.longest > positions:
        raise CommandError(
            f"a row of {work.longest} positions (prompt {longest}, canvas {recipe.rollout.canvas}) exceeds the model's {positions}; "
            "use a shorter canvas or prompts"
        )
    choice = choose(setting, work, hardware, utilisation)
    remedies = () if choice.chosen else tuple(find_remedies(setting, work, hardware))
    if hardware.assumed:
        notes.append(f"{hardware.gpu.name} is assumed by its memory; another: --gpu NAME")
    if recipe.warm_start is not None:
        notes.append(
            f"the warm start is not counted; set warm_start.micro_batch, its batches have {recipe.warm_start.batch} rows"
        )
    name = recipe.name or Path(source).stem
    return GpuPlan(
        recipe, name, setting, family, work, hardware, utilisation, choice, remedies, tuple(dict.fromkeys(notes))
    )


# -- the recipe, without its data -----------------------------------------------------------------------------------------


def read_for_plan(source: str, overrides: Sequence[str]) -> tuple[Recipe, list[str]]:
    """The checked recipe. Data files that are not there are no problem: a plan needs their prompts only to measure them."""
    try:
        return load_recipe(source, overrides), []
    except RecipeErrors as errors:
        absent = [one for one in errors.problems if one.key.endswith(".path") and "data" in one.key.split(".")]
        absent = [one for one in absent if one.message.startswith("there is no file")]
        if len(absent) < len(errors.problems):
            raise
    notes = [f"{one.key}: {one.message}" for one in absent if "eval" not in one.key and "validation" not in one.key]
    return load_recipe(source, [*overrides, *(f"{one.key}={UNREAD}" for one in absent)]), notes


def prompt_lengths(
    recipe: Recipe, network: Network | None, given: int | None, assumed: int = PROMPT_TOKENS
) -> tuple[float, int, list[str]]:
    """(mean, longest, notes) of the prompts to train on, in tokens. assumed: where they cannot be read."""
    if given is not None:
        return given, given, [f"prompts of {given} tokens, as --prompt-tokens says"]
    said = f"prompts of {assumed} tokens are assumed; another length: --prompt-tokens N"
    source = recipe.data.preferences or recipe.data.train
    if network is None or source is None or source.path == UNREAD:
        return assumed, assumed, [f"the data was not read: {said}"]
    alone = recipe.data.model_copy(update={"eval": None, "validation": None})
    only = recipe.model_copy(update={"data": alone, "warm_start": None, "eval": None})
    problems: list[str] = []
    found: Any = load_preferences(only, network, problems)
    if recipe.data.preferences is None:
        found = load_sets(only, network, (), problems).get("data.train")
    if found is None:
        why = problems[0].splitlines()[0] if problems else "no prompts"
        return assumed, assumed, [f"the data cannot be read ({why}): {said}"]
    lengths = [len(prompt.token_ids) for prompt in found.prompts]
    return sum(lengths) / len(lengths), max(lengths), []


def workload_of(recipe: Recipe, prompt: float, longest: int) -> Workload:
    """What one update does, at most: no rollout ends early, every group has a signal."""
    sampler, method, group = recipe.rollout.sampler, recipe.method, recipe.rollout.group_size
    prompts, stored = recipe.train.prompts_per_update, recipe.data.preferences is not None
    draws = 0 if stored else recipe.rollout.draws_per_rollout

    def costs(micro_batch: int) -> dict[str, int]:
        found = forwards(method, sampler, group, prompts, micro_batch)
        return {**found, "rollout": found["rollout"] * draws}

    each = method.estimator.views_per_rollout(sampler)
    scored = method.estimator.scored_per_view(sampler)
    block, steps = sampler.block, sampler.steps_per_block
    mean, most = (
        (sampler.canvas / sampler.steps, ceil(block / steps))
        if sampler.selection == "random"
        else (block * (steps + 1) / (2 * steps), block)
    )
    if recipe.rollout.strategy.kind == "recorded":  # the blocks to come are predicted, too
        mean, most = mean + (sampler.canvas - block) / 2, sampler.canvas
    return Workload(
        prompts=prompts,
        rollouts=prompts * group * draws,
        steps=sampler.steps,
        length=prompt + sampler.canvas,
        longest=longest + sampler.canvas,
        step_logits=mean,
        step_logits_most=most,
        trained_rows=ceil(costs(1)["views_per_pass"] / each),
        views=each,
        scored=scored,
        scored_most=min(float(sampler.canvas), 2 * scored),
        passes=method.inner_passes,
        reference=method.needs_reference,
        exact_kl=method.exact_kl,
        costs=costs,
        ahead=recipe.rollout.async_depth > 0,
    )


# -- the model, without its weights ----------------------------------------------------------------------------------------


def model_of(recipe: Recipe) -> tuple[Setting, Network | None, str, list[str]]:
    """(how the model is held, what is known of it with a tokenizer, family, notes). Raises ModelError."""
    try:
        opened = open_network(recipe)
    except ModelError:
        config = PUBLISHED.get(recipe.model.path)
        if config is None:
            raise
        family = find_family(config, recipe.model.path, recipe.model.family)
        decoder = build_decoder(family, config, recipe.model.path)
        note = f"{recipe.model.path} cannot be read here: its published sizes are used"
        return setting_of(recipe.model, family, decoder), None, family.name, [note]
    family, decoder, *_ = opened
    return setting_of(recipe.model, family, decoder), describe_network(recipe, *opened), family.name, []


def setting_of(model: ModelConfig, family: Family, decoder: Any) -> Setting:
    """A decoder (without weights) and a recipe's section ``model``, as numbers."""
    config = decoder.config
    sizes = Sizes(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        hidden=config.intermediate_size,
        vocabulary=config.vocab_size,
        parameters=sum(parameter.numel() for parameter in decoder.parameters()),
        qk_norm=any(name.endswith(".q_norm.weight") for name, _ in decoder.named_parameters()),
    )
    adapter = None
    if model.lora is not None:
        adapter = adapter_of(decoder, family, model.lora.r, model.lora.targets)
    elif model.adapter is not None:
        saved = _saved_adapter(Path(model.adapter).expanduser())
        adapter = adapter_of(decoder, family, saved["r"], saved["target_modules"])
    return Setting(
        sizes=sizes,
        adapter=adapter,
        bfloat16=model.dtype == "bfloat16",
        quantized=model.quantization == "nf4",
        checkpointing=model.gradient_checkpointing,
        eager=model.attention == "eager",
    )


def adapter_of(decoder: Any, family: Family, rank: int, targets: Any) -> Adapter:
    """LoRA on the modules that ``targets`` match."""
    names = {name for found in lora_matches(decoder, family, targets).values() for name in found}
    shapes = {name: tuple(decoder.get_parameter(f"{name}.weight").shape) for name in names}  # [out, in]
    short = {name.rpartition(".")[2] for name in names}
    layers, width, hidden = (
        decoder.config.num_hidden_layers,
        decoder.config.hidden_size,
        decoder.config.intermediate_size,
    )
    widths = (width, width, hidden)
    shared = sum(size for group, size in zip(_INPUTS, widths, strict=True) if short.intersection(group))
    return Adapter(
        rank=rank,
        numbers=sum(rank * sum(shape) for shape in shapes.values()),
        inputs=sum(shape[1] for shape in shapes.values()),
        shared=layers * shared,
        modules=len(names),
    )


def fresh_adapter(sizes: Sizes, rank: int = FRESH_RANK) -> Adapter:
    """An adapter on all seven matrices of every layer."""
    width, hidden, queries, keys = sizes.width, sizes.hidden, sizes.queries, sizes.keys
    inputs = 5 * width + queries + hidden
    outputs = queries + 2 * keys + width + 2 * hidden + width
    layers = sizes.layers
    return Adapter(rank, rank * layers * (inputs + outputs), layers * inputs, layers * (2 * width + hidden), 7 * layers)


def _positions(recipe: Recipe) -> int:
    config = PUBLISHED[recipe.model.path]
    return config.get("max_sequence_length") or config["max_position_embeddings"]


def _saved_adapter(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model.adapter {folder}: its adapter_config.json cannot be read ({error})") from error


# -- remedies -------------------------------------------------------------------------------------------------------------


def find_remedies(setting: Setting, work: Workload, hardware: Hardware) -> list[str]:
    """What would make an update fit, each tried: more GPUs of the kind, settings of the model alone, all of them together."""
    found = []
    count = next((n for n in _counts(hardware) if fits(setting, work, _grown(hardware, n))), None)
    if count is not None:
        alone = "ZeRO-3 over " if setting.adapter is None else ""
        found.append(f"{alone}{count} GPUs of {hardware.gpu.memory} GiB or more (ranks share the states)")
    single = [key for key in CHANGES if (changed := _changed(setting, key)) and fits(changed, work, hardware)]
    found += single
    if not single:
        together, keys = setting, []
        for key in CHANGES:
            changed = _changed(together, key)
            if changed is None:
                continue
            together, keys = changed, [*keys, key]
            if len(keys) > 1 and fits(together, work, hardware):
                found.append(" with ".join(keys))
                break
    if not found:
        found.append("GPUs with more memory, or a smaller model")
    return found


def _changed(setting: Setting, key: str) -> Setting | None:
    """The setting with one of ``CHANGES``; None where it is set already or has no meaning."""
    if key == "model.gradient_checkpointing=true":
        return None if setting.checkpointing else replace(setting, checkpointing=True)
    if key.startswith("model.lora="):
        return None if setting.adapter else replace(setting, adapter=fresh_adapter(setting.sizes))
    sensible = setting.adapter is not None and setting.bfloat16 and not setting.quantized
    return replace(setting, quantized=True) if sensible else None


def _counts(hardware: Hardware) -> list[int]:
    """Numbers of GPUs that are tried: every one up to 64, then doubled."""
    low = hardware.count + 1
    counts = [*range(low, 65)]
    large = 128
    while large <= MOST_GPUS:
        counts.append(large)
        large *= 2
    return [count for count in counts if count >= low]


def _grown(hardware: Hardware, count: int) -> Hardware:
    return replace(hardware, per_node=count, nodes=1)

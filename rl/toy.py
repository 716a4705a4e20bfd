"""`--toy`: any recipe made small, to see on a laptop in about a minute that everything in it fits together.

`toy_overrides` is a pure function from a recipe to overrides of it; they are shown, and the recipe they give is read, checked and run
like any other. The checkpoint becomes a small random one of the same family in its official format, so that loading, LoRA targets, chat
markup and export go the same way. What a toy writes is random, so its accuracy says nothing.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl import compatibility
from rl.config import Command, load_recipe
from rl.config_errors import COMMAND_LINE, Problem, RecipeErrors, listing
from rl.config_schema import ModelConfig, Recipe
from rollouts.checkpoints import read_config
from rollouts.families import FAMILIES, MADE, TINY, find_family
from rollouts.spec import SamplerSpec
from rollouts.strategies import Inpaint

# Part of a published name -> family. A folder or a model.family says it itself.
NAMES = {"llada": "llada", "dream": "dream", "diffucoder": "dream", "a2d": "a2d_qwen3", "qwen3": "a2d_qwen3"}
CANVAS, BLOCKS, STEPS_PER_BLOCK = 16, 2, 8  # at most
TAIL, CHUNK = 2, 2  # of hints, in tokens
LETTERS = 4  # characters that a token of a real tokenizer stands for, about: a toy has one token a character
UPDATES, PASSES, PROMPTS, GROUP = 2, 2, 2, 4
SFT_STEPS, SFT_BATCH = 10, 8
ROWS = {"data.train": 8, "data.eval": 4, "data.validation": 4, "data.preferences": 8, "warm_start.data": 16}


@dataclass(frozen=True)
class Change:
    """One setting that a toy run has otherwise than its recipe."""

    key: str
    before: Any
    after: Any
    why: str

    @property
    def override(self) -> str:
        return f"{self.key}={json.dumps(self.after)}"


def toy_recipe(
    source: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    *,
    provided: Collection[str] = (),
    command: Command = "train",
) -> tuple[Recipe, list[Change]]:
    """The recipe at toy size, and what differs from it at full size. The caller's overrides win over the toy's.

    Arguments as `rl.config.load_recipe` takes them. Raises RecipeErrors, also where the family of the checkpoint is not known.
    """
    full = load_recipe(source, overrides, provided=provided, command=command)
    given = [one.partition("=")[0].strip() for one in overrides]
    changes = [change for change in toy_overrides(full) if not any(_covers(key, change.key) for key in given)]
    settings = [*(change.override for change in changes), *overrides]
    return load_recipe(source, settings, provided=provided, command=command), changes


def toy_overrides(recipe: Recipe) -> list[Change]:
    """What makes a resolved recipe small. Only what differs from it; everything else stays as the recipe says."""
    wanted = [*_model(recipe), *_sizes(recipe), *_rows(recipe)]
    return [Change(key, _at(recipe, key), after, why) for key, after, why in wanted if _at(recipe, key) != after]


def describe(changes: Sequence[Change]) -> str:
    """What a person is told before a toy run: every setting that differs, a line each."""

    def said(value: Any) -> str:
        return "null" if value is None else json.dumps(value) if isinstance(value, (list, dict, bool)) else str(value)

    wide = max((len(one.key) for one in changes), default=0)
    lines = [
        f"  {one.key:<{wide}}  {said(one.before)} -> {said(one.after)}" + (f"  ({one.why})" if one.why else "")
        for one in changes
    ]
    head = (
        "--toy: the recipe made small, to see that everything fits together. The model is random: its accuracy says nothing,\n"
        "and where no rollout earns more than the others of its group, nothing is learned."
    )
    return "\n".join([head, *lines, "Everything else is as in the recipe.", ""])


def family_of(model: ModelConfig) -> str:
    """The family of a recipe's checkpoint, without the network: named, read from a local folder, or told by its published name."""
    if model.family != "auto":
        return model.family
    folder = Path(model.path).expanduser()
    if (folder / "config.json").is_file():
        return find_family(read_config(folder), str(folder / "config.json")).name
    name = model.path.rpartition("/")[2].lower()
    for part, family in NAMES.items():
        if part in name:
            return family
    what = f"--toy cannot tell the family of {model.path} from its name"
    raise RecipeErrors([Problem(COMMAND_LINE, "model.family", what, None, f"add one of: {listing(list(FAMILIES))}")])


def _model(recipe: Recipe) -> list[tuple[str, Any, str]]:
    model = recipe.model
    if model.path in MADE:
        return []
    path = f"{TINY}-{family_of(model)}"
    found: list[tuple[str, Any, str]] = [
        ("model.path", path, "two random layers of the same family, made on the spot, one token a character")
    ]
    if model.adapter is not None:
        found.append(("model.adapter", None, "it is made for the real checkpoint"))
        if model.lora is None:
            found.append(("model.lora", {"r": 16}, "in place of the adapter"))
    found.append(("model.quantization", "none", "4-bit weights need a GPU"))
    if model.attention == "flash_attention_2":
        found.append(("model.attention", "sdpa", "flash_attention_2 needs a GPU"))
    return found


def _sizes(recipe: Recipe) -> list[tuple[str, Any, str]]:
    """Canvas, steps, batches, updates; and what of the method counts in steps."""
    canvas = CANVAS
    holds = recipe.warm_start is not None or recipe.data.preferences is not None
    if holds:  # completions of the data, one token a character
        canvas = recipe.rollout.canvas * (1 if recipe.model.path in MADE else LETTERS)
    shape = _shrunk(recipe.rollout, canvas)
    found: list[tuple[str, Any, str]] = [
        ("rollout." + key, value, "room for completions, one token a character" if holds else "")
        for key, value in shape.items()
    ]
    sampler, group = recipe.rollout.sampler.model_copy(update=shape), min(GROUP, recipe.rollout.group_size)
    for key, _ in compatibility.problems(recipe.method, sampler, group):
        value = _at(recipe, f"method.{key}")
        if isinstance(value, int) and value > sampler.steps:
            found.append((f"method.{key}", sampler.steps, "no more than there are steps"))
    found += [
        *_hints(recipe),
        ("rollout.group_size", group, ""),
        ("method.inner_passes", min(PASSES, recipe.method.inner_passes), ""),
        ("train.prompts_per_update", min(PROMPTS, recipe.train.prompts_per_update), ""),
        ("train.updates", min(UPDATES, recipe.train.updates), ""),
        ("train.out", f"{recipe.out}-toy", "a folder of its own"),
        ("save.every", min(1, recipe.save.every), ""),
        ("track.sinks", [], "a toy is nothing to keep"),
    ]
    if recipe.warm_start is not None:
        found.append(("warm_start.steps", min(SFT_STEPS, recipe.warm_start.steps), ""))
        found.append(("warm_start.batch", min(SFT_BATCH, recipe.warm_start.batch), ""))
    return found + _evaluation(recipe, canvas)


def _hints(recipe: Recipe) -> list[tuple[str, Any, str]]:
    """Chunks of a trace that fit the small canvas."""
    strategy = recipe.rollout.strategy
    if not isinstance(strategy, Inpaint):
        return []
    low, high = strategy.chunk
    return [
        ("rollout.strategy.tail", min(TAIL, strategy.tail), ""),
        ("rollout.strategy.chunk", [min(CHUNK, low), min(2 * CHUNK, high)], ""),
    ]


def _evaluation(recipe: Recipe, canvas: int) -> list[tuple[str, Any, str]]:
    evaluation = recipe.eval
    if evaluation is None:
        return []
    found: list[tuple[str, Any, str]] = [("eval.every", min(1, evaluation.every), "")]
    own, shared = evaluation.sampler, recipe.rollout
    if any(getattr(own, key) != getattr(shared, key) for key in ("canvas", "block", "steps")):
        found += [(f"eval.sampler.{key}", value, "") for key, value in _shrunk(own, canvas).items()]
    counts = {_shrunk(own.model_copy(update={"steps": steps}), canvas)["steps"] for steps in evaluation.steps}
    found.append(("eval.steps", sorted(counts), ""))
    found.append(("eval.n", min(2, evaluation.n), ""))
    return found


def _rows(recipe: Recipe) -> list[tuple[str, Any, str]]:
    found = []
    for key, most in ROWS.items():
        split = _at(recipe, key)
        if split is not None:
            limit = _at(recipe, f"{key}.limit")
            found.append((f"{key}.limit", min(most, limit or most), "the first rows"))
    for number, rule in enumerate(recipe.data.hold_out):
        if rule.on_overlap != "count":
            found.append((f"data.hold_out.{number}.on_overlap", "count", "a toy may train on what it reports"))
    return found


def _shrunk(spec: SamplerSpec, canvas: int) -> dict[str, int]:
    """Canvas, block and steps: two blocks, or more that are short, and as many tokens a step as at full size where that leaves few."""
    blocks = min(spec.blocks, max(BLOCKS, canvas // spec.block))
    block = canvas // blocks if canvas > spec.canvas else min(spec.block, max(1, canvas // blocks))
    steps = round(block * spec.steps_per_block / spec.block)
    return {"canvas": blocks * block, "block": block, "steps": blocks * max(1, min(steps, block, STEPS_PER_BLOCK))}


def _at(recipe: Recipe, key: str) -> Any:
    """The value at a dotted key of the resolved recipe, as plain data; None where a section is not there."""
    node: Any = recipe.model_dump(mode="json")
    for part in key.split("."):
        node = node[int(part)] if isinstance(node, list) else node.get(part) if isinstance(node, dict) else None
    if key == "train.out" and node is None:
        return str(recipe.out)
    return node


def _covers(given: str, key: str) -> bool:
    """Whether an override of `given` says what stands at `key`, or in it."""
    return key == given or key.startswith(f"{given}.") or given.startswith(f"{key}.")

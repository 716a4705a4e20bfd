"""Checks between the sections of a recipe: combinations that each look fine and cannot run together."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.compat import SOURCES
from rewards.contract.load import available, load_rewards
from rewards.contract.reward import RewardError
from rewards.overlap import KINDS
from rl import compatibility
from rl.cluster_checks import cluster_problems
from rl.config_errors import listing, nearest
from rl.config_schema import HoldOut, Recipe, Split
from rl.likelihood import MeanField
from rl.track import missing
from rollouts.spec import SamplerSpec
from rollouts.strategies import Inpaint, Recorded

_BLOCKS = ("rollout.canvas", "rollout.block", "rollout.steps")


@dataclass(frozen=True)
class Check:
    """A problem found. The first of `keys` is where it is reported; left out where any of them is already wrong."""

    keys: tuple[str, ...]
    message: str
    remedy: str | None = None
    nearest: str | None = None


def checks(recipe: Recipe, provided: Collection[str], command: str) -> Iterator[Check]:
    """Every problem of a recipe that passed the schema. `provided` and `command` as in `rl.config.load_recipe`."""
    yield from _model(recipe)
    yield from _files(recipe)
    yield from _hold_out(recipe, provided, command)
    if command == "sft":
        yield from (Check(*found) for found in cluster_problems(recipe))
        if recipe.warm_start is None:
            yield Check(
                ("warm_start",), "is required by `unmask sft`", "add warm_start: {data: {path: ...}, steps: ...}"
            )
        if recipe.eval is not None:  # measured before and after, by a reward
            yield from _sampler(recipe)
            yield from _rewards(recipe, provided)
            yield from _evaluation(recipe, provided)
        return
    sampler = list(_sampler(recipe))
    yield from sampler
    if recipe.data.preferences is None or recipe.eval is not None:
        yield from _rewards(recipe, provided)
    yield from _evaluation(recipe, provided)
    if recipe.data.preferences is not None:
        yield from _preferences(recipe, provided)
    told = {check.keys[0] for check in sampler}
    for key, message in compatibility.problems(recipe.method, recipe.rollout.sampler, recipe.rollout.group_size):
        involved = tuple(re.findall(r"rollout\.\w+", message))
        if not told.intersection(involved):
            # What goes together with what hangs on all of these: where one could not be read, a default stands in for it.
            yield _split(f"method.{key}", message, (*involved, "method.estimator", "method.objective"))
    yield from _strategy(recipe)
    if command == "train":
        yield from _choosing(recipe)
    yield from (Check(*found) for found in cluster_problems(recipe))
    absent = missing(recipe.track.sinks)
    if absent:
        what = f"{listing(absent)}: not installed here"
        yield Check(("track.sinks",), what, "pip install 'unmask[track]', or leave it out")
    has_adapter = recipe.model.lora is not None or recipe.model.adapter is not None
    if recipe.method.kl.reference == "base" and recipe.method.needs_reference and not has_adapter:
        yield Check(
            ("method.kl.reference", "model.lora"),
            "base is the model without its adapter, and there is neither model.lora nor model.adapter",
            "use reference: start, or train with model.lora",
        )
    if recipe.data.train is None and recipe.data.preferences is None and "data.train" not in provided:
        yield Check(("data.train",), "is required: the prompts to train on", "add data: {train: {path: ...}}")


def _preferences(recipe: Recipe, provided: Collection[str]) -> Iterator[Check]:
    """Stored pairs take the place of prompts and their rollouts."""
    key, method = "data.preferences", recipe.method
    if recipe.data.train is not None or "data.train" in provided:
        what = "are pairs to train on, and data.train are prompts to sample for: a run has one of them"
        yield Check((key, "data.train"), what, "drop one; best and worst of sampled groups are preset online_vrpo")
    if method.objective.kind != "dpo":
        what = f"{method.objective.kind} learns from rollouts of the policy itself, which the answers in {key} are not"
        yield Check(("method.objective", key), what, "use method: vrpo, or data.train")
    if method.estimator.kind == "trajectory":
        what = f"trajectory scores the steps of a sampler, and the answers in {key} were not sampled here"
        yield Check(("method.estimator", key), what, "use estimator: {kind: elbo, length_normalized: false}")
    elif method.estimator.law == "sampler":
        what = f"the answers in {key} were not drawn by this sampler"
        yield Check(("method.estimator.law", key), what, "use law: raw")
    if recipe.rollout.group_size != 2:
        what = f"is {recipe.rollout.group_size}, and a stored pair is a group of two"
        yield Check(("rollout.group_size", key), what, "set rollout.group_size: 2")
    if recipe.eval is None and (recipe.rewards or "rewards" in provided):
        what = f"nothing is sampled under {key}, and so nothing is graded: there is no section eval"
        yield Check(("rewards", key), what, "add eval, or drop rewards")


def _choosing(recipe: Recipe) -> Iterator[Check]:
    """What chooses a checkpoint or an end looks at data.validation, never at the reported data.eval."""
    wanted = [("save.best_by", recipe.save.best_by), ("stop.plateau", recipe.stop.plateau)]
    for key, value in wanted:
        if value is None:
            continue
        if recipe.data.validation is None:
            yield Check(
                (key, "data.validation"),
                "needs prompts to choose by; data.eval is only reported, or its accuracy would be that of the luckiest moment",
                "add data.validation: {path: ...}, with other rows than data.eval",
            )
        if recipe.eval is None or recipe.eval.every == 0:
            yield Check((key, "eval.every"), "nothing is measured during the run", "set eval: {every: ...}")
    falls = recipe.health.eval_falls == "stop"
    if falls and recipe.data.validation is None:
        yield Check(
            ("health.eval_falls", "data.validation"),
            "is stop, which acts on data.validation alone, and there is none",
            "add data.validation: {path: ...}, or set health.eval_falls: warn",
        )
    if falls and (recipe.eval is None or recipe.eval.every == 0):
        what = "is stop, and nothing is measured during the run"
        yield Check(("health.eval_falls", "eval.every"), what, "set eval: {every: ...}, or health.eval_falls: warn")
    if recipe.data.validation is not None and not falls and all(value is None for _, value in wanted):
        yield Check(
            ("data.validation",), "nothing looks at it", "set save.best_by or stop.plateau, or drop data.validation"
        )
    if recipe.data.validation is not None and recipe.data.validation == recipe.data.eval:
        yield Check(("data.validation",), "is the same split as data.eval, which is reported", "use other rows")


def _split(key: str, message: str, also: tuple[str, ...] = ()) -> Check:
    """``what is wrong; what to do`` as a Check."""
    what, _, remedy = message.rpartition("; ")
    return Check((key, *also), what or remedy, remedy if what else None)


def _model(recipe: Recipe) -> Iterator[Check]:
    model = recipe.model
    if model.lora is not None and model.lora.dropout > 0:
        yield Check(
            ("model.lora.dropout",),
            f"is {model.lora.dropout:g}; dropout scores a policy that was not sampled, so the first ratio is not 1",
            "set model.lora.dropout: 0",
        )
    if model.attention == "flash_attention_2" and model.dtype == "float32":
        what = "flash_attention_2 computes in bfloat16 only, and model.dtype is float32"
        yield Check(("model.attention", "model.dtype"), what, "set model.dtype: bfloat16, or attention: sdpa")
    if model.lora is not None and model.lora.targets == ():
        yield Check(("model.lora.targets",), "is empty, so nothing would be trained", "use targets: auto")
    if model.quantization != "none" and model.lora is None and model.adapter is None:
        yield Check(
            ("model.quantization", "model.lora"),
            f"{model.quantization} weights are frozen, and without model.lora there is nothing else to train",
            "add model.lora: {r: 16}, or set quantization: none",
        )


def _files(recipe: Recipe) -> Iterator[Check]:
    for place in (recipe.out, *recipe.out.parents):
        if place.exists() and not place.is_dir():
            yield Check(
                ("train.out",), f"{place} is a file, and the run needs a folder there", "name another with --out"
            )
    splits: list[tuple[str, Split | None]] = [("data.train", recipe.data.train), ("data.eval", recipe.data.eval)]
    splits += [("data.preferences", recipe.data.preferences), ("data.validation", recipe.data.validation)]
    splits.append(("warm_start.data", recipe.warm_start.data if recipe.warm_start else None))
    held = enumerate(recipe.data.hold_out)
    splits += [(f"data.hold_out.{n}.against", rule.against) for n, rule in held if isinstance(rule.against, Split)]
    named = [(f"{key}.path", split.path) for key, split in splits if split is not None]
    named += [("model.path", recipe.model.path), ("model.adapter", recipe.model.adapter or "")]
    for key, name in named:
        path = Path(name)
        if path.is_absolute() and not path.exists():
            yield Check((key,), *missing_file(path))


def _hold_out(recipe: Recipe, provided: Collection[str], command: str) -> Iterator[Check]:
    """Rules that name what is not there, and settings that a rule does not use."""
    for number, rule in enumerate(recipe.data.hold_out):
        where, kind = f"data.hold_out.{number}", KINDS[rule.by]
        held = rule.against if isinstance(rule.against, str) else None
        if held is not None and f"data.{held}" not in provided and getattr(recipe.data, held) is None:
            what = f"is {held}, and there is no data.{held}"
            yield Check(
                (f"{where}.against", f"data.{held}"),
                what,
                "name the data, or drop this rule (all of them: data.hold_out=[])",
            )
        there = {"train": recipe.data.train, "preferences": recipe.data.preferences, "warm_start": recipe.warm_start}
        for name in rule.among:
            if there[name] is None and f"data.{name}" not in provided and command == "train":
                yield Check((f"{where}.among",), f"names {name}, and this recipe has none", "drop it from among")
        for name in ("ngram", "similarity"):
            if rule.by != "ngrams" and name in rule.model_fields_set and getattr(rule, name) is not None:
                default = HoldOut.model_fields[name].default
                if getattr(rule, name) != default:
                    what = f"is of by: ngrams, and this rule goes by {rule.by}"
                    yield Check((f"{where}.{name}", f"{where}.by"), what, "drop it")
        used = (*kind.needs, *kind.may_use)
        for name in rule.columns:
            if name not in used:
                what = f"by: {rule.by} has no use for {name!r}"
                yield Check((f"{where}.columns", f"{where}.by"), what, f"names: {listing(used)}", nearest(name, used))


def missing_file(path: Path) -> tuple[str, str | None, str | None]:
    """(message, remedy, nearest) for a path that is not there, from what is there."""
    folder = path.parent
    if not folder.is_dir():
        return f"there is no file {path}: the folder {folder} does not exist", "check the path", None
    names = sorted(one.name for one in folder.iterdir() if not one.name.startswith("."))
    alike = [name for name in names if Path(name).suffix == path.suffix] or names
    remedy = f"{folder} holds {listing(alike, 6)}" if alike else f"{folder} is empty"
    return f"there is no file {path}", remedy, nearest(path.name, names)


def _sampler(recipe: Recipe) -> Iterator[Check]:
    for key, message in recipe.rollout.problems():
        named = tuple(f"rollout.{name}" for name in SamplerSpec.model_fields if re.search(rf"\b{name}\b", message))
        yield _split(f"rollout.{key}", message, (*_BLOCKS, *named))
    if recipe.rollout.temperature == 0:
        yield Check(
            ("rollout.temperature",),
            "is 0: all rollouts of a group would be the same, so there is nothing to learn from",
            "use a temperature above 0; eval.sampler has its own, 0 by default",
        )


def _strategy(recipe: Recipe) -> Iterator[Check]:
    """What a rollout strategy and a method ask of each other, and of the sampler."""
    rollout, strategy, estimator = recipe.rollout, recipe.rollout.strategy, recipe.method.estimator
    if isinstance(strategy, Inpaint):
        if strategy.answer_after is None and not strategy.reveal_answer:
            yield Check(
                ("rollout.strategy.answer_after", "rollout.strategy"),
                "hints must not give the answer away, and nothing says where a trace gives it",
                "set answer_after: '####' (the text before the answer), or reveal_answer: true",
            )
        if strategy.answer_after is not None and strategy.reveal_answer:
            yield Check(
                ("rollout.strategy.reveal_answer", "rollout.strategy"),
                "is true, and answer_after cuts the answer off",
                "keep one of them",
            )
        if strategy.most(rollout.group_size) < 1:
            yield Check(
                ("rollout.strategy.replace", "rollout.group_size", "rollout.strategy"),
                f"{strategy.replace:g} of a group of {rollout.group_size} is not one rollout, so none would be replaced",
                f"use {1 / rollout.group_size:.2g} or more, or a larger rollout.group_size",
            )
        if strategy.tail + strategy.chunk[0] > rollout.canvas:
            yield Check(
                ("rollout.strategy.tail", "rollout.canvas", "rollout.strategy"),
                f"no chunk of {strategy.chunk[0]} tokens fits before the last {strategy.tail} positions of {rollout.canvas}",
                "use a smaller tail or smaller chunks",
            )
    elif isinstance(estimator, MeanField) and estimator.hints is not None:
        yield Check(
            ("method.estimator.hints", "rollout.strategy"),
            f"trains on hints, and rollout.strategy {strategy.kind} gives none",
            "set rollout.strategy: {kind: inpaint}, or hints: null",
        )
    if recipe.method.advantage == "stepwise" and not isinstance(strategy, Recorded):
        yield Check(
            ("method.advantage", "rollout.strategy"),
            f"stepwise takes the rewards of recorded answers, and rollout.strategy {strategy.kind} records none",
            "set rollout.strategy: {kind: recorded}, or another advantage",
        )
    if isinstance(strategy, Recorded) and rollout.selection != "confidence":
        yield Check(
            ("rollout.selection", "rollout.strategy"),
            f"{rollout.selection} draws no answer at every masked position, which is what strategy recorded keeps",
            "use selection: confidence",
        )


def _rewards(recipe: Recipe, provided: Collection[str]) -> Iterator[Check]:
    if not recipe.rewards and "rewards" not in provided:
        yield Check(("rewards",), "no reward function is named", "add rewards: [{fn: gsm8k.correct}]")
        return
    if recipe.rewards and all(entry.weight == 0 for entry in recipe.rewards) and "rewards" not in provided:
        yield Check(
            ("rewards.0.weight", "rewards"),
            "every reward has weight 0, which only logs them",
            "give at least one a weight other than 0",
        )
    entries = [entry.model_dump() for entry in recipe.rewards]
    broken: set[int] = set()
    try:  # finding the functions reads the user's files; that is the only way to know their names
        load_rewards(entries, base=Path.cwd())
    except RewardError as error:
        for key, message in error.problems:
            broken.add(int(re.findall(r"\[(\d+)\]", key)[0]))
            yield Check((re.sub(r"\[(\d+)\]", r".\1", key),), message)
    if "rewards" not in provided:
        yield from _named_rewards(recipe, entries, broken)


def _named_rewards(recipe: Recipe, entries: list[dict[str, Any]], broken: set[int]) -> Iterator[Check]:
    """`outcome` and `save.best_by` name rewards. What an entry with an error will be called once it is mended is not known:
    a name that it may have then is left alone."""
    sound = [entry for index, entry in enumerate(entries) if index not in broken]
    names = [reward.name for reward in load_rewards(sound, base=Path.cwd())]
    coming = {name for index in broken for name in _names_once_mended(entries[index])}
    keys = [f"rewards.{index}.{part}" for index in range(len(entries)) for part in ("fn", "name")]
    for key, name in (("outcome", recipe.outcome), ("save.best_by", recipe.save.best_by)):
        if name is None or name in names or name in coming or nearest(name, coming - set(available())):
            continue
        near = nearest(name, [*names, *coming])
        remedy = f"rewards: {listing(names)}" if names else "name one of the recipe's rewards"
        yield Check((key, *keys), f"there is no reward {name!r}", remedy, near)


def _names_once_mended(entry: dict[str, Any]) -> set[str]:
    own = entry.get("name") or str(entry["fn"]).rpartition(":")[2]
    if entry.get("name") or ":" in str(entry["fn"]):
        return {own}
    if entry["kwargs"].get("compat") is not None:
        return {f"{name}{suffix}" for name in available() for suffix in ("", *(f"_{one}" for one in SOURCES))}
    return set(available())


def _evaluation(recipe: Recipe, provided: Collection[str]) -> Iterator[Check]:
    evaluation = recipe.eval
    if evaluation is None:
        if recipe.data.eval is not None or "data.eval" in provided:
            yield Check(
                ("data.eval", "eval"),
                "nothing evaluates on it: there is no section eval",
                "add eval: {every: 0}, or drop it",
            )
        return
    if recipe.data.eval is None and "data.eval" not in provided:
        yield Check(
            ("data.eval",), "is required by eval: there are no prompts to evaluate on", "add data.eval: {path: ...}"
        )
    # What eval.sampler inherits from rollout is reported there, once.
    known = {message for _, message in recipe.rollout.problems()}
    for key, message in evaluation.sampler.problems():
        if message not in known:
            yield _split(f"eval.sampler.{key}", message, ("eval.sampler", *_BLOCKS))
    if evaluation.sampler.problems():
        return
    for index, steps in enumerate(evaluation.steps):
        spec: SamplerSpec = evaluation.sampler.model_copy(update={"steps": steps})
        for _, message in spec.problems():
            yield _split(f"eval.steps.{index}", message, ("eval.sampler", *_BLOCKS))

"""What the head of the report says about a run, from its recipe and summary: facts, samplers, and how the runs differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from rl.report_data import RunData, at, flat, section

# Where a run lies and what it is called is no difference between experiments.
_NOT_COMPARED = {"name", "train.out"}
_SAMPLER = ("canvas", "block", "steps", "selection", "temperature", "top_p", "eos", "early_stop", "forbid")


def facts(run: RunData) -> list[tuple[str, str]]:
    """``(label, text)`` in the order of the page; what the recipe does not say is left out."""
    recipe = run.recipe
    lora, seconds = at(recipe, "model.lora"), at(run.summary, "wall_seconds")
    size = at(recipe, "train.prompts_per_update"), at(recipe, "rollout.group_size")
    optim, kl = section(recipe, "optim"), section(recipe, "method.kl")
    passes = at(recipe, "method.inner_passes")
    rows: list[tuple[str, str | None]] = [
        (
            "Model",
            _joined(at(recipe, "model.path"), at(recipe, "model.family"), at(recipe, "model.dtype"), _lora(lora)),
        ),
        ("Prompts", _split(at(recipe, "data.train"))),
        ("Pairs", _split(at(recipe, "data.preferences"))),
        ("Held out", _split(at(recipe, "data.eval"))),
        ("Validation", _split(at(recipe, "data.validation"))),
        ("Rewards", _rewards(recipe)),
        ("Method", _words("", at(recipe, "method.preset"))),
        ("Estimator", _component(at(recipe, "method.estimator"))),
        ("Objective", _component(at(recipe, "method.objective"))),
        ("Advantage", _joined(at(recipe, "method.advantage"), _words("reduction", at(recipe, "method.reduction")))),
        (
            "Reference",
            _component({"kind": kl.get("estimator", "KL"), **_without(kl, "estimator")}) if kl.get("beta") else None,
        ),
        (
            "Batch",
            _joined(
                f"{size[0]} prompts × {size[1]} rollouts",
                None if passes in (None, 1) else f"{said(passes)} inner passes",
            )
            if all(size)
            else None,
        ),
        (
            "Optimizer",
            _joined(*(_words(name, optim.get(name)) for name in ("lr", "schedule", "warmup_steps", "max_grad_norm"))),
        ),
        ("Training sampler", _sampler(at(recipe, "rollout"))),
        ("Drawn ahead", _ahead(recipe)),
        ("Evaluation sampler", _evaluation_sampler(recipe)),
        ("Seed", _words("", at(recipe, "train.seed"))),
        ("Best", _best(at(run.summary, "best"))),
        (
            "Time",
            " · ".join(f"{name} {duration(value)}" for name, value in seconds.items())
            if isinstance(seconds, Mapping)
            else None,
        ),
        ("Versions", _versions(run.summary)),
    ]
    return [(label, text) for label, text in rows if text]


def sampler_differences(recipe: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """``(key, in training, in evaluation)`` where the two samplers differ."""
    training, evaluation = section(recipe, "rollout"), section(recipe, "eval.sampler")
    return [
        (key, training[key], evaluation[key])
        for key in _SAMPLER
        if key in training and key in evaluation and training[key] != evaluation[key]
    ]


def recipe_differences(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    """``(key, value in each run)`` for every key of the recipes that is not the same in all of them."""
    sides = [flat(run.recipe) for run in runs]
    keys = list(dict.fromkeys(key for side in sides for key in side if key not in _NOT_COMPARED))
    found = []
    for key in keys:
        values = [said(side[key]) if key in side else "–" for side in sides]
        if len(set(values)) > 1:
            found.append((key, values))
    return found


def said(value: Any) -> str:
    """A setting as it is read: ``off`` for nothing, numbers short, lists with commas."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(said, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {said(item)}" for name, item in value.items()) + "}"
    return str(value)


def duration(seconds: Any) -> str:
    """``3 h 12 min``, ``4 min 5 s``, ``12 s``."""
    if not isinstance(seconds, (int, float)):
        return said(seconds)
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 9.5 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _joined(*parts: Any) -> str | None:
    return " · ".join(str(part) for part in parts if part not in (None, "")) or None


def _words(name: str, value: Any) -> str | None:
    return None if value is None else f"{name} {said(value)}".strip()


def _without(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}


def _component(data: Any) -> str | None:
    """``mean_field: unit token, law raw``."""
    if not isinstance(data, Mapping) or not data:
        return None
    kind = data.get("kind", "")
    details = ", ".join(f"{name} {said(value)}" for name, value in data.items() if name != "kind" and value is not None)
    return f"{kind}: {details}" if details else str(kind)


def _lora(lora: Any) -> str | None:
    if lora is None:
        return "all weights"
    return f"LoRA r {said(at(lora, 'r'))}, alpha {said(at(lora, 'alpha'))}" if isinstance(lora, Mapping) else None


def _split(split: Any) -> str | None:
    if not isinstance(split, Mapping):
        return None
    chosen = ", ".join(f"{name} {said(value)}" for name, value in (split.get("where") or {}).items()) or None
    return _joined(
        split.get("path"), split.get("name"), split.get("split"), chosen, _words("first", split.get("limit"))
    )


def _rewards(recipe: Mapping[str, Any]) -> str | None:
    listed = recipe.get("rewards")
    entries = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
    named = [f"{entry.get('name') or entry.get('fn')} × {said(entry.get('weight', 1))}" for entry in entries]
    outcome = recipe.get("outcome")
    return _joined(", ".join(named), f"accuracy is {outcome}" if outcome else None)


def _sampler(spec: Any) -> str | None:
    if not isinstance(spec, Mapping) or not spec:
        return None
    parts = [
        f"canvas {spec.get('canvas')} in blocks of {spec.get('block')}",
        f"{spec.get('steps')} steps",
        f"keeps by {spec.get('selection')}",
        f"temperature {said(spec.get('temperature'))}",
        f"top_p {said(spec['top_p'])}" if spec.get("top_p") not in (None, 1.0) else None,
        f"EOS: {spec.get('eos')}",
        "early stop" if spec.get("early_stop") else "no early stop",
    ]
    return _joined(*parts)


def _evaluation_sampler(recipe: Mapping[str, Any]) -> str | None:
    if not isinstance(at(recipe, "eval.sampler"), Mapping):
        return None
    differences = sampler_differences(recipe)
    if not differences:
        return "the same as in training"
    changed = " · ".join(f"{key} {said(one)} → {said(other)}" for key, one, other in differences)
    return f"differs from training: {changed}"


def _best(best: Any) -> str | None:
    """The checkpoint that validation chose."""
    if not isinstance(best, Mapping) or not isinstance(best.get("value"), (int, float)):
        return None
    return f"update {best.get('update')}, by validation: {best.get('reward', 'value')} {best['value']:.3g}"


def _versions(summary: Mapping[str, Any]) -> str | None:
    versions = at(summary, "versions")
    if not isinstance(versions, Mapping):
        return None
    commit = at(summary, "commit")
    return _joined(
        *(f"{name} {value}" for name, value in versions.items()), f"commit {str(commit)[:12]}" if commit else None
    )


def _ahead(recipe: Mapping[str, Any]) -> str | None:
    depth, correction = at(recipe, "rollout.async_depth"), at(recipe, "method.correction")
    if not depth:
        return None
    treated = "taken for the policy's own"
    if correction:
        treated = f"weighed per {correction['per']}, at most {correction['most']:g}"
    return f"{depth} update{'s' if depth > 1 else ''}; rollouts of older weights are {treated}"

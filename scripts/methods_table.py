#!/usr/bin/env python
"""Writes the table of presets in docs/methods.md from the presets and the recipes. `--check` only says whether it is current.

.venv/bin/python scripts/methods_table.py
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rl.config_schema import TrainConfig
from rl.method import Constant, Method, forwards
from rl.presets import PAPERS, PRESETS, resolve
from rl.recipes import recipe_folder, recipe_names
from rollouts.spec import SamplerSpec

DOCS = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
BEGIN = "<!-- presets: written by scripts/methods_table.py -->"
END = "<!-- end of presets -->"
HEAD = """\
| preset | paper | estimator | objective; advantage; mean; passes; KL | scoring law | cost | recipe |
|---|---|---|---|---|---|---|
"""


@cache
def read(recipe: str) -> dict[str, Any]:
    return yaml.safe_load((recipe_folder() / f"{recipe}.yaml").read_text(encoding="utf-8"))


def method_of_recipe(recipe: str) -> Method:
    raw = read(recipe).get("method") or {}
    return Method.model_validate(resolve({"preset": raw} if isinstance(raw, str) else raw))


def sampler_of_recipe(recipe: str) -> SamplerSpec:
    rollout = read(recipe)["rollout"]
    return SamplerSpec(**{key: value for key, value in rollout.items() if key in SamplerSpec.model_fields})


def recipes_of(preset: str) -> list[str]:
    """The recipes of a preset, those that change least of it first."""
    own = Method.model_validate(resolve({"preset": preset})).model_dump()

    def changes(recipe: str) -> int:
        return sum(value != own[key] for key, value in method_of_recipe(recipe).model_dump().items())

    found = [name for name in recipe_names() if method_of_recipe(name).preset == preset]
    return sorted(found, key=lambda name: (changes(name), "gsm8k" not in name, name))


def recipe_of(preset: str) -> str | None:
    return next(iter(recipes_of(preset)), None)


def estimator_text(method: Method) -> str:
    """Kind, and every setting that is not its default."""
    estimator = method.estimator
    defaults = type(estimator)().model_dump()
    chosen = estimator.model_dump()
    own = {"unit": chosen["unit"]} | {key: value for key, value in chosen.items() if value != defaults[key]}
    own.pop("kind", None)
    own.pop("law", None)  # has a column of its own
    return ", ".join([estimator.kind, *(f"{key}: {_short(value)}" for key, value in own.items())])


def objective_text(method: Method) -> str:
    objective = method.objective.model_dump()
    ratio = {"epsilon_low", "epsilon_high"} <= set(objective)
    text = objective.pop("kind")
    if ratio:
        low, high = objective.pop("epsilon_low"), objective.pop("epsilon_high")
        text += f" {low:g}" if low == high else f" {low:g}/{high:g}"
    text += "".join(f", {key}: {_short(value)}" for key, value in objective.items() if value is not None)
    mean = f"constant {method.reduction.constant:g}" if isinstance(method.reduction, Constant) else method.reduction
    passes = "1 pass" if method.inner_passes == 1 else f"{method.inner_passes} passes"
    parts = [text, method.advantage, mean, passes]
    if method.kl.beta > 0:
        parts.append(f"{method.kl.estimator} {method.kl.beta:g} to {method.kl.reference}")
    return "; ".join(parts)


def micro_batch_of_recipe(recipe: str) -> int:
    return TrainConfig(**read(recipe).get("train", {})).micro_batch


def cost_text(method: Method, sampler: SamplerSpec, micro_batch: int) -> str:
    """Forwards of one rollout in one update, a backward counted as two: all = denoising + old + reference + train."""
    cost = forwards(method, sampler, 1, 1, micro_batch)
    train = 3 * cost["train"]
    parts = [cost["rollout"], cost["old"], cost["reference"], train]
    return f"{sum(parts)} = {' + '.join(map(str, parts))}"


def row(preset: str) -> str:
    own, recipes = Method.model_validate(resolve({"preset": preset})), recipes_of(preset)
    law, cost = own.scoring_law(SamplerSpec()), "no recipe"
    if recipes:
        method, sampler = method_of_recipe(recipes[0]), sampler_of_recipe(recipes[0])
        law, cost = method.scoring_law(sampler), cost_text(method, sampler, micro_batch_of_recipe(recipes[0]))
    cells = [f"`{preset}`", PAPERS[preset], estimator_text(own), objective_text(own), law, cost]
    return f"| {' | '.join([*cells, ', '.join(f'`{name}`' for name in recipes) or 'none'])} |"


def table() -> str:
    return f"{BEGIN}\n{HEAD}" + "".join(f"{row(preset)}\n" for preset in PRESETS) + END


def updated(text: str) -> str:
    """The page with the table of today."""
    before, rest = text.split(BEGIN)
    return before + table() + rest.split(END)[1]


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def main(arguments: list[str]) -> int:
    text = DOCS.read_text(encoding="utf-8")
    if updated(text) == text:
        return 0
    if "--check" in arguments:
        print("the table in docs/methods.md is stale; run .venv/bin/python scripts/methods_table.py", file=sys.stderr)
        return 1
    DOCS.write_text(updated(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

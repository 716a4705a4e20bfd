"""The table of docs/methods.md is that of the presets and recipes, and its costs are those of the published settings."""

import re
from pathlib import Path

import pytest

from rl import compatibility
from rl.method import Method
from rl.presets import PAPERS, PRESETS, resolve
from scripts.methods_table import (
    DOCS,
    cost_text,
    estimator_text,
    main,
    method_of_recipe,
    micro_batch_of_recipe,
    recipes_of,
    row,
    updated,
)
from scripts.methods_table import sampler_of_recipe as sampler_of


def test_the_table_is_current() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert updated(text) == text, "run .venv/bin/python scripts/methods_table.py"


def test_a_stale_table_is_noticed_and_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "methods.md"
    page.write_text(DOCS.read_text(encoding="utf-8").replace("| `raft` |", "| `rafter` |", 1), encoding="utf-8")
    monkeypatch.setattr("scripts.methods_table.DOCS", page)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    assert page.read_text(encoding="utf-8") == DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_paper_and_a_recipe(preset: str) -> None:
    assert preset in PAPERS, f"add {preset} to PAPERS in rl/presets.py"
    (name, *_) = recipes_of(preset) or [None]
    assert name is not None, f"recipes/ has no recipe of {preset}"
    assert not compatibility.problems(method_of_recipe(name), sampler_of(name), 8)
    assert row(preset).count("|") == 8


@pytest.mark.parametrize(
    ("preset", "total"),
    [("diffu_grpo", 187), ("coupled_grpo", 283), ("espo", 412), ("agrpo", 200), ("cj_grpo", 832), ("just_grpo", 1024)],
)
def test_costs_are_those_of_the_published_settings(preset: str, total: int) -> None:
    """Counted by hand from the papers' own settings: denoising + old (none on the first pass) + reference + 3 x training."""
    name = recipes_of(preset)[0]
    text = cost_text(method_of_recipe(name), sampler_of(name), micro_batch_of_recipe(name))
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    assert numbers[0] == total == sum(numbers[1:])


def test_settings_that_are_not_defaults_are_shown() -> None:
    assert estimator_text(Method.model_validate(resolve({"preset": "d2"}))) == "trajectory, unit: token, segments: 8"
    assert (
        estimator_text(Method.model_validate(resolve({"preset": "espo"}))) == "elbo, unit: sequence, pair: complement"
    )

"""The grid of methods: every preset is a sound recipe of its task, a run fills the file once, and the verdict follows the rows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import methods
from rl.config import load_recipe
from rl.presets import PRESETS
from rl.progress import Reporter

SETTING = methods.Setting(seconds=0.1, warm_steps=2, prompts=2, lr=1e-3, limit=8)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in methods.LEFT_OUT])
def test_every_preset_is_a_sound_recipe_of_the_task(preset: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train", "test"):
        (tmp_path / "data" / f"{name}.jsonl").write_text('{"prompt": "1", "solution": "2", "grid_id": 0}\n')
    loaded = load_recipe(methods.recipe(preset, 0, SETTING, tmp_path, tmp_path))
    assert loaded.method.preset == preset
    assert loaded.optim.lr == 1e-3
    assert (loaded.rollout.steps, loaded.train.threads, loaded.stop.hours) == (4, 1, 0.1 / 3600)


def row(preset: str, seed: int, after: list[float]) -> dict[str, Any]:
    return {
        "cell": {"preset": preset, "seed": seed},
        "before": [0.0] * len(after),
        "after": after,
        "grids": [str(i) for i in range(len(after))],
        "updates": 7,
    }


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [(0.9, 0.1, "holds"), (0.1, 0.9, "fails: the order is worse"), (0.5, 0.5, "is not shown either way")],
)
def test_the_verdict_is_that_of_the_interval(ours: float, theirs: float, said: str) -> None:
    size = 40

    def outcomes(accuracy: float, shift: int) -> list[float]:
        return [float((i + shift) % size < accuracy * size) for i in range(size)]

    rows = [row("order_grpo", seed, outcomes(ours, 0)) for seed in (0, 1)]
    rows += [row("trajectory_grpo", seed, outcomes(theirs, 20)) for seed in (0, 1)]
    assert f"The hypothesis {said}." in methods.verdict(rows)
    lines = methods.summary(rows).splitlines()
    best = "order_grpo" if ours >= theirs else "trajectory_grpo"
    assert f"`{best}`" in lines[2]
    assert methods.verdict(rows[:3]) == ""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_small_grid_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rl.quickstart.TRAIN_PER_GRID", 1)
    out, setting = tmp_path / "methods.jsonl", replace(SETTING, seconds=8.0)
    with Reporter(quiet=True) as live:
        rows = methods.run_grid(["diffu_grpo", "mdpo"], [0], setting, out, live)
        assert [one["cell"]["preset"] for one in rows] == ["diffu_grpo", "mdpo"]
        assert rows[0]["before"] == rows[1]["before"]
        assert all(one["updates"] >= 1 and len(one["after"]) == len(one["grids"]) == 8 for one in rows)
        assert methods.run_grid(["diffu_grpo", "mdpo"], [0], setting, out, live) == json.loads(json.dumps(rows))
    assert len(out.read_text().splitlines()) == 2
    assert "nan" not in methods.summary(rows)

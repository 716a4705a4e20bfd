"""The IGPO benchmark: its arms are recipes that differ in what they say they do, a run fills the file, and tables read it."""

import json
from pathlib import Path

import pytest

from benchmarks import igpo
from rl.config import load_recipe
from rl.progress import Reporter

SETTING = igpo.Setting(updates=2, warm_steps=2, prompts=2, lr=1e-3, limit=8)


def test_the_arms_differ_in_method_and_hints_only(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train", "test"):
        (tmp_path / "data" / f"{name}.jsonl").write_text('{"prompt": "1", "solution": "2", "grid_id": 0}\n')
    loaded = {arm: load_recipe(igpo.recipe(arm, 0, SETTING, tmp_path, tmp_path)) for arm in igpo.ARMS}
    plain = {arm: one.rollout.model_copy(update={"strategy": None}) for arm, one in loaded.items()}
    assert len({str(one) for one in plain.values()}) == 1
    assert [one.rollout.strategy.kind for one in loaded.values()] == ["inpaint", "groups", "groups"]
    hints, none = (loaded[arm].method.model_dump() for arm in ("igpo", "no_hints"))
    assert hints["estimator"].pop("hints") == 0.2
    assert none["estimator"].pop("hints") is None
    assert hints == none
    assert len({one.method.inner_passes for one in loaded.values()}) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_small_grid_is_run_once_and_the_budgets_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rl.quickstart.TRAIN_PER_GRID", 1)  # what is written is read again by every run
    out = tmp_path / "igpo.jsonl"
    with Reporter(quiet=True) as live:
        rows = igpo.run_grid([0], SETTING, out, live)
    assert [row["cell"]["arm"] for row in rows] == list(igpo.ARMS)
    most = rows[0]["forwards"]
    for row in rows:
        assert most - row["forwards"] <= row["forwards"] / row["updates"]  # to within one update
        assert len(row["after"]) == len(row["before"]) == len(row["grids"]) == 8
        assert len(row["failed_groups"]) == row["updates"]
    assert rows[0]["before"] == rows[1]["before"] == rows[2]["before"]
    with Reporter(quiet=True) as live:
        assert igpo.run_grid([0], SETTING, out, live) == json.loads(json.dumps(rows))
    assert len(out.read_text().splitlines()) == 3
    tables = igpo.accuracy_table(rows) + igpo.curve_table(rows, "failed_groups")
    assert "nan" not in tables
    assert all(f"| {arm} |" in tables for arm in igpo.ARMS)

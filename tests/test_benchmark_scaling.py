"""The benchmark of the driver: what simulated workers send is what real ones send, the fit finds costs that it was given, and a small
grid is measured once."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import _scaling_model as model
from benchmarks import _scaling_run as run
from benchmarks import _scaling_workers as workers
from benchmarks import scaling
from rl.hardware import GPUS, Hardware
from rl.masks import PlanKey
from rl.plan_gpus import plan_gpus
from rl.rank import Rank
from rollouts.spec import SamplerSpec
from rollouts.strategy import sample_groups
from rollouts.trajectory import RolloutBatch
from tests.oracles.training import PROMPTS, SPEC, preset_of, tiny_policy

# -- the stand-ins -----------------------------------------------------------------------------------------------------


def simulated(prompts: Any, spec: SamplerSpec, group: int) -> RolloutBatch:
    """As the driver receives it."""
    options = {"group_size": group, "first_rollout": 6, "policy_version": 1, "group_ids": range(3, 5)}
    return pickle.loads(pickle.dumps(workers.rollouts(prompts, spec, {**options, "prompt_ids": range(2)}, 99)))


def test_simulated_rollouts_are_sound_and_of_the_true_size() -> None:
    spec = SamplerSpec(canvas=64, block=32, steps=16)
    batch = simulated([[1] * 8, [2] * 8], spec, 3)
    batch.validate()
    assert batch.rollout_id.tolist() == [6, 7, 8, 9, 10, 11]
    assert batch.group_id.tolist() == [3, 3, 3, 4, 4, 4]
    assert bool(batch.step_mask.all())  # some tokens are revealed at every step
    assert len(set(run.digit(list(batch.texts)))) > 1
    options = {"group_size": 2, "prompt_ids": range(len(PROMPTS)), "seed": 5, "step": 0}
    real = sample_groups(tiny_policy(), PROMPTS, SPEC, **options)
    for name, value in vars(real).items():
        mine = getattr(batch, name)
        assert type(mine) is type(value), name
        assert not isinstance(value, torch.Tensor) or mine.dtype == value.dtype, name
    wide = [v for v in vars(batch).values() if isinstance(v, torch.Tensor) and v.shape == batch.tokens.shape]
    assert sum(value.nbytes for value in wide) == run.POSITION_BYTES * batch.tokens.numel()
    plan = preset_of("espo").estimator.plan_of(real, torch.ones(len(real)), PlanKey(0, 0))
    whole = [v for v in vars(plan).values() if isinstance(v, torch.Tensor) and v.ndim == 2]
    assert sum(value.nbytes for value in whole) == run.PLAN_BYTES * plan.masked.numel()


def test_simulated_ranks_answer_what_real_ones_are_asked() -> None:
    verbs = {name for name in vars(Rank) if not name.startswith("_")}
    missing = verbs - set(vars(workers.SimulatedRank))
    assert missing == {"ready", "anchors", "load_state", "lay", "open_line", "send"}  # which no cell asks


# -- the fit -----------------------------------------------------------------------------------------------------------


def row_of(cell: run.Cell, costs: model.Costs, noise: float = 1.0) -> dict[str, Any]:
    """A row of the results file that cost exactly this."""
    forwards = 1 + 2 * cell.passes
    views, length = cell.prompts * cell.group * 4, (run.PROMPT + cell.canvas)
    counts = {
        "pieces": run.pieces_of(cell),
        "calls": forwards + cell.passes,
        "forwards": forwards,
        "views": views,
        "scores_mb": 4e-6 * views * length,
        "moved_mb": 1e-5 * views * length * forwards,
        "batch_mb": 3.2e-5 * cell.prompts * cell.group * length,
    }
    row: dict[str, Any] = {"cell": scaling.key_of(cell), "counts": counts, "per_mb": {"get": 2e-4}}
    spent = {name: noise * value for name, value in model.predicted(costs, model.counts_of(row)).items()}
    return {**row, "driver": spent, "overhead": {name: 2 * value for name, value in spent.items()}}


def some_costs() -> model.Costs:
    """Each term a millisecond or a few, those with large counts less."""
    return {phase: {name: 0.01 / (1 + i) for i, name in enumerate(terms)} for phase, terms in model.TERMS.items()}


def test_the_fit_finds_costs_it_was_given() -> None:
    costs = some_costs()
    rows = [row_of(cell, costs) for cell in scaling.GRID]
    found = model.fit(rows)
    held = [row_of(cell, costs) for cell in scaling.HELD_OUT]
    for phase, terms in costs.items():
        for name, cost in terms.items():
            assert found[phase][name] == pytest.approx(cost, rel=1e-3), (phase, name)
    for values in model.errors(found, held).values():
        assert values == pytest.approx([1.0] * len(held), rel=1e-3)


def test_the_grid_tells_the_terms_apart() -> None:
    """Noise of 10 % in the rows moves no prediction of the rows that are held out by much more."""
    costs, noise = some_costs(), np.random.default_rng(0)
    rows = [row_of(cell, costs, float(noise.uniform(0.9, 1.1))) for cell in scaling.GRID]
    held = [row_of(cell, costs) for cell in scaling.HELD_OUT]
    found = model.errors(model.fit(rows), held)
    assert all(0.7 < value < 1.4 for values in found.values() for value in values)


def test_no_cost_is_negative() -> None:
    table = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    assert model.non_negative(table, np.array([3.0, 2.0, 1.0])).tolist() == [pytest.approx(2.0), 0.0]
    assert model.non_negative(table, -np.ones(3)).tolist() == [0.0, 0.0]


# -- many GPUs ---------------------------------------------------------------------------------------------------------


def test_counts_of_a_plan() -> None:
    plan = plan_gpus("llada_8b_gsm8k_espo", [], Hardware(GPUS["H100-80"], 8), prompt_tokens=256)
    counts = model.counts_of_plan(plan)
    assert (counts.samplers, counts.learners, counts.groups, counts.rollouts) == (8, 8, 16, 96)
    assert counts.views == 96 * 4
    assert counts.forwards == 7 + 8 + 8  # old of all passes but the first, reference and train of every one
    assert counts.calls == counts.forwards + 8  # and the optimizer's step
    assert counts.scores_mb == pytest.approx(384 * 512 * 4e-6)
    assert counts.weights_mb == pytest.approx(plan.setting.trained * 4e-6)


def test_more_gpus_cost_the_driver_more() -> None:
    fitted = model.Fitted(some_costs(), {"queue": 0.01, "weights": 0.01, "calls": 0.01}, 2e-4)
    points = scaling.extrapolate(fitted, "llada_8b_gsm8k_espo", 1, (8, 64, 1024))
    assert [one["rollouts"] for one in points] == [48, 384, 6144]
    shares = [one["share"] for one in points]
    assert 0 < shares[0] < shares[1] < shares[2] < 1
    for one in points:
        learners, seconds = one["fewer"]
        assert 1 <= learners <= one["gpus"]
        assert seconds <= one["seconds"] + sum(one["overhead"].values()) + 1e-9
    few = model.counts_of(row_of(scaling.GRID[0], some_costs()))
    for name in ("samplers", "learners", "rollouts", "moved_mb", "scores_mb"):
        more = replace(few, **{name: 10 * getattr(few, name)})
        assert sum(model.on_cluster(fitted, more, 1).values()) > sum(model.on_cluster(fitted, few, 1).values()), name


def test_where_a_share_passes() -> None:
    gpus = (8, 16, 32)
    assert model.crossing(gpus, (0.05, 0.1, 0.2), 0.1) == pytest.approx(16)
    assert model.crossing(gpus, (0.01, 0.04, 0.16), 0.08) == pytest.approx(16 * 2**0.5)
    assert model.crossing(gpus, (0.01, 0.02, 0.03), 0.1) is None


# -- end to end --------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(180)  # half a minute where nothing else runs
def test_a_small_grid_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs the extra 'cluster'")
    monkeypatch.setattr(run, "UPDATES", 2)
    monkeypatch.setattr(run, "STORE_BYTES", int(2e8))
    said: list[str] = []
    cells, out = [run.Cell(2, 2, "espo", 4)], tmp_path / "scaling.jsonl"
    (row,) = scaling.run_grid(cells, out, said.append)
    assert len(said) == 1
    assert row["counts"]["pieces"] == 2
    assert row["counts"]["forwards"] == 1 + 2 + 2
    assert row["counts"]["calls"] == 7
    for clock in ("overhead", "driver"):
        assert set(row[clock]) == set(run.PHASES)
        assert 0 < sum(row[clock].values()) < 10
    assert row["others"] > 0
    monkeypatch.setattr(scaling, "Pool", None)
    assert scaling.run_grid(cells, out, said.append) == [row]
    assert "| 2 + 2 |" in scaling.measured_table([row])

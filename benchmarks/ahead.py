"""Drawing ahead of the learner: wall time and outcome at equal updates, 4x4 Sudoku on one sampler and one learner.

    .venv/bin/python benchmarks/ahead.py [--seeds 0 1 2] [--updates 60] [--warm-steps 500] [--out benchmarks/results/ahead.jsonl]

Four arms from the same weights, the same method and as many updates: `synchronous` (rollout.async_depth 0), `ahead` (1, rollouts of the
weights before taken for the policy's own), `unit` (1, each step weighed) and `trajectory` (1, each rollout weighed, which scores every
step once more). Ray's workers with one thread each, so two cores are busy: run it where nothing else does. Evaluation is not in the
seconds. Resumable: an arm of a seed that stands in the output file with these settings is not run again.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import unmask
from benchmarks import _sudoku as sudoku
from benchmarks._common import RESULTS, machine, table
from rl.evaluate import interval, paired_gain
from rl.progress import Reporter
from rl.run import Run, read_jsonl

CUT = {"approximations": ["truncated_correction"]}
METHODS: dict[str, dict[str, Any]] = {
    "synchronous": {},
    "ahead": {"approximations": ["stale_rollouts"]},
    "unit": {"correction": {"per": "unit"}, **CUT},
    "trajectory": {"correction": {"per": "trajectory"}, **CUT},
}
SKIPPED = 5  # updates at the start whose seconds are not counted: files are read, memory is taken


@dataclass(frozen=True)
class Setting:
    """What a row is keyed by, besides its arm and seed."""

    updates: int
    warm_steps: int
    prompts: int
    sample_steps: int
    lr: float
    limit: int


def recipe(arm: str, seed: int, setting: Setting, folder: Path, weights: Path) -> dict[str, Any]:
    source = sudoku.recipe(arm, seed, folder, weights, setting.limit)
    source["rollout"]["async_depth"] = int(arm != "synchronous")
    source["train"] |= {"updates": setting.updates, "prompts_per_update": setting.prompts}
    estimator = {"sample_steps": setting.sample_steps}
    return {
        **source,
        "method": {"preset": "order_grpo", "estimator": estimator, **METHODS[arm]},
        "optim": {"lr": setting.lr, "warmup_steps": 5, "schedule": "cosine"},
        "cluster": {"backend": "ray", "placement": "separate"},
    }


def run_arm(arm: str, seed: int, setting: Setting, folder: Path, weights: Path, live: Reporter) -> dict[str, Any]:
    run: Run = unmask.train(recipe(arm, seed, setting, folder, weights), reporter=live)
    rows = read_jsonl(run.folder / "timing.jsonl")[SKIPPED:]
    means = {
        name: float(np.mean([row.get(f"seconds/{name}", 0.0) for row in rows]))
        for name in ("update", "rollout", "reward", "train", "waiting")
    }
    ends = sudoku.ends(run, 4)
    keys = ("lag", "correction/weight", "correction/cut", "correction/effective_share", "outcome")
    return {
        "seconds": means,
        "metrics": {key: [row[key] for row in run.metrics if key in row] for key in keys},
        "forwards": sudoku.spent(run),
        "before": ends["start"],
        "after": ends["end"],
    }


def run_grid(seeds: Sequence[int], setting: Setting, out: Path, live: Reporter) -> list[dict[str, Any]]:
    """The rows of these seeds; what the file does not hold yet is run and appended."""
    rows = read_jsonl(out) if out.exists() else []
    found: list[dict[str, Any]] = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as name:
            folder, weights = Path(name), None
            for arm in METHODS:
                key = {"arm": arm, "seed": seed, **asdict(setting)}
                row = next((row for row in rows if row["cell"] == key), None)
                if row is None:
                    live.say(f"seed {seed}, {arm}")
                    weights = weights or sudoku.warm_start(seed, setting.warm_steps, folder, live, setting.limit)
                    row = {"cell": key, **run_arm(arm, seed, setting, folder, weights, live)}
                    row |= {"grids": sudoku.grids(folder, setting.limit), "date": date.today().isoformat()}
                    row |= machine("cpu")
                    out.parent.mkdir(parents=True, exist_ok=True)
                    with out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    shutil.rmtree(folder / arm, ignore_errors=True)
                found.append(row)
    return found


def outcome_table(rows: Sequence[dict[str, Any]]) -> str:
    """Per seed and over all: accuracy before and after, and the gap to the synchronous arm, paired by prompt."""
    lines, seeds = [], sorted({row["cell"]["seed"] for row in rows})
    for seed in [*seeds, None]:
        for arm in METHODS:
            own = [row for row in rows if row["cell"]["arm"] == arm and seed in (None, row["cell"]["seed"])]
            sync = [row for row in rows if row["cell"]["arm"] == "synchronous" and seed in (None, row["cell"]["seed"])]
            (before, labels), (after, _) = sudoku.pooled(own, "before"), sudoku.pooled(own, "after")
            base, _ = sudoku.pooled(sync, "after")
            gap = "" if arm == "synchronous" else sudoku.share(paired_gain(base, after, labels))
            parts = [sudoku.share(interval(before, labels)), sudoku.share(interval(after, labels)), gap]
            lines.append(["all" if seed is None else str(seed), arm, *parts])
    return table(["seed", "arm", "before", "after", "minus synchronous, points"], lines)


def time_table(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds of an update as ratios to the synchronous arm of the same seed (mean, least, most), and what they are made of."""
    lines = []
    sync = {row["cell"]["seed"]: row["seconds"] for row in rows if row["cell"]["arm"] == "synchronous"}
    for arm in METHODS:
        own = [row for row in rows if row["cell"]["arm"] == arm]
        ratio = [row["seconds"]["update"] / sync[row["cell"]["seed"]]["update"] for row in own]
        parts = [np.mean([row["seconds"][name] for row in own]) for name in ("rollout", "reward", "train", "waiting")]
        said = f"{np.mean(ratio):.2f} [{min(ratio):.2f}, {max(ratio):.2f}]"
        lines.append([arm, said, *(f"{part:.2f}" for part in parts)])
    return table(["arm", "an update, synchronous = 1", "rollout, s", "reward", "train", "waiting"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--warm-steps", type=int, default=500, help="of supervised training")
    parser.add_argument("--prompts", type=int, default=64, help="per update, 8 rollouts each")
    parser.add_argument("--sample-steps", type=int, default=2, help="of the 4 steps of a rollout, learned from")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--limit", type=int, default=512, help="held-out puzzles")
    parser.add_argument("--out", type=Path, default=RESULTS / "ahead.jsonl")
    asked = parser.parse_args()
    setting = Setting(asked.updates, asked.warm_steps, asked.prompts, asked.sample_steps, asked.lr, asked.limit)
    with Reporter() as live:
        rows = run_grid(asked.seeds, setting, asked.out, live)
    print("Held-out puzzles solved, greedy, percent, with 95 % bootstrap intervals over grids:\n")
    print(outcome_table(rows))
    print("\nSeconds; under drawing ahead, rollout and reward go on beside train:\n")
    print(time_table(rows))


if __name__ == "__main__":
    main()

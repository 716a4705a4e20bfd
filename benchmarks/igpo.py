"""IGPO end to end where most groups fail: 4x4 Sudoku after a short warm start, against the same compute without hints.

    .venv/bin/python benchmarks/igpo.py [--seeds 0 1 2] [--updates 60] [--warm-steps 240] [--out benchmarks/results/igpo.jsonl]

Three arms start from the same weights: `diffu_grpo` (plain groups), `igpo` (hints where a group fails), and `no_hints` (IGPO's estimator
and objective on plain groups, which leaves the hints as the only difference to `igpo`). `igpo` runs the given number of updates; the
others run until they have used as many forwards of a row (a backward counts as two, hinted rollouts and frozen scoring included).
The whole completion is the answer here, so hints reveal some of it: `reveal_answer: true`, chunks of 1 to 3 cells, a share of 0.2 to 0.6.
Resumable: an arm of a seed that stands in the output file with these settings is not run again.
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

ARMS = ("igpo", "no_hints", "diffu_grpo")  # the first sets the budget of the others
HINTS = {"kind": "inpaint", "trace": "solution", "reveal_answer": True, "chunk": [1, 3], "ratio": [0.2, 0.6]}
# The presets' own, but: four passes for all, and the frozen start in place of a base model under LoRA, which there is not.
METHODS: dict[str, dict[str, Any]] = {
    "igpo": {"preset": "igpo", "kl": {"reference": "start"}},
    "no_hints": {"preset": "igpo", "estimator": {"hints": None}, "kl": {"reference": "start"}},
    "diffu_grpo": {"preset": "diffu_grpo", "kl": {"reference": "start"}, "inner_passes": 4},
}
POINTS = 5  # of the training curve in the table


@dataclass(frozen=True)
class Setting:
    """What a row is keyed by, besides its arm and seed."""

    updates: int
    warm_steps: int
    prompts: int
    lr: float
    limit: int


def recipe(arm: str, seed: int, setting: Setting, folder: Path, weights: Path) -> dict[str, Any]:
    source = sudoku.recipe(arm, seed, folder, weights, setting.limit)
    source["rollout"]["strategy"] = HINTS if arm == "igpo" else {"kind": "groups"}
    source["train"]["prompts_per_update"] = setting.prompts
    return {**source, "method": METHODS[arm], "optim": {"lr": setting.lr, "warmup_steps": 5}}


def run_arm(
    arm: str, seed: int, setting: Setting, folder: Path, weights: Path, budget: int | None, live: Reporter
) -> dict:
    """One arm to the end: of its updates, or of the budget, which is met to within one update."""
    source = recipe(arm, seed, setting, folder, weights)

    def until(updates: int, resume: str | None) -> Run:
        return unmask.train({**source, "stop": {"updates": updates}}, resume=resume, reporter=live)

    run = until(setting.updates if budget is None else 1, None)
    while budget is not None:
        each = sudoku.spent(run) / len(run.metrics)
        left = (budget - sudoku.spent(run)) / each
        if left < 1:
            break
        run = until(len(run.metrics) + max(1, int(0.8 * left)), "auto")  # updates differ in what they cost
    ends = sudoku.ends(run, source["rollout"]["steps"])
    return {
        "failed_groups": [row["failed_groups"] for row in run.metrics],
        "hinted": [row.get("hinted", 0.0) for row in run.metrics],
        "signal": [row.get("signal_share", 0.0) for row in run.metrics],
        "no_signal": [row["zero_signal_groups"] for row in run.metrics],
        "updates": len(run.metrics),
        "forwards": sudoku.spent(run),
        "before": ends["start"],
        "after": ends["end"],
        "seconds": sum(run.summary["wall_seconds"].values()),
    }


def run_grid(seeds: Sequence[int], setting: Setting, out: Path, live: Reporter) -> list[dict[str, Any]]:
    """The rows of these seeds; what the file does not hold yet is run and appended."""
    rows = read_jsonl(out) if out.exists() else []
    found: list[dict[str, Any]] = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as name:
            folder, weights, budget = Path(name), None, None
            for arm in ARMS:
                key = {"arm": arm, "seed": seed, **asdict(setting)}
                row = next((row for row in rows if row["cell"] == key), None)
                if row is None:
                    live.say(f"seed {seed}, {arm}" + (f", {budget:,} forwards" if budget else ""))
                    weights = weights or sudoku.warm_start(seed, setting.warm_steps, folder, live, setting.limit)
                    result = run_arm(arm, seed, setting, folder, weights, budget, live)
                    row = {
                        "cell": key,
                        **result,
                        "grids": sudoku.grids(folder, setting.limit),
                        "date": date.today().isoformat(),
                    }
                    row |= machine("cpu")
                    out.parent.mkdir(parents=True, exist_ok=True)
                    with out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    shutil.rmtree(folder / arm, ignore_errors=True)
                budget = budget or row["forwards"]
                found.append(row)
    return found


# -- tables ---------------------------------------------------------------------------------------------------------


def accuracy_table(rows: Sequence[dict[str, Any]]) -> str:
    """Per seed and over all: accuracy before and after, and what hints add over each other arm, paired by prompt."""
    lines = []
    seeds = sorted({row["cell"]["seed"] for row in rows})
    for seed in [*seeds, None]:
        own = {
            arm: [row for row in rows if row["cell"]["arm"] == arm and seed in (None, row["cell"]["seed"])]
            for arm in ARMS
        }
        if seed is None and len(seeds) < 2:
            continue
        best, labels = sudoku.pooled(own["igpo"], "after")
        for arm in ARMS:
            after, _ = sudoku.pooled(own[arm], "after")
            before, _ = sudoku.pooled(own[arm], "before")
            gap = "" if arm == "igpo" else sudoku.share(paired_gain(after, best, labels))
            count = sum(row["forwards"] for row in own[arm])
            updates = sum(row["updates"] for row in own[arm])
            name = "all" if seed is None else str(seed)
            parts = [sudoku.share(interval(before, labels)), sudoku.share(interval(after, labels)), gap]
            lines.append([name, arm, f"{updates:,}", f"{count:,}", *parts])
    return table(["seed", "arm", "updates", "row forwards", "before", "after", "igpo minus this, points"], lines)


def curve_table(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Means over seeds of a share during training, at stretches of the run."""
    lines, points = [], min(POINTS, *(len(row[name]) for row in rows))
    for arm in ARMS:
        own = [row[name] for row in rows if row["cell"]["arm"] == arm]
        stretches = [[float(np.mean(part)) for part in np.array_split(np.array(values), points)] for values in own]
        lines.append([arm, *(f"{100 * float(np.mean(column)):.0f}" for column in zip(*stretches, strict=True))])
    header = [f"{100 * i // points} to {100 * (i + 1) // points} %" for i in range(points)]
    return table([f"{name}, percent", *header], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=60, help="of the arm with hints")
    parser.add_argument(
        "--warm-steps", type=int, default=240, help="of supervised training; fewer, and more groups fail"
    )
    parser.add_argument("--prompts", type=int, default=32, help="per update, 8 rollouts each")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--limit", type=int, default=512, help="held-out puzzles")
    parser.add_argument("--out", type=Path, default=RESULTS / "igpo.jsonl")
    asked = parser.parse_args()
    setting = Setting(asked.updates, asked.warm_steps, asked.prompts, asked.lr, asked.limit)
    with Reporter() as live:
        rows = run_grid(asked.seeds, setting, asked.out, live)
    print("Held-out puzzles solved, greedy, percent, with 95 % bootstrap intervals over grids:\n")
    print(accuracy_table(rows))
    for name in ("failed_groups", "no_signal"):
        print(f"\n{curve_table(rows, name)}")


if __name__ == "__main__":
    main()

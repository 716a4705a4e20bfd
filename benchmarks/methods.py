"""Every preset on the quickstart's task, from the same warm start, for the same wall time: a grid of methods and seeds.

    .venv/bin/python benchmarks/methods.py [--seeds 0 1 2] [--seconds 60] [--only espo wd1] [--out benchmarks/results/methods.jsonl]

Each run works on one thread for ``--seconds``, its first evaluation included (the same for all), and ends with the update at hand. Learning
rate, prompts per update and sampler are the quickstart's for all; everything else is the preset's, but for what the task forces (`FORCED`).
Accuracy is greedy, on puzzles of held-out grids. Resumable: a row is appended per run, with its commit; what stands in the file with these
settings is not run again. `vrpo` needs stored pairs and has `benchmarks/vrpo.py`.

Hypothesis, written before the grid was run: on LLaDA's own sampler, which chooses positions by confidence, the joint law of tokens and
order (`order_grpo`) learns more in the same time than the product of token probabilities (`trajectory_grpo`). It holds if the 95 %
interval of the paired difference of accuracies, over all three seeds and clustered by grid, lies above zero; the table says which.
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

import unmask
from benchmarks import _sudoku as sudoku
from benchmarks._common import RESULTS, machine, table
from rl.evaluate import interval, paired_gain
from rl.presets import PRESETS
from rl.progress import Reporter
from rl.run import read_jsonl

CLAIM = ("order_grpo", "trajectory_grpo")
# Four denoising steps of sixteen tokens; all weights train, so there is no base model under an adapter.
FORCED: dict[str, dict[str, Any]] = {
    "d2": {"estimator": {"segments": 2}},
    "agrpo": {"estimator": {"sample_steps": 2}},
    "tracerl": {"estimator": {"shrink": 2}},
    "mdpo": {"estimator": {"sample_steps": 2}},
    "spg": {"reduction": {"constant": 16}},
    "just_grpo": {"reduction": {"constant": 16}},
}
# What the other methods never see is said in the table.
STRATEGIES: dict[str, dict[str, Any]] = {
    "igpo": {"kind": "inpaint", "trace": "solution", "reveal_answer": True, "chunk": [1, 3], "ratio": [0.2, 0.6]},
    "mdpo": {"kind": "recorded"},
}
NOTES = {
    "igpo": "sees cells of the solution where a whole group fails",
    "just_grpo": "scored left to right, drawn by confidence",
}
LEFT_OUT = ("vrpo",)


@dataclass(frozen=True)
class Setting:
    """What a row is keyed by, besides its preset and seed."""

    seconds: float
    warm_steps: int
    prompts: int
    lr: float
    limit: int


def recipe(preset: str, seed: int, setting: Setting, folder: Path, weights: Path) -> dict[str, Any]:
    source = sudoku.recipe(preset, seed, folder, weights, setting.limit)
    source["rollout"]["strategy"] = STRATEGIES.get(preset, {"kind": "groups"})
    source["train"]["prompts_per_update"] = setting.prompts
    return {
        **source,
        "method": {"preset": preset, "kl": {"reference": _reference(preset)}, **FORCED.get(preset, {})},
        "optim": {"lr": setting.lr, "warmup_steps": 5},
        "stop": {"hours": setting.seconds / 3600},
    }


def _reference(preset: str) -> str:
    own = PRESETS[preset].get("kl", {}).get("reference", "start")
    return "start" if own == "base" else own


def run_cell(preset: str, seed: int, setting: Setting, folder: Path, weights: Path, live: Reporter) -> dict[str, Any]:
    source = recipe(preset, seed, setting, folder, weights)
    run = unmask.train(source, reporter=live)
    ends = sudoku.ends(run, source["rollout"]["steps"])
    shutil.rmtree(run.folder, ignore_errors=True)
    return {
        "updates": run.summary["updates"],
        "row_forwards": sudoku.spent(run),
        "seconds": run.summary["wall_seconds"],
        "before": ends["start"],
        "after": ends["end"],
    }


def run_grid(
    presets: Sequence[str], seeds: Sequence[int], setting: Setting, out: Path, live: Reporter
) -> list[dict[str, Any]]:
    """The rows of these cells; what the file does not hold yet is run and appended."""
    rows = read_jsonl(out) if out.exists() else []
    found: list[dict[str, Any]] = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as name:
            folder, weights = Path(name), None
            for preset in presets:
                key = {"preset": preset, "seed": seed, **asdict(setting)}
                row = next((row for row in rows if row["cell"] == key), None)
                if row is None:
                    weights = weights or sudoku.warm_start(seed, setting.warm_steps, folder, live, setting.limit)
                    live.say(f"seed {seed}, {preset}, {setting.seconds:g} s")
                    row = {"cell": key, **run_cell(preset, seed, setting, folder, weights, live)}
                    row |= {"grids": sudoku.grids(folder, setting.limit), "date": date.today().isoformat()}
                    row |= machine("cpu")
                    out.parent.mkdir(parents=True, exist_ok=True)
                    with out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                found.append(row)
    return found


def of(rows: sudoku.Rows, preset: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["cell"]["preset"] == preset]


def summary(rows: sudoku.Rows) -> str:
    """A line per method, best first: gain over the warm start, paired by puzzle, over all seeds and for each."""
    lines = []
    for preset in {row["cell"]["preset"]: None for row in rows}:
        own = of(rows, preset)
        (before, labels), (after, _) = (sudoku.pooled(own, name) for name in ("before", "after"))
        gain = paired_gain(before, after, labels)
        each = [sudoku.pooled([row], "after")[0].mean() - sudoku.pooled([row], "before")[0].mean() for row in own]
        parts = [
            sudoku.share(interval(after, labels)),
            sudoku.share(gain),
            ", ".join(f"{100 * one:+.1f}" for one in each),
        ]
        updates = ", ".join(str(row["updates"]) for row in own)
        lines.append((gain["value"], [f"`{preset}`", *parts, updates, NOTES.get(preset, "")]))
    header = ["preset", "solved, %", "gain, points", "by seed", "updates", ""]
    return table(header, [line for _, line in sorted(lines, key=lambda item: -item[0])])


def verdict(rows: sudoku.Rows) -> str:
    """What became of the hypothesis, in words; nothing where one of its two sides was not run."""
    ours, theirs = (of(rows, name) for name in CLAIM)
    if not ours or [row["cell"]["seed"] for row in ours] != [row["cell"]["seed"] for row in theirs]:
        return ""
    best, labels = sudoku.pooled(ours, "after")
    other, _ = sudoku.pooled(theirs, "after")
    gap = paired_gain(other, best, labels)
    said = "holds" if gap["low"] > 0 else "fails: the order is worse" if gap["high"] < 0 else "is not shown either way"
    return f"{CLAIM[0]} minus {CLAIM[1]}: {sudoku.share(gap)} points, {len(ours)} seeds. The hypothesis {said}."


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[name for name in PRESETS if name not in LEFT_OUT])
    parser.add_argument("--seconds", type=float, default=60.0, help="of work for each run")
    parser.add_argument("--warm-steps", type=int, default=500)
    parser.add_argument("--prompts", type=int, default=64, help="per update, 8 rollouts each")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--limit", type=int, default=512, help="held-out puzzles")
    parser.add_argument("--out", type=Path, default=RESULTS / "methods.jsonl")
    asked = parser.parse_args(arguments)
    setting = Setting(asked.seconds, asked.warm_steps, asked.prompts, asked.lr, asked.limit)
    with Reporter() as live:
        rows = run_grid(asked.only, asked.seeds, setting, asked.out, live)
    print(summary(rows))
    print(f"\n{verdict(rows)}\ncommits: {', '.join(sorted({row['commit'][:8] for row in rows}))}")


if __name__ == "__main__":
    main()

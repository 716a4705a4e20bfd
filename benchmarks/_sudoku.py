"""What the learning benchmarks share: the quickstart's puzzles, warm-started weights, and accuracies with intervals over grids."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import unmask
from rl.config import load_recipe
from rl.progress import Reporter
from rl.quickstart import RECIPE, write_data
from rl.run import Run, read_jsonl

Rows = Sequence[dict[str, Any]]


def warm_start(seed: int, steps: int, folder: Path, live: Reporter, limit: int) -> Path:
    """Data and warm-started weights of a seed, in ``folder``; returns the folder of the weights."""
    train_file, test_file = write_data(folder / "data", seed)
    settings = [
        f"data.train.path={train_file}",
        f"data.eval.path={test_file}",
        f"warm_start.data.path={train_file}",
        f"warm_start.steps={steps}",
        f"train.seed={seed}",
        f"train.out={folder / 'warm'}",
        f"eval.limit={limit}",
        "eval.steps=[]",
    ]
    run = unmask.sft(load_recipe(RECIPE, settings, command="sft"), reporter=live)
    return run.folder / "model"


def recipe(name: str, seed: int, folder: Path, weights: Path, limit: int) -> dict[str, Any]:
    """A run from these weights with the quickstart's sampler, of as many updates as one likes; the method is the caller's."""
    data = {
        name: {"path": str(folder / "data" / f"{file}.jsonl")} for name, file in (("train", "train"), ("eval", "test"))
    }
    rollout: dict[str, Any] = {"canvas": 16, "block": 16, "steps": 4, "group_size": 8, "max_rows": 512}
    return {
        "name": f"{name}-{seed}",
        "model": {"path": str(weights)},
        "data": data,
        "rollout": rollout | {"early_stop": False, "eos": "all"},
        "rewards": [{"fn": "sudoku.solved"}],
        "train": {"updates": 100_000, "micro_batch": 256, "seed": seed, "threads": 1, "log_rollouts": 0,
                  "out": str(folder / name)},
        "eval": {"at_start": True, "batch": 512, "limit": limit, "cluster": "grid_id"},
        "save": {"every": 0},
    }  # fmt: skip


def spent(run: Run) -> int:
    """Forwards of one row, a backward as two; rows that share a forward because they are equal count each."""
    used = run.summary["forwards"]
    return used["rollout"] + used["train_forward"] + 2 * used["train_backward"]


def ends(run: Run, steps: int) -> dict[str, list[float]]:
    """Outcome per held-out puzzle before and after: "start", "end"."""
    rows = read_jsonl(run.folder / "evaluations.jsonl")
    return {row["when"]: row["outcomes"][str(steps)] for row in rows if row["when"] in ("start", "end")}


def grids(folder: Path, limit: int) -> list[str]:
    """The solution grid of each held-out puzzle."""
    return [str(row["grid_id"]) for row in read_jsonl(folder / "data" / "test.jsonl")[:limit]]


def share(cell: dict[str, float]) -> str:
    """Percent, with the interval."""
    return f"{100 * cell['value']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"


def pooled(rows: Rows, name: str) -> tuple[np.ndarray, list[str]]:
    """A list of outcomes over seeds, and the grid that each belongs to; a grid of another seed is another one."""
    values = np.concatenate([np.array(row[name], dtype=float) for row in rows])
    return values, [f"{row['cell']['seed']}/{grid}" for row in rows for grid in row["grids"]]

"""What tests of whole runs start from: a few rows, a small recipe, and short names for the public calls."""

import json
from pathlib import Path
from typing import Any

import torch

import unmask
from rl.progress import Reporter
from rl.run import Run
from rl.samples import read_samples
from rollouts.policy import Policy

ROWS: list[dict[str, Any]] = [
    {"prompt": text, "answer": len(text), "completion": text[::-1]} for text in ("12", "345", "6789", "01", "7", "5522")
]


def digits(completions: list[str], **_: Any) -> list[float]:
    """A reward that tells completions apart: the share of even digits."""
    return [sum(char in "02468" for char in text) / 8 for text in completions]


def recipe(checkpoint: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """A small recipe; ``section={key: value}`` adds to a section."""
    base: dict[str, dict[str, Any]] = {
        "model": {"path": str(checkpoint)},
        "rollout": {"canvas": 8, "block": 4, "steps": 4, "group_size": 2, "max_rows": 3},
        "optim": {"lr": 1e-3},
        "train": {"updates": 2, "prompts_per_update": 3, "micro_batch": 5, "out": "run"},
    }
    for name, values in sections.items():
        base[name] = {**base.get(name, {}), **values}
    return {"name": "toy", **base}


def train(source: Any, rewards: Any = digits, rows: Any = ROWS, **options: Any) -> Run:
    return unmask.train(source, rewards, rows, reporter=Reporter(quiet=True), **options)


def written(rows: list[dict[str, Any]], path: Path) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def samples(run: Run) -> list[dict[str, Any]]:
    """The rollouts that a run kept, of all its updates."""
    files = sorted(run.folder.glob("rollouts/[0-9]*.parquet"))
    return [row for file in files for row in read_samples(file)]


def same_weights(left: Policy, right: Policy) -> bool:
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)

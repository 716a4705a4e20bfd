"""What a run comes to, in ``summary.json``: accuracy before and after, forwards, seconds, versions."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rl.counts import Progress
from rl.evaluate import clusters, outcome_interval, paired_gain
from rl.learner import Work
from rl.run import provenance, read_jsonl
from rl.setup import Setup


def summary_of(
    setup: Setup, progress: Progress, folder: Path, seconds: Mapping[str, float], work: Work
) -> dict[str, Any]:
    """folder: of the run; seconds: by kind of work; work: the learner's."""
    recipe = setup.recipe
    result: dict[str, Any] = {"name": recipe.name, "outcome": setup.outcome, "seed": recipe.train.seed}
    # before: only if measured in the same way
    before, after = (outcomes(folder, when, setup) for when in ("start", "end"))
    if recipe.eval and after:
        main = str(recipe.eval.sampler.steps)
        for name, values in (("before", before), ("after", after)):
            if values:
                result[f"accuracy_{name}"] = outcome_interval(setup, values[main])
                result[f"accuracy_by_steps_{name}"] = {k: outcome_interval(setup, v) for k, v in values.items()}
        if before:
            groups = clusters(setup)
            result["gain"] = paired_gain(before[main], after[main], groups, seed=recipe.train.seed)
    if progress.best is not None:
        result["best"] = progress.best
    result["updates"] = progress.updates
    if progress.changed:
        result["changed_files"] = progress.changed
    result["overlaps"] = [one.as_json() for one in setup.overlaps]
    result["wall_seconds"] = dict(seconds)
    result["forwards"] = {
        "rollout": progress.rollout_forwards,
        "train_forward": work.forward,
        "train_backward": work.backward,
        "eval": progress.eval_forwards,
    }
    result["rows_run"] = dict(progress.rows_run)  # what was computed for RL: equal rows share one forward
    return {**result, **provenance()}


def outcomes(folder: Path, when: str, setup: Setup) -> dict[str, np.ndarray]:
    """Of the newest evaluation at that time in the same setting: outcome per prompt, by step count."""
    path = folder / "evaluations.jsonl"
    rows = read_jsonl(path) if path.exists() else []
    wanted = ("eval", when, setting(setup)) if rows else None
    same = [row for row in rows if (row["split"], row["when"], row.get("setting")) == wanted]
    found = same[-1] if same else {"outcomes": {}}
    return {name: np.array(values, dtype=float) for name, values in found["outcomes"].items()}


def setting(setup: Setup) -> str:
    """Names the prompts and the sampler of an evaluation: only outcomes of one setting can be compared prompt by prompt."""
    evaluation, split = setup.recipe.eval, setup.eval
    if evaluation is None or split is None:
        return ""
    asked = [prompt.token_ids for prompt in split.prompts[: evaluation.limit]]
    return hashlib.sha256(f"{evaluation.sampler.digest()} {asked}".encode()).hexdigest()[:12]

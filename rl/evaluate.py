"""Accuracy on held-out prompts, with intervals. Evaluation has its own random streams and never touches those of training."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rewards.contract import Reward, TrainerState
from rl.grading import grade_rollouts
from rollouts.engine import generate
from rollouts.spec import SamplerSpec
from rollouts.streams import Purpose, stream

RESAMPLES = 10_000


def evaluate_prompts(
    policy: Any,
    prompts: Sequence[Any],
    rewards: Sequence[Reward],
    outcome: str,
    spec: SamplerSpec,
    *,
    seed: int,
    batch: int,
    prefill: str = "",
    on_rows: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, int]:
    """One completion per prompt. Returns the outcome of each prompt, float64 ``[n]`` (NaN: not applicable or not gradable), and the
    forwards used (rows)."""
    rollouts = generate(
        policy,
        [prompt.token_ids for prompt in prompts],
        spec,
        seed=seed,
        step=0,
        group_ids=range(len(prompts)),
        prompt_ids=range(len(prompts)),
        purpose=Purpose.EVAL,
        max_rows=batch,
        on_rows=on_rows,
    )
    # Alone and at weight 1: what training makes of it (weight 0 is "log only") does not matter here.
    measured = [replace(reward, weight=1.0) for reward in rewards if reward.name == outcome]
    scored, _ = grade_rollouts(
        rollouts,
        dict(enumerate(prompts)),
        measured,
        outcome,
        eos_ids=policy.eos_ids,
        prefill=prefill,
        state=TrainerState(),
    )
    values = np.full(len(prompts), np.nan)
    values[scored.rollouts.prompt_id.numpy()] = scored.outcome.numpy()
    return values, int(rollouts.forwards.sum())


def _resampled_means(values: np.ndarray, clusters: Sequence[Any] | None, seed: int) -> np.ndarray:
    """Means of ``RESAMPLES`` bootstrap samples; whole clusters are drawn where they are given."""
    seen: dict[str, int] = {}
    names = range(len(values)) if clusters is None else clusters
    labels = np.array([seen.setdefault(repr(name), len(seen)) for name in names])
    sums = np.bincount(labels, weights=values)
    counts = np.bincount(labels).astype(float)
    generator = stream(seed, Purpose.BOOTSTRAP)
    picks = generator.integers(len(sums), size=(RESAMPLES, len(sums)))
    return sums[picks].sum(1) / counts[picks].sum(1)


def interval(values: np.ndarray, clusters: Sequence[Any] | None = None, *, seed: int = 0) -> dict[str, float]:
    """Mean with its 95 % percentile-bootstrap interval: ``{value, low, high, n}``. NaN entries are left out.

    clusters: a label per entry; entries of one label are resampled together.
    """
    seen = ~np.isnan(values)
    kept = values[seen]
    if not len(kept):
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
    labels = None if clusters is None else [label for label, keep in zip(clusters, seen, strict=True) if keep]
    low, high = np.percentile(_resampled_means(kept, labels, seed), [2.5, 97.5])
    return {"value": float(kept.mean()), "low": float(low), "high": float(high), "n": int(seen.sum())}


def paired_gain(
    before: np.ndarray, after: np.ndarray, clusters: Sequence[Any] | None = None, *, seed: int = 0
) -> dict[str, float]:
    """Mean of after - before over the same prompts, with its 95 % paired bootstrap interval."""
    return interval(after - before, clusters, seed=seed)

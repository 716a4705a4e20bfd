"""Rollouts for tests: forced through the real engine by scripted uniforms, and scored as a learner scores them."""

from collections.abc import Callable, Sequence
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from rl.likelihood import Estimate, score_views
from rl.masks import MaskPlan, PlanKey
from rollouts.engine import generate
from rollouts.spec import SamplerSpec
from rollouts.trajectory import RolloutBatch


class ScriptedStream:
    """Stands in for a generator: hands out prepared uniforms and insists on being asked for exactly those."""

    def __init__(self, script: Sequence[np.ndarray]) -> None:
        self.left = list(script)

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        values = self.left.pop(0)
        assert values.shape == tuple(shape)
        return values


def force(
    policy,
    prompts: Sequence[Sequence[int]],
    spec: SamplerSpec,
    scripts: Sequence[Sequence[np.ndarray]],
    hints: Sequence[dict[int, int]] | None = None,
    max_rows: int = 10_000,
) -> RolloutBatch:
    """One rollout per (prompt, script), driven by the script's uniforms; every uniform must have been used."""
    streams = [ScriptedStream(script) for script in scripts]
    with mock.patch("rollouts.engine.stream", lambda seed, purpose, step, row: streams[row]):
        batch = sample(policy, prompts, spec, hints=hints, max_rows=max_rows)
    assert not any(stream.left for stream in streams)
    return batch


def sample(
    policy, prompts: Sequence[Sequence[int]], spec: SamplerSpec, *, seed: int = 0, step: int = 0, **options
) -> RolloutBatch:
    """Plain rollouts; each prompt is its own group unless ``group_ids`` says otherwise."""
    rows = list(range(len(prompts)))
    options.setdefault("group_ids", rows)
    options.setdefault("prompt_ids", rows)
    return generate(policy, prompts, spec, seed=seed, step=step, **options)


def score(policy, estimator, batch: RolloutBatch, key: PlanKey | None = None) -> tuple[MaskPlan, Tensor, Estimate]:
    """Plan, scores ``[N, S]`` and estimate of a batch in one call."""
    plan = estimator.plan(batch, key or PlanKey(seed=0, step=0))
    law = estimator.scoring_law(batch.sampler_spec, policy.forbidden_ids)
    values = score_views(policy, plan, batch.tokens[plan.row], batch.attention_mask[plan.row], law)
    return plan, values, estimator.reduce(values, plan, batch)


class ScriptedKey:
    """Stands in for a ``PlanKey``: every stream answers from functions of (rollout, draw)."""

    def __init__(self, make: Callable[[int, int], object]) -> None:
        self.make = make

    def stream(self, rollout: int, draw: int = 0) -> object:
        return self.make(rollout, draw)


def canvas_part(batch: RolloutBatch, row: int, values: Tensor) -> list:
    """The canvas columns of one row, as a list."""
    return values[row][batch.canvas_mask[row]].tolist()


def same_batch(left: RolloutBatch, right: RolloutBatch, *, exact: bool = True) -> None:
    """Assert that two batches hold the same rollouts (log-probabilities to 1e-6 unless exact)."""
    length = max(left.length, right.length)
    left, right = left.padded(length), right.padded(length)
    for name in ("tokens", "reveal_step", "prompt_mask", "canvas_mask", "hint_mask", "loss_mask", "forwards"):
        a, b = getattr(left, name), getattr(right, name)
        real = left.attention_mask if a.dim() == 2 else torch.ones_like(a, dtype=torch.bool)
        assert torch.equal(a[real], b[real]), name
    for name in ("raw_logprob", "sampler_logprob", "entropy", "select_logprob"):
        torch.testing.assert_close(
            getattr(left, name), getattr(right, name), rtol=0, atol=0 if exact else 1e-6, msg=name
        )
    assert left.texts == right.texts
    assert left.finish_reason == right.finish_reason

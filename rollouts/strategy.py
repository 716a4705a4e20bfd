"""Rollout strategies: which canvases are denoised for a set of prompts."""

from collections.abc import Callable, Sequence

from rollouts.engine import generate
from rollouts.spec import SamplerSpec
from rollouts.streams import Purpose
from rollouts.trajectory import RolloutBatch


def sample_groups(
    policy,
    prompts: Sequence[Sequence[int]],
    spec: SamplerSpec,
    *,
    group_size: int,
    prompt_ids: Sequence[int],
    seed: int,
    step: int,
    purpose: Purpose = Purpose.ROLLOUT,
    policy_version: int = 0,
    max_rows: int = 64,
    deterministic: bool = False,
    pad_to: int | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> RolloutBatch:
    """``group_size`` independent rollouts of each prompt, groups contiguous: row ``p * G + g``.

    deterministic: one group per engine call and one row length (``pad_to``), so that every forward has a fixed composition.
    """
    order = [p for p in range(len(prompts)) for _ in range(group_size)]
    return generate(
        policy,
        [prompts[p] for p in order],
        spec,
        seed=seed,
        step=step,
        purpose=purpose,
        group_ids=order,
        prompt_ids=[prompt_ids[p] for p in order],
        policy_version=policy_version,
        max_rows=group_size if deterministic else max_rows,
        pad_to=pad_to,
        on_rows=on_rows,
    )

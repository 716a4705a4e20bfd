"""What rollout strategies are made of: groups of rollouts of each prompt, and the request that a strategy answers.

The strategies that a recipe can name are in ``rollouts.strategies``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from rollouts.engine import generate
from rollouts.hints import with_hint_entropy
from rollouts.spec import SamplerSpec
from rollouts.streams import Purpose
from rollouts.trajectory import RolloutBatch

# Outcome f32 [B] of finished rollouts: 1 is verified, NaN could not be graded. Whoever asks for rollouts brings it along.
Score = Callable[[RolloutBatch], Tensor]


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
    group_ids: Sequence[int] | None = None,
    first_rollout: int = 0,
    hints: Sequence[dict[int, int]] | None = None,
    recorded: bool = False,
) -> RolloutBatch:
    """``group_size`` independent rollouts of each prompt, groups contiguous: row ``p * G + g``.

    deterministic: one group per engine call and one row length (``pad_to``), so that every forward has a fixed composition.
    group_ids: of the prompts, default 0, 1, ... hints: per row. first_rollout, recorded: as ``generate`` takes them.
    """
    order = [p for p in range(len(prompts)) for _ in range(group_size)]
    return generate(
        policy,
        [prompts[p] for p in order],
        spec,
        seed=seed,
        step=step,
        purpose=purpose,
        group_ids=order if group_ids is None else [group_ids[p] for p in order],
        prompt_ids=[prompt_ids[p] for p in order],
        policy_version=policy_version,
        max_rows=group_size if deterministic else max_rows,
        pad_to=pad_to,
        hints=hints,
        on_rows=on_rows,
        first_rollout=first_rollout,
        recorded=recorded,
    )


class Sampler(Protocol):
    """Whoever draws: the policy in this process, or workers that hold its weights. rows_run: computed so far, by kind, as
    `rollouts.policy.Policy` counts."""

    @property
    def rows_run(self) -> Mapping[str, int]: ...

    def sample(self, prompts: Sequence[Sequence[int]], spec: SamplerSpec, **options: Any) -> RolloutBatch:
        """As `sample_groups`."""
        ...

    def hint_entropy(self, batch: RolloutBatch, rows: int) -> RolloutBatch:
        """As `rollouts.hints.with_hint_entropy`."""
        ...


@dataclass(frozen=True, eq=False)
class Here:
    """The policy of this process draws."""

    policy: Any

    @property
    def rows_run(self) -> Mapping[str, int]:
        return self.policy.rows_run

    def sample(self, prompts: Sequence[Sequence[int]], spec: SamplerSpec, **options: Any) -> RolloutBatch:
        return sample_groups(self.policy, prompts, spec, **options)

    def hint_entropy(self, batch: RolloutBatch, rows: int) -> RolloutBatch:
        return with_hint_entropy(self.policy, batch, rows)


def deal(prompts: int, group_size: int, max_rows: int, workers: int, *, deterministic: bool) -> list[range]:
    """The groups of a request as pieces of work: whole groups, at most ``max_rows`` rollouts at a time, and small enough for every worker
    to get some. deterministic: one group each, so that who draws it changes no bit."""
    fair = -(-prompts // max(1, workers))
    size = 1 if deterministic else max(1, min(fair, max_rows // group_size))
    return [range(low, min(low + size, prompts)) for low in range(0, prompts, size)]


def piece(options: dict[str, Any], groups: range) -> dict[str, Any]:
    """The options of `sample_groups` for some of the prompts, as if they were all: ids and hints are those of the whole request."""
    size, found = options["group_size"], dict(options)
    found["prompt_ids"] = [options["prompt_ids"][p] for p in groups]
    ids = options.get("group_ids")
    found["group_ids"] = [p if ids is None else ids[p] for p in groups]
    found["first_rollout"] = options.get("first_rollout", 0) + groups.start * size
    if options.get("hints") is not None:
        found["hints"] = list(options["hints"][groups.start * size : groups.stop * size])
    return found


@dataclass(frozen=True, eq=False)
class Request:
    """What a strategy is asked for: a group of rollouts for each prompt.

    prompts, prompt_ids, group_ids: one entry per prompt. traces: the token ids of each prompt's reference trace that may be given as
    hints, for strategies that need them. first_rollout: id of the first rollout; a strategy counts on from there. announce is told how
    many rollouts are about to be drawn. options: whatever else ``sample_groups`` takes.
    """

    policy: Any
    spec: SamplerSpec
    prompts: Sequence[Sequence[int]]
    prompt_ids: Sequence[int]
    group_ids: Sequence[int]
    group_size: int
    seed: int
    step: int
    first_rollout: int = 0
    traces: Sequence[Sequence[int]] = ()
    announce: Callable[[int], None] | None = None
    options: dict[str, Any] | None = None
    sampler: Sampler | None = None  # default: the policy itself

    def sample(self, **more: Any) -> RolloutBatch:
        if self.announce:
            self.announce(len(self.prompts) * self.group_size)
        return self.drawn_by.sample(
            self.prompts,
            self.spec,
            group_size=self.group_size,
            prompt_ids=self.prompt_ids,
            group_ids=self.group_ids,
            seed=self.seed,
            step=self.step,
            first_rollout=self.first_rollout,
            **(self.options or {}),
            **more,
        )

    @property
    def drawn_by(self) -> Sampler:
        return self.sampler or Here(self.policy)

    def again(self, prompts: Sequence[int]) -> "Request":
        """A further request for some of the prompts (by place), its rollouts counted on."""
        return replace(
            self,
            prompts=[self.prompts[p] for p in prompts],
            prompt_ids=[self.prompt_ids[p] for p in prompts],
            group_ids=[self.group_ids[p] for p in prompts],
            traces=[self.traces[p] for p in prompts] if self.traces else (),
            first_rollout=self.first_rollout + len(self.prompts) * self.group_size,
        )

"""What fits on given GPUs, how long an update takes there, and what to choose. Pure functions on `rl.capacity` and `rl.hardware`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from rl import capacity
from rl.capacity import FLOAT, Setting, States
from rl.hardware import HOST_BANDWIDTH, HOST_LINK, Hardware

Placement = Literal["alone", "colocate", "separate"]
PHASES = ("rollout", "old", "reference", "train forward", "backward", "optimizer")
# Stages in the order they are tried: the smallest that fits is taken, and the host's memory last.
STAGES = ((0, False), (1, False), (2, False), (3, False), (2, True), (3, True))
OFFLOAD = 1.1  # how much quicker a layout with the optimizer on the host has to be
STEP_BYTES = 7 * FLOAT  # that AdamW reads and writes for each number: weight, gradient and two moments


@dataclass(frozen=True)
class Workload:
    """One update of a recipe. A row is a rollout, a view a row with its masks; ``costs`` are `rl.method.forwards` of a micro-batch."""

    prompts: int
    rollouts: int  # drawn, at most; 0 where answers are stored
    steps: int
    length: float  # positions of a row on average
    longest: int
    step_logits: float  # positions of a row whose logits a denoising step computes, on average
    step_logits_most: int
    trained_rows: int
    views: int  # of a trained row in a pass
    scored: float  # positions of a view that are scored, on average
    scored_most: float
    passes: int
    reference: bool
    exact_kl: bool
    costs: Callable[[int], Mapping[str, int]]
    ahead: bool = False  # rollouts are drawn while earlier ones are learned from, on GPUs of their own

    @property
    def in_turns(self) -> "Workload":
        """The same without drawing ahead, where there is nothing to correct."""
        if not self.ahead:
            return self
        return replace(self, ahead=False, costs=lambda micro_batch: {**self.costs(micro_batch), "correction": 0})


@dataclass(frozen=True)
class Cluster:
    """alone: one process does both on one GPU, with one copy of the weights; colocate: a sampler and a learner take turns on every GPU;
    separate: each GPU does one of the two."""

    placement: Placement
    samplers: int
    learners: int
    stage: int
    offload: bool = False


@dataclass(frozen=True)
class Layout:
    """A cluster that fits. bytes of a GPU: states, learner (activations, at most), sampler (weights), sampling (activations, at most)."""

    cluster: Cluster
    micro_batch: int
    most_views: int  # that would fit
    max_rows: int
    most_rows: int
    states: States
    scores: float
    training: float
    sampler: float
    sampling: float
    seconds: Mapping[str, float]  # by phase, at the stated utilisation
    flops: Mapping[str, float]  # by phase, of all GPUs
    rows: Mapping[str, int]  # forwarded, by phase

    @property
    def learner_peak(self) -> float:
        return self.states.total + self.scores + self.training

    @property
    def sampler_peak(self) -> float:
        return self.sampler + self.sampling

    @property
    def peak(self) -> float:
        """Of the fullest GPU."""
        if self.cluster.placement == "separate":
            return max(self.learner_peak, self.sampler_peak)
        both = self.states.total + self.scores + max(self.training, self.sampling)
        return both + (self.sampler if self.cluster.placement == "colocate" else 0.0)

    @property
    def total(self) -> float:
        """Seconds of an update whose phases follow each other."""
        return sum(self.seconds.values())

    @property
    def overlapped(self) -> float:
        """Seconds of an update where separate samplers draw the next rollouts meanwhile."""
        rollout = self.seconds["rollout"]
        return max(rollout, self.total - rollout) if self.cluster.placement == "separate" else self.total


# -- what fits ------------------------------------------------------------------------------------------------------------


def arrange(
    setting: Setting, work: Workload, hardware: Hardware, cluster: Cluster, utilisation: float
) -> Layout | None:
    """The layout of a cluster, with the largest micro-batch and the most rows of a sampler that fit; None where one of either does not."""
    states = capacity.states(
        setting, stage=cluster.stage, ranks=cluster.learners, offload=cluster.offload, reference=work.reference
    )
    sampler = capacity.sampler_weights(setting) if work.rollouts and cluster.placement != "alone" else 0.0
    scores = score_bytes(setting, work, cluster.learners)
    room = hardware.room - states.total - scores - (sampler if cluster.placement == "colocate" else 0.0)
    sampler_room = hardware.room - sampler if cluster.placement == "separate" else room
    if optimizer_scratch(setting, cluster) > room:
        return None
    views, rows = rank_views(work, cluster.learners), rank_rollouts(work, cluster.samplers)

    def training(count: int) -> float:
        scored = count * work.scored_most
        peak = capacity.train_peak(setting, count, work.longest, scored)
        return max(peak, capacity.score_peak(setting, count, work.longest, scored))

    def sampling(count: int) -> float:
        return capacity.sampler_peak(setting, count, work.longest, count * work.step_logits_most)

    most_views, most_rows = largest(training, room, views), largest(sampling, sampler_room, rows) if rows else 0
    if not most_views or (rows and not most_rows):
        return None
    micro_batch, max_rows = even(most_views, views, work.views), even(most_rows, rows) if rows else 0
    return Layout(
        cluster=cluster,
        micro_batch=micro_batch,
        most_views=most_views,
        max_rows=max_rows,
        most_rows=most_rows,
        states=states,
        scores=scores,
        training=max(training(micro_batch), optimizer_scratch(setting, cluster)),
        sampler=sampler,
        sampling=sampling(max_rows) if rows else 0.0,
        seconds=seconds(setting, work, hardware, cluster, micro_batch, max_rows, utilisation),
        flops=flops(setting, work, work.costs(micro_batch)),
        rows=phase_rows(work.costs(micro_batch)),
    )


def rank_views(work: Workload, learners: int) -> int:
    """Views of a pass on the learner that has most."""
    return ceil(work.trained_rows / learners) * work.views


def rank_rollouts(work: Workload, samplers: int) -> int:
    """Rollouts of the sampler that has most; groups stay whole."""
    return ceil(work.prompts / samplers) * ceil(work.rollouts / work.prompts) if samplers else 0


def score_bytes(setting: Setting, work: Workload, learners: int) -> float:
    """Bytes of a rank's scores: float32 of each position, view and pass for old and reference, and three of the pass at hand. An exact
    divergence also keeps the reference's states at scored positions."""
    views = rank_views(work, learners)
    kept = 3 + work.passes * (2 if work.reference else 1)
    anchors = views * work.scored * setting.sizes.width * setting.item if work.exact_kl else 0.0
    return kept * views * work.longest * FLOAT + anchors


def optimizer_scratch(setting: Setting, cluster: Cluster) -> float:
    """Bytes that torch's AdamW takes for a moment: the root of the second moment of all its numbers."""
    if cluster.offload:
        return 0.0
    return FLOAT * setting.trained / (cluster.learners if cluster.stage else 1)


def largest(size: Callable[[int], float], room: float, most: int) -> int:
    """The largest count up to ``most`` whose bytes fit; 0 for none."""
    if size(1) > room:
        return 0
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(middle) <= room else (low, middle - 1)
    return low


def even(most: int, count: int, unit: int = 1) -> int:
    """At most ``most``, so that ``count`` falls into parts of about one size; whole units where one fits, else parts of one."""
    if most < unit:
        return ceil(unit / ceil(unit / most))
    whole, parts = most // unit, ceil(count / unit)
    return unit * ceil(parts / ceil(parts / whole))


# -- how long it takes -----------------------------------------------------------------------------------------------------


def phase_rows(costs: Mapping[str, int]) -> dict[str, int]:
    """Rows forwarded in each phase; backward: rows that have a backward pass."""
    return {
        "rollout": costs["rollout"],
        "old": costs["old"] + costs["correction"],
        "reference": costs["reference"],
        "train forward": costs["train"],
        "backward": costs["train"],
    }


def flops(setting: Setting, work: Workload, costs: Mapping[str, float]) -> dict[str, float]:
    """FLOPs of each phase, of as many rows as ``costs`` says."""
    costs = {**costs, "old": costs["old"] + costs["correction"]}
    scored = {key: costs[key] * work.scored for key in ("old", "reference", "train")}
    return {
        "rollout": capacity.forward_flops(setting, costs["rollout"], work.length, costs["rollout"] * work.step_logits),
        "old": capacity.forward_flops(setting, costs["old"], work.length, scored["old"]),
        "reference": capacity.forward_flops(setting, costs["reference"], work.length, scored["reference"]),
        "train forward": capacity.forward_flops(setting, costs["train"], work.length, scored["train"]),
        "backward": capacity.backward_flops(setting, costs["train"], work.length, scored["train"]),
    }


def seconds(
    setting: Setting,
    work: Workload,
    hardware: Hardware,
    cluster: Cluster,
    micro_batch: int,
    max_rows: int,
    utilisation: float,
) -> dict[str, float]:
    """Seconds of each phase on the GPU that has most to do.

    Scoring and training: FLOPs over what the GPU reaches, or the time ZeRO-3 takes to gather the weights for every micro-batch, whichever
    is longer. Sampling: the same, or the time to read the weights once a step.
    """
    rate = speed(setting, hardware, utilisation)
    costs = work.costs(micro_batch)
    share = rank_views(work, cluster.learners) / max(1, work.trained_rows * work.views)
    scored = ("old", "correction", "reference", "train")
    own = flops(setting, work, {**costs, **{key: costs[key] * share for key in scored}})
    own_rows = phase_rows(costs)
    found = {"rollout": rollout_seconds(setting, work, hardware, cluster, max_rows, rate)}
    for phase in PHASES[1:5]:
        gathers = ceil(own_rows[phase] * share / micro_batch)
        moved = gather_traffic(setting, cluster) if phase != "backward" else backward_traffic(setting, cluster)
        found[phase] = max(own[phase] / rate, gathers * moved / hardware.link)
    found["optimizer"] = work.passes * optimizer_seconds(setting, hardware, cluster)
    if cluster.placement != "alone" and work.rollouts:  # publishing what trained
        found["optimizer"] += setting.trained * (FLOAT if setting.adapter else setting.item) / hardware.link
    return found


def speed(setting: Setting, hardware: Hardware, utilisation: float) -> float:
    """FLOP/s that a GPU reaches."""
    return utilisation * (hardware.gpu.bfloat16 if setting.bfloat16 else hardware.gpu.float32)


def rollout_seconds(
    setting: Setting, work: Workload, hardware: Hardware, cluster: Cluster, max_rows: int, rate: float
) -> float:
    """Denoising steps of all calls of the busiest sampler."""
    rows = rank_rollouts(work, cluster.samplers)
    if not rows:
        return 0.0
    calls = ceil(rows / max_rows)
    each = rows / calls
    logits = each * work.step_logits
    computing = capacity.forward_flops(setting, each, work.length, logits) / rate
    floor = capacity.sampler_bytes_read(setting, logits) / hardware.gpu.bandwidth
    # What the strategy draws again is drawn in further calls.
    return calls * work.steps * max(computing, floor)


def gather_traffic(setting: Setting, cluster: Cluster) -> float:
    """Bytes that a rank receives to have all weights once, under ZeRO-3."""
    if cluster.stage < 3 or cluster.learners == 1:
        return 0.0
    stored = capacity.base_bytes(setting) + (FLOAT * setting.adapter.numbers if setting.adapter else 0)
    return stored * (1 - 1 / cluster.learners)


def backward_traffic(setting: Setting, cluster: Cluster) -> float:
    """The same of a backward pass: the weights again, and from stage 2 on the gradients to the ranks that keep them."""
    if cluster.stage < 2 or cluster.learners == 1:
        return 0.0
    return gather_traffic(setting, cluster) + FLOAT * setting.trained * (1 - 1 / cluster.learners)


def optimizer_seconds(setting: Setting, hardware: Hardware, cluster: Cluster) -> float:
    """One optimizer step: gradients summed over ranks (below stage 2), AdamW on the rank's share, weights back to all."""
    count, ranks = setting.trained, cluster.learners
    share = count / (ranks if cluster.stage else 1)
    others = 1 - 1 / ranks
    exchanged = {0: 2.0, 1: 2.0, 2: 1.0, 3: 0.0}[cluster.stage] * FLOAT * count * others
    spent = exchanged / hardware.link
    if not cluster.offload:
        return spent + STEP_BYTES * share / hardware.gpu.bandwidth
    neighbours = min(ranks, hardware.per_node)
    return spent + 2 * FLOAT * share / HOST_LINK + STEP_BYTES * share * neighbours / HOST_BANDWIDTH


# -- what to choose --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """chosen: None where nothing fits. other: the best of the placement that was not taken. by_stage: whether the chosen placement fits
    at each ZeRO stage without offload, and a rank's states in bytes."""

    chosen: Layout | None
    other: Layout | None
    by_stage: Mapping[int, tuple[float, bool]]


def choose(setting: Setting, work: Workload, hardware: Hardware, utilisation: float) -> Choice:
    """The quickest layout whose phases follow each other; the best split where rollouts are drawn ahead. The optimizer goes to the host
    where nothing else fits, or where that makes an update ``OFFLOAD`` quicker."""

    def cost(layout: Layout, spent: float) -> float:
        return spent * (OFFLOAD if layout.cluster.offload else 1.0)

    together = first_fit(setting, work.in_turns, hardware, "colocate", 0, utilisation)
    splits = [first_fit(setting, work, hardware, "separate", n, utilisation) for n in splits_of(work, hardware)]
    apart = min(
        (one for one in splits if one is not None), key=lambda one: (cost(one, one.overlapped), one.total), default=None
    )
    found = [one for one in (together, apart) if one is not None]
    best = apart if work.ahead else min(found, key=lambda one: cost(one, one.total), default=None)
    other = next((one for one in found if one is not best), None)
    return Choice(best, other, stage_table(setting, work, hardware, best, utilisation))


def first_fit(
    setting: Setting, work: Workload, hardware: Hardware, placement: str, samplers: int, utilisation: float
) -> Layout | None:
    """The first ZeRO stage at which a placement fits. samplers: of a separate placement."""
    for cluster in clusters(setting, work, hardware, placement, samplers):
        layout = arrange(setting, work, hardware, cluster, utilisation)
        if layout is not None:
            return layout
    return None


def clusters(
    setting: Setting, work: Workload, hardware: Hardware, placement: str, samplers: int = 0
) -> Iterator[Cluster]:
    """A placement at every stage that makes sense, in the order in which they are preferred."""
    count = hardware.count
    learners = count if placement == "colocate" else count - samplers
    for stage, offload in STAGES:
        if learners == 1 and stage and not offload:  # nothing to share with
            continue
        if stage == 3 and setting.quantized:  # ZeRO-3 does not share out 4-bit weights
            continue
        if placement == "separate":
            yield Cluster("separate", samplers, learners, stage, offload)
        else:
            where: Placement = "alone" if count == 1 and not offload else "colocate"
            yield Cluster(where, count if work.rollouts else 0, count, stage, offload)


def splits_of(work: Workload, hardware: Hardware) -> list[int]:
    """Numbers of separate samplers that are looked at: all of them, or 64 of many; no more than there are prompts."""
    most = min(hardware.count - 1, work.prompts) if work.rollouts else 0
    return sorted({1 + (most - 1) * i // 63 for i in range(64)}) if most > 64 else list(range(1, most + 1))


def stage_table(
    setting: Setting, work: Workload, hardware: Hardware, best: Layout | None, utilisation: float
) -> dict[int, tuple[float, bool]]:
    """By ZeRO stage: bytes of a rank's states, and whether the chosen placement (colocate where there is none) fits with them."""
    cluster = best.cluster if best else next(clusters(setting, work, hardware, "colocate"))
    found = {}
    for stage in range(4):
        same = replace(cluster, stage=stage, offload=False)
        size = capacity.states(setting, stage=stage, ranks=same.learners, reference=work.reference).total
        possible = not (stage == 3 and setting.quantized)
        found[stage] = (size, possible and arrange(setting, work, hardware, same, utilisation) is not None)
    return found


def fits(setting: Setting, work: Workload, hardware: Hardware) -> bool:
    """Whether any layout does, without the host's memory for the optimizer."""
    options = [] if work.ahead else [("colocate", 0)]
    options += [("separate", 1)] if hardware.count > 1 and work.rollouts else []
    clusters_of = (
        c for placement, n in options for c in clusters(setting, work, hardware, placement, n) if not c.offload
    )
    return any(arrange(setting, work, hardware, cluster, 1.0) is not None for cluster in clusters_of)

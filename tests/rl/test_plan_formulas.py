"""Every formula of `unmask plan` worked out by hand for a decoder of toy size, as docs/scaling.md states it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from rl import capacity, layout
from rl.capacity import Adapter, Setting, Sizes, States
from rl.hardware import HOST_BANDWIDTH, HOST_LINK
from rl.layout import Cluster, Layout, Workload

# 8 numbers of all queries, 4 of keys; 8 x (2 x 8 + 2 x 4 + 3 x 16) = 576 numbers in the matrices of a layer, 80 in the head.
SIZES = Sizes(2, 8, 2, 1, 4, 16, 10, parameters=1352)
LORA = Setting(SIZES, Adapter(rank=2, numbers=300, inputs=100, shared=60, modules=14))
FULL, PLAIN, PLAIN_LORA = Setting(SIZES), Setting(SIZES, bfloat16=False), replace(LORA, bfloat16=False)
NF4 = 1152 * (0.5 + 1 / 64 + 4 / 16384)  # bytes of all layers' matrices
MICRO = (3, 7)  # rows and positions: 21 positions


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of 5 positions at a time."""
    monkeypatch.setattr(capacity, "CHUNK_NUMBERS", 50)


def test_sizes_and_weights() -> None:
    assert (SIZES.layer_matrices, SIZES.matrices, SIZES.head) == (576, 1152, 80)
    assert [capacity.base_bytes(one) for one in (FULL, PLAIN, LORA)] == [5408, 5408, 2704]
    nf4 = replace(LORA, quantized=True)
    assert capacity.base_bytes(nf4) == NF4 + 2 * 200
    assert capacity.sampler_weights(nf4) == NF4 + 2 * 200 + 1200
    assert [capacity.sampler_weights(one) for one in (FULL, PLAIN, LORA)] == [2704, 5408, 3904]


def test_states_of_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [capacity.states(LORA, stage=stage, ranks=2, reference=True) for stage in range(4)]
    assert found[0] == States(2704, 1200, 0, 1200, 2400, 1200, 1200, 0)
    assert found[1] == States(2704, 1200, 600, 1200, 1200, 1200, 1200, 0)
    assert found[2] == States(2704, 1200, 600, 600, 1200, 1200, 1200, 0)
    assert found[3] == States(1352, 600, 0, 600, 1200, 3904, 600, 0)
    assert found[0].total == 9904
    hosts = [capacity.states(LORA, stage=stage, ranks=2, offload=True) for stage in (1, 2, 3)]
    assert [one.host for one in hosts] == [1800, 2400, 2400]
    assert [one.masters + one.moments for one in hosts] == [0, 0, 0]
    assert [one.gradients for one in hosts] == [1200, 0, 0]
    assert capacity.states(LORA).buffers == 0
    monkeypatch.setattr(capacity, "BUCKET", 100)
    monkeypatch.setattr(capacity, "LIVE", 826)  # half of all numbers
    assert [capacity.states(LORA, stage=stage, ranks=2).buffers for stage in (1, 3)] == [400, 1952]


def test_what_a_layer_keeps() -> None:
    keep = capacity.kept_by_layer
    assert keep(PLAIN, *MICRO) == 21 * (4 * (32 + 48) + 4 * 20 + 4 * 16 + 4 * (2 * 8 + 16) + 28)
    assert keep(PLAIN, *MICRO, padded=False) == keep(PLAIN, *MICRO) - 21 * 28  # the mask
    assert keep(FULL, *MICRO) == 21 * (2 * 80 + 80 + 64 + 2 * (5 * 8 + 16) + 14) + 2 * 576
    assert keep(LORA, *MICRO) == 21 * (2 * 80 + 80 + (100 + 2 * 14) + 14) + 300
    assert keep(PLAIN_LORA, *MICRO) == 21 * (4 * 80 + 80 + 2 * (60 + 2 * 14) + 28)
    eager = replace(LORA, eager=True)
    assert keep(eager, *MICRO) == keep(LORA, *MICRO, padded=False) + 21 * 2 * 7 * 6  # probabilities, in both dtypes
    normed = replace(SIZES, qk_norm=True)
    assert keep(replace(PLAIN, sizes=normed), *MICRO) == keep(PLAIN, *MICRO) + 21 * 8 * 12
    assert keep(replace(LORA, sizes=normed), *MICRO) == keep(LORA, *MICRO) + 21 * 4 * 12


def test_what_is_kept_in_all(chunks: None) -> None:
    outside = capacity.kept_outside
    assert outside(LORA, *MICRO, 4) == 21 * 32 + 4 * 16 + 224
    assert outside(PLAIN, *MICRO, 4) == 21 * 64 + 4 * 32 + 224 + 160
    assert outside(FULL, *MICRO, 4) == 21 * 64 + 4 * 16 + 224 + 160 + 160
    assert outside(FULL, *MICRO, 6) == 21 * 64 + 6 * 16 + 224 + 160  # in chunks, which are computed again
    assert capacity.kept(LORA, *MICRO, 4) == 960 + 2 * capacity.kept_by_layer(LORA, *MICRO)
    assert capacity.kept(replace(LORA, checkpointing=True), *MICRO, 4) == 960 + 2 * 21 * 8 * 2
    assert capacity.kept(replace(FULL, checkpointing=True), *MICRO, 4) == 1952 + 2 * 21 * 8 * 4


def test_what_comes_and_goes(chunks: None) -> None:
    forward, backward = capacity.forward_scratch, capacity.backward_scratch
    assert forward(FULL, *MICRO) == 21 * (2 * 3 * 16 + 4 * 4 * 8 + 2 * 8)
    assert forward(LORA, *MICRO) == 21 * (2 * 4 * 16 + 4 * 2 * 8 + 6 * 8)
    assert forward(PLAIN_LORA, *MICRO) == 21 * (4 * 4 * 16 + 4 * 4 * 8)
    assert forward(replace(LORA, quantized=True), *MICRO) == forward(LORA, *MICRO) + 2 * 8 * 16
    assert backward(FULL, *MICRO) == 21 * (2 * 16 + 2 * 4 * 8) + 80 * 6
    assert backward(LORA, *MICRO) == 21 * (2 * 16 + 2 * 2 * 8 + 4 * 24) + 2 * 24 * 6
    assert backward(PLAIN, *MICRO) == 21 * (4 * 16 + 2 * 4 * 8) + 80 * 4
    head = capacity.head_scratch
    assert [head(FULL, 4, gradient=True), head(FULL, 4, gradient=True, sampler_law=False)] == [40 * 16, 40 * 12]
    assert [head(one, 4, gradient=True) for one in (LORA, PLAIN_LORA)] == [40 * 6, 40 * 4]
    assert head(LORA, 9, gradient=False) == 50 * 6


def test_peaks() -> None:
    kept = 960 + 2 * 8322
    assert capacity.train_peak(LORA, *MICRO, 4) == kept + 3648
    assert capacity.train_peak(LORA, *MICRO, 400) == kept + 396 * 16 + 4000 * 6  # the head is the widest then
    again = 3648 + 8322 - 21 * 32  # a layer computed again, when what the last norm kept is gone
    assert capacity.train_peak(replace(LORA, checkpointing=True), *MICRO, 4) == 1632 + again
    again = 3008 + 13020 - 3 * 21 * 32
    assert capacity.train_peak(replace(PLAIN, checkpointing=True), *MICRO, 4) == 3200 + again
    assert [capacity.score_peak(LORA, *MICRO, count) for count in (4, 400)] == [64 + 5040, 6400 + 24000]
    assert [capacity.sampler_peak(LORA, *MICRO, count) for count in (4, 400)] == [64 + 5040, 6400 + 20 * 4000]


def test_work(chunks: None) -> None:
    layers = 21 * (2 * (1152 + 300) + 4 * 2 * 8 * 7)
    assert capacity.forward_flops(LORA, *MICRO, 4) == layers + 2 * 80 * 4
    back = 21 * (2 * 1152 + 4 * 300 + 8 * 2 * 8 * 7) + 2 * 80 * 4
    assert capacity.backward_flops(LORA, *MICRO, 4) == back
    assert capacity.backward_flops(replace(LORA, checkpointing=True), *MICRO, 4) == back + layers
    assert capacity.backward_flops(FULL, *MICRO, 4) == 21 * (4 * 1152 + 8 * 2 * 8 * 7) + 6 * 80 * 4
    read = capacity.sampler_bytes_read
    assert [read(LORA, 5), read(LORA, 6)] == [160 + 2304 + 1200, 2 * 160 + 2304 + 1200]
    assert read(replace(LORA, quantized=True), 5) == 160 + NF4 + 1200


# -- layouts --------------------------------------------------------------------------------------------------------

WORK = Workload(
    prompts=5,
    rollouts=20,
    steps=6,
    length=7.0,
    longest=9,
    step_logits=2.0,
    step_logits_most=4,
    trained_rows=20,
    views=3,
    scored=1.5,
    scored_most=2.0,
    passes=2,
    reference=True,
    exact_kl=False,
    costs=lambda micro_batch: {"rollout": 120, "old": 40, "correction": 20, "reference": 60, "train": 120},
)


def hardware(link: float) -> Any:
    return SimpleNamespace(link=link, per_node=4, gpu=SimpleNamespace(bandwidth=100.0, bfloat16=1000.0, float32=100.0))


def apart(learners: int, stage: int, offload: bool = False) -> Cluster:
    return Cluster("separate", 2, learners, stage, offload)


def test_shares_of_the_busiest() -> None:
    assert layout.rank_views(WORK, 3) == 7 * 3
    assert [layout.rank_rollouts(WORK, count) for count in (2, 0)] == [3 * 4, 0]
    assert layout.score_bytes(LORA, WORK, 3) == 7 * 21 * 9 * 4
    assert layout.score_bytes(LORA, replace(WORK, reference=False), 3) == 5 * 21 * 9 * 4
    assert layout.score_bytes(LORA, replace(WORK, exact_kl=True), 3) == 7 * 21 * 9 * 4 + 21 * 1.5 * 8 * 2
    clusters = apart(3, 0), apart(3, 1), apart(3, 2, offload=True)
    assert [layout.optimizer_scratch(LORA, one) for one in clusters] == [1200, 400, 0]
    assert layout.largest(lambda n: n * n, 25, 100) == 5  # what fits exactly, fits
    assert [layout.even(7, 8), layout.even(11, 16, 4)] == [4, 8]
    assert [layout.speed(one, hardware(1), 0.5) for one in (LORA, PLAIN)] == [500, 50]


def test_what_travels() -> None:
    assert [layout.gather_traffic(LORA, apart(2, stage)) for stage in (2, 3)] == [0, 1952]
    assert layout.gather_traffic(FULL, apart(2, 3)) == 2704
    assert [layout.backward_traffic(LORA, apart(2, stage)) for stage in (1, 2, 3)] == [0, 600, 1952 + 600]
    assert layout.backward_traffic(LORA, apart(1, 3)) == layout.gather_traffic(LORA, apart(1, 3)) == 0
    spent = [layout.optimizer_seconds(LORA, hardware(10), apart(2, stage)) for stage in range(4)]
    assert spent == [120 + 84, 120 + 42, 60 + 42, 42]
    on_host = layout.optimizer_seconds(LORA, hardware(float("inf")), apart(8, 2, offload=True))
    assert on_host == pytest.approx(8 * 37.5 / HOST_LINK + 28 * 37.5 * 4 / HOST_BANDWIDTH)


def test_seconds_of_an_update() -> None:
    drawing = [layout.rollout_seconds(LORA, WORK, hardware(1), apart(2, 0), 5, rate) for rate in (1e3, 1e9)]
    # Three calls of four rows: computed, or as long as the weights take to be read.
    assert drawing == pytest.approx([3 * 6 * (4 * 7 * 3352 + 2 * 80 * 8) / 1e3, 3 * 6 * 3664 / 100])
    quick = layout.seconds(LORA, WORK, hardware(1e9), apart(3, 3), 4, 5, 0.5)
    forward = 42 * 7 * 3352 + 2 * 80 * 63  # 21 of 60 views a pass, so 42 of 120
    assert quick["train forward"] == pytest.approx(forward / 500)
    assert quick["old"] == pytest.approx(forward / 2 / 500)
    assert quick["backward"] == pytest.approx((42 * 7 * 4400 + 2 * 80 * 63) / 500)
    slow = layout.seconds(LORA, WORK, hardware(1), apart(3, 3), 4, 5, 0.5)
    assert slow["train forward"] == pytest.approx(11 * 3904 * 2 / 3)  # micro-batches of four
    assert slow["backward"] == pytest.approx(11 * (3904 + 1200) * 2 / 3)
    assert slow["optimizer"] == pytest.approx(2 * 28 * 100 / 100 + 1200)  # two steps, and the adapter to the samplers
    full = layout.seconds(FULL, WORK, hardware(1), apart(3, 3), 4, 5, 0.5)
    assert full["optimizer"] == pytest.approx(2 * 28 * 1352 / 3 / 100 + 2 * 1352)


def test_the_fullest_gpu_and_the_whole_update() -> None:
    seconds = {"rollout": 8.0, "old": 1.0, "train forward": 3.0}
    states = States(*[1.0] * 7, host=100.0)
    one = Layout(apart(1, 0), 1, 1, 1, 1, states, 10.0, 20.0, 5.0, 30.0, seconds, {}, {})
    assert (one.peak, one.learner_peak, one.sampler_peak) == (37, 37, 35)
    assert (one.total, one.overlapped) == (12, 8)
    assert replace(one, seconds={**seconds, "rollout": 1.0}).overlapped == 4
    together = replace(one, cluster=Cluster("colocate", 1, 1, 0))
    assert (together.peak, together.overlapped) == (7 + 10 + 30 + 5, 12)
    assert replace(one, cluster=Cluster("alone", 1, 1, 0)).peak == 7 + 10 + 30


def test_stages_that_make_sense() -> None:
    four: Any = SimpleNamespace(count=4)
    stages = [(one.stage, one.offload) for one in layout.clusters(LORA, WORK, four, "colocate")]
    assert stages == list(layout.STAGES)
    nf4 = layout.clusters(replace(LORA, quantized=True), WORK, four, "separate", 1)
    assert {one.stage for one in nf4} == {0, 1, 2}

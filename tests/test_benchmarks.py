"""The speed benchmarks compare like with like: the published procedures are right, and the two sides agree."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import _common as common
from benchmarks import published, sampling, scoring
from rollouts.spec import SamplerSpec
from tests.oracles.sampling import enumerate_law, published_llada
from tests.oracles.tabular import TabularPolicy


def everywhere(policy: TabularPolicy) -> published.Model:
    """A policy as the published code calls a model."""

    def run(ids: Tensor) -> Tensor:
        select = torch.ones_like(ids, dtype=torch.bool)
        return policy.logits(policy(ids, None, select)).view(*ids.shape, -1)

    return run


def canvas_of(policy: TabularPolicy, prompts: list[tuple[int, ...]], length: int) -> Tensor:
    return torch.tensor([[*prompt, *[policy.mask_id] * length] for prompt in prompts])


@pytest.mark.parametrize(("canvas", "block", "steps"), [(4, 4, 4), (6, 3, 4), (8, 4, 6), (12, 6, 4), (6, 6, 1)])
def test_the_published_sampler_is_llada_s(canvas: int, block: int, steps: int) -> None:
    policy = TabularPolicy(12, seed=canvas + steps, scale=1.5, mask_bias=-60.0)
    prompts = [(0, 1, 2), (4, 4, 5), (8, 7, 6)]
    found = published.generate(
        everywhere(policy),
        canvas_of(policy, prompts, canvas),
        start=3,
        block=block,
        steps=steps,
        temperature=0.0,
        mask_id=policy.mask_id,
    )
    for row, prompt in zip(found.tolist(), prompts, strict=True):
        assert row == [*prompt, *published_llada(policy, prompt, canvas, block, steps)]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_published_sampler_draws_from_the_law_that_ours_draws_from(temperature: float) -> None:
    policy = TabularPolicy(seed=1, mask_bias=-60.0)
    spec = SamplerSpec(canvas=3, block=3, steps=2, selection="confidence", temperature=temperature)
    law: Counter[tuple[int, ...]] = Counter()
    for (tokens, _), outcome in enumerate_law(policy, (0, 1), spec).items():
        law[tokens] += outcome.probability  # pyright: ignore[reportArgumentType]
    count = 4000
    torch.manual_seed(0)
    found = published.generate(
        everywhere(policy),
        canvas_of(policy, [(0, 1)] * count, 3),
        start=2,
        block=3,
        steps=2,
        temperature=temperature,
        mask_id=policy.mask_id,
    )
    seen = Counter(tuple(row) for row in found[:, 2:].tolist())
    assert set(seen) <= set(law)
    for tokens, probability in law.items():
        assert abs(seen[tokens] - count * probability) <= 5 * math.sqrt(count * probability * (1 - probability)) + 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_sides_of_scoring_give_one_loss_and_one_gradient(dtype: str, tmp_path: Path) -> None:
    arguments = common.parser(None, "scoring").parse_args(
        [
            "--shape",
            "tiny",
            "--dtype",
            dtype,
            "--repeats",
            "1",
            "--peak-tflops",
            "1",
            "--out",
            str(tmp_path / "x.jsonl"),
        ]
    )
    rows = scoring.run(arguments)
    assert [row["cell"]["estimator"] for row in rows] == ["mean_field", "elbo", "trajectory"]
    for row in rows:
        assert row["ratio"]["distance"] < (1e-5 if dtype == "float32" else 0.1)
        assert 0 < row["ours"]["peak_bytes"] < row["published"]["peak_bytes"]
        assert 0 < row["ours"]["mfu"] < 1
    text = scoring.table(rows)
    assert text.count("\n") == len(rows) + 1
    assert "MFU" in text
    # What the file holds is not measured again.
    assert scoring.run(arguments) == rows
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_sides_of_sampling_give_one_text(dtype: str, tmp_path: Path) -> None:
    arguments = common.parser(None, "sampling").parse_args(
        ["--shape", "tiny", "--dtype", dtype, "--repeats", "1", "--out", str(tmp_path / "x.jsonl")]
    )
    rows = sampling.run(arguments)
    assert len(rows) == len(sampling.TINY_GRID)
    for row in rows:
        assert row["ratio"]["speedup"] > 0
        if row["cell"]["temperature"] == 0 and dtype == "float32":
            assert row["ratio"]["same_text"] == 1.0
        if row["cell"]["end"] is not None:  # ours stops after the block that holds the end
            assert row["ours"]["forwards"] < row["published"]["forwards"]
    assert "MFU" not in sampling.table(rows)
    assert sampling.run(arguments) == rows


def test_the_head_alone(tmp_path: Path) -> None:
    """Without layers: the gradient is that of the norm before the head, and nothing is computed for another depth."""
    options = ["--shape", "tiny", "--layers", "0", "--repeats", "1", "--out"]
    scored = scoring.run(common.parser(None, "scoring").parse_args([*options, str(tmp_path / "a.jsonl")]))
    sampled = sampling.run(common.parser(None, "sampling").parse_args([*options, str(tmp_path / "b.jsonl")]))
    assert all(row["ratio"]["distance"] < 1e-5 and row["ours"]["peak_bytes"] for row in scored)
    assert all("time_all_layers" not in row["ratio"] for row in scored)
    assert all(row["ratio"]["same_text"] == 1.0 for row in sampled if row["cell"]["temperature"] == 0)
    assert "nan" not in scoring.table(scored) + sampling.table(sampled)


def test_a_difference_between_the_sides_is_noticed() -> None:
    one, two = torch.ones(3), torch.tensor([1.0, 1.0, 1.1])
    loss = torch.tensor(0.5)
    assert scoring.difference((loss, [one, one]), (loss, [one, one])) == 0.0
    assert scoring.difference((loss, [one, two]), (loss, [one, one])) > 0.03
    assert scoring.difference((loss, [one]), (loss * 1.01, [one])) == pytest.approx(0.01, rel=0.02)


def test_the_peak_is_what_is_held_at_one_time() -> None:
    held = torch.zeros(1_000_000)  # there before: not counted

    def run() -> None:
        for _ in range(3):
            first = held + 1.0
            second = first * 2.0
            del first, second

    side = common.in_turns({"one": run}, 2, "cpu")["one"]
    assert 8e6 <= side.peak < 8.1e6


def test_counts_of_work_are_those_of_the_published_shape() -> None:
    shape = common.SHAPES["8b"]
    body = 2 * 6.979e9 + 4 * 32 * 4096 * 456  # twice the weights, and attention over a row of 456 positions
    assert shape.flops(1, 456, 0) == pytest.approx(456 * body, rel=1e-3)
    assert shape.flops(0, 456, 7) == pytest.approx(7 * 2 * 0.518e9, rel=1e-3)
    assert (shape.mask_id, shape.eos_id) == (126_336, 126_081)

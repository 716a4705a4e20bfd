"""The losses of SFT: by enumeration of their masks, and the mask-agnostic one against loops and naive autograd."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rl.backends import TrainingError
from rl.cli import app
from rl.config import load_recipe
from rl.mask_agnostic import tails
from rl.run import read_jsonl
from rl.sft import completion_batch, sft_loop, sft_plan, sft_step
from rl.sft_losses import Denoising, MaskAgnostic, Uniform
from rollouts.policy import Policy
from rollouts.trajectory import RolloutBatch
from tests.oracles.draws import Cells, even, gauss, outcomes
from tests.oracles.runs import ROWS, recipe, written
from tests.oracles.tables import Table, exact_bound, table_of, weighted_sum
from tests.oracles.tabular import TabularPolicy
from tests.oracles.training import Recorder, copies, distance, make_learner, tiny_policy

PROMPTS = [(1, 2), (3, 4, 5, 6), (7,), (8, 9)]
COMPLETIONS = [(1, 2, 3), (), (4, 5, 6, 7, 8), (9,)]
CANVAS = 5
LOSSES = {
    "1/t": Denoising(),
    "1/t, complement": Denoising(pair="complement"),
    "1/t, mirror": Denoising(pair="mirror"),
    "fixed count": Denoising(noise="fixed_count"),
    "fixed count, complement": Denoising(noise="fixed_count", pair="complement"),
    "fixed count, mirror": Denoising(noise="fixed_count", pair="mirror"),
    "uniform": Uniform(),
}


def rows_of(policy: Policy) -> RolloutBatch:
    return completion_batch(policy, PROMPTS, COMPLETIONS, CANVAS)


@pytest.fixture(scope="module")
def table() -> Table:
    return table_of(TabularPolicy(5, seed=2, scale=1.5), (0, 1), (1, 0, 2))


# ---- expectations


def expectation(loss: Any, table: Table, cells: Cells) -> float:
    """Over every level and mask."""
    runs = outcomes(lambda every: loss.views(every, 3, every.random()), cells)
    return sum(probability * weighted_sum(views, table) for probability, views in runs)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "uniform"])
def test_the_denoising_losses_estimate_the_bound(name: str, table: Table) -> None:
    loss = LOSSES[name]
    assert isinstance(loss, Denoising)
    if loss.noise == "fixed_count":
        found = expectation(loss, table, even(4 if loss.pair == "complement" else 3))
        assert found == pytest.approx(exact_bound(table), abs=1e-9)
    else:  # what lies below t = 0.001 is left out, and under complement what lies above 0.999
        assert expectation(loss, table, gauss(12)) == pytest.approx(exact_bound(table), abs=0.02)
        assert expectation(loss, table, gauss(12)) != pytest.approx(exact_bound(table), abs=1e-6)


def test_the_uniform_loss_weighs_every_hidden_token_alike(table: Table) -> None:
    """2 / (low + high) times the integral over t of the hidden tokens' log p."""
    low, high, total = 0.3, 0.8, 0.0
    for x, weight in gauss(12):
        t = low + (high - low) * x
        for mask, logp in table.items():
            total += weight * t ** sum(mask) * (1 - t) ** (3 - sum(mask)) * float(logp @ np.array(mask))
    found = expectation(Uniform(low=low, high=high), table, gauss(12))
    assert found == pytest.approx(total * 2 / (low + high), abs=1e-9)


@pytest.mark.parametrize("pair", ["complement", "mirror"])
def test_a_pair_covers_what_it_says(pair: Any) -> None:
    policy = tiny_policy()
    plan = sft_plan(rows_of(policy), seed=1, step=0, stratified=True, loss=Denoising(noise="fixed_count", pair=pair))
    for row in range(4):
        views = plan.scored[plan.row == row].int()
        if pair == "complement":
            assert views.sum(0).max() == 1
            assert int(views.sum()) == CANVAS
        else:
            assert len(set(views.sum(1).tolist())) == 1


def test_levels_are_spread_over_the_batch() -> None:
    """Eight rows of eight tokens, a count for each: stratified they are 1 to 8."""
    policy = tiny_policy()
    batch = completion_batch(policy, [(1,)] * 8, [(1,) * 8] * 8, 8)
    for step in range(3):
        plan = sft_plan(batch, seed=0, step=step, stratified=True, loss=Denoising(noise="fixed_count"))
        assert sorted(plan.scored.sum(1).tolist()) == list(range(1, 9))
    spread = sft_plan(batch, seed=0, step=0, stratified=False, loss=Denoising(noise="fixed_count"))
    assert sorted(spread.scored.sum(1).tolist()) != list(range(1, 9))


# ---- gradients


def naive_loss(policy: Policy, batch: RolloutBatch, loss: Any, step: int) -> torch.Tensor:
    """By loops over views and tokens, each view a forward of its own."""
    plan = sft_plan(batch, seed=0, step=step, stratified=True, loss=loss)
    total = torch.zeros(())
    for view in range(len(plan)):
        row = int(plan.row[view])
        logp = log_probs(policy, batch, row, plan.masked[view], 0)
        for place in plan.scored[view].nonzero().flatten().tolist():
            total = total - plan.weight[view, place] * logp[place, batch.tokens[row, place]]
    return total / int(batch.loss_mask.sum())


def log_probs(policy: Policy, batch: RolloutBatch, row: int, masked: torch.Tensor, tail: int) -> torch.Tensor:
    real = batch.attention_mask[row]
    shown = torch.where(masked, policy.mask_id, batch.tokens[row])[real].tolist() + [policy.mask_id] * tail
    ids = torch.tensor([shown])
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    return policy.logits(policy(ids, everywhere, everywhere)).log_softmax(-1)


def naive_mask_agnostic(policy: Policy, batch: RolloutBatch, loss: MaskAgnostic, step: int) -> torch.Tensor:
    plan = sft_plan(batch, seed=0, step=step, stratified=True, loss=loss)
    lengths = tails(batch, loss.extra, seed=0, step=step).tolist()
    total = torch.zeros(())
    for row, (one, two) in enumerate(lengths):
        first, second = (log_probs(policy, batch, row, plan.masked[row], tail) for tail in (one, two))
        for place in plan.scored[row].nonzero().flatten().tolist():
            token = batch.tokens[row, place]
            total = total - loss.ce * plan.weight[row, place] * (first[place, token] + second[place, token]) / 2
            total = total + loss.tv * sum((first[place].exp() - second[place].exp()).abs()) / 2
    return total / int(batch.loss_mask.sum())


AGNOSTIC = MaskAgnostic(ce=0.7, tv=1.3, extra=6)


@pytest.mark.parametrize("name", [*LOSSES, "mask-agnostic"])
@pytest.mark.parametrize("micro_batch", [1, 3, 100])
def test_loss_and_gradient_are_those_of_naive_autograd(name: str, micro_batch: int) -> None:
    policy = tiny_policy()
    batch, loss = rows_of(policy), LOSSES.get(name, AGNOSTIC)
    learner = make_learner(policy, micro_batch=micro_batch)
    recorder, start = Recorder(learner), copies(learner.parameters)
    metrics = sft_step(learner, batch, seed=0, step=3, stratified=True, loss=loss)
    for parameter, value in zip(learner.parameters, start, strict=True):
        parameter.data.copy_(value)
    wanted = (naive_mask_agnostic if name == "mask-agnostic" else naive_loss)(policy, batch, loss, 3)  # type: ignore[arg-type]
    assert metrics["loss"] == pytest.approx(float(wanted.detach()), rel=1e-5)
    gradient = torch.autograd.grad(wanted, learner.parameters)
    assert distance(recorder.gradients[0], list(gradient)) < 1e-5
    if name == "mask-agnostic":
        assert metrics["tv"] > 1e-4
        assert metrics["loss"] == pytest.approx(0.7 * metrics["ce"] + 1.3 * metrics["tv"])


def test_padding_changes_nothing_and_lengths_belong_to_the_row() -> None:
    policy = tiny_policy()
    batch = rows_of(policy)
    gradients = []
    for extra in (0, 5):
        fresh = tiny_policy()
        recorder = Recorder(learner := make_learner(fresh, micro_batch=3))
        sft_step(learner, batch.padded(batch.length + extra), seed=0, step=0, stratified=True, loss=AGNOSTIC)
        gradients.append(recorder.gradients[0])
    assert distance(*gradients) < 1e-5
    drawn = tails(batch, 6, seed=0, step=0)
    assert torch.equal(tails(batch.rows([2, 0]), 6, seed=0, step=0), drawn[[2, 0]])
    assert len({tuple(tails(batch, 6, seed=0, step=step).flatten().tolist()) for step in range(4)}) == 4
    assert {int(n) for step in range(40) for n in tails(batch, 2, seed=0, step=step).flatten()} == {0, 1, 2}


def test_rows_and_their_masks_must_fit_the_model() -> None:
    policy = tiny_policy()
    with pytest.raises(TrainingError, match=r"loss.extra: 64 the longest row has 73 positions, and the model 40"):
        sft_loop(
            make_learner(policy), [(p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)], canvas=CANVAS, steps=1,
            batch=2, seed=0, stratified=True, loss=MaskAgnostic(),
        )  # fmt: skip


# ---- recipes


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize(
    "loss",
    [
        {"kind": "elbo", "noise": "fixed_count", "pair": "complement"},
        {"kind": "uniform", "low": 0.4},
        {"kind": "mask_agnostic", "extra": 8},
    ],
    ids=lambda loss: loss["kind"],
)
def test_through_the_command_line(checkpoint: Path, tmp_path: Path, loss: dict[str, Any]) -> None:
    rows = written(ROWS, tmp_path / "rows.jsonl")
    warm = {"data": {"path": rows}, "steps": 4, "batch": 3, "micro_batch": 2, "lr": 1e-2, "loss": loss}
    Path("toy.yaml").write_text(json.dumps(recipe(checkpoint, warm_start=warm)))
    losses = []
    for out in ("one", "two"):
        result = CliRunner().invoke(app, ["sft", "toy.yaml", "--out", out])
        assert result.exit_code == 0, result.output
        losses.append([row["loss"] for row in read_jsonl(Path(out) / "warm_start.jsonl")])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_what_a_loss_cannot_mean() -> None:
    base = {"model": {"path": "tiny"}, "warm_start": {"data": {"path": "a/b"}, "steps": 1}}
    assert load_recipe(base, command="sft").warm_start.loss == Denoising()  # type: ignore[union-attr]
    wrong = [
        {"kind": "uniform", "low": 0.9, "high": 0.8},
        {"kind": "mask_agnostic", "pair": "mirror"},
        {"kind": "elbo", "low": 0.1},
    ]
    for loss in wrong:
        with pytest.raises(ValueError, match=r"warm_start\.loss"):
            load_recipe({**base, "warm_start": {**base["warm_start"], "loss": loss}}, command="sft")

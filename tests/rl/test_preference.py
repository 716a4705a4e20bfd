"""DPO on ELBO differences: by hand, its pairs, and its exact zero at the reference."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl.advantages import best_worst
from rl.masks import PlanKey
from rl.objectives import Units
from rl.preference import Dpo, dpo_loss, pairs_of
from rl.step import train_step
from tests.oracles.training import batch_for, prepared, preset_of, tiny_policy


def units(new: list[float], reference: list[float], advantage: list[float], group: list[int], **rest) -> Units:
    column = [torch.tensor(value, dtype=torch.float64).unsqueeze(1) for value in (new, reference, advantage)]
    mask = torch.ones(len(new), 1, dtype=torch.bool)
    defaults = {"mask": mask, "tokens": torch.full((len(new),), 4), "old": column[0].clone()}
    return Units(
        **{**defaults, **rest}, new=column[0], reference=column[1], advantage=column[2], group=torch.tensor(group)
    )


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# ---- the loss


@pytest.mark.parametrize(("e", "s"), [(0.0, 0.7), (0.0, -2.0), (0.1, 0.7), (0.3, -1.2)])
def test_the_loss_of_a_score(e: float, s: float) -> None:
    wanted = (-(1 - e) * log_sigmoid(s) + e * log_sigmoid(-s)) / (1 - 2 * e)
    assert dpo_loss(torch.tensor(s, dtype=torch.float64), e).item() == pytest.approx(wanted, rel=1e-12)


@given(st.floats(-3, 3), st.floats(0.0, 0.45))
def test_the_smoothed_loss_is_right_on_average_over_flipped_labels(s: float, e: float) -> None:
    score = torch.tensor([s, -s], dtype=torch.float64)
    right, flipped = dpo_loss(score, e).tolist()
    assert (1 - e) * right + e * flipped == pytest.approx(-log_sigmoid(s), rel=1e-9)


def test_a_pair_by_hand() -> None:
    """Two pairs of two and a group of three, whose middle row is in no pair; the mean over rows is the mean over groups."""
    seen = units(
        [-3.0, -5.0, -2.0, -4.0, -1.0, -6.0, -2.5],
        [-4.0, -4.5, -2.5, -4.0, -1.5, -5.0, -2.0],
        [1.0, -1.0, -1.0, 1.0, 1.5, 0.0, -1.5],
        [7, 7, 3, 3, 9, 9, 9],
    )
    objective = Dpo(beta=0.5, sft_weight=0.1)
    losses = [
        -log_sigmoid(0.5 * (1.0 + 0.5)) + 0.1 * 3.0 / 4,
        -log_sigmoid(0.5 * (0.0 - 0.5)) + 0.1 * 4.0 / 4,
        -log_sigmoid(0.5 * (0.5 + 0.5)) + 0.1 * 1.0 / 4,
    ]
    found = objective.per_unit(seen).squeeze(1)
    wanted = [losses[0], losses[0], losses[1], losses[1], 1.5 * losses[2], 0.0, 1.5 * losses[2]]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)
    means = {name: float(total / count) for name, (total, count) in objective.metrics(seen).items()}
    assert means["preference/accuracy"] == pytest.approx(2 / 3)
    assert means["preference/score"] == pytest.approx(0.5 * (1.5 - 0.5 + 1.0) / 3)
    assert means["preference/chosen"] - means["preference/rejected"] == pytest.approx(means["preference/score"])
    assert means["preference/loss"] + 0.1 * means["preference/sft"] == pytest.approx(sum(losses) / 3)
    assert objective.tails(seen)["score"] == pytest.approx((-0.25, 0.75))


def test_a_row_without_a_partner_is_in_no_pair() -> None:
    """Its partner was lost to grading, or has no token to score."""
    mask = torch.tensor([True, False, True, True]).unsqueeze(1)
    seen = units([-1.0] * 4, [-2.0] * 4, [1.0, -1.0, 1.0, 0.0], [0, 0, 1, 1], mask=mask)
    assert Dpo().per_unit(seen).abs().max() == 0
    assert Dpo().tails(seen) == {}
    assert all(count == 0 for _, count in Dpo().metrics(seen).values())


def test_pairs_do_not_hang_on_the_order_of_rows() -> None:
    advantage, group = torch.tensor([1.0, -1, 0, -2, 2, 1]), torch.tensor([5, 5, 5, 2, 2, 8])
    everywhere = torch.ones(6, dtype=torch.bool)
    pairs = {tuple(pair) for pair in torch.stack(pairs_of(advantage, everywhere, group)).T.tolist()}
    assert pairs == {(0, 1), (4, 3)}
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = torch.stack(pairs_of(advantage[order], everywhere, group[order])).T
    assert {tuple(order[pair].tolist()) for pair in moved} == pairs


def test_what_is_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="more than one row of one sign"):
        pairs_of(torch.tensor([1.0, 1.0, -1.0]), torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64))
    seen = units([-1.0, -1.0], [-2.0, -2.0], [1.0, -1.0], [0, 0])
    for missing in ("reference", "group", "tokens"):
        with pytest.raises(ValueError, match="needs a reference, groups, token counts"):
            Dpo().per_unit(replace(seen, **{missing: None}))


def test_best_and_worst_of_a_group() -> None:
    reward = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.5, 0.5, 2.0])
    group = torch.tensor([1, 1, 1, 1, 4, 4, 6])
    assert best_worst(reward, group).tolist() == [-2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert best_worst(torch.tensor([1.0, 0.0]), torch.tensor([3, 3])).tolist() == [1.0, -1.0]


# ---- at the reference


def test_at_the_reference_the_score_is_exactly_zero() -> None:
    """Through the whole step: same draws, same micro-batches, so not a bit differs; the loss is log 2."""
    policy = tiny_policy()
    method = preset_of("vrpo")
    learner, recorder, _ = prepared(policy, method, micro_batch=4)
    learner.freeze_reference("start")  # in place of the one that was moved
    metrics = train_step(learner, batch_for(policy, method), method, seed=3, step=0).result()
    assert (metrics["score_min"], metrics["score_max"]) == (0.0, 0.0)
    assert metrics["preference/chosen"] == metrics["preference/rejected"] == metrics["preference/accuracy"] == 0.0
    assert metrics["preference/loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert metrics["loss"] == pytest.approx(math.log(2) + 0.05 * metrics["preference/sft"], rel=1e-6)
    assert (
        max(float(gradient.abs().max()) for gradient in recorder.gradients[0]) > 0
    )  # half of beta pulls the pair apart


def test_only_the_pair_is_scored() -> None:
    """Of a group of three the middle rollout has no view."""
    policy, method = tiny_policy(), preset_of("online_vrpo")
    batch = batch_for(policy, method)
    assert batch.advantage is not None
    learner, _, _ = prepared(policy, method)
    train_step(learner, batch, method, seed=3, step=0)
    pairs = batch.rows((batch.advantage != 0).nonzero().flatten())
    assert len(pairs) == 6
    assert learner.work.forward == 3 * len(method.estimator.plan(pairs.rollouts, PlanKey(3, 0)))  # old, reference, new


def test_a_step_raises_the_score() -> None:
    """Gradient descent on the loss of a fixed batch prefers the chosen rows."""
    policy, method = tiny_policy(), preset_of("vrpo")
    learner, _, _ = prepared(policy, method, size=None, lr=3e-3)
    learner.freeze_reference("start")
    batch = batch_for(policy, method)
    scores = [train_step(learner, batch, method, seed=3, step=step).result()["preference/score"] for step in range(12)]
    assert scores[0] == 0.0
    assert min(scores[-3:]) > 0.1

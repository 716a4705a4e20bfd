"""Coupled, random-t and sandwich estimates: what they are pinned to, by enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch

from rl import masks
from rl.estimators import Coupled, RandomTokens, Sandwich
from rl.likelihood import Elbo, MeanField
from rl.masks import MaskPlan, PlanKey
from rl.method import Method
from rl.noise import Noise
from rl.objectives import Raft
from rollouts.spec import SamplerSpec
from rollouts.trajectory import RolloutBatch
from tests.oracles.batches import ScriptedKey, sample, score
from tests.oracles.draws import even, gauss, outcomes
from tests.oracles.tables import (
    Table,
    by_count,
    exact_bound,
    length_of,
    log_likelihood,
    masks_of,
    table_of,
)
from tests.oracles.tabular import TabularPolicy

PROMPT = 2  # tokens before the canvas


def batch_of(length: int, rows: int = 1) -> RolloutBatch:
    """Rows whose whole canvas counts; the tokens do not matter."""
    spec = SamplerSpec(canvas=length, block=length, steps=length, eos="all", early_stop=False)
    return sample(TabularPolicy(4, seed=1), [(0, 1)] * rows, spec)


def values_of(plan: MaskPlan, table: Table) -> torch.Tensor:
    """The scores that a model of this table gives to a plan's views, float64 ``[N, S]``."""
    values = torch.zeros(plan.scored.shape, dtype=torch.float64)
    for view, mask in enumerate(plan.scored[:, PROMPT:].tolist()):
        values[view, PROMPT:] = torch.from_numpy(table[tuple(mask)] * np.array(mask))
    return values


def tabular(length: int, seed: int = 3) -> Table:
    return table_of(TabularPolicy(4, seed=seed, scale=2.0), (0, 1), [0, 1, 2, 0][:length])


# ---- coupled


@pytest.mark.parametrize("length", [1, 2, 3])
def test_coupled_tokens_over_every_plan(length: int) -> None:
    """Their mean is half the fully masked score plus, per t, each half's conditional mean; the weight is 3/2."""
    table, batch, estimator = tabular(length), batch_of(length), Coupled(low=0.2, high=0.8)

    def run(every):
        plan = estimator.plan(batch, ScriptedKey(lambda *_: every))  # type: ignore[arg-type]
        estimate = estimator.reduce(values_of(plan, table), plan, batch)
        assert torch.equal(estimate.weight > 0, batch.loss_mask)
        assert estimate.weight.max() == 1
        assert plan.scored.sum() == 2 * length  # every token twice: alone in full, once in the pair
        return estimate.value[0, PROMPT:].numpy(), plan.weight.sum(0)[PROMPT:].numpy()

    value, weight = np.zeros(length), np.zeros(length)
    for probability, (one, share) in outcomes(run, gauss(4)):
        value, weight = value + probability * one, weight + probability * share
    full = table[(True,) * length]
    pair = np.zeros(length)  # t and 1 - t have one law: both halves give E_t E[log p_i | i hidden]
    for p, u in ((p, 0.2 + 0.6 * u) for u, p in gauss(4)):
        for mask, t in itertools.product(masks_of(length), (u, 1 - u)):
            chance = t ** sum(mask) * (1 - t) ** (length - sum(mask))
            pair += p * chance / t * table[mask] * np.array(mask)
    np.testing.assert_allclose(value, (full + pair) / 2, atol=1e-6)
    np.testing.assert_allclose(weight, 1.5, atol=1e-6)


def test_coupled_without_context_is_one_and_a_half_times_mean_field() -> None:
    """A model that ignores what is shown: each half of the pair alone scores an ELBO, so the sum is 3/2 of the full one."""
    table, batch = by_count([-2.0, -2.0, -2.0]), batch_of(3)
    estimator = Coupled(unit="sequence", length_normalized=False)

    def run(every) -> float:
        plan = estimator.plan(batch, ScriptedKey(lambda *_: every))  # type: ignore[arg-type]
        return float(estimator.reduce(values_of(plan, table), plan, batch).value)

    assert sum(p * v for p, v in outcomes(run, gauss(3))) == pytest.approx(1.5 * -6.0, abs=1e-6)


def test_coupled_refuses_an_empty_range() -> None:
    with pytest.raises(ValueError, match="swap them"):
        Coupled(low=0.8, high=0.2)


# ---- random tokens


def test_random_tokens_share_over_the_inner_passes() -> None:
    even_steps = RandomTokens(low=0.6)
    shares = [even_steps.share(PlanKey(0, 0, number, 4), 0) for number in range(4)]
    assert shares == pytest.approx([0.7, 0.8, 0.9, 0.999])
    assert even_steps.share(PlanKey(0, 0), 0) == 0.999
    spread = RandomTokens(low=0.6, schedule="random_start")
    starts = set()
    for rollout in range(50):
        found = [spread.share(PlanKey(0, 0, number, 4), rollout) for number in range(4)]
        assert 0.6 <= found[0] < 1.0
        assert found[3] == 0.999
        assert np.diff([*found[:3]]).tolist() == pytest.approx([(1 - found[0]) / 3] * 2)
        starts.add(round(found[0], 6))
    assert len(starts) == 50
    assert 0.75 < np.mean(list(starts)) < 0.85


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("share", [0.6, 0.3, 0.999])
def test_random_tokens_are_independent_coins(late: bool, share: float) -> None:
    length, batch = 4, batch_of(4)
    chance = [share] * length
    if late:  # kept with probability falling in a line, cut at 1
        line = [1, 2 / 3, 1 / 3, 0]
        chance = [1 - min(1.0, d * (1 - share) * length / 2) for d in line]
    found: dict[tuple, float] = {}

    def run(every) -> tuple:
        plan = masks.random_tokens(batch, ScriptedKey(lambda *_: every), lambda _: share, late)  # type: ignore[arg-type]
        for view in range(len(plan)):
            assert plan.weight[view][plan.scored[view]].tolist() == pytest.approx(
                [length / sum(chance)] * int(plan.scored[view].sum())
            )
        return tuple(plan.scored.any(0)[PROMPT:].tolist())

    for probability, mask in outcomes(run):
        found[mask] = found.get(mask, 0.0) + probability
    for mask in masks_of(length):
        p = math.prod(c if hit else 1 - c for c, hit in zip(chance, mask, strict=True))
        assert found.get(mask, 0.0) == pytest.approx(p, abs=1e-9)


def test_random_tokens_over_every_plan() -> None:
    """Summed with its weights, a loss of the tokens is that of a token masked at random, over all tokens of the row."""
    length, share, table, batch = 3, 0.7, tabular(3), batch_of(3)
    token, whole = RandomTokens(low=share), RandomTokens(low=share, unit="sequence")

    def run(every):
        plan = masks.random_tokens(batch, ScriptedKey(lambda *_: every), lambda _: share)  # type: ignore[arg-type]
        values = values_of(plan, table).float()
        one, sequence = token.reduce(values, plan, batch), whole.reduce(values, plan, batch)
        assert torch.equal(one.value != 0, plan.scored.any(0, keepdim=True))
        assert sequence.value.item() == pytest.approx(float((one.value * one.weight).sum()) / length)
        return (one.value * one.weight)[0, PROMPT:].numpy()

    mean = sum((p * v for p, v in outcomes(run)), np.zeros(length))
    expected = np.zeros(length)
    for mask in masks_of(length):
        chance = share ** sum(mask) * (1 - share) ** (length - sum(mask))
        expected += chance / share * table[mask] * np.array(mask)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    assert token.unit_count(batch).tolist() == [length]  # by the batch, not by what was masked


def test_random_tokens_at_every_token_are_mean_field() -> None:
    policy = TabularPolicy(4, seed=1)
    batch = batch_of(3, rows=4)
    plan = masks.random_tokens(batch, PlanKey(0, 0), lambda _: 1.0)
    field = MeanField(prompt_mask_prob=0.0)
    assert torch.equal(plan.masked, field.plan(batch, PlanKey(0, 0)).masked)
    assert torch.equal(plan.weight, batch.loss_mask.float())
    assert score(policy, RandomTokens(), batch)[2].value.shape == batch.tokens.shape


# ---- sandwich


def every_mask(batch: RolloutBatch, length: int) -> MaskPlan:
    """All masks, each with its probability under l ~ U{1..L} times L / l: the estimate is exact."""
    rows = [mask for mask in masks_of(length) if any(mask)]
    scored = torch.zeros(len(rows), batch.length, dtype=torch.bool)
    scored[:, PROMPT:] = torch.tensor(rows)
    weight = torch.tensor([1 / (sum(mask) * math.comb(length, sum(mask))) for mask in rows], dtype=torch.float64)
    zeros = torch.zeros(len(rows), dtype=torch.int64)
    return MaskPlan(zeros, zeros - 1, torch.arange(len(rows)), scored, scored, scored * weight.unsqueeze(1))


def eubo(table: Table, beta: float, mix: float = 1.0) -> float:
    """The estimator's upper bound with exact expectations."""
    length = length_of(table)
    batch = batch_of(length)
    plan = every_mask(batch, length)
    estimator = Sandwich(beta=beta, mix=mix, length_normalized=False)
    return float(estimator.reduce(values_of(plan, table), plan, batch, torch.tensor([-1.0])).value)


def eubo_by_contexts(table: Table, beta: float) -> float:
    """sum_i 1/beta log E[p_i^beta], over what is hidden with token i: how many others, then which."""
    length, total = length_of(table), 0.0
    for place in range(length):
        mean = 0.0
        for others in masks_of(length - 1):
            mask = (*others[:place], True, *others[place:])
            chance = 1 / (length * math.comb(length - 1, sum(others)))
            mean += chance * math.exp(beta * table[mask][place])
        total += math.log(mean) / beta
    return total


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5, 3.0, 6.0])
@pytest.mark.parametrize("seed", range(4))
def test_eubo_and_the_sandwich(beta: float, seed: int) -> None:
    table = tabular(3, seed)
    upper = eubo(table, beta)
    assert upper == pytest.approx(eubo_by_contexts(table, beta), abs=1e-6)
    assert exact_bound(table) <= upper + 1e-9
    assert eubo(table, beta, mix=0.0) == pytest.approx(exact_bound(table), abs=1e-6)
    assert eubo(table, beta, mix=0.25) == pytest.approx(0.75 * exact_bound(table) + 0.25 * upper, abs=1e-6)
    if beta >= 3:
        assert log_likelihood(table) <= upper + 1e-9


def test_below_beta_of_the_length_the_upper_bound_need_not_be_one() -> None:
    """Two tokens, each sure in one order and all but impossible in the other: Hoelder is tight at beta = 2 and fails at 1."""
    small = -8.0
    table = {
        (True, True): np.array([0.0, small]),
        (True, False): np.array([small, 0.0]),
        (False, True): np.array([0.0, 0.0]),
        (False, False): np.zeros(2),
    }
    assert log_likelihood(table) == pytest.approx(math.log((1 + math.exp(2 * small)) / 2))
    assert eubo(table, 1.0) < log_likelihood(table) - 0.5
    assert eubo(table, 1.5) < log_likelihood(table) - 0.1
    assert eubo(table, 2.0) == pytest.approx(log_likelihood(table), abs=1e-6)
    assert eubo(table, 3.0) > log_likelihood(table)


def expected_sandwich(estimator: Sandwich, table: Table, advantage: float) -> float:
    batch = batch_of(length_of(table))

    def run(every) -> float:
        plan = estimator.plan(batch, ScriptedKey(lambda *_: every))  # type: ignore[arg-type]
        return float(estimator.reduce(values_of(plan, table), plan, batch, torch.tensor([advantage])).value)

    return sum(p * v for p, v in outcomes(run, even(3)))


def test_few_draws_bias_the_upper_bound_low() -> None:
    """E log of a mean of K is below the log of the expectation, and rises with K."""
    table, beta = tabular(2), 1.5

    def upper(draws: int) -> float:
        options = {"beta": beta, "mix": 1.0, "length_normalized": False}
        return expected_sandwich(Sandwich(draws=draws, pair="complement", **options), table, -1.0)

    one, two, three = (upper(draws) for draws in (1, 2, 3))
    assert one < two < three < eubo(table, beta) - 1e-3
    # One pair of L = 2: x = 0 or 2 hides both with weight 3/4; x = 1 hides one in each half with weight 3/2.
    both, first, second = table[True, True], table[True, False][0], table[False, True][1]
    by_hand = 2 / 3 * (both.sum() + 2 * math.log(0.75) / beta) + (first + second + 2 * math.log(1.5) / beta) / 3
    assert one == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("advantage", [-2.0, 0.0, 3.0])
def test_the_sign_of_the_advantage_chooses_the_bound(advantage: float) -> None:
    policy, batch = TabularPolicy(4, seed=1), batch_of(3, rows=5)
    estimator, lower = Sandwich(mix=0.5, draws=3), Elbo(draws=3)
    plan = estimator.plan(batch, PlanKey(0, 0))
    assert torch.equal(plan.masked, lower.plan(batch, PlanKey(0, 0)).masked)
    _, values, below = score(policy, lower, batch)
    chosen = estimator.reduce(values, plan, batch, torch.full((5,), advantage)).value
    mixed = estimator.reduce(values, plan, batch, torch.full((5,), -1.0)).value
    torch.testing.assert_close(chosen, below.value if advantage > 0 else mixed, rtol=0, atol=1e-6)
    assert not torch.allclose(mixed, below.value)
    with pytest.raises(ValueError, match="sign of the advantage"):
        estimator.reduce(values, plan, batch)


def test_sandwich_against_loops_with_its_gradient() -> None:
    """Tokens that no view masks are left out; probabilities far below float32's range keep their gradient."""
    batch = batch_of(4, rows=3)
    estimator = Sandwich(beta=2.0, mix=0.3, draws=2, length_normalized=False)
    plan = estimator.plan(batch, PlanKey(2, 2))
    values = -20 * torch.rand(plan.scored.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = (values * plan.scored).requires_grad_()
    advantage = torch.tensor([-1.0, 1.0, 0.0])
    estimate = estimator.reduce(values, plan, batch, advantage).value
    missing = 0
    expected = []
    for row in range(3):
        views = (plan.row == row).nonzero().squeeze(1).tolist()
        lower = sum((plan.weight[v] * values[v]).sum() for v in views)
        logs = []
        for place in range(PROMPT, batch.length):
            terms = [plan.weight[v, place] * (2 * values[v, place]).exp() for v in views if plan.scored[v, place]]
            missing += not terms
            logs += [sum(terms).log() / 2] if terms else []  # type: ignore[union-attr]
        upper = 4 * sum(logs) / len(logs)
        expected.append(lower if advantage[row] > 0 else 0.7 * lower + 0.3 * upper)
    assert missing
    wanted = torch.stack(expected)  # type: ignore[arg-type]
    torch.testing.assert_close(estimate[:, 0], wanted, rtol=0, atol=1e-6)
    found, slow = (torch.autograd.grad(x.sum(), values, retain_graph=True)[0] for x in (estimate, wanted))
    torch.testing.assert_close(found, slow, rtol=0, atol=1e-6)
    tiny = (torch.full(plan.scored.shape, -500.0) * plan.scored).requires_grad_()
    low = estimator.reduce(tiny, plan, batch, advantage).value
    (slope,) = torch.autograd.grad(low.sum(), tiny)
    assert torch.isfinite(low).all()
    assert torch.isfinite(slope).all()
    assert (slope[plan.scored] > 0).all()


def test_the_sandwich_must_know_its_scores_before_its_gradient() -> None:
    """Its derivative hangs on the scores, so the first pass cannot leave them out."""
    assert Method(estimator=Elbo(), objective=Raft(), advantage="verified").on_policy
    assert not Method(estimator=Sandwich(), objective=Raft(), advantage="verified").on_policy
    batch = batch_of(3)
    plan = Sandwich(mix=1.0).plan(batch, PlanKey(0, 0))
    for estimator in (Elbo(), Coupled(), RandomTokens(), Sandwich(mix=1.0)):
        slopes = []
        for size in (-1.0, -2.0):
            values = (size * torch.rand(plan.scored.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
            value = estimator.reduce(values, plan, batch, torch.tensor([-1.0])).value
            slopes.append(torch.autograd.grad(value.sum(), values)[0])
        assert torch.equal(*slopes) == estimator.linear


# ---- counts and budgets


@pytest.mark.parametrize(
    "estimator",
    [
        Coupled(),
        RandomTokens(),
        RandomTokens(positions="late"),
        Sandwich(draws=3, pair="mirror"),
        Elbo(draws=2, masks_per_level=2, pair="complement"),
    ],
    ids=str,
)
def test_units_and_views(estimator) -> None:
    spec = SamplerSpec(canvas=5, block=5, steps=5, temperature=1.5, early_stop=False)
    batch = sample(TabularPolicy(6, seed=3), [(0, 1), (2,), (3, 2, 1)], spec, hints=[{}, {1: 2}, {}])
    plan = estimator.plan(batch, PlanKey(0, 0))
    assert max(plan.row.bincount().tolist()) <= estimator.views_per_rollout(spec)
    length = batch.loss_mask.sum(1)
    assert estimator.unit_count(batch).tolist() == (length if estimator.unit == "token" else torch.ones(3)).tolist()


def test_rows_per_view_are_those_of_the_laws() -> None:
    spec = SamplerSpec(canvas=4, block=4, steps=4, eos="all", early_stop=False)
    batch = sample(TabularPolicy(4, seed=1), [(0,)] * 2000, spec, max_rows=2000)
    for estimator in (Elbo(draws=1), Coupled(), Sandwich(draws=1), RandomTokens(low=0.98)):
        plan = estimator.plan(batch, PlanKey(0, 0))
        found = plan.scored.sum().item() / (len(batch) * estimator.views_per_rollout(spec))
        assert found == pytest.approx(estimator.scored_per_view(spec), rel=0.05)
    assert isinstance(Elbo(), Noise)

"""What a gradient is worth: the equations against loops over every plan, and against what they mean."""

import itertools
import math

import numpy as np
import pytest

from rl.diagnose_stats import (
    Products,
    batch_product,
    chance_share,
    interval,
    products,
    random_order,
    reduce_plans,
    resampled,
    summarise_step,
    summarise_values,
    worth_of,
)
from tests.oracles.tables import exact_bound, log_likelihood, table_of
from tests.oracles.tabular import TabularPolicy

P, D = 3, 5
ONCE = np.ones(P)


def plans_of(seed: int, count: int = 3) -> np.ndarray:
    """Each prompt's gradient under each of its equally likely plans, ``[P, plans, D]``."""
    return np.random.default_rng(seed).normal(1.0, 0.7, size=(P, count, D))


def exact_products(plans: np.ndarray, target: np.ndarray) -> Products:
    """By the whole distribution: nothing is estimated."""
    means = plans.mean(1)
    noise = np.square(plans - means[:, None]).sum(2).mean(1)
    along = (plans @ target.mean(0)).var(1)
    return Products(means @ means.T, means @ target.T, noise, along, 10**9)


def test_noise_and_worth_are_moments_over_all_plans_of_all_prompts() -> None:
    plans, target = plans_of(0), np.random.default_rng(1).normal(1.0, 0.5, size=(P, D))
    batches = np.array([np.mean(one, axis=0) for one in itertools.product(*plans)])
    goal = target.mean(0)
    found = worth_of(exact_products(plans, target), target @ target.T, 1, ONCE)
    mean = batches.mean(0)
    noise = float(np.square(batches - mean).sum(1).mean())
    assert found.signal == pytest.approx(mean @ mean)
    assert found.noise == pytest.approx(noise)
    assert found.snr == pytest.approx(mean @ mean / noise)
    assert found.cosine == pytest.approx(mean @ goal / math.sqrt((mean @ mean) * (goal @ goal)))
    # Worth is the progress of the best step on |x - r|^2-like bowls: (E g . r)^2 / (|r|^2 E|g|^2).
    best = max(
        2 * step * mean @ goal - step**2 * float(np.square(batches).sum(1).mean()) for step in np.linspace(0, 2, 20_001)
    )
    assert found.worth == pytest.approx(best / (goal @ goal), rel=1e-6)


def test_an_average_of_plans_has_its_share_of_the_noise() -> None:
    plans, target = plans_of(2), np.ones((P, D))
    two = np.array([[(a + b) / 2 for a in one for b in one] for one in plans])
    one_plan, average = exact_products(plans, target), exact_products(two, target)
    assert np.allclose(average.noise, one_plan.noise / 2)
    left, right = (worth_of(x, target @ target.T, k, ONCE) for x, k in ((one_plan, 2), (average, 1)))
    assert left.worth == pytest.approx(float(right.worth))
    assert left.snr == pytest.approx(float(right.snr))


def test_squares_of_means_are_unbiased_over_all_samples_of_plans() -> None:
    """The mean over every sample of two plans (with replacement) is the exact square; so is that of the squared inner product."""
    plans, target = plans_of(3, count=2)[:2], np.ones((2, D))
    goal, once = target.mean(0), np.ones(2)
    exact = worth_of(exact_products(plans, target), target @ target.T, 1, once)
    found = []
    for picks in itertools.product(range(2), repeat=4):
        sample = np.stack([plans[0][list(picks[:2])], plans[1][list(picks[2:])]])
        means, noise, along = zip(*(reduce_plans(one, goal) for one in sample), strict=True)
        one = products(np.stack(means), np.array(noise), np.array(along), 2, target)
        worth = worth_of(one, target @ target.T, 1, once)
        found.append((worth.signal, worth.noise, worth.worth * (worth.signal + worth.noise)))
    signal, noise, squared = np.mean(found, axis=0)
    assert (signal, noise) == (pytest.approx(float(exact.signal)), pytest.approx(float(exact.noise)))
    assert squared == pytest.approx(float(exact.worth * (exact.signal + exact.noise)))


def test_worth_orders_as_the_signal_along_the_target_against_all_else() -> None:
    plans, target = plans_of(5), np.random.default_rng(6).normal(1.0, 0.5, size=(P, D))
    found = worth_of(exact_products(plans, target), target @ target.T, 1, ONCE)
    along = float(found.cosine) ** 2 * float(found.signal)
    ratio = along / (float(found.signal) - along + float(found.noise))
    assert found.worth == pytest.approx(ratio / (1 + ratio))


def test_no_variance_is_not_enough_and_the_wrong_way_is_negative() -> None:
    target = np.tile(np.eye(D)[0], (P, 1))
    across, back = np.tile(np.eye(D)[0] + np.eye(D)[1], (P, 1)), -target
    none = np.zeros(P)
    still = worth_of(products(across, none, none, 1, target), target @ target.T, 1, ONCE)
    assert (float(still.snr), float(still.worth)) == (math.inf, pytest.approx(0.5))
    assert float(worth_of(products(back, none, none, 1, target), target @ target.T, 1, ONCE).worth) == pytest.approx(-1)
    nothing = worth_of(products(0 * target, none, none, 1, target), target @ target.T, 1, ONCE)
    assert float(nothing.worth) == 0.0
    assert math.isnan(float(nothing.cosine))
    assert math.isnan(float(nothing.snr))


def test_a_batch_product_is_the_product_and_resamples_keep_its_size() -> None:
    left, right = plans_of(7)[:, 0], plans_of(8)[:, 0]
    gram = left @ right.T
    assert batch_product(gram, ONCE) == pytest.approx(left.mean(0) @ right.mean(0))
    assert batch_product(gram, np.array([2.0, 2.0, 2.0])) == pytest.approx(left.mean(0) @ right.mean(0))
    dropped = batch_product(gram, np.array([1.0, 1.0, 0.0]))
    same = (gram[0, 0] + gram[1, 1]) / 2
    assert dropped == pytest.approx(same / 3 + 2 / 3 * (gram[0, 1] + gram[1, 0]) / 2)
    assert batch_product(np.array([[4.0]]), np.ones(1)) == 4.0
    # Prompts without a common direction: a naive resample would have (2 - 1/P) times the batch's square.
    weights = resampled(8, 0)
    assert batch_product(np.eye(8), weights).mean() == pytest.approx(1 / 8)
    assert weights.shape[1] == 8
    assert (weights.sum(1) == 8).all()
    assert (resampled(8, 0) == weights).all()
    assert (resampled(8, 1) != weights).any()


def test_chance_share() -> None:
    """Prompts that all say the same leave no chance; orthogonal ones are nothing else."""
    assert chance_share(np.ones((4, 4))) == pytest.approx(0.0)
    assert chance_share(np.eye(4)) == pytest.approx(1.0)
    assert math.isnan(chance_share(np.ones((1, 1))))


def test_intervals() -> None:
    assert interval(np.arange(1001.0)) == (pytest.approx(25.0), pytest.approx(975.0))
    assert all(map(math.isnan, interval(np.array([math.nan, math.nan, 1.0]))))


def test_values() -> None:
    values = np.array([[1.0, 5.0], [3.0, 5.0]])
    found = summarise_values(values, np.array([1.0, 2.0]))
    assert found.deviation == pytest.approx(1.0)  # variances 2 and 0
    assert found.gap == pytest.approx(2.0)  # 1 and 3
    assert found.gap_error == pytest.approx(1.0)
    assert found.gap_rms == pytest.approx(math.sqrt((1 - 2 / 2 + 9 - 0) / 2))
    fixed = summarise_values(np.array([[2.0, 3.0]]), np.array([2.0, 3.0]))
    assert (fixed.deviation, fixed.gap, fixed.gap_rms) == (0.0, 0.0, 0.0)


def test_a_step() -> None:
    found = summarise_step(np.log(np.array([[1.0, 3.0], [2.0, 2.0]])), np.log(np.array([1.0, 2.0])))
    assert found.spread == pytest.approx(math.log(3) / 4)
    assert found.ess == pytest.approx((16 / 20 + 1) / 2)
    assert found.error == pytest.approx(math.sqrt((0 + math.log(1.5) ** 2 + math.log(2) ** 2 + 0) / 4))
    assert summarise_step(np.array([[900.0, 900.0]]), np.zeros(2)).ess == pytest.approx(1.0)


@pytest.mark.parametrize("length", [1, 2, 4])
def test_random_order_by_recursion_is_the_sum_over_orders(length: int) -> None:
    table = table_of(TabularPolicy(4, seed=length, scale=2.0), (0, 1), [0, 2, 1, 0][:length])
    rows = np.zeros((2**length, length))
    for mask, values in table.items():
        rows[sum(hide << i for i, hide in enumerate(mask))] = values
    assert random_order(rows) == (pytest.approx(log_likelihood(table)), pytest.approx(exact_bound(table)))

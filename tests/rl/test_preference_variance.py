"""VRPO's variances (arXiv 2505.19223, table 2), exactly: every mask plan of a policy trained away from its reference."""

import math

import pytest

from benchmarks.vrpo_variance import BETA, PUBLISHED, Pair, difference, loss_bias, score_variance, table, trained_pair
from rl.noise import Noise
from tests.oracles.tables import exact_bound, law_of, mean_and_variance, mean_of, moments


@pytest.fixture(scope="module")
def pair() -> Pair:
    return trained_pair()


@pytest.mark.parametrize(("levels", "masks"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)])
def test_a_mean_of_independent_levels_is_what_the_plans_give(pair: Pair, levels: int, masks: int) -> None:
    """Eight levels have 18^8 plans; their law is the eightfold mean of one level's, as it is where both can be enumerated."""
    diff = difference(pair.chosen)
    law = mean_of(law_of(Noise(draws=1, masks_per_level=masks), diff), levels)
    assert mean_and_variance(law) == pytest.approx(moments(Noise(draws=levels, masks_per_level=masks), diff), abs=1e-8)
    assert mean_and_variance(law)[0] == pytest.approx(exact_bound(diff), abs=1e-8)  # unbiased


def test_the_variances_stand_in_the_published_order(pair: Pair) -> None:
    assert pair.score > 0.1  # trained away from the reference
    found = {key: score_variance(pair, *key) for key in PUBLISHED}
    order = [found[8, 1, True], found[4, 1, True], found[2, 2, True], found[1, 4, True], found[1, 1, True]]
    assert order[0] < order[1] <= order[2] < order[3] < order[4]
    assert found[4, 1, False] >= 10 * found[4, 1, True]
    assert found[4, 1, True] == pytest.approx(2 * found[8, 1, True], rel=1e-6)  # 1 / n
    assert [key for key, _ in sorted(PUBLISHED.items(), key=lambda item: item[1])] == list(PUBLISHED)


def test_the_bias_of_the_loss_is_bounded_by_the_variance(pair: Pair) -> None:
    """Theorem 1: 0 <= E l - l(E s) <= sqrt(Var s), here for every setting with shared masks."""
    for levels, masks, shared in PUBLISHED:
        if shared and levels < 8:
            bias = loss_bias(pair, levels, masks)
            assert 0 < bias < math.sqrt(score_variance(pair, levels, masks, True))
            # To second order Var(s) / 2 times the loss's curvature.
            curvature = 1 / (2 + 2 * math.cosh(pair.score))
            assert bias == pytest.approx(score_variance(pair, levels, masks, True) / 2 * curvature, rel=0.2)


def test_at_the_reference_nothing_varies() -> None:
    start = trained_pair(updates=0)
    assert start.score == 0.0
    assert score_variance(start, 1, 1, True) == 0.0
    assert loss_bias(start, 1, 1) == pytest.approx(0.0, abs=1e-12)
    assert score_variance(start, 1, 1, False) > 1e-3 * BETA


def test_the_table_of_the_docs(pair: Pair) -> None:
    from pathlib import Path

    rows = table(pair)
    assert rows in (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")

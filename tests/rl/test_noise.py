"""The laws of the ELBO's masks: means and variances by enumeration of every plan."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from rl import masks
from rl.likelihood import Elbo
from rl.masks import PlanKey
from rl.noise import MIN_T, Noise, subsets
from rollouts.spec import SamplerSpec
from tests.oracles.batches import ScriptedKey, sample
from tests.oracles.draws import even, gauss, outcomes
from tests.oracles.tables import (
    Table,
    by_count,
    by_place,
    exact_bound,
    length_of,
    log_likelihood,
    masks_of,
    moments,
    table_of,
)
from tests.oracles.tabular import TabularPolicy

PAIRS = ("none", "complement", "mirror")
TABLES: dict[str, Table] = {
    "free": by_place([-1.0, -2.0, -6.0]),
    "count": by_count([-1.0, -2.0, -3.0]),
    "easier when hidden": by_count([-3.0, -1.5, -1.0]),
    "V=3": table_of(TabularPolicy(3, seed=0, scale=2.0), (0,), (0, 1, 0)),
    "V=4": table_of(TabularPolicy(4, seed=1), (0, 1), (0, 1, 2)),
    "V=5": table_of(TabularPolicy(5, seed=2, scale=3.0), (1,), (2, 3, 0)),
}
ALL = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


def cells_of(noise: Noise, length: int):
    """What a uniform level must be enumerated over: exact cells for counts, a rule of high degree for t."""
    return even(length + (noise.pair == "complement")) if noise.noise == "fixed_count" else gauss(4)


UNBIASED = [
    *(Noise(draws=1, pair=pair) for pair in PAIRS),
    Noise(draws=2),
    Noise(draws=1, masks_per_level=2),
    Noise(draws=2, levels="stratified"),
    Noise(draws=3, levels="systematic"),
    Noise(draws=2, levels="stratified", pair="complement"),
    Noise(draws=2, levels="systematic", pair="complement"),
    Noise(draws=2, levels="systematic", pair="mirror"),
    *(Noise(draws=1, noise="iid", min_t=0.0, pair=pair) for pair in PAIRS),
    Noise(draws=2, noise="iid", min_t=0.0, levels="systematic"),
    *(Noise(draws=2, noise="quadrature", pair=pair) for pair in ("none", "complement")),
    Noise(draws=2, noise="quadrature", pair="mirror"),
]


@ALL
@pytest.mark.parametrize("noise", UNBIASED, ids=str)
def test_the_mean_over_all_plans_is_the_order_agnostic_bound(noise: Noise, table: Table) -> None:
    mean, _ = moments(noise, table, cells_of(noise, length_of(table)))
    assert mean == pytest.approx(exact_bound(table), abs=1e-6)
    assert mean <= log_likelihood(table) + 1e-6


@pytest.mark.parametrize("length", [1, 2, 4, 5])
@pytest.mark.parametrize("pair", PAIRS)
def test_other_lengths(length: int, pair: str) -> None:
    table = table_of(TabularPolicy(4, seed=5, scale=1.5), (1, 0), [0, 1, 2, 0, 1][:length])
    noises = [Noise(draws=1, pair=pair)]  # type: ignore[arg-type]
    if length <= 4 and not (length == 4 and pair == "mirror"):
        noises.append(Noise(draws=1, noise="iid", min_t=0.0, pair=pair))  # type: ignore[arg-type]
    for noise in noises:
        assert moments(noise, table, gauss(4))[0] == pytest.approx(exact_bound(table), abs=1e-6)


# ---- biased laws are what they say


def at_t(table: Table, t: float) -> float:
    """E of 1/t sum of log p of the hidden tokens, at coins of probability t."""
    return sum(
        t ** sum(mask) * (1 - t) ** (len(mask) - sum(mask)) / t * float(table[mask] @ np.array(mask))
        for mask in masks_of(length_of(table))
        if any(mask)
    )


@ALL
def test_a_floor_of_t_leaves_out_what_lies_below_it(table: Table) -> None:
    floor = 0.1
    for pair, high in (("none", 1.0), ("mirror", 1.0), ("complement", 1 - floor)):
        expected = sum(p * at_t(table, floor + (high - floor) * u) for u, p in gauss(6))
        noise = Noise(draws=1, noise="iid", min_t=floor, pair=pair)  # type: ignore[arg-type]
        mean, _ = moments(noise, table, gauss(6))
        assert mean == pytest.approx(expected, abs=1e-6)
    if table is TABLES["V=5"]:
        assert abs(expected - exact_bound(table)) > 1e-3


def test_coins_with_weight_one_over_t_have_no_variance_but_for_the_floor() -> None:
    """The second moment of the weight is an integral of 1/t: each tenfold lower floor adds as much again."""
    table = by_place([-1.0, -1.0])

    def second(floor: float) -> float:
        """In closed form: l = 1 adds 2 t (1-t) / t^2, l = 2 adds 4 t^2 / t^2."""
        return (2 * (math.log(1 / floor) - (1 - floor)) + 4 * (1 - floor)) / (1 - floor)

    for floor in (0.3, 0.1):
        mean, variance = moments(Noise(draws=1, noise="iid", min_t=floor), table, gauss(40))
        assert variance + mean**2 == pytest.approx(second(floor), rel=1e-6)
    assert second(1e-4) - second(1e-3) == pytest.approx(2 * math.log(10), rel=1e-2)


def test_quadrature_is_exact_up_to_two_tokens_a_node() -> None:
    for length, nodes in itertools.product(range(1, 6), (1, 2, 3)):
        table = table_of(TabularPolicy(4, seed=3, scale=3.0), (0,), [0, 1, 2, 0, 1][:length])
        found = sum(p * at_t(table, t) for t, p in gauss(nodes))
        if nodes == 1 or length * nodes <= 6:
            assert moments(Noise(draws=nodes, noise="quadrature"), table)[0] == pytest.approx(found, abs=1e-9)
        gap = abs(found - exact_bound(table))
        assert gap < 1e-9 if length <= 2 * nodes else gap > 1e-4


# ---- variances at equal forwards


def variance(noise: Noise, table: Table) -> float:
    return moments(noise, table, cells_of(noise, length_of(table)))[1]


@ALL
@pytest.mark.parametrize("pair", PAIRS)
def test_stratified_levels_never_raise_the_variance(table: Table, pair) -> None:
    assert (
        variance(Noise(draws=2, pair=pair, levels="stratified"), table)
        <= variance(Noise(draws=2, pair=pair), table) + 1e-12
    )


@ALL
def test_stratified_levels_are_one_in_each_stratum(table: Table) -> None:
    """Var = mean within strata / n: with as many draws as counts the level adds nothing."""
    length = length_of(table)
    within = 0.0
    for count in range(1, length + 1):
        values = [length / count * float(table[m] @ np.array(m)) for m in masks_of(length) if sum(m) == count]
        within += np.var(values) / length**2
    for levels in ("stratified", "systematic"):
        noise = Noise(draws=length, levels=levels)
        assert variance(noise, table) == pytest.approx(within, abs=1e-9)


@ALL
def test_levels_and_masks_per_level_by_the_decomposition_of_vrpo(table: Table) -> None:
    """Var = Var_l(E[.|l]) / n_t + E_l(Var[.|l]) / (n_t n_y) (arXiv 2505.19223, lemma 5): at equal forwards levels are worth more."""
    length = length_of(table)
    groups = [
        [length / count * float(table[m] @ np.array(m)) for m in masks_of(length) if sum(m) == count]
        for count in range(1, length + 1)
    ]
    between, within = np.var([np.mean(g) for g in groups]), np.mean([np.var(g) for g in groups])
    for n_t, n_y in ((1, 1), (2, 1), (1, 2)):
        found = variance(Noise(draws=n_t, masks_per_level=n_y), table)
        assert found == pytest.approx(between / n_t + within / (n_t * n_y), abs=1e-9)
    assert variance(Noise(draws=2), table) <= variance(Noise(draws=1, masks_per_level=2), table) + 1e-12


HELPS_AND_HURTS = [
    (Noise(draws=1, pair="complement"), by_count([-1.0, -2.0, -3.0]), by_place([-1.0, -2.0, -6.0])),
    (Noise(draws=1, pair="mirror"), by_place([-1.0, -2.0, -6.0]), by_count([-1.0, -2.0, -3.0])),
    (Noise(draws=2, levels="systematic"), by_count([-1.0, -2.0, -3.0]), by_count([-1.0, -3.0, -1.0, -3.0])),
]


@pytest.mark.parametrize(("noise", "good", "bad"), HELPS_AND_HURTS, ids=["complement", "mirror", "systematic"])
def test_two_views_against_two_independent_draws(noise: Noise, good: Table, bad: Table) -> None:
    """A pair (or two evenly spaced levels) costs as much as two draws; whether it is worth more depends on the model."""
    assert noise.views == 2
    assert variance(noise, good) < 0.75 * variance(Noise(draws=2), good)
    assert variance(noise, bad) > 1.25 * variance(Noise(draws=2), bad)


def test_the_same_on_policies() -> None:
    first, second = (table_of(TabularPolicy(4, seed=seed), (0, 1), (0, 1, 2)) for seed in (0, 1))
    pair, mirror, two = Noise(draws=1, pair="complement"), Noise(draws=1, pair="mirror"), Noise(draws=2)
    assert variance(pair, second) < variance(two, second)
    assert variance(pair, first) > variance(two, first)
    assert variance(mirror, first) < variance(two, first)


# ---- the masks themselves


@pytest.mark.parametrize("pair", ["complement", "mirror"])
@pytest.mark.parametrize("noise", ["fixed_count", "iid"])
def test_pairs(noise, pair) -> None:
    full = 0.0
    law = Noise(draws=1, noise=noise, pair=pair)
    for probability, views in outcomes(lambda every: subsets(law, [every], 3), even(3)):  # type: ignore[arg-type]
        assert [view.draw for view in views] == sorted({view.draw for view in views})
        if pair == "complement":  # every token is scored once
            assert np.sum([view.hidden for view in views], axis=0).tolist() == [1, 1, 1]
            full += probability * (len(views) == 1)
        elif noise == "fixed_count":
            assert len({int(view.hidden.sum()) for view in views}) == 1
    if pair == "complement" and noise == "fixed_count":
        assert full == pytest.approx(2 / 4)  # the fully masked state, 2 / (L + 1)


def test_draws_are_numbered_by_level_mask_and_half() -> None:
    noise = Noise(draws=2, masks_per_level=3, pair="mirror")
    generators = [PlanKey(0, 0).stream(0, number) for number in range(2)]
    assert [view.draw for view in subsets(noise, generators, 4)] == list(range(12)) == list(range(noise.views))


def test_a_plan_shows_the_subsets_of_each_row() -> None:
    spec = SamplerSpec(canvas=5, block=5, steps=5, temperature=1.5, early_stop=False)
    batch = sample(TabularPolicy(6, seed=3), [(0, 1), (2,), (3, 2, 1)] * 2, spec, hints=[{}, {1: 2}, {}] * 2)
    tail = batch.canvas_mask & ~batch.hint_mask & ~batch.loss_mask
    assert tail.any()
    key = PlanKey(3, 4)
    for noise in (Noise(draws=3), *UNBIASED):
        plan, view = masks.elbo(batch, key, noise), 0
        for row, rollout in enumerate(batch.rollout_id.tolist()):
            places = batch.loss_mask[row].nonzero().squeeze(1)
            for one in subsets(noise, [key.stream(rollout, n) for n in range(noise.draws)], len(places)):
                assert (int(plan.row[view]), int(plan.draw[view]), int(plan.step[view])) == (row, one.draw, -1)
                scored = set(places[torch.from_numpy(one.hidden)].tolist())
                assert set(plan.scored[view].nonzero().squeeze(1).tolist()) == scored
                assert torch.equal(plan.masked[view], plan.scored[view] | tail[row])
                assert plan.weight[view].tolist() == pytest.approx(
                    [one.weight if i in scored else 0.0 for i in range(batch.length)]
                )
                view += 1
        assert view == len(plan)


def test_the_estimate_of_a_plan_is_the_weighted_sum() -> None:
    """Plan and reduce together, over every plan, in units of the estimator."""
    table = TABLES["V=4"]
    spec = SamplerSpec(canvas=3, block=3, steps=3, eos="all", early_stop=False)
    batch = sample(TabularPolicy(4, seed=1), [(0, 1)], spec)
    for law in (Noise(draws=1, pair="complement"), Noise(draws=1, noise="quadrature"), Noise(draws=2)):
        estimator = Elbo(**law.model_dump(), length_normalized=False)

        def estimate(every, estimator=estimator) -> float:
            plan = estimator.plan(batch, ScriptedKey(lambda *_: every))  # type: ignore[arg-type]
            values = torch.zeros(len(plan), batch.length, dtype=torch.float64)
            for view, mask in enumerate(plan.scored[:, 2:].tolist()):
                values[view, 2:] = torch.from_numpy(table[tuple(mask)] * np.array(mask))
            return float(estimator.reduce(values, plan, batch).value)

        mean = sum(p * v for p, v in outcomes(estimate))
        expected = moments(law, table)[0] if law.noise == "quadrature" else exact_bound(table)
        assert mean == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("levels", ["stratified", "systematic"])
@pytest.mark.parametrize("noise", ["fixed_count", "iid"])
def test_real_streams_fill_the_strata(noise, levels) -> None:
    """As many draws as counts: each count once in every rollout; and the offset differs between rollouts."""
    law, length = Noise(draws=4, noise=noise, levels=levels), 4
    seen = Counter()
    for rollout in range(200):
        generators = [PlanKey(0, 0).stream(rollout, n) for n in range(4)]
        views = subsets(law, generators, length)
        if noise == "fixed_count":
            assert sorted(int(view.hidden.sum()) for view in views) == [1, 2, 3, 4]
        else:
            levels_of = [1 / (4 * view.weight) for view in views]
            assert [int(4 * (t - MIN_T) / (1 - MIN_T)) for t in levels_of] == [view.draw for view in views]
            seen[round(levels_of[-1], 6)] += 1
    assert noise == "fixed_count" or len(seen) > 150


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"noise": "quadrature", "levels": "stratified"}, "leave out levels"),
        ({"noise": "fixed_count", "min_t": 0.01}, "leave min_t out"),
        ({"noise": "quadrature", "min_t": 0.0}, "leave min_t out"),
    ],
)
def test_choices_without_meaning_are_refused(options: dict, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        Elbo(**options)

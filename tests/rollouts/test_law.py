"""The law a token is drawn from, against plain Python, and the exactness of the draws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollouts.law import RAW, Law, draw, entropy, log_p, log_q, nucleus
from rollouts.streams import Purpose, stream
from tests.oracles.sampling import sampling_law, softmax

INF = float("inf")
LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=7)


def rows(*logits: list[float]) -> torch.Tensor:
    return torch.tensor(logits, dtype=torch.float32)


@given(LOGITS)
def test_raw_law(logits: list[float]) -> None:
    assert log_p(rows(logits))[0].exp().tolist() == pytest.approx(softmax(logits), abs=1e-6)


@given(LOGITS, st.sampled_from([0.0, 0.3, 1.0, 1.7]), st.sampled_from([1.0, 0.9, 0.5, 1e-6]), st.integers(0, 2))
def test_sampler_law(logits: list[float], temperature: float, top_p: float, forbid: int) -> None:
    forbidden = tuple(range(min(forbid, len(logits) - 1)))
    logits = [round(z, 1) for z in logits]  # equal or clearly different, in float32 too
    law = sampling_law(logits, temperature, top_p, forbidden)
    ours = log_q(rows(logits), Law(temperature, top_p, forbidden))[0]
    running = [
        math.fsum(sorted(softmax_of_allowed(logits, temperature, forbidden), reverse=True)[:k]) for k in range(8)
    ]
    if any(abs(mass - top_p) < 1e-5 for mass in running):
        return  # the nucleus ends within rounding of top_p: either answer is right
    assert ours.exp().tolist() == pytest.approx(law, abs=1e-5)
    assert [v == -INF for v in ours.tolist()] == [q == 0 for q in law]


def softmax_of_allowed(logits: list[float], temperature: float, forbidden: tuple[int, ...]) -> list[float]:
    return softmax([z / (temperature or 1.0) for v, z in enumerate(logits) if v not in forbidden])


def test_temperature_divides_the_logits() -> None:
    logits = rows([0.0, 1.0, 3.0])
    ratio = log_q(logits, Law(temperature=0.5))[0]
    assert (ratio[2] - ratio[1]).item() == pytest.approx(4.0, abs=1e-5)  # (3 - 1) / 0.5


def test_temperature_zero_takes_the_lowest_id_on_ties_and_never_a_forbidden_one() -> None:
    law = log_q(rows([5.0, 1.0, 1.0, 0.0]), Law(temperature=0.0, forbidden=(0,)))[0]
    assert law.tolist() == [-INF, 0.0, -INF, -INF]


def test_top_p_is_applied_after_temperature() -> None:
    logits = rows([math.log(0.5), math.log(0.3), math.log(0.2)])
    assert nucleus(log_p(logits), 0.75).tolist() == [[True, True, False]]
    assert (log_q(logits, Law(0.2, 0.75))[0] > -INF).tolist() == [
        True,
        False,
        False,
    ]  # 0.5^5 dominates at temperature 0.2
    assert (log_q(logits, Law(5.0, 0.75))[0] > -INF).tolist() == [True, True, True]


def test_nucleus_is_the_smallest_set_with_enough_mass() -> None:
    logq = rows([0.25, 0.5, 0.125, 0.125]).log()  # exact in binary
    assert nucleus(logq, 0.5).tolist() == [[False, True, False, False]]
    assert nucleus(logq, 0.51).tolist() == [[True, True, False, False]]
    assert nucleus(logq, 0.75).tolist() == [[True, True, False, False]]
    assert nucleus(logq, 0.8).tolist() == [[True, True, True, False]]  # ties: lowest id first
    assert nucleus(logq, 1e-9).tolist() == [[False, True, False, False]]  # never empty


def test_top_p_law_is_renormalised_and_differentiable_inside_its_support() -> None:
    logits = rows([1.0, 0.5, -1.0, -2.0]).requires_grad_()
    logq = log_q(logits, Law(1.0, 0.8))
    assert logq.exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    logq[0, 0].backward()
    q = softmax([1.0, 0.5])
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([1 - q[0], -q[1], 0.0, 0.0], abs=1e-6)


def test_is_raw() -> None:
    assert RAW.is_raw
    assert not Law(temperature=0.9).is_raw
    assert not Law(top_p=0.9).is_raw
    assert not Law(forbidden=(1,)).is_raw


@given(st.lists(st.sampled_from([0.0, 1e-12, 0.1, 0.2, 0.7, 1.0]), min_size=1, max_size=6).filter(any))
def test_draw_inverts_the_cdf_and_never_returns_an_impossible_id(weights: list[float]) -> None:
    total = sum(weights)
    logq = torch.tensor([[w / total for w in weights]], dtype=torch.float64).log().float()
    edges = [0.0, 2.0**-53, 0.25, 0.5, 1 - 2.0**-24, 1 - 2.0**-53]
    for u in edges:
        token = int(draw(logq, torch.tensor([u], dtype=torch.float64)))
        assert weights[token] > 0
    for v, weight in enumerate(weights):
        below, width = sum(weights[:v]) / total, weight / total
        if width > 1e-5:  # both ends of the id's own cell, and its middle
            for inside in (0.001, 0.5, 0.999):
                u = below + inside * width
                assert int(draw(logq, torch.tensor([u], dtype=torch.float64))) == v


def test_draw_is_exact_to_float64_on_a_large_vocabulary() -> None:
    """The cell of each id is as wide as its probability: the cdf is accumulated in float64."""
    logq = torch.log_softmax(torch.linspace(6, -6, 50_000), -1).unsqueeze(0)
    cdf = logq.double().exp().cumsum(-1)
    cdf = cdf / cdf[:, -1:]
    for v in (0, 1, 777, 25_000, 49_999):
        low = cdf[0, v - 1].item() if v else 0.0
        high = cdf[0, v].item()
        middle = torch.tensor([(low + high) / 2], dtype=torch.float64)
        assert int(draw(logq, middle)) == v
        just_above = torch.tensor([low + 1e-3 * (high - low)], dtype=torch.float64)
        assert int(draw(logq, just_above)) == v


def test_draw_of_a_float32_total_below_one() -> None:
    """Probabilities that sum to a little less than one are stretched, not given to the last id."""
    logq = torch.tensor([[0.25, 0.25, 0.25]]).log()
    picks = draw(logq.expand(3, -1), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64))
    assert picks.tolist() == [0, 1, 2]


def test_draw_frequencies() -> None:
    law = [0.05, 0.0, 0.6, 0.35]
    count = 20_000
    u = torch.from_numpy(stream(0, Purpose.ROLLOUT, 1).random(count))
    tokens = draw(torch.tensor(law).log().expand(count, -1), u)
    for v, q in enumerate(law):
        assert abs((tokens == v).sum().item() - count * q) <= 5 * math.sqrt(count * q * (1 - q))


@given(LOGITS)
def test_entropy(logits: list[float]) -> None:
    expected = -sum(p * math.log(p) for p in softmax(logits) if p > 0)
    assert entropy(log_p(rows(logits))).item() == pytest.approx(expected, abs=1e-5)


def test_entropy_of_a_certain_law_is_zero() -> None:
    assert entropy(torch.tensor([[0.0, -INF, -INF]])).item() == 0.0


def test_streams_are_addressed_by_all_their_keys() -> None:
    """One address, one sequence; a change of any key is another sequence."""
    again = [stream(3, Purpose.MASKS, 1, 2, 0, 1).random(4).tolist() for _ in range(2)]
    assert again[0] == again[1]
    addresses = [
        (3, Purpose.MASKS, 1, 2, 0, 1),
        (4, Purpose.MASKS, 1, 2, 0, 1),
        (3, Purpose.SFT, 1, 2, 0, 1),
        (3, Purpose.MASKS, 2, 2, 0, 1),
        (3, Purpose.MASKS, 1, 3, 0, 1),
        (3, Purpose.MASKS, 1, 2, 1, 1),
        (3, Purpose.MASKS, 1, 2, 0, 2),
        (3, Purpose.MASKS, 1, 2, 0),
        (3, Purpose.MASKS, 1, 2, 0, 1, 0),
        (3, Purpose.MASKS, 2, 1, 0, 1),
    ]
    firsts = {stream(seed, *keys).random() for seed, *keys in addresses}
    assert len(firsts) == len(addresses)
    values = [int(purpose) for purpose in Purpose]
    assert len(values) == len(set(values))

"""What is measured on rollouts, against enumeration of every plan on a small tabular policy."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rl.config import OptimConfig
from rl.diagnose_candidates import Candidate
from rl.diagnose_measure import ENUMERABLE, Bench, Measured, Target, peak_bytes, split_groups
from rl.diagnose_stats import summarise_values, worth_of
from rl.estimators import Sandwich
from rl.learner import Learner
from rl.likelihood import Elbo, MeanField, Trajectory
from rl.method import Method
from rl.objectives import PolicyGradient
from rl.reduce import Constant
from rl.scored import ScoredBatch
from rl.sketch import Sketch
from rollouts.spec import SamplerSpec
from rollouts.strategy import sample_groups
from tests.oracles.sampling import enumerate_law
from tests.oracles.tables import exact_bound, log_likelihood, table_of
from tests.oracles.tabular import TabularPolicy

SPEC = SamplerSpec(canvas=3, block=3, steps=3, early_stop=False, eos="all")
PROMPTS = ((0, 1), (1, 1, 0), (2, 0))
G = 2
PLANS = 300
ONCE = np.ones(len(PROMPTS))


def method_of(estimator) -> Method:
    return Method(estimator=estimator, objective=PolicyGradient(), reduction=Constant(constant=1.0))


ELBO = method_of(Elbo(draws=1, length_normalized=False))
JOINT, TOKENS = (
    method_of(Trajectory(unit="sequence", length_normalized=False, order=order)) for order in (True, False)
)


def make_bench(size: int = 10_000, seed: int = 0) -> Bench:
    policy = TabularPolicy(4, seed=2, scale=1.5, max_length=8, dtype=torch.float32)
    rollouts = sample_groups(policy, PROMPTS, SPEC, group_size=G, prompt_ids=range(3), seed=1, step=0)
    advantage = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -1.0])
    batch = ScoredBatch(rollouts, advantage.clone(), advantage.clone()).with_advantage(advantage)
    learner = Learner(policy, OptimConfig(lr=1e-2), total_steps=1, micro_batch=5)
    groups = split_groups(batch, mask_truncated=False)
    return Bench(learner, groups, group_size=G, seed=seed, sketch=Sketch(learner.parameters, 0, size))


@pytest.fixture(scope="module")
def bench() -> Bench:
    return make_bench()


@pytest.fixture(scope="module")
def target(bench: Bench) -> Target:
    return bench.target(JOINT, TOKENS)


@pytest.fixture(scope="module")
def elbo(bench: Bench, target: Target) -> Measured:
    return bench.measure(Candidate("elbo", ELBO), PLANS, target)


def gram(target: Target) -> np.ndarray:
    return target.gradients.astype(float) @ target.gradients.astype(float).T


def rows_of(bench: Bench) -> list[tuple[list[int], list[int], float]]:
    """(prompt, tokens, advantage) of every row."""
    found = []
    for group in bench.groups:
        batch = group.rollouts
        for row in range(len(group)):
            prompt, tokens = (batch.tokens[row][mask[row]].tolist() for mask in (batch.prompt_mask, batch.canvas_mask))
            found.append((prompt, tokens, float(group.advantage[row])))  # type: ignore[index]
    return found


def flat(policy: TabularPolicy, loss: Tensor) -> np.ndarray:
    parts = torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
    whole = [torch.zeros_like(p) if g is None else g for p, g in zip(policy.parameters(), parts, strict=True)]
    return torch.cat([part.reshape(-1) for part in whole]).double().numpy()


def every_view(policy: TabularPolicy, prompt: list[int], tokens: list[int]) -> list[tuple[float, float, np.ndarray]]:
    """(probability, estimate, its gradient) of every mask of LLaDA's law: l ~ U{1..L}, l tokens hidden, weight L / l."""
    length, found = len(tokens), []
    for count in range(1, length + 1):
        for hidden in itertools.combinations(range(length), count):
            shown = [*prompt, *(policy.mask_id if i in hidden else t for i, t in enumerate(tokens))]
            ids = torch.tensor([shown])
            logits = policy.exact_logits(policy(ids, None, torch.ones_like(ids, dtype=torch.bool)))
            logp = logits.log_softmax(-1)
            value = length / count * sum((logp[len(prompt) + i, tokens[i]] for i in hidden), torch.tensor(0.0))
            chance = 1 / length / math.comb(length, count)
            found.append((chance, float(value.detach()), flat(policy, value)))
    return found


def test_the_elbo_against_every_mask_of_every_row(bench: Bench, target: Target, elbo: Measured) -> None:
    """Value, variance, gradient, its noise and the error of measuring it: within four standard errors, all known by enumeration."""
    policy = bench.learner.policy
    rows = rows_of(bench)
    views = [every_view(policy, prompt, tokens) for prompt, tokens, _ in rows]
    for number, one in enumerate(views):
        chance, value = np.array([v[0] for v in one]), np.array([v[1] for v in one])
        mean = float(chance @ value)
        variance = float(chance @ np.square(value - mean))
        fourth = float(chance @ (value - mean) ** 4)
        own = elbo.values[:, number]
        assert own.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / PLANS))
        assert own.var(ddof=1) == pytest.approx(variance, abs=4 * math.sqrt((fourth - variance**2) / PLANS))
        assert mean == pytest.approx(exact_bound(table_of(policy, *rows[number][:2])), abs=1e-5)
    means = []
    for p in range(len(PROMPTS)):
        left, right = (
            [(c, -a / G * g) for c, _, g in one]
            for one, (_, _, a) in zip(views[G * p : G * p + G], rows[G * p : G * p + G], strict=True)
        )
        joint = [(c * d, g + h) for (c, g), (d, h) in itertools.product(left, right)]
        chance, gradients = np.array([c for c, _ in joint]), np.stack([g for _, g in joint])
        mean = chance @ gradients
        square = np.square(gradients - mean).sum(1)
        noise = float(chance @ square)
        error = math.sqrt(float(chance @ np.square(square - noise)) / PLANS)
        assert elbo.products.noise[p] == pytest.approx(noise, abs=4 * error)
        along = float(chance @ np.square((gradients - mean) @ target.gradients.mean(0)))
        assert elbo.products.along[p] == pytest.approx(along, rel=0.35)
        means.append(mean)
    exact = np.stack(means)
    truth = elbo.products.__class__(
        exact @ exact.T, exact @ target.gradients.T, elbo.products.noise, elbo.products.along, 10**9
    )
    left, right = (worth_of(x, gram(target), 1, ONCE) for x in (elbo.products, truth))
    assert left.cosine == pytest.approx(float(right.cosine), abs=0.05)
    assert left.worth == pytest.approx(float(right.worth), rel=0.15)
    assert left.snr == pytest.approx(float(right.snr), rel=0.15)


def test_the_trajectory_law_is_the_samplers_own_by_enumeration(bench: Bench, target: Target) -> None:
    policy = bench.learner.policy
    logs = []
    for group in bench.groups:
        batch = group.rollouts
        for row in range(len(group)):
            law = enumerate_law(policy, batch.tokens[row][batch.prompt_mask[row]].tolist(), SPEC)
            place = batch.canvas_mask[row]
            key = (tuple(batch.tokens[row][place].tolist()), tuple(batch.reveal_step[row][place].tolist()))
            logs.append(math.log(law[key].probability))
    assert target.values == pytest.approx(np.array(logs), abs=1e-5)
    assert (target.token_values >= target.values - 1e-6).all()
    assert (target.token_values > target.values + 0.1).any()
    assert target.record_gap < 1e-5


def test_the_trajectory_estimator_has_no_gap_and_its_own_direction(bench: Bench, target: Target) -> None:
    for method, values, exact in (
        (JOINT, target.values, target.gradients),
        (TOKENS, target.token_values, target.tokens),
    ):
        found = bench.measure(Candidate("trajectory", method), 1, target)
        assert not found.random
        assert found.views == SPEC.steps
        assert summarise_values(found.values, values).gap_rms == 0.0
        products, wide = (found.products if method is JOINT else found.token_products), exact.astype(float)
        worth = worth_of(products, wide @ wide.T, 1, ONCE)
        assert worth.cosine == pytest.approx(1.0, abs=1e-9)
        assert worth.worth == pytest.approx(1.0, abs=1e-9)
        assert worth.snr == math.inf


def test_sampled_steps_are_the_tokens_law_with_noise(bench: Bench, target: Target) -> None:
    """AGRPO's estimate is unbiased: the cosine with the tokens' gradient is 1 to within what is left of the noise."""
    method = method_of(Trajectory(unit="sequence", length_normalized=False, sample_steps=1))
    found = bench.measure(Candidate("sampled", method), PLANS, target)
    assert found.random
    assert found.views == 1.0
    wide = target.tokens.astype(float)
    worth = worth_of(found.token_products, wide @ wide.T, 1, ONCE)
    assert worth.cosine == pytest.approx(1.0, abs=0.03)
    assert 0.0 < worth.worth < 0.99
    error = math.sqrt(float(found.values.var(0, ddof=1).mean()) / PLANS)
    assert found.values.mean(0) == pytest.approx(target.token_values, abs=5 * error)


def test_random_order_by_every_mask(bench: Bench) -> None:
    found = bench.random_orders()
    assert found is not None
    for (likelihood, bound), (prompt, tokens, _) in zip(found, rows_of(bench), strict=True):
        table = table_of(bench.learner.policy, prompt, tokens)
        assert (likelihood, bound) == (
            pytest.approx(log_likelihood(table), abs=1e-5),
            pytest.approx(exact_bound(table), abs=1e-5),
        )
    assert ENUMERABLE < 10  # 2^L views of each row


def test_the_sandwich_goes_by_the_sign_of_each_row(bench: Bench, target: Target) -> None:
    plain = bench.measure(Candidate("elbo", method_of(Elbo(draws=2, length_normalized=False))), 3, target)
    method = method_of(Sandwich(draws=2, length_normalized=False))
    found = bench.measure(Candidate("sandwich", method), 3, target)
    positive = np.array([a > 0 for *_, a in rows_of(bench)])
    assert found.values[:, positive] == pytest.approx(plain.values[:, positive], abs=1e-5)
    assert (np.abs(found.values - plain.values)[:, ~positive] > 1e-4).any()
    assert found.views == plain.views  # its two views stand in one micro-batch: no scoring beforehand


def test_weights_streams_and_gradients_are_as_they_were(bench: Bench, target: Target) -> None:
    policy = bench.learner.policy
    before = [p.detach().clone() for p in policy.parameters()]
    torch_state, numpy_state = torch.random.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    bench.measure(Candidate("mean field", method_of(MeanField(unit="sequence", prompt_mask_prob=0.5))), 2, target)
    with bench.stepped(target.step, lr=1e-2, eps=1e-8):
        moved = [p.detach().clone() for p in policy.parameters()]
        steps = bench.values(JOINT, bench.key(0)) - target.values
    # AdamW's first step: everything with a gradient moves by the learning rate, and the loss goes down.
    for a, b, slope in zip(before, moved, target.step, strict=True):
        expected = torch.where(slope.abs() > 1e-4, a - 1e-2 * slope.sign(), b)
        torch.testing.assert_close(b, expected, rtol=0, atol=1e-5)
    advantage = np.array([a for *_, a in rows_of(bench)])
    assert steps @ advantage > 0
    for a, b in zip(before, policy.parameters(), strict=True):
        assert torch.equal(a, b)
        assert b.grad is None
    assert torch.equal(torch_state, torch.random.get_rng_state())
    assert numpy_state == str(np.random.get_state())  # noqa: NPY002


def test_the_step_is_undone_even_if_scoring_fails(bench: Bench, target: Target) -> None:
    before = [p.detach().clone() for p in bench.learner.parameters]
    with pytest.raises(RuntimeError, match="scoring"), bench.stepped(target.step, 0.1, 1e-8):
        raise RuntimeError("scoring")
    assert all(torch.equal(a, b) for a, b in zip(before, bench.learner.parameters, strict=True))


def test_measured_twice_it_is_the_same_and_a_projection_is_near(bench: Bench, target: Target) -> None:
    again = make_bench()
    other = again.target(JOINT, TOKENS)
    one, two = (b.measure(Candidate("elbo", ELBO), 5, t) for b, t in ((bench, target), (again, other)))
    assert (one.values == two.values).all()
    assert (one.products.own == two.products.own).all()
    small = make_bench(size=64)
    assert not small.sketch.exact
    projected = small.target(JOINT, TOKENS)
    assert projected.gradients.shape == (3, 64)  # whatever the model's size
    whole, near = gram(target), gram(projected)
    assert np.diagonal(near) == pytest.approx(np.diagonal(whole), rel=0.6)
    different = make_bench(seed=1).measure(Candidate("elbo", ELBO), 5, other)
    assert (different.values != one.values).any()


def test_rows_without_a_gradient_are_left_out(bench: Bench) -> None:
    whole = bench.groups[0].rollouts
    batch = ScoredBatch(whole, torch.zeros(2), torch.zeros(2))
    one = split_groups(batch.with_advantage(torch.tensor([0.0, 2.0])), mask_truncated=False)
    assert [(group.advantage.tolist(), group.rollouts.rollout_id.tolist()) for group in one] == [([2.0], [1])]  # type: ignore[union-attr]
    assert split_groups(batch.with_advantage(torch.zeros(2)), mask_truncated=False) == []
    both = batch.with_advantage(torch.tensor([1.0, -1.0]))
    kept = split_groups(both, mask_truncated=True)
    assert sum(map(len, kept)) == int((~whole.truncated).sum())


def test_what_a_plan_costs(bench: Bench) -> None:
    """Views per rollout, a third more where the scores must be known beforehand; fixed masks are found out."""
    mean_field = method_of(MeanField(unit="sequence", prompt_mask_prob=0.0))
    assert bench.cost(Candidate("fixed", mean_field)) == (1.0, False)
    drawn = method_of(MeanField(unit="sequence", prompt_mask_prob=0.5))
    assert bench.cost(Candidate("drawn", drawn)) == (1.0, True)
    for draws, views in (
        (5, 5.0),
        (6, 8.0),
    ):  # more than a micro-batch: the scores must be known before they can be sloped
        assert bench.cost(Candidate("sandwich", method_of(Sandwich(draws=draws)))) == (pytest.approx(views), True)


def test_memory_of_a_plan(bench: Bench) -> None:
    assert peak_bytes(lambda: torch.zeros(1000, 1000), bench.learner) == pytest.approx(4e6, rel=0.05)

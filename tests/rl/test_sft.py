"""Masked SFT: its loss is an oracle's loop, its expectation the integral it claims, and nothing else has a say in it."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from rl.backends import TrainingError
from rl.likelihood import Elbo, score_views
from rl.masks import PlanKey
from rl.noise import MIN_T
from rl.sft import completion_batch, sft_loop, sft_plan, sft_step
from rollouts.law import RAW
from rollouts.policy import Policy
from rollouts.trajectory import RolloutBatch
from tests.oracles.tabular import TabularPolicy
from tests.oracles.training import Recorder, copies, distance, make_learner, tiny_policy

PROMPTS = [(1, 2), (3, 4, 5, 6), (7,), (8, 9), (1, 1, 1), (2,)]
COMPLETIONS = [(1, 2, 3), (), (4, 5, 6, 7, 8), (9,), (2, 2), (0, 1, 2, 3)]
CANVAS = 5


def rows_of(policy: Policy, repeat: int = 1) -> RolloutBatch:
    return completion_batch(policy, PROMPTS * repeat, COMPLETIONS * repeat, CANVAS)


@pytest.fixture
def policy() -> Policy:
    return tiny_policy()


# ---- rows


def test_a_row_is_its_prompt_and_its_completion_filled_up_with_eos(policy: Policy) -> None:
    batch = rows_of(policy)
    batch.validate()
    eos = policy.eos_ids[0]
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        wanted = [*prompt, *completion, *[eos] * (CANVAS - len(completion))]
        assert batch.tokens[row][batch.attention_mask[row]].tolist() == wanted
        assert batch.prompt_mask[row].sum() == len(prompt)
        assert torch.equal(batch.loss_mask[row], batch.canvas_mask[row])  # the end is learnt as well
        assert batch.loss_mask[row].sum() == CANVAS


def test_a_completion_longer_than_the_canvas_is_refused(policy: Policy) -> None:
    with pytest.raises(
        TrainingError, match=r"completion 1 has 6 tokens, but the canvas has 5 positions.*rollout.canvas"
    ):
        completion_batch(policy, [(1,), (2,)], [(1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6)], CANVAS)


# ---- noise


@pytest.mark.parametrize("stratified", [True, False])
def test_masks_and_weights_belong_to_one_noise_level(policy: Policy, stratified: bool) -> None:
    batch = rows_of(policy, repeat=40)
    plan = sft_plan(batch, seed=1, step=2, stratified=stratified)
    assert plan.row.tolist() == list(range(240))
    assert torch.equal(plan.masked, plan.scored)
    assert not (plan.masked & ~batch.loss_mask).any()  # the prompt and the padding are never masked
    assert torch.equal(plan.weight > 0, plan.masked)
    levels = []
    for row in range(240):
        weights = plan.weight[row][plan.masked[row]].unique().tolist()
        assert len(weights) <= 1
        levels += [1 / weight for weight in weights]
    assert all(MIN_T <= level <= 1 + 1e-6 for level in levels)
    assert max(levels) > 0.9
    assert min(levels) < 0.4  # rows of little noise often mask nothing at all


def test_stratified_levels_fill_every_stratum_once() -> None:
    policy = tiny_policy(max_length=4000)
    size = 16
    batch = completion_batch(policy, [(1,)] * size, [()] * size, 3000)  # long: every row masks something
    for step in range(5):
        plan = sft_plan(batch, seed=0, step=step, stratified=True)
        levels = (1 / plan.weight.amax(1)).double()
        strata = ((levels - MIN_T) / (1 - MIN_T) * size).floor().long()
        assert sorted(strata.tolist()) == list(range(size))
        assert strata.tolist() != list(range(size))  # not tied to the place in the batch
        shares = plan.masked.sum(1) / 3000
        assert float((shares - levels).abs().max()) < 5 * 0.5 / 3000**0.5  # each token with probability t
    plain = 1 / sft_plan(batch, seed=0, step=0, stratified=False).weight.amax(1)
    assert len(((plain - MIN_T) / (1 - MIN_T) * size).floor().unique()) < size


def test_noise_depends_on_seed_step_and_place_in_the_batch_only(policy: Policy) -> None:
    batch = rows_of(policy)

    def masks(data: RolloutBatch, **key: int) -> torch.Tensor:
        seed, step = key.get("seed", 0), key.get("step", 0)
        return sft_plan(data, seed=seed, step=step, stratified=True, size=len(batch)).weight[:, : batch.length]

    first = masks(batch)
    assert torch.equal(first, masks(batch.padded(batch.length + 3)))
    assert not torch.equal(first, masks(batch, seed=1))
    assert not torch.equal(first, masks(batch, step=1))
    order = [4, 2, 0]
    assert torch.equal(first[order], masks(batch.rows(order)))  # a rank's share of the global batch


# ---- loss


def oracle_loss(policy: Policy, batch: RolloutBatch, weights: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the masked tokens over t, summed by loops, per completion token."""
    total, tokens = torch.zeros(()), 0
    for row in range(len(batch)):
        real = batch.attention_mask[row]
        ids = batch.tokens[row][real]
        weight = weights[row][: len(real)][real]
        shown = torch.where(weight > 0, policy.mask_id, ids)[None]
        logits = policy.logits(policy(shown, None, torch.ones_like(shown, dtype=torch.bool)))
        losses = torch.nn.functional.cross_entropy(logits, ids, reduction="none")
        total = total + (losses * weight).sum()
        tokens += CANVAS
    return total / tokens


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("micro_batch", [1, 4, 1000])
def test_loss_and_gradient_are_the_oracles(policy: Policy, stratified: bool, micro_batch: int) -> None:
    batch = rows_of(policy, repeat=2)
    learner = make_learner(policy, micro_batch=micro_batch)
    recorder = Recorder(learner)
    start = copies(learner.parameters)
    metrics = sft_step(learner, batch, seed=0, step=3, stratified=stratified)
    for parameter, value in zip(learner.parameters, start, strict=True):
        parameter.data.copy_(value)
    loss = oracle_loss(policy, batch, sft_plan(batch, seed=0, step=3, stratified=stratified).weight)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    wanted = torch.autograd.grad(loss, learner.parameters)
    assert distance(recorder.gradients[0], list(wanted)) < 1e-5
    assert learner.work.forward == learner.work.backward <= len(batch)  # every row once


def test_padding_changes_nothing(policy: Policy) -> None:
    batch = rows_of(policy)
    gradients = []
    for extra in (0, 7):
        fresh = tiny_policy()
        recorder = Recorder(make := make_learner(fresh, micro_batch=4))
        sft_step(make, batch.padded(batch.length + extra), seed=0, step=0, stratified=True)
        gradients.append(recorder.gradients[0])
    assert distance(*gradients) < 1e-5


# ---- expectation


TARGET = (1, 0, 2)
PROMPT = (0, 1)


def table(policy: TabularPolicy, batch: RolloutBatch) -> dict[tuple[bool, ...], list[float]]:
    """Which of the three canvas positions are masked -> log-probability of each target token, by plain forwards."""
    found = {}
    for mask in itertools.product((False, True), repeat=3):
        shown = [policy.mask_id if hidden else token for hidden, token in zip(mask, TARGET, strict=True)]
        ids = torch.tensor([[*PROMPT, *shown]])
        everywhere = torch.ones_like(ids, dtype=torch.bool)
        with torch.no_grad():
            logp = policy.exact_logits(policy(ids, everywhere, everywhere)).log_softmax(-1)
        found[mask] = [float(logp[len(PROMPT) + at, token]) for at, token in enumerate(TARGET)]
    return found


def exact_loss(logps: dict[tuple[bool, ...], list[float]]) -> float:
    """-1/L times the integral over t ~ U(MIN_T, 1) of sum over masks of P(mask | t) / t * sum of masked log-probabilities."""
    nodes, node_weights = np.polynomial.legendre.leggauss(12)  # exact: the integrand is a polynomial
    levels = MIN_T + (1 - MIN_T) * (nodes + 1) / 2
    total = 0.0
    for t, node_weight in zip(levels, node_weights / 2, strict=True):
        for mask, logp in logps.items():
            hidden = sum(mask)
            inner = sum(value for value, at in zip(logp, mask, strict=True) if at)
            total -= node_weight * t**hidden * (1 - t) ** (3 - hidden) / t * inner / 3
    return total


def elbo_loss(logps: dict[tuple[bool, ...], list[float]]) -> float:
    """-1/L times the bound with fixed counts: l ~ U{1..L}, any l positions, weight L / l (LLaDA, eq. 14)."""
    total = 0.0
    for count in (1, 2, 3):
        masks = [mask for mask in logps if sum(mask) == count]
        for mask in masks:
            inner = sum(value for value, at in zip(logps[mask], mask, strict=True) if at)
            total -= inner * 3 / count / len(masks) / 3 / 3
    return total


def monte_carlo(
    logps: dict[tuple[bool, ...], list[float]], batch: RolloutBatch, stratified: bool, steps: int
) -> np.ndarray:
    """The loss of many steps, with log-probabilities from the table."""
    losses = []
    for step in range(steps):
        plan = sft_plan(batch, seed=11, step=step, stratified=stratified)
        weight = plan.weight[:, len(PROMPT) :].tolist()
        losses.append(
            -sum(
                w * logp
                for row in weight
                for w, logp in zip(row, logps[tuple(value > 0 for value in row)], strict=True)
            )
            / (3 * len(weight))
        )
    return np.array(losses)


@pytest.fixture(scope="module")
def small() -> tuple[TabularPolicy, RolloutBatch, dict[tuple[bool, ...], list[float]]]:
    policy = TabularPolicy(5, seed=2, scale=1.5)
    batch = completion_batch(policy, [PROMPT] * 32, [TARGET] * 32, 3)
    return policy, batch, table(policy, batch)


@pytest.mark.parametrize("stratified", [True, False])
def test_the_expected_loss_is_the_integral(small, stratified: bool) -> None:
    _, batch, logps = small
    losses = monte_carlo(logps, batch, stratified, 600)
    error = losses.std(ddof=1) / len(losses) ** 0.5
    wanted = exact_loss(logps)
    assert abs(losses.mean() - wanted) < 5 * error
    assert 5 * error < 0.2 * wanted  # the test can tell
    wrong = wanted * 3 / 2  # say, a loss per masked token under the same weights
    assert abs(losses.mean() - wrong) > 5 * error


def test_the_integral_is_the_order_agnostic_bound(small) -> None:
    """Both forms of the published loss agree up to the floor of t; the ELBO estimator of RL has the same expectation."""
    policy, batch, logps = small
    assert exact_loss(logps) == pytest.approx(elbo_loss(logps), rel=2 * MIN_T)
    estimates = []
    for step in range(40):
        estimator = Elbo(draws=4)
        plan = estimator.plan(batch, PlanKey(5, step))
        with torch.no_grad():
            values = score_views(policy, plan, batch.tokens[plan.row], batch.attention_mask[plan.row], RAW)
        estimates.append(-float(estimator.reduce(values, plan, batch).value.mean()))
    error = np.std(estimates, ddof=1) / len(estimates) ** 0.5
    assert abs(np.mean(estimates) - elbo_loss(logps)) < 5 * error


def test_stratification_lowers_the_variance(small) -> None:
    _, batch, logps = small
    spread = [monte_carlo(logps, batch, stratified, 100).std() for stratified in (True, False)]
    assert spread[0] < 0.9 * spread[1]


def test_a_learner_step_reports_that_loss(small) -> None:
    _, batch, logps = small
    plain = TabularPolicy(5, seed=2, scale=1.5, dtype=torch.float32)
    reported = []
    for step in range(10):
        learner = make_learner(plain)
        Recorder(learner, size=0.0)
        reported.append(sft_step(learner, batch, seed=11, step=step, stratified=True)["loss"])
    assert reported == pytest.approx(monte_carlo(logps, batch, True, 10).tolist(), rel=1e-4)


# ---- the loop


def run_loop(
    policy: Policy, *, seed: int = 0, steps: int = 4, first_step: int = 0, micro_batch: int = 9
) -> list[float]:
    losses: list[float] = []
    sft_loop(
        make_learner(policy, lr=3e-3, micro_batch=micro_batch),
        list(zip(PROMPTS, COMPLETIONS, strict=True)),
        canvas=CANVAS,
        steps=steps,
        batch=4,
        seed=seed,
        stratified=True,
        first_step=first_step,
        on_step=lambda step, metrics: losses.append(metrics["loss"]),
    )
    return losses


def test_the_same_seed_gives_the_same_weights() -> None:
    policies = [tiny_policy() for _ in range(3)]
    losses = [run_loop(policy, seed=seed) for policy, seed in zip(policies, (0, 0, 1), strict=True)]
    assert losses[0] == losses[1] != losses[2]
    weights = [copies(list(policy.parameters())) for policy in policies]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))


def test_it_learns() -> None:
    losses = run_loop(tiny_policy(), steps=80)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_every_row_comes_once_an_epoch_and_a_run_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def spy(policy: Policy, prompts: Sequence[tuple[int, ...]], *args: object) -> RolloutBatch:
        seen.extend(prompts)
        return completion_batch(policy, prompts, *args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("rl.sft.completion_batch", spy)
    run_loop(tiny_policy(), steps=6)
    whole = list(seen)
    epochs = [whole[low : low + len(PROMPTS)] for low in range(0, 24, len(PROMPTS))]
    assert all(sorted(epoch) == sorted(PROMPTS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1  # each in an order of its own
    seen.clear()
    run_loop(tiny_policy(), steps=4, first_step=2)
    assert seen == whole[8:]


def test_no_rows_are_an_error(policy: Policy) -> None:
    with pytest.raises(TrainingError, match="no rows to train on"):
        sft_loop(make_learner(policy), [], canvas=4, steps=1, batch=1, seed=0, stratified=True)


def test_a_broken_model_stops_the_loop(policy: Policy) -> None:
    with torch.no_grad():
        policy.causal_lm.lm_head.weight[0] = float("nan")
    with pytest.raises(TrainingError, match="nan"):
        run_loop(policy)

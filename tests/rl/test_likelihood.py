"""Estimators: re-scoring gives back the sampler's record, expectations and gradients are what they claim to be."""

import itertools
import math

import pytest
import torch

from rl.estimators import ArOrder, Blockwise
from rl.likelihood import Elbo, MeanField, Trajectory, score_views
from rl.masks import PlanKey
from rollouts import denoise
from rollouts.law import RAW, Law
from rollouts.spec import SamplerSpec, Selection
from rollouts.trajectory import RolloutBatch
from tests.oracles.batches import ScriptedKey, force, sample, score
from tests.oracles.sampling import enumerate_law, softmax
from tests.oracles.tabular import TabularPolicy, row_logits

RULES = ("confidence", "max_prob", "margin", "entropy", "random")
PROMPTS = [(0, 1), (2,), (3, 2, 1, 0), (1, 1, 1), (0,), (2, 2)] * 3
HINTS = [{}, {1: 2}, {0: 1, 4: 3}, {2: 4}, {3: 0, 4: 1, 5: 2}, {}] * 3

SPECS = {
    "early stop": {"canvas": 6, "block": 3, "steps": 4},
    "cold": {"canvas": 6, "block": 2, "steps": 6, "temperature": 0.4},
    "hot, forbidden": {"canvas": 6, "block": 6, "steps": 4, "temperature": 1.7, "forbid": (1,)},
    "top-p": {"canvas": 6, "block": 3, "steps": 4, "top_p": 0.8},
    "one step": {"canvas": 6, "block": 6, "steps": 1, "early_stop": False},
    "whole canvas counts": {"canvas": 6, "block": 3, "steps": 2, "eos": "all", "early_stop": False},
}


def policy_of(seed: int = 3, **options) -> TabularPolicy:
    return TabularPolicy(6, seed=seed, **options)


def rollouts(policy: TabularPolicy, rule: Selection, name: str) -> RolloutBatch:
    return sample(policy, PROMPTS, SamplerSpec(**SPECS[name], selection=rule), hints=HINTS)


def step_sums(values: torch.Tensor, batch: RolloutBatch) -> torch.Tensor:
    """Sum over the tokens of each step, by loops. ``[B, T]``."""
    out = torch.zeros(len(batch), batch.steps)
    for row, place in batch.drawn_mask.nonzero().tolist():
        out[row, batch.reveal_step[row, place]] += values[row, place]
    return out


# ---- re-scoring


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("padding", [0, 7])
def test_rescoring_gives_back_what_the_sampler_recorded(name: str, rule: Selection, padding: int) -> None:
    policy = policy_of()
    batch = rollouts(policy, rule, name)
    assert name != "early stop" or (batch.reveal_step == batch.steps).any()  # early stop happened
    batch = batch.padded(batch.length + padding)
    drawn = batch.drawn_mask
    for estimator, recorded in [
        (Trajectory(law="sampler"), batch.sampler_logprob),
        (Trajectory(law="raw"), batch.raw_logprob),
    ]:
        _, _, estimate = score(policy, estimator, batch)
        assert torch.equal(estimate.mask, drawn)
        torch.testing.assert_close(estimate.value, recorded, rtol=0, atol=1e-5)
        _, _, steps = score(policy, estimator.model_copy(update={"unit": "step"}), batch)
        torch.testing.assert_close(steps.value, step_sums(recorded, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("policy", [policy_of(), policy_of(5, grid=1.0, position_blind=True)], ids=["plain", "ties"])
@pytest.mark.parametrize("name", SPECS)
def test_rescoring_the_order_gives_back_tokens_and_choice_of_positions(name: str, policy: TabularPolicy) -> None:
    batch = rollouts(policy, "confidence", name)
    _, _, estimate = score(policy, Trajectory(order=True, unit="step"), batch)
    recorded = step_sums(batch.sampler_logprob, batch) + batch.select_logprob
    torch.testing.assert_close(estimate.value, recorded, rtol=0, atol=2e-5)
    assert torch.equal(estimate.mask, step_sums(batch.drawn_mask.float(), batch) > 0)
    _, _, whole = score(policy, Trajectory(order=True, unit="sequence", length_normalized=False), batch)
    torch.testing.assert_close(whole.value[:, 0], recorded.sum(1), rtol=0, atol=5e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("blocks", [1, 2])
def test_rescoring_every_outcome_gives_the_enumerated_law(temperature: float, blocks: int) -> None:
    policy = TabularPolicy(seed=1)
    spec = SamplerSpec(canvas=4, block=4 // blocks, steps=2 * blocks, temperature=temperature)
    law = enumerate_law(policy, (0, 1), spec)
    batch = force(policy, [(0, 1)] * len(law), spec, [outcome.scripts[0] for outcome in law.values()])
    _, _, estimate = score(policy, Trajectory(order=True, unit="sequence", length_normalized=False), batch)
    expected = torch.tensor([math.log(outcome.probability) for outcome in law.values()])
    torch.testing.assert_close(estimate.value[:, 0], expected, rtol=0, atol=3e-5)
    assert estimate.value.double().exp().sum().item() == pytest.approx(1.0, abs=1e-5)


class RoundingPolicy(TabularPolicy):
    """A head whose rounding depends on how many rows it is given, as matrix kernels' does."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().logits(hidden) * (1.0 + 2e-7 * (len(hidden) % 5))


def test_the_order_does_not_hang_on_rounding() -> None:
    policy = RoundingPolicy(6, seed=5, grid=1.0, position_blind=True)
    for name in ("early stop", "cold", "top-p"):
        batch = rollouts(policy, "confidence", name)
        _, _, estimate = score(policy, Trajectory(order=True, unit="step"), batch)
        recorded = step_sums(batch.sampler_logprob, batch) + batch.select_logprob
        torch.testing.assert_close(estimate.value, recorded, rtol=0, atol=2e-5)


@pytest.mark.parametrize("estimator", [Trajectory(order=True, unit="step"), MeanField(), Elbo(draws=3)])
def test_scores_do_not_depend_on_the_composition_of_a_call(estimator) -> None:
    policy = policy_of()
    batch = rollouts(policy, "confidence", "early stop")
    plan, values, _ = score(policy, estimator, batch)
    law = estimator.scoring_law(batch.sampler_spec, policy.forbidden_ids)
    order = torch.randperm(len(plan), generator=torch.Generator().manual_seed(0))
    wide = batch.padded(batch.length + 5)
    wide_plan = estimator.plan(wide, PlanKey(0, 0))
    for part in order.split(5):
        rows = wide_plan.row[part]
        some = score_views(policy, wide_plan.views(part), wide.tokens[rows], wide.attention_mask[rows], law)
        torch.testing.assert_close(some[:, : batch.length], values[part], rtol=0, atol=1e-6)
        assert not some[:, batch.length :].any()


@pytest.mark.parametrize("order", [False, True])
def test_chunks_of_the_head_change_neither_value_nor_gradient(order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = Trajectory(order=order, unit="step")
    results = []
    for numbers in (denoise.CHUNK_NUMBERS, 6 * 7, 1):
        monkeypatch.setattr(denoise, "CHUNK_NUMBERS", numbers)
        policy = policy_of()
        batch = rollouts(policy, "confidence", "early stop")
        _, _, estimate = score(policy, estimator, batch)
        estimate.value.square().sum().backward()
        assert policy.head.grad is not None
        results.append((estimate.value.detach(), policy.head.grad, batch.select_logprob))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


class CountingPolicy(TabularPolicy):
    """Remembers how many rows each run of the head was given."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.heads: list[int] = []

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        self.heads.append(len(hidden))
        return super().logits(hidden)


@pytest.mark.parametrize("numbers", [denoise.CHUNK_NUMBERS, 6 * 7, 1])
@pytest.mark.parametrize("order", [False, True])
def test_a_frozen_head_runs_once_and_changes_neither_value_nor_gradient(
    order: bool, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoise, "CHUNK_NUMBERS", numbers)
    estimator = Trajectory(order=order, unit="step")
    results = []
    for frozen in (False, True):
        policy = CountingPolicy(6, seed=3)
        batch = rollouts(policy, "confidence", "hot, forbidden")
        policy.head.requires_grad_(not frozen)
        with torch.no_grad():
            plan, without, _ = score(policy, estimator, batch)
        policy.heads.clear()
        _, values, estimate = score(policy, estimator, batch)
        estimate.value.square().sum().backward()
        assert torch.equal(values.detach(), without)  # the pass with gradient repeats the one without, to the bit
        if frozen:
            assert sum(policy.heads) == int(plan.rows_scored.sum())
        assert policy.word.grad is not None
        assert policy.gain.grad is not None
        results.append((estimate.value.detach(), policy.word.grad, policy.gain.grad))
    for trained, frozen_head in zip(*results, strict=True):
        torch.testing.assert_close(frozen_head, trained, rtol=1e-5, atol=1e-5)


def test_scoring_law() -> None:
    spec = SamplerSpec(canvas=4, block=4, steps=4, temperature=0.7, top_p=0.9, forbid=(1, 5))
    assert Trajectory().scoring_law(spec, (5, 3)) == Law(0.7, 0.9, (1, 3, 5))
    assert Trajectory(law="raw").scoring_law(spec, (5, 3)) == RAW
    assert MeanField().scoring_law(spec, (5,)) == RAW
    assert Elbo().scoring_law(spec, (5,)) == RAW


def test_a_token_outside_the_new_nucleus_keeps_a_finite_ratio_and_a_gradient() -> None:
    policy = policy_of()
    batch = rollouts(policy, "confidence", "top-p")
    changed = policy_of(seed=4)
    _, _, estimate = score(changed, Trajectory(), batch)
    ratio = (estimate.value - batch.sampler_logprob).exp()
    assert (ratio[batch.drawn_mask] > 0).all()
    assert torch.isfinite(ratio).all()
    ratio.sum().backward()
    assert changed.head.grad is not None
    assert torch.isfinite(changed.head.grad).all()


# ---- gradients of the law


@pytest.mark.parametrize("top_p", [1.0, 0.8])
@pytest.mark.parametrize("rule", RULES)
def test_gradient_is_that_of_the_log_of_the_enumerated_law(rule: Selection, top_p: float) -> None:
    """Central differences of the oracle's law against autograd; under ``confidence`` the order has its own part."""
    spec = SamplerSpec(canvas=3, block=3, steps=2, selection=rule, temperature=0.8, top_p=top_p)
    policy = TabularPolicy(seed=1)
    law = enumerate_law(policy, (0, 1), spec)
    keys = list(law)[:: max(1, len(law) // 5)]
    order = rule == "confidence"
    estimator = Trajectory(order=order, unit="sequence", length_normalized=False)
    batch = force(policy, [(0, 1)] * len(keys), spec, [law[key].scripts[0] for key in keys])
    _, _, estimate = score(policy, estimator, batch)
    coordinates = [(policy.head, (0, 1)), (policy.head, (2, 3)), (policy.word, (1, 2)), (policy.gain, (3, 0))]
    gradients = [
        torch.autograd.grad(value, [p for p, _ in coordinates], retain_graph=True) for value in estimate.value[:, 0]
    ]
    step = 1e-5
    for n, (parameter, at) in enumerate(coordinates):
        laws = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[at] += sign * step
            laws.append(enumerate_law(policy, (0, 1), spec))
            with torch.no_grad():
                parameter[at] -= sign * step
        for row, key in enumerate(keys):
            slope = (math.log(laws[0][key].probability) - math.log(laws[1][key].probability)) / (2 * step)
            assert gradients[row][n][at].item() == pytest.approx(slope, abs=2e-5, rel=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_expected_score_is_zero(rule: Selection) -> None:
    """sum over outcomes of P grad log P = 0, through the real scorer."""
    spec = SamplerSpec(canvas=4, block=2, steps=4, selection=rule, temperature=1.3)
    policy = TabularPolicy(seed=2)
    law = enumerate_law(policy, (0,), spec)
    batch = force(policy, [(0,)] * len(law), spec, [outcome.scripts[0] for outcome in law.values()])
    estimator = Trajectory(order=rule == "confidence", unit="sequence", length_normalized=False)
    _, _, estimate = score(policy, estimator, batch)
    chance = torch.tensor([outcome.probability for outcome in law.values()])
    (chance * estimate.value[:, 0]).sum().backward()
    for parameter in policy.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max().item() < 1e-5


def test_without_the_order_the_published_rule_s_expected_score_is_not_zero() -> None:
    """Why ``order`` exists: the token product alone is not a likelihood under sample-then-select."""
    spec = SamplerSpec(canvas=4, block=4, steps=4, temperature=1.0)
    policy = TabularPolicy(seed=2)
    law = enumerate_law(policy, (0,), spec)
    batch = force(policy, [(0,)] * len(law), spec, [outcome.scripts[0] for outcome in law.values()])
    _, _, estimate = score(policy, Trajectory(unit="sequence", length_normalized=False), batch)
    (torch.tensor([outcome.probability for outcome in law.values()]) * estimate.value[:, 0]).sum().backward()
    assert policy.head.grad is not None
    assert policy.head.grad.abs().max().item() > 1e-2


# ---- mean-field and segments against direct computation


def direct(policy: TabularPolicy, batch: RolloutBatch, row: int, hidden: set[int], place: int) -> float:
    """log p(token at place | row with the given places shown as MASK), float64 at temperature 1."""
    real = int(batch.attention_mask[row].sum())
    shown = [policy.mask_id if i in hidden else int(batch.tokens[row, i]) for i in range(real)]
    return math.log(softmax(row_logits(policy, shown)[place])[int(batch.tokens[row, place])])


def places(mask: torch.Tensor) -> list[int]:
    return mask.nonzero().squeeze(1).tolist()


@pytest.mark.parametrize("chance", [0.0, 0.5])
def test_mean_field_scores_the_text_on_the_masked_canvas(chance: float) -> None:
    policy = policy_of()
    batch = rollouts(policy, "confidence", "early stop")
    plan, _, estimate = score(policy, MeanField(prompt_mask_prob=chance), batch)
    assert torch.equal(estimate.mask, batch.loss_mask)
    noise = {int(r): set(places(m & batch.prompt_mask[r])) for r, m in zip(plan.row, plan.masked, strict=True)}
    assert any(noise.values()) == (chance > 0)
    for row in range(len(batch)):
        hidden = set(places(batch.canvas_mask[row] & ~batch.hint_mask[row])) | noise.get(row, set())
        for place in places(batch.loss_mask[row]):
            assert estimate.value[row, place].item() == pytest.approx(
                direct(policy, batch, row, hidden, place), abs=1e-5
            )


@pytest.mark.parametrize(("segments", "starts"), [(1, [0, 0, 0, 0]), (2, [0, 0, 2, 2]), (3, [0, 0, 2, 3])])
def test_segments_score_at_the_start_of_the_segment(segments: int, starts: list[int]) -> None:
    policy = policy_of()
    batch = rollouts(policy, "margin", "early stop")
    _, _, estimate = score(policy, Trajectory(segments=segments, law="raw"), batch)
    for row in range(len(batch)):
        free = places(batch.canvas_mask[row] & ~batch.hint_mask[row])
        for place in places(batch.drawn_mask[row]):
            start = starts[int(batch.reveal_step[row, place])]
            hidden = {i for i in free if int(batch.reveal_step[row, i]) >= start}
            assert estimate.value[row, place].item() == pytest.approx(
                direct(policy, batch, row, hidden, place), abs=1e-5
            )


def test_one_segment_is_mean_field_without_prompt_noise() -> None:
    policy = policy_of()
    batch = rollouts(policy, "random", "whole canvas counts")
    _, _, one = score(policy, Trajectory(segments=1, law="raw"), batch)
    _, _, field = score(policy, MeanField(prompt_mask_prob=0.0), batch)
    assert torch.equal(one.mask, field.mask)
    torch.testing.assert_close(one.value, field.value, rtol=0, atol=1e-6)


# ---- sub-sampled steps


class Picks:
    def __init__(self, picks) -> None:
        self.picks = list(picks)

    def integers(self, size: int) -> int:
        return self.picks.pop(0)


@pytest.mark.parametrize(("count", "sizes"), [(1, [6]), (2, [3, 3]), (4, [2, 2, 1, 1]), (6, [1] * 6)])
@pytest.mark.parametrize("order", [False, True])
def test_sampled_steps_average_to_the_full_sum(count: int, sizes: list[int], order: bool) -> None:
    policy = policy_of()
    spec = SamplerSpec(canvas=6, block=6, steps=6, early_stop=False)
    batch = sample(policy, [(0, 1), (2,)], spec)
    full = Trajectory(unit="sequence", order=order)
    sampled = Trajectory(unit="sequence", order=order, sample_steps=count)
    by_step = Trajectory(unit="step", order=order, sample_steps=count)
    mean, mean_steps, chance = torch.zeros(2, 1), torch.zeros(2, 6), 1 / math.prod(sizes)
    for picks in itertools.product(*(range(size) for size in sizes)):
        key = ScriptedKey(lambda *_, p=picks: Picks(p))
        _, _, estimate = score(policy, sampled, batch, key)  # type: ignore[arg-type]
        mean += chance * estimate.value.detach()
        _, _, steps = score(policy, by_step, batch, key)  # type: ignore[arg-type]
        assert steps.mask.sum().item() == 2 * count
        mean_steps += chance * (steps.value * steps.weight).detach()
    torch.testing.assert_close(mean, score(policy, full, batch)[2].value.detach(), rtol=0, atol=1e-5)
    every = score(policy, Trajectory(unit="step", order=order), batch)[2].value.detach()
    torch.testing.assert_close(mean_steps, every, rtol=0, atol=1e-5)


# ---- ELBO


class FixedMask:
    def __init__(self, count: int, order: tuple[int, ...]) -> None:
        self.count, self.order = count, order

    def integers(self, low: int, high: int) -> int:
        return self.count

    def permutation(self, size: int):
        return torch.tensor(self.order).numpy()


def order_agnostic(policy: TabularPolicy, batch: RolloutBatch, row: int) -> tuple[float, float]:
    """(bound, log-likelihood): mean over all orders of sum log p(x_i | those before); log of the mean product."""
    units = places(batch.loss_mask[row])
    tail = set(places(batch.canvas_mask[row] & ~batch.hint_mask[row] & ~batch.loss_mask[row]))
    sums = []
    for order in itertools.permutations(units):
        hidden, total = set(units), 0.0
        for place in order:
            total += direct(policy, batch, row, hidden | tail, place)
            hidden.remove(place)
        sums.append(total)
    return sum(sums) / len(sums), math.log(sum(math.exp(s) for s in sums) / len(sums))


@pytest.mark.parametrize("normalized", [True, False])
def test_elbo_expectation_over_all_masks_is_the_order_agnostic_bound(normalized: bool) -> None:
    policy = policy_of()
    spec = SamplerSpec(canvas=4, block=4, steps=2, temperature=1.5, early_stop=False)
    hints = [{}, {1: 2}, {0: 3, 3: 0}, {}, {2: 4}]
    batch = sample(policy, PROMPTS[:5], spec, hints=hints, seed=1)
    lengths = batch.loss_mask.sum(1).tolist()
    assert len(set(lengths)) >= 3  # tails after EOS, and hints
    assert (batch.canvas_mask & ~batch.hint_mask & ~batch.loss_mask).any()
    for row, length in enumerate(lengths):
        one = batch.rows([row])
        orders = list(itertools.permutations(range(length)))
        mean = 0.0
        for count, order in itertools.product(range(1, length + 1), orders):
            key = ScriptedKey(lambda *_, c=count, o=order: FixedMask(c, o))
            _, _, estimate = score(policy, Elbo(draws=2, length_normalized=normalized), one, key)  # type: ignore[arg-type]
            mean += estimate.value.item() / (length * len(orders))
        bound, likelihood = order_agnostic(policy, batch, row)
        assert mean == pytest.approx(bound / (length if normalized else 1), abs=1e-5)
        assert bound <= likelihood + 1e-12


def test_elbo_is_below_the_likelihood_of_the_any_order_sampler() -> None:
    """The likelihood the bound speaks of is that of one-token-a-step decoding in random order, summed over orders."""
    policy = TabularPolicy(seed=4, mask_bias=-60.0, forbidden_ids=())
    spec = SamplerSpec(canvas=3, block=3, steps=3, selection="random", eos="all", early_stop=False)
    law = enumerate_law(policy, (0, 1), spec)
    total: dict[tuple[int, ...], float] = {}
    for (tokens, _), outcome in law.items():
        total[tokens] = total.get(tokens, 0.0) + outcome.probability
    batch = sample(policy, [(0, 1)] * 6, spec)
    for row in range(6):
        bound, likelihood = order_agnostic(policy, batch, row)
        assert likelihood == pytest.approx(math.log(total[tuple(batch.tokens[row, 2:].tolist())]), abs=1e-9)
        assert bound < likelihood


def test_elbo_draws_average() -> None:
    """With n draws of its own stream each, the estimate is their mean, within 5 standard errors of the bound."""
    policy = policy_of()
    spec = SamplerSpec(canvas=4, block=4, steps=2, eos="all", early_stop=False)
    batch = sample(policy, [(0, 1)], spec)
    draws = 1000
    plan, values, estimate = score(policy, Elbo(draws=draws, length_normalized=False), batch)
    single = (values.detach() * plan.weight).sum(1).double() * draws
    assert estimate.value.item() == pytest.approx(single.mean().item(), abs=1e-4)
    bound, _ = order_agnostic(policy, batch, 0)
    assert abs(single.mean().item() - bound) <= 5 * single.std().item() / math.sqrt(draws)


# ---- reduce and counts against loops

ESTIMATORS = [
    MeanField(),
    MeanField(unit="sequence"),
    MeanField(unit="sequence", length_normalized=False),
    Trajectory(),
    Trajectory(sample_steps=2),
    Trajectory(segments=2, unit="step"),
    Trajectory(shrink=3),
    Trajectory(shrink=2, unit="step"),
    Trajectory(unit="step", sample_steps=2),
    Trajectory(sample_steps=2, sample_by="entropy"),
    ArOrder(),
    ArOrder(unit="sequence"),
    Blockwise(draws=2),
    Blockwise(draws=1, pair="complement", length_normalized=False),
    Trajectory(unit="step", order=True),
    Trajectory(unit="sequence", sample_steps=3, order=True),
    Trajectory(unit="sequence", length_normalized=False),
    Elbo(draws=3),
    Elbo(draws=1, length_normalized=False),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_reduce_against_loops(estimator) -> None:
    policy = policy_of()
    batch = rollouts(policy, "confidence", "early stop")
    plan = estimator.plan(batch, PlanKey(2, 3))
    values = torch.randn(len(plan), batch.length, generator=torch.Generator().manual_seed(0))
    values = values * plan.rows_scored
    units = {"token": batch.length, "step": batch.steps, "sequence": 1}[estimator.unit]
    value, weight = torch.zeros(len(batch), units).double(), torch.zeros(len(batch), units).double()
    for n in range(len(plan)):
        row = int(plan.row[n])
        for place in places(plan.rows_scored[n]):
            x, w = values[n, place], float(plan.weight[n, place])
            if estimator.unit == "token":
                value[row, place], weight[row, place] = x, w
            elif estimator.unit == "step":
                value[row, plan.step[n]] += x
                weight[row, plan.step[n]] = w
            else:
                value[row, 0] += w * x
                weight[row, 0] = 1
    if estimator.unit == "sequence" and estimator.length_normalized:
        own = batch.drawn_mask if estimator.kind == "trajectory" else batch.loss_mask
        value /= own.sum(1, keepdim=True).clamp(min=1)
    estimate = estimator.reduce(values, plan, batch)
    torch.testing.assert_close(estimate.value.double(), value, rtol=0, atol=1e-5)
    torch.testing.assert_close(estimate.weight.double(), weight, rtol=0, atol=0)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_unit_count_is_the_batch_s_own_whatever_was_scored(estimator) -> None:
    policy = policy_of()
    batch = rollouts(policy, "confidence", "early stop")
    everything = estimator.model_copy(update={"sample_steps": None}) if estimator.kind == "trajectory" else estimator
    _, _, estimate = score(policy, everything, batch)
    assert estimator.unit_count(batch).tolist() == (estimate.weight > 0).sum(1).tolist()


def test_views_per_rollout_is_an_upper_bound() -> None:
    batch = rollouts(policy_of(), "confidence", "early stop")
    for estimator in ESTIMATORS:
        plan = estimator.plan(batch, PlanKey(0, 0))
        assert max(plan.row.bincount().tolist()) <= estimator.views_per_rollout(batch.sampler_spec)
    assert MeanField().views_per_rollout(batch.sampler_spec) == 1
    assert Trajectory().views_per_rollout(batch.sampler_spec) == 4
    assert Trajectory(segments=3).views_per_rollout(batch.sampler_spec) == 3
    assert Elbo(draws=5).views_per_rollout(batch.sampler_spec) == 5

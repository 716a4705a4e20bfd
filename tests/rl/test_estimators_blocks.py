"""Merged and entropy-sampled steps, left-to-right and block-wise estimates: what they are pinned to, by enumeration."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rl import masks
from rl.estimators import ArOrder, Blockwise
from rl.likelihood import Elbo, MeanField, Trajectory
from rl.masks import PlanKey
from rl.noise import Noise
from rollouts.spec import SamplerSpec
from rollouts.trajectory import RolloutBatch
from tests.oracles.batches import ScriptedKey, sample, score
from tests.oracles.draws import even, outcomes
from tests.oracles.sampling import enumerate_law
from tests.oracles.tables import Table, exact_bound, table_of
from tests.oracles.tabular import TabularPolicy

PROMPT = 2  # tokens before the canvas
KEY = PlanKey(1, 5)


def batch_of(length: int, block: int, steps: int | None = None, policy: TabularPolicy | None = None) -> RolloutBatch:
    spec = SamplerSpec(canvas=length, block=block, steps=steps or length, eos="all", early_stop=False)
    return sample(policy or TabularPolicy(4, seed=1), [(0, 1)], spec)


def ragged() -> RolloutBatch:
    """Texts that end early, hints, prompts of several lengths."""
    spec = SamplerSpec(canvas=6, block=3, steps=4, temperature=1.5)
    prompts, hints = [(0, 1), (2,), (3, 2, 1, 0), (1, 1, 1)] * 3, [{}, {1: 2}, {0: 1, 4: 3}, {2: 4}] * 3
    return sample(TabularPolicy(6, seed=3), prompts, spec, hints=hints)


def values_of(plan: masks.MaskPlan, table: Table) -> torch.Tensor:
    """The scores that a model of this table gives to a plan's views, float64 ``[N, S]``."""
    values = torch.zeros(plan.scored.shape, dtype=torch.float64)
    for view in range(len(plan)):
        hidden = tuple(plan.masked[view, PROMPT:].tolist())
        values[view, PROMPT:] = torch.from_numpy(table[hidden]) * plan.scored[view, PROMPT:]
    return values


# ---- identities


class Full:
    """Stands in for a generator: as many tokens as there are, in order."""

    def integers(self, low: int, high: int) -> int:
        return high - 1

    def permutation(self, size: int) -> np.ndarray:
        return np.arange(size)


def test_all_tokens_hidden_is_the_fully_masked_view_at_weight_one() -> None:
    """l = L under weight L / l; and the mean of mean-field's tokens is its length-normalised sequence."""
    batch, policy = ragged(), TabularPolicy(6, seed=3)
    full = masks.elbo(batch, ScriptedKey(lambda *_: Full()), Noise(draws=1))  # type: ignore[arg-type]
    whole = masks.mean_field(batch, KEY)
    for name in ("row", "masked", "scored", "weight"):
        assert torch.equal(getattr(full, name), getattr(whole, name))
    tokens, sequence = (
        score(policy, MeanField(prompt_mask_prob=0, unit=unit), batch)[2] for unit in ("token", "sequence")
    )  # type: ignore[arg-type]
    mean = tokens.value.sum(1) / batch.loss_mask.sum(1).clamp(min=1)
    torch.testing.assert_close(sequence.value[:, 0], mean, rtol=0, atol=1e-6)


# ---- merged steps


@pytest.mark.parametrize(("shrink", "starts"), [(1, [0, 1, 2, 3]), (2, [0, 0, 2, 2]), (3, [0, 0, 0, 3]), (9, [0] * 4)])
def test_shrink_scores_a_token_in_the_first_of_s_consecutive_states(shrink: int, starts: list[int]) -> None:
    batch = ragged()
    plan = masks.trajectory(batch, KEY, shrink=shrink)
    for view, (row, step) in enumerate(zip(plan.row.tolist(), plan.step.tolist(), strict=True)):
        shown = torch.where(plan.masked[view], batch.mask_id, batch.tokens[row])
        assert torch.equal(shown, batch.state(step)[row])
        for place in range(batch.length):
            drawn, at = bool(batch.drawn_mask[row, place]), int(batch.reveal_step[row, place])
            assert bool(plan.scored[view, place]) == (drawn and starts[at] == step)
    seen = torch.zeros_like(batch.drawn_mask, dtype=torch.int64).index_add_(0, plan.row, plan.scored.long())
    assert torch.equal(seen, batch.drawn_mask.long())
    assert Trajectory(shrink=shrink).views_per_rollout(batch.sampler_spec) == len(set(starts))


def test_shrink_by_a_divisor_is_that_many_segments() -> None:
    batch = ragged()
    for shrink, segments in ((1, 4), (2, 2), (4, 1)):
        one, other = masks.trajectory(batch, KEY, shrink=shrink), masks.trajectory(batch, KEY, segments=segments)
        assert torch.equal(one.masked, other.masked)
        assert torch.equal(one.scored, other.scored)


def test_rows_without_reveal_steps_are_refused() -> None:
    batch = ragged()
    stored = replace(batch, reveal_step=torch.full_like(batch.reveal_step, -1))
    with pytest.raises(ValueError, match="no reveal steps; use an estimator that needs none"):
        Trajectory().plan(stored, KEY)
    assert len(Elbo().plan(stored, KEY))


# ---- steps sampled by entropy


def by_hand(size: list[float], count: int) -> list[float]:
    """Inclusion probabilities by bisection for the c of min(1, c s)."""
    total, n = sum(size), len(size)
    share = [0.9 * s / total + 0.1 / n for s in size]
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(min(1.0, middle * s) for s in share) < min(count, n) else (low, middle)
    return [min(1.0, high * s) for s in share]


@pytest.mark.parametrize(
    "size", [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 5.0, 0.1], [2.0], [0.5] * 6, [9.0, 0.2, 8.0, 0.1, 0.0]]
)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_inclusion_is_proportional_and_adds_up(size: list[float], count: int) -> None:
    found = masks.inclusion(np.array(size), count)
    assert found.sum() == pytest.approx(min(count, len(size)))
    assert found.tolist() == pytest.approx(by_hand(size, count), abs=1e-6)
    assert (found > 0).all()


def test_without_any_entropy_all_steps_are_alike() -> None:
    assert masks.inclusion(np.zeros(4), 2).tolist() == pytest.approx([0.5] * 4)
    assert masks.inclusion(np.zeros(0), 2).tolist() == []


class Fixed:
    """Stands in for a generator with one uniform number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize("count", [1, 2, 4])
def test_weighted_sums_over_steps_sampled_by_entropy_are_unbiased(count: int) -> None:
    """Exactly, over every outcome of the one uniform number: the estimate is constant between the edges of the chances."""
    policy, batch = TabularPolicy(4, seed=1), batch_of(5, 5)
    estimator = Trajectory(sample_steps=count, sample_by="entropy", unit="sequence", length_normalized=False, law="raw")
    entropy = [float(batch.entropy[0][batch.reveal_step[0] == step].sum()) for step in range(5)]
    chance = by_hand(entropy, count)
    assert max(chance) > 1.2 * min(chance)
    edges = sorted({0.0, 1.0, *(round(edge % 1.0, 12) for edge in itertools.accumulate(chance))})
    mean, seen = 0.0, np.zeros(5)
    for low, high in itertools.pairwise(edges):
        if high - low < 1e-9:
            continue
        key = ScriptedKey(lambda *_, u=(low + high) / 2: Fixed(u))
        plan, _, estimate = score(policy, estimator, batch, key)  # type: ignore[arg-type]
        assert len(plan) == count
        mean += (high - low) * estimate.value.item()
        seen[plan.step.numpy()] += high - low
    exact = float(batch.raw_logprob.sum())
    assert mean == pytest.approx(exact, abs=1e-5)
    assert seen.tolist() == pytest.approx(chance, abs=1e-6)


def test_steps_with_more_entropy_are_sampled_more_often_by_real_streams() -> None:
    batch = batch_of(5, 5)
    rows = batch.rows([0] * 2000)
    rows = replace(rows, rollout_id=torch.arange(2000))
    entropy = [float(batch.entropy[0][batch.reveal_step[0] == step].sum()) for step in range(5)]
    plan = masks.trajectory(rows, KEY, sample_steps=2, by_entropy=True)
    for step, chance in enumerate(by_hand(entropy, 2)):
        count = int((plan.step == step).sum())
        assert abs(count - 2000 * chance) <= 5 * math.sqrt(2000 * chance * (1 - chance)) + 1e-9


# ---- left to right


def test_left_to_right_is_the_log_likelihood_of_decoding_one_token_after_the_other() -> None:
    """Over every outcome of a sampler with blocks of one token, by enumeration of its law; and the states are the sampler's own."""
    policy = TabularPolicy(4, seed=2)
    spec = SamplerSpec(canvas=3, block=1, steps=3, eos="all", early_stop=False)
    law: dict[tuple, float] = {}
    for (tokens, _), outcome in enumerate_law(policy, (0, 1), spec).items():
        law[tokens] = law.get(tokens, 0.0) + outcome.probability
    batch = sample(policy, [(0, 1)] * 8, spec)
    estimator = ArOrder(unit="sequence", length_normalized=False, law="sampler")
    _, _, estimate = score(policy, estimator, batch)
    for row in range(8):
        chance = law[tuple(batch.tokens[row, PROMPT:].tolist())]
        assert estimate.value[row].item() == pytest.approx(math.log(chance), abs=1e-5)
    path, order = masks.trajectory(batch, KEY), masks.ar_order(batch)
    assert torch.equal(path.masked, order.masked)
    assert torch.equal(path.scored, order.scored)


def test_left_to_right_hides_each_token_and_what_follows() -> None:
    batch = ragged()
    plan = masks.ar_order(batch)
    assert len(plan) == int(batch.loss_mask.sum())
    for view, row in enumerate(plan.row.tolist()):
        (place,) = plan.scored[view].nonzero().flatten().tolist()
        assert batch.loss_mask[row, place]
        free = batch.canvas_mask[row] & ~batch.hint_mask[row]
        assert plan.masked[view].tolist() == [bool(f) and i >= place for i, f in enumerate(free.tolist())]
    assert ArOrder().views_per_rollout(batch.sampler_spec) == 6


# ---- block-wise


def block_bound(table: Table, block: int) -> float:
    """sum over blocks of the mean over orders within it, earlier blocks shown and later ones hidden: by orders."""
    length, total = len(next(iter(table))), 0.0
    for first in range(0, length, block):
        inside, later = range(first, first + block), set(range(first + block, length))
        sums = []
        for order in itertools.permutations(inside):
            hidden, one = set(inside) | later, 0.0
            for place in order:
                one += table[tuple(i in hidden for i in range(length))][place]
                hidden.remove(place)
            sums.append(one)
        total += float(np.mean(sums))
    return total


BLOCK_NOISE = [
    Noise(draws=1),
    Noise(draws=1, pair="complement"),
    Noise(draws=1, pair="mirror"),
    Noise(draws=2, levels="stratified"),
    Noise(draws=1, noise="quadrature"),
]


# One node of the quadrature is exact up to two tokens; two draws have too many plans to list them for every block.
BLOCK_CASES = [
    (block, noise, sampled)
    for block, noise, sampled in itertools.product((1, 2, 4), BLOCK_NOISE, (None, 1))
    if not (block == 4 and noise.noise == "quadrature") and not (noise.draws == 2 and (block, sampled) != (2, 1))
]


@pytest.mark.parametrize(("block", "noise", "sampled"), BLOCK_CASES, ids=str)
def test_block_wise_sums_over_every_plan(block: int, noise: Noise, sampled: int | None) -> None:
    """The mean over all plans is the bound by orders within each block, whichever blocks are sampled."""
    batch = batch_of(4, block)
    table = table_of(TabularPolicy(4, seed=3, scale=2.0), (0, 1), batch.tokens[0, PROMPT:].tolist())
    estimator = Blockwise(**noise.model_dump(), sample_blocks=sampled, length_normalized=False)

    def run(every) -> float:
        plan = estimator.plan(batch, ScriptedKey(lambda *_: every))  # type: ignore[arg-type]
        assert len(plan) <= estimator.views_per_rollout(batch.sampler_spec)
        return float(estimator.reduce(values_of(plan, table), plan, batch).value)

    cells = even(block + (noise.pair == "complement")) if noise.noise == "fixed_count" else ()
    mean = sum(p * v for p, v in outcomes(run, cells))
    assert mean == pytest.approx(block_bound(table, block), abs=1e-6)


def test_one_block_is_the_elbo_and_blocks_of_one_token_are_left_to_right() -> None:
    whole, single = batch_of(4, 4), batch_of(4, 1)
    table = table_of(TabularPolicy(4, seed=1), (0, 1), whole.tokens[0, PROMPT:].tolist())
    assert block_bound(table, 4) == pytest.approx(exact_bound(table))
    plan = masks.blockwise(whole, KEY, Noise(draws=3))
    assert torch.equal(plan.masked, plan.scored)
    order, blocks = masks.ar_order(single), masks.blockwise(single, KEY, Noise(draws=1))
    assert torch.equal(order.masked, blocks.masked)
    assert torch.equal(order.scored, blocks.scored)
    assert torch.equal(order.weight, blocks.weight)


def test_the_block_wise_bound_is_below_the_likelihood_of_its_decoder() -> None:
    """Block by block, one token a step in random order, summed over orders within the blocks."""
    policy = TabularPolicy(seed=4, mask_bias=-60.0, forbidden_ids=())
    spec = SamplerSpec(canvas=4, block=2, steps=4, selection="random", eos="all", early_stop=False)
    law: dict[tuple, float] = {}
    for (tokens, _), outcome in enumerate_law(policy, (0, 1), spec).items():
        law[tokens] = law.get(tokens, 0.0) + outcome.probability
    for tokens in [tokens for tokens in law if policy.mask_id not in tokens][::5]:
        table = table_of(policy, (0, 1), tokens)
        bound = block_bound(table, 2)
        assert bound < math.log(law[tokens])
        assert abs(bound - exact_bound(table)) > 1e-4  # another quantity than the bound over all orders


def test_block_wise_views_are_what_the_sampler_could_have_seen() -> None:
    batch = ragged()
    plan = masks.blockwise(batch, KEY, Noise(draws=2))
    start = batch.canvas_mask.int().argmax(1).tolist()
    seen = set()
    for view, row in enumerate(plan.row.tolist()):
        places = plan.scored[view].nonzero().flatten().tolist()
        (block,) = {(place - start[row]) // 3 for place in places}
        seen.add((row, block))
        for place in range(batch.length):
            free = bool(batch.canvas_mask[row, place] & ~batch.hint_mask[row, place])
            own = (place - start[row]) // 3
            tail = not batch.loss_mask[row, place]
            hidden = free and (own > block or tail or place in places)
            assert bool(plan.masked[view, place]) == hidden
    wanted = {(row, (place - start[row]) // 3) for row, place in batch.loss_mask.nonzero().tolist()}
    assert seen == wanted

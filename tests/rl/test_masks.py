"""Mask plans: what they mask, score and weigh, their law, and that they depend on nothing but their address."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest
import torch

from rl import masks
from rl.masks import MaskPlan, PlanKey
from rl.noise import Noise
from rollouts.spec import SamplerSpec
from rollouts.trajectory import RolloutBatch
from tests.oracles.batches import ScriptedKey, sample
from tests.oracles.tabular import TabularPolicy

EOS = 4
PROMPTS = [(0, 1), (2,), (3, 2, 1, 0), (1, 1, 1), (0,), (2, 2)]
HINTS = [{}, {1: 2}, {0: 1, 4: 3}, {2: EOS}, {5: 0}, {}]


def rollouts(**changes) -> RolloutBatch:
    spec = SamplerSpec(**{"canvas": 6, "block": 3, "steps": 4, "temperature": 1.5, **changes})
    return sample(TabularPolicy(6, seed=3), PROMPTS, spec, hints=HINTS)


Build = Callable[[RolloutBatch, PlanKey], MaskPlan]
PLANS: dict[str, Build] = {
    "mean_field": lambda b, k: masks.mean_field(b, k, 0.4),
    "trajectory": lambda b, k: masks.trajectory(b, k),
    "trajectory, order": lambda b, k: masks.trajectory(b, k, order=True),
    "trajectory, two segments": lambda b, k: masks.trajectory(b, k, segments=2),
    "trajectory, shrunk": lambda b, k: masks.trajectory(b, k, shrink=3),
    "left to right": lambda b, k: masks.ar_order(b),
    "trajectory, two sampled": lambda b, k: masks.trajectory(b, k, sample_steps=2),
    "trajectory, two by entropy": lambda b, k: masks.trajectory(b, k, sample_steps=2, by_entropy=True),
    "blocks": lambda b, k: masks.blockwise(b, k, Noise(draws=2)),
    "blocks, one sampled": lambda b, k: masks.blockwise(b, k, Noise(draws=1, pair="complement"), 1),
    "elbo": lambda b, k: masks.elbo(b, k, Noise(draws=3)),
    "elbo, stratified pairs": lambda b, k: masks.elbo(b, k, Noise(draws=2, levels="stratified", pair="complement")),
    "elbo, two masks a level": lambda b, k: masks.elbo(b, k, Noise(masks_per_level=2, noise="iid", pair="mirror")),
    "elbo, quadrature": lambda b, k: masks.elbo(b, k, Noise(noise="quadrature", draws=2)),
    "coupled": lambda b, k: masks.coupled(b, k, 0.2, 0.8),
    "random tokens": lambda b, k: masks.random_tokens(b, k, lambda _: 0.6),
    "random tokens, late": lambda b, k: masks.random_tokens(b, k, lambda _: 0.6, late=True),
}
RANDOM = {"mean_field", *list(PLANS)[6:]}
KEY = PlanKey(seed=1, step=5)


def content(plan: MaskPlan, batch: RolloutBatch) -> dict[tuple, list]:
    """What each view does, by (rollout id, step, draw): independent of row numbers and padding."""
    views = {}
    for n in range(len(plan)):
        row = int(plan.row[n])
        real = batch.attention_mask[row]
        parts = [plan.masked[n], plan.scored[n], plan.weight[n], *([plan.order[n]] if plan.order is not None else [])]
        for part in parts:
            assert not part[~real].any()  # nothing is ever asked of padding
        address = (int(batch.rollout_id[row]), int(plan.step[n]), int(plan.draw[n]))
        assert address not in views
        views[address] = [part[real].tolist() for part in parts]
    return views


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_depends_on_its_address_alone(name: str) -> None:
    batch, build = rollouts(), PLANS[name]
    base = content(build(batch, KEY), batch)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    for other in (batch.rows(order), batch.padded(17), batch.rows([3]), batch.rows([5, 1])):
        ids = set(other.rollout_id.tolist())
        assert content(build(other, KEY), other) == {a: v for a, v in base.items() if a[0] in ids}


@pytest.mark.parametrize("name", PLANS)
def test_randomness_is_addressed_by_seed_step_pass(name: str) -> None:
    batch, build = sample(TabularPolicy(6, seed=3), PROMPTS * 3, rollouts().sampler_spec), PLANS[name]
    base = content(build(batch, KEY), batch)
    assert content(build(batch, PlanKey(1, 5, 0)), batch) == base
    for other in (PlanKey(2, 5), PlanKey(1, 6), PlanKey(1, 5, inner_pass=1)):
        assert (content(build(batch, other), batch) != base) == (name in RANDOM)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("early_stop", [True, False])
def test_invariants(name: str, early_stop: bool) -> None:
    batch = rollouts(early_stop=early_stop)
    plan = PLANS[name](batch, KEY)
    canvas = batch.canvas_mask & ~batch.hint_mask
    assert plan.row.tolist() == sorted(plan.row.tolist())  # views of a row are adjacent, rows in batch order
    asked = plan.rows_scored
    assert not (plan.scored & ~plan.masked).any()
    assert not (asked & ~canvas[plan.row]).any()  # neither prompt nor hint nor padding
    assert not (plan.masked & batch.hint_mask[plan.row]).any()
    never = batch.canvas_mask & (batch.reveal_step == batch.steps)
    assert (plan.masked | ~never[plan.row]).all()  # a token that was never revealed is MASK in every view
    assert ((plan.weight > 0) == asked).all()
    if name != "mean_field":
        assert not (plan.masked & batch.prompt_mask[plan.row]).any()
    if plan.order is not None:
        assert not (plan.order & plan.scored).any()
        assert not (plan.order & ~plan.masked).any()


def test_views() -> None:
    batch = rollouts()
    plan = masks.trajectory(batch, KEY, order=True)
    some = plan.views(torch.tensor([3, 1]))
    assert len(some) == 2
    assert some.row.tolist() == plan.row[[3, 1]].tolist()
    assert some.order is not None
    assert plan.order is not None
    assert torch.equal(some.order, plan.order[[3, 1]])
    assert torch.equal(plan.views(slice(0, 2)).masked, plan.masked[:2])


# ---- mean-field


def test_mean_field_masks_the_whole_canvas_and_scores_the_text() -> None:
    batch = rollouts()
    plan = masks.mean_field(batch, KEY)
    assert plan.row.tolist() == [row for row in range(len(batch)) if batch.loss_mask[row].any()]
    assert torch.equal(plan.masked, (batch.canvas_mask & ~batch.hint_mask)[plan.row])
    assert torch.equal(plan.scored, batch.loss_mask[plan.row])
    assert torch.equal(plan.weight, batch.loss_mask[plan.row].float())


def test_mean_field_prompt_masks_are_independent_coins() -> None:
    prompt, rows, chance = (0, 1, 2), 6000, 0.15
    spec = SamplerSpec(canvas=2, block=2, steps=1, early_stop=False)
    batch = sample(TabularPolicy(6, seed=3), [prompt] * rows, spec, max_rows=rows)
    plan = masks.mean_field(batch, KEY, chance)
    seen = Counter(tuple(row) for row in plan.masked[:, :3].tolist())
    for pattern in itertools.product([False, True], repeat=3):
        p = math.prod(chance if hit else 1 - chance for hit in pattern)
        assert abs(seen[pattern] - rows * p) <= 5 * math.sqrt(rows * p * (1 - p))


def test_mean_field_skips_a_row_with_nothing_to_score() -> None:
    spec = SamplerSpec(canvas=2, block=2, steps=2)
    batch = sample(TabularPolicy(6, seed=3), [(0,), (1,)], spec, hints=[{0: 0, 1: 1}, {}])
    for build in PLANS.values():
        assert set(build(batch, KEY).row.tolist()) == {1}


# ---- trajectory


def test_trajectory_views_are_the_sampler_s_states() -> None:
    batch = rollouts()
    plan = masks.trajectory(batch, KEY)
    assert sorted(zip(plan.row.tolist(), plan.step.tolist(), strict=True)) == sorted(
        (row, step) for row in range(len(batch)) for step in set(batch.reveal_step[row][batch.drawn_mask[row]].tolist())
    )
    for n in range(len(plan)):
        row, step = int(plan.row[n]), int(plan.step[n])
        state = batch.state(step)[row]
        assert torch.equal(torch.where(plan.masked[n], batch.mask_id, batch.tokens[row]), state)
        assert plan.scored[n].tolist() == [int(s) == step for s in batch.reveal_step[row]]
    scored = torch.zeros_like(batch.drawn_mask, dtype=torch.int64).index_add_(0, plan.row, plan.scored.long())
    assert torch.equal(scored, batch.drawn_mask.long())  # each drawn token once, those after EOS included
    assert (batch.drawn_mask & ~batch.loss_mask).any()


def test_order_scores_what_the_step_left_masked_in_its_block() -> None:
    batch = rollouts(early_stop=False)
    plan = masks.trajectory(batch, KEY, order=True)
    assert plan.order is not None
    for n in range(len(plan)):
        row, step = int(plan.row[n]), int(plan.step[n])
        first = len(PROMPTS[row]) + (step // 2) * 3
        expected = [
            first <= place < first + 3 and int(batch.reveal_step[row, place]) > step for place in range(batch.length)
        ]
        assert plan.order[n].tolist() == expected
    assert plan.order.any()


SEGMENTS_OF_FOUR = {1: [0, 0, 0, 0], 2: [0, 0, 2, 2], 3: [0, 0, 2, 3], 4: [0, 1, 2, 3]}


@pytest.mark.parametrize("segments", SEGMENTS_OF_FOUR)
def test_segments_score_a_token_at_the_start_of_its_segment(segments: int) -> None:
    batch = rollouts()
    start = SEGMENTS_OF_FOUR[segments]
    plan = masks.trajectory(batch, KEY, segments=segments)
    for n in range(len(plan)):
        row, step = int(plan.row[n]), int(plan.step[n])
        assert torch.equal(torch.where(plan.masked[n], batch.mask_id, batch.tokens[row]), batch.state(step)[row])
        expected = [
            bool(d) and start[int(s)] == step
            for d, s in zip(batch.drawn_mask[row], batch.reveal_step[row], strict=True)
        ]
        assert plan.scored[n].tolist() == expected
    total = torch.zeros_like(batch.drawn_mask, dtype=torch.int64).index_add_(0, plan.row, plan.scored.long())
    assert torch.equal(total, batch.drawn_mask.long())
    assert len(plan) <= segments * len(batch)


def test_every_step_is_as_many_segments_as_steps() -> None:
    batch = rollouts()
    assert content(masks.trajectory(batch, KEY), batch) == content(masks.trajectory(batch, KEY, segments=4), batch)


def test_one_segment_is_mean_field_over_everything_drawn() -> None:
    batch = rollouts(eos="all", early_stop=False)
    one, whole = masks.trajectory(batch, KEY, segments=1), masks.mean_field(batch, KEY)
    assert torch.equal(one.masked, whole.masked)
    assert torch.equal(one.scored, whole.scored)
    assert torch.equal(one.weight, whole.weight)


class Picks:
    """Stands in for a generator: answers ``integers(n)`` from a list and notes what it was asked."""

    def __init__(self, picks: tuple[int, ...] = ()) -> None:
        self.picks, self.asked = list(picks), []

    def integers(self, low: int, high: int | None = None) -> int:
        self.asked.append((low, high))
        return self.picks.pop(0) if self.picks else 0


@pytest.mark.parametrize(
    ("steps", "count", "sizes"), [(6, 2, [3, 3]), (6, 4, [2, 2, 1, 1]), (3, 2, [2, 1]), (6, 6, [1] * 6)]
)
def test_sampled_steps_are_one_of_each_stratum_with_inverse_inclusion(steps: int, count: int, sizes: list[int]) -> None:
    spec = SamplerSpec(canvas=6, block=6, steps=steps, early_stop=False)
    batch = sample(TabularPolicy(6, seed=3), [(0, 1)], spec)
    included: dict[int, float] = defaultdict(float)
    chance = 1 / math.prod(sizes)
    for picks in itertools.product(*(range(size) for size in sizes)):
        generator = Picks(picks)
        plan = masks.trajectory(batch, ScriptedKey(lambda *_, g=generator: g), sample_steps=count)  # type: ignore[arg-type]
        assert generator.asked == [(size, None) for size in sizes]
        edges = list(itertools.accumulate([0, *sizes]))
        assert plan.step.tolist() == [low + pick for low, pick in zip(edges, picks, strict=False)]
        for n, size in enumerate(sizes):
            assert set(plan.weight[n][plan.scored[n]].tolist()) == {float(size)}
            included[int(plan.step[n])] += chance
    for step in range(steps):
        size = sizes[next(i for i, high in enumerate(itertools.accumulate(sizes)) if step < high)]
        assert included[step] == pytest.approx(1 / size)


def test_more_samples_than_steps_scores_every_step() -> None:
    batch = rollouts()  # stopped rows and rows with hints have fewer steps than four
    full, sampled = masks.trajectory(batch, KEY), masks.trajectory(batch, KEY, sample_steps=4)
    assert content(full, batch) == content(sampled, batch)


def test_sampled_steps_frequencies() -> None:
    rows = 3000
    spec = SamplerSpec(canvas=5, block=5, steps=5, early_stop=False)
    batch = sample(TabularPolicy(6, seed=3), [(0,)] * rows, spec, max_rows=rows)
    plan = masks.trajectory(batch, KEY, sample_steps=2)
    counts = Counter(plan.step.tolist())
    for step, p in {0: 1 / 3, 1: 1 / 3, 2: 1 / 3, 3: 1 / 2, 4: 1 / 2}.items():
        assert abs(counts[step] - rows * p) <= 5 * math.sqrt(rows * p * (1 - p))


# ---- ELBO


class FixedMask:
    """Stands in for a generator: the count and the order of masking are prescribed."""

    def __init__(self, count: int, order: tuple[int, ...]) -> None:
        self.count, self.order = count, order

    def integers(self, low: int, high: int) -> int:
        assert (low, high) == (1, len(self.order) + 1)
        return self.count

    def permutation(self, size: int):
        assert size == len(self.order)
        return torch.tensor(self.order).numpy()


def test_elbo_masks_a_fixed_count_with_weight_length_over_count() -> None:
    batch = rollouts(early_stop=False)
    tail = batch.canvas_mask & ~batch.hint_mask & ~batch.loss_mask
    assert tail.any()
    for row in range(len(batch)):
        one = batch.rows([row])
        places = one.loss_mask[0].nonzero().squeeze(1).tolist()
        length = len(places)
        for count in range(1, length + 1):
            order = tuple(reversed(range(length)))
            key = ScriptedKey(lambda *_, c=count, o=order: FixedMask(c, o))
            plan = masks.elbo(one, key, Noise(draws=2))  # type: ignore[arg-type]
            assert plan.draw.tolist() == [0, 1]
            chosen = [i in places[length - count :] for i in range(one.length)]
            assert plan.scored[0].tolist() == chosen
            assert plan.masked[0].tolist() == [c or bool(t) for c, t in zip(chosen, tail[row], strict=True)]
            assert plan.weight[0].tolist() == pytest.approx([length / count / 2 if c else 0.0 for c in chosen])


def test_elbo_mask_law() -> None:
    """Count uniform on 1..L, then every subset of that size alike; draws are independent."""
    rows, length = 3000, 3
    spec = SamplerSpec(canvas=3, block=3, steps=1, eos="all", early_stop=False)
    batch = sample(TabularPolicy(6, seed=3), [(0,)] * rows, spec, max_rows=rows)
    plan = masks.elbo(batch, KEY, Noise(draws=2))
    subsets = [tuple(row) for row in plan.scored[:, 1:4].tolist()]
    pairs = Counter(zip(subsets[::2], subsets[1::2], strict=True))
    law = {
        pattern: 1 / length / math.comb(length, sum(pattern))
        for pattern in itertools.product([False, True], repeat=length)
        if any(pattern)
    }
    for first, second in itertools.product(law, law):
        p = law[first] * law[second]
        assert abs(pairs[first, second] - rows * p) <= 5 * math.sqrt(rows * p * (1 - p))


def test_plans_of_no_rows() -> None:
    spec = SamplerSpec(canvas=2, block=2, steps=2)
    batch = sample(TabularPolicy(6, seed=3), [(0,)], spec, hints=[{0: 0, 1: 1}])
    for build in PLANS.values():
        plan = build(batch, KEY)
        assert len(plan) == 0
        assert plan.scored.shape == (0, batch.length)
        assert plan.weight.dtype == torch.float32

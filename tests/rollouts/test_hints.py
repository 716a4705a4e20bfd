"""Hints of a reference trace (IGPO): which tokens are given, when, and whose places the mended rollouts take."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from rollouts.hints import chosen, chunks, failed_groups, group_hints, mended, with_hint_entropy
from rollouts.spec import SamplerSpec
from rollouts.strategies import Groups, Inpaint, Recorded
from rollouts.strategy import Request
from rollouts.trajectory import RolloutBatch
from tests.oracles.batches import same_batch, sample
from tests.oracles.tabular import TabularPolicy

EOS, MASK = 4, 5
PROMPTS = [(0, 1), (2,), (3, 2, 1, 0)]
TRACES = [[1, 2, 3, 1], [0, 0], [3, EOS, 2, 1, 0]]
SPEC = SamplerSpec(canvas=6, block=3, steps=4)
NAN = float("nan")


def policy_of() -> TabularPolicy:
    return TabularPolicy(6, seed=0)


def request(**changes) -> Request:
    count = len(PROMPTS)
    parts = {"policy": policy_of(), "spec": SPEC, "prompts": PROMPTS, "prompt_ids": [70, 71, 72], "group_size": 4}
    parts |= {"group_ids": range(10, 10 + count), "seed": 3, "step": 2, "first_rollout": 50, "traces": TRACES}
    return Request(**{**parts, **changes})


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- what is given


@pytest.mark.parametrize(("length", "low", "high"), [(23, 5, 10), (4, 5, 10), (5, 5, 5), (12, 1, 1), (7, 2, 3)])
def test_chunks_follow_one_another_and_keep_their_sizes(length: int, low: int, high: int) -> None:
    seen = set()
    for seed in range(200):
        parts = chunks(length, low, high, generator(seed))
        assert [place for part in parts for place in part] == list(range(parts[-1].stop if parts else 0))
        assert all(low <= len(part) <= high for part in parts)
        assert length - (parts[-1].stop if parts else 0) < low  # only a rest too short for a chunk is left out
        seen |= {len(part) for part in parts}
    assert (seen == set()) == (length < low)
    if length >= 2 * high:
        assert seen >= set(range(low, high + 1))


def test_a_share_of_the_chunks_is_chosen_one_at_least() -> None:
    parts = [range(3 * i, 3 * i + 3) for i in range(10)]
    counts = [len(chosen(parts, 0.2, 0.6, generator(seed))) // 3 for seed in range(400)]
    assert set(counts) == {2, 3, 4, 5}  # floor(10 eta), eta ~ U(0.2, 0.6)
    assert np.bincount(counts)[2:] / 400 == pytest.approx([0.25] * 4, abs=0.07)
    assert len(chosen(parts, 0.01, 0.02, generator())) == 3
    assert chosen(parts, 1.0, 1.0, generator()) == list(range(30))
    assert chosen([], 0.2, 0.6, generator()) == []


def test_hints_stand_where_the_trace_has_them_and_never_end_a_text() -> None:
    options: dict[str, Any] = {
        "room": 5,
        "sizes": (1, 2),
        "share": (1.0, 1.0),
        "special": {EOS, MASK},
        "address": (0, 0, 0),
    }
    assert group_hints([3, EOS, 2, 1, 0, 3, 3], 2, **options) == [{0: 3, 2: 2, 3: 1, 4: 0}] * 2
    assert group_hints([3], 1, **{**options, "sizes": (2, 2)}) == [{}]


def test_hints_are_addressed_by_seed_step_group_and_place() -> None:
    options = {"room": 40, "sizes": (1, 3), "share": (0.2, 0.6), "special": set()}
    trace = list(range(40))
    base = group_hints(trace, 4, **options, address=(1, 2, 3))
    assert base == group_hints(trace, 6, **options, address=(1, 2, 3))[:4]
    assert len({tuple(row) for row in base}) == 4
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert base != group_hints(trace, 4, **options, address=other)


def test_the_answer_is_cut_off_at_the_last_mark() -> None:
    cut = Inpaint(answer_after="####", before="<r>")
    assert cut.given("1 #### 2 = 3\n#### 3") == "<r>1 #### 2 = 3\n"
    assert cut.given("no mark") is None
    assert Inpaint(reveal_answer=True).given("all of it") == "all of it"
    with pytest.raises(ValueError, match="swap them"):
        Inpaint(chunk=(5, 2))


# ---- when, and for whom


def test_a_group_has_failed_if_all_that_was_graded_is_wrong() -> None:
    group = torch.tensor([4, 4, 7, 7, 8, 8, 9, 9, 5])
    outcome = torch.tensor([0.0, 0.9, 0.0, 1.0, NAN, NAN, NAN, 0.0, 1.0])
    assert failed_groups(group, outcome) == [4, 9]


def test_mended_groups_against_a_slow_count() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        size, most = int(random.integers(1, 6)), int(random.integers(0, 4))
        group = torch.tensor([g for g in (3, 5) for _ in range(size)])
        outcome = torch.tensor(random.choice([0.0, 0.5, NAN], 2 * size), dtype=torch.float32)
        hinted = torch.tensor([5] * size)
        result = torch.tensor(random.choice([0.0, 1.0, NAN], size), dtype=torch.float32)
        rows = mended(group, outcome, hinted, result, most)
        right, free = [i for i in range(size) if result[i] == 1.0], [i for i in range(size, 2 * size) if outcome[i] < 1]
        count = min(len(right), most, len(free))
        wanted = list(range(2 * size))
        for place, row in zip(free[:count], right[:count], strict=True):
            wanted[place] = 2 * size + row
        assert rows == wanted


def test_entropy_of_hints_is_that_of_the_masked_canvas() -> None:
    policy = policy_of()
    hints = [{0: 1, 4: 2}, {}, {2: 3}]
    plain = sample(policy, PROMPTS, SPEC, hints=hints)
    filled = with_hint_entropy(policy, plain, rows=2)
    assert torch.equal(filled.entropy[~plain.hint_mask], plain.entropy[~plain.hint_mask])
    assert filled.forwards.tolist() == [n + bool(h) for n, h in zip(plain.forwards.tolist(), hints, strict=True)]
    for row, place in plain.hint_mask.nonzero().tolist():
        masked = torch.where(plain.canvas_mask, MASK, plain.tokens)[row : row + 1]
        select = torch.zeros_like(masked, dtype=torch.bool)
        select[0, place] = True
        logits = policy.logits(policy(masked, plain.attention_mask[row : row + 1], select))
        p = logits.double().softmax(-1)[0].tolist()
        wanted = -sum(q * math.log(q) for q in p if q > 0)
        assert float(filled.entropy[row, place]) == pytest.approx(wanted, abs=1e-5)


# ---- the strategies


def first_is(token: int):
    """A verifier: the first canvas token."""

    def score(batch: RolloutBatch) -> torch.Tensor:
        start = batch.canvas_mask.int().argmax(1)
        return (batch.tokens[torch.arange(len(batch)), start] == token).float()

    return score


def never(batch: RolloutBatch) -> torch.Tensor:
    return torch.zeros(len(batch))


def test_without_failure_inpainting_is_group_sampling() -> None:
    own = Groups().draw(request(), never)
    asked = []

    def right(batch: RolloutBatch) -> torch.Tensor:
        asked.append(len(batch))
        return torch.ones(len(batch))

    same_batch(own, Inpaint(reveal_answer=True).draw(request(), right))
    assert asked == [12]


def test_failed_groups_are_drawn_again_with_hints_and_mended() -> None:
    """Only what begins with a hinted 3 is right: the third prompt's trace does."""
    strategy = Inpaint(reveal_answer=True, chunk=(1, 1), ratio=(0.2, 0.9), replace=0.5)
    own, calls = Groups().draw(request(), never), []

    def score(batch: RolloutBatch) -> torch.Tensor:
        calls.append(batch)
        given = batch.hint_mask[torch.arange(len(batch)), batch.canvas_mask.int().argmax(1)]
        return first_is(3)(batch) * given

    batch = strategy.draw(request(), score)
    batch.validate()
    hinted = calls[1]
    assert [len(one) for one in calls] == [12, 12]
    assert hinted.rollout_id.tolist() == list(range(62, 74))
    assert hinted.group_id.tolist() == own.group_id.tolist() == batch.group_id.tolist()
    assert hinted.prompt_id.tolist() == own.prompt_id.tolist()
    for row in range(12):  # what was given is the trace, at its own place, and stays
        places = hinted.hint_mask[row].nonzero().flatten() - int(hinted.canvas_mask[row].int().argmax())
        trace = TRACES[row // 4]
        assert len(places)
        assert all(trace[place] != EOS for place in places.tolist())
        assert hinted.tokens[row][hinted.hint_mask[row]].tolist() == [trace[place] for place in places.tolist()]
    replaced = (batch.rollout_id >= 62).tolist()
    right = int(score(hinted)[8:].sum())
    assert right >= 2
    assert replaced == [False] * 8 + [True, True, False, False]  # half a group at most
    assert batch.rollout_id.tolist()[:8] == own.rollout_id.tolist()[:8]
    assert (score(batch)[8:10] == 1).all()
    again = strategy.draw(request(), score)
    same_batch(batch, again)


def test_a_trace_too_short_for_a_chunk_leaves_its_group_alone() -> None:
    strategy = Inpaint(reveal_answer=True, chunk=(3, 3))
    calls = []

    def score(batch: RolloutBatch) -> torch.Tensor:
        calls.append(batch.group_id.unique().tolist())
        return torch.zeros(len(batch))

    strategy.draw(request(), score)
    assert calls == [[10, 11, 12], [10, 12]]
    assert not Inpaint(reveal_answer=True, chunk=(1, 1), tail=6).draw(request(), never).hint_mask.any()


def test_recorded_answers_change_nothing_and_hold_each_step() -> None:
    for spec in (SPEC, SPEC.model_copy(update={"block": 6, "early_stop": False})):
        own = Groups().draw(request(spec=spec), never)
        kept = Recorded().draw(request(spec=spec), never)
        same_batch(own, kept)
        assert kept.x0_pred is not None
        assert kept.confidence is not None
        kept.validate()
        on = kept.canvas_mask.unsqueeze(1) & kept.step_mask.unsqueeze(2)
        assert (kept.x0_pred[on] != MASK).all()
        policy = policy_of()
        for row in range(len(kept)):  # the confidence is the raw law's, at what the state shows as MASK
            for step in kept.step_mask[row].nonzero().flatten().tolist():
                state = kept.state(step)[row : row + 1]
                hidden = kept.canvas_mask[row : row + 1] & (state == MASK)
                p = policy.logits(policy(state, kept.attention_mask[row : row + 1], hidden)).softmax(-1)
                token = kept.x0_pred[row, step][hidden[0]].long()
                wanted = p.gather(1, token[:, None]).flatten()
                torch.testing.assert_close(kept.confidence[row, step][hidden[0]], wanted, atol=1e-5, rtol=1e-4)
                assert not kept.confidence[row, step][~hidden[0]].any()


def test_recorded_answers_do_not_depend_on_neighbours_or_padding() -> None:
    whole = Recorded().draw(request(), never)
    for options in ({"max_rows": 1}, {"pad_to": 9}, {"deterministic": True, "pad_to": 4}):
        other = Recorded().draw(request(options=options), never)
        length = max(whole.length, other.length)
        left, right = whole.padded(length), other.padded(length)
        on = left.canvas_mask.unsqueeze(1) & left.step_mask.unsqueeze(2)
        assert left.x0_pred is not None
        assert right.x0_pred is not None
        assert torch.equal(left.x0_pred[on], right.x0_pred[on])
        right.validate()


def test_recorded_batches_are_saved_padded_and_joined(tmp_path) -> None:
    batch = Recorded().draw(request(), never)
    batch.save(tmp_path)
    loaded = RolloutBatch.load(tmp_path)
    assert torch.equal(loaded.x0_pred, batch.x0_pred)  # type: ignore[arg-type]
    joined = RolloutBatch.concat([batch.rows([0]), batch.padded(batch.length + 2)])
    assert joined.x0_pred.shape == (len(batch) + 1, 4, batch.length + 2)  # type: ignore[union-attr]
    joined.validate()
    with pytest.raises(ValueError, match="with and without recorded"):
        RolloutBatch.concat([batch, Groups().draw(request(), never)])


def test_other_selections_draw_no_whole_answer() -> None:
    with pytest.raises(ValueError, match="use confidence"):
        Recorded().draw(request(spec=SPEC.model_copy(update={"selection": "margin"})), never)

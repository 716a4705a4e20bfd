"""``RolloutBatch``: states rebuilt from reveal steps, the EOS policy, independence of batching, housekeeping."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rollouts.canvas import make_canvas, text_mask
from rollouts.spec import SamplerSpec
from rollouts.strategy import sample_groups
from rollouts.streams import Purpose
from rollouts.trajectory import RolloutBatch
from tests.oracles.batches import same_batch, sample
from tests.oracles.tabular import TabularPolicy

EOS, MASK = 4, 5
PROMPTS = [(0, 1), (2,), (3, 2, 1, 0), (1, 1, 1), (0,)]
HINTS = [{}, {1: 2}, {0: 1, 4: 3}, {2: EOS}, {}]
RULES = ("confidence", "max_prob", "margin", "entropy", "random")


def spec_of(**changes) -> SamplerSpec:
    return SamplerSpec(**{"canvas": 6, "block": 3, "steps": 4, **changes})


def policy_of(seed: int = 0) -> TabularPolicy:
    return TabularPolicy(6, seed=seed)


@pytest.mark.parametrize("rule", RULES)
def test_states_rebuilt_are_the_states_the_policy_saw(rule: str) -> None:
    policy, spec = policy_of(), spec_of(selection=rule)
    for row, (prompt, hints) in enumerate(zip(PROMPTS, HINTS, strict=True)):
        policy.inputs.clear()
        batch = sample(policy, [prompt], spec, seed=row, hints=[hints])
        shown = [tuple(x[0].tolist()) for x in policy.inputs]
        steps = sorted(set(batch.reveal_step[batch.drawn_mask].tolist()))
        assert [tuple(batch.state(step)[0].tolist()) for step in steps] == shown
        assert batch.forwards.tolist() == [len(steps)]


def test_rollouts_run_in_eval_mode_without_autograd_and_restore_the_mode() -> None:
    policy = policy_of()
    policy.train()
    batch = sample(policy, PROMPTS, spec_of())
    assert policy.modes
    assert set(policy.modes) == {(False, False)}
    assert policy.training
    policy.eval()
    sample(policy, PROMPTS, spec_of())
    assert not policy.training
    assert not batch.sampler_logprob.requires_grad


def test_the_mode_is_restored_after_an_error() -> None:
    class Broken(TabularPolicy):
        def forward(self, *_):
            raise RuntimeError("out of memory")

    policy = Broken(6)
    with pytest.raises(RuntimeError, match="out of memory"):
        sample(policy, PROMPTS, spec_of())
    assert policy.training


@pytest.mark.parametrize("rule", RULES)
def test_a_rollout_does_not_depend_on_its_neighbours_or_on_padding(rule: str) -> None:
    spec = spec_of(selection=rule)
    whole = sample(policy_of(), PROMPTS, spec, hints=HINTS)
    for max_rows in (1, 2, 3):
        same_batch(whole, sample(policy_of(), PROMPTS, spec, hints=HINTS, max_rows=max_rows), exact=False)
    same_batch(whole, sample(policy_of(), PROMPTS, spec, hints=HINTS, pad_to=9), exact=False)


def test_addresses_of_the_random_streams() -> None:
    policy, spec = policy_of(), spec_of()
    base = sample(policy, PROMPTS * 4, spec, seed=1, step=2)
    same_batch(base, sample(policy, PROMPTS * 4, spec, seed=1, step=2))
    for other in ({"seed": 2, "step": 2}, {"seed": 1, "step": 3}, {"seed": 1, "step": 2, "purpose": Purpose.EVAL}):
        assert not torch.equal(base.tokens, sample(policy, PROMPTS * 4, spec, **other).tokens)


def test_groups() -> None:
    batch = sample_groups(policy_of(), PROMPTS[:2], spec_of(), group_size=3, prompt_ids=[70, 71], seed=0, step=0)
    assert batch.group_id.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.prompt_id.tolist() == [70, 70, 70, 71, 71, 71]
    assert batch.rollout_id.tolist() == list(range(6))
    assert len(set(batch.texts[:3])) > 1
    calls = []
    options = {"group_size": 3, "prompt_ids": [0, 1], "seed": 0, "step": 0, "pad_to": 4}
    apart = sample_groups(policy_of(), PROMPTS[:2], spec_of(), deterministic=True, on_rows=calls.append, **options)
    assert calls == [3, 3]
    same_batch(batch, apart, exact=False)


def test_canvas_layout() -> None:
    canvas = make_canvas([(7, 8), (9,)], 3, mask_id=MASK, pad_id=EOS, hints=[{}, {2: 1}])
    assert canvas.tokens.tolist() == [[7, 8, MASK, MASK, MASK], [9, MASK, MASK, 1, EOS]]
    assert canvas.prompt_mask.tolist() == [[True, True, False, False, False], [True, False, False, False, False]]
    assert canvas.canvas_mask.tolist() == [[False, False, True, True, True], [False, True, True, True, False]]
    assert canvas.hint_mask.nonzero().tolist() == [[1, 3]]
    assert canvas.start.tolist() == [2, 1]
    with pytest.raises(ValueError, match="pad_to 1"):
        make_canvas([(7, 8)], 3, mask_id=MASK, pad_id=EOS, pad_to=1)
    with pytest.raises(ValueError, match="offsets"):
        make_canvas([(7, 8)], 3, mask_id=MASK, pad_id=EOS, hints=[{3: 0}])


def by_hand(canvas_tokens: list[int], reveal: list[int], hints: tuple[int, ...], eos: str) -> list[bool]:
    """Where text counts: in order, revealed positions up to and including the first EOS."""
    keep, ended = [], False
    for token, step in zip(canvas_tokens, reveal, strict=True):
        keep.append(step < 4 and (eos == "all" or not ended))
        ended = ended or (token == EOS and step < 4)
    return [k and i not in hints for i, k in enumerate(keep)]


@pytest.mark.parametrize(("eos", "early_stop"), [("first", True), ("first", False), ("all", False)])
def test_loss_mask_text_and_finish_reason(eos: str, early_stop: bool) -> None:
    policy = policy_of(3)
    rows = PROMPTS * 6
    batch = sample(policy, rows, spec_of(eos=eos, early_stop=early_stop, temperature=1.5), hints=HINTS * 6)
    tails = 0
    for row in range(len(rows)):
        canvas = batch.canvas_mask[row]
        tokens, reveal = batch.tokens[row][canvas].tolist(), batch.reveal_step[row][canvas].tolist()
        hints = tuple(HINTS[row % 5])
        assert batch.loss_mask[row][canvas].tolist() == by_hand(tokens, reveal, hints, eos)
        assert not batch.loss_mask[row][~canvas].any()
        written = [t for t, step in zip(tokens, reveal, strict=True) if step < 4]
        end = written.index(EOS) if EOS in written else len(written)
        assert batch.texts[row] == policy.tokenizer.decode(written[:end])
        assert batch.completion_ids(policy.eos_ids)[row] == written[: end + 1]
        assert batch.finish_reason[row] == ("eos" if EOS in written else "length")
        assert batch.truncated[row].item() == (EOS not in written)
        tails += end + 1 < len(written)
        assert batch.drawn_mask[row].sum().item() == len(written) - len(hints) + sum(reveal[h] == 4 for h in hints)
    assert tails  # tokens after EOS were revealed: part of the trajectory, not of the text


def test_a_prompt_with_eos_ends_nothing() -> None:
    policy = policy_of(0)
    batch = sample(policy, [(EOS, 1), (EOS, EOS)], spec_of(temperature=0.0, forbid=(EOS,)))
    assert batch.finish_reason == ("length", "length")
    assert batch.loss_mask.sum().item() == 12


def test_text_mask_ignores_eos_that_was_never_revealed() -> None:
    tokens = torch.tensor([[0, EOS, 1, EOS, 2]])
    revealed = torch.tensor([[True, False, True, True, True]])
    assert text_mask(tokens, revealed, (EOS,), "first").tolist() == [[True, False, True, True, False]]
    assert text_mask(tokens, revealed, (EOS,), "all").tolist() == revealed.tolist()


def test_early_stop_leaves_later_blocks_masked() -> None:
    batch = sample(policy_of(3), PROMPTS * 4, spec_of(temperature=1.5))
    stopped = (batch.reveal_step == 4).any(1)
    assert stopped.any()
    assert not stopped.all()
    for row in stopped.nonzero().squeeze(1).tolist():
        canvas = batch.tokens[row][batch.canvas_mask[row]].tolist()
        assert EOS in canvas[:3]
        assert canvas[3:] == [MASK] * 3


def test_forbidden_ids_are_never_drawn() -> None:
    batch = sample(policy_of(2), PROMPTS * 10, spec_of(forbid=(0, 3), temperature=1.7))
    drawn = set(batch.tokens[batch.drawn_mask].tolist())
    assert drawn == {1, 2, EOS}


def some_batch() -> RolloutBatch:
    return sample(policy_of(3), PROMPTS, spec_of(), hints=HINTS)


def test_rows_padded_concat() -> None:
    batch = some_batch()
    back = RolloutBatch.concat([batch.rows([0, 1]).padded(20), batch.rows(torch.tensor([2, 3, 4]))])
    assert back.length == 20
    back.validate()
    same_batch(batch, back)
    assert batch.rows([3, 0]).texts == (batch.texts[3], batch.texts[0])
    assert batch.rows([3, 0]).prompt_id.tolist() == [3, 0]
    with pytest.raises(ValueError, match="cannot be padded"):
        batch.padded(3)
    with pytest.raises(ValueError, match="different samplers"):
        RolloutBatch.concat([batch, sample(policy_of(), PROMPTS, spec_of(steps=2))])


def test_save_and_load(tmp_path: Path) -> None:
    batch = some_batch()
    batch.save(tmp_path / "rollouts")
    again = RolloutBatch.load(tmp_path / "rollouts")
    again.validate()
    same_batch(batch, again)
    assert again.sampler_spec == batch.sampler_spec
    assert again.mask_id == MASK
    assert torch.equal(again.group_id, batch.group_id)


BREAKS = {
    "row tensors have one shape": lambda b: replace(b, entropy=b.entropy[:, 1:]),
    "prompt and canvas are disjoint": lambda b: replace(b, prompt_mask=b.prompt_mask | b.canvas_mask),
    "hints lie on the canvas": lambda b: replace(b, hint_mask=b.prompt_mask),
    "loss_mask lies on drawn positions": lambda b: replace(b, loss_mask=b.canvas_mask | b.prompt_mask),
    "given positions have reveal_step -1": lambda b: replace(b, reveal_step=b.reveal_step.clamp(min=0)),
    "canvas positions have reveal_step in 0..T": lambda b: replace(
        b, reveal_step=torch.where(b.drawn_mask, b.reveal_step - 3, b.reveal_step), loss_mask=b.loss_mask & False
    ),
    "no MASK was drawn": lambda b: replace(b, tokens=torch.where(b.drawn_mask, MASK, b.tokens)),
    "log-probabilities are finite": lambda b: replace(b, sampler_logprob=b.sampler_logprob / 0.0),
    "padding stands to the right": lambda b: replace(b, prompt_mask=b.prompt_mask.roll(1, dims=1) & ~b.canvas_mask),
}


@pytest.mark.parametrize("rule", BREAKS)
def test_validate_names_the_broken_rule(rule: str) -> None:
    with pytest.raises(ValueError) as error:
        BREAKS[rule](some_batch()).validate()
    assert rule in str(error.value)


def test_spec_problems() -> None:
    assert spec_of().problems() == []
    assert dict(SamplerSpec(canvas=10, block=4, steps=4).problems()).keys() == {"block"}
    assert "8 or 12" in SamplerSpec(canvas=10, block=4, steps=4).problems()[0][1]
    assert "canvas of 4" in SamplerSpec(canvas=2, block=4, steps=4).problems()[0][1]
    assert dict(SamplerSpec(canvas=8, block=4, steps=3).problems()).keys() == {"steps"}
    assert dict(SamplerSpec(canvas=8, block=4, steps=10).problems()).keys() == {"steps"}
    assert dict(SamplerSpec(canvas=8, block=4, steps=8, eos="all").problems()).keys() == {"eos"}
    assert SamplerSpec(canvas=8, block=4, steps=8, eos="all", early_stop=False).problems() == []


def test_digest_names_the_law() -> None:
    assert spec_of().digest() == spec_of().digest()
    assert spec_of().digest() != spec_of(temperature=0.9).digest()
    assert len(spec_of().digest()) == 12

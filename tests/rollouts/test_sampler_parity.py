"""At temperature 0 with the published rule the sampler is LLaDA's procedure, token for token."""

import pytest

from rollouts.spec import SamplerSpec, Selection
from tests.oracles.batches import sample
from tests.oracles.sampling import published_llada
from tests.oracles.tabular import TabularPolicy

PROMPTS = [(0, 1, 2), (3,), (4, 4, 5, 6, 0, 1), (2, 1), (8, 7, 6, 5)]
GRID = [
    (canvas, block, steps)
    for canvas, block in [(4, 4), (6, 2), (6, 3), (8, 1), (8, 4), (12, 4), (12, 6), (12, 12)]
    for steps in range(canvas // block, canvas + 1, canvas // block)
]


def parity_policy(seed: int) -> TabularPolicy:
    """Twelve ids; MASK is never the most probable, as in a trained model: the published procedure forbids no ids."""
    return TabularPolicy(12, seed=seed, scale=1.5, mask_bias=-60.0)


@pytest.mark.parametrize(("canvas", "block", "steps"), GRID)
def test_parity(canvas: int, block: int, steps: int) -> None:
    policy = parity_policy(seed=canvas * 100 + block * 10 + steps)
    spec = SamplerSpec(
        canvas=canvas, block=block, steps=steps, selection="confidence", temperature=0.0, early_stop=False
    )
    batch = sample(policy, PROMPTS, spec)
    for row, prompt in enumerate(PROMPTS):
        ours = batch.tokens[row][batch.canvas_mask[row]].tolist()
        assert ours == published_llada(policy, prompt, canvas, block, steps)
    assert (batch.sampler_logprob == 0).all()
    assert batch.select_logprob.abs().max().item() == 0
    assert batch.forwards.tolist() == [steps] * len(PROMPTS)


def test_the_grid_is_a_grid() -> None:
    assert len(GRID) == len(set(GRID)) >= 30
    assert {steps < canvas for canvas, _, steps in GRID} == {True, False}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("canvas", "block", "steps"), [(8, 2, 4), (12, 3, 12), (12, 4, 6)])
def test_early_stop_leaves_the_text_alone(canvas: int, block: int, steps: int, seed: int) -> None:
    policy = parity_policy(seed)
    spec = SamplerSpec(canvas=canvas, block=block, steps=steps, selection="confidence", temperature=0.0)
    stopped = sample(policy, PROMPTS, spec)
    full = sample(policy, PROMPTS, spec.model_copy(update={"early_stop": False}))
    assert stopped.texts == full.texts
    assert stopped.finish_reason == full.finish_reason
    for row, prompt in enumerate(PROMPTS):
        published = published_llada(policy, prompt, canvas, block, steps)
        end = published.index(policy.eos_ids[0]) if policy.eos_ids[0] in published else canvas
        assert stopped.texts[row] == policy.tokenizer.decode(published[:end])
        blocks_run = min(end // block + 1, canvas // block)
        assert stopped.forwards[row].item() == blocks_run * steps * block // canvas


def test_early_stop_happens_in_the_cases_above() -> None:
    spec = SamplerSpec(canvas=12, block=3, steps=12, selection="confidence", temperature=0.0)
    forwards = {n for seed in range(6) for n in sample(parity_policy(seed), PROMPTS, spec).forwards.tolist()}
    assert 12 in forwards
    assert len(forwards) >= 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("selection", ["confidence", "margin", "random"])
def test_early_stop_leaves_the_text_alone_at_any_temperature(selection: Selection, temperature: float) -> None:
    """Each row owns its stream, so what other rows do, or later blocks would, changes nothing."""
    policy = parity_policy(1)
    spec = SamplerSpec(canvas=12, block=4, steps=6, selection=selection, temperature=temperature)
    stopped = sample(policy, PROMPTS, spec)
    full = sample(policy, PROMPTS, spec.model_copy(update={"early_stop": False}))
    assert stopped.texts == full.texts

"""The sampler's law, proved by enumeration: the engine records the probability of what it did, for every rule."""

import math
from typing import NamedTuple

import pytest
import torch

from rollouts.spec import SamplerSpec, Selection
from tests.oracles.batches import canvas_part, force, sample
from tests.oracles.sampling import Outcome, enumerate_law
from tests.oracles.tabular import TabularPolicy

RULES = ("confidence", "max_prob", "margin", "entropy", "random")
TEMPERATURES = (0.0, 0.5, 1.0, 1.7)
EOS = 2


class Layout(NamedTuple):
    canvas: int
    block: int
    steps: int
    early_stop: bool = True
    hints: dict[int, int] = {}
    forbid: tuple[int, ...] = ()
    top_p: float = 1.0
    threshold: float | None = None

    def spec(self, rule: Selection, temperature: float) -> SamplerSpec:
        return SamplerSpec(
            canvas=self.canvas,
            block=self.block,
            steps=self.steps,
            selection=rule,
            temperature=temperature,
            top_p=self.top_p,
            threshold=self.threshold,
            forbid=self.forbid,
            early_stop=self.early_stop,
        )


LAYOUTS = {
    "one step": Layout(3, 3, 1),
    "two steps, remainder first": Layout(3, 3, 2),
    "a token a step": Layout(3, 3, 3),
    "blocks of one": Layout(3, 1, 3),
    "two blocks, one step each": Layout(4, 2, 2),
    "two blocks, two steps each": Layout(4, 2, 4, early_stop=False),
    "two blocks, early stop": Layout(4, 2, 4),
    "uneven steps": Layout(4, 4, 3),
    "a hint": Layout(4, 4, 2, hints={1: 0}),
    "hints fill a block": Layout(4, 2, 4, hints={0: 1, 1: 0, 3: 1}),
    "a hint that ends the row": Layout(4, 2, 2, hints={1: EOS}),
    "a forbidden word": Layout(3, 3, 2, forbid=(1,)),
    "top-p": Layout(3, 3, 2, top_p=0.7),
    "top-p, blocks, forbidden, hint": Layout(4, 2, 4, top_p=0.8, forbid=(0,), hints={2: 0}),
}

# Two prompts of different lengths, so that every forced batch is ragged.
PROMPTS = ((0, 1), (1, 0, 0, 1))


def check_law(policy: TabularPolicy, layout: Layout, rule: Selection, temperature: float) -> int:
    """Force every outcome of every prompt through one engine call and compare; returns the number of outcomes."""
    spec = layout.spec(rule, temperature)
    rows, prompts, scripts = [], [], []
    for prompt in PROMPTS:
        law = enumerate_law(policy, prompt, spec, layout.hints)
        assert math.isclose(sum(outcome.probability for outcome in law.values()), 1.0, abs_tol=1e-9)
        for key, outcome in law.items():
            for script in outcome.scripts:
                rows.append((prompt, key, outcome))
                prompts.append(prompt)
                scripts.append(script)
    batch = force(policy, prompts, spec, scripts, hints=[layout.hints] * len(prompts))
    recorded = batch.sampler_logprob.double().sum(1) + batch.select_logprob.double().sum(1)
    mass = dict.fromkeys(PROMPTS, 0.0)
    seen: dict[tuple, float] = {}
    for row, (prompt, key, outcome) in enumerate(rows):
        reached = (tuple(canvas_part(batch, row, batch.tokens)), tuple(canvas_part(batch, row, batch.reveal_step)))
        assert reached == key
        assert recorded[row].item() == pytest.approx(math.log(outcome.probability), abs=2e-5)
        if (prompt, key) not in seen:
            mass[prompt] += math.exp(recorded[row].item())
        seen[prompt, key] = recorded[row].item()
    for total in mass.values():
        assert total == pytest.approx(1.0, abs=2e-5)
    return len(seen)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_recorded_law_is_the_enumerated_law(layout: Layout, rule: Selection) -> None:
    policy = TabularPolicy(seed=1)
    counts = [check_law(policy, layout, rule, temperature) for temperature in TEMPERATURES]
    if rule != "random":
        assert counts[0] == len(PROMPTS)  # temperature 0 leaves one outcome
    assert counts[1] > len(PROMPTS)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.45, 0.6, 0.99])
@pytest.mark.parametrize("layout", ["a token a step", "two blocks, early stop", "uneven steps", "hints fill a block"])
def test_a_threshold_is_part_of_the_law(layout: str, threshold: float) -> None:
    """Above, every sure position at once; below, as many as without one."""
    policy = TabularPolicy(seed=1)
    with_threshold = LAYOUTS[layout]._replace(threshold=threshold)
    for temperature in TEMPERATURES:
        check_law(policy, with_threshold, "max_prob", temperature)


def test_a_threshold_saves_forwards_and_never_stalls() -> None:
    policy, layout = TabularPolicy(seed=1), LAYOUTS["a token a step"]
    plain, low, high = (
        sample(policy, list(PROMPTS) * 4, layout._replace(threshold=threshold).spec("max_prob", 0.0))
        for threshold in (None, 0.01, 0.999)
    )
    assert set(low.forwards.tolist()) == {1}  # all at once
    assert torch.equal(high.reveal_step, plain.reveal_step)  # nothing is so sure: a token a step
    assert set(high.forwards.tolist()) == {3}
    for rule in ("confidence", "margin", "entropy", "random"):
        problems = layout._replace(threshold=0.9).spec(rule, 1.0).problems()
        assert [key for key, _ in problems] == ["threshold"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", ["a token a step", "two steps, remainder first", "two blocks, early stop", "a hint"])
def test_ties_are_part_of_the_law(layout: str, rule: Selection) -> None:
    """Every position has the same distribution and words share probabilities: confidences tie all the time."""
    policy = TabularPolicy(seed=3, grid=1.0, position_blind=True)
    for temperature in TEMPERATURES:
        check_law(policy, LAYOUTS[layout], rule, temperature)


def test_the_tie_policy_does_tie() -> None:
    """The test above is empty unless two words share a probability and positions share a distribution."""
    policy = TabularPolicy(seed=3, grid=1.0, position_blind=True)
    ids = torch.tensor([[0, 1, 3, 3, 3]])
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    logits = policy.logits(policy(ids, everywhere, everywhere))
    assert torch.equal(logits[2], logits[3])
    assert len(set(logits[2, :3].tolist())) < 3


def test_a_product_of_token_probabilities_is_not_the_law_of_the_published_rule() -> None:
    """Why ``select_logprob`` exists: without it the numbers of the confidence rule do not even sum to one."""
    policy, spec = TabularPolicy(seed=1), LAYOUTS["a token a step"].spec("confidence", 1.0)
    law = enumerate_law(policy, PROMPTS[0], spec)
    batch = force(policy, [PROMPTS[0]] * len(law), spec, [outcome.scripts[0] for outcome in law.values()])
    assert batch.sampler_logprob.sum(1).exp().sum().item() > 1.5
    assert (batch.select_logprob.sum(1) < -0.01).any()


@pytest.mark.parametrize("seed", range(5))
def test_other_policies(seed: int) -> None:
    policy = TabularPolicy(seed=100 + seed, scale=0.2 + 0.2 * seed)
    check_law(policy, LAYOUTS["uneven steps"], "confidence", (0.5, 1.0, 1.7)[seed % 3])


def test_raw_logprob_is_the_softmax_at_temperature_one_of_the_state_that_revealed_the_token() -> None:
    policy, layout = TabularPolicy(seed=5), LAYOUTS["top-p, blocks, forbidden, hint"]
    spec = layout.spec("confidence", 0.5)
    batch = sample(policy, [(0, 1)] * 8, spec, hints=[layout.hints] * 8)
    for row in range(len(batch)):
        for place in batch.drawn_mask[row].nonzero().squeeze(1).tolist():
            step = int(batch.reveal_step[row, place])
            state = batch.state(step)[row : row + 1]
            everywhere = batch.attention_mask[row : row + 1]
            logits = policy.exact_logits(policy(state, everywhere, torch.ones_like(everywhere)))[place]
            law = torch.log_softmax(logits, -1)
            assert batch.raw_logprob[row, place].item() == pytest.approx(law[batch.tokens[row, place]].item(), abs=1e-5)
            assert batch.entropy[row, place].item() == pytest.approx(-(law.exp() * law).sum().item(), abs=1e-5)
    assert (batch.raw_logprob[~batch.drawn_mask] == 0).all()
    assert (batch.sampler_logprob[~batch.drawn_mask] == 0).all()


def observed(policy: TabularPolicy, layout: Layout, spec: SamplerSpec, count: int) -> dict:
    batch = sample(policy, [PROMPTS[1]] * count, spec, seed=7, hints=[layout.hints] * count, max_rows=4096)
    tally: dict = {}
    canvas = len(PROMPTS[1])
    both = torch.cat([batch.tokens[:, canvas:], batch.reveal_step[:, canvas:]], dim=1)
    values, counts = both.unique(dim=0, return_counts=True)
    for row, number in zip(values.tolist(), counts.tolist(), strict=True):
        tally[tuple(row[: spec.canvas]), tuple(row[spec.canvas :])] = number
    return tally


def check_frequencies(law: dict[tuple, Outcome], tally: dict, count: int) -> None:
    """No impossible outcome; every cell within 5 standard errors; Pearson's statistic within 5 of its mean."""
    assert set(tally) <= set(law)
    statistic = 0.0
    for key, outcome in law.items():
        expected = count * outcome.probability
        deviation = tally.get(key, 0) - expected
        if expected >= 5:
            assert abs(deviation) <= 5 * math.sqrt(expected * (1 - outcome.probability)) + 1, key
        statistic += deviation**2 / expected
    # Exact variance of Pearson's statistic under the multinomial: it exceeds 2 df where cells are small.
    cells = len(law)
    inverse = sum(1 / outcome.probability for outcome in law.values())
    variance = 2 * (cells - 1) + (inverse - cells**2 - 2 * cells + 2) / count
    assert abs(statistic - (cells - 1)) <= 5 * math.sqrt(variance)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("name", "temperature"), [("two steps, remainder first", 1.0), ("two blocks, early stop", 1.7), ("top-p", 0.5)]
)
def test_frequencies(name: str, temperature: float, rule: Selection) -> None:
    policy, layout = TabularPolicy(seed=1), LAYOUTS[name]
    spec = layout.spec(rule, temperature)
    count = 8000
    law = enumerate_law(policy, PROMPTS[1], spec, layout.hints)
    check_frequencies(law, observed(policy, layout, spec, count), count)


def test_frequencies_with_ties() -> None:
    policy, layout = TabularPolicy(seed=3, grid=1.0, position_blind=True), LAYOUTS["two steps, remainder first"]
    spec = layout.spec("confidence", 1.0)
    law = enumerate_law(policy, PROMPTS[1], spec)
    check_frequencies(law, observed(policy, layout, spec, 8000), 8000)


class RoundingPolicy(TabularPolicy):
    """A head whose rounding depends on how many rows it is given, as matrix kernels' does."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().logits(hidden) * (1.0 + 2e-7 * (len(hidden) % 5))


def test_the_recorded_law_does_not_hang_on_rounding() -> None:
    """With ties everywhere, a head run on other rows would put drawn tokens on the wrong side of the threshold."""
    policy = RoundingPolicy(seed=3, grid=1.0, position_blind=True)
    for temperature in TEMPERATURES:
        check_law(policy, LAYOUTS["a token a step"], "confidence", temperature)

"""Accuracy and its intervals: against formulas, by coverage, and with streams of their own."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from rewards.contract import InfrastructureError, Reward
from rl import evaluate
from rl.data import Prompt
from rl.evaluate import answer_prompts, evaluate_prompts, interval, paired_gain, pass_at_k
from rollouts.engine import generate
from rollouts.policy import Policy
from rollouts.spec import SamplerSpec
from rollouts.streams import Purpose
from tests.oracles.training import tiny_policy

SPEC = SamplerSpec(canvas=8, block=4, steps=4)
WORDS = ["12", "3", "4567", "891", "00", "5", "13", "2468"]
NAN = float("nan")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


def prompts(policy: Policy) -> list[Prompt]:
    """Numbered unlike their places, as after dropped rows."""
    return [Prompt(i * 3 + 5, w, w, tuple(policy.tokenizer(w).input_ids), {"word": w}) for i, w in enumerate(WORDS)]


def digest(completions: list[str], **_: Any) -> list[float]:
    """Tells completions apart."""
    return [sum((place + 1) * int(digit) for place, digit in enumerate(text)) + len(text) / 10 for text in completions]


def run(policy: Policy, rewards: list[Reward], outcome: str, spec: SamplerSpec = SPEC, **options: Any) -> np.ndarray:
    arguments: dict[str, Any] = {"seed": 0, "batch": 3} | options
    values, forwards = evaluate_prompts(policy, prompts(policy), rewards, outcome, spec, **arguments)
    assert 2 * len(WORDS) <= forwards <= 4 * len(WORDS)
    return values


# ---- outcomes


def test_one_outcome_per_prompt_in_order(policy: Policy) -> None:
    values = run(policy, [Reward("digest", digest)], "digest")
    rollouts = generate(
        policy,
        [p.token_ids for p in prompts(policy)],
        SPEC,
        seed=0,
        step=0,
        group_ids=range(8),
        prompt_ids=range(8),
        purpose=Purpose.EVAL,
    )
    assert values.tolist() == pytest.approx(digest(list(rollouts.texts)))
    assert len(set(values.tolist())) > 4


def test_batches_change_nothing_and_seeds_do(policy: Policy) -> None:
    reward = [Reward("digest", digest)]
    first = run(policy, reward, "digest")
    for batch in (1, 5, 100):
        assert run(policy, reward, "digest", batch=batch).tolist() == first.tolist()
    assert run(policy, reward, "digest", seed=1).tolist() != first.tolist()
    greedy = SPEC.model_copy(update={"temperature": 0.0})
    assert (
        run(policy, reward, "digest", greedy).tolist() == run(policy, reward, "digest", greedy, seed=1).tolist()
    )  # nothing random is left


def test_training_and_evaluation_share_no_stream(policy: Policy) -> None:
    ids = [p.token_ids for p in prompts(policy)]
    texts = [
        generate(policy, ids, SPEC, seed=0, step=0, group_ids=range(8), prompt_ids=range(8), purpose=purpose).texts
        for purpose in (Purpose.ROLLOUT, Purpose.EVAL)
    ]
    assert texts[0] != texts[1]


def test_the_outcome_is_measured_alone_whatever_its_weight(policy: Policy) -> None:
    """Weight 0 means log only: such a reward may still be the accuracy."""

    def explode(**_: Any) -> list[float]:
        raise AssertionError("shaped rewards have no say in accuracy")

    wanted = run(policy, [Reward("digest", digest)], "digest")
    for weight in (0.0, 0.1, -2.0):
        values = run(policy, [Reward("shaped", explode), Reward("digest", digest, weight)], "digest")
        assert values.tolist() == wanted.tolist()


def test_what_cannot_be_graded_is_nan_and_stays_in_its_place(policy: Policy) -> None:
    def patchy(completions: list[str], word: list[str], **_: Any) -> list[Any]:
        answers: dict[str, Any] = {"3": None, "00": InfrastructureError("down")}
        return [answers.get(w, float(len(w))) for w in word]

    values = run(policy, [Reward("patchy", patchy)], "patchy")
    np.testing.assert_array_equal(values, [2.0, NAN, 4.0, 3.0, NAN, 1.0, 2.0, 4.0])


def test_prefill_reaches_the_reward(policy: Policy) -> None:
    def starts(completions: list[str], **_: Any) -> list[float]:
        return [float(text.startswith("<r>")) for text in completions]

    assert run(policy, [Reward("starts", starts)], "starts", prefill="<r>").tolist() == [1.0] * 8


# ---- intervals


def test_the_interval_of_a_proportion_is_the_textbooks() -> None:
    values = np.repeat([0.0, 1.0], [700, 300])
    found = interval(values)
    assert found["value"] == pytest.approx(0.3)
    assert found["n"] == 1000
    half = 1.96 * (0.3 * 0.7 / 1000) ** 0.5
    assert found["low"] == pytest.approx(0.3 - half, abs=0.003)
    assert found["high"] == pytest.approx(0.3 + half, abs=0.003)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(60):
        found = interval(generator.normal(2.0, 1.0, size=60), seed=seed)
        hits += found["low"] <= 2.0 <= found["high"]
    assert 50 <= hits <= 60


def test_entries_of_a_cluster_move_together() -> None:
    """Ten copies of each value hold no more information than one."""
    values = np.random.default_rng(1).normal(size=40)
    copied = np.repeat(values, 10)
    labels = [f"grid {i:02}" for i in range(40) for _ in range(10)]
    single, clustered, naive = interval(values), interval(copied, labels), interval(copied)
    assert clustered["value"] == pytest.approx(single["value"])
    assert clustered["low"] == pytest.approx(single["low"], abs=1e-9)  # the very same resamples
    assert clustered["high"] == pytest.approx(single["high"], abs=1e-9)
    assert naive["high"] - naive["low"] < 0.5 * (single["high"] - single["low"])


def test_clusters_of_unequal_size_weigh_by_their_entries() -> None:
    found = interval(np.array([1.0, 1.0, 1.0, 0.0]), ["a", "a", "a", "b"])
    assert found["value"] == 0.75
    assert (found["low"], found["high"]) == (0.0, 1.0)


def test_entries_that_are_nan_are_left_out_with_their_labels() -> None:
    values = np.array([1.0, NAN, 0.0, 1.0, NAN])
    assert interval(values) == interval(np.array([1.0, 0.0, 1.0]))
    assert interval(values, list("abcab")) == interval(np.array([1.0, 0.0, 1.0]), list("aca"))


@pytest.mark.parametrize("values", [[], [NAN, NAN]])
def test_nothing_to_measure_gives_no_number(values: list[float]) -> None:
    found = interval(np.array(values))
    assert found["n"] == 0
    assert np.isnan([found["value"], found["low"], found["high"]]).all()


def test_a_paired_gain_is_narrower_than_two_intervals() -> None:
    generator = np.random.default_rng(2)
    before = generator.normal(size=200)
    after = before + 0.1 + 0.01 * generator.normal(size=200)
    gain = paired_gain(before, after)
    assert gain["value"] == pytest.approx(float((after - before).mean()))
    assert gain["low"] == pytest.approx(0.1, abs=0.01)
    assert gain["high"] - gain["low"] < 0.01
    assert interval(after)["low"] < interval(before)["high"]  # unpaired, nothing could be said
    assert paired_gain(np.array([NAN, 0.0]), np.array([1.0, 1.0]))["n"] == 1


def clopper_pearson(right: int, n: int) -> tuple[float, float]:
    """By its definition: the chances under which a tail at least as extreme has 2.5 %, by bisection."""

    def tail(p: float, counts: range) -> float:
        return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in counts)

    def solve(counts: range, rising: bool) -> float:
        low, high = 0.0, 1.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if (tail(middle, counts) < 0.025) == rising else (low, middle)
        return low

    return (
        solve(range(right, n + 1), True) if right else 0.0,
        solve(range(right + 1), False) if right < n else 1.0,
    )


@pytest.mark.parametrize("n", [1, 2, 7, 40, 500])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_none_or_all_right_is_not_certain(n: int, value: float) -> None:
    """Resampling equal entries gives an interval of no width."""
    found = interval(np.full(n, value))
    assert (found["low"], found["high"]) == pytest.approx(clopper_pearson(round(value * n), n), abs=1e-9)
    assert found["value"] == value


def test_none_right_in_few_clusters_is_as_few_trials() -> None:
    labels = [i // 10 for i in range(40)]
    assert interval(np.zeros(40), labels)["high"] == pytest.approx(clopper_pearson(0, 4)[1], abs=1e-9)
    assert interval(np.append(np.zeros(40), NAN), [*labels, 99])["high"] == interval(np.zeros(40), labels)["high"]


def test_a_gain_of_nothing_on_every_prompt_may_be_either_way() -> None:
    p = clopper_pearson(0, 30)[1]
    found = paired_gain(np.ones(30), np.ones(30))
    assert (found["value"], found["low"], found["high"]) == pytest.approx((0.0, -p, p), abs=1e-9)
    assert paired_gain(np.zeros(30), np.ones(30))["low"] == pytest.approx(1 - 2 * p)


def test_what_is_beyond_the_span_is_left_to_resampling() -> None:
    assert interval(np.full(5, 3.0)) == {"value": 3.0, "low": 3.0, "high": 3.0, "n": 5}


@pytest.mark.parametrize("clustered", [False, True])
def test_drawing_in_blocks_gives_the_same_numbers(clustered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).normal(size=33)
    labels = [i // 3 for i in range(33)] if clustered else None
    found = []
    for block in (evaluate.BLOCK, 3700, 1):
        monkeypatch.setattr(evaluate, "BLOCK", block)
        monkeypatch.setattr(evaluate, "RESAMPLES", 1000)
        found.append(interval(values, labels))
    assert found[0] == found[1] == found[2]


def test_intervals_repeat() -> None:
    values = np.random.default_rng(3).normal(size=30)
    assert interval(values, seed=4) == interval(values, seed=4)
    assert interval(values, seed=4) != interval(values, seed=5)


def test_labels_of_clusters_may_be_anything() -> None:
    values = np.array([0.0, 1.0, 1.0, 0.0])
    odd = interval(values, [None, "a", ["a"], None])
    assert odd == interval(values, [0, 1, 2, 0])


# ---- several samples


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one(n: int) -> None:
    """Against the definition: all subsets of k of the n samples."""
    rows = np.array(list(itertools.product([0.0, 1.0], repeat=n)))
    found = pass_at_k(rows)
    assert list(found) == [str(k) for k in sorted({1, 2, 4, n} & set(range(1, n + 1)))]
    for name, values in found.items():
        for row, value in zip(rows, values, strict=True):
            subsets = list(itertools.combinations(row, int(name)))
            assert value == pytest.approx(sum(max(subset) >= 1 for subset in subsets) / len(subsets))


def test_samples_that_could_not_be_graded_do_not_count() -> None:
    found = pass_at_k(np.array([[1.0, NAN, 0.0], [NAN, NAN, 1.0], [0.5, 0.0, 1.0]]))
    np.testing.assert_allclose(found["1"], [0.5, 1.0, 1 / 3])  # half right is not right
    np.testing.assert_allclose(found["2"], [1.0, NAN, 2 / 3])
    np.testing.assert_allclose(found["3"], [NAN, NAN, 1.0])


def test_samples_of_a_prompt_stand_in_its_row(policy: Policy) -> None:
    hot = SPEC.model_copy(update={"temperature": 1.0})
    answers = answer_prompts(
        policy, prompts(policy), [Reward("digest", digest)], "digest", hot, seed=0, batch=5, samples=3
    )
    assert answers.outcome.shape == (8, 3)
    assert answers.batch.rollouts.prompt_id.tolist() == [i for i in range(8) for _ in range(3)]
    np.testing.assert_allclose(answers.outcome.ravel(), answers.batch.outcome.numpy())
    assert len({tuple(row) for row in answers.outcome.tolist()}) > 4
    assert any(len(set(row)) > 1 for row in answers.outcome.tolist())

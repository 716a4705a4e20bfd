"""Rewards on length, passes and repetition: values by hand, against TRL's own where it has one, and their bounds."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import length, repetition, speed
from rewards.contract import load_rewards, missing_columns


def ids(*lengths):
    return [[7] * count for count in lengths]


def test_within_falls_from_the_margin_to_the_limit():
    scores = length.within([""] * 6, ids(0, 80, 85, 90, 100, 1000), limit=100, margin=20)
    assert scores == [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]


def test_within_is_trls_punishment_plus_one():
    rewards = pytest.importorskip("trl.rewards")
    theirs = rewards.get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    batch = ids(*range(0, 140, 7))
    ours = length.within([""] * len(batch), batch, limit=100, margin=20)
    assert ours == pytest.approx([1 + score for score in theirs(completion_ids=batch)])


def test_shorter():
    assert length.shorter([""] * 4, ids(0, 25, 100, 300), limit=100) == [1.0, 0.75, 0.0, 0.0]


def test_forwards():
    assert speed.forwards([""] * 5, forwards=[0, 16, 32, 64, None], limit=32) == [1.0, 0.5, 0.0, 0.0, None]


@pytest.mark.parametrize(
    ("text", "n", "score"),
    [
        ("", 4, 1.0),
        ("one two three", 4, 1.0),
        ("one two three four", 4, 1.0),
        ("a b a b a", 2, 0.5),  # ab ba ab ba
        ("A b a B", 2, pytest.approx(2 / 3)),
        ("so so so so so so", 1, pytest.approx(1 / 6)),
        ("so so so so so so<|eot_id|><pad>", 3, 0.25),
    ],
)
def test_repetition(text, n, score):
    assert repetition.ngrams([text], n=n) == [score]


def test_repetition_is_trls_penalty_plus_one():
    rewards = pytest.importorskip("trl.rewards")
    texts = ["the cat sat on the cat sat on the cat", "all words differ here", "no no no no no"]
    theirs = rewards.get_repetition_penalty_reward(ngram_size=3, max_penalty=-1.0)(
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completion_ids=[[hash(word) for word in text.split()] for text in texts],
    )
    assert repetition.ngrams(texts, n=3) == pytest.approx([1 + score for score in theirs])


@settings(max_examples=100)
@given(st.lists(st.sampled_from("ab"), max_size=30), st.integers(1, 5))
def test_repetition_counts_as_the_obvious_way_does(words, n):
    grams = [" ".join(words[i : i + n]) for i in range(len(words)) if len(words[i : i + n]) == n]
    assert repetition.ngrams([" ".join(words)], n=n) == [len(set(grams)) / len(grams) if grams else 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: length.within([""], ids(1), limit=10, margin=0), "margin must be within 1 and limit"),
        (lambda: length.within([""], ids(1), limit=10, margin=11), "margin must be within 1 and limit"),
        (lambda: length.shorter([""], ids(1), limit=0), "limit must be 1 or more"),
        (lambda: speed.forwards([""], [1], limit=0), "limit must be 1 or more"),
        (lambda: repetition.ngrams([""], n=0), "n must be 1 or more"),
    ],
)
def test_arguments_that_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_through_a_recipe():
    entries = [
        {"fn": "length.within", "kwargs": {"limit": 256, "margin": 64}},
        {"fn": "speed.forwards", "kwargs": {"limit": 64}},
        {"fn": "repetition.ngrams"},
    ]
    within, forwards, ngrams = load_rewards(entries, base=Path("."))
    assert missing_columns(within, []) == missing_columns(ngrams, []) == []
    assert missing_columns(forwards, ["forwards"]) == []

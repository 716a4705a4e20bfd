"""Layout rewards of `rewards/format.py`. The tables of tags, soft and strict are in test_gsm8k.py, under d1's names."""

import time

import pytest

from rewards import gsm8k
from rewards.format import REWARDS, answered, boxed, soft, strict, tags

WHOLE = "<reasoning>\nfirst\nsecond\n\nthird\n</reasoning>\n<answer>\na\nb\n</answer>"


def test_they_fire_on_many_lines() -> None:
    for reward in (tags, soft, strict, answered):
        assert reward([WHOLE]) == [1.0]
        assert reward([WHOLE + "\n<|eot_id|><|endoftext|>"]) == [1.0]
        assert reward([[{"role": "assistant", "content": WHOLE}]]) == [1.0]


def test_soft_is_softer_than_strict() -> None:
    one_line = "<reasoning>first</reasoning> <answer>a</answer> and more"
    assert soft([one_line]) == [1.0]
    assert strict([one_line]) == [0.0]


def test_the_names_of_the_d1_recipe_are_the_same_rewards() -> None:
    texts = [WHOLE, WHOLE[:40], WHOLE + " tail", WHOLE * 2, "", "<answer>\n1\n</answer>"]
    for prefill in ("", "<reasoning>\n"):
        assert gsm8k.format_tags(texts, prefill=prefill) == tags(texts, prefill=prefill)
        assert gsm8k.format_soft(texts, prefill=prefill) == soft(texts, prefill=prefill)
        assert gsm8k.format_strict(texts, prefill=prefill) == strict(texts, prefill=prefill)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<answer>5</answer>", 1.0),
        ("<answer>\n5\n</answer> and on", 1.0),
        ("<answer></answer> <answer>5</answer>", 1.0),
        ("<answer>5</answer> <answer></answer>", 0.0),
        ("<answer> \n </answer>", 0.0),
        ("<answer>\n...\n</answer>", 0.0),  # the layout, copied from the prompt
        ("<answer>5", 0.0),  # cut short
        ("5</answer>", 0.0),
        ("</answer><answer>", 0.0),
        ("", 0.0),
    ],
)
def test_answered(text: str, score: float) -> None:
    assert answered([text]) == [score]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (r"<answer>\boxed{5}</answer>", 1.0),
        (r"<answer>It is \(\boxed{\frac{1}{2}}\).</answer>", 1.0),
        (r"\boxed{5}", 1.0),
        (r"\boxed{5} <answer>5</answer>", 0.0),  # the tag is where it belongs
        (r"<answer>\boxed{}</answer>", 0.0),
        (r"<answer>\boxed{...}</answer>", 0.0),
        (r"<answer>\boxed{\infty}</answer>", 1.0),
        ("<answer>\boxed{5}</answer>", 0.0),  # backspace and "oxed", which the published check looks for
        ("", 0.0),
    ],
)
def test_boxed(text: str, score: float) -> None:
    assert boxed([text]) == [score]


@pytest.mark.parametrize("piece", ["<answer>", "</answer>", "<reasoning>\n", r"\boxed{", "{", "</reasoning><answer>"])
def test_linear(piece: str) -> None:
    text = (piece * 100_000)[:100_000]
    started = time.process_time()
    for reward in REWARDS:
        (score,) = reward([text])
        assert isinstance(score, float)
        assert 0.0 <= score <= 1.0
    assert time.process_time() - started < 2.0

"""GSM8K rewards: correctness, and the repaired format terms of the published recipe."""

from fractions import Fraction

import pytest

from rewards.gsm8k import correct, format_integer, format_soft, format_strict, format_tags, gold_number

GOLD = "Natalia sold 48/2 = <<48/2=24>>24 clips.\n48+24 = <<48+24=72>>72 clips altogether.\n#### 72"
IDEAL = "<reasoning>\nHalf of 48 is 24.\nTogether they make 72.\n</reasoning>\n<answer>\n72\n</answer>"


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (GOLD, 72),
        ("... #### 1,450", 1450),
        ("... #### -5", -5),
        ("72", 72),
        (72, 72),
        (72.0, 72),
        (1e16, 10**16),
        ("1,450", 1450),
        ("0.5", Fraction(1, 2)),
        ("The answer is 72.", 72),
        (None, None),
        ("None", None),
        ("", None),
        (float("nan"), None),
    ],
)
def test_gold_number(answer: object, number: object) -> None:
    assert gold_number(answer) == number


@pytest.mark.parametrize(
    "text",
    [
        IDEAL,
        "<answer>72</answer>",
        "<answer>$72</answer>",
        "<answer>72.0</answer>",
        "<answer>72.</answer>",
        "<answer>72 clips</answer>",
        r"<answer>\boxed{72}</answer>",
        "<answer>48 + 24 = 72</answer>",
        "<answer>72<|eot_id|><|endoftext|>",
        r"Together 72: \boxed{72} clips in 2 months",
        "48+24=72\n#### 72",
        "She sold 72.",
        "72</answer>",
    ],
)
def test_right_answers(text: str) -> None:
    assert correct([text], [GOLD]) == [1.0]
    assert correct([[{"role": "assistant", "content": text}]], ["72"]) == [1.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "72 or 73",
        "<answer>73</answer> 72",
        "-72",
        "<answer>-72</answer>",
        "7.2",
        "172",
        "72,000",
        "<answer>48+24</answer>",
    ],
)
def test_wrong_answers(text: str) -> None:
    assert correct([text], [GOLD]) == [0.0]


def test_values_are_compared_not_strings() -> None:
    assert correct(["<answer>1450</answer>", "$1,450.00", r"\$1{,}450"], ["#### 1,450"] * 3) == [1.0, 1.0, 1.0]
    assert correct(["so -5", "so \u22125", "so 5"], ["#### -5"] * 3) == [1.0, 1.0, 0.0]
    assert correct(["0.1", "1/10", "0.10000001"], ["0.1"] * 3) == [1.0, 1.0, 0.0]


def test_rows_without_gold_do_not_apply() -> None:
    assert correct(["72", "72"], [None, GOLD]) == [None, 1.0]


def test_listing_guesses_does_not_pay() -> None:
    guesses = ", ".join(map(str, range(200)))
    assert correct([f"<answer>{guesses}</answer>", guesses], [GOLD] * 2) == [0.0, 0.0]


# -------------------------------------------------------------------------------------------------------- format


def test_the_ideal_answer_earns_every_format_term() -> None:
    for text in (IDEAL, IDEAL + "\n", IDEAL + "<|eot_id|><|endoftext|>"):
        for reward in (format_tags, format_soft, format_strict, format_integer):
            assert reward([text]) == [1.0], reward.__name__


def test_a_prefilled_tag_counts() -> None:
    rest = IDEAL.removeprefix("<reasoning>\n")
    assert format_soft([rest]) == format_strict([rest]) == [0.0]
    assert format_tags([rest]) == [0.75]
    for reward in (format_tags, format_soft, format_strict):
        assert reward([rest], prefill="<reasoning>\n") == [1.0]


@pytest.mark.parametrize(
    ("text", "tags", "soft", "strict"),
    [
        ("", 0.0, 0.0, 0.0),
        ("72", 0.0, 0.0, 0.0),
        ("<reasoning>a</reasoning><answer>72</answer>", 0.0, 1.0, 0.0),
        ("<reasoning>a\nb</reasoning>\n\n<answer>72</answer>", 0.0, 1.0, 0.0),
        ("Sure! " + IDEAL, 1.0, 0.0, 0.0),
        (IDEAL + " Bye.", 0.992, 1.0, 0.0),
        (IDEAL + "x" * 100, 0.8, 1.0, 0.0),
        (IDEAL + "x" * 5000, 0.0, 1.0, 0.0),  # the published term gives below -8 here
        (IDEAL + "\n" + IDEAL, 0.0, 1.0, 0.0),
        # Three of the four tags (no line break before <answer>), less 26 characters after the answer.
        ("<answer>\n72\n</answer>\n<reasoning>\na\n</reasoning>\n", 0.75 - 0.052, 0.0, 0.0),
        ("<reasoning>\na\n</reasoning>\n<answer>\n72", 0.75, 0.0, 0.0),
        ("<reasoning>\na\n<answer>\n72\n</answer>", 0.75, 0.0, 0.0),
    ],
)
def test_format_table(text: str, tags: float, soft: float, strict: float) -> None:
    assert format_tags([text]) == [pytest.approx(tags)]
    assert format_soft([text]) == [soft]
    assert format_strict([text]) == [strict]


@pytest.mark.parametrize(
    ("inside", "score"),
    [("72", 1.0), ("-5", 1.0), ("\u22125", 1.0), ("1,450", 1.0), ("$18", 1.0), ("72.", 1.0), ("72.5", 0.0),
     ("72 clips", 0.0), ("1,45", 0.0), (r"\boxed{72}", 0.0), ("abc", 0.0), ("\u00b2", 0.0), ("", 0.0)],
)  # fmt: skip
def test_format_integer(inside: str, score: float) -> None:
    assert format_integer([f"<answer>\n{inside}\n</answer>"]) == [score]


def test_format_integer_needs_the_tag() -> None:
    assert format_integer(["72", r"\boxed{72}"]) == [0.0, 0.0]


@pytest.mark.parametrize("piece", ["</reasoning><answer>", "</reasoning> ", "<reasoning>\n", "\n</answer>", " "])
def test_format_is_linear(piece: str) -> None:
    import time

    text = "<reasoning>" + (piece * 100_000)[:100_000]
    started = time.process_time()
    for reward in (format_tags, format_soft, format_strict, format_integer):
        reward([text])
    assert time.process_time() - started < 2.0

"""Answer extraction: tables of ordinary and adversarial text."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.extract import (
    boxed_answer,
    final_number,
    hash_answer,
    last_number,
    stated_number,
    strip_end_markers,
    tagged_answer,
    text_of,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>72</answer>", "72"),
        ("<answer>\n72\n</answer>", "72"),
        ("<answer>line one\nline two</answer> after", "line one\nline two"),
        ("<answer>1</answer> no, <answer>2</answer>", "2"),
        ("<answer>1</answer> no, <answer>2", "2"),  # cut short: the opening tag reaches to the end
        ("<answer>72", "72"),
        ("<answer>1</answer><answer> \n </answer>", "1"),  # an empty tag holds no answer
        ("<answer><answer>5</answer></answer>", "5"),
        ("72</answer>", None),
        ("<answer></answer>", None),
        ("<answer>", None),
        ("no tags", None),
        ("", None),
    ],
)
def test_tagged_answer(text: str, answer: str | None) -> None:
    assert tagged_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{72}", "72"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{a } \{1, 2\}}", r"\text{a } \{1, 2\}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{1} then \boxed{}", "1"),
        (r"\boxed{\boxed{5}}", "5"),
        ("\\boxed{72\nand so on", "72"),
        (r"\boxed 72", None),
        (r"\boxed{}", None),
        (r"\boxed", None),
        ("boxed{72}", None),
    ],
)
def test_boxed_answer(text: str, answer: str | None) -> None:
    assert boxed_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so\n#### 72", "72"),
        ("#### 1\n#### $1,450\nbye", "$1,450"),
        ("#### 72 clips", "72 clips"),
        ("#### 3. Total cost\nWe add.", None),  # a Markdown heading
        ("#### Step 2: add", None),
        ("####", None),
        ("72", None),
    ],
)
def test_hash_answer(text: str, answer: str | None) -> None:
    assert hash_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72),
        ("72.", 72),
        ("72.00", 72),
        ("+72", 72),
        ("-5", -5),
        ("\u22125", -5),  # minus sign
        ("$-5", -5),
        ("-$5", -5),
        (r"-\$5.50", Fraction(-11, 2)),
        ("$1,450", 1450),
        ("1,450,000", 1450000),
        (r"\$1{,}450", 1450),
        (r"1,\!450", 1450),
        (r"1\,450", 1450),
        ("1\u202f450", 1450),
        ("€ 72", 72),
        ("72%", 72),
        (r"72\%", 72),
        ("**72**", 72),
        ("(72)", 72),
        ("18 dollars in 2 days", 18),
        (r"18\text{ cm}^2", 18),
        ("18/day", 18),
        (r"\text{She has } 18", 18),
        ("x = 18", 18),
        ("48/2 = 24, 24+48 = 72 clips", 72),
        ("x = 5 =", 5),
        ("first 3\nthen 4\n\n", 4),
        (".5", Fraction(1, 2)),
        ("...5", 5),
        ("5/6", Fraction(5, 6)),
        ("2 1/2 hours", Fraction(5, 2)),
        (r"\frac{7}{2}", Fraction(7, 2)),
        (r"-\dfrac{7}{2}", Fraction(-7, 2)),
        (r"1\frac12", Fraction(3, 2)),
        ("1.45e3", 1450),
        ("\uff17\uff12", 72),  # full-width digits
        ("\u0667\u0662", 72),  # Arabic-Indic digits
        ("1,2,3", 1),
        ("48+24", None),
        ("3 x 4", None),
        (r"3 \times 4", None),
        ("10-12", None),
        ("5:30", None),
        ("2^3", None),
        ("5/0", None),
        ("1" * 5000, None),  # longer than Python itself converts
        ("seventy-two", None),
        ("\u00b2", None),  # a superscript is no digit
        ("...", None),
        ("", None),
    ],
)
def test_stated_number(text: str, value: int | Fraction | None) -> None:
    assert stated_number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("She has 5 apples, then 72.", 72),
        ("between 10-12", 12),
        ("COVID-19", 19),
        ("the area is 18 m^2", 18),
        ("the area is 18 m^{2}.", 18),
        ("it fell to -5.", -5),
        ("nothing", None),
    ],
)
def test_last_number(text: str, value: int | None) -> None:
    assert last_number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("so 1 <answer>72</answer> and 9 more", 72),
        (r"<answer>in 2 days: \boxed{18} dollars</answer>", 18),
        ("<answer>48+24=72\n#### 72</answer>", 72),
        (r"\boxed{5} <answer>72</answer>", 72),  # the tag comes first
        (r"<answer>see above</answer> \boxed{72}", 72),  # no digit there: the next place
        ("Answer in <answer>...</answer> tags. It is 72", 72),  # prompt echoed
        (r"<answer>48+24</answer> \boxed{72}", None),  # a digit there: it decides, readable or not
        (r"1 2 \boxed{72} 3", 72),
        ("#### 72\nthat took 3 steps", 72),
        ("#### 1. Sum\nthe sum is 72", 72),
        ("it is 72 after all", 72),
        ("72</answer><|eot_id|><|endoftext|>", 72),
        (r"<answer>\boxed{1,450", 1450),
        ("no idea", None),
        ("", None),
    ],
)
def test_final_number(text: str, value: int | None) -> None:
    assert final_number(text_of(text)) == value


def test_text_of_messages() -> None:
    assert text_of([{"role": "assistant", "content": "72"}]) == "72"
    assert text_of([{"content": "72"}]) == "72"
    assert (
        text_of([{"role": "assistant", "content": [{"type": "text", "text": "7"}, {"type": "text", "text": "2"}]}])
        == "72"
    )
    assert text_of([{"role": "tool", "content": "9"}, {"role": "assistant", "content": "72"}]) == "72"
    assert text_of([{"role": "assistant", "content": None}]) == ""
    assert text_of([]) == ""


def test_end_markers_are_cut_only_at_the_end() -> None:
    assert strip_end_markers("72<|eot_id|> <|endoftext|>\n") == "72"
    assert strip_end_markers("72 <|eot_id|>junk") == "72 <|eot_id|>junk"
    assert strip_end_markers("72 \n") == "72 \n"
    assert strip_end_markers("<|endoftext|>" * 3) == ""


@pytest.mark.parametrize(
    "piece",
    ["9", "1 ", "1,", "1,111,", "<answer>", "<answer> ", "<answer></answer>", "<answer>1", "\\boxed{", "\\boxed{}", "{",
     "####", "#### 1", " ", "-", "$ ", "1/", "=1", "\n1", "\\frac{", "<|endoftext|>", "\u0667", ".", "1e"],
)  # fmt: skip
def test_100_kb_takes_linear_time(piece: str) -> None:
    def seconds(size: int) -> float:
        text = (piece * size)[:size]
        started = time.process_time()
        final_number(strip_end_markers(text))
        stated_number(text)
        last_number(text)
        return time.process_time() - started

    # A quadratic path would need minutes at this size; the margin is for slow machines.
    assert seconds(100_000) < 2.0


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*"0123456789.,-+/=$\\{}<>#e \nx²٧", "<answer>", "\\boxed{", "\\frac", "####"])))
def test_nothing_raises(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert final_number(text) is None or isinstance(final_number(text), Fraction)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    st.integers(-(10**9), 10**9), st.sampled_from(["{}", "${}", "{:,}", "{}.", "{}.00", "{} clips", "= {}", "**{}**"])
)
def test_every_integer_survives_its_dress(number: int, dress: str) -> None:
    text = dress.format(number)
    assert stated_number(text) == number
    assert final_number(f"<answer>\n{text}\n</answer>") == number
    assert final_number(rf"so 3 \boxed{{{text}}} in 2") == number

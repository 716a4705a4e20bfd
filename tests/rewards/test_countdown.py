"""Countdown: the parser of expressions, the two rewards, and what a policy might try."""

import re
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.countdown import Expression, attempt, correct, parse_numbers, parse_target, read_expression

NUMBERS, TARGET = [3, 5, 8], 16


def both(text: str, numbers: object = NUMBERS, target: object = TARGET) -> tuple[Any, Any]:
    """(attempt, correct) of one answer in its tag."""
    text = f"<reasoning>\nHm.\n</reasoning>\n<answer>\n{text}\n</answer>"
    return attempt([text], [numbers], [target])[0], correct([text], [numbers], [target])[0]


@pytest.mark.parametrize(
    "text",
    [
        "3 + 5 + 8",
        "3+5+8",
        "(3 + 5) + 8",
        "[3 + {5 + 8}]",
        "8+5+3 = 16",
        "16 = 8+5+3",
        "8 + 5\n+ 3",
        "-(-3 - 8 - 5)",
        r"\boxed{3 + 5 + 8}",
        r"\(3 + 5 + 8 = 16\)",
        r"\[ 3 + 5 + 8 \]",
        "$3 + 5 + 8$",
        r"\left(3 + 5\right) + 8",
        r"\boxed{\left( 3 + 5 \right) + 8 = 16}.",
        "`3 + 5 + 8`",
        "**3 + 5 + 8**",
        "3 + 5 + 8.",
        "３ + ５ + ８",  # full-width digits
    ],
)
def test_right(text: str) -> None:
    assert both(text) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "numbers", "target"),
    [
        ("2 * 4 - 3", [4, 3, 2], 5),
        ("2 × 4 − 3", [4, 3, 2], 5),
        (r"2 \times 4 - 3", [4, 3, 2], 5),
        (r"2 \cdot 4 - 3", [4, 3, 2], 5),
        ("12 ÷ 4 + 1", [1, 4, 12], 4),
        (r"12 \div 4 + 1", [1, 4, 12], 4),
        (r"\frac{12}{4} + 1", [1, 4, 12], 4),
        (r"\dfrac{12}{\left(3 + 1\right)}", [1, 3, 12], 3),
        ("8 / (3 - 8/3)", [3, 3, 8, 8], 24),  # exact: in floating point 23.999999999999989
        ("5 / 3 * 3", [3, 3, 5], 5),
        ("7 + 7", [7, 7], 14),
    ],
)
def test_right_operators(text: str, numbers: list[int], target: int) -> None:
    assert both(text, numbers, target) == (1.0, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "3 + 5 * 8",  # 43
        "3 + 5 - 8",
        "3 - 5 - 8 = 16",  # the equation is wrong: the value counts
        "3 * (5 + 8)",
    ],
)
def test_an_attempt_with_another_value(text: str) -> None:
    assert both(text) == (1.0, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "16",
        "8 + 8",  # not the numbers
        "3 + 5 + 8 + 0",  # one more
        "3 + 5 + 8 + 3 - 3",  # one of them three times
        "3 + 58",
        "35 + 8",
        "3 5 8",
        "3 + 5 8",
        "3(5) + 8",  # no product without a sign
        "3 + 5 + 8 = 15",  # states another number
        "3 + 5 = 8 + 8",
        "3 + 5 = 8 = 16",
        "3 + 5 + 8 = 16 = 16",
        "= 16",
        "3 + 5 + 8 =",
        "3 + 5 + 8, 3 * 5 + 8",  # several
        "3 * 5 + 8\n3 + 5 + 8",
        "3 + 5 + 8 or 3 * 5 + 8",
        "3.0 + 5 + 8",
        "3 + 5 + 8 + x - x",
        "3 ** 5 + 8",
        "3 // 5 + 8",
        "3 ^ 5 + 8",
        "3! + 5 + 8",
        "8 % 5 + 3",
        "1e1 + 3 + 5",
        "__import__('os').getpid() + 3 + 5 + 8",
        "(3 + 5 + 8",
        "3 + 5 + 8)",
        "(3 + 5] + 8",
        "3 + 5 + 8 +",
        "* 3 + 5 + 8",
        "3 + 5 + 8*",
        r"\frac{3}5 + 8",
        r"\sqrt{3} + 5 + 8",
        "3 / (8 - 8) + 5",
        "...",
    ],
)
def test_no_answer(text: str) -> None:
    assert both(text) == (0.0, 0.0)


@pytest.mark.parametrize("text", ["8 / (3 + 2 - 5)", "8 / 0", r"\frac{8}{5 - 3 - 2}", "0 / (8 / 0)"])
def test_dividing_by_zero_is_wrong_and_no_error(text: str) -> None:
    numbers = [int(number) for number in re.findall("[0-9]+", text)]
    assert both(text, numbers, 8) == (0.0, 0.0)


def test_where_the_answer_stands() -> None:
    row = {"numbers": [NUMBERS], "target": [TARGET]}
    assert correct(["3 + 5 + 8"], **row) == [0.0]  # neither tag nor box
    assert correct([r"So \boxed{3 + 5 + 8}"], **row) == [1.0]
    assert correct(["<answer>3*5*8</answer> wait <answer>3+5+8</answer>"], **row) == [1.0]
    assert correct(["<answer>3+5+8</answer> wait <answer>3*5*8</answer>"], **row) == [0.0]  # the last counts
    assert correct([r"\boxed{3+5+8} <answer>3*5*8</answer>"], **row) == [0.0]
    assert correct(["<answer>3+5+8"], **row) == [1.0]  # cut short after its answer
    assert correct(["<answer>3+5+8<|eot_id|><|endoftext|>"], **row) == [1.0]
    assert correct([[{"role": "assistant", "content": "<answer>3+5+8</answer>"}]], **row) == [1.0]


@pytest.mark.parametrize(
    "numbers",
    [[3, 5, 8], (8, 5, 3), ["3", "5", "8"], "3,5,8", "[3, 5, 8]", " 3, 5, 8 ", np.array([3, 5, 8]), [3.0, 5, 8]],
)
def test_numbers_as_data_sets_write_them(numbers: object) -> None:
    assert parse_numbers(numbers) == NUMBERS
    for target in (16, "16", 16.0, np.int64(16)):
        assert both("3+5+8", numbers, target) == (1.0, 1.0)


@pytest.mark.parametrize("numbers", ["", "3 5 8", "3,a", 5, [3.5], [True, 2], "3,5,8]x", [None], {"a"}])
def test_malformed_numbers(numbers: object) -> None:
    with pytest.raises(ValueError, match="whole number"):
        parse_numbers(numbers)


@pytest.mark.parametrize("target", ["", "x", 1.5, True, float("nan"), float("inf"), [16]])
def test_malformed_target(target: object) -> None:
    with pytest.raises(ValueError, match="whole number"):
        parse_target(target)


def test_rows_of_another_task() -> None:
    assert correct(["a", "<answer>3+5+8</answer>"], [None, NUMBERS], [None, 16]) == [None, 1.0]
    assert attempt(["a"], [NUMBERS], [None]) == [None]


def test_an_expression_says_what_is_in_it() -> None:
    assert read_expression("(1 + 2) / 4", 0) == Expression((1, 2, 4), Fraction(3, 4))
    assert read_expression("1 / 0", 0) == Expression((1, 0), None)
    assert read_expression("-24 = 1 - 25", -24) == Expression((1, 25), Fraction(-24))


@pytest.mark.parametrize("piece", ["(", "-", "((1+", "1+", "9", r"\frac{", "{", "= ", "1*", "\\left(", "[(", "/"])
def test_long_texts_end_at_once(piece: str) -> None:
    started = time.process_time()
    for length in (40, 399, 400, 401, 100_000):
        text = (piece * length)[:length]
        assert correct([f"<answer>{text}</answer>"], [NUMBERS], [16]) == [0.0]
        assert attempt([f"<answer>{text}1</answer>"], [NUMBERS], [16]) == [0.0]
    assert time.process_time() - started < 2.0


def tree(depth: int) -> st.SearchStrategy[str]:
    number = st.integers(1, 99).map(str)
    if depth == 0:
        return number
    sub = tree(depth - 1)
    grouped = st.tuples(sub, st.sampled_from("+-*/"), sub).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
    return st.one_of(number, grouped, sub.map(lambda s: f"-{s}" if not s.startswith("-") else s))


@given(tree(3))
def test_against_python(text: str) -> None:
    exact = re.sub(r"[0-9]+", lambda match: f"Fraction({match[0]})", text)
    try:
        value = eval(exact, {"Fraction": Fraction})  # the oracle; the text is ours
    except ZeroDivisionError:
        value = None
    assert read_expression(text, 0) == Expression(tuple(map(int, re.findall("[0-9]+", text))), value)


@given(st.text("0123456789+-*/()[]{}=. \\fractimesdvl$×÷", max_size=60))
def test_any_text_gives_a_score(text: str) -> None:
    scores = correct([text, f"<answer>{text}</answer>"], [NUMBERS] * 2, [TARGET] * 2)
    assert set(scores) <= {0.0, 1.0}

r"""The rules of public code, as measured on it (tables) and against slow, obvious versions (random texts)."""

import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.published import math as originals_math
from rewards.published import rules as originals
from rewards.published.arithmetic import NeverEndsError, evaluate, hits_target, uses_numbers
from tests.oracles import originals as slow

TEXTS = st.lists(st.sampled_from(slow.PIECES), max_size=14).map("".join)


def same(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


# ---------------------------------------------------------------------------------------------------- d1's GSM8K figures


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"<answer>\boxed{72}</answer>", 72.0),
        (r"\boxed{72} and then \boxed{73}", 72.0),  # the first box that can be read
        (r"\boxed{...} \boxed{73}", 73.0),
        (r"\boxed{.} \boxed{} \boxed{x} \boxed{5}", 5.0),
        (r"\boxed{1,450}", 1.0),
        (r"\boxed{$18}", 18.0),
        (r"\boxed{18 dollars in 2 days}", 18.0),
        (r"\boxed{\frac{1}{2}}", 1.0),  # up to the first brace
        ("\\boxed{7\n2}", None),  # not over lines
        (r"\boxed{72", None),
        (r"\boxed{1e3}", 1000.0),
        (r"\boxed{1_000}", 1000.0),
        ("\\boxed{\u0663}", 3.0),
        (r"\boxed{-5}", -5.0),
        ("<answer>\n72\n</answer>", 72.0),
        ("<answer>7 of 9</answer>", 9.0),  # in a tag the last number, in a box the first
        ("<answer>x</answer><answer>9</answer>", None),  # the first closed tag only
        ("<answer>9", None),
        ("9", None),
        ("", None),
    ],
)
def test_d1_gsm8k_evaluation(text: str, number: float | None) -> None:
    assert originals.d1_number(text) == number
    assert slow.gsm8k_number(text) == number


@pytest.mark.parametrize(
    ("gold", "number"),
    [("... #### 1,450", 1450.0), ("#### -5", None), (None, None), (18.0, 18.0), (18, 18), ("18", 18.0), ("1,450", 1450.0),
     ("x", None), ("#### $5", 5.0)],
)  # fmt: skip
def test_d1_gold_numbers(gold: Any, number: float | None) -> None:
    assert originals.d1_gold_number(gold) == number


@pytest.mark.parametrize(
    ("text", "number"), [("<answer>9", 9.0), ("so it is 9", 9.0), (r"\boxed{3} 9", 3.0), ("<answer>x</answer> 4", None)]
)
def test_spg_reads_what_is_not_closed(text: str, number: float | None) -> None:
    assert originals.spg_number(text) == number


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{72.5}", "5"),
        (r"\boxed{1,450}", "450"),
        (r"\boxed{18} dollars in 2 days", "2"),
        ("The answer is 42. So", "42."),
        ("The answer is 42.\n", "42"),
        ("The answer is 42", "4"),  # one more character has to follow
        ("The answer is 5", "5"),  # not this way, but as the last number
        ("10-12", "-12"),
        ("#### 72", "72"),
        ("#### 1,450 and 3", "1,450"),
        ("#### 5 The answer is 6!", "6"),
        ("none", ""),
    ],
)
def test_espo_gsm8k(text: str, answer: str) -> None:
    assert originals.espo_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "found", "compared"),
    [("so 72.", "72.", "72"), ("$1,450", "$1,450", "1450"), ("18.00", "18.00", "18.00"), (r"5 \boxed{...}", "...", ".."),
     ("a 5", "5", "5"), ("-3", "-3", "-3"), ("none", None, None)],
)  # fmt: skip
def test_lm_eval_flexible(text: str, found: str | None, compared: str | None) -> None:
    assert originals.flexible_answer(text) == found
    assert (None if found is None else originals.lm_eval_text(found)) == compared


def test_dots_are_no_number_by_value() -> None:
    assert originals.flexible_answer(r"so 5 \boxed{...}", digits=True) == "5"
    assert originals.flexible_answer("... ,, $$", digits=True) is None


def test_the_flexible_rule_is_that_of_lm_eval() -> None:
    extraction = pytest.importorskip("lm_eval.filters.extraction", reason="needs the extra 'eval'")
    rule = extraction.RegexFilter(regex_pattern="(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)  # of gsm8k.yaml, 3.0
    texts = ["so 72.", "$1,450", r"5 \boxed{...}", "none", "- 3 -4", "1.2.3", "\n7\n"]
    theirs = [found[0] for found in rule.apply([[text] for text in texts], [{}] * len(texts))]
    assert [originals.flexible_answer(text) or "[invalid]" for text in texts] == theirs


# ------------------------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    ("text", "value"),
    [("2*4-3", 5), ("2**3-4", 4), ("7//2", 3), ("7/2", 3.5), ("(-8)**.5", (-8) ** 0.5), ("-2**2", -4), ("2**-1", 0.5), ("1.", 1.0),
     ("5(3)", None), ("()", None), ("...", None), ("007", None), ("1 2", None), ("1\n+2", None), ("(1\n+2)", 3), ("1/0", None),
     ("2=2", None), ("x", None), ("", None), ("\u0663", None), ("1\u00a0+2", None), ("1,2", None), ("0**-1", None),
     ("(" * 250 + "1" + ")" * 250, None), ("-" * 900 + "5", 5), ("1+1" + " " * 5000, 2), ("1e5", None)],
)  # fmt: skip
def test_arithmetic_is_that_of_eval(text: str, value: Any) -> None:
    assert same(evaluate(text), value)


@given(
    st.lists(
        st.sampled_from([*"1230", "+", "-", "*", "//", "/", "(", ")", ".", " ", "\n", "\t", "\u00b2", "12"]), max_size=9
    )
)
@settings(max_examples=300)
def test_arithmetic_against_eval(parts: list[str]) -> None:
    text = "".join(parts)
    if "**" not in text:
        value, expected = evaluate(text), slow.arithmetic(text)
        assert same(value, expected), (text, value, expected)
        assert type(value) is type(expected)


@pytest.mark.parametrize("bomb", ["99**98**97", "9**9**9", "1+(99**98**97)*0", "(2**999999)**2"])
def test_a_bomb_is_refused_at_once(bomb: str) -> None:
    began = time.process_time()
    with pytest.raises(NeverEndsError):
        evaluate(bomb)
    assert time.process_time() - began < 1.0


def test_numbers_and_target() -> None:
    assert uses_numbers("3 - 2*4", [2, 4, 3])
    assert uses_numbers("\u0663", [3])
    assert not uses_numbers("2*2", [2])
    assert not uses_numbers("9" * 5000, [9])
    assert hits_target("1/3*3", 1)
    assert hits_target("5.000001", 5)  # within 1e-5
    assert not hits_target("2**5000", 1.5)  # no float is that large


# -------------------------------------------------------------------------------------------------------------- countdown


@pytest.mark.parametrize(
    ("text", "score"),
    [("<answer>hello</answer>", 0.1), ("<answer></answer>", 0.1), ("<answer>2*4-3", 0.0), ("2*4-3", 0.0),
     ("<answer>2*4-3</answer>", 1.0), ("<answer>1</answer> <answer>2*4-3</answer>", 1.0), ("<answer>2*4-3=5</answer>", 0.1),
     ("<answer>2×4-3</answer>", 0.1), (r"<answer>2 \times 4-3</answer>", 0.1), (r"<answer>\boxed{2*4-3}</answer>", 0.1),
     ("<answer>4*2-3</answer>", 1.0), ("<answer>2*4+3</answer>", 0.1), ("<answer>2*4-3-3</answer>", 0.1)],
)  # fmt: skip
def test_countdown_training(text: str, score: float) -> None:
    assert originals.countdown_score(text, [2, 4, 3], 5) == score


@pytest.mark.parametrize(
    ("text", "right"),
    [(r"\boxed{2*4-3}", True), (r"\boxed{2 \times 4 - 3 = 5}", True), (r"\boxed{2 \cdot 4 - 3 = 99}", True),  # whatever is stated
     (r"\boxed{5 = 2*4-3}", False), ("<answer>2*4-3</answer>", False),  # without a box it is the whole text that is evaluated
     ("2*4-3", True), ("I say 2*4-3 = 5", True), (r"\boxed{2*4-3", False), ("\\boxed{ <answer>2*4-3</answer>", True),
     (r"\boxed{2*4-3} \boxed{4}", False), (r"\boxed{\frac{2*4-3}{1}}", False), (r"\boxed 2*4-3$ is it", True), ("", False),
     ("\\boxed{\n  2*4-3 \n}", True)],
)  # fmt: skip
def test_countdown_evaluation(text: str, right: bool) -> None:
    assert originals.countdown_right(text, [2, 4, 3], 5) is right


@given(TEXTS)
def test_the_left_side_of_the_first_equation(text: str) -> None:
    found = originals._LEFT_SIDE.search(text)
    assert (found and found[1]) == slow.left_side(text)


# ----------------------------------------------------------------------------------------------------------------- sudoku

PUZZLE, SOLUTION = "0321003004002100", "4321123434122143"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (f"<answer>{SOLUTION}</answer>", SOLUTION),
        (f"<answer>\n```\n{SOLUTION[:8]}\n{SOLUTION[8:]}\n```", SOLUTION),
        ("<answer>4321 1234</answer>", "43211234" + "0" * 8),
        (f"<answer>{SOLUTION}99</answer>", SOLUTION),
        (f"<answer>{SOLUTION}", SOLUTION),  # alone in the text
        (f"<answer>so: {SOLUTION}</answer>", "so:" + SOLUTION[:13]),  # 16 characters, not digits
        (f"<answer> </answer>\n{SOLUTION}<|eot_id|>", SOLUTION),
        (f"x {SOLUTION} </answer>", SOLUTION),
        (f"is {SOLUTION}.", SOLUTION),
        (f"is {SOLUTION}5", ""),
        ("", ""),
    ],
)
def test_sudoku_evaluation(text: str, read: str) -> None:
    assert originals.sudoku_text(text) == read
    assert slow.sudoku_text(text) == read


def test_sudoku_training() -> None:
    assert originals.sudoku_digits("<answer>1 2\nRow 3: \u00b2</answer>") == "123\u00b2" + "0" * 12
    assert originals.sudoku_digits("<answer>none</answer>") == ""
    assert originals.blanks_right(SOLUTION, PUZZLE, SOLUTION) == (9, 9)
    assert originals.blanks_right("", PUZZLE, SOLUTION) == (0, 9)
    assert originals.blanks_right("9" * 16, "1" * 16, SOLUTION) == (0, 0)


# ----------------------------------------------------------------------------------------------------------------- layout

IDEAL = "<reasoning>\nOne line.\n</reasoning>\n<answer>\n72\n</answer>\n"
TWO_LINES = IDEAL.replace("One line.", "Two\nlines.")


@pytest.mark.parametrize(
    ("rule", "text", "score"),
    [
        (originals.strict_layout, IDEAL, 0.5),
        (originals.strict_layout, IDEAL + "\n", 0.5),  # $ stands before a last line break, too
        (originals.strict_layout, IDEAL + "\n\n", 0.0),
        (originals.strict_layout, IDEAL.rstrip(), 0.0),
        (originals.strict_layout, TWO_LINES, 0.0),
        (originals.strict_layout, " " + IDEAL, 0.0),
        (originals.soft_layout, IDEAL, 0.0),
        (originals.soft_layout, "<reasoning>a</reasoning> <answer>7</answer> tail", 0.5),
        (
            originals.soft_layout,
            "<reasoning>a</reasoning>\n\n<answer>7</answer>",
            0.5,
        ),  # lines between the two are allowed
        (originals.soft_layout, "<reasoning>a</reasoning>\n<answer>\n7</answer>", 0.0),
        (originals.integer_layout, "<answer> 72 </answer>", 0.5),
        (originals.integer_layout, "72", 0.5),
        (originals.integer_layout, "<answer>-5</answer>", 0.0),
        (originals.integer_layout, "<answer>1,450</answer>", 0.0),
        (originals.integer_layout, "<answer>\u00b2</answer>", 0.5),
        (originals.tag_count, IDEAL, 0.5),
        (originals.tag_count, IDEAL + "x" * 2000, 0.5 - 2.0 - 2.0),
        (originals.tag_count, IDEAL.rstrip(), 0.5 - 0.001 * len(IDEAL.rstrip()) + 0.001),  # all of it is "behind"
        (lambda text: originals.tag_count(text, spg=True), IDEAL, 0.5 - 0.001 * len("72\n</answer>\n")),
        (lambda text: originals.tag_count(text, spg=True), IDEAL.replace("72", "7" * 2000), 0.5 - 0.001 * 2011),
        (originals.boxed_in_tags, r"<answer>\boxed{1}</answer>", 0.75),
        (originals.boxed_in_tags, r"\boxed{1}", 0.25),
        (originals.boxed_in_tags, "<answer>\boxed{1}</answer>", 1.0),  # a backspace
    ],
)
def test_layout(rule: Any, text: str, score: float) -> None:
    assert rule(text) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "diffucoder", "espo"),
    [
        ("Here:\n```python\nx = 1\n```\n", 1.0, 1.0),
        ("```python\nx = 1\n```", 0.0, 1.0),  # a missing line break costs everything
        ("```python\nx = 1\n```\n\n", 0.0, 0.0),
        ("```python\nx = \n```\n", 0.5, 0.5),
        ("```\nx = 1\n```\n", 0.0, 0.0),
        ("```python\nx = 1\n```\nDone.", 0.0, 0.0),
        ("```python\na\n```\n```python\nb\n```\n", 0.0, 0.0),
        ("a````python\nx\n```\n", 0.0, 0.0),
    ],
)
def test_code_layout(text: str, diffucoder: float, espo: float) -> None:
    assert (originals.code_layout(text), originals.code_layout(text, last_break=False)) == (diffucoder, espo)


# ----------------------------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize(
    ("text", "found"),
    [(r"a \boxed{1} b \boxed{\frac{1}{2}} c", r"\frac{1}{2}"), ("no box", "no box"), (r"\boxed 7 dollars$ x", "7 dollars"),
     (r"\boxed{1} \boxed 7", "7"), (r"\fbox{3}", r"\fbox{3}"), (r"\boxed", None), (r"\boxed{1", None), (r"\boxed1}{2}", None),
     (r"\boxed{}", "")],
)  # fmt: skip
def test_the_last_box(text: str, found: str | None) -> None:
    if found is None:
        with pytest.raises(originals_math.UnreadableError):
            originals_math.last_box(text)
    else:
        assert originals_math.last_box(text) == found


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("10,000", "10000", False),
        (r"\frac{2}{4}", r"\frac12", False),
        (r"2\sqrt3", r"\sqrt{12}", False),
        (r"\text{(A)}", "(A)", False),
        (None, None, True),
        (None, "", False),
        (r"\frac12", r"\dfrac{1}{2}", True),
        (r"\frac1{72}", r"\tfrac{1}{72}", True),
        ("0.5", r"\frac{1}{2}", True),
        (".5", "0.5", True),
        ("1/2", r"\frac12", True),
        ("x=5", "5", True),
        ("xyz=5", "5", False),
        ("5 = 5 = 5", "5", False),
        (r"50\%", "50", True),
        (r"90^\circ", "90", True),
        (r"5\text{ cm}", "5", True),
        (r"5\text{ cm}\text{ x}", r"5\text{ cm}\text{ x}", True),  # cannot be read: compared as they stand
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})", True),
        ("x/2", "x / 2", False),
        ("x/2", "x/2", True),
        (r"\sqrt3", r"\sqrt{3}", True),
        (r"\sqrt", r"\sqrt", True),
        (r"5\frac", r"5\frac ", False),
        ("5", 5, False),
        ("5", 5.0, True),
        ("five", 5.0, False),
    ],
)
def test_is_equiv(a: Any, b: Any, equal: bool) -> None:
    assert originals_math.same(a, b) is equal
    assert originals_math.same(b, a) is equal


# ----------------------------------------------------------------------------------------------------------- random texts


@given(TEXTS)
@settings(max_examples=400)
def test_fast_rules_against_slow_ones(text: str) -> None:
    assert same(originals.d1_number(text), slow.gsm8k_number(text))
    assert originals.sudoku_text(text) == slow.sudoku_text(text)
    assert originals.last_tag(text) == (slow.tags(text) or [None])[-1]
    assert originals.first_tag(text) == (slow.tags(text) or [None])[0]


LAYOUT = [
    "<reasoning>",
    "</reasoning>",
    "<answer>",
    "</answer>",
    "\n",
    " ",
    "x",
    "\n</reasoning>\n<answer>\n",
    "\n</answer>\n",
]


@given(st.lists(st.sampled_from(LAYOUT), max_size=9).map(lambda parts: "<reasoning>" + "".join(parts)))
@settings(max_examples=300)
def test_layout_against_slow_rules(text: str) -> None:
    assert bool(originals.soft_layout(text)) == slow.soft_layout(text)
    assert bool(originals.strict_layout(text)) == slow.strict_layout(text)


@given(st.lists(st.sampled_from(["```", "python\n", "\n", "x=1", "`", "```python\n"]), max_size=7).map("".join))
def test_code_layout_against_slow_rules(text: str) -> None:
    assert bool(originals.code_layout(text)) == slow.code_layout(text, "\n")
    assert bool(originals.code_layout(text, last_break=False)) == slow.code_layout(text, "\n?")


@pytest.mark.parametrize(
    "piece",
    ["<answer>", "\\boxed{", "<reasoning></reasoning><answer>", "```", "1", "1 ", "{", "1=", "The answer is ", "#### "],
)
def test_long_texts_take_no_time(piece: str) -> None:
    text = "<reasoning>" + piece * (100_000 // len(piece))
    began = time.process_time()
    for rule in (
        originals.d1_number, originals.spg_number, originals.espo_answer, originals.flexible_answer, originals.strict_layout,
        originals.soft_layout, originals.integer_layout, originals.tag_count, originals.boxed_in_tags, originals.code_layout,
        originals.sudoku_text, originals.sudoku_digits, originals.last_box_number, originals.unboxed,
    ):  # fmt: skip
        rule(text)
    originals.countdown_right(text, [1], 1)
    originals.countdown_score(text, [1], 1)
    assert time.process_time() - began < 5.0  # about 0.02; quadratic ones take minutes

"""The flaws measured in the published reward functions (d1 and its descendants): `compat` has each of them, ours has none.

Numbers are those of the list of flaws for d1 and what copied it; letters are for other code: E ESPO's GSM8K and MATH, C
the layout of DiffuCoder's code reward, R dLLM-RL's MATH. What running code can do wrong is tested with the sandbox.
"""

import random
from typing import Any

import numpy as np
import pytest

from rewards import code, countdown, gsm8k, math, sudoku
from rewards import format as layout
from rewards.contract.answers import InfrastructureError
from rewards.published import math as originals_math

IDEAL = "<reasoning>\nHalf of 48 is 24.\nTogether they make 72.\n</reasoning>\n<answer>\n72\n</answer>"
NUMBERS = {"numbers": [2, 4, 3], "target": 5}


def answered(text: str) -> str:
    return f"<reasoning>\nSo.\nThen.\n</reasoning>\n<answer>\n{text}\n</answer>"


# (number of the flaw, what the published code does, our reward, completion, columns, the score it must have here)
TABLE: list[tuple[int | str, str, Any, str, dict[str, Any], float]] = [
    (1, "soft_format: no match over lines", layout.soft, IDEAL, {}, 1.0),
    (1, "soft_format: no match over lines", gsm8k.format_soft, IDEAL, {}, 1.0),
    (2, "strict_format: no match over lines", layout.strict, IDEAL, {}, 1.0),
    (2, "strict_format: wants a newline at the end", gsm8k.format_strict, IDEAL + "\n", {}, 1.0),
    (3, "correctness: a currency", gsm8k.correct, answered("$72"), {"answer": "72"}, 1.0),
    (3, "correctness: a decimal", gsm8k.correct, answered("72.0"), {"answer": "72"}, 1.0),
    (3, "correctness: a full stop", gsm8k.correct, answered("72."), {"answer": "72"}, 1.0),
    (3, "correctness: a unit", gsm8k.correct, answered("72 clips"), {"answer": "72"}, 1.0),
    (3, "correctness: a box", gsm8k.correct, answered(r"\boxed{72}"), {"answer": "72"}, 1.0),
    (3, "correctness: gold with a comma", gsm8k.correct, answered("1450"), {"answer": "... #### 1,450"}, 1.0),
    (3, "correctness: full reward without tags", gsm8k.correct, "72", {"answer": "72"}, 1.0),  # accuracy is no layout,
    (3, "correctness: full reward without tags", layout.tags, "72", {}, 0.0),  # and the layout has rewards of its own
    (4, "int: a sign", gsm8k.format_integer, answered("-5"), {}, 1.0),
    (4, "int: a comma", gsm8k.format_integer, answered("1,450"), {}, 1.0),
    (4, "int: no tag needed", gsm8k.format_integer, "72", {}, 0.0),
    (5, "xmlcount: a long tail costs 3.5", layout.tags, IDEAL + "x" * 2000, {}, 0.0),
    (5, "xmlcount: no last newline costs the whole text", layout.tags, IDEAL, {}, 1.0),
    (5, "SPG's xmlcount: a long answer costs", layout.tags, answered("x" * 2000), {}, 1.0),
    (6, "countdown: 0.1 for any text", countdown.attempt, answered("hello"), NUMBERS, 0.0),
    (6, "countdown: `=` is wrong in training", countdown.correct, answered("2*4-3=5"), NUMBERS, 1.0),
    (6, "countdown: × is wrong", countdown.correct, answered("2×4-3"), NUMBERS, 1.0),
    (6, "countdown: LaTeX is wrong", countdown.correct, answered(r"2 \times 4-3"), NUMBERS, 1.0),
    (6, "countdown: powers", countdown.correct, answered("2**3-4"), {"numbers": [2, 3, 4], "target": 4}, 0.0),
    (6, "countdown: floor division", countdown.correct, answered("7//2"), {"numbers": [7, 2], "target": 3}, 0.0),
    (6, "countdown: a bomb", countdown.correct, answered("99**98**97"), {"numbers": [99, 98, 97], "target": 1}, 0.0),
    (7, "sudoku: cut and padded", sudoku.cells, answered("99999"), {"puzzle": "0321003004002100"}, 0.0),
    (7, "sudoku: givens may change", sudoku.cells, answered("1" * 16), {"puzzle": "0321003004002100"}, 0.0),
    (
        7, "sudoku: row numbers are cells", sudoku.solved,
        answered("Row1: 4321\nRow2: 1234\nRow3: 3412\nRow4: 2143"), {"puzzle": "0321003004002100"}, 1.0,
    ),
    (8, "is_equiv: thousands", math.correct, answered(r"\boxed{10,000}"), {"answer": "10000"}, 1.0),
    (8, "is_equiv: fractions", math.correct, answered(r"\boxed{\frac{2}{4}}"), {"answer": r"\frac12"}, 1.0),
    (8, "is_equiv: roots", math.correct, answered(r"\boxed{2\sqrt3}"), {"answer": r"\sqrt{12}"}, 1.0),
    (8, "is_equiv: text", math.correct, answered(r"\boxed{\text{(A)}}"), {"answer": "(A)"}, 1.0),
    (8, "is_equiv: None equals None", math.correct, "no answer", {"answer": r"\frac12"}, 0.0),
    (11, "boxed: looks for a backspace", layout.boxed, answered(r"\boxed{72}"), {}, 1.0),
    (11, "boxed: looks for a backspace", layout.boxed, answered("72"), {}, 0.0),
    ("E", "ESPO: the digits behind the point", gsm8k.correct, r"\boxed{72.5}", {"answer": "5"}, 0.0),
    ("E", "ESPO: the digits behind the comma", gsm8k.correct, r"\boxed{1,450}", {"answer": "1450"}, 1.0),
    ("E", "ESPO: the last number of the text", gsm8k.correct, r"\boxed{18} dollars in 2 days", {"answer": "18"}, 1.0),
    ("E", "ESPO: the full stop", gsm8k.correct, "The answer is 42. So that is it", {"answer": "42"}, 1.0),
    ("E", "ESPO: a hyphen is a minus", gsm8k.correct, "from 10-12", {"answer": "12"}, 1.0),
    ("E", "ESPO: the last of any numbers", math.correct, "I do not know: 3, 4 or 5", {"answer": "5"}, 0.0),
    ("E", "ESPO: the question restated", math.correct, r"\boxed{\binom{5}{2}}", {"answer": "10"}, 0.0),
    ("C", "code_format: no last line break", code.format, "```python\nx = 1\n```", {}, 1.0),
    ("C", "code_format: prose behind", code.format, "```python\nx = 1\n```\nDone.", {}, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("flaw", "published", "reward", "text", "row", "score"), TABLE)
def test_published_flaws(flaw: Any, published: str, reward: Any, text: str, row: dict[str, Any], score: float) -> None:
    columns = {name: [value] for name, value in row.items()}
    assert reward([text], **columns) == [score], f"flaw {flaw}, {published}"


# The other half: (number, reward, original, completion, columns, what the original pays), None where it has no answer.
LINES = IDEAL + "\n"
PUZZLE = {"puzzle": "0321003004002100", "solution": "4321123434122143"}
BLANKS = {"puzzle": "0021123434122143", "solution": "4321123434122143"}
COMPAT: list[tuple[int | str, Any, str, str, dict[str, Any], float | None]] = [
    (1, layout.soft, "d1 spg", LINES, {}, 0.0),
    (1, gsm8k.format_soft, "d1 spg", LINES, {}, 0.0),
    (1, layout.soft, "d1 spg", "<reasoning>So.</reasoning><answer>72</answer>", {}, 0.5),  # a single line is all it can do
    (2, layout.strict, "d1 spg", LINES, {}, 0.0),
    (2, gsm8k.format_strict, "d1 spg", IDEAL.replace("24.\nTogether", "24. Together"), {}, 0.0),  # no last line break
    (2, gsm8k.format_strict, "d1 spg", IDEAL.replace("24.\nTogether", "24. Together") + "\n", {}, 0.5),
    (3, gsm8k.correct, "d1 spg", answered("72"), {"answer": "72"}, 2.0),
    (3, gsm8k.correct, "d1 spg", answered("$72"), {"answer": "72"}, 0.0),
    (3, gsm8k.correct, "d1 spg", answered("72.0"), {"answer": "72"}, 0.0),
    (3, gsm8k.correct, "d1 spg", answered("72."), {"answer": "72"}, 0.0),
    (3, gsm8k.correct, "d1 spg", answered("72 clips"), {"answer": "72"}, 0.0),
    (3, gsm8k.correct, "d1 spg", answered(r"\boxed{72}"), {"answer": "72"}, 0.0),
    (3, gsm8k.correct, "d1 spg", answered("1450"), {"answer": "... #### 1,450"}, 0.0),
    (3, gsm8k.correct, "d1 spg", answered("1,450"), {"answer": "... #### 1,450"}, 2.0),
    (3, gsm8k.correct, "d1 spg", "72", {"answer": "72"}, 2.0),
    (4, gsm8k.format_integer, "d1 spg", answered("-5"), {}, 0.0),
    (4, gsm8k.format_integer, "d1 spg", answered("1,450"), {}, 0.0),
    (4, gsm8k.format_integer, "d1 spg", "72", {}, 0.5),
    (5, layout.tags, "d1", LINES + "x" * 2000, {}, -3.5),
    (5, gsm8k.format_tags, "d1", IDEAL, {}, 0.5 - 0.001 * (len(IDEAL) - 1)),
    (5, layout.tags, "d1", answered("x" * 2000) + "\n", {}, 0.5),
    (5, layout.tags, "spg", answered("x" * 2000) + "\n", {}, 0.5 - 0.001 * 2011),  # a silent difference between the two
    (6, countdown.correct, "d1 spg espo", answered("hello"), NUMBERS, 0.1),
    (6, countdown.correct, "d1 spg espo", answered("2*4-3=5"), NUMBERS, 0.1),
    (6, countdown.correct, "d1 spg espo", answered("2×4-3"), NUMBERS, 0.1),
    (6, countdown.correct, "d1 spg espo", answered(r"2 \times 4-3"), NUMBERS, 0.1),
    (6, countdown.correct, "d1 spg espo", answered("2**3-4"), {"numbers": [2, 3, 4], "target": 4}, 1.0),
    (6, countdown.correct, "d1 spg espo", answered("7//2"), {"numbers": [7, 2], "target": 3}, 1.0),
    (6, countdown.correct, "d1 spg espo", answered("99**98**97"), {"numbers": [99, 98, 97], "target": 1}, None),  # never ends
    (7, sudoku.cells, "d1 spg espo", answered("43999"), BLANKS, 1.0),  # cut and filled up, givens ignored
    (7, sudoku.cells, "d1 spg espo", answered("1" * 16), PUZZLE, 2 / 9),
    (7, sudoku.cells, "d1 spg espo", answered("Row1: 4321\nRow2: 1234\nRow3: 3412\nRow4: 2143"), PUZZLE, 3 / 9),
    (8, math.correct, "d1 spg", answered(r"\boxed{10,000}"), {"answer": "10000"}, 0.0),
    (8, math.correct, "d1 spg", answered(r"\boxed{\frac{2}{4}}"), {"answer": r"\boxed{\frac12}"}, 0.0),
    (8, math.correct, "d1 spg", answered(r"\boxed{2\sqrt3}"), {"answer": r"\sqrt{12}"}, 0.0),
    (8, math.correct, "d1 spg", answered(r"\boxed{\text{(A)}}"), {"answer": "(A)"}, 0.0),
    (8, math.correct, "d1 spg", answered(r"\boxed{\dfrac12}"), {"answer": r"\frac{1}{2}"}, 2.0),
    (11, layout.boxed, "d1 spg", answered(r"\boxed{72}"), {}, 0.75),
    (11, layout.boxed, "d1 spg", answered("72"), {}, 0.75),  # no difference
    ("E", gsm8k.correct, "espo", r"\boxed{72.5}", {"answer": "5"}, 1.0),
    ("E", gsm8k.correct, "espo", r"\boxed{1,450}", {"answer": "1450"}, 0.0),
    ("E", gsm8k.correct, "espo", r"\boxed{18} dollars in 2 days", {"answer": "18"}, 0.0),
    ("E", gsm8k.correct, "espo", "The answer is 42. So that is it", {"answer": "42"}, 0.0),
    ("E", gsm8k.correct, "espo", "from 10-12", {"answer": "12"}, 0.0),
    ("E", math.correct, "espo", "I do not know: 3, 4 or 5", {"answer": "5"}, 1.0),
    ("E", math.correct, "espo", r"\boxed{\binom{5}{2}}", {"answer": "10"}, 1.0),
    ("C", code.format, "diffucoder", "```python\nx = 1\n```", {}, 0.0),
    ("C", code.format, "espo", "```python\nx = 1\n```", {}, 1.0),
    ("C", code.format, "diffucoder espo", "```python\nx = \n```\n", {}, 0.5),
    ("C", code.format, "diffucoder espo", "```python\nx = 1\n```\nDone.", {}, 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("flaw", "reward", "compat", "text", "row", "score"), COMPAT)
def test_compat_has_the_flaw(
    flaw: Any, reward: Any, compat: str, text: str, row: dict[str, Any], score: float | None
) -> None:
    columns = {name: [value] for name, value in row.items()}
    for original in compat.split():
        (paid,) = reward([text], **columns, compat=original)
        if score is None:
            assert isinstance(paid, InfrastructureError), f"flaw {flaw}"
        else:
            assert paid == pytest.approx(score, abs=1e-12), f"flaw {flaw}"


def test_every_flaw_has_both_halves() -> None:
    assert {row[0] for row in TABLE} - {9} == {row[0] for row in COMPAT}


def test_none_equals_none_in_the_published_comparison() -> None:
    """Flaw 8: and so a row without a gold answer would be right. Ours has no score for it (below)."""
    assert originals_math.same(None, None)


def test_a_runaway_formula_is_killed_and_costs_its_time_only() -> None:
    """Flaw R: dLLM-RL compares LaTeX in a thread with a second of patience; a thread cannot be killed, and goes on for years."""
    logged: dict[str, float] = {}
    bomb, right = r"\boxed{9^{9^{9^{9^{9}}}}}", r"\boxed{\frac{1}{3}}"
    scores = math.correct([bomb, right], answer=["5", r"\frac13"], seconds=1.0, log_metric=logged.__setitem__)
    assert scores == [0.0, 1.0]


def test_length_does_not_make_a_right_answer_wrong() -> None:
    """Flaw R: dLLM-RL calls every answer wrong whose text is nearly as long as the canvas."""
    assert math.correct(["So. " * 20_000 + r"\boxed{5}"], answer=["5"]) == [1.0]


@pytest.mark.parametrize("reward", [math.correct, gsm8k.correct])
def test_a_missing_gold_answer_is_no_wrong_answer(reward: Any) -> None:
    assert reward([r"\boxed{5}", "none"], answer=[None, None]) == [None, None]


def test_nothing_is_printed_and_no_global_stream_is_touched(capfd: pytest.CaptureFixture[str]) -> None:
    """Flaw 9: coloured prints from every rank, decided by draws from numpy's global generator."""
    python, numpy = random.getstate(), str(np.random.get_state())  # noqa: NPY002  the global stream is the point
    for _, _, reward, text, row, _ in TABLE:
        reward([text] * 3, **{name: [value] * 3 for name, value in row.items()})
    for (
        _,
        reward,
        compat,
        text,
        row,
        _,
    ) in COMPAT:  # the originals themselves are about what is paid, not about the noise
        reward([text] * 3, **{name: [value] * 3 for name, value in row.items()}, compat=compat.split()[0])
    assert random.getstate() == python
    assert str(np.random.get_state()) == numpy  # noqa: NPY002
    assert capfd.readouterr() == ("", "")

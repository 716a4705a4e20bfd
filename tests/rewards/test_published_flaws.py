"""The flaws measured in the published reward functions (d1 and its descendants), one row each: ours must not have them."""

import random
from typing import Any

import numpy as np
import pytest

from rewards import countdown, gsm8k, math, sudoku
from rewards import format as layout

IDEAL = "<reasoning>\nHalf of 48 is 24.\nTogether they make 72.\n</reasoning>\n<answer>\n72\n</answer>"
NUMBERS = {"numbers": [2, 4, 3], "target": 5}


def answered(text: str) -> str:
    return f"<reasoning>\nSo.\nThen.\n</reasoning>\n<answer>\n{text}\n</answer>"


# (number of the flaw, what the published code does, our reward, completion, columns, the score it must have here)
TABLE: list[tuple[int, str, Any, str, dict[str, Any], float]] = [
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
]  # fmt: skip


@pytest.mark.parametrize(("flaw", "published", "reward", "text", "row", "score"), TABLE)
def test_published_flaws(flaw: int, published: str, reward: Any, text: str, row: dict[str, Any], score: float) -> None:
    columns = {name: [value] for name, value in row.items()}
    assert reward([text], **columns) == [score], f"flaw {flaw}, {published}"


@pytest.mark.parametrize("reward", [math.correct, gsm8k.correct])
def test_a_missing_gold_answer_is_no_wrong_answer(reward: Any) -> None:
    assert reward([r"\boxed{5}", "none"], answer=[None, None]) == [None, None]


def test_nothing_is_printed_and_no_global_stream_is_touched(capfd: pytest.CaptureFixture[str]) -> None:
    """Flaw 9: coloured prints from every rank, decided by draws from numpy's global generator."""
    python, numpy = random.getstate(), str(np.random.get_state())  # noqa: NPY002  the global stream is the point
    for _, _, reward, text, row, _ in TABLE:
        reward([text] * 3, **{name: [value] * 3 for name, value in row.items()})
    assert random.getstate() == python
    assert str(np.random.get_state()) == numpy  # noqa: NPY002
    assert capfd.readouterr() == ("", "")

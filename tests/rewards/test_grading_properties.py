r"""Properties of grading: nothing raises on any text, what does not matter does not matter, and right is right as one writes it.

Promised, for our own parsers (`rewards/extract.py`): whitespace around a completion, a run of end-of-text markers behind it, and
the case of `<answer>` do not change a score. The layout rewards are about exact tags: `soft`, `strict` and `code` promise the
first two, `tags`, which counts line breaks, neither.
"""

import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import code, countdown, gsm8k, math, sudoku
from rewards import extract as ours
from rewards import format as layout
from rewards.grading.marks import Row
from rewards.grading.parsers import every_parser

# Surrogates, control characters, digits of all scripts; and pieces that mean something to some parser.
PIECES = st.sampled_from(
    ["<answer>", "</answer>", "<ANSWER>", "\\boxed{", "\\boxed ", "}", "{", "\\frac", "####", "The answer is ", "```python\n", "```",
     "<reasoning>\n", "\n</reasoning>\n", "<|eot_id|>", "$", "\\sqrt", "\\text{ ", "=", "2*4-3", "(", "9**9", "1,450", "-", "٣", "²",
     "1234123412341234", "\ud800", "\x00", "\u2028", " ", "\n", "İ", "ſ"]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(st.characters(), max_size=40),
    st.lists(st.one_of(PIECES, st.text(st.characters(), max_size=3)), max_size=12).map("".join),
)
GOLDS: dict[str, Any] = {
    "gsm8k": "#### 1,450",
    "math": r"\frac{1}{2}",
    "countdown": ([2, 3, 4], 5),
    "sudoku": ("0321003004002100", "4321123434122143"),
}
# Of the tasks graded by their text; programs are run, and tests/rewards/test_code_text.py has what is read of them.
PARSERS = [
    (task, parser)
    for task, parser in every_parser()
    if task.name in GOLDS and (task.name, parser.name) != ("math", "espo")
]

# Text rewards: function, columns of a row.
REWARDS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (gsm8k.correct, {"answer": "#### 1,450"}),
    (gsm8k.format_integer, {}),
    (countdown.correct, {"numbers": [2, 3, 4], "target": 5}),
    (countdown.attempt, {"numbers": [2, 3, 4], "target": 5}),
    (sudoku.solved, {"puzzle": "0321003004002100"}),
    (sudoku.cells, {"puzzle": "0321003004002100", "solution": "4321123434122143"}),
    (layout.answered, {}),
    (layout.boxed, {}),
    (code.format, {}),
    (layout.tags, {}),
    (layout.soft, {}),
    (layout.strict, {}),
]
MARKERS = st.lists(st.sampled_from([*ours.END_MARKERS, " ", "\n"]), max_size=5).map("".join)


def score(reward: Callable[..., Any], row: dict[str, Any], text: str) -> float:
    (value,) = reward([text], **{name: [cell] for name, cell in row.items()})
    return value


# ------------------------------------------------------------------------------------------------------------ no exception


@given(TEXTS)
@settings(max_examples=150)
def test_no_reward_raises_on_any_text(text: str) -> None:
    for reward, row in REWARDS:
        assert 0.0 <= score(reward, row, text) <= 1.0
    math.stated_answer(text)  # what is compared is tried below, in worker processes
    ours.final_number(text)


@given(TEXTS)
@settings(max_examples=100)
def test_no_parser_raises_on_any_text(text: str) -> None:
    for task, parser in PARSERS:
        if (task.name, parser.name) != ("math", "unmask"):
            for gold in (GOLDS[task.name], None):
                (mark,) = parser.grade([Row("What?", text, gold)])
                assert mark is None or 0 <= mark.right <= mark.of


@given(st.lists(TEXTS, min_size=8, max_size=8))
@settings(max_examples=6, deadline=None)
def test_no_formula_breaks_the_comparison(texts: list[str]) -> None:
    boxes = [rf"\boxed{{{text}}}" for text in texts]
    for scores in (
        math.correct(boxes, answer=["5"] * 8, seconds=1.0),
        math.correct(boxes, answer=["5"] * 8, compat="espo"),
    ):
        assert all(value in (0.0, 1.0) for value in scores)


@pytest.mark.parametrize(
    "piece", ["<answer>", "<ANSWER> ", "\\boxed{", "1", "1,", "#### ", "İ", "\ud800", "\\frac{1}{", "(", "=", "\n"]
)
def test_long_texts_raise_nothing_and_take_no_time(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    began = time.process_time()
    for reward, row in REWARDS:
        score(reward, row, text)
    for task, parser in PARSERS:
        if (task.name, parser.name) != ("math", "unmask"):
            parser.grade([Row("", text, GOLDS[task.name])])
    assert math.correct([text], answer=["5"]) == [0.0]
    assert time.process_time() - began < 10.0  # below 1; quadratic ones take minutes


# ------------------------------------------------------------------------------------------------------ what does not matter


@given(TEXTS, st.sampled_from(["", " ", "\n\n", "\t \n"]), st.sampled_from(["", " ", "\n", " \n\n"]), MARKERS)
@settings(max_examples=200)
def test_space_around_and_markers_behind_change_nothing(text: str, before: str, behind: str, markers: str) -> None:
    for reward, row in REWARDS:
        if reward is layout.tags:
            continue
        plain = score(reward, row, ours.strip_end_markers(text).strip())
        assert score(reward, row, before + text + behind + markers) == plain, reward.__name__


@given(TEXTS, st.sampled_from(["<answer>{}</answer>", "so\n<answer>\n{}\n</answer>\n", "<answer>{}"]))
@settings(max_examples=200)
def test_the_case_of_answer_tags_changes_nothing(text: str, frame: str) -> None:
    tags = [("<answer>", "</answer>"), ("<Answer>", "</Answer>"), ("<ANSWER>", "</ANSWER>"), ("<answer>", "</ANSWER>")]
    lower = frame.format(text.replace("<ANSWER>", ""))
    others = [lower.replace("<answer>", opening).replace("</answer>", closing) for opening, closing in tags]
    for reward, row in REWARDS[:6]:
        assert {score(reward, row, other) for other in others} == {score(reward, row, lower)}, reward.__name__
    assert {math.stated_answer(other) for other in others} == {math.stated_answer(lower)}


def test_letters_that_only_look_like_a_tag_are_none() -> None:
    assert ours.tagged_answer("<an\u017fwer>5</an\u017fwer>") is None  # the long s is no s
    assert ours.tagged_answer("\u0130\u0130<ANSWER>5</ANSWER>") == "5"  # lower case of the first has two characters


# ------------------------------------------------------------------------------------------------------- right is right


def with_commas(number: int) -> str:
    return f"{number:,}"


def in_script(zero: str) -> Callable[[int], str]:
    return lambda number: "".join(chr(ord(zero) + int(c)) if c.isdigit() else c for c in str(number))


INTEGERS = [
    str, with_commas, lambda n: f"${with_commas(n)}" if n >= 0 else f"-${with_commas(-n)}", lambda n: rf"\${n}" if n >= 0 else str(n),
    lambda n: f"{n}.00", lambda n: f"{n}.", lambda n: f"{n} apples", lambda n: f"{n}%", lambda n: f"x = {n}",
    lambda n: with_commas(n).replace(",", "{,}"), lambda n: with_commas(n).replace(",", r"\,"),
    lambda n: with_commas(n).replace(",", r"\!,"), lambda n: with_commas(n).replace(",", "\u202f"), in_script("\u0660"),
    in_script("\uff10"), in_script("\u0966"),
    lambda n: str(n).replace("-", "\u2212"), lambda n: f"+{n}" if n >= 0 else str(n), lambda n: f"{2 * n}/2", lambda n: f"**{n}**",
    lambda n: f"2 + 3 = {n}", lambda n: rf"\text{{{n}}}",
]  # fmt: skip
FRAMES = [
    "<answer>{}</answer>", "<ANSWER>\n{}\n</ANSWER>", r"<answer>\boxed{{{}}}</answer>", r"so \boxed{{{}}}", r"\boxed{{1}} no: \boxed{{{}}}",
    "It is 7.\n#### {}", "<answer>{}", "<answer>{}</answer><|eot_id|><|endoftext|>", r"<answer>$\boxed{{{}}}$</answer>",
]  # fmt: skip


@given(st.integers(-(10**7), 10**7), st.sampled_from(INTEGERS), st.sampled_from(FRAMES))
@settings(max_examples=400)
def test_a_right_number_is_right_in_any_notation(number: int, notation: Callable[[int], str], frame: str) -> None:
    text = frame.format(notation(number))
    if "####" not in frame or not any(
        mark in text for mark in ("x =", "2 + 3", "**", "\\text")
    ):  # a #### line is a number and a unit
        assert gsm8k.correct([text], answer=[f"so #### {with_commas(number)}"]) == [1.0], text
        assert gsm8k.correct([text], answer=[number + 1]) == [0.0], text


@given(st.integers(1, 999), st.integers(2, 99), st.sampled_from(["{}/{}", r"\frac{{{}}}{{{}}}", r"\dfrac{{{}}}{{{}}}"]))
def test_a_right_fraction_is_right(above: int, below: int, form: str) -> None:
    text = rf"\boxed{{{form.format(above, below)}}}"
    assert gsm8k.final_number(text) == Fraction(above, below)


# A tree is a number, or (operator, tree, tree).
TREES = st.recursive(
    st.integers(1, 99), lambda inner: st.tuples(st.sampled_from("+-*/"), inner, inner), max_leaves=6
)  # fmt: skip


def value_of(tree: Any) -> Fraction:
    if isinstance(tree, int):
        return Fraction(tree)
    sign, left, right = tree[0], value_of(tree[1]), value_of(tree[2])
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / right if right else Fraction(0, 1)}[
        sign
    ]


def numbers_of(tree: Any) -> list[int]:
    return [tree] if isinstance(tree, int) else numbers_of(tree[1]) + numbers_of(tree[2])


def divides_by_zero(tree: Any) -> bool:
    if isinstance(tree, int):
        return False
    return (tree[0] == "/" and value_of(tree[2]) == 0) or divides_by_zero(tree[1]) or divides_by_zero(tree[2])


SIGNS = {
    "plain": {"+": "+", "-": "-", "*": "*", "/": "/"},
    "spaced": {"+": " + ", "-": " - ", "*": " * ", "/": " / "},
    "unicode": {"+": "+", "-": "\u2212", "*": "×", "/": "÷"},
    "latex": {"+": " + ", "-": " - ", "*": r" \times ", "/": r" \div "},
    "cdot": {"+": "+", "-": "-", "*": r" \cdot ", "/": "/"},
}


def rendered(tree: Any, signs: dict[str, str], brackets: tuple[str, str], fractions: bool) -> str:
    if isinstance(tree, int):
        return str(tree)
    sides = [rendered(side, signs, brackets, fractions) for side in tree[1:]]
    if fractions and tree[0] == "/":
        return rf"\frac{{{sides[0]}}}{{{sides[1]}}}"
    left, right = (
        one if isinstance(side, int) else brackets[0] + one + brackets[1]
        for one, side in zip(sides, tree[1:], strict=True)
    )
    return left + signs[tree[0]] + right


@given(
    TREES,
    st.sampled_from(sorted(SIGNS)),
    st.sampled_from([("(", ")"), ("[", "]"), (r"\left(", r"\right)")]),
    st.booleans(),
    st.sampled_from(
        [
            "<answer>{}</answer>",
            r"\boxed{{{}}}",
            r"<answer>\boxed{{{} = #}}</answer>",
            "<Answer> ${}$ </Answer>",
            "<answer>{}.",
        ]
    ),
)
@settings(max_examples=300)
def test_a_right_expression_is_right_in_any_notation(
    tree: Any, signs: str, brackets: tuple[str, str], fractions: bool, frame: str
) -> None:
    value = value_of(tree)
    if divides_by_zero(tree) or value.denominator != 1:
        return
    text = frame.format(rendered(tree, SIGNS[signs], brackets, fractions)).replace("#", str(value))
    row = {"numbers": numbers_of(tree), "target": int(value)}
    if "=" in text and value < 0 and isinstance(tree, int):
        return
    assert score(countdown.correct, row, text) == 1.0, text
    assert score(countdown.correct, {**row, "target": int(value) + 1}, text) == 0.0, text


LAYOUTS: list[Callable[[str], str]] = [
    str, " ".join, ", ".join,
    lambda grid: "\n".join(grid[i : i + 4] for i in range(0, 16, 4)),
    lambda grid: "\n".join(" ".join(grid[i : i + 4]) for i in range(0, 16, 4)),
    lambda grid: "\n".join(f"Row {i // 4 + 1}: {grid[i : i + 4]}" for i in range(0, 16, 4)),
    lambda grid: "\n".join(f"{i // 4 + 1}. {' '.join(grid[i : i + 4])}" for i in range(0, 16, 4)),
    lambda grid: "\n".join("| " + " | ".join(grid[i : i + 4]) + " |" for i in range(0, 16, 4)),
    lambda grid: "\n".join(f"{grid[i : i + 2]} | {grid[i + 2 : i + 4]}" + "\n---+---" * (i == 4) for i in range(0, 16, 4)),
    lambda grid: str([[int(c) for c in grid[i : i + 4]] for i in range(0, 16, 4)]),
    lambda grid: "```\n" + "\n".join(grid[i : i + 4] for i in range(0, 16, 4)) + "\n```",
    lambda grid: "".join(chr(0x0660 + int(c)) for c in grid),
]  # fmt: skip


@given(
    st.sampled_from(sudoku.solution_grids()),
    st.sets(st.integers(0, 15), min_size=1, max_size=12),
    st.sampled_from(LAYOUTS),
    st.sampled_from(["<answer>{}</answer>", "<ANSWER>\n{}\n</ANSWER>", "The grid is:\n{}", "<answer>\n{}"]),
)
@settings(max_examples=200)
def test_a_right_grid_is_right_in_any_layout(
    grid: str, blanks: set[int], form: Callable[[str], str], frame: str
) -> None:
    puzzle = "".join("0" if cell in blanks else digit for cell, digit in enumerate(grid))
    row = {"puzzle": puzzle, "solution": grid}
    assert score(sudoku.solved, {"puzzle": puzzle}, frame.format(form(grid))) == 1.0
    assert score(sudoku.cells, row, frame.format(form(grid))) == 1.0
    wrong = grid[:15] + str(int(grid[15]) % 4 + 1)
    assert score(sudoku.solved, {"puzzle": puzzle}, frame.format(form(wrong))) == 0.0


FORMS = [
    (
        "10000",
        [
            "10,000",
            r"10{,}000",
            r"10\,000",
            "10000.0",
            r"x = 10000",
            "$10000$",
            r"\text{10000}",
            r"1 \times 10^4",
        ],
    ),
    (r"\frac12", [r"\frac{1}{2}", r"\dfrac{1}{2}", r"\tfrac12", "1/2", "0.5", ".5", r"\frac{2}{4}", r"50\%"]),
    (r"2\sqrt3", [r"\sqrt{12}", r"2\sqrt{3}", r"2 \cdot \sqrt{3}", r"\sqrt{3} \cdot 2", r"\frac{6}{\sqrt 3}"]),
    ("(A)", [r"\text{(A)}", "A", r"\mathrm{(A)}", r"\textbf{(A)}"]),
    ("-5", ["\u22125", "-5.0", r"-\frac{10}{2}", "x=-5"]),
    (r"\left( 3, \frac{\pi}{2} \right)", [r"(3, \frac{\pi}{2})", r"(3,\pi/2)", r"\left(3,\frac{1}{2}\pi\right)"]),
    ("x^2+2x+1", ["1+2x+x^2", "(x+1)^2", "x^{2} + 2x + 1", "(x+1)(x+1)"]),
    (r"90^\circ", ["90", r"90^{\circ}"]),
    (r"2516_8", ["2516", r"2516_{8}", r"2516\text{ base 8}"]),
    (r"\text{east}", ["east", "East", r"\text{East}", r"\textbf{east}"]),
    ("[0,1)", ["[0, 1)", r"\left[0,1\right)"]),
    ("3,4", ["4, 3", "3, 4", r"\{3, 4\}"]),
]


def test_a_right_formula_is_right_in_any_form() -> None:
    rows = [
        (form.format(said), gold)
        for gold, forms in FORMS
        for said in forms
        for form in (r"\boxed{{{}}}", r"<Answer>${}$</Answer>")
    ]
    scores = math.correct([text for text, _ in rows], answer=[gold for _, gold in rows])
    assert [row for row, found in zip(rows, scores, strict=True) if found != 1.0] == []

"""Multiple choice: what is read as a choice, and what a gold answer may look like."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import choice

CITIES = ["London", "Paris", "A small town", "Rome"]


def read(text, choices=None, prompt=""):
    return choice.stated_choice(text, choice.parse_choices(choices), prompt)


@pytest.mark.parametrize(
    "text",
    [
        "B", "b", "(B)", "(b)", "B.", "B)", "b)", "**B**", "[B]", "$B$", r"\text{B}", r"\boxed{B}", r"\boxed{\text{(B)}}",
        "Option B", "option (b)", "The answer is B.", "the correct answer is: B", "B: Paris", "B) Paris", "(B) Paris", "B. paris.",
        "Paris", "  paris. ", "B - Paris", "B\n", "The final answer is (B)", "It is B", "It must be (B) since it is in France",
    ],
)  # fmt: skip
def test_one_choice_however_it_is_written(text):
    assert read(f"<answer>{text}</answer>", CITIES) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "A or B", "A, B", "A B C D", "(A) (B) (C) (D)", "B and C", "A/B", "", "none of them", "E", "London Paris", "B) London",
        "either (a) or (b)", "A small hint", "I think so", "B. London", "B, C", "not A but B", "Paris or London",
    ],
)  # fmt: skip
def test_no_choice_or_several(text):
    assert read(f"<answer>{text}</answer>", CITIES) in (None, "E")
    assert choice.correct([f"<answer>{text}</answer>"], ["B"], [CITIES]) == [0.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>A</answer> or rather <answer>(C)</answer>", "C"),
        (r"\boxed{A} no, \boxed{D}", "D"),
        ("So (A) is wrong.\nThe answer is (D).", "D"),
        ("The answer is A. Wait.\nThe answer is B", "B"),
        ("Answer: C", "C"),
        ("answer:\n\n**C**", "C"),
        ("It was London, so\n(A)", "A"),
        ("The answer is A small town", "C"),
        ("The answer is either A or B", None),
        ("<answer>B", "B"),
        ("The answer is B<|eot_id|><|endoftext|>", "B"),
        ("B", "B"),
        ("", None),
        ("I do not know", None),
        ("(D) is what I would say if it were not for (B)", None),
        ("<answer>x</answer> B", None),  # the tag decides
    ],
)
def test_where_it_is_read(text, expected):
    assert read(text, CITIES) == expected


def test_the_last_line_of_the_prompt_is_no_answer():
    prompt = "Which one?\n(A) London\n(B) Paris"
    assert read(prompt, CITIES, prompt) is None
    assert read("I say\n(B) Paris", ["London", "Paris"], "Which?") == "B"
    assert choice.correct([prompt], ["B"], [CITIES], prompts=[prompt]) == [0.0]
    assert choice.correct([prompt], ["B"], [CITIES], prompts=[[{"role": "user", "content": prompt}]]) == [0.0]


@pytest.mark.parametrize(
    ("gold", "choices", "label"),
    [
        ("B", None, "B"), ("(b)", None, "B"), (1, None, "B"), ("1", None, "B"), (1, CITIES, "B"), ("Paris", CITIES, "B"),
        ("paris ", CITIES, "B"), ("2", {"text": ["x", "y"], "label": ["1", "2"]}, "2"),
        (2, {"text": ["x", "y"], "label": ["1", "2"]}, "2"), ("A small town", CITIES, "C"), ("3", ["1", "3"], "B"),
    ],
)  # fmt: skip
def test_gold_answers(gold, choices, label):
    assert choice.gold_label(gold, choice.parse_choices(choices)) == label


@pytest.mark.parametrize(
    ("gold", "choices", "message"),
    [
        ("Oslo", CITIES, "'Oslo' is none of the choices A, B, C, D .London, Paris"),
        (7, CITIES, "7 is none of the choices"),
        ("B", "London", "`choices` must be a list"),
        ("B", [], "`choices` must be a list"),
        ("B", {"text": ["x", "y"], "label": ["1"]}, "2 texts and 1 labels"),
    ],
)
def test_gold_answers_that_are_none(gold, choices, message):
    with pytest.raises(ValueError, match=message):
        choice.correct(["B"], [gold], [choices])


def test_numbers_as_labels():
    arc = {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}
    assert choice.correct(
        ["<answer>2</answer>", "<answer>(2)</answer>", "<answer>1 2</answer>"], ["2"] * 3, [arc] * 3
    ) == [1, 1, 0]


def test_what_was_read_is_logged_and_rows_of_other_tasks_are_left_out():
    seen = {}
    scores = choice.correct(["<answer>B</answer>", "x", "y"], ["B", "A", None], log_extra=seen.__setitem__)
    assert scores == [1.0, 0.0, None]
    assert seen == {"choice_answer": ["B", None, None]}


@settings(max_examples=200)
@given(st.text(alphabet="ABCDabcd()[]{}.,:*$\\ \nxanswer is<>/", max_size=60))
def test_never_raises_and_reads_labels_only(text):
    assert read(text, CITIES) in {None, "A", "B", "C", "D"}
    assert read(f"<answer>{text}</answer>") in {None, *"ABCDEFGHIJ"}

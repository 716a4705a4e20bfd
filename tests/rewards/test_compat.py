"""`compat=`: who has it, how it is named and said, and what happens where an original has no answer."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from rewards import code, compat, countdown, gsm8k, math, sudoku
from rewards import format as layout
from rewards.contract import InfrastructureError, RewardError, grade, load_rewards

HERE = Path(__file__).parent
WITH_ORIGINALS = [
    gsm8k.correct, gsm8k.format_tags, gsm8k.format_soft, gsm8k.format_strict, gsm8k.format_integer, math.correct,
    countdown.correct, sudoku.cells, layout.tags, layout.soft, layout.strict, layout.boxed, code.format, code.pass_rate,
]  # fmt: skip


def loaded(*entries: Any) -> Any:
    return load_rewards(entries, base=HERE)


@pytest.mark.parametrize("fn", WITH_ORIGINALS)
def test_who_takes_it_has_originals(fn: Any) -> None:
    assert compat.originals_of(fn)
    assert set(compat.originals_of(fn)) <= set(compat.SOURCES)
    assert inspect.signature(fn).parameters["compat"].default is None


def test_nobody_else_takes_it() -> None:
    for fn in (countdown.attempt, sudoku.solved, layout.answered):
        assert compat.originals_of(fn) == ()
        assert "compat" not in inspect.signature(fn).parameters
    assert compat.originals_of(lambda **_: []) == ()

    def correct(completions: Any, compat: str = "mine", **_: Any) -> list[float]:
        return [0.0 for _ in completions]

    correct.__module__ = "gsm8k"  # a file of the user's own
    assert compat.originals_of(correct) == ()
    (reward,) = loaded({"fn": correct, "kwargs": {"compat": "anything"}})
    assert reward.name == "correct"
    assert list(compat.notes([reward])) == []


def test_a_recipe_names_it_and_both_stand_beside_each_other() -> None:
    rewards = loaded({"fn": "gsm8k.correct", "kwargs": {"compat": "d1"}}, {"fn": "gsm8k.correct", "weight": 0})
    assert [reward.name for reward in rewards] == ["gsm8k.correct_d1", "gsm8k.correct"]
    text = "<answer>$72</answer>"
    grades = grade(
        rewards, prompts=["?"], completions=[text], completion_ids=[[1]], columns={"answer": ["72"]}, trainer_state=None
    )
    assert grades.components == {"gsm8k.correct_d1": [0.0], "gsm8k.correct": [1.0]}
    assert grades.metrics == {"compat_d1": 1.0}  # the log says so


def test_null_is_ours() -> None:
    (reward,) = loaded({"fn": "gsm8k.correct", "kwargs": {"compat": None}})
    assert reward.name == "gsm8k.correct"
    assert list(compat.notes([reward])) == []


@pytest.mark.parametrize("asked", ["d2", "diffucoder", "D1", 1, ["d1"]])
def test_unknown_originals_are_refused_with_the_valid_ones(asked: Any) -> None:
    with pytest.raises(RewardError, match="one of d1, spg, espo, or null") as caught:
        loaded({"fn": "gsm8k.correct", "kwargs": {"compat": asked}})
    assert caught.value.problems[0][0] == "rewards[0].kwargs.compat"
    with pytest.raises(RewardError, match="one of d1, spg, espo, or null"):
        gsm8k.correct(["72"], answer=["72"], compat=asked)


def test_rewards_without_an_original_refuse_it() -> None:
    with pytest.raises(RewardError, match="attempt has no argument 'compat'"):
        loaded({"fn": "countdown.attempt", "kwargs": {"compat": "d1"}})


def test_a_run_is_told() -> None:
    rewards = loaded({"fn": "countdown.correct", "kwargs": {"compat": "espo"}}, "countdown.attempt")
    (note,) = compat.notes(rewards, "countdown.correct_espo")
    assert "ML-GSAI/ESPO @ b5f2dac" in note
    assert "the accuracy of this run is measured by it" in note
    (note,) = compat.notes(rewards, "countdown.attempt")
    assert "accuracy" not in note


def test_where_an_original_has_no_answer_the_row_is_dropped_and_counted() -> None:
    rewards = loaded({"fn": "countdown.correct", "kwargs": {"compat": "d1"}})
    texts = ["<answer>99**98**97</answer>", "<answer>99+98+97</answer>"]
    columns = {"numbers": [[99, 98, 97]] * 2, "target": [294] * 2}
    grades = grade(
        rewards, prompts=texts, completions=texts, completion_ids=[[1]] * 2, columns=columns, trainer_state=None
    )
    assert grades.total == [None, 1.0]
    assert grades.dropped[0] is not None
    assert "never ends" in grades.dropped[0]
    assert grades.counts["countdown.correct_d1/infrastructure_failures"] == 1
    (crashed,) = code.format(["```python\n'\ud800'\n```\n"], compat="diffucoder")
    assert isinstance(crashed, InfrastructureError)
    assert code.format(["```python\n'\ud800'\n```\n"], compat="espo") == [0.5]
    (crashed,) = math.correct(["5"], answer=[r"\boxed{5"], compat="d1")
    assert isinstance(crashed, InfrastructureError)


def test_rows_that_do_not_apply() -> None:
    assert gsm8k.correct(["72", "72"], answer=[None, 72], compat="espo") == [None, 1.0]
    assert math.correct(["5"], answer=[None], solution=[r"\boxed{5}"], compat="d1") == [2.0]
    assert math.correct(["5"], answer=[None], compat="espo") == [None]
    assert countdown.correct(["x"], numbers=[None], target=[None], compat="d1") == [None]
    assert sudoku.cells(["x"], puzzle=[None], solution=[None], compat="d1") == [None]
    with pytest.raises(RewardError, match="needs the column 'solution'"):
        sudoku.cells(["x"], puzzle=["0" * 16], compat="d1")


def test_the_whole_text_counts_as_it_stands() -> None:
    tail = "<|eot_id|>" + "<|endoftext|>" * 50
    ideal = "<reasoning>\na\n</reasoning>\n<answer>\n5\n</answer>\n"
    assert layout.tags([ideal + tail]) == [1.0]
    (paid,) = layout.tags([ideal + tail], compat="d1")
    assert paid == pytest.approx(0.5 - 0.002 * len(tail))
    messages = [[{"role": "assistant", "content": ideal}]]
    assert layout.tags(messages, compat="d1") == [0.5]
    assert gsm8k.format_tags([ideal.removeprefix("<reasoning>\n")], prefill="<reasoning>\n", compat="d1") == [0.5]

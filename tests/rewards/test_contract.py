"""Calling reward functions: combination, None, logging, async, infrastructure failures, and every error's message."""

import asyncio
import json
import math
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewards.contract import Grades, InfrastructureError, Reward, RewardError, TrainerState, grade, load_rewards

PROMPTS = ["one plus one?", "two plus two?", "three plus three?"]
COMPLETIONS = ["2", "5", "six"]


def run(*rewards: Any, columns: dict[str, list[Any]] | None = None, **changes: Any) -> Grades:
    loaded = tuple(r if isinstance(r, Reward) else load_rewards([r], base=Path("."))[0] for r in rewards)
    arguments: dict[str, Any] = {
        "prompts": PROMPTS,
        "completions": COMPLETIONS,
        "completion_ids": [[1], [2, 3], [4]],
        "columns": columns if columns is not None else {"answer": ["2", "4", "6"]},
        "trainer_state": TrainerState(global_step=7),
    }
    return grade(loaded, **(arguments | changes))


def constant(*values: Any) -> Any:
    def reward(**kwargs: Any) -> Any:
        return list(values)

    return reward


def test_weighted_sum_and_log_only() -> None:
    grades = run(
        {"fn": constant(1, 0, 1), "weight": 2.0, "name": "a"},
        {"fn": constant(0.5, None, None), "weight": -1, "name": "b"},
        {"fn": constant(9, 9, 9), "weight": 0, "name": "seen"},
    )
    assert grades.total == [1.5, 0.0, 2.0]
    assert grades.components == {"a": [1.0, 0.0, 1.0], "b": [0.5, None, None], "seen": [9.0, 9.0, 9.0]}
    assert grades.dropped == [None] * 3
    assert set(grades.seconds) == {"a", "b", "seen"}
    assert all(seconds >= 0 for seconds in grades.seconds.values())


def test_a_row_that_no_weighted_reward_applies_to_has_no_total() -> None:
    grades = run(
        {"fn": constant(1, None, None), "name": "a"}, {"fn": constant(None, None, 1), "weight": 0, "name": "log"}
    )
    assert grades.total == [1.0, None, None]
    assert grades.dropped == [None] * 3


def test_what_a_function_receives() -> None:
    seen: dict[str, Any] = {}

    def spy(**kwargs: Any) -> list[float]:
        seen.update(kwargs)
        return [0.0] * 3

    run(
        {"fn": spy, "kwargs": {"alpha": 2, "names": ["x"]}},
        columns={"answer": ["2", "4", "6"], "prompt": ["p"] * 3, "completion": ["c"] * 3, "completion_ids": [[9]] * 3},
    )
    assert set(seen) == {
        "prompts", "completions", "completion_ids", "answer", "alpha", "names", "trainer_state", "log_extra",
        "log_metric",
    }  # fmt: skip
    assert seen["prompts"] == PROMPTS
    assert seen["completions"] == COMPLETIONS
    assert seen["completion_ids"] == [[1], [2, 3], [4]]
    assert seen["answer"] == ["2", "4", "6"]
    assert seen["trainer_state"].global_step == 7
    assert seen["names"] == ["x"]


def test_a_function_that_changes_its_arguments_changes_nobody_elses() -> None:
    def vandal(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
        completions[:] = []
        answer.clear()
        kwargs["prompts"].pop()
        return [0.0] * 3

    def equal(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    assert run(vandal, equal).components["equal"] == [1.0, 0.0, 0.0]


def test_kinds_of_numbers() -> None:
    torch = pytest.importorskip("torch")
    for output in (
        [True, False, 1],
        (1.0, 0.0, 1.0),
        np.array([1.0, 0.0, 1.0]),
        [np.float32(1), np.int64(0), np.bool_(True)],
        torch.tensor([1.0, 0.0, 1.0]),
        [torch.tensor(1.0), 0, torch.tensor([1.0])],
        (x for x in (1, 0, 1)),
    ):
        (scores,) = run({"fn": lambda output=output, **kwargs: output, "name": "r"}).components.values()
        assert scores == [1.0, 0.0, 1.0]
        assert all(type(score) is float for score in scores)


def test_logging() -> None:
    def chatty(completions: list[str], log_extra: Any, log_metric: Any, **kwargs: Any) -> list[float]:
        log_extra("length", [len(c) for c in completions])
        log_metric("mean", 1)
        log_metric("mean", np.float64(2.0))
        return [0.0] * 3

    def also(log_extra: Any, log_metric: Any, **kwargs: Any) -> list[float]:
        log_extra("length", "abc")
        log_metric("mean", 6)
        return [0.0] * 3

    grades = run(chatty, also)
    assert grades.extras == {"length": [1, 1, 3], "also.length": ["a", "b", "c"]}
    assert grades.metrics == {"mean": 3.0}


def test_empty_batch() -> None:
    grades = run("gsm8k.correct", prompts=[], completions=[], completion_ids=[], columns={"answer": []})
    assert grades.total == []
    assert grades.components == {"gsm8k.correct": []}


def test_rows_must_agree() -> None:
    with pytest.raises(ValueError, match=r"prompts: 3, completions: 2, column 'answer': 1"):
        run(constant(0, 0, 0), completions=["a", "b"], columns={"answer": ["x"]})


# --------------------------------------------------------------------------------------------------------- async


def test_async_functions_run_together_and_keep_their_loop() -> None:
    loops = []
    meeting = {}

    async def first(**kwargs: Any) -> list[float]:
        loops.append(asyncio.get_running_loop())
        meeting.setdefault("event", asyncio.Event()).set()
        return [1.0, 1.0, 1.0]

    class Second:
        async def __call__(self, **kwargs: Any) -> list[float | None]:
            await asyncio.wait_for(meeting.setdefault("event", asyncio.Event()).wait(), 10)  # set by the other one
            return [None, 2.0, 2.0]

    for _ in range(2):
        meeting.clear()
        grades = run(Second(), first, constant(5, 5, 5))
        assert grades.components == {"Second": [None, 2.0, 2.0], "first": [1.0] * 3, "reward": [5.0] * 3}
        assert grades.total == [6.0, 8.0, 8.0]
    assert loops[0] is loops[1]
    assert loops[0].is_running()


def test_grade_works_inside_a_running_loop() -> None:
    async def judge(**kwargs: Any) -> list[float]:
        await asyncio.sleep(0)
        return [1.0] * 3

    async def notebook() -> Grades:
        return run(judge)

    assert asyncio.run(notebook()).total == [1.0] * 3


@pytest.mark.parametrize("failure", [ValueError("bad"), SystemExit(3)])
def test_an_async_failure_names_its_reward(failure: BaseException) -> None:
    async def good(**kwargs: Any) -> list[float]:
        await asyncio.sleep(0)
        return [1.0] * 3

    async def bad(completions: list[str], **kwargs: Any) -> list[float]:
        await asyncio.sleep(0)
        if "5" in completions:
            raise failure
        return [1.0] * len(completions)

    with pytest.raises(RewardError, match=r"reward bad raised \w+ on row 1") as caught:
        run(good, bad)
    assert caught.value.__cause__ is failure
    assert run(good).total == [1.0] * 3  # the loop survived


# ------------------------------------------------------------------------------------------------ infrastructure


def test_infrastructure_failure_drops_the_call() -> None:
    def judge(log_extra: Any, **kwargs: Any) -> list[float]:
        log_extra("half", [1])
        raise InfrastructureError("judge unreachable\ndetails")

    async def judge_too(**kwargs: Any) -> list[float]:
        raise InfrastructureError("timeout")

    for fn, reason in ((judge, "reward judge: judge unreachable"), (judge_too, "reward judge_too: timeout")):
        grades = run({"fn": constant(1, 1, 1), "name": "good"}, fn)
        assert grades.dropped == [reason] * 3
        assert grades.total == [None] * 3
        assert grades.components[fn.__name__] == [None] * 3
        assert grades.components["good"] == [1.0] * 3
        assert grades.counts == {f"{fn.__name__}/infrastructure_failures": 3}
        assert grades.extras == {}


def test_single_rows_can_be_dropped() -> None:
    grades = run({"fn": constant(1, InfrastructureError("sandbox died"), 0), "name": "code"})
    assert grades.dropped == [None, "reward code: sandbox died", None]
    assert grades.total == [1.0, None, 0.0]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("request 81723 failed", "request # failed"),
        ("request 7 failed after 12.5 s", "request # failed after #.# s"),
        ("HTTP 503 from judge", "HTTP 503 from judge"),
        ("no reply to req_8817", "no reply to req_#"),
        ("id 550e8400-e29b-41d4-a716-446655440000 lost", "id # lost"),
        ("x" * 500, "x" * 80),
        ("half \ud800", "half \\ud#"),
        ("", "infrastructure error"),
    ],
)
def test_reasons_are_few_short_and_writable(said: str, reason: str) -> None:
    dropped = run({"fn": constant(1, InfrastructureError(said), 0), "name": "r"}).dropped
    assert dropped == [None, f"reward r: {reason}", None]


def test_log_only_failures_drop_nothing() -> None:
    down = constant(*[InfrastructureError("down")] * 3)
    grades = run({"fn": constant(1, 1, 1), "name": "good"}, {"fn": down, "weight": 0, "name": "extra"})
    assert grades.dropped == [None] * 3
    assert grades.total == [1.0] * 3
    assert grades.counts == {"extra/infrastructure_failures": 3}


# -------------------------------------------------------------------------------------------------------- errors


def test_an_exception_shows_reward_row_sample_and_cause() -> None:
    def parse(completions: list[str], **kwargs: Any) -> list[float]:
        return [float(int(c)) for c in completions]

    with pytest.raises(RewardError) as caught:
        run({"fn": parse, "name": "my parser"})
    message = str(caught.value)
    assert "reward my parser raised ValueError on row 2: invalid literal" in message
    assert "row 2 prompt:     'three plus three?'" in message
    assert "row 2 completion: 'six'" in message
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_sample_is_shown_even_when_the_function_emptied_its_arguments() -> None:
    def vandal(completions: list[str], **kwargs: Any) -> list[float]:
        text = completions.pop()
        kwargs["prompts"].clear()
        raise ValueError(text)

    with pytest.raises(RewardError, match=r"(?s)raised ValueError on row 0.*row 0 completion: '2'"):
        run(vandal)


def test_a_failure_of_the_whole_batch_says_so() -> None:
    def whole(completions: list[str], **kwargs: Any) -> list[float]:
        if len(completions) > 1:
            raise KeyError("batch")
        return [0.0]

    with pytest.raises(RewardError, match=r"raised KeyError on the whole batch .*row 0 is shown"):
        run(whole)


def test_exit_in_a_reward_does_not_end_the_run_silently() -> None:
    def leaves(**kwargs: Any) -> list[float]:
        sys.exit(0)

    with pytest.raises(RewardError, match="reward leaves raised SystemExit on row 0"):
        run(leaves)


def test_long_samples_are_shortened() -> None:
    def fails(**kwargs: Any) -> list[float]:
        raise ValueError("x")

    with pytest.raises(RewardError) as caught:
        run(fails, completions=["a" * 100_000, "b", "c"])
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ([1.0, 2.0], r"returned 2 scores for 3 completions"),
        ([], r"returned 0 scores for 3 completions"),
        (1.0, r"returned float \(1.0\); it must return a list"),
        (None, r"returned NoneType"),
        ("abc", r"returned str"),
        ({"a": 1}, r"returned dict"),
        ([1.0, "0.5", 0.0], r"returned '0.5' \(str\) for row 1"),
        ([1.0, 0.5, math.nan], r"returned nan \(float\) for row 2"),
        ([math.inf, 0.5, 0.0], r"returned inf \(float\) for row 0"),
        ([1.0, [0.5], 0.0], r"returned \[0.5\] \(list\) for row 1"),
        ([1.0, np.array([1.0, 2.0]), 0.0], r"\(ndarray\) for row 1"),
        ([1.0, 1j, 0.0], r"returned 1j \(complex\) for row 1"),
        ([1.0, 10**400, 0.0], r"returned 10+ .*\(int\) for row 1"),
        ([1.0, 10**5000, 0.0], r"returned <int> \(int\) for row 1"),
    ],
)
def test_bad_outputs(output: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message) as caught:
        run({"fn": lambda **kwargs: output, "name": "r"})
    assert "reward r" in str(caught.value)


def test_a_generator_that_fails_half_way() -> None:
    def lazy(completions: list[str], **kwargs: Any) -> Any:
        return (float(c) for c in completions)

    with pytest.raises(RewardError, match="reward lazy raised ValueError on row 2"):
        run(lazy)


def test_bad_logging() -> None:
    def extra(log_extra: Any, **kwargs: Any) -> list[float]:
        log_extra("col", [1])
        return [0.0] * 3

    def metric(log_metric: Any, **kwargs: Any) -> list[float]:
        log_metric("m", "high")
        return [0.0] * 3

    with pytest.raises(RewardError, match=r"log_extra\('col', ...\) got 1 values for 3 completions"):
        run(extra)
    with pytest.raises(RewardError, match=r"log_metric\('m', ...\) needs a number"):
        run(metric)


@pytest.mark.parametrize("value", [10**400, pytest.param(10**5000, id="huge"), None, [1.0], np.array([1.0, 2.0])])
def test_metrics_that_are_no_numbers(value: Any) -> None:
    def metric(log_metric: Any, **kwargs: Any) -> list[float]:
        log_metric("m", value)
        return [0.0] * 3

    with pytest.raises(RewardError, match=r"reward metric: log_metric\('m', ...\) needs a number"):
        run(metric)


@pytest.mark.parametrize(
    ("values", "mean"), [([1e308, 1e308], math.inf), ([math.inf, -math.inf], math.nan), ([1.0, 2.0], 1.5)]
)
def test_means_of_extreme_metrics(values: list[float], mean: float) -> None:
    def metric(log_metric: Any, **kwargs: Any) -> list[float]:
        for value in values:
            log_metric("m", value)
        return [0.0] * 3

    assert run(metric).metrics["m"] == pytest.approx(mean, nan_ok=True)


def test_a_total_that_is_too_large() -> None:
    with pytest.raises(RewardError, match="rewards of row 1 add up to inf"):
        run(*({"fn": constant(0, 1e308, 0), "name": name} for name in "ab"))


@pytest.mark.parametrize(
    ("logged", "kept"),
    [
        ("a\ud800b", "a\\ud800b"),
        (["\udfff", 1, None], ["\\udfff", 1, None]),
        ({"k\ud800": ("v\ud800",)}, {"k\\ud800": ["v\\ud800"]}),
        ("é ∑ 😀", "é ∑ 😀"),
        ([10**5000], ["an integer of 16610 bits"]),
        (True, True),
    ],
)
def test_what_is_logged_can_be_written(logged: Any, kept: Any) -> None:
    def chatty(log_extra: Any, log_metric: Any, **kwargs: Any) -> list[float]:
        log_extra("c\ud800", [logged] * 3)
        log_metric("m\ud800", 1)
        return [0.0] * 3

    grades = run(chatty)
    assert grades.extras == {"c\\ud800": [kept] * 3}
    assert grades.metrics == {"m\\ud800": 1.0}
    json.dumps(grades.extras, ensure_ascii=False).encode()


def test_an_error_with_half_a_character_can_be_printed() -> None:
    def fails(**kwargs: Any) -> list[float]:
        raise ValueError("\ud800")

    with pytest.raises(RewardError) as caught:
        run(fails)
    str(caught.value).encode()


def test_missing_column() -> None:
    with pytest.raises(
        RewardError, match=r"gsm8k.correct: the data has no column 'answer' \(columns: solution\).*columns"
    ):
        run("gsm8k.correct", columns={"solution": ["1", "2", "3"]})


def test_clashing_names() -> None:
    with pytest.raises(RewardError, match=r"kwargs \['answer'\] are also data columns"):
        run({"fn": constant(0, 0, 0), "kwargs": {"answer": 1}})
    with pytest.raises(RewardError, match=r"\['trainer_state'\] have names"):
        run(constant(0, 0, 0), columns={"trainer_state": [1, 2, 3]})


def test_errors_travel_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(RewardError("text", [("rewards[0].fn", "why")])))
    assert str(error) == "text"
    assert error.problems == (("rewards[0].fn", "why"),)


def test_rewards_import_nothing_heavy() -> None:
    code = (
        "import sys, rewards.contract, rewards.sudoku, rewards.gsm8k, rewards.extract; rewards.contract.available();"
        "heavy = ('torch', 'ray', 'transformers', 'numpy', 'trl', 'math_verify', 'sympy', 'rl', 'rollouts');"
        "print([m for m in heavy if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_threads_are_not_left_behind() -> None:
    async def judge(**kwargs: Any) -> list[float]:
        return [1.0] * 3

    for _ in range(5):
        run(judge)
    names = [thread.name for thread in threading.enumerate()]
    assert sum(bool(re.match("unmask-rewards", name)) for name in names) == 1


def test_what_is_logged_may_have_keys_that_are_no_text() -> None:
    def cells(completions: list[str], log_extra: Any, **_: Any) -> list[float]:
        log_extra("grid", [{(0, 1): "a\ud800", 2: 3}] * len(completions))
        return [0.0] * len(completions)

    assert run(cells).extras["grid"][0] == {(0, 1): "a\\ud800", 2: 3}

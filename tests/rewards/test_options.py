"""What an entry may say besides its function: which rows, how often again, once for equal rows, and what an exception costs."""

import random
from pathlib import Path
from typing import Any

import pytest

from rewards.contract import Grades, InfrastructureError, RewardError, TrainerState, grade, load_rewards
from rewards.contract.cache import ScoreCache

COLUMNS = {"task": ["a", "b", "a", "c"], "level": [1, 2, 3, None]}
TEXTS = ["w", "x", "y", "z"]


def run(*entries: dict[str, Any], texts: list[str] = TEXTS, **changes: Any) -> Grades:
    given: dict[str, Any] = {
        "prompts": ["p"] * len(texts),
        "completions": texts,
        "completion_ids": [[1]] * len(texts),
        "columns": {name: values[: len(texts)] for name, values in COLUMNS.items()},
        "trainer_state": TrainerState(),
    }
    return grade(load_rewards(entries, base=Path()), **(given | changes))


def entry(fn: Any, **options: Any) -> dict[str, Any]:
    return {"fn": fn, **options}


class Spy:
    """Scores by text; remembers the texts of each call, and fails as it is told, call by call."""

    def __init__(self, *fails: set[str]) -> None:
        self.calls: list[list[str]] = []
        self.fails = list(fails)

    def __call__(self, completions: list[str], **_: Any) -> list[Any]:
        bad = self.fails[len(self.calls)] if len(self.calls) < len(self.fails) else set()
        self.calls.append(completions)
        return [InfrastructureError("down") if text in bad else float(ord(text)) for text in completions]


# ---- where


def test_a_function_sees_its_rows_only() -> None:
    seen: dict[str, Any] = {}

    def spy(log_extra: Any, log_metric: Any, **given: Any) -> list[float]:
        seen.update(given)
        log_extra("seen", given["completions"])
        log_metric("rows", len(given["completions"]))
        return [1.0] * len(given["completions"])

    found = run(
        entry(spy, where={"task": "a"}), entry(Spy(), name="rest", where={"task": ["b", "c"], "level": [2, None]})
    )
    assert found.components == {"spy": [1.0, None, 1.0, None], "rest": [None, 120.0, None, 122.0]}
    assert found.total == [1.0, 120.0, 1.0, 122.0]
    assert found.extras == {"seen": ["w", None, "y", None]}
    assert found.metrics == {"rows": 2.0}
    assert {name: seen[name] for name in ("completions", "task", "level")} == {
        "completions": ["w", "y"],
        "task": ["a", "a"],
        "level": [1, 3],
    }


def test_a_function_without_rows_is_not_called() -> None:
    spy = Spy()
    found = run(entry(spy, name="spy", where={"task": "none"}))
    assert found.components == {"spy": [None] * 4}
    assert found.total == [None] * 4
    assert spy.calls == []


def test_a_column_to_route_by_that_is_not_there() -> None:
    with pytest.raises(
        RewardError, match=r"where names a column 'tasks' that the data does not have; did you mean 'task'\?"
    ):
        run(entry(Spy(), name="spy", where={"tasks": "a"}))


def test_the_row_of_an_error_is_that_of_the_batch() -> None:
    def fails(completions: list[str], **_: Any) -> list[float]:
        return [1 / (text != "z") for text in completions]

    with pytest.raises(
        RewardError, match=r"(?s)raised ZeroDivisionError on row 3.*row 3 completion: 'z'\n.*row 3 column task: 'c'"
    ):
        run(entry(fails, where={"task": ["b", "c"]}))


# ---- retries


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr("rewards.contract.batch.time.sleep", found.append)
    return found


def test_only_failed_rows_are_tried_again(pauses: list[float]) -> None:
    spy = Spy({"w", "y", "z"}, {"y", "z"}, {"z"})
    found = run(entry(spy, name="spy", retries=2))
    assert spy.calls == [TEXTS, ["w", "y", "z"], ["y", "z"]]
    assert found.components == {"spy": [119.0, 120.0, 121.0, None]}
    assert found.dropped == [None, None, None, "reward spy: down"]
    assert found.counts == {"spy/retries": 5, "spy/infrastructure_failures": 1}
    assert len(pauses) == 2
    assert 0.5 <= pauses[0] <= 1.0
    assert 1.0 <= pauses[1] <= 2.0


def test_pauses_draw_nothing_from_the_global_stream(pauses: list[float]) -> None:
    random.seed(3)
    before = random.getstate()
    run(entry(Spy({"w"}), name="spy", retries=5))
    assert random.getstate() == before
    assert len(pauses) == 1


def test_a_whole_call_that_failed_is_tried_again_with_what_it_logged(pauses: list[float]) -> None:
    tries = []

    async def judge(completions: list[str], log_extra: Any, **_: Any) -> list[float]:
        tries.append(completions)
        if len(tries) == 1:
            raise InfrastructureError("busy")
        log_extra("said", completions)
        return [1.0] * len(completions)

    found = run(entry(judge, retries=1), entry(Spy({"x"}), name="once"))
    assert found.components["judge"] == [1.0] * 4
    assert found.extras == {"said": TEXTS}
    assert found.dropped == [None, "reward once: down", None, None]
    assert found.counts == {"judge/retries": 4, "once/infrastructure_failures": 1}


# ---- cache


def test_equal_rows_are_graded_once_and_remembered() -> None:
    spy, cache = Spy({"x"}), ScoreCache()
    columns = {"task": ["a", "a", "a", "b"]}
    options: dict[str, Any] = {"texts": ["w", "x", "w", "w"], "columns": columns, "cache": cache}
    found = run(entry(spy, name="spy", cache=True), **options)
    assert spy.calls == [["w", "x", "w"]]  # the fourth row has another task
    assert found.components == {"spy": [119.0, None, 119.0, 119.0]}
    assert found.counts == {"spy/infrastructure_failures": 1, "spy/cache_hits": 1}
    again = run(entry(spy, name="spy", cache=True), **options)
    assert spy.calls[1:] == [["x"]]  # what failed is not remembered
    assert again.components == {"spy": [119.0, 120.0, 119.0, 119.0]}
    assert again.counts == {"spy/cache_hits": 3}


@pytest.mark.parametrize(
    ("change", "alike"),
    [
        ({}, True),
        ({"prompts": ["q"]}, False),
        ({"completion_ids": [[2]]}, False),
        ({"columns": {"task": ["b"]}}, False),
        ({"columns": {"task": ["a"], "more": [None]}}, False),
        ({"columns": {"task": [["a"]]}}, False),
        ({"trainer_state": TrainerState(9)}, True),
    ],
)
def test_what_makes_rows_alike(change: dict[str, Any], alike: bool) -> None:
    spy, cache = Spy(), ScoreCache()
    options: dict[str, Any] = {"texts": ["w"], "columns": {"task": ["a"]}, "cache": cache}
    run(entry(spy, name="spy", cache=True), **options)
    run(entry(spy, name="spy", cache=True), **(options | change))
    assert len(spy.calls) == (1 if alike else 2)


def test_other_kwargs_and_other_functions_are_other_scores() -> None:
    cache = ScoreCache()

    def scaled(completions: list[str], by: float = 1.0, **_: Any) -> list[float]:
        return [by for _ in completions]

    for by in (1.0, 2.0):
        assert run(entry(scaled, cache=True, kwargs={"by": by}), cache=cache).total == [by] * 4
    assert run(entry(Spy(), name="scaled", cache=True), cache=cache).total == [119.0, 120.0, 121.0, 122.0]


def test_the_cache_is_bounded_and_keeps_what_was_used() -> None:
    spy, cache = Spy(), ScoreCache(rows=2)
    for text in ("w", "x", "w", "y", "w", "x"):
        run(entry(spy, name="spy", cache=True), texts=[text], columns={}, cache=cache)
    assert spy.calls == [["w"], ["x"], ["y"], ["x"]]


def test_objects_that_cannot_be_told_apart_are_graded_each_time() -> None:
    spy, cache = Spy(), ScoreCache()
    thing = (one for one in ())
    for _ in range(2):
        run(entry(spy, name="spy", cache=True), texts=["w"], columns={"thing": [thing]}, cache=cache)
    assert len(spy.calls) == 2


def test_a_cached_function_gets_nothing_that_its_rows_do_not_decide() -> None:
    def reads(**given: Any) -> list[float]:
        return [float("trainer_state" in given or "log_extra" in given or "log_metric" in given)] * 4

    assert run(entry(reads, cache=True)).total == [0.0] * 4

    def asks(completions: list[str], log_metric: Any = None, **_: Any) -> list[float]:
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match=r"rewards\[0\]\.cache: .*asks asks for log_metric"):
        run(entry(asks, cache=True))


# ---- on_error


def test_what_raises_is_found_and_dropped() -> None:
    def fragile(completions: list[str], log_extra: Any, log_metric: Any, **_: Any) -> list[float]:
        log_extra("text", completions)
        log_metric("rows", len(completions))
        return [1 / (text != "x") for text in completions]

    found = run(entry(fragile, on_error="drop"), entry(Spy(), name="spy", weight=0))
    assert found.components["fragile"] == [1.0, None, 1.0, 1.0]
    assert found.dropped == [None, "reward fragile: ZeroDivisionError: division by zero", None, None]
    assert found.counts == {"fragile/errors": 1}
    assert found.extras == {"text": ["w", None, "y", "z"]}
    assert found.metrics == {"rows": 1.0}


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (float("nan"), "reward bad: returned nan (float)"),
        ("good", "reward bad: returned 'good' (str)"),
        (SystemExit(3), "reward bad: SystemExit: #"),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_each_kind_of_failure(output: Any, reason: str, asynchronous: bool) -> None:
    def bad(completions: list[str], **_: Any) -> list[Any]:
        if isinstance(output, BaseException) and "y" in completions:
            raise output
        return [output if text == "y" else 1.0 for text in completions]

    async def bad_too(**given: Any) -> list[Any]:
        return bad(**given)

    found = run(entry(bad_too if asynchronous else bad, name="bad", on_error="drop"))
    assert found.components == {"bad": [1.0, 1.0, None, 1.0]}
    assert found.dropped == [None, None, reason, None]


def test_a_wrong_length_drops_the_rows_that_alone_give_one() -> None:
    def filters(completions: list[str], **_: Any) -> list[float]:
        return [1.0 for text in completions if text != "x"]

    found = run(entry(filters, on_error="drop"))
    assert found.components == {"filters": [1.0, None, 1.0, 1.0]}
    assert found.dropped[1] == "reward filters: returned # scores for # completions"


def test_what_is_missing_for_grading_stops_all_the_same() -> None:
    def needs(**_: Any) -> list[float]:
        raise RewardError("pip install something")

    with pytest.raises(RewardError, match="pip install something"):
        run(entry(needs, on_error="drop"))


# ---- arguments


def test_what_a_function_does_to_its_arguments_changes_nothing() -> None:
    given = {
        "columns": {"nested": [[1, [2]], {"a": [3]}, "x", {4}]},
        "prompts": [[{"role": "user", "content": "q"}]] * 4,
    }
    kwargs = {"options": {"list": [1]}}

    def vandal(prompts: Any, nested: Any, options: Any, **_: Any) -> list[float]:
        assert nested == [[1, [2]], {"a": [3]}, "x", {4}]
        assert options == {"list": [1]}
        prompts[0][0]["content"] = "gone"
        nested[0][1].append(9)
        nested[1]["a"].clear()
        nested[3].add(5)
        options["list"].append(2)
        return [1.0] * 4

    run(entry(vandal, kwargs=kwargs), entry(vandal, name="again", kwargs=kwargs), **given)
    assert given["columns"] == {"nested": [[1, [2]], {"a": [3]}, "x", {4}]}
    assert given["prompts"][0][0]["content"] == "q"
    assert kwargs == {"options": {"list": [1]}}


ROLLOUT = {"forwards": [4, 5, 6, 7], "truncated": [False, True] * 2}


def test_what_a_rollout_gives_to_functions_that_name_it() -> None:
    seen: list[dict[str, Any]] = []

    def asks(forwards: Any, truncated: Any = None, **given: Any) -> list[float]:
        seen.append({"forwards": forwards, "truncated": truncated, **given})
        return [1.0] * len(forwards)

    def trl(completions: Any, **given: Any) -> list[float]:
        seen.append(given)
        return [1.0] * len(completions)

    run(entry(asks, where={"task": "a"}), entry(trl), rollout=ROLLOUT)
    assert seen[0]["forwards"] == [4, 6]
    assert seen[0]["truncated"] == [False, False]
    assert not {"forwards", "truncated"} & set(seen[1])
    run(entry(trl), columns={"forwards": list("abcd")}, rollout={})  # a column that nobody asks a rollout for
    assert seen[2]["forwards"] == list("abcd")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "asks for forwards, which is known of whole rollouts only, and it is given texts here"),
        ({"rollout": {"truncated": [False] * 4}}, "and it is given recorded answers here"),
        (
            {"rollout": ROLLOUT, "columns": {"forwards": [1] * 4}},
            r"asks for \['forwards'\], which it is given of the rollout",
        ),
    ],
)
def test_what_a_rollout_does_not_give(changes: dict[str, Any], message: str) -> None:
    def asks(forwards: Any, **_: Any) -> list[float]:
        return [1.0] * 4

    with pytest.raises(RewardError, match=message):
        run(entry(asks), **changes)


def test_a_kwarg_of_that_name() -> None:
    def asks(forwards: Any, **_: Any) -> list[float]:
        return [1.0] * 4

    with pytest.raises(RewardError, match="'forwards' is passed by the trainer"):
        run(entry(asks, kwargs={"forwards": 3}))


# ---- what is wrong with an entry


def test_all_problems_of_an_entry_at_once() -> None:
    wrong = entry(Spy(), timeout=0, retries=-1, where=["task"], on_error="dropp", cache="often")
    with pytest.raises(RewardError) as caught:
        load_rewards([wrong, entry(Spy(), name="other", where={"task": []})], base=Path())
    messages = dict(caught.value.problems)
    assert set(messages) == {
        *(f"rewards[0].{key}" for key in ("timeout", "retries", "where", "on_error", "cache")),
        "rewards[1].where",
    }
    assert "did you mean 'drop'?" in messages["rewards[0].on_error"]

"""Code rewards through the contract, in the sandbox that this machine gives."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import rewards.code as code
from rewards.contract import Grades, RewardError, TrainerState, grade, load_rewards
from rewards.contract.ready import check_ready, unfit_rows
from rewards.contract.reward import missing_columns
from rewards.programs import run as code_run
from rewards.sandbox import Job, Report, Sandbox, SandboxError, best_level

SECONDS = 1.0  # a test that hangs costs this much processor time
NAMES = ["code.tests", "code.pass_rate", "code.format"]
TESTS = ["assert f(1) == 2", "assert f(2) == 3", "assert f(3) == 4", "assert f(4) == 5"]
RIGHT = "def f(x):\n    return x + 1"


@pytest.fixture(scope="module", autouse=True)
def _sandboxed() -> None:
    if best_level() is None:
        pytest.skip("this machine gives no sandbox for code")


@pytest.fixture(autouse=True)
def _forgetful() -> None:
    """What one test ran is not known to the next; the sandbox stays warm."""
    code_run._remembered.clear()
    code._logged[0] = ("", 0)
    return


def fenced(program: str) -> str:
    return f"```python\n{program}\n```"


def graded(
    programs: Sequence[Any],
    columns: dict[str, list[Any]] | None = None,
    names: Sequence[str] = NAMES,
    prompts: Sequence[Any] | None = None,
    **kwargs: Any,
) -> Grades:
    settings = {"seconds": SECONDS, **kwargs}
    entries = [{"fn": name, "kwargs": {} if name == "code.format" else settings} for name in names]
    return grade(
        load_rewards(entries, base=Path()),
        prompts=prompts or ["?"] * len(programs),
        completions=list(programs),
        completion_ids=[[index] for index in range(len(programs))],
        columns=columns or {"tests": [TESTS] * len(programs)},
        trainer_state=TrainerState(),
    )


def scores(
    programs: Sequence[str], columns: dict[str, list[Any]] | None = None, **kwargs: Any
) -> list[tuple[Any, ...]]:
    """(tests, pass rate, format) of each program, in a block of its own."""
    found = graded(list(map(fenced, programs)), columns, **kwargs).components
    return list(zip(*(found[name] for name in NAMES), strict=True))


def test_outcome_share_and_layout_stand_apart() -> None:
    assert scores([RIGHT, "def f(x):\n    return 2", "def f(x):\n    return x", "def f(x)\n    return x", "x = 1"]) == [
        (1.0, 1.0, 1.0), (0.0, 0.25, 1.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.5), (0.0, 0.0, 1.0)
    ]  # fmt: skip


def test_a_slow_test_costs_itself() -> None:
    slow = "def f(x):\n    while x == 3:\n        pass\n    return x + 1"
    found = graded([fenced(slow)])
    assert found.components["code.tests"] == [0.0]
    assert found.components["code.pass_rate"] == [0.75]
    assert found.metrics["code_timeout"] == 1.0
    assert found.extras["code_failure"] == ["test 3: timed out after 1 s"]


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nsys.exit(0)",
        "raise SystemExit",
        "import os\ndef f(x):\n    os._exit(0)",
        "def f(x):\n    raise SystemExit(0)",
        "class Always:\n    def __eq__(self, other): return True\ndef f(x): return Always()",
        "class Int(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef f(x): return Int(0)",
        "import builtins\nbuiltins.AssertionError = None\ndef f(x): return 0",
        "print('passed')\ndef f(x): return 0",
    ],
)
def test_ways_around_the_tests_score_nothing(program: str) -> None:
    assert scores([program], names=NAMES) == [(0.0, 0.0, 1.0)]


@pytest.mark.parametrize(
    "program",
    [
        "import\tos\n" + RIGHT,
        "import os, sys\n" + RIGHT,
        "def f(x):\n    oscillation = x + 1\n    return oscillation",
        "def f(x):\n    print('a' * 200_000)\n    return x + 1",
        "def f(x):\n    return x + 1\n\nif __name__ == '__main__':\n    print(f(int(input())))",
        "class g(int):\n    pass\ndef f(x):\n    return g(x + 1)",
        "import random\nrandom.seed(0)\nf = lambda x: x + 1",
    ],
)
def test_legal_oddities_pass(program: str) -> None:
    assert scores([program]) == [(1.0, 1.0, 1.0)]


def test_a_final_newline_and_prose_are_no_matter() -> None:
    texts = [
        fenced(RIGHT),
        fenced(RIGHT) + "\n",
        fenced(RIGHT) + "  \nDone.<|eot_id|>",
        f"So:\n{fenced(RIGHT)}\n{fenced('f(1)')}",
    ]
    assert graded(texts).components == {name: [1.0] * 4 for name in NAMES}
    # The program counts without a fence, too; the layout does not.
    assert graded([RIGHT, f"```python\n{RIGHT}"]).components == {
        "code.tests": [1.0, 1.0], "code.pass_rate": [1.0, 1.0], "code.format": [0.0, 0.0]
    }  # fmt: skip


def test_layout_pays_for_a_program_that_does_something() -> None:
    texts = [fenced(""), fenced("pass"), fenced("x"), fenced("'no'"), "I do not know.", "```json\n{}\n```", fenced("(")]
    assert graded(texts, names=["code.format"]).components["code.format"] == [0.0] * 6 + [0.5]


def test_rows_of_other_tasks_and_rows_that_cannot_be_graded() -> None:
    columns = {"tests": [TESTS, None, ["assert f(int)"]], "answer": [None, "3", None]}
    found = graded([fenced(RIGHT)] * 3, columns)
    assert found.components["code.tests"] == [1.0, None, None]
    assert found.dropped[0] is None
    assert "hand a function or a type" in str(found.dropped[2])
    said = unfit_rows(load_rewards(["code.tests"], base=Path()), columns)
    assert said == [None, None, "its tests hand a function or a type to the program"]


def test_a_reference_that_fails_its_own_tests_drops_the_row() -> None:
    columns = {"code": ["def f(x):\n    return x"], "test_list": [TESTS[:1]]}
    found = graded([fenced(RIGHT)], columns)
    assert found.components["code.tests"] == [None]
    assert "cannot be graded: its own reference solution does not pass" in str(found.dropped[0])


def test_whole_programs() -> None:
    columns = {"inputs": [["1 2\n", "3 4\n"]] * 3, "outputs": [["3\n", "7\n"]] * 3}
    programs = ["print(sum(map(int, input().split())))", "print(3)", "import sys\nsys.exit(0)"]
    assert scores(programs, columns) == [(1.0, 1.0, 1.0), (0.0, 0.5, 1.0), (0.0, 0.0, 1.0)]


def test_puzzles() -> None:
    columns = {"sat": ["def sat(s: str):\n    return s.count('o') == 3 and len(s) == 5"] * 3}
    programs = ["def sol():\n    return 'oxoxo'", "def sol():\n    return 'ooo'", "def sol():\n    return 5"]
    assert scores(programs, columns) == [(1.0, 1.0, 1.0), (0.0, 0.0, 1.0), (0.0, 0.0, 1.0)]


KODCODE = "from solution import f\n\ndef test_a():\n    assert f(1) == 2\n\ndef test_b():\n    assert f(2) == 3\n"


def test_functions_for_pytest() -> None:
    assert scores([RIGHT, "def f(x): return 2"], {"test": [KODCODE] * 2, "solution": [RIGHT] * 2}) == [
        (1.0, 1.0, 1.0), (0.0, 0.5, 1.0)
    ]  # fmt: skip


HEAD = 'from typing import List\n\n\ndef half(x):\n    return x // 2\n\n\ndef f(xs: List[int]) -> int:\n    """Half the sum."""\n'
CHECK = "def check(candidate):\n    assert candidate([2, 4]) == 3\n    assert candidate([]) == 0\n"


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("    return half(sum(xs))\n", 1.0),
        ("    return sum(xs)\n\n\ndef g(): pass", 0.0),
        (fenced("def f(xs: List[int]) -> int:\n    return half(sum(xs))"), 1.0),  # imports and helpers are the prompt's
        (fenced("def f(xs):\n    return sum(xs) // 2"), 1.0),
    ],
)
@pytest.mark.parametrize("around", ["{}", "Complete the function.\n```python\n{}```"])
def test_humaneval_completions_go_on_where_the_prompt_ends(completion: str, score: float, around: str) -> None:
    columns = {"test": [CHECK], "entry_point": ["f"], "canonical_solution": ["    return half(sum(xs))\n"]}
    found = graded([completion], columns, ["code.tests"], [around.format(HEAD)])
    assert found.components["code.tests"] == [score]


def test_conversations() -> None:
    found = graded(
        [[{"role": "assistant", "content": fenced(RIGHT)}]], prompts=[[{"role": "user", "content": "Add one."}]]
    )
    assert found.components == {name: [1.0] for name in NAMES}


# ------------------------------------------------------------------------------------------------ what is run, and how often


class Counting:
    """Stands before `Sandbox.check` and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, infrastructure: str | None = None) -> None:
        self.jobs: list[Job] = []
        original = Sandbox.check

        def check(sandbox: Sandbox, jobs: Sequence[Job]) -> list[Report]:
            self.jobs += jobs
            if infrastructure is not None:
                return [Report(job.id, (False,), ("not run",), infrastructure=infrastructure) for job in jobs]
            return original(sandbox, jobs)

        monkeypatch.setattr(Sandbox, "check", check)


def test_equal_programs_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch)
    programs = [RIGHT, RIGHT, "def f(x): return 0", RIGHT, "def f(x:", "no"]
    found = graded([*map(fenced, programs[:5]), "no"])
    assert found.components["code.tests"] == [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    assert len(counting.jobs) == 2  # for both rewards; what does not parse is not run
    other = {"tests": [TESTS, TESTS[:1]]}
    assert graded([fenced(RIGHT)] * 2, other).components["code.tests"] == [1.0, 1.0]
    assert len(counting.jobs) == 3  # one more set of tests


def test_a_sandbox_that_fails_drops_rows_and_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch, "the sandbox's keeper ended with status 3")
    found = graded([fenced(RIGHT), "no"], names=["code.tests"])
    assert found.components["code.tests"] == [None, 0.0]
    assert "keeper ended" in str(found.dropped[0])
    assert found.dropped[1] is None
    graded([fenced(RIGHT)], names=["code.tests"])
    assert len(counting.jobs) == 2


def test_what_is_logged() -> None:
    programs = [RIGHT, "def f(x): return 2", "def f(x:", "def g(x): return 2"]
    found = graded([*map(fenced, programs), "no"])
    shares = {name: found.metrics[name] for name in ("code_no_program", "code_syntax_error", "code_timeout")}
    assert shares == {"code_no_program": 0.2, "code_syntax_error": 0.2, "code_timeout": 0.0}
    assert found.metrics["code_tests_passed"] == 5 / 12
    assert found.metrics["code_seconds"] > 0
    assert list(found.extras) == ["code_failure"]  # the two rewards see one batch, and one of them logs it
    said = found.extras["code_failure"]
    assert said[0] is None
    assert said[1] == "test 2: wrong"
    assert said[2].startswith("does not parse: ")
    assert "NameError" in said[3]
    assert said[4] == "no program"


# --------------------------------------------------------------------------------------------------------- before the run


def test_a_recipe_needs_one_of_the_columns() -> None:
    (tests,) = load_rewards(["code.tests"], base=Path())
    assert missing_columns(tests, ["question"]) == ["test_list"]
    assert missing_columns(tests, ["question", "test_cases"]) == []


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"level": "strong"}, "none of auto, namespace, landlock, remote, weak"),
        ({"seconds": 0}, "seconds must be a number above 0, got 0"),
        ({"memory": "1g"}, "memory must be a number above 0"),
        ({"max_tests": True}, "max_tests must be"),
        ({"packages": ["no_such_package"]}, "no_such_package cannot be imported"),
        ({"level": "remote"}, "belong together"),
        ({"level": "remote", "remote": {"service": "fusion"}}, "remote must say service, url"),
        ({"level": "remote", "remote": {"service": "x", "url": "http://127.0.0.1:9"}}, "must be fusion or e2b"),
        ({"packages": "numpy"}, "packages must be a list of names"),
    ],
)
def test_settings_are_checked_before_a_run(kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(RewardError, match="code") as caught:
        check_ready(load_rewards([{"fn": "code.pass_rate", "kwargs": kwargs}], base=Path()))
    assert said in str(caught.value)


def test_a_machine_without_a_sandbox_is_refused_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(level: str, remote: object) -> str:
        raise SandboxError(f"this machine gives no sandbox for code ({level})")

    monkeypatch.setattr("rewards.sandbox._chosen", none)
    entries = [{"fn": name, "kwargs": {"seconds": 3.25}} for name in NAMES[:2]]
    with pytest.raises(RewardError) as caught:
        check_ready(load_rewards(entries, base=Path()))
    assert "gives no sandbox for code (auto)" in str(caught.value)
    assert "`unmask doctor`" in str(caught.value)
    assert len(caught.value.problems) == 2
    assert str(caught.value).count("no sandbox") == 1


def test_weak_is_only_by_name_and_is_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "_said", set())
    with caplog.at_level(logging.WARNING):
        check_ready(load_rewards(["code.tests"], base=Path()))
        assert caplog.text == ""
        entry = {"fn": "code.tests", "kwargs": {"level": "weak"}}
        check_ready(load_rewards([entry, {**entry, "name": "again"}], base=Path()))
    assert caplog.text.count("level: weak runs what the model writes with your rights") == 1
    assert code_run.sandbox(code_run.Settings()).level == best_level()

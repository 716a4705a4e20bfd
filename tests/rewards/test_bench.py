"""The bench finds each flaw of `bad_rewards.py`, keeps quiet about good rewards, and is not hurt by what it runs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rewards.bench.battery import LAYOUTS, entries, filled
from rewards.bench.calls import Subject
from rewards.bench.gold import Gold, gold_column, golds
from rewards.bench.report import Finding, Report, histogram, show
from rewards.bench.run import Plan, _guessed_completions, bench
from rewards.bench.worker import _invented
from rewards.contract import available
from rewards.contract.reward import Reward, RewardError, columns_read
from rewards.contract.text import HIDDEN
from rewards.sandbox import best_level

HERE = Path(__file__).parent
ROWS = [
    {"prompt": f"A box holds {n} apples and {m} pears. How many fruits?", "answer": str(n + m)}
    for n, m in ((7, 11), (900, 500), (3, 4), (20, 22))
]
COUNTDOWN = [{"prompt": "go", "numbers": [2, 4, 3], "target": 5}, {"prompt": "go", "numbers": [10, 2, 7], "target": 27}]
SUDOKU = [{"prompt": "solve", "puzzle": "1302040041003200", "solution": "1342243141233214"}]


def report_on(name, rows=ROWS, **options) -> Report:
    plan = Plan(f"bad_rewards.py:{name}", HERE, rows=2, **{"seconds": 5.0, **options})
    return bench(plan, rows)


def known(rows: list[dict[str, Any]], column: str | None, *, given: bool = False) -> list[Gold]:
    """The gold answers of rows that all have one."""
    answers = [gold for gold in golds(rows, column, given=given)[0] if gold is not None]
    assert len(answers) == len(rows)
    return answers


def found(report: Report) -> dict[str, Finding]:
    return {finding.check: finding for finding in report.findings}


FLAWS = [
    ("unlucky", "determinism", "fail", "called twice"),
    ("hash_of_text", "determinism", "fail", "in another process"),
    ("counts_its_calls", "determinism", "fail", "called twice"),
    ("ranks_the_batch", "determinism", "fail", "one by one"),
    ("mutates_columns", "inputs kept", "fail", "answer"),
    ("raises_on_other_digits", "odd text", "fail", "superscripts"),
    ("ends_the_process", "odd text", "fail", "status 0"),
    ("accepts_prompt_echo", "cheating", "fail", "the prompt"),
    ("contains", "cheating", "fail", "list of guesses"),
    ("believes_instructions", "cheating", "fail", "instructions to the grader"),
    ("all_format", "format", "warn", "all format"),
    ("half_format", "format", "warn", "50% of the score is format"),
    ("never_fires", "signal", "fail", "0 for every text"),
    ("constant", "signal", "fail", "0.5 for every text"),
    ("one_too_many", "schema", "fail", "scores for"),
    ("not_a_number", "schema", "fail", "nan"),
    ("words", "schema", "fail", "'right' (str)"),
    ("single", "schema", "fail", "must return a list"),
    ("compares_text", "notations", "warn", "dollar sign"),
    ("unbounded_penalty", "range", "warn", "100 kB"),
    ("nothing_equals_nothing", "empty columns", "fail", "as a right one does"),
    ("backwards", "format", "fail", "the gold answer scores -1"),
]


@pytest.mark.parametrize(("name", "check", "status", "seen"), FLAWS)
def test_each_flaw_is_found(name, check, status, seen):
    report = report_on(name)
    finding = found(report)[check]
    assert (finding.status, seen in finding.seen) == (status, True), finding
    assert report.failed == any(one.status == "fail" for one in report.findings)
    assert finding.short in report.verdict() or status == "warn"


def test_a_good_reward_passes_everything():
    report = report_on("good", outcome=True)
    bad = {check: f for check, f in found(report).items() if f.status in ("fail", "warn") and check != "notations"}
    assert not bad
    assert found(report)["cheating"].seen.startswith("none of")
    assert report.facts["layout"] == "<reasoning> and <answer> tags"
    assert "bare answer" in report.facts["also_in"]


def test_async_and_printing_functions_are_heard():
    assert found(report_on("judge_like"))["schema"].seen.startswith("async function, reads answer")
    assert found(report_on("prints"))["schema"].status == "pass"


def test_the_published_countdown_reward():
    checks = found(report_on("evaluates", COUNTDOWN, seconds=2.0))
    assert checks["time limit"].status == "fail"
    assert "exponent bomb" in checks["time limit"].seen
    assert "10% of the score is format" in checks["format"].seen
    assert checks["notations"].status == "warn"
    assert "target behind =" in checks["notations"].seen
    assert "the target alone" in checks["cheating"].seen  # the numbers are never looked at


def test_the_published_sudoku_reward():
    checks = found(report_on("ignores_givens", SUDOKU))
    assert "givens changed" in checks["cheating"].seen
    assert "Row 1: labels" in checks["notations"].seen


def test_a_hang_costs_its_time_and_ends_the_battery_after_three():
    checks = found(report_on("slow_on_long_text", seconds=1.5))
    assert checks["time limit"].status == "fail"
    assert "100 kB without a space" in checks["time limit"].seen
    assert "not tried any more" in checks["time limit"].seen


def test_the_limit_is_that_of_one_row():
    checks = found(report_on("slow_by_the_row", seconds=2.5))
    assert checks["time limit"].status == "pass", checks["time limit"]


def test_messages_that_are_changed_are_noticed():
    rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    assert "completions" in found(report_on("mutates_messages", rows))["inputs kept"].seen
    assert "completions" in found(report_on("mutates_messages", chat=True))["inputs kept"].seen
    assert "TypeError" in found(report_on("mutates_messages"))["schema"].seen


def test_an_exception_names_the_row_and_the_line():
    seen = found(report_on("raises_on_row", [*ROWS[1:], ROWS[0]]))["schema"].seen
    assert "ZeroDivisionError" in seen
    assert "on row" in seen
    assert "bad_rewards.py, line" in seen


def test_outcome_turns_format_credit_into_a_failure():
    assert found(report_on("half_format", outcome=True))["format"].status == "fail"
    assert found(report_on("all_format", outcome=True))["format"].status == "fail"


def test_own_completions_give_signal_groups_and_a_histogram():
    good, bad = "<answer>{}</answer>", "<answer>0</answer>"
    rows = [{**row, "generations": [good.format(row["answer"]), bad]} for row in ROWS[:2]]
    rows += [{**row, "generations": [bad, bad]} for row in ROWS[2:]]
    report = report_on("good", rows)
    seen = found(report)["signal"].seen
    assert "mean 0.25" in seen
    assert "25% at the top" in seen
    assert "50% of 4 groups" in seen
    assert histogram(report.scores) == [
        {"from": 0.0, "to": 0.0, "count": 6},
        {"from": 1.0, "to": 1.0, "count": 2},
    ]


def test_credit_that_stays_when_the_answer_is_replaced_is_format():
    """In a layout that the bench knows nothing of: the user's own completions show it."""
    rows = [{**row, "completion": f"<<{row['answer']}>>" if i % 2 else "none"} for i, row in enumerate(ROWS * 3)]
    finding = found(
        report_on(
            "all_format",
            [
                {**row, "completion": row["completion"].replace("<<", "<answer>").replace(">>", "</answer>")}
                for row in rows
            ],
        )
    )["format"]
    assert "of your 6 best completions 6 keep their score" in finding.seen


@pytest.mark.parametrize(
    ("name", "rows", "options", "message"),
    [
        ("good", ROWS, {"gold": "anser"}, "--gold anser: there is no such column; columns: prompt, answer"),
        ("goood", ROWS, {}, "did you mean 'good'"),
        ("no_kwargs", ROWS, {}, "must end its arguments with \\*\\*kwargs"),
        ("good", [], {}, "no rows"),
        ("good", ROWS, {"template": "{nothing}"}, "--prompt-template: 'nothing' is no column"),
    ],
)
def test_what_cannot_be_tested_is_said(name, rows, options, message):
    with pytest.raises(RewardError, match=message):
        report_on(name, rows, **options)


def test_a_missing_column_is_a_failed_check_with_its_remedy():
    report = report_on("good", [{"prompt": "a", "gold": "1"}])
    assert report.failed
    assert report.findings[0].remedy.startswith("map it: --columns answer=<name in the file>")


# ---------------------------------------------------------------------------------------------------------- gold answers


def test_gold_answers_of_every_kind():
    rows = [
        {"answer": "... so 1,450 in all\n#### 1,450"},
        {"answer": "-5"},
        {"answer": None},
        {"answer": r"\boxed{\frac12}"},
    ]
    answers, origin = golds(rows, "answer", given=False)
    assert origin == "the column answer (guessed)"
    assert [gold and (gold.kind, gold.right, gold.wrong) for gold in answers] == [
        ("number", "1450", "1451"),
        ("number", "-5", "-4"),
        None,
        ("text", r"\frac12", "none of these"),
    ]
    large, negative = known(rows[:2], "answer")
    assert large.same["thousands commas"] == "1,450"
    assert negative.same["Unicode minus"] == "\u22125"
    assert negative.same["dollar sign"] == "-$5"
    (letter,) = known([{"label": "(C)"}], "label", given=True)
    assert (letter.kind, letter.right, letter.others) == ("letter", "C", ("A", "B", "D"))


def test_expressions_and_grids_are_right_by_our_own_rewards():
    from rewards import countdown, sudoku

    for gold, row in zip(known(COUNTDOWN, None), COUNTDOWN, strict=True):
        texts = [filled("<reasoning> and <answer> tags", text) for text in (gold.right, *gold.same.values())]
        columns: dict[str, Any] = {"numbers": [row["numbers"]] * len(texts), "target": [row["target"]] * len(texts)}
        assert set(countdown.correct(texts, **columns)) == {1.0}
        wrong = [filled("<reasoning> and <answer> tags", text) for text in (gold.wrong, *gold.tricks.values())]
        columns = {"numbers": [row["numbers"]] * len(wrong), "target": [row["target"]] * len(wrong)}
        assert set(countdown.correct(wrong, **columns)) == {0.0}
    (gold,) = known(SUDOKU, None)
    assert sudoku.solved([gold.right], [SUDOKU[0]["puzzle"]]) == [1.0]
    assert sudoku.cells([gold.wrong], [SUDOKU[0]["puzzle"]], [SUDOKU[0]["solution"]]) == [0.0]


def test_the_guessed_column_is_one_the_function_asks_for():
    assert gold_column(["prompt", "target", "answer"], ["target"], None) == "target"
    assert gold_column(["prompt", "label"], [], None) == "label"
    assert gold_column(["prompt"], [], None) is None


def test_lists_of_guesses_hide_the_right_one_in_the_middle():
    answers = known(ROWS, "answer", given=True)
    battery = {entry.name: entry for entry in entries("bare answer", answers, [row["prompt"] for row in ROWS])}
    guesses = (battery["list of guesses"].texts[0] or "").split(" ")
    assert len(guesses) == 100
    assert 20 < guesses.index("18") < 80
    assert all("@" not in layout.replace("@", "", 1) for layout in LAYOUTS.values())


# ------------------------------------------------------------------------------------------------------- built-in rewards


@pytest.mark.parametrize("name", [name for name in available() if name.partition(".")[0] in ("gsm8k", "format")])
def test_built_in_rewards_pass(name):
    report = bench(Plan(name, HERE, rows=2, seconds=20.0), ROWS)
    assert not report.failed, report.verdict()
    assert found(report)["format"].status == ("pass" if name.endswith("correct") else "warn")


@pytest.mark.parametrize(
    ("name", "rows"), [("countdown.correct", COUNTDOWN), ("sudoku.solved", SUDOKU), ("sudoku.cells", SUDOKU)]
)
def test_built_in_puzzles_pass(name, rows):
    report = bench(Plan(name, HERE, rows=2, seconds=20.0), rows)
    assert {f.check: f.seen for f in report.findings if f.status in ("fail", "warn")} == {}


# --------------------------------------------------------------------------------------------------------------- output


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_is_worst_first_and_ends_in_one_sentence(width):
    report = report_on("contains")
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(report, console)
    lines = console.export_text().rstrip().splitlines()
    assert all(len(line) <= width for line in lines)
    marks = [line.split()[0] for line in lines if line[:4] in ("fail", "warn", "pass", "skip")]
    assert marks == sorted(marks, key=("fail", "warn", "pass", "skip").index)
    assert " ".join(lines[lines.index("") + 1 :]).startswith("Do not train on contains yet: it can be cheated by")
    assert len(lines) < 40


def test_json_holds_all_of_it():
    data = json.loads(json.dumps(report_on("contains").as_json()))
    assert data["failed"] is True
    assert data["findings"][0]["status"] == "fail"
    assert data["reward"] == "contains"


def test_the_example_of_the_page_gives_the_findings_of_the_page(tmp_path):
    page = (HERE.parents[1] / "docs" / "reward-test.md").read_text()
    source = page.split("<!-- example: a test runs this block -->\n```python\n")[1].split("```")[0]
    rows = [json.loads(line) for line in page.splitlines() if line.startswith('{"question"')]
    (tmp_path / "my_rewards.py").write_text(source)
    report = bench(Plan("my_rewards.py:correct", tmp_path, outcome=True), rows, "data.jsonl")
    for finding in report.worst_first():
        if finding.check != "speed":
            said = page.split(f"{finding.status}  {finding.check} ")[1].strip()
            assert said.startswith(finding.seen[:30])
    assert report.verdict() in page


# ---- programs, and what diffusion knows

PROGRAMS = [
    {"prompt": "Add one.", "code": "def f(x):\r\n    return x + 1", "test_list": ["assert f(1) == 2"]},
    {"prompt": "Double.", "code": "def g(x):\n    return 2 * x", "test_list": ["assert g(3) == 6"]},
]


def test_right_programs_are_those_of_the_data() -> None:
    first, second = known(PROGRAMS, gold_column(list(PROGRAMS[0]), [], None))
    assert (first.kind, first.right) == ("program", "def f(x):\n    return x + 1")
    assert second.wrong == "def g(*args, **kwargs):\n    return None"
    assert not second.others
    for text in (*first.same.values(), *first.tricks.values(), first.wrong):
        compile(text, "made", "exec")
    body = [{"canonical_solution": "    return 1\n"}]  # a body without its head: nothing that can be varied
    assert golds(body, "canonical_solution", given=False)[0] == [None]


HEADS = [  # as HumanEval has them: the prompt is the head of the function, the solution its body
    {
        "prompt": 'def f(x):\n    """Add one."""\n',
        "canonical_solution": "    def g(y):\n        return y + 1\n    return g(x)\n",
        "test": "def check(candidate):\n    assert candidate(1) == 2\n",
        "entry_point": "f",
    },
]


def test_a_body_is_a_program_behind_the_head_in_its_prompt() -> None:
    (gold,) = known(HEADS, "canonical_solution")
    assert gold.right == (HEADS[0]["prompt"] + HEADS[0]["canonical_solution"]).strip()
    assert golds(HEADS, "canonical_solution", given=False)[1].startswith("the column prompt continued by")
    no_head = [{**HEADS[0], "prompt": "Add one."}]
    assert golds(no_head, "canonical_solution", given=False)[0] == [None]


@pytest.mark.slow
def test_a_code_reward_reads_columns_that_it_does_not_name() -> None:
    if best_level() is None:
        pytest.skip("this machine gives no sandbox for code")
    report = bench(Plan("code.tests", HERE, {"seconds": 1.0}, rows=1), HEADS)
    assert not report.failed, report.findings
    assert "reads test, entry_point, canonical_solution;" in found(report)["schema"].seen
    assert found(report)["notations"].status == found(report)["cheating"].status == "pass"


def test_what_a_function_reads_is_what_it_names_or_declares() -> None:
    def fn(completions, answer, limit=1, **kwargs): ...

    reward = Reward("fn", fn, kwargs={"limit": 2, "by": "grade"})
    assert columns_read(reward) == ["answer"]
    fn.one_of_columns, fn.reads_columns, fn.column_kwargs = ("a", "b"), ("b", "c"), ("by",)  # type: ignore[attr-defined]
    assert columns_read(reward) == ["answer", "a", "b", "c", "grade"]


def test_a_row_may_take_as_long_as_the_function_itself_says() -> None:
    """Eleven tests of five seconds each are no hang: a bound that the function keeps is not cut off."""
    with Subject({"fn": "code.tests", "kwargs": {"total_seconds": 40.0}}, HERE, 20.0) as subject:
        described = subject.describe(["tests"])
        assert described.seconds == 60.0
        assert {"tests", "entry_point"} <= set(described.columns)
    with Subject({"fn": "gsm8k.correct"}, HERE, 20.0) as subject:
        assert subject.describe(["answer"]).seconds == 0.0


@pytest.mark.parametrize(
    ("row", "own"),
    [
        ({"input": "30,100,93", "output": "23"}, None),  # d1's Countdown: the target
        ({"answer": "23", "output": "It is 23."}, "output"),
        ({"answer": "23", "output": ["23", "24"]}, "output"),
        ({"answer": "23", "completion": "23"}, "completion"),
        ({"answer": "It is 23.", "response": "It is 23."}, None),  # what the reward itself reads
    ],
)
def test_completions_are_guessed_where_texts_stand(row: dict[str, Any], own: str | None) -> None:
    assert _guessed_completions([row] * 3, {"response"}) == own


def test_a_code_reward_is_tried_with_programs() -> None:
    if best_level() is None:
        pytest.skip("this machine gives no sandbox for code")
    report = bench(Plan("code.tests", HERE, rows=2), PROGRAMS)
    assert not report.failed
    assert found(report)["notations"].status == found(report)["cheating"].status == "pass"


def test_without_right_answers_and_completions_constant_scores_say_nothing() -> None:
    report = bench(Plan("code.format", HERE, rows=2), [{"prompt": "Go."}, {"prompt": "On."}])
    assert found(report)["signal"].status == "skip"


def test_a_reward_that_asks_for_the_rollout_is_given_an_invented_one() -> None:
    report = bench(Plan("speed.forwards", HERE, kwargs={"limit": 64}, rows=2), ROWS)
    assert not report.failed
    assert found(report)["odd text"].status == "pass"
    fact = _invented("so it is 4", 4)
    assert (fact["forwards"], fact["reveal_steps"], len(fact["intermediate_texts"])) == (4, [0, 1, 2, 3], 4)
    assert fact["intermediate_texts"][-1] == "so it is 4"
    assert HIDDEN in fact["intermediate_texts"][0]
    long = _invented("x " * 50_000, 50_000)
    assert long["forwards"] == len(long["intermediate_texts"]) == 1 + max(long["reveal_steps"])
    assert _invented("", 0)["intermediate_texts"] == [""]


def test_a_reward_that_compares_is_not_constant_because_the_battery_asks_one_by_one(tmp_path) -> None:
    """By itself each completion is the shortest of its group, so only the call with whole groups tells scores apart."""
    (tmp_path / "mine.py").write_text(
        "def shortest(prompts, completions, answer, **kwargs):\n"
        "    groups = {}\n"
        "    for prompt, text in zip(prompts, completions):\n"
        "        groups.setdefault(prompt, []).append(len(text.split()))\n"
        "    return [float(len(c.split()) == min(groups[p])) for p, c in zip(prompts, completions)]\n"
        "shortest.needs_groups = True\n"
    )
    report = bench(Plan("mine.py:shortest", tmp_path, rows=2), ROWS)
    assert not report.failed
    assert found(report)["signal"].status == "skip"
    assert found(report)["range"].seen.startswith("0 to 1")


def test_what_a_reward_remembers_is_not_taken_for_its_speed(tmp_path) -> None:
    """30 ms for each answer that it meets for the first time, as where programs run; nothing for what is none."""
    (tmp_path / "mine.py").write_text(
        "import time\n"
        "met = set()\n"
        "def remembers(completions, answer, **kwargs):\n"
        "    for text, gold in zip(completions, answer):\n"
        "        if gold in text and text not in met:\n"
        "            time.sleep(0.03)\n"
        "            met.add(text)\n"
        "    return [float(gold in text) for text, gold in zip(completions, answer)]\n"
    )
    (seen,) = [
        one.seen
        for one in bench(Plan("mine.py:remembers", tmp_path, rows=1), ROWS[:1]).findings
        if one.check == "speed"
    ]
    assert float(re.findall(r"slowest row (\d+) ms", seen)[0]) >= 30


def test_a_broken_contract_is_no_exception_of_the_author() -> None:
    report = bench(Plan("bad_rewards.py:single", HERE, rows=2), ROWS)
    assert found(report)["schema"].short == "it breaks the contract"


def test_what_is_missing_may_be_an_argument() -> None:
    remedy = found(bench(Plan("length.within", HERE), ROWS))["schema"].remedy
    assert "--kwarg limit=VALUE" in remedy

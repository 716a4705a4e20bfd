"""reasoning-gym's scores by name: built again in a worker, killed when they hang, and never a way to run a program."""

import ast
import inspect
import json
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import reasoning_gym as gym
from rewards.contract import TrainerState, grade, load_rewards, missing_columns
from rewards.contract.answers import InfrastructureError
from rewards.gym_worker import FORMULA_TASKS, LITERAL_TASKS, harmless, item, score

pytest.importorskip("reasoning_gym", reason="needs the extra 'tasks'")

SMALL = json.dumps({"seed": 3, "size": 50})


def columns(task, rows=1, config=SMALL):
    return {"task": [task] * rows, "task_config": [config] * rows, "task_index": [0] * rows}


def tagged(*answers):
    return [f"<answer>{answer}</answer>" for answer in answers]


def test_scores_are_reasoning_gyms_own_and_correct_is_a_score_of_one():
    right = item("countdown", SMALL, 0)["answer"]
    texts = [*tagged(right, "1 + 1", "no idea"), rf"so \boxed{{{right}}}", right, ""]
    assert gym.score(texts, **columns("countdown", 6)) == [1.0, 0.05, 0.0, 1.0, 0.0, 0.0]
    assert gym.correct(texts, **columns("countdown", 6)) == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert gym.correct(texts, **columns("countdown", 6), threshold=0.05) == [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    assert item("countdown", SMALL, 0) is item("countdown", SMALL, 0)


def test_rows_of_other_tasks_have_no_score():
    assert gym.score(["x"], [None], [None], [None]) == [None]


def test_through_the_contract_and_a_pickle():
    (reward,) = load_rewards(["reasoning_gym.correct"], base=Path("."))
    reward = pickle.loads(pickle.dumps(reward))
    assert missing_columns(reward, ["prompt"]) == ["task", "task_config", "task_index"]
    answer = item("chain_sum", SMALL, 1)["answer"]
    data = {"task": ["chain_sum"] * 2, "task_config": [SMALL] * 2, "task_index": [1, 1]}
    grades = grade(
        [reward],
        prompts=["", ""],
        completions=tagged(answer, "zzz"),
        completion_ids=[[], []],
        columns=data,
        trainer_state=TrainerState(),
    )
    assert grades.total == [1.0, 0.0]
    assert grades.metrics == {"gym_runaway_answers": 0.0, "gym_refused_answers": 0.0}


def test_an_answer_that_never_ends_scores_0_and_costs_its_time_only():
    seen = {}
    texts = tagged("99**98**97", item("countdown", SMALL, 0)["answer"])
    assert gym.score(texts, **columns("countdown", 2), seconds=0.5, log_metric=seen.__setitem__) == [0.0, 1.0]
    assert seen == {"gym_runaway_answers": 1, "gym_refused_answers": 0}


def test_an_item_that_cannot_be_built_drops_its_row():
    (reason,) = gym.score(tagged("1"), **columns("countdown", config='{"min_numbers": 99}'))
    assert isinstance(reason, InfrastructureError)
    assert str(reason) == "the item cannot be built"


PROGRAMS = [
    "__import__('os').system('touch {file}')",
    "().__class__.__base__.__subclasses__()",
    "[open('{file}', 'w') for _ in (1,)]",
    "sin(\"__import__('os').system('touch {file}')\")",
    "print(1)",
    "f'{{open(1)}}'",
    "(lambda: 1)()",
    "__import__('os').system('touch {file}') + 3!",
    "x if x else y",
    "1 + " * 2000 + "1",
]


@pytest.mark.parametrize("task", sorted(FORMULA_TASKS | LITERAL_TASKS))
def test_no_program_is_evaluated(task, tmp_path):
    file = tmp_path / "pwned"
    for program in PROGRAMS:
        text = program.replace("{file}", str(file))
        in_literal = task in LITERAL_TASKS and "!" in text  # no Python: `eval` refuses it by itself
        assert not harmless(task, text) or in_literal, text
        assert score(task, SMALL, {"answer": "", "metadata": {"valid_answers": []}}, text) in ("refused", 0.0)
    assert not file.exists()


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("countdown", "94*4 - 61 - 6"),
        ("simple_integration", "x**2/2 + 3*x + C"),
        ("intermediate_integration", "-exp(2*x)*cos(x) + C"),
        ("polynomial_multiplication", "6*x**4 - 2*x + 1"),
        ("n_queens", "[['_', 'Q'], ['Q', '_']]"),
        ("n_queens", "_ Q\nQ _"),
        ("spiral_matrix", "1 2 3"),
        ("string_insertion", "AABC"),
        ("chain_sum", "__import__('os')"),  # compared as text
    ],
)
def test_answers_as_they_should_be_are_let_through(task, answer):
    assert harmless(task, answer)


@settings(max_examples=200)
@given(st.text(alphabet="01+-*/()[]'\"x.,_ \n{}lambda:", max_size=40))
def test_what_is_let_through_names_no_attribute_and_calls_nothing_unknown(text):
    for task in ("countdown", "n_queens"):
        if harmless(task, text) and not (task == "n_queens" and _no_python(text)):
            nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
            assert not any(
                isinstance(node, (ast.Attribute, ast.Subscript, ast.Lambda, ast.comprehension)) for node in nodes
            )
            assert not any(isinstance(node, ast.Call) for node in nodes)


def _no_python(text):
    try:
        ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return True
    return False


def test_the_list_of_tasks_that_evaluate_answers_is_that_of_the_installed_package():
    from reasoning_gym.factory import DATASETS

    evaluating = re.compile(r"(?<!literal_)(?<![\w.])eval\((?!entry)|parse_expr\(|sympify\(|exec\(")
    found = {name for name, (cls, _) in DATASETS.items() if evaluating.search(inspect.getsource(cls.score_answer))}
    assert found == LITERAL_TASKS | FORMULA_TASKS


def test_a_scorer_that_raises_gives_0():
    assert score("prime_factorization", SMALL, item("prime_factorization", SMALL, 0), "zzz") == 0.0


def test_wrong_is_not_always_zero_which_is_why_correct_is_the_outcome():
    scores = {name: score(name, SMALL, item(name, SMALL, 0), "1") for name in ("countdown", "puzzle24", "chain_sum")}
    assert scores == {"countdown": 0.05, "puzzle24": 0.01, "chain_sum": 0.0}

"""A process that builds reasoning-gym items and scores answers to them, for `rewards/reasoning_gym.py`. Run by its pool.

One request a line on standard input, JSON `{"task", "config", "index", "answer", "seconds"}`. On standard output, a line per
stage as it begins (`item`, `answer`), so that the parent knows what was being done if the process dies, then `= ` and the
score, or `= refused`.

Some of reasoning-gym's scorers hand the model's text to `eval` or to sympy's parser, which evaluates it: a policy could write
any program. For those tasks an answer is first read as a Python expression, and refused unless it is made of numbers,
arithmetic, lists and a few functions. What is left can still take for ever, so the kernel ends this process when a request
has used its processor seconds.
"""

from __future__ import annotations

import ast
import functools
import json
import logging
import os
import sys
import warnings
from typing import Any

from rewards.math_worker import _budget, _limit_memory, _say, die_with_parent

BUILD_SECONDS = 60.0  # processor time for building an item: the data's matter, not the answer's
MAX_EVALUATED_CHARS = 2000

# Tasks whose scorer evaluates the answer: as a literal, or as a formula. A test compares this list with the installed package.
LITERAL_TASKS = frozenset({"string_insertion", "spiral_matrix", "binary_matrix", "n_queens"})
FORMULA_TASKS = frozenset(
    {"countdown", "puzzle24", "simple_integration", "intermediate_integration", "polynomial_multiplication"}
)
_TRIGONOMETRIC = ("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh")
_FUNCTIONS = frozenset({*_TRIGONOMETRIC, "exp", "log", "ln", "sqrt", "Abs"})
_ARITHMETIC = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Constant, ast.Name, ast.Load)


def main() -> None:
    """Serve requests until standard input ends."""
    die_with_parent()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to standard output; only replies may
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    _limit_memory()
    try:
        import reasoning_gym  # noqa: F401  here, so that no request pays for it
    except ImportError:
        _say(replies, "! reasoning-gym is not installed; pip install 'unmask[tasks]'")
        return
    _say(replies, "ready")
    for line in sys.stdin:
        request = json.loads(line)
        seconds = request.pop("seconds")
        answer = request.pop("answer")
        _say(replies, "item")
        _budget(BUILD_SECONDS)
        found = item(**request)
        _say(replies, "answer")
        _budget(seconds)
        verdict = score(request["task"], request["config"], found, answer)
        _budget(0)
        _say(replies, f"= {verdict}")


@functools.lru_cache(maxsize=32)
def dataset(task: str, config: str) -> Any:
    """A task by name, with its configuration as JSON. ValueError or AssertionError for what reasoning-gym does not take."""
    from reasoning_gym import create_dataset

    return create_dataset(task, **json.loads(config))


@functools.lru_cache(maxsize=4096)
def item(task: str, config: str, index: int) -> dict[str, Any]:
    """Item `index` of a task: `question`, `answer`, `metadata`. The same in every process."""
    return dataset(task, config)[index]


def score(task: str, config: str, found: dict[str, Any], answer: str) -> float | str:
    """reasoning-gym's own score of an answer to an item; 0 where its scorer raises; "refused" for what it must not evaluate."""
    if answer.strip() != str(found["answer"]).strip() and not harmless(task, answer):
        return "refused"
    try:
        return float(dataset(task, config).score_answer(answer, found))
    except Exception:  # noqa: BLE001  a scorer that does not understand the answer, as for `zzz` in prime_factorization
        return 0.0


def harmless(task: str, answer: str) -> bool:
    """Whether the task's scorer may see the answer: always, where it does not evaluate it."""
    if task not in LITERAL_TASKS | FORMULA_TASKS:
        return True
    if len(answer) > MAX_EVALUATED_CHARS:
        return False
    try:
        tree = ast.parse(answer.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return task in LITERAL_TASKS  # `eval` fails in the same way, and the text is compared as it is
    return all(_plain(node, formula=task in FORMULA_TASKS) for node in ast.walk(tree))


def _plain(node: ast.AST, *, formula: bool) -> bool:
    """No attributes, no calls but of known functions; in a formula no text, which sympy's functions would evaluate."""
    if isinstance(node, ast.Call):
        return formula and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float)) or (not formula and isinstance(node.value, str))
    return isinstance(node, _ARITHMETIC if formula else (*_ARITHMETIC, ast.List, ast.Tuple))


if __name__ == "__main__":
    main()

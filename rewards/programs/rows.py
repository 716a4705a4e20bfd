"""Rows of data sets of programs -> what the sandbox checks: which columns hold tests, and how they are read.

| columns | data |
|---|---|
| `test_list`, with `test_setup_code`, `test_imports`, `code` where there | MBPP, full and sanitized |
| `test_list` with `test`, a script | MBPP+ on the Hub |
| `tests` or `test_cases`: a list of assert statements | AceCode-87K; your own |
| `test`: a module of pytest functions, with `from solution import ...` or without; `solution`, `test_info` | KodCode |
| `test`: a module with `check(candidate)`, and `entry_point` | HumanEval, HumanEval+ on the Hub |
| `inputs`, `outputs`: lists of texts; or both in the JSON text `input_output` | TACO, APPS |
| `verification_info`: `language`, `test_cases` as `rewards/programs/pairs.py` says | PrimeIntellect's and open-r1's problems |
| `tests`: test cases of whole programs, as JSON | DeepCoder |
| `public_test_cases`, `private_test_cases` | LiveCodeBench |
| `base_input`, `plus_input`, `entry_point`, `canonical_solution`, `atol` | HumanEval+ and MBPP+ as EvalPlus publishes them |
| `sat`, a function's source; `sol_header`, `sol_bodies` where there | P3 |

Nothing is run here. A row whose tests cannot be read gets a reason, never a weaker test.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rewards.programs.pairs import CALLS, NotReadError, pairs, unpacked
from rewards.programs.tasks import humaneval_job, humaneval_plus_job, mbpp_plus_job, p3_job
from rewards.programs.text import parse
from rewards.sandbox import Job, StdioTest

COLUMNS = (
    *("test_list", "tests", "test_cases", "base_input", "test", "inputs", "input_output", "verification_info", "sat"),
    *("public_test_cases", "private_test_cases"),
)  # fmt: skip
# All columns that are read.
READ = (
    *COLUMNS, *("test_setup_code", "test_imports", "code", "setup", "reference", "entry_point"),
    *("task_id", "outputs", "solution", "canonical_solution", "prompt", "plus_input", "atol", "sol_header", "sol_bodies", "test_info"),
)  # fmt: skip
ID_COLUMNS = ("task_id", "question_id", "id", "problem_id", "name")
_NO_DEFINITIONS = (ast.Expr, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Unfit:
    """No program can be graded on a row. `reason` says why; it holds no text of the row, so that rows can be counted by it."""

    reason: str


def job_of(row: Mapping[str, Any], *, max_tests: int | None = None) -> Job | Unfit | None:
    """What is to be checked for a row, the program left out; why nothing can be; None where the row holds no tests.

    max_tests: only the first tests of a row count.
    """
    column = next((name for name in COLUMNS if row.get(name) is not None), None)
    if column is None:
        return None
    try:
        job = _READERS[column](row, column)
    except NotReadError as problem:
        return Unfit(str(problem))
    if not job.tests:
        return Unfit("the row has no test")
    tests = job.tests if max_tests is None else job.tests[:max_tests]
    return replace(job, id=row_id(row), code="", tests=tests)


def row_id(row: Mapping[str, Any]) -> str:
    """What the data set calls a row, "" where it gives no name."""
    return next((str(row[name]) for name in ID_COLUMNS if row.get(name) is not None), "")


def entry_point(job: Job) -> str | None:
    """The one name that a program has to define, if there is one."""
    return job.names[0] if len(job.names) == 1 else None


# ------------------------------------------------------------------------------------------------------- assert statements


def _asserts(row: Mapping[str, Any], column: str) -> Job:
    """MBPP, AceCode and rows of the user's own: a list of statements, each a test; DeepCoder's `tests` are those of whole programs."""
    if column == "tests" and (found := _cases(row[column])) is not None:
        return _program(pairs(found))
    tests = _texts(row[column], column)
    if not tests:
        raise NotReadError("the row has no test")
    if column == "test_list":
        imports = "\n".join(_texts(row.get("test_imports") or [], "test_imports"))
        setup, reference = f"{imports}\n{row.get('test_setup_code') or ''}".strip(), row.get("code")
    else:
        setup, reference = row.get("setup") or "", row.get("reference")
    names, modules = _called([setup, *tests], reference, row.get("entry_point"))
    if column == "test_list" and isinstance(row.get("test"), str):  # MBPP+ on the Hub: all inputs in one script
        tests = (_plain(row["test"]),)
    _check_boundary(setup, tests, names, reference)
    setup = "\n".join([*(f"import {module}" for module in modules), setup])
    return Job("", "function", "", tests, names, _plain(setup), _plain(reference) if reference else None)


def _cases(value: Any) -> Any:
    """Tests of a whole program that stand in the column `tests`, or None."""
    try:
        value = unpacked(value, "tests")
    except NotReadError:
        return None
    found = [value] if isinstance(value, Mapping) else value
    is_list = isinstance(found, Sequence) and not isinstance(found, str)
    return value if is_list and found and all(isinstance(one, Mapping) for one in found) else None


def _called(sources: Sequence[str], reference: str | None, given: str | None) -> tuple[tuple[str, ...], list[str]]:
    """(names that tests expect of a program, modules of the standard library that they use without importing them).

    A name is expected if the tests use it and neither they nor Python defines it. The reference solution may define a name
    of Python's own, such as `sum`, which is then expected, too.
    """
    defined = _defined(reference) if reference else set()
    used: dict[str, bool] = {}  # name -> whether only as `name.attribute`
    bound: set[str] = set()
    for tree in map(_tree, sources):
        attributes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used[node.id] = used.get(node.id, True) and id(node) in attributes
        bound |= _bound(tree)
    free = [name for name in used if name not in bound and (name in defined or not hasattr(builtins, name))]
    modules = [name for name in free if used[name] and name in sys.stdlib_module_names and name not in defined]
    names = [name for name in free if name not in modules]
    if given and given not in names:
        names.append(given)
    if not names:
        raise NotReadError("its tests call no function of the program")
    return tuple(names), modules


def _check_boundary(setup: str, tests: Sequence[str], names: Sequence[str], reference: str | None) -> None:
    """Raise NotReadError where tests hand the program, or want from it, what is no plain data, as far as their text shows it.

    Tests and program run in two processes; between them go numbers, strings, containers and exceptions.
    """
    at_once = [node for node in _tree(setup).body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    if any(isinstance(node, ast.Name) and node.id in names for one in at_once for node in ast.walk(one)):
        raise NotReadError("the code that its tests need uses the program")
    classes = {node.name for node in (_tree(reference).body if reference else ()) if isinstance(node, ast.ClassDef)}
    if classes & set(names):
        raise NotReadError("its tests make objects of a class of the program")
    for tree in map(_tree, tests):
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names):
                continue
            if any(map(_is_callable, [*node.args, *(keyword.value for keyword in node.keywords)])):
                raise NotReadError("its tests hand a function or a type to the program")


def _is_callable(node: ast.expr) -> bool:
    """Whether an argument is, or holds, a function, a generator or a type, by its text: one of Python's own by its name."""
    if isinstance(node, (ast.Lambda, ast.GeneratorExp)):
        return True
    if isinstance(node, ast.Name):
        return callable(getattr(builtins, node.id, None))
    return isinstance(node, (ast.List, ast.Tuple, ast.Set)) and any(map(_is_callable, node.elts))


def _bound(tree: ast.AST) -> set[str]:
    """Names that a piece of source gives a meaning itself."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found


def _defined(source: str) -> set[str]:
    """Names that a reference solution defines at its top level, imports aside; none if it does not parse."""
    try:
        body = _tree(source).body
    except NotReadError:
        return set()
    return set().union(*map(_bound, [ast.Module([node], []) for node in body if not isinstance(node, _NO_DEFINITIONS)]))


# ------------------------------------------------------------------------------------------------------------ test modules


def _module(row: Mapping[str, Any], column: str) -> Job:
    """HumanEval's `check(candidate)`, or KodCode's functions for pytest."""
    source = row[column]
    if not isinstance(source, str):
        raise NotReadError(f"its column {column} is no text")
    tree = _tree(source)
    if any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body) and row.get("entry_point"):
        return _humaneval(row, source)
    return _pytest(row, tree)


def _humaneval(row: Mapping[str, Any], source: str) -> Job:
    """`check(candidate)` as one test: its statements may depend on one another."""
    head, body = row.get("prompt") or "", row.get("canonical_solution") or ""
    job = humaneval_job({"task_id": "", **row, "prompt": head, "canonical_solution": body, "test": _plain(source)}, "")
    return job if head and body else replace(job, reference=None)


def _evalplus(row: Mapping[str, Any], column: str) -> Job:
    """EvalPlus's inputs, with what its canonical solution gives for them. They stand in `row` as its files hold them."""
    missing = [name for name in ("plus_input", "entry_point", "canonical_solution", "atol") if row.get(name) is None]
    if missing or not isinstance(row.get("task_id"), str):
        raise NotReadError(f"it lacks EvalPlus's column {(*missing, 'task_id')[0]}")
    if row["task_id"].startswith("Mbpp/"):
        return mbpp_plus_job(row, "")
    if not row.get("prompt"):
        raise NotReadError("it lacks the column prompt, which its solution goes on from")
    return humaneval_plus_job(row, "")


def _pytest(row: Mapping[str, Any], tree: ast.Module) -> Job:
    names = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "solution"
        for alias in node.names
    ]
    body = [node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.module == "solution")]
    cases = [node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]
    for node in ast.walk(ast.Module(body, [])):  # type: ignore[arg-type]
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "solution" in ast.unparse(node).replace(",", " ").split():
            raise NotReadError("its tests import the program as a module")
    if any(isinstance(node, ast.ClassDef) and node.name.startswith("Test") for node in body):
        raise NotReadError("its tests are methods of a class")
    if any(case.decorator_list or case.args.args for case in cases):
        raise NotReadError("its tests need pytest's fixtures or parameters")
    if not names or "*" in names:
        names = _offered(row, body)
    setup = "\n".join(ast.unparse(node) for node in body if node not in cases)
    tests = tuple(f"{ast.unparse(case)}\n{case.name}()" for case in cases)
    return Job("", "function", "", tests, tuple(dict.fromkeys(names)), setup, row.get("solution"))


def _offered(row: Mapping[str, Any], body: Sequence[ast.stmt]) -> list[str]:
    """Functions of the program that tests use without saying where they are from: those of `test_info` and of the solution."""
    found = _defined(row.get("solution") or "")
    if isinstance(infos := row.get("test_info"), Sequence) and not isinstance(infos, str):
        found |= {str(one.get("function_name")) for one in infos if isinstance(one, Mapping)}
    module = ast.Module(list(body), [])
    used = [node.id for node in ast.walk(module) if isinstance(node, ast.Name)]
    names = [name for name in dict.fromkeys(used) if name in found - _bound(module)]
    if not names:
        raise NotReadError("its tests do not say which functions they call")
    return names


# ---------------------------------------------------------------------------------------------------------- whole programs


def _lists(row: Mapping[str, Any], column: str) -> Job:
    """TACO and APPS: `inputs` and `outputs`, in columns of their own or in the JSON text `input_output`."""
    return _program(pairs(_mapping(row[column], column) if column == "input_output" else row))


def _verification(row: Mapping[str, Any], column: str) -> Job:
    cell = _mapping(row[column], column)
    if cell.get("language", "python") not in ("python", "python3"):
        raise NotReadError("its language is not Python")
    if cell.get("fn_name"):
        raise NotReadError(CALLS)
    return _program(pairs(unpacked(cell.get("test_cases"), column)))


def _live(row: Mapping[str, Any], column: str) -> Job:
    """LiveCodeBench: the tests that its problems show, then the others."""
    cells = [row[name] for name in ("public_test_cases", "private_test_cases") if row.get(name)]
    return _program(tuple(test for cell in cells for test in pairs(unpacked(cell, column))))


def _program(tests: tuple[StdioTest, ...]) -> Job:
    return Job("", "stdio", "", tests)


# ------------------------------------------------------------------------------------------------------------------ puzzles


def _puzzle(row: Mapping[str, Any], column: str) -> Job:
    """P3: `sol` has to return something for which `sat` is True."""
    if not isinstance(row[column], str):
        raise NotReadError(f"its column {column} is no text")
    return p3_job({"sol_header": "", "sol_bodies": [], **row, "name": "", column: _plain(row[column])}, "")


# ------------------------------------------------------------------------------------------------------------------- common

_READERS: dict[str, Callable[[Mapping[str, Any], str], Job]] = {
    "test_list": _asserts,
    "tests": _asserts,
    "test_cases": _asserts,
    "base_input": _evalplus,
    "test": _module,
    "inputs": _lists,
    "input_output": _lists,
    "verification_info": _verification,
    "sat": _puzzle,
    "public_test_cases": _live,
    "private_test_cases": _live,
}


def _texts(value: Any, column: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise NotReadError(f"its column {column} is no list of texts")
    return tuple(_plain(item) for item in value)


def _mapping(value: Any, column: str) -> Mapping[str, Any]:
    value = unpacked(value, column)
    if not isinstance(value, Mapping):
        raise NotReadError(f"its column {column} holds no mapping")
    return value


def _tree(source: str) -> ast.Module:
    try:
        return parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise NotReadError("its tests are no Python") from None


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")

"""Rows of public code data sets as jobs for the sandbox: HumanEval, MBPP, their EvalPlus forms, and P3 puzzles.

`code` is always a whole program that defines the function asked for. For HumanEval's completions that is the row's
prompt and the completion: `completed(row, text)`.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Mapping
from typing import Any

from rewards.sandbox import Job, bound_names

Row = Mapping[str, Any]


def completed(row: Row, completion: str) -> str:
    """HumanEval's program: its prompt, which holds the imports and the head of the function, and the completion."""
    return f"{row['prompt']}{completion}"


def humaneval_job(row: Row, code: str) -> Job:
    """A HumanEval row: one test, its `check`. Helpers that the prompt defines are there for `check`, too."""
    entry = row["entry_point"]
    return Job(
        id=row["task_id"],
        kind="function",
        code=code,
        tests=(f"check({entry})",),
        names=(entry,),
        setup=f"{row['prompt']}\n{row['test']}",
        reference=completed(row, row["canonical_solution"]),
    )


def mbpp_job(row: Row, code: str, *, challenge: bool = False) -> Job:
    """An MBPP row (full or sanitized): its asserts, one test each; with `challenge` also those of the challenge list."""
    tests = [*row["test_list"], *(row.get("challenge_test_list") or () if challenge else ())]
    reference = row["code"].replace("\r\n", "\n")
    setup = "\n".join([row.get("test_setup_code") or "", *(row.get("test_imports") or ())]).replace("\r\n", "\n")
    setup = "\n".join([*_imports(reference, tests), setup])
    return Job(
        id=f"Mbpp/{row['task_id']}",
        kind="function",
        code=code,
        tests=tuple(tests),
        names=tuple(name for name in _toplevel(reference) if any(name in _used(test) for test in tests)),
        setup=setup,
        reference=reference,
    )


def _toplevel(code: str) -> list[str]:
    """Functions and classes that a program defines."""
    return [node.name for node in _parsed(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def _used(code: str) -> set[str]:
    return {node.id for node in ast.walk(_parsed(code)) if isinstance(node, ast.Name)}


def _imports(reference: str, tests: Iterable[str]) -> list[str]:
    """The reference's imports of names that the tests use: they are written for one namespace that holds both."""
    used = {name for test in tests for name in _used(test)}
    nodes = [node for node in _parsed(reference).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return [ast.unparse(node) for node in nodes if used.intersection(bound_names(node))]


def p3_job(row: Row, code: str) -> Job:
    """A P3 puzzle: `sol` gets the defaults of sat's parameters; its answer needs sat's annotated type and `sat` to be True."""
    solution = None
    if row["sol_bodies"]:
        solution = f"from typing import List\n{row['sol_header']}\n{row['sol_bodies'][0]}"
    return Job(
        id=row["name"],
        kind="puzzle",
        code=code,
        tests=(row["sat"],),
        names=("sol",),
        setup="from typing import List",
        reference=solution,
    )


def humaneval_plus_job(row: Row, code: str, *, base_only: bool = False) -> Job:
    """A row of HumanEval+ (or its mini form): one test per input, stopping at the first that fails."""
    return _plus_job(row, code, completed(row, row["canonical_solution"]), base_only=base_only)


def mbpp_plus_job(row: Row, code: str, *, base_only: bool = False) -> Job:
    """A row of MBPP+: one test per input, stopping at the first that fails."""
    return _plus_job(row, code, row["canonical_solution"], base_only=base_only)


def called_names(tests: Iterable[str], setup: str = "") -> tuple[str, ...]:
    """Names that tests call and that nobody but the submission can define: no builtin, nothing of the setup or of the test."""
    known = {*dir(builtins), *bound_names(_parsed(setup))}
    found: dict[str, None] = {}
    for test in tests:
        tree = _parsed(test)
        own = known.union(bound_names(tree))
        called = (
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        )
        found.update(dict.fromkeys(name for name in called if name not in own))
    return tuple(found)


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


# -- EvalPlus --------------------------------------------------------------------------------------------------------

# What follows reproduces EvalPlus 0.3.1 (evalplus/eval/__init__.py, eval/_special_oracle.py, data/mbpp.py): expected
# outputs are those of the canonical solution; floats may differ by `atol`, or by 1e-6 where it is 0; some tasks have a rule
# of their own. Their time limits (four times the canonical solution's) are not: those of `sandbox.Limits` hold.
# One departure: EvalPlus passes anything for Mbpp/164; here True or the canonical output is asked for, as it once did.

_SET_TASKS = (
    *("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly"),
    *("larg_nnum", "intersection_array", "find_dissimilar", "Diff"),
)
_PRESENCE_TASKS = ("check_str", "text_match_three", "text_starta_endb")

_COMPARE = """
import copy as _copy, math as _math
_space = {"__name__": "reference"}
exec(compile(_reference, "reference", "exec"), _space)

def _floats(value):
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)

def _close(out, wanted, atol):
    if isinstance(wanted, (list, tuple)):
        return isinstance(out, (list, tuple)) and len(out) == len(wanted) and all(_close(a, b, atol) for a, b in zip(out, wanted))
    if not all(isinstance(value, (int, float, complex)) for value in (out, wanted)):
        return False
    return out == wanted or abs(out - wanted) <= atol + 1e-7 * abs(wanted)

def _alike(out, wanted, atol):
    if out == wanted:
        return True
    if atol == 0 and _floats(wanted):
        atol = 1e-6
    return atol != 0 and type(out) is type(wanted) and _close(out, wanted, atol)

def _case(function, index):
    given = _inputs[index]
    wanted = _space[_entry](*_copy.deepcopy(given))
    out = function(*given)
    assert _rule(out, wanted, given)
"""

_RULES = {
    "find_zero": "abs(sum(c * _math.pow(out, i) for i, c in enumerate(given[0]))) <= _atol",
    "are_equivalent": "out is True or out == wanted",
    "sum_div": "out == wanted or out == 0",
    "surface_Area": "_alike(out, wanted, _atol) or out == round(given[0] ** 2 + 2 * given[0] * _math.hypot(given[0] / 2, given[1]))",
    "digit_distance_nums": (
        "out == wanted or out == sum(abs(int(a) - int(b)) for a, b in zip(*(str(n).zfill(max(map(len, map(str, given)))) for n in given)))"
    ),
    **dict.fromkeys(_SET_TASKS, "set(out) == set(wanted)"),
    **dict.fromkeys(
        _PRESENCE_TASKS, "out == (wanted is not None) if isinstance(out, bool) else (out is None) == (wanted is None)"
    ),
}


def _plus_job(row: Row, code: str, reference: str, *, base_only: bool) -> Job:
    entry, task = row["entry_point"], row["task_id"]
    inputs = [*row["base_input"], *(() if base_only else row["plus_input"])]
    if task.startswith("Mbpp/"):
        inputs = [_typed(int(task.rpartition("/")[2]), given) for given in inputs]
    rule = _RULES.get(entry, "_alike(out, wanted, _atol)")
    setup = "inf, nan = float('inf'), float('nan')\n"  # as repr writes them
    setup += f"_inputs, _entry, _atol, _reference = {inputs!r}, {entry!r}, {row['atol']!r}, {reference!r}\n"
    return Job(
        id=task,
        kind="function",
        code=code,
        tests=tuple(f"_case({entry}, {index})" for index in range(len(inputs))),
        names=(entry,),
        setup=f"{setup}{_COMPARE}\ndef _rule(out, wanted, given):\n    return {rule}\n",
        reference=reference,
        stop=True,
    )


_T = tuple  # below: what JSON has no form for, by MBPP+ task. `...` leaves an argument as it is.


def _each(convert: Any) -> Any:
    return lambda items: [convert(item) for item in items]


def _deep(value: Any) -> Any:
    return tuple(map(_deep, value)) if isinstance(value, list) else value


_FIRST_TUPLE = [_T]
_TUPLES: dict[tuple[int, ...], Any] = {
    (
        2,
        116,
        132,
        143,
        222,
        261,
        273,
        394,
        399,
        421,
        424,
        429,
        470,
        560,
        579,
        596,
        616,
        630,
        726,
        740,
        744,
        809,
    ): "every",
    (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780): "inside",
    (75, 413, 444, 753): [_each(_T)],
    (106, 750): [None, _T],
    (250, 405, 446, 617, 720, 763, 808, 307): _FIRST_TUPLE,
    (259, 401, 445): "tuple of tuples",
    (278,): [lambda items: tuple(tuple(item) if isinstance(item, list) else item for item in items)],
    (115,): [_each(lambda item: set(item) if isinstance(item, list) and item else {})],
    (124,): [float, complex],
    (252,): [complex],
    (722,): [lambda table: {key: tuple(value) for key, value in table.items()}],
    (580, 615, 791): "deep",
}
_BY_TASK = {task: how for tasks, how in _TUPLES.items() for task in tasks}


def _typed(task: int, given: list[Any]) -> list[Any]:
    """The arguments of one MBPP+ input as Python values: tuples, sets and complex numbers where the task has them."""
    how = _BY_TASK.get(task, [])
    if how == "every":
        return [tuple(argument) for argument in given]
    if how == "inside":
        return [[tuple(item) for item in argument] for argument in given]
    if how == "tuple of tuples":
        return [tuple(tuple(item) for item in argument) for argument in given]
    if how == "deep":
        return [_deep(argument) for argument in given]
    changed = [convert(argument) if convert else argument for convert, argument in zip(how, given)]
    return [*changed, *given[len(changed) :]]

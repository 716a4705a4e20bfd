"""Rows of public data sets as jobs: their own solutions pass, mutants do not. `benchmarks/code_references.py` runs all rows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.code_references import SETS, mutants, references, rows
from rewards.programs import tasks as code_tasks
from rewards.sandbox import Job, Limits, Report, Sandbox, best_level

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
LIMITS = Limits(seconds=10.0, memory_bytes=2 << 30)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(best_level() or "weak", LIMITS) as made:
        yield made


def jobs_of(name: str) -> list[Job]:
    if not (DATA / SETS[name][0]).exists():
        pytest.skip(f"shared data absent: {DATA / SETS[name][0]}")
    return references(DATA, name)


@pytest.mark.parametrize(
    ("name", "first", "every"),
    [("humaneval", 3, 40), ("humaneval+", 5, 80), ("mbpp", 7, 200), ("mbpp+", 2, 84), ("p3", 0, 300)],
)
def test_own_solutions_pass_and_mutants_fail(name: str, first: int, every: int, sandbox: Sandbox) -> None:
    jobs = jobs_of(name)[first::every]
    reports = sandbox.check(jobs)
    assert [report.id for report in reports if not report.solved] == []
    changed = [
        (kind, Job(job.id, job.kind, code, job.tests, job.names, job.setup, job.reference, stop=True))
        for job in jobs
        for kind, code in mutants(job.code, job.names[0])
    ]
    verdicts = sandbox.check([job for _, job in changed])
    none = [report for (kind, _), report in zip(changed, verdicts) if kind == "returns None"]
    assert none
    assert not any(report.solved for report in none)
    failed = sum(not report.solved for report in verdicts)
    # A few mutants compute the same thing; a puzzle may have many answers.
    assert failed >= (0.5 if name == "p3" else 0.85) * len(verdicts)


def test_items_that_cannot_be_graded_are_known_by_id(sandbox: Sandbox) -> None:
    by_id = {job.id: job for job in jobs_of("mbpp")}
    reports = {
        report.id: report for report in sandbox.check([by_id[f"Mbpp/{n}"] for n in (126, 367, 533, 596, 601, 927)])
    }
    reasons = {id_: report.ungradable for id_, report in reports.items() if report.ungradable}
    assert set(reasons) == {"Mbpp/367", "Mbpp/533", "Mbpp/601", "Mbpp/927"}
    assert "Node" in str(reasons["Mbpp/367"])
    assert "a type" in str(reasons["Mbpp/533"])
    assert "Pair" in str(reasons["Mbpp/601"])
    assert reports["Mbpp/126"].solved  # its function is called `sum`
    assert reports["Mbpp/596"].solved  # its tests use a module that only the solution imports


def plus(
    entry: str, given: list[object], reference: str, code: str, sandbox: Sandbox, task: str = "Mbpp/1", atol: float = 0
) -> Report:
    row = {"task_id": task, "entry_point": entry, "base_input": given, "plus_input": [], "atol": atol, "canonical_solution": reference,
           "prompt": ""}  # fmt: skip
    make = code_tasks.mbpp_plus_job if task.startswith("Mbpp") else code_tasks.humaneval_plus_job
    (report,) = sandbox.check([make(row, code)])
    assert report.ungradable is None, report
    assert report.infrastructure is None, report
    return report


@pytest.mark.parametrize(
    ("entry", "given", "reference", "answer", "solved"),
    [
        ("f", [[1]], "return 0.1 + 0.2", "0.3", True),  # floats: 1e-6
        ("f", [[1]], "return 0.1 + 0.2", "0.30001", False),
        ("f", [[1]], "return [0.5, 1.5]", "[0.5, 1.5000001]", True),
        ("f", [[1]], "return [0.5, 1.5]", "(0.5, 1.5)", False),
        ("f", [[1]], "return 1", "True", True),  # Python's own equality, as EvalPlus has it
        ("f", [[1]], "return 1", "1.0000001", False),
        ("similar_elements", [[1]], "return (1, 2)", "[2, 1, 1]", True),
        ("check_str", [[1]], "return 5", "True", True),
        ("check_str", [[1]], "return 5", "'x'", True),
        ("check_str", [[1]], "return None", "False", True),
        ("check_str", [[1]], "return 5", "None", False),
        ("sum_div", [[1]], "return 5", "0", True),
        ("sum_div", [[1]], "return 5", "4", False),
        ("are_equivalent", [[1]], "return False", "True", True),
        ("are_equivalent", [[1]], "return False", "None", False),
        ("digit_distance_nums", [[123, 256]], "return 0", "1 + 3 + 3", True),
        ("surface_Area", [[3, 4]], "return 34", "35", True),  # rounded, of 34.6
        ("surface_Area", [[3, 4]], "return 34", "36", False),
    ],
)
def test_rules_of_evalplus(
    entry: str, given: list[object], reference: str, answer: str, solved: bool, sandbox: Sandbox
) -> None:
    head = f"def {entry}(*args):\n    "
    assert plus(entry, given, head + reference, f"{head}return {answer}", sandbox).solved is solved


def test_zeros_of_polynomials_are_checked_by_their_value(sandbox: Sandbox) -> None:
    head = "def find_zero(xs):\n    "
    for answer, solved in (("-0.5", True), ("-0.50001", True), ("-0.6", False)):
        report = plus(
            "find_zero", [[[1, 2]]], f"{head}return -0.5", f"{head}return {answer}", sandbox, "HumanEval/32", atol=1e-4
        )
        assert report.solved is solved


def test_typed_inputs_of_mbpp_plus() -> None:
    typed = code_tasks._typed
    assert typed(2, [[3, 4], [5]]) == [(3, 4), (5,)]
    assert typed(63, [[[3, 4]], [[1]]]) == [[(3, 4)], [(1,)]]
    assert typed(75, [[[3, 4]], 2]) == [[(3, 4)], 2]
    assert typed(106, [[3, 4], [5]]) == [[3, 4], (5,)]
    assert typed(115, [[[1], [], {"a": 1}]]) == [[{1}, {}, {}]]
    assert typed(124, ["0", "1j"]) == [0.0, 1j]
    assert typed(252, ["1+2j"]) == [1 + 2j]
    assert typed(259, [[[1, 2]], [[3]]]) == [((1, 2),), ((3,),)]
    assert typed(278, [[1, [2]]]) == [(1, (2,))]
    assert typed(307, [[1], 2, 3]) == [(1,), 2, 3]
    assert typed(580, [[1, [2, [3]]]]) == [(1, (2, (3,)))]
    assert typed(722, [{"a": [1, 2]}, 3]) == [{"a": (1, 2)}, 3]
    assert typed(3, [[1]]) == [[1]]


def test_puzzles_with_numbers_of_many_digits(sandbox: Sandbox) -> None:
    """A literal of 5000 digits in `sat` and in the solution's head; sat writes out a number of 6000 digits."""
    number = "7" * 5000
    row = {
        "name": "Long:0",
        "sat": f"def sat(s: str, n={number}, k=6000):\n    return s == str(n + 1) and len(str(10 ** k)) == k + 1",
        "sol_header": f"def sol(n={number}, k=6000):",
        "sol_bodies": ["    return str(n + 1)"],
    }
    good, none, short = (
        code_tasks.p3_job(row, code)
        for code in ("def sol(n, k): return str(n + 1)", "def sol(n, k): return None", "def sol(n, k): return str(n)")
    )
    reports = sandbox.check([good, none, short])
    assert [report.ungradable for report in reports] == [None] * 3
    assert [report.solved for report in reports] == [True, False, False]


def test_names_that_tests_call() -> None:
    tests = ["assert f(g(1)) == helper(2)", "x = len(f(1))\nassert x.bit_length() == math.sqrt(4)"]
    assert code_tasks.called_names(tests, "import math\ndef helper(n): return n") == ("f", "g")
    assert code_tasks.called_names(["assert f("]) == ()


def test_all_rows_become_jobs() -> None:
    for name, count in (("humaneval", 164), ("humaneval+", 164), ("mbpp", 974), ("mbpp+", 378)):
        jobs = jobs_of(name)
        assert len(jobs) == count
        assert all(
            job.tests and job.names and job.setup is not None for job in jobs if job.id not in ("Mbpp/367", "Mbpp/927")
        )
        assert len({job.id for job in jobs}) == count
    assert len(rows(DATA, "p3")) == 1715

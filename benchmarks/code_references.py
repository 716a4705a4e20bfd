"""HumanEval's and MBPP's own solutions, and simple mutants of them, through the sandbox: what can be graded, and what slips through.

    .venv/bin/python benchmarks/code_references.py --data ../shared/data              # all rows: half an hour on 2 cores
    .venv/bin/python benchmarks/code_references.py --data ../shared/data --sets mbpp --mutants 0

A reference solution has to pass its item's tests; items for which it does not are listed by id with the reason. A mutant
(the function returns None; one number is off by one; one comparison is negated; one plus is a minus) should fail; those that pass are
listed, because some of them compute the same thing and others show tests that are too weak. One line per set is appended to the results.
"""

import argparse
import ast
import copy
import gzip
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewards.programs.tasks import humaneval_job, humaneval_plus_job, mbpp_job, mbpp_plus_job, p3_job
from rewards.sandbox import Job, Limits, Sandbox

RESULTS = Path(__file__).parent / "results" / "code_references.jsonl"
SETS: dict[str, tuple[str, Callable[..., Job]]] = {
    "humaneval": ("humaneval/HumanEval.jsonl.gz", humaneval_job),
    "humaneval+": ("evalplus/HumanEvalPlus.jsonl.gz", humaneval_plus_job),
    "mbpp": ("mbpp/mbpp.jsonl", mbpp_job),
    "mbpp+": ("evalplus/MbppPlus.jsonl.gz", mbpp_plus_job),
    "p3": ("p3/puzzles.json", p3_job),
}
OPPOSITE = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
}


def rows(data: Path, name: str) -> list[dict[str, Any]]:
    path = data / SETS[name][0]
    if path.suffix == ".json":
        return json.loads(path.read_text())
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


def references(data: Path, name: str) -> list[Job]:
    """A job for each row that has a solution, with that solution as its submission."""
    jobs = [SETS[name][1](row, "") for row in rows(data, name)]
    return [replace(job, code=job.reference) for job in jobs if job.reference is not None]


def mutants(code: str, entry: str) -> Iterator[tuple[str, str]]:
    """(what was changed, program), at most one of each kind. Code that is no Python has none."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return
    function = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == entry), None)
    if function is None:
        return
    yield "returns None", f"{code}\n\ndef {entry}(*args, **kwargs):\n    return None\n"
    for name, change in (("off by one", _off_by_one), ("negated", _negated), ("minus", _minus)):
        changed = copy.deepcopy(tree)
        body = next(node for node in changed.body if isinstance(node, ast.FunctionDef) and node.name == entry)
        if any(change(node) for node in ast.walk(body)):
            yield name, ast.unparse(changed)


def _off_by_one(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        node.value += 1
        return True
    return False


def _negated(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPPOSITE:
        node.ops[0] = OPPOSITE[type(node.ops[0])]()
        return True
    return False


def _minus(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        node.op = ast.Sub()
        return True
    return False


def run(sandbox: Sandbox, jobs: list[Job], share: int) -> dict[str, Any]:
    """Counts and lists for one set; mutants of every `share`-th job, 0: of none."""
    begun = time.perf_counter()
    reports = sandbox.check(jobs)
    found: dict[str, Any] = {
        "items": len(jobs),
        "solved": sum(report.solved for report in reports),
        "ungradable": {report.id: report.ungradable for report in reports if report.ungradable},
        "other": {r.id: r.infrastructure or str(r.details) for r in reports if not r.solved and not r.ungradable},
        "seconds": time.perf_counter() - begun,
    }
    gradable = [job for job, report in zip(jobs, reports) if report.solved]
    made = [
        (job.id, kind, replace(job, code=code, stop=True))
        for job in (gradable[::share] if share else ())
        for kind, code in mutants(job.code, job.names[0])
    ]
    verdicts = sandbox.check([job for *_, job in made])
    passed = [(id_, kind) for (id_, kind, _), report in zip(made, verdicts) if report.solved]
    found["mutants"] = {"made": len(made), "passed": passed, "dropped": sum(bool(r.infrastructure) for r in verdicts)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--level", default="auto")
    parser.add_argument("--mutants", type=int, default=1, metavar="N", help="of every Nth item; 0: none")
    parser.add_argument("--seconds", type=float, default=10.0, help="limit of one test")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    limits = Limits(seconds=options.seconds, job_seconds=300.0, memory_bytes=4 << 30)
    for name in options.sets:
        with Sandbox(options.level, limits) as sandbox:
            found = run(sandbox, references(options.data, name), options.mutants)
            line = {"set": name, "level": sandbox.level, "limit": options.seconds, **found}
        with options.output.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line, indent=1), flush=True)


if __name__ == "__main__":
    main()

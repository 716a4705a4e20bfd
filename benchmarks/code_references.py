"""The own solutions of HumanEval, MBPP and P3, and simple mutants of them, through the sandbox: what can be graded, and what slips through.

    .venv/bin/python -m benchmarks.code_references --data ../shared/data              # all rows: more than an hour on 2 cores
    .venv/bin/python -m benchmarks.code_references --data ../shared/data --sets mbpp --mutants 0
    .venv/bin/python -m benchmarks.code_references --data ../shared/data --sets p3 --workers 1 --parts p3-parts.jsonl

A reference solution has to pass its item's tests; items for which it does not are listed by id with the reason. A mutant
(the function returns None, or a constant of the type asked for; one number is off by one; one comparison is negated; one plus is a
minus) should fail; those that pass are listed, because some of them compute the same thing and others show tests that are too weak.
A puzzle may have many answers: of a mutant that passes, its `sat` is asked once more in a plain Python process, and those that this does
not confirm are listed. One line per set is appended to the results. With --parts, what is done is kept there job by job, and a second
start goes on from it.
"""

import argparse
import ast
import copy
import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
CHUNK = 40  # jobs that are checked together
# For a puzzle: what a program returns that does not try. By the beginning of the type.
CONSTANTS = {"int": "0", "float": "0.0", "str": "''", "bool": "False", "List": "[]"}
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
    """A job for each solution that a row has, with that solution as its submission. Of several of a puzzle, the second is `ID#2`."""
    found = []
    for row in rows(data, name):
        job = SETS[name][1](row, "")
        if job.reference is None:
            continue
        found.append(replace(job, code=job.reference))
        for number, body in enumerate(row.get("sol_bodies", ())[1:], 2):
            other = p3_job({**row, "sol_bodies": [body]}, "").reference
            found.append(replace(job, id=f"{job.id}#{number}", code=other))
    return found


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
        if any(change(node) for node in ast.walk(ast.Module(body.body, []))):
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


def constant(job: Job) -> Iterator[tuple[str, str]]:
    """For a puzzle: a program that returns a constant of the type that its `sat` asks for."""
    if job.kind == "puzzle":
        wanted = str(job.tests[0]).partition(":")[2].strip()  # def sat(answer: TYPE, ...
        given = next((text for kind, text in CONSTANTS.items() if wanted.startswith(kind)), "0")
        yield "constant", f"def {job.names[0]}(*args, **kwargs):\n    return {given}\n"


def confirmed(job: Job) -> bool:
    """Whether a puzzle's `sat` is true of what a program returns, asked without the sandbox: the data's own code, a little changed."""
    sat, (entry,) = str(job.tests[0]), job.names
    lines = [
        "import sys",
        "sys.set_int_max_str_digits(0)",
        "from typing import List",
        job.code,
        sat,
        "import inspect",
        "given = inspect.getfullargspec(sat)",
    ]
    lines += [
        "inputs = dict(zip(given.args[1:], given.defaults or ()))",
        f"assert sat({entry}(**inputs), **inputs) is True",
    ]
    try:
        done = subprocess.run([sys.executable, "-I", "-c", "\n".join(lines)], timeout=60, capture_output=True)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


# -- running ---------------------------------------------------------------------------------------------------------


class Parts:
    """What is done, by key, in a file that a second start goes on from; in memory only where there is none."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.done = path, {}
        if path is not None and path.exists():
            self.done = {row["key"]: row for row in map(json.loads, path.read_text().splitlines())}

    def add(self, found: dict[str, Any]) -> None:
        self.done[found["key"]] = found
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(found) + "\n")

    def reports(self, sandbox: Sandbox, jobs: Sequence[tuple[str, Job]]) -> list[dict[str, Any]]:
        """What became of each job, given with its key, in their order. A second start tries again what failed on this machine."""
        missing = [(key, job) for key, job in jobs if self.done.get(key, {}).get("infrastructure", "") is not None]
        for low in range(0, len(missing), CHUNK):
            some, begun = missing[low : low + CHUNK], time.perf_counter()
            reports = sandbox.check([job for _, job in some])
            seconds = (time.perf_counter() - begun) / len(some)
            for (key, job), report in zip(some, reports, strict=True):
                found = {"key": key, "solved": report.solved, "ungradable": report.ungradable, "seconds": seconds}
                found |= {"infrastructure": report.infrastructure, "detail": report.error or str(report.details)}
                if report.solved and job.kind == "puzzle" and job.code != job.reference:
                    found["confirmed"] = confirmed(job)
                self.add(found)
        return [self.done[key] for key, _ in jobs]


def run(sandbox: Sandbox, name: str, jobs: list[Job], share: int, parts: Parts) -> dict[str, Any]:
    """Counts and lists for one set; mutants of every `share`-th job, 0: of none."""
    own = parts.reports(sandbox, [(f"{name} {job.id}", job) for job in jobs])
    pairs = list(zip(jobs, own, strict=True))
    found: dict[str, Any] = {
        "items": len(jobs),
        "solved": sum(one["solved"] for one in own),
        "ungradable": {job.id: one["ungradable"] for job, one in pairs if one["ungradable"]},
        "other": {
            job.id: one["infrastructure"] or one["detail"]
            for job, one in pairs
            if not one["solved"] and not one["ungradable"]
        },
        "seconds": sum(one["seconds"] for one in own),
    }
    gradable = [job for job, one in pairs if one["solved"]]
    made = [
        (job.id, kind, replace(job, code=code, stop=True))
        for job in (gradable[::share] if share else ())
        for kind, code in (*mutants(job.code, job.names[0]), *constant(job))
    ]
    verdicts = parts.reports(sandbox, [(f"{name} {id_} {kind}", job) for id_, kind, job in made])
    passed = [(id_, kind, one) for (id_, kind, _), one in zip(made, verdicts, strict=True) if one["solved"]]
    found["mutants"] = {
        "made": len(made),
        "kinds": {
            kind: [sum(one == kind for _, one, _ in made), sum(one == kind for _, one, _ in passed)]
            for kind in dict.fromkeys(kind for _, kind, _ in made)
        },
        "passed": [(id_, kind) for id_, kind, _ in passed],
        "dropped": sum(bool(one["infrastructure"]) for one in verdicts),
        "unconfirmed": [(id_, kind) for id_, kind, one in passed if one.get("confirmed") is False],
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--level", default="auto")
    parser.add_argument("--mutants", type=int, default=1, metavar="N", help="of every Nth item; 0: none")
    parser.add_argument("--seconds", type=float, default=10.0, help="limit of one test")
    parser.add_argument("--workers", type=int, help="processes at a time; default: one for each core")
    parser.add_argument("--parts", type=Path, help="a file that keeps what is done; a second start goes on from it")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    sys.set_int_max_str_digits(0)  # a puzzle holds a number of 8844 digits
    limits = Limits(seconds=options.seconds, job_seconds=300.0, memory_bytes=4 << 30)
    for name in options.sets:
        with Sandbox(options.level, limits, options.workers) as sandbox:
            found = run(sandbox, name, references(options.data, name), options.mutants, Parts(options.parts))
            line = {"set": name, "level": sandbox.level, "limit": options.seconds, **found}
        with options.output.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line, indent=1), flush=True)


if __name__ == "__main__":
    main()

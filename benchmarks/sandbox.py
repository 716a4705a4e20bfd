"""Jobs per second of the sandbox, by level and workers, cold and warm, on MBPP-like jobs: three asserts on one function.

    .venv/bin/python benchmarks/sandbox.py                  # all levels that this machine gives, one worker to as many as cores
    .venv/bin/python benchmarks/sandbox.py --levels landlock --workers 4 --jobs 400

"cold" is the first job of a new sandbox, from its construction to its report, in seconds; "warm" counts jobs that follow, each in
an interpreter of its own. A "stdio" job has three tests and uses three interpreters. "hanging" jobs sleep through their
deadline of one second; they show that one does not hold up the others. Every cell is appended to the results file.
"""

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from rewards.sandbox import Job, Limits, Sandbox, StdioTest, levels
from rl.run import provenance

RESULTS = Path(__file__).parent / "results" / "sandbox.jsonl"
KINDS: tuple[Literal["function", "stdio"], ...] = ("function", "stdio")


@dataclass(frozen=True)
class Cell:
    level: str
    workers: int
    kind: Literal["function", "stdio"]
    jobs: int
    hanging: int


def job(index: int, kind: Literal["function", "stdio"], *, hangs: bool) -> Job:
    wait = "import time; time.sleep(60)\n" if hangs else ""
    if kind == "stdio":
        tests = tuple(StdioTest(f"{n}\n", str(n + index)) for n in range(3))
        return Job(str(index), kind, f"{wait}print(int(input()) + {index})", tests, stop=True)
    asserts = tuple(f"assert f({n}) == {n + index}" for n in range(3))
    return Job(str(index), kind, f"{wait}def f(n):\n    return n + {index}", asserts, ("f",))


def measure(cell: Cell) -> dict[str, float]:
    """cold: seconds to the first report. warm: jobs per second after it."""
    begun = time.perf_counter()
    with Sandbox(cell.level, Limits(seconds=1.0, start_seconds=1.0), workers=cell.workers) as sandbox:
        (first,) = sandbox.check([job(0, cell.kind, hangs=False)])
        cold = time.perf_counter() - begun
        sandbox.check([job(n, cell.kind, hangs=False) for n in range(2 * cell.workers)])  # all workers are up
        jobs = [job(n, cell.kind, hangs=n < cell.hanging) for n in range(cell.jobs)]
        begun = time.perf_counter()
        reports = sandbox.check(jobs)
        seconds = time.perf_counter() - begun
    assert first.solved
    assert sum(report.solved for report in reports) == cell.jobs - cell.hanging
    return {"cold_seconds": cold, "warm_jobs_per_second": cell.jobs / seconds, "seconds": seconds}


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = [level for level, reason in levels().items() if reason is None]
    parser.add_argument("--levels", nargs="+", default=given)
    parser.add_argument("--workers", nargs="+", type=int, default=sorted({1, cores}))
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    cells = [
        Cell(level, workers, kind, options.jobs, hanging)
        for level in options.levels
        for workers in options.workers
        for kind in KINDS
        for hanging in ((0, 4) if kind == "function" else (0,))
    ]
    for cell in cells:
        found = measure(cell)
        load = os.getloadavg()[0]  # others on the machine: with more than one per core, figures are too low
        line = {"cell": asdict(cell), **found, "load": load, "date": date.today().isoformat(), **provenance()}
        with options.output.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{cell.level:<10} workers={cell.workers} {cell.kind:<8} hanging={cell.hanging}: ", end="")
        print(
            f"first report after {found['cold_seconds']:.2f} s, then {found['warm_jobs_per_second']:.0f} jobs/s",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""The data sets' own solutions, graded by `code.tests` as a completion would be: which pass, which rows nobody can be graded on.

    .venv/bin/python -m benchmarks.code_rewards mbpp.jsonl
    .venv/bin/python -m benchmarks.code_rewards HumanEval.jsonl.gz --level landlock --out benchmarks/results/code_rewards.jsonl

A file holds one row a line, in columns of `rewards/programs/rows.py` with a solution among them. Every solution is put into a
fenced block behind a sentence and graded like a rollout, without the help of the reference that `Job.reference` gives.
Exit status 1 if a row that can be graded does not pass. MBPP takes about a minute on two cores.
"""

import argparse
import gzip
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rewards.code import CANNOT, tests
from rewards.contract.answers import InfrastructureError
from rewards.programs.rows import row_id
from rewards.programs.run import Settings, sandbox

SOLUTIONS = ("code", "solution", "reference", "canonical_solution")
BATCH = 100


def solution_of(row: Mapping[str, Any]) -> str | None:
    """The row's own solution as a whole program; HumanEval's goes on from its prompt."""
    name = next((name for name in SOLUTIONS if row.get(name)), None)
    if name is None:
        return None
    goes_on = row[name].lstrip("\n")[:1].isspace()  # a body, without the head of its function
    head = (row.get("prompt") or "") if goes_on else ""
    return f"{head}{row[name]}"


def verdicts(rows: Sequence[Mapping[str, Any]], **kwargs: Any) -> list[tuple[str, str]]:
    """(id, "passed" or what is wrong) of each row with a solution. `kwargs` are those of `code.tests`."""
    found: list[tuple[str, str]] = []
    solved = [(row, solution) for row in rows if (solution := solution_of(row)) is not None]
    for start in range(0, len(solved), BATCH):
        batch = solved[start : start + BATCH]
        said: list[Any] = []
        columns: dict[str, Any] = {name: [row.get(name) for row, _ in batch] for name in batch[0][0]}
        completions = [f"Here it is.\n```python\n{solution}\n```" for _, solution in batch]
        scores = tests(completions, log_extra=lambda _, values, said=said: said.extend(values), **kwargs, **columns)
        for (row, _), score, why in zip(batch, scores, said, strict=True):
            dropped = str(score) if isinstance(score, InfrastructureError) else None
            found.append((row_id(row), "passed" if score == 1.0 else dropped or why or "holds no tests"))
    return found


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a jsonl, compressed or not."""
    data = file.read_bytes()
    text = gzip.decompress(data) if file.suffix == ".gz" else data
    return [json.loads(line) for line in text.decode().splitlines() if line.strip()]


def main() -> int:
    parser = argparse.ArgumentParser(description="Grade the data sets' own solutions.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--level", default="auto")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path, help="append a line of JSON for each file")
    args = parser.parse_args()
    failed = 0
    for file in args.files:
        rows = read(file)
        level = sandbox(Settings(level=args.level, seconds=args.seconds)).level
        started = time.perf_counter()
        found = verdicts(rows, level=args.level, seconds=args.seconds)
        seconds = time.perf_counter() - started
        cannot = {name: said.removeprefix(CANNOT) for name, said in found if said.startswith(CANNOT)}
        wrong = {name: said for name, said in found if said != "passed" and name not in cannot}
        failed += len(wrong)
        counts = Counter(
            "passed" if said == "passed" else "cannot" if name in cannot else "wrong" for name, said in found
        )
        print(f"{file.name}: {counts['passed']} of {len(found)} pass, {len(cannot)} cannot be graded, {len(wrong)} fail; "
              f"level {level}, {seconds:.0f} s")  # fmt: skip
        reasons: dict[str, list[str]] = {}
        for name, said in (*cannot.items(), *wrong.items()):
            reasons.setdefault(said, []).append(name)
        for said, names in reasons.items():
            print(f"  {said}: {', '.join(names)}")
        if args.out is not None:
            line = {"file": file.name, "date": date.today().isoformat(), "level": level, "rows": len(found),
                    "passed": counts["passed"], "cannot": cannot, "wrong": wrong, "seconds": round(seconds, 1)}  # fmt: skip
            with args.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

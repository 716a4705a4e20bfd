"""Samples graded per second by the built-in rewards, warm, in one process, on completions of the length of a rollout.

    .venv/bin/python -m benchmarks.grading                    # about a minute on two cores
    .venv/bin/python -m benchmarks.grading --only code math --samples 400

A completion is 150 words of reasoning and an answer in its tag, half of them right. No two are the same, since equal ones are
compared once. `code` runs each program against three asserts in the sandbox, at the best level of this machine. "first" is the
first call of all, in seconds: what starting workers and importing costs once. A line for each reward is appended to the results file.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from rewards import choice, code, countdown, gsm8k, math, repetition, sudoku
from rewards import format as layout
from rl.run import provenance

RESULTS = Path(__file__).parent / "results" / "grading.jsonl"
WORDS = "first we add the two numbers and see that it is then so many of them in each box which gives what was asked"


class Work(NamedTuple):
    """Completions of one task, and the columns of its rows."""

    completions: list[str]
    columns: dict[str, list[Any]]


def answered(draw: random.Random, answer: str) -> str:
    reasoning = " ".join(draw.choice(WORDS.split()) for _ in range(150))
    return f"<reasoning>\n{reasoning}\n</reasoning>\n<answer>\n{answer}\n</answer>"


def numbers(draw: random.Random, count: int) -> Work:
    golds = [draw.randrange(10_000) for _ in range(count)]
    given = [gold + index % 2 for index, gold in enumerate(golds)]
    return Work(
        [answered(draw, f"\\boxed{{{one:,}}}") for one in given], {"answer": [f"#### {gold}" for gold in golds]}
    )


def formulas(draw: random.Random, count: int) -> Work:
    parts = [(draw.randrange(2, 400), draw.randrange(2, 400), draw.randrange(2, 90)) for _ in range(count)]
    texts = [rf"\boxed{{\frac{{{2 * a}}}{{{2 * b + index % 2}}}\sqrt{{{c}}}}}" for index, (a, b, c) in enumerate(parts)]
    return Work(
        [answered(draw, text) for text in texts], {"answer": [rf"\frac{{{a}}}{{{b}}}\sqrt{{{c}}}" for a, b, c in parts]}
    )


def expressions(draw: random.Random, count: int) -> Work:
    rows = [[draw.randrange(1, 100) for _ in range(3)] for _ in range(count)]
    texts = [f"({a} + {b}) * {c}" for a, b, c in rows]
    targets = [(a + b) * c + index % 2 for index, (a, b, c) in enumerate(rows)]
    return Work([answered(draw, text) for text in texts], {"numbers": rows, "target": targets})


def grids(draw: random.Random, count: int) -> Work:
    solutions = [draw.choice(sudoku.solution_grids()) for _ in range(count)]
    puzzles = ["".join(cell if draw.random() < 0.5 else "0" for cell in grid) for grid in solutions]
    texts = [grid if index % 2 else grid[::-1] for index, grid in enumerate(solutions)]
    return Work([answered(draw, text) for text in texts], {"puzzle": puzzles, "solution": solutions})


def letters(draw: random.Random, count: int) -> Work:
    golds = [draw.choice("ABCD") for _ in range(count)]
    texts = [gold if index % 2 else "A" for index, gold in enumerate(golds)]
    return Work([answered(draw, text) for text in texts], {"answer": golds})


def programs(draw: random.Random, count: int) -> Work:
    steps = [draw.randrange(10**9) for _ in range(count)]
    texts = [
        f"Here it is.\n```python\ndef f(n):\n    return n + {step + index % 2}\n```" for index, step in enumerate(steps)
    ]
    tests = [[f"assert f({n}) == {n + step}" for n in range(3)] for step in steps]
    return Work(texts, {"tests": tests})


# Reward, what makes its rows, and how many are graded in a call.
TASKS: dict[str, tuple[Callable[..., Any], Callable[[random.Random, int], Work], int]] = {
    "gsm8k.correct": (gsm8k.correct, numbers, 20_000),
    "math.correct": (math.correct, formulas, 1000),
    "countdown.correct": (countdown.correct, expressions, 20_000),
    "sudoku.solved": (sudoku.solved, grids, 20_000),
    "sudoku.cells": (sudoku.cells, grids, 20_000),
    "choice.correct": (choice.correct, letters, 20_000),
    "code.tests": (code.tests, programs, 200),
    "format.tags": (layout.tags, numbers, 20_000),
    "repetition.ngrams": (repetition.ngrams, numbers, 5000),
}


def measure(reward: Callable[..., Any], make: Callable[[random.Random, int], Work], samples: int) -> dict[str, float]:
    """Seconds of the first call, on two rows, and samples per second of a call after it."""
    draw = random.Random(0)
    first, rest = make(draw, 2), make(draw, samples)
    begun = time.perf_counter()
    reward(first.completions, **first.columns)
    started = time.perf_counter() - begun
    begun = time.perf_counter()
    scores: Sequence[Any] = reward(rest.completions, **rest.columns)
    seconds = time.perf_counter() - begun
    assert all(isinstance(score, float) for score in scores), next(s for s in scores if not isinstance(s, float))
    return {"first_seconds": started, "samples_per_second": samples / seconds, "mean": sum(scores) / samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="rewards whose name begins so")
    parser.add_argument("--samples", type=int, help="in a call; default: as many as take a few seconds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    for name, (reward, make, samples) in TASKS.items():
        if args.only and not name.startswith(tuple(args.only)):
            continue
        found = measure(reward, make, args.samples or samples)
        print(f"{name:20} {found['samples_per_second']:>10,.0f} samples/s, first call {found['first_seconds']:.2f} s")
        line = {
            "reward": name,
            "samples": args.samples or samples,
            "date": date.today().isoformat(),
            **found,
            **provenance(),
        }
        with args.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

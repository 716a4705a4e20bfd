"""``unmask quickstart``: 4x4 Sudoku from scratch. Data, the recipe ``sudoku_4x4_tiny`` through ``train``, an SFT control of the same
compute, a picture and a plain summary.
"""

import json
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewards.sudoku import make_puzzles, solution_grids
from rl.checkpoint import listed
from rl.config import Recipe, load_recipe
from rl.config_yaml import read_file
from rl.evaluate import clusters, interval, paired_gain
from rl.loop import torch_settings, train
from rl.progress import Reporter
from rl.resume import AUTO, CHECKPOINTS, ResumeError
from rl.run import Run, RunFolder, plain, read_jsonl
from rl.session import Session
from rl.setup import set_up
from rl.source import locate_run
from rl.warm_start import run_sft

RECIPE = "sudoku_4x4_tiny"
TEST_GRIDS = 64
TRAIN_PER_GRID, TEST_PER_GRID = 128, 8
BLANKS = (
    8,
    12,
)  # about half of these puzzles have several solutions, and cells drawn in parallel must agree on one


def main(
    seed: int = 0, out: Path | None = None, overrides: Sequence[str] = (), resume: str | Path | None = None
) -> Run:
    """Run the whole story into a folder; the same numbers on every machine of one kind, up to rounding.

    overrides, resume: as ``train`` takes them.
    """
    folder = out or Path("runs/quickstart")
    started = time.perf_counter()
    if resume is not None:
        _check_seed(folder if str(resume) == AUTO else Path(resume), seed)
    train_file, test_file = write_data(folder / "data", seed)
    with Reporter() as live:
        live.say(
            f"4x4 Sudoku, seed {seed}: {TEST_GRIDS} of 288 solution grids are held out. Everything goes to {folder}/"
        )
        recipe = load_recipe(
            RECIPE,
            [
                f"data.train.path={train_file}",
                f"data.eval.path={test_file}",
                f"warm_start.data.path={train_file}",
                f"train.seed={seed}",
                f"train.out={folder}",
                *overrides,
            ],
        )
        run = train(recipe, reporter=live, resume=resume)
        before = time.perf_counter()
        with torch_settings(recipe):
            control = sft_control(recipe, run, live)
        summary = {**run.summary, "control": control}
        ended = time.perf_counter()
        # What an interrupted run did before counts, too.
        parts = sum(run.summary["wall_seconds"].values()) + ended - before
        summary["wall_seconds"]["total"] = max(ended - started, parts)
        (folder / "summary.json").write_text(json.dumps(plain(summary), indent=2) + "\n", encoding="utf-8")
        picture = draw(folder, summary)
        live.say(describe(summary, picture))
    return Run(folder, summary)


def _check_seed(folder: Path, seed: int) -> None:
    """Raises ``ResumeError`` where a run of another seed stands: its data must not be overwritten."""
    where = locate_run(folder)
    if where is None or not listed(where[0] / CHECKPOINTS):
        return
    theirs = (read_file(where[0] / "recipe.yaml").data.get("train") or {}).get("seed")
    if theirs != seed:
        raise ResumeError(
            f"{where[0]} holds a quickstart with seed {theirs}; continue it with --seed {theirs}, or take another folder with --out"
        )


def prompt_of(puzzle: str) -> str:
    """The puzzle as the model reads it: digits, and each blank named by the letter of its cell (a..p)."""
    return "".join(chr(ord("a") + cell) if digit == "0" else digit for cell, digit in enumerate(puzzle)) + "="


def write_data(folder: Path, seed: int) -> tuple[Path, Path]:
    """train.jsonl and test.jsonl with rows {prompt, completion, puzzle, solution, grid_id}, split by solution grid.

    A puzzle may have several solutions. Test puzzles that stand in the training rows (from another grid) are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    grids = list(solution_grids())
    random.Random(seed).shuffle(grids)
    known: set[str] = set()
    paths = []
    for name, part, count in (
        ("train", grids[TEST_GRIDS:], TRAIN_PER_GRID),
        ("test", grids[:TEST_GRIDS], TEST_PER_GRID),
    ):
        rows = [row for row in make_puzzles(part, count, BLANKS, seed, unique=False) if row["puzzle"] not in known]
        known |= {row["puzzle"] for row in rows}
        random.Random(seed).shuffle(rows)
        path = folder / f"{name}.jsonl"
        lines = [json.dumps({"prompt": prompt_of(row["puzzle"]), "completion": row["solution"], **row}) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        paths.append(path)
    return paths[0], paths[1]


def sft_control(recipe: Recipe, run: Run, live: Reporter) -> dict[str, Any]:
    """What supervised training reaches from the same warm start with the compute that RL used.

    Compute is counted in forwards of one row of prompt and canvas, a backward as two. The warm start's settings, but its learning rate
    decays to zero by a cosine: a constant rate would leave the control noisy, and some of what RL gains is only its smaller rate.
    """
    assert recipe.warm_start is not None
    assert recipe.eval is not None
    used = run.summary["rows_run"]
    budget = used["without_gradient"] + 3 * used["with_gradient"]
    steps = math.ceil(budget / (3 * recipe.warm_start.batch))
    model = recipe.model.model_copy(update={"path": str(run.folder / "warm_start" / "model")})
    settings = recipe.train.model_copy(update={"out": str(run.folder / "control")})
    decaying = recipe.warm_start.model_copy(update={"schedule": "cosine"})
    setup = set_up(recipe.model_copy(update={"model": model, "train": settings, "warm_start": decaying}))
    folder, _ = RunFolder.begin(setup.recipe.out, setup.recipe.to_yaml())
    session = Session.open(setup, live, folder)
    run_sft(session, steps=steps, first_step=recipe.warm_start.steps, name="SFT control")
    reached = session.evaluate("end")
    main = str(recipe.eval.sampler.steps)
    groups = clusters(setup)
    after = outcomes(run, "end")
    return {
        "sft_steps": steps,
        "row_forwards": budget,
        "accuracy": interval(reached[main], groups),
        "accuracy_by_steps": {name: interval(values, groups) for name, values in reached.items()},
        "rl_minus_control": paired_gain(reached[main], after[main], groups),
    }


def outcomes(run: Run, when: str) -> dict[str, np.ndarray]:
    """Outcome per prompt of an evaluation of the run, by step count."""
    row = next(row for row in read_jsonl(run.folder / "evaluations.jsonl") if row["when"] == when)
    return {name: np.array(values, dtype=float) for name, values in row["outcomes"].items()}


def draw(folder: Path, summary: dict[str, Any]) -> Path:
    """curve.png: accuracy over the updates, and against denoising steps before and after."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = read_jsonl(folder / "metrics.jsonl")
    evaluations = read_jsonl(folder / "evaluations.jsonl")
    steps = str(load_recipe(folder / "recipe.yaml").eval.sampler.steps)  # type: ignore[union-attr]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    left.plot(
        [row["update"] + 1 for row in rows],
        [row["outcome"] for row in rows],
        color="#9db4c8",
        label="training, sampled",
    )
    at = [_update_of(row["when"], len(rows)) for row in evaluations]
    cells = [row["accuracy"][steps] for row in evaluations]
    left.errorbar(
        at,
        [c["value"] for c in cells],
        yerr=_bars(cells),
        color="#0b4f8a",
        marker="o",
        capsize=3,
        label="held-out grids, greedy",
    )
    control = summary["control"]["accuracy"]["value"]
    left.axhline(control, color="#c46a1b", linestyle="--", label="SFT control, same compute")
    left.set(
        xlabel="RL update",
        ylabel=f"puzzles solved, {steps} denoising steps",
        title="Reinforcement learning on 4x4 Sudoku",
    )
    series = (
        ("after RL", summary["accuracy_by_steps_after"], "#0b4f8a", "o-"),
        ("after the warm start", summary["accuracy_by_steps_before"], "#7a8794", "s-"),
        ("SFT control", summary["control"]["accuracy_by_steps"], "#c46a1b", "^--"),
    )
    for name, cells_by_step, color, style in series:
        counts = sorted(cells_by_step, key=int)
        values = [cells_by_step[count] for count in counts]
        right.errorbar(
            range(len(counts)),
            [c["value"] for c in values],
            yerr=_bars(values),
            fmt=style,
            color=color,
            capsize=3,
            label=name,
        )
        right.set_xticks(range(len(counts)), counts)
    right.set(
        xlabel="denoising steps for 16 cells",
        ylabel="puzzles solved, greedy",
        title="Accuracy against denoising steps",
    )
    for axis in (left, right):
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, loc="lower right")
    path = folder / "curve.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _update_of(when: str, last: int) -> int:
    return {"start": 0, "end": last}[when] if when in ("start", "end") else int(when.split()[1])


def _bars(cells: list[dict[str, float]]) -> list[list[float]]:
    return [[c["value"] - c["low"] for c in cells], [c["high"] - c["value"] for c in cells]]


def describe(summary: dict[str, Any], picture: Path) -> str:
    """The end of the story in a few lines."""

    def share(cell: dict[str, float]) -> str:
        return f"{100 * cell['value']:.1f} %  [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"

    gain, against = summary["gain"], summary["control"]["rl_minus_control"]
    before, after = summary["accuracy_by_steps_before"], summary["accuracy_by_steps_after"]
    control = summary["control"]["accuracy_by_steps"]
    lines = [
        "",
        "Held-out 4x4 Sudoku solved, greedy decoding (95 % bootstrap over grids)",
        f"  after the warm start   {share(summary['accuracy_before'])}",
        f"  after RL               {share(summary['accuracy_after'])}",
        f"  gain                   {100 * gain['value']:+.1f} points  [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]",
        f"  SFT of equal compute   {share(summary['control']['accuracy'])}",
        f"  RL minus that control  {100 * against['value']:+.1f} points  [{100 * against['low']:+.1f}, {100 * against['high']:+.1f}]",
        "",
        "  denoising steps  " + "".join(f"{count:>8}" for count in sorted(after, key=int)),
        "  before           " + "".join(f"{100 * before[count]['value']:>8.1f}" for count in sorted(after, key=int)),
        "  after RL         " + "".join(f"{100 * after[count]['value']:>8.1f}" for count in sorted(after, key=int)),
        "  SFT control      " + "".join(f"{100 * control[count]['value']:>8.1f}" for count in sorted(after, key=int)),
        "",
        f"{summary['wall_seconds']['total']:.0f} s.  Picture: {picture}   numbers: {picture.parent / 'summary.json'}",
    ]
    return "\n".join(lines)

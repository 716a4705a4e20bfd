"""Where it stops scaling: seconds of an update during which workers wait for the driver, measured with simulated workers, and a model of
them for numbers of GPUs that nobody here has.

    .venv/bin/python -m benchmarks.scaling [--quick] [--only TEXT] [--out benchmarks/results/scaling.jsonl] [--picture docs/scaling.png]

The driver is `rl.loop.train`, the queue, the publishing of weights, the calls of the ranks and Ray are the real ones. Only what would run a
model is not: up to 64 samplers and 16 learners sleep instead, and answer with tensors of the true shapes. Overhead is the wall's seconds
beyond what they slept. All processes share this machine, so the wall also holds what the workers do themselves, one after the other; the
driver's own CPU seconds are measured beside it, and the model is fitted to those.
Resumable: a cell that stands in the output file is not measured again. Needs the extra 'cluster', about 11 GB of memory and 20 minutes.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks._common import RESULTS, machine, table
from benchmarks._scaling_model import (
    Fitted,
    counts_of_plan,
    crossing,
    errors,
    fitted,
    on_cluster,
)
from benchmarks._scaling_run import PHASES, PROMPT, Cell, Pool, measure
from rl.run import read_jsonl

QUICK = (
    Cell(1, 1, "espo", 4),
    Cell(2, 2, "espo", 8),
    Cell(4, 2, "trajectory_grpo", 8),
    Cell(8, 4, "espo", 16),
    Cell(4, 4, "diffu_grpo", 32, canvas=256),
)
GRID = (
    *QUICK,
    Cell(4, 2, "espo", 64, canvas=256),
    Cell(4, 2, "espo", 32, max_rows=4),
    Cell(2, 8, "espo", 16),
    Cell(2, 16, "espo", 16),
    Cell(4, 2, "trajectory_grpo", 32, canvas=256, steps=64),
    Cell(4, 2, "diffu_grpo", 256, passes=4),
    Cell(2, 2, "espo", 8, adapter_mb=64),
    Cell(8, 4, "espo", 16, adapter_mb=16),
    Cell(16, 4, "espo", 64, max_rows=4),
    Cell(32, 8, "espo", 32),
    Cell(32, 8, "trajectory_grpo", 32),
    Cell(64, 4, "espo", 64),
)
# Not fitted to: they show what the model is worth where it was not made.
HELD_OUT = (
    Cell(8, 8, "espo", 128, canvas=256, passes=4),
    Cell(16, 16, "trajectory_grpo", 16),
    Cell(2, 32, "espo", 32),
    Cell(64, 16, "espo", 64, adapter_mb=8),
    Cell(64, 16, "diffu_grpo", 256),
)
RECIPES = ("llada_8b_gsm8k_diffu_grpo", "llada_8b_gsm8k_espo", "llada_8b_gsm8k_trajectory_grpo")
GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
NODE, GPU = 8, "H100-80"
UTILISATION = 0.35


def key_of(cell: Cell) -> dict[str, Any]:
    return asdict(cell)


def name_of(cell: Cell) -> str:
    more = f"{cell.canvas} tokens, {cell.adapter_mb:g} MB, max_rows {cell.max_rows}, {cell.passes} passes"
    return f"{cell.samplers} samplers, {cell.learners} learners, {cell.preset}, {cell.prompts} x {cell.group}, {more}"


def run_grid(cells: Sequence[Cell], out: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of these cells; what the file does not hold is measured and appended, few workers first."""
    rows = read_jsonl(out) if out.exists() else []
    left = [cell for cell in cells if all(row["cell"] != key_of(cell) for row in rows)]
    left.sort(key=lambda cell: cell.samplers + cell.learners)
    pool = Pool() if left else None
    try:
        per_mb = pool.per_mb() if pool else {}
        for number, cell in enumerate(left):
            assert pool is not None
            start = time.perf_counter()
            pool.grow(cell.samplers, cell.learners)
            row = {"cell": key_of(cell), **measure(cell, pool), "per_mb": per_mb, "date": date.today().isoformat()}
            row |= machine("cpu")
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            rows.append(row)
            sums = f"overhead {sum(row['overhead'].values()):.2f} s, driver {sum(row['driver'].values()):.2f} s"
            say(f"{number + 1}/{len(left)}  {name_of(cell)}: {sums}  ({time.perf_counter() - start:.0f} s)")
    finally:
        if pool:
            pool.close()
    return [next(row for row in rows if row["cell"] == key_of(cell)) for cell in cells]


# -- on many GPUs ------------------------------------------------------------------------------------------------------


def extrapolate(model: Fitted, recipe: str, groups_per_gpu: float, gpus: Sequence[int] = GPUS) -> list[dict[str, Any]]:
    """For each number of GPUs: seconds of an update by `unmask plan`, and its overhead by phase. groups_per_gpu: prompts of an update for
    each GPU; 0: as many as the recipe says, whatever the number of GPUs. fewer: the number of learners, all or a half, a quarter and so on,
    with which an update takes least, and how long it then takes."""
    from rl.doctor import without_waiting
    from rl.hardware import GPUS as KNOWN
    from rl.hardware import Hardware
    from rl.layout import arrange
    from rl.plan_gpus import plan_gpus

    without_waiting()
    found = []
    for count in gpus:
        more = [f"train.prompts_per_update={max(1, round(groups_per_gpu * count))}"] if groups_per_gpu else []
        hardware = Hardware(KNOWN[GPU], min(NODE, count), -(-count // NODE))
        plan = plan_gpus(recipe, more, hardware, utilisation=UTILISATION, prompt_tokens=PROMPT)
        layout = plan.choice.chosen
        assert layout is not None, f"{recipe} does not fit on {count} GPUs"
        choices = {}
        for learners in (layout.cluster.learners >> halved for halved in range(8)):
            cluster = replace(layout.cluster, learners=learners)
            other = arrange(plan.setting, plan.work, hardware, cluster, UTILISATION) if learners else None
            if other is not None:
                choices[learners] = other, on_cluster(model, counts_of_plan(plan, other), hardware.nodes)
        overhead = choices[layout.cluster.learners][1]
        spent = sum(overhead.values())
        totals = {learners: one.total + sum(over.values()) for learners, (one, over) in choices.items()}
        best = min(totals, key=lambda learners: totals[learners])
        found.append(
            {
                "gpus": count,
                "seconds": layout.total,
                "overhead": overhead,
                "share": spent / (spent + layout.total),
                "rollouts": plan.work.rollouts,
                "fewer": (best, totals[best]),
            }
        )
    return found


# -- tables ------------------------------------------------------------------------------------------------------------


def measured_table(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds of an update: beyond the workers' own by the wall, and of the driver, phase by phase."""
    lines = []
    for row in rows:
        cell, overhead, driver = Cell(**row["cell"]), row["overhead"], row["driver"]
        what = f"{cell.preset}, {cell.prompts} x {cell.group}, {cell.canvas} tokens, {cell.adapter_mb:g} MB"
        parts = [f"{overhead[name]:.2f} / {driver[name]:.2f}" for name in PHASES]
        both = f"{sum(overhead.values()):.2f} / {sum(driver.values()):.2f}"
        lines.append([f"{cell.samplers} + {cell.learners}", what, *parts, both])
    return table(["samplers + learners", "update", *PHASES, "sum"], lines)


def error_table(model: Fitted, rows: Sequence[dict[str, Any]], held: Sequence[dict[str, Any]]) -> str:
    """Predicted over measured seconds of the driver."""
    lines = []
    for name, some in (("fitted to", rows), ("held out", held)):
        found = errors(model.costs, some)
        lines.append([f"{name}, {len(some)} cells", *(f"{min(v):.2f} to {max(v):.2f}" for v in found.values())])
    return table(["predicted / measured", *PHASES, "sum"], lines)


def cost_lines(model: Fitted) -> str:
    """Milliseconds of each term."""
    lines = [
        [phase, ", ".join(f"{1e3 * cost:.3g} a {name}" for name, cost in terms.items() if cost) or "none"]
        for phase, terms in model.costs.items()
    ]
    waits = ", ".join(f"{1e3 * cost:.3g} for {phase}" for phase, cost in model.delay.items())
    return table(
        ["phase", "driver, ms"], [*lines, ["delay", waits], ["out of the store", f"{1e3 * model.get:.3g} a MB"]]
    )


def share_table(curves: dict[str, list[dict[str, Any]]]) -> str:
    """The share of an update that is overhead, where it passes 10 and 50 %, and what takes most of it on the most GPUs."""
    lines = []
    for name, points in curves.items():
        gpus, shares = [one["gpus"] for one in points], [one["share"] for one in points]
        last = points[-1]
        most = max(last["overhead"], key=last["overhead"].get)
        passes = [
            "from the start"
            if shares[0] >= at
            else "not here"
            if (n := crossing(gpus, shares, at)) is None
            else f"{n:.0f}"
            for at in (0.1, 0.5)
        ]
        part = last["overhead"][most] / sum(last["overhead"].values())
        at = [f"{100 * one['share']:.1f} %" for one in points if one["gpus"] in (8, 64, 1024)]
        seconds = f"{last['seconds']:.0f} s + {sum(last['overhead'].values()):.1f} s"
        fewer = f"{last['fewer'][0]} learners: {last['fewer'][1]:.0f} s"
        lines.append([name, *at, *passes, seconds, f"{most}, {100 * part:.0f} %", fewer])
    header = ["overhead of an update", "8 GPUs", "64", "1,024", "passes 10 % at", "50 % at", "1,024: work + overhead"]
    return table([*header, "most of it", "quickest"], lines)


def curves_of(model: Fitted) -> dict[str, list[dict[str, Any]]]:
    """Of each recipe: its own batch, and one and four groups for each GPU."""
    found = {}
    for recipe in RECIPES:
        short = recipe.removeprefix("llada_8b_gsm8k_")
        for groups, words in ((0, "its own groups"), (1, "a group for each GPU"), (4, "four groups")):
            found[f"{short}, {words}"] = extrapolate(model, recipe, groups)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five small cells, and nothing held out")
    parser.add_argument("--only", default="", help="measure the cells whose description holds this text, and no more")
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling.jsonl")
    parser.add_argument("--picture", type=Path, default=None, help="where to draw the shares")
    asked = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)

    cells = QUICK if asked.quick else GRID
    held_out = () if asked.quick else HELD_OUT
    if asked.only:
        chosen = [cell for cell in (*cells, *held_out) if asked.only in name_of(cell)]
        print(measured_table(run_grid(chosen, asked.out, say)))
        return
    rows = run_grid((*cells, *held_out), asked.out, say)
    fit_rows, held = rows[: len(cells)], rows[len(cells) :]
    print("\nSeconds of an update beyond the workers' own: by the wall / of the driver's CPU\n")
    print(measured_table(rows))
    model = fitted(fit_rows)
    print(f"\n{cost_lines(model)}\n\n{error_table(model, fit_rows, held or fit_rows)}\n")
    curves = curves_of(model)
    print(share_table(curves))
    if asked.picture:
        from benchmarks._scaling_picture import draw

        draw(curves, asked.picture)


if __name__ == "__main__":
    main()

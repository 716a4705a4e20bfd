"""The picture of a diagnosis: what each estimator is worth at the budget and what it loses, and worth against cost."""

import math
from pathlib import Path
from typing import Any

from rl.diagnose_rows import Diagnosis, Row
from rl.diagnose_words import contender, law_name, rivals, views_of

WORTH, NOISE, DIRECTION = "#0b4f8a", "#c46a1b", "#d9dee3"
LINES = ("#0b4f8a", "#c46a1b", "#2f7d4f", "#8a3b8f", "#7a8794", "#b8860b", "#b03030", "#3a9aa8")
SHOWN = 8  # lines of the right panel


def draw(found: Diagnosis, path: Path) -> None:
    """Left: bars of worth, lost to noise, lost to direction, with intervals. Right: worth as more plans are averaged."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    height = 2.4 + 0.34 * len(found.rows)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(14, max(height, 5.0)), constrained_layout=True, width_ratios=(1.25, 1)
    )
    _bars(left, found)
    _curves(right, found)
    few = "" if found.leader is not None else "; too little signal to rank"
    figure.suptitle(
        f"{found.recipe.name or 'recipe'}: worth of a gradient, as a share of a step along that of the {law_name(found)}{few}",
        fontsize=12,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _bars(axis: Any, found: Diagnosis) -> None:
    rows = list(found.rows)[::-1]
    worth = [min(max(row.worth["value"], 0.0), 1.0) for row in rows]
    top = [max(_ceiling(row), value) for row, value in zip(rows, worth, strict=True)]
    places = range(len(rows))
    parts = (
        (worth, [0.0] * len(rows), WORTH, "worth at the budget"),
        ([high - low for high, low in zip(top, worth, strict=True)], worth, NOISE, "lost to noise of the masks"),
        ([1.0 - high for high in top], top, DIRECTION, "lost to direction (no budget mends it)"),
    )
    for width, start, color, label in parts:
        bars = axis.barh(places, width, left=start, color=color, label=label)
        for bar, row in zip(bars, rows, strict=True):
            bar.set_alpha(1.0 if row.affordable else 0.4)
    for place, row in zip(places, rows, strict=True):
        low, high = row.worth["low"], row.worth["high"]
        if not math.isnan(low):
            ends = [min(max(low, 0), 1), min(max(high, 0), 1)]
            axis.plot(ends, [place, place], color="white", linewidth=3.5, alpha=0.8)
            axis.plot(ends, [place, place], color="black", linewidth=1.2)
    best = [row.name for row in (found.leader, contender(found), *rivals(found)) if row is not None]
    axis.set_yticks(places, [_label(row) for row in rows], fontsize=9)
    for tick, row in zip(axis.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if row.name in best else "normal")
    axis.set(xlim=(0, 1), xlabel=f"share, at {found.budget} views per rollout; black: 95 % of the worth over prompts")
    axis.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncol=3, frameon=False, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def _curves(axis: Any, found: Diagnosis) -> None:
    for row, color in zip(_chosen(found), LINES, strict=False):
        cost, worth = zip(*row.curve, strict=True)
        width = 2.6 if row is found.leader else 1.5
        axis.plot(cost, worth, marker="o", markersize=4, linewidth=width, color=color, label=row.name)
        if not row.random and cost[0] < 4 * found.budget:  # one point: more views change nothing
            axis.plot([cost[0], 4 * found.budget], [worth[0]] * 2, linestyle=":", color=color, linewidth=1)
    axis.axvline(found.budget, color="black", linewidth=0.8, linestyle="--")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    low = min([0.0, *(worth for row in _chosen(found) for _, worth in row.curve)])
    axis.set(
        ylim=(low, 1.05),
        xlabel="views per rollout; dashed: the budget; dotted: fixed masks",
        ylabel="worth",
    )
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2)
    axis.spines[["top", "right"]].set_visible(False)


def _chosen(found: Diagnosis) -> list[Row]:
    """The leader, the recipe's own, and the best of each kind, with masks that are drawn and with fixed ones."""
    chosen: list[Row] = [row for row in found.rows if row is found.leader or row.own]
    kinds = {(row.name.partition(" ")[0], row.random) for row in chosen}
    for row in found.rows:
        kind = (row.name.partition(" ")[0], row.random)
        if row not in chosen and kind not in kinds:
            chosen.append(row)
            kinds.add(kind)
    more = [row for row in found.rows if row not in chosen]
    return (chosen + more)[:SHOWN]


def _ceiling(row: Row) -> float:
    """What endless draws would reach: the cosine squared."""
    cosine = row.cosine["value"]
    return 0.0 if math.isnan(cosine) or cosine < 0 else min(cosine**2, 1.0)


def _label(row: Row) -> str:
    names = [name for name in row.used_by if name != "this recipe"]
    mine = "  ◀ this recipe" if row.own else ""
    cost = views_of(row.views) if row.affordable else f"{views_of(row.views)}, beyond the budget"
    return f"{row.name}{mine}\n{', '.join([*names, cost])}"

"""The picture of comparisons: each difference with its interval, around nothing, and what could not have been seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.compare import Comparison, Difference
from rl.compare_family import Family
from rl.compare_report import grouped
from rl.errors import CommandError, check_folder

KINDS = (".png", ".svg", ".pdf")
COLORS = {"better": "#0b4f8a", "worse": "#c46a1b", "unsettled": "#8a3b8f", "none": "#7a8794"}
TITLES = {"better": "better", "worse": "worse", "none": "no difference shown", "unsettled": "not settled"}
BLIND = "#e4e8ec"
COLUMNS = (95, 145, 200)  # right edges of the figures beside the axis, points


@dataclass(frozen=True)
class Row:
    """A line of the picture. found: None for a heading."""

    name: str
    found: Difference | None = None


def check_picture(out: Path) -> None:
    """Raises CommandError for a kind of file that is no picture, and where none can be; said before the comparing rather than after."""
    if out.suffix.lower() not in KINDS:
        raise CommandError(
            f"--out {out}: a picture is a file that ends in {', '.join(KINDS)}; for the numbers there is --json"
        )
    if out.is_dir():
        raise CommandError(f"--out {out}: this is a folder; name a file")
    check_folder(out.parent)


def draw(found: Family | Comparison, out: Path) -> None:
    """Write it. One line for each comparison, by protocol; for two results, one for each parser."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = _rows(found)
    figure, axis = plt.subplots(figsize=(11, 1.8 + 0.34 * len(rows)), constrained_layout=True)
    _lines(axis, rows)
    _texts(axis, rows, isinstance(found, Family) and len(found.compared) > 1)
    axis.set_title(_title(found), loc="left", fontsize=12, pad=24)
    figure.savefig(out, dpi=130, bbox_inches="tight")
    plt.close(figure)


def _rows(found: Family | Comparison) -> list[Row]:
    if isinstance(found, Comparison):
        return [Row(parser, one) for parser, one in found.parsers.items()]
    return [
        row for title, group in grouped(found) for row in (Row(title), *(Row(one.model, one.found) for one in group))
    ]


def _title(found: Family | Comparison) -> str:
    alarm = "NOT MEASURED ALIKE: " if any(note.startswith("NOT") for note in found.notes) else ""
    if isinstance(found, Comparison):
        return f"{alarm}{found.b} less {found.a}"
    return f"{alarm}accuracy less that of {found.base}"


def _lines(axis: Any, rows: Sequence[Row]) -> None:
    """Intervals, their middles, and behind them the differences that such pairs would mostly not show."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown = [(place, row.found) for place, row in enumerate(rows) if row.found is not None and row.found.clusters]
    for place, one in shown:
        gain, color = one.difference, COLORS[one.verdict]
        if not math.isnan(one.seen):
            width = 100 * min(one.seen, 1.0)
            axis.barh(place, 2 * width, left=-width, height=0.72, color=BLIND, zorder=0)
        axis.plot([100 * gain["low"], 100 * gain["high"]], [place] * 2, color=color, linewidth=2, solid_capstyle="butt")
        sure = one.verdict in ("better", "worse")
        axis.plot(
            100 * gain["value"], place, "o", color=color, markersize=7, markerfacecolor=color if sure else "white"
        )
    reach = [abs(end) for _, one in shown for end in (*_ends(one), min(one.seen, 1.0)) if not math.isnan(end)]
    axis.set_xlim(*(sign * 105 * max(reach, default=1.0) for sign in (-1, 1)))
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=9)
    for tick, row in zip(axis.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if row.found is None else "normal")
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("points of accuracy, with the 95 % interval of each comparison by itself")
    axis.spines[["top", "right", "left"]].set_visible(False)
    marks: list[Any] = [
        Line2D([], [], color=COLORS[kind], marker="o", markerfacecolor=_inside(kind), label=TITLES[kind], linewidth=2)
        for kind in TITLES
        if kind in {one.verdict for _, one in shown}
    ]
    marks.append(Patch(color=BLIND, label="a true difference this small would mostly not be seen"))
    axis.figure.legend(handles=marks, loc="outside lower center", ncol=5, frameon=False, fontsize=9)


def _ends(one: Difference) -> tuple[float, float]:
    return one.difference["low"], one.difference["high"]


def _inside(verdict: str) -> str:
    """Full where something was shown."""
    return COLORS[verdict] if verdict in ("better", "worse") else "white"


def _texts(axis: Any, rows: Sequence[Row], adjusted: bool) -> None:
    """On the right, in columns: accuracy before and after, the difference, p."""
    heads = ("accuracy, %", "points", "p, Holm" if adjusted else "p")
    for column, head in zip(COLUMNS, heads, strict=True):
        _beside(axis, head, column, 1, "axes fraction", 6, fontweight="bold")
    for place, row in enumerate(rows):
        if row.found is None:
            continue
        for column, words in zip(COLUMNS, _cells(row.found, adjusted), strict=True):
            _beside(axis, words, column, place, "data", 0, va="center_baseline")


def _beside(axis: Any, words: str, column: int, height: float, measure: str, up: int, **style: Any) -> None:
    where = {"xycoords": ("axes fraction", measure), "xytext": (column, up), "textcoords": "offset points"}
    axis.annotate(words, (1, height), ha="right", fontsize=9, **where, **style)


def _cells(one: Difference, adjusted: bool) -> tuple[str, str, str]:
    if not one.clusters:
        return "nothing to compare", "", ""
    chance = one.adjusted if adjusted else one.p_value
    return (
        f"{100 * one.a:.1f} to {100 * one.b:.1f}",
        f"{100 * one.difference['value']:+.1f}",
        "< 0.001" if chance < 0.001 else f"{chance:.3f}",
    )

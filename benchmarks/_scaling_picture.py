"""The picture of `benchmarks.scaling`: overhead of an update against the number of GPUs, and what it consists of on the most."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._scaling_run import PHASES

COLORS = ("#0b4f8a", "#c46a1b", "#2f7d4f", "#8a3b8f", "#b8860b", "#7a8794")
DASHES = ("-", "--", ":")


def draw(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """curves: "recipe, groups" -> points of `benchmarks.scaling.extrapolate`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 5.4), constrained_layout=True, width_ratios=(1.25, 1))
    _shares(left, curves)
    _parts(right, curves)
    figure.suptitle("Model, fitted to simulated workers: what an update of LLaDA-8B loses to the driver", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _shares(axis: Any, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    recipes = list(dict.fromkeys(name.partition(", ")[0] for name in curves))
    kinds = list(dict.fromkeys(name.partition(", ")[2] for name in curves))
    for name, points in curves.items():
        recipe, _, kind = name.partition(", ")
        axis.plot(
            [one["gpus"] for one in points],
            [100 * one["share"] for one in points],
            color=COLORS[recipes.index(recipe)],
            linestyle=DASHES[kinds.index(kind)],
            linewidth=1.8,
            label=name,
        )
    for at in (10, 50):
        axis.axhline(at, color="black", linewidth=0.7, alpha=0.5)
        axis.annotate(
            f"{at} %", (1, at), xycoords=("axes fraction", "data"), xytext=(3, -3), textcoords="offset points"
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_ylim(0.1, 100)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set(xlabel="GPUs (H100-80; laid out and timed by unmask plan)", ylabel="overhead, % of an update")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)


def _parts(axis: Any, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    names = list(curves)[::-1]
    places, start = range(len(names)), [0.0] * len(names)
    for phase, color in zip(PHASES, COLORS, strict=True):
        widths = [curves[name][-1]["overhead"][phase] for name in names]
        axis.barh(places, widths, left=start, color=color, label=phase)
        start = [low + width for low, width in zip(start, widths, strict=True)]
    for place, name, end in zip(places, names, start, strict=True):
        axis.annotate(f" of {curves[name][-1]['seconds'] + end:.0f} s", (end, place), va="center", fontsize=8)
    axis.set_yticks(places, [name.replace(", ", "\n", 1) for name in names], fontsize=8)
    axis.set_xlim(0, 1.2 * max(start))
    count = curves[names[0]][-1]["gpus"]
    axis.set(xlabel=f"seconds of overhead in an update, {count:,} GPUs")
    axis.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncol=6)
    axis.spines[["top", "right"]].set_visible(False)

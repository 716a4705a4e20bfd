"""What the bench found, as data and as a table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console

Status = Literal["fail", "warn", "pass", "skip"]
_ORDER: tuple[Status, ...] = ("fail", "warn", "pass", "skip")
_COLOURS = {"fail": "bold red", "warn": "yellow", "pass": "green", "skip": "dim"}
_BINS = 10


@dataclass(frozen=True)
class Finding:
    """One check: its verdict, what was seen, and what to do about it ("" where nothing is to be done).

    short  the finding in a few words, for the verdict of the whole
    """

    status: Status
    check: str
    seen: str
    remedy: str = ""
    short: str = ""


@dataclass(frozen=True)
class Report:
    """All findings on one reward; `facts`: what was tested on; `scores`: of the user's own completions, if there were any."""

    reward: str
    source: str
    facts: Mapping[str, Any]
    findings: tuple[Finding, ...]
    scores: tuple[float | None, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return any(finding.status == "fail" for finding in self.findings)

    def worst_first(self) -> list[Finding]:
        """The findings, failures first, in the order of the checks otherwise."""
        return sorted(self.findings, key=lambda finding: _ORDER.index(finding.status))

    def verdict(self) -> str:
        """One sentence."""
        worst = [finding.short or finding.check for finding in self.worst_first() if finding.status == "fail"]
        if worst:
            return f"Do not train on {self.reward} yet: {'; '.join(worst)}."
        doubts = [finding.short or finding.check for finding in self.findings if finding.status == "warn"]
        if doubts:
            return f"{self.reward} can be trained on, if you mean this: {'; '.join(doubts)}."
        return f"{self.reward} passes every check that could be made here."

    def as_json(self) -> dict[str, Any]:
        """Plain data, the findings worst first."""
        return {
            "reward": self.reward,
            "data": self.source,
            **self.facts,
            "failed": self.failed,
            "verdict": self.verdict(),
            "findings": [asdict(finding) for finding in self.worst_first()],
            "histogram": histogram(self.scores),
        }


def histogram(scores: Sequence[float | None]) -> list[dict[str, float]]:
    """Counts of scores: per value where there are few, else in ten equal bins. Bins hold their lower edge."""
    values = sorted(score for score in scores if score is not None)
    if not values:
        return []
    distinct = sorted(set(values))
    if len(distinct) <= _BINS:
        return [{"from": value, "to": value, "count": values.count(value)} for value in distinct]
    low, width = values[0], (values[-1] - values[0]) / _BINS
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, math.floor((value - low) / width))] += 1
    return [{"from": low + i * width, "to": low + (i + 1) * width, "count": n} for i, n in enumerate(counts)]


def show(report: Report, console: Console) -> None:
    """The table, worst first, a histogram of the user's completions, and the verdict."""
    from rich.markup import escape
    from rich.table import Table

    facts = report.facts
    console.print(f"[bold]{escape(report.reward)}[/bold] on {facts['rows']} rows of {escape(report.source)}")
    told = {
        "gold answers": facts.get("gold"),
        "completions": facts.get("completions"),
        "answers read in": ", ".join([facts["layout"], *facts["also_in"]]) if "layout" in facts else None,
    }
    console.print(escape(" · ".join(f"{name}: {value}" for name, value in told.items() if value)), style="dim")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(ratio=1, overflow="fold")
    for finding in report.worst_first():
        colour = _COLOURS[finding.status]
        todo = f"\n[italic]→ {escape(finding.remedy)}[/italic]" if finding.remedy else ""
        table.add_row(f"[{colour}]{finding.status}[/]", finding.check, escape(finding.seen) + todo)
    console.print(table)
    _show_histogram(report, console)
    colour = "bold red" if report.failed else "bold"
    console.print(f"\n[{colour}]{escape(report.verdict())}[/]")


def _show_histogram(report: Report, console: Console) -> None:
    from rich.bar import Bar
    from rich.table import Table

    bins = histogram(report.scores)
    if not bins:
        return
    most = max(one["count"] for one in bins)
    total = sum(one["count"] for one in bins)
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1)
    for one in bins:
        label = f"{one['from']:.3g}" if one["from"] == one["to"] else f"{one['from']:.3g} to {one['to']:.3g}"
        table.add_row(
            label, f"{one['count'] / total:.0%}", Bar(most, 0, one["count"], width=min(40, console.width // 2))
        )
    console.print("\nscores of your completions", style="bold")
    console.print(table)

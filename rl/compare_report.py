"""Comparisons for people: a table on the terminal, and the verdicts in words."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rl.compare import Comparison
from rl.compare_family import Compared, Family
from rl.statistics import Proportion

VERDICTS = {  # what the table says, and in which style
    "better": ("better", "bold green"),
    "worse": ("worse", "bold red"),
    "unsettled": ("not settled", "yellow"),
    "none": ("none shown", ""),
}


def show(found: Comparison | Family, console: Console | None = None) -> None:
    """Print it: a table, then the verdicts in words. What was not measured alike stands first."""
    console = console or Console(highlight=False)
    for note in (note for note in found.notes if note.startswith("NOT")):
        console.print(note, markup=False, soft_wrap=True, style="bold red")
    if isinstance(found, Comparison):
        _two(found, console)
    else:
        _several(found, console)
    for note in (note for note in found.notes if not note.startswith("NOT")):
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _two(found: Comparison, console: Console) -> None:
    console.print(f"A  {found.a}\nB  {found.b}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    several = len(found.parsers) > 1
    for name in ("A", "B", "B - A", "95 % interval", "n", "p", *(["p, Holm"] if several else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for parser, one in found.parsers.items():
        gain = one.difference
        span = f"[{gain['low']:+.3f}, {gain['high']:+.3f}]".replace("[", r"\[")
        values = (f"{one.a:.3f}", f"{one.b:.3f}", f"{gain['value']:+.3f}", span, str(int(gain["n"])))
        table.add_row(parser, *values, f"{one.p_value:.3g}", *([f"{one.adjusted:.3g}"] if several else []))
    console.print(table)
    for parser, one in found.parsers.items():
        console.print(f"{parser}: {one.words}", markup=False, soft_wrap=True)


def _several(found: Family, console: Console) -> None:
    """The models, a table of models by protocols, and a verdict for each comparison."""
    for name, source in found.models.items():
        console.print(f"{name}{', the base' if name == found.base else ''}: {source}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("accuracy", "points to base", "p, Holm" if len(found.compared) > 1 else "p"):
        table.add_column(name, justify="right", no_wrap=name != "points to base")
    table.add_column("difference", no_wrap=True)
    for _, group in grouped(found):
        table.add_row(f"[bold]{escape(group[0].protocol)}[/bold]", f"[bold]{escape(group[0].parser)}[/bold]")
        table.add_row(f"  {escape(found.base)}", _accuracy(group[0].base), "", "", "")
        for one in group:
            table.add_row(f"  {escape(one.model)}", _accuracy(one.other), *_gain(one))
    console.print(table)
    for title, group in grouped(found):
        for one in group:
            console.print(f"{title}: {one.found.words}", markup=False, soft_wrap=True)


def grouped(found: Family) -> Iterator[tuple[str, Sequence[Compared]]]:
    """Comparisons by one protocol and parser, under a title."""
    groups: dict[tuple[str, str], list[Compared]] = {}
    for one in found.compared:
        groups.setdefault((one.protocol, one.parser), []).append(one)
    for (protocol, parser), group in groups.items():
        yield f"{protocol}, {parser}", group


def _accuracy(cell: Proportion) -> str:
    return f"{cell.value:.3f} \\[{cell.low:.3f}, {cell.high:.3f}]" if cell.n else "none graded"


def _gain(one: Compared) -> tuple[str, str, str]:
    """Points and interval, p, and the verdict."""
    gain = {name: 100 * value for name, value in one.found.difference.items()}
    if not one.found.clusters:
        return "", "", "nothing to compare"
    said, style = VERDICTS[one.found.verdict]
    told = f"[{style}]{said}[/{style}]" if style else said
    return f"{gain['value']:+.1f} \\[{gain['low']:+.1f}, {gain['high']:+.1f}]", f"{one.found.adjusted:.3g}", told

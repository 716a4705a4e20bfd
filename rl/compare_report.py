"""A comparison of two results for people: a table on the terminal, and the verdict in words."""

from rich.console import Console
from rich.table import Table

from rl.compare import Comparison


def show(found: Comparison, console: Console | None = None) -> None:
    """Print it: a table, then the verdict in words."""
    console = console or Console(highlight=False)
    for note in (note for note in found.notes if note.startswith("NOT")):
        console.print(note, markup=False, soft_wrap=True, style="bold red")
    console.print(f"A  {found.a}\nB  {found.b}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("A", "B", "B - A", "95 % interval", "n", "p", "p, Holm"):
        table.add_column(name, justify="right", no_wrap=True)
    for parser, one in found.parsers.items():
        gain = one.difference
        span = f"[{gain['low']:+.3f}, {gain['high']:+.3f}]".replace("[", r"\[")
        values = (f"{one.a:.3f}", f"{one.b:.3f}", f"{gain['value']:+.3f}", span, str(int(gain["n"])))
        table.add_row(parser, *values, f"{one.p_value:.3g}", f"{one.adjusted:.3g}" if len(found.parsers) > 1 else "")
    console.print(table)
    for parser, one in found.parsers.items():
        console.print(f"{parser}: {one.words}", markup=False, soft_wrap=True)
    for note in (note for note in found.notes if not note.startswith("NOT")):
        console.print(f"note: {note}", markup=False, soft_wrap=True)

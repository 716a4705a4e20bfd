"""Live progress on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_SECONDS = 10.0  # between two lines where there is no terminal


class Reporter:
    """Phases with a bar, an ETA and the few numbers worth watching.

    The remaining time of a phase comes from the speed of its last minute or so, not from a guess.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(quiet=quiet)
        self._live = self.console.is_terminal and not quiet
        self._bars = Progress(
            TextColumn("[bold]{task.description:<22}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            speed_estimate_period=60.0,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._transient: dict[str, bool] = {}
        self._spoke: dict[str, float] = {}
        self._before: dict[str, int] = {}

    def __enter__(self) -> "Reporter":
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bars.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False)  # a reason may hold [brackets]

    def phase(self, name: str, total: int, *, done: int = 0, transient: bool = False) -> None:
        """Begin a phase of ``total`` units, ``done`` of them before. A transient one leaves no bar behind, and no line unless it lasts."""
        if name in self._tasks:
            self._bars.remove_task(self._tasks[name])
        self._tasks[name] = self._bars.add_task(name, total=total, completed=done, note="")
        self._before[name] = done
        self._started[name] = time.monotonic()
        self._transient[name] = transient
        # The first unit of a phase is its slowest; a remaining time made from it alone would be wrong by far.
        self._spoke[name] = time.monotonic() - (0.0 if transient else LINE_SECONDS / 2)

    def advance(self, name: str, count: int = 1, **numbers: Any) -> None:
        """Count units of a phase; ``numbers`` are shown beside the bar."""
        task = self._tasks[name]
        note = "  ".join(
            f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in numbers.items()
        )
        self._bars.update(task, advance=count, note=note)
        state = next(one for one in self._bars.tasks if one.id == task)
        if state.finished and self._transient[name]:
            self._bars.remove_task(self._tasks.pop(name))
        if self._live:
            return
        now = time.monotonic()
        if (state.finished and not self._transient[name]) or now - self._spoke[name] > LINE_SECONDS:
            self._spoke[name] = now
            elapsed = now - self._started[name]
            here = max(1e-9, state.completed - self._before[name])
            left = elapsed / here * ((state.total or 0) - state.completed)
            self.console.print(
                f"{name}: {int(state.completed)}/{int(state.total or 0)}  {elapsed:.0f} s, {left:.0f} s left  {note}",
                highlight=False,
            )

"""Sinks for the numbers of a run, besides its folder: tensorboard, wandb, trackio, through Accelerate's trackers.

The folder always holds everything; a sink is a copy for whoever watches. So a sink that cannot be opened is an error before the run
starts, and a sink that fails later is told once and never ends the run. None of the libraries is imported unless it is named.
"""

import json
import math
import os
import secrets
import shutil
import sqlite3
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.config_yaml import to_yaml

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

FILE = "track.json"  # in the run folder: {"id", "last": newest step that was sent}


class TrackError(RuntimeError):
    """A sink that cannot be opened. Raised before a run starts; the message says what to do."""


def missing(sinks: Sequence[str]) -> list[str]:
    """Those of the sinks whose package is not installed. Imports nothing. Every sink has the name of its package."""
    return [name for name in sinks if find_spec(name) is None]


@dataclass(frozen=True)
class Place:
    """What a sink needs to know of a run. id: six hexadecimal digits of its own; resumed_at: updates done, None for a new run."""

    project: str
    name: str
    folder: Path
    config: Mapping[str, Any]
    id: str
    resumed_at: int | None


class Tracker:
    """The open sinks of a run, any number of them."""

    def __init__(
        self, sinks: Mapping[str, "GeneralTracker"], place: Place, sent: int, warn: Callable[[str], object]
    ) -> None:
        self._sinks = dict(sinks)
        self._place = place
        self._sent = sent  # by the part of the run that was interrupted
        self._last = sent
        self._warn = warn
        self._told: set[str] = set()

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Send the finite numbers among ``values``. step: updates done, never less than before; 0 is the start of RL.

        wandb and trackio cannot take a step back: what an interrupted run sent already is not sent again. tensorboard forgets the
        steps after the checkpoint when it is opened, and gets them again.
        """
        numbers = {name: value for name, value in values.items() if name != "update" and _is_number(value)}
        for name, sink in self._sinks.items():
            if numbers and (name == "tensorboard" or step > self._sent):
                self._try(name, lambda sink=sink: sink.log(numbers, step=step))
        if self._sinks and step > self._last:
            self._last = step
            self._remember()

    def close(self) -> None:
        """Send what is waiting, and let go. wandb waits here for its server, if it is not offline."""
        for name, sink in self._sinks.items():
            self._try(name, sink.finish)
        self._sinks = {}

    def _try(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except _failures(name) as error:
            if name not in self._told:
                self._told.add(name)
                self._warn(
                    f"track: {name} failed, and the run goes on without it: {_first_line(error)}. Nothing is lost: {self._place.folder} "
                    "holds every number. Later failures are tried again and not told"
                )

    def _remember(self) -> None:
        path = self._place.folder / FILE
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps({"id": self._place.id, "last": self._last}) + "\n", encoding="utf-8")
        os.replace(beside, path)


def open_trackers(
    sinks: Sequence[str],
    project: str,
    run_name: str,
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    resumed_at: int | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> Tracker:
    """Open the sinks by name; none gives a Tracker that does nothing.

    config: the recipe as plain data. resumed_at: updates done by the checkpoint that the run goes on from; None begins a run of its
    own. warn: is told, once per sink, when one fails later. Call it after the Accelerator is made.

    Raises TrackError for a package that is not installed, and for a sink that refuses.
    """
    absent = missing(sinks)
    if absent:
        raise TrackError(
            f"track.sinks: {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed\n"
            "    pip install 'unmask[track]', or leave the name out of track.sinks"
        )
    folder = Path(folder)
    known = json.loads((folder / FILE).read_text(encoding="utf-8")) if (folder / FILE).exists() else None
    if resumed_at is None or known is None:
        known = {"id": secrets.token_hex(3), "last": -1}
    place = Place(project, run_name, folder, config, known["id"], resumed_at)
    opened: dict[str, GeneralTracker] = {}
    for name in sinks:
        try:
            opened[name] = OPENERS[name](place)
        except _failures(name) as error:
            for sink in opened.values():
                sink.finish()
            raise TrackError(
                f"track.sinks: {name} could not be opened: {_first_line(error)}\n    {REMEDIES[name]}"
            ) from error
    tracker = Tracker(opened, place, known["last"], warn)
    if opened:
        tracker._remember()
    return tracker


# ---- one function per sink


def _tensorboard(place: Place) -> "GeneralTracker":
    """``FOLDER/tensorboard``. A resumed run writes a further file there, which hides the steps after the checkpoint."""
    from accelerate.tracking import TensorBoardTracker

    if place.resumed_at is None:
        shutil.rmtree(place.folder / "tensorboard", ignore_errors=True)
    purge = None if place.resumed_at is None else place.resumed_at + 1
    sink = TensorBoardTracker("tensorboard", place.folder, purge_step=purge)
    sink.start()
    if place.resumed_at is None:
        recipe = "".join(f"    {line}\n" for line in to_yaml(dict(place.config)).splitlines())  # indented: a code block
        sink.log({"recipe": recipe}, step=0)
    return sink


def _wandb(place: Place) -> "GeneralTracker":
    """A run with an id of ours, so that it is found again. Its files stand in ``FOLDER/wandb``."""
    import wandb  # pyright: ignore[reportMissingImports]
    from accelerate.tracking import WandBTracker

    sink = WandBTracker(
        place.project,
        name=place.name,
        id=f"{place.name}-{place.id}"[:128],
        resume="allow",
        dir=str(place.folder),
        config=dict(place.config),
        settings=wandb.Settings(console="off"),  # progress bars would fill its log
    )
    sink.start()
    return sink


def _trackio(place: Place) -> "GeneralTracker":
    """A run that its name, ours plus the id, finds again. Its database stands where ``TRACKIO_DIR`` says."""
    from accelerate.tracking import TrackioTracker

    sink = TrackioTracker(
        place.project,
        name=f"{place.name}-{place.id}",
        resume="allow",
        config=dict(place.config),
        auto_log_cpu=False,
        auto_log_gpu=False,
    )
    sink.start()
    return sink


OPENERS: dict[str, Callable[[Place], "GeneralTracker"]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
REMEDIES = {
    "tensorboard": "it writes below the run folder: see that there is room and leave to write",
    "wandb": "log in with: wandb login; or write locally with WANDB_MODE=offline, and send it later with: wandb sync",
    "trackio": "it writes below TRACKIO_DIR: see that there is room and leave to write",
}


def _failures(name: str) -> tuple[type[Exception], ...]:
    """What a library raises when its disk, network or server fails; anything else is a mistake of ours, and is shown."""
    if name == "wandb":
        import wandb  # pyright: ignore[reportMissingImports]

        return (OSError, wandb.Error)
    if name == "trackio":
        return (OSError, sqlite3.Error)
    return (OSError,)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n", 1)[0]
    return f"{text} ({type(error).__name__})" if text else type(error).__name__

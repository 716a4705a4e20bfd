"""Ctrl-C and SIGTERM: the first asks the run to save and end after the piece of work at hand, a second ends it at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

EXIT_CODE = 130  # what a shell reports for a command ended by Ctrl-C


class RunInterrupted(KeyboardInterrupt):
    """The run was asked to end; it is saved, and the message says how to go on."""


class Interrupt:
    """Within the block, ``asked`` turns true at the first signal. Outside the main thread nothing is changed."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = False
        self._at_once = ""
        self._say = say
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            # What is ignored stays so: a job in the background must not end by a Ctrl-C that is meant for another.
            wanted = [number for number in self.SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in wanted}
        return self

    def again(self) -> None:
        """Take the signals back: Ray, when it starts, puts a handler of its own over that of SIGTERM, unseen by Python."""
        for number in self._before:
            signal.signal(number, self._handle)

    @contextmanager
    def at_once(self, message: str) -> Iterator[None]:
        """A block without anything to save, which may last: a signal in it raises RunInterrupted(message) there and then."""
        self._at_once = message
        try:
            yield
        finally:
            self._at_once = ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(EXIT_CODE)  # at once: no cleanup that could hang
        self.asked = True
        if self._at_once:
            raise RunInterrupted(self._at_once)
        self._say(
            "Stopping with a checkpoint, after this update or in this evaluation. Ctrl-C again ends at once, without one."
        )

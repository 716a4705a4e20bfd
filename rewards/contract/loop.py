"""The event loop that async reward functions share, and what becomes of a call that does not end in its time.

A call that waits is cancelled when its time is up. One that holds the loop up (it computes, or sleeps without `await`) cannot be: whoever
called gets an answer all the same, which says whose call it is, and this process is of no more use.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from rewards.contract.answers import Open

_BEGUN = Open(guilty=False, stuck=True)  # of a call that has not ended
GRACE = 0.04  # seconds that a call has to end in when it is cancelled

_loops: dict[int, asyncio.AbstractEventLoop] = {}
_loops_lock = threading.Lock()
_owner: ContextVar[object] = ContextVar("owner", default=None)
_owners: WeakKeyDictionary[asyncio.Task[Any], object] = WeakKeyDictionary()


@dataclass(frozen=True)
class Work:
    """A call. owner: whose it is, and that of all tasks that it makes; until: when its time is up, by `time.monotonic`; None: never."""

    owner: object
    start: Callable[[], Coroutine[Any, Any, None]]
    until: float | None = None


def together(works: Sequence[Work]) -> list[Open | None]:
    """Run calls side by side on this process's loop; None for each that ended by itself. What they raise is theirs to catch."""
    loop = _loop()
    ends: list[Open | None] = [_BEGUN] * len(works)
    future = asyncio.run_coroutine_threadsafe(_all(works, ends), loop)
    try:
        for until, last in _looks(works):
            with suppress(TimeoutError):
                future.result(None if until is None else max(0.0, until - time.monotonic()) + 2 * GRACE)
                return ends
            running = asyncio.current_task(loop)  # where the loop is held up, by this one
            guilty = None if running is None else _owners.get(running)
            # A call whose time was up, and that neither ended nor was cancelled: the patience of others is not for it.
            late = any(work.owner is guilty and ends[place] is _BEGUN and _up(work) for place, work in enumerate(works))
            if late or last:
                future.cancel()
                break
        for place, work in enumerate(works):
            if (guilty is None or guilty is work.owner) and ends[place] is not None:
                ends[place] = Open(guilty=True, stuck=True)
    except BaseException:
        future.cancel()  # Ctrl-C while a judge is slow
        raise
    return ends


def _looks(works: Sequence[Work]) -> list[tuple[float | None, bool]]:
    """When to look whether the loop is held up: at each time that a call has; with calls that have none, for ever at last."""
    times: list[float | None] = [*sorted({work.until for work in works if work.until is not None})]
    times += [None] if len(times) == 0 or any(work.until is None for work in works) else []
    return [(until, number == len(times) - 1) for number, until in enumerate(times)]


def _up(work: Work) -> bool:
    return work.until is not None and work.until <= time.monotonic()


async def _all(works: Sequence[Work], ends: list[Open | None]) -> None:
    await asyncio.gather(*(_limited(work, place, ends) for place, work in enumerate(works)))


async def _limited(work: Work, place: int, ends: list[Open | None]) -> None:
    """One call, and what became of it in `ends`."""
    _owner.set(work.owner)  # of this task's context, which those that it makes inherit
    task = asyncio.get_running_loop().create_task(work.start())
    left = None if work.until is None else max(0.0, work.until - time.monotonic())
    try:
        await asyncio.wait({task}, timeout=left)
        if task.done():
            ends[place] = None
            return
        task.cancel()
        await asyncio.wait({task}, timeout=GRACE)
        ends[place] = Open(guilty=True, stuck=not task.done())
    finally:
        task.cancel()


def _loop() -> asyncio.AbstractEventLoop:
    """One loop for the whole run, so that a session or a semaphore that an author keeps between calls stays usable; on a
    thread of its own, so that it also works inside a notebook's loop."""
    with _loops_lock:
        loop = _loops.get(os.getpid())  # a forked child inherits the table but not the thread
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            loop.set_task_factory(_owned)
            threading.Thread(target=loop.run_forever, name="unmask-rewards", daemon=True).start()
        return loop


def _owned(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(work, loop=loop, **options)
    _owners[task] = _owner.get()
    return task

"""A small pool of warm worker processes that can be killed: for grading that may hang, crash or ask for all memory.

A worker is a command that reads one request a line on standard input and answers in lines on standard output: `ready`
once at its start (or `! why not`), then for each request any number of lines that say how far it is, and a last one
that begins with `=`. Requests go to whichever worker is free. One that dies or keeps silent for too long costs its own
request only; a new worker takes its place. No process of the pool outlives the interpreter: they are killed at exit,
and end by themselves when their standard input closes. One that is busy does not see that; on Linux it can ask the kernel
to be killed with its parent (PR_SET_PDEATHSIG). The kernel's parent is a thread, so all workers of a pool are started by
one thread that lives as long as the interpreter.
"""

from __future__ import annotations

import atexit
import math
import os
import queue
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

Made = TypeVar("Made")

START_SECONDS = 120.0
LOST_WORKERS = 100  # that ended while they had nothing to do, over the life of a pool
REQUESTS_PER_WORKER = 1000  # then a fresh process: nothing that a library keeps can pile up


class PoolError(RuntimeError):
    """Workers cannot be started. The message says why."""


@dataclass(frozen=True)
class Reply:
    """What became of one request.

    lines   what the worker said, in order; the last begins with `=` unless it died or was killed
    code    None after a full reply; else how the process ended: its exit status, or minus a signal's number
    overran whether it was killed for keeping silent too long
    """

    lines: tuple[str, ...]
    code: int | None = None
    overran: bool = False


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    deadline: float
    request: int | None = None  # index of the request it works on
    lines: list[str] = field(default_factory=list)
    rest: bytearray = field(default_factory=bytearray)  # of a line that has not fully arrived
    ready: bool = False
    served: int = 0


class Pool:
    """Up to `size` workers running `command`, started as they are needed and kept for the next call.

    A pool belongs to the process that made it; calls from several threads wait for each other. `grace`: seconds that a
    worker has to end by itself when its input closes, before it is killed; for one that has to tidy up.
    """

    def __init__(
        self,
        command: Sequence[str],
        size: int,
        *,
        grace: float = 0.0,
        greeting: bytes = b"",
        errors: int = subprocess.DEVNULL,
        start_seconds: float | None = None,
        retire: bool = True,
        title: str | None = None,
    ) -> None:
        """title: what messages call a worker; None: its command. greeting: what a new one is told first. errors: file descriptor of its
        standard error. start_seconds: until it is ready; None: START_SECONDS. retire: whether a fresh process takes the place of one
        that has served REQUESTS_PER_WORKER."""
        self.command = list(command)
        self.size = size
        self.grace = grace
        self.title = title or " ".join(command)
        self.greeting, self.errors = greeting, errors
        self.start_seconds, self.retire = start_seconds or START_SECONDS, retire
        self._workers: list[_Worker] = []
        self.worked = False  # whether a worker has ever been ready
        self._lost = 0
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._orders: queue.SimpleQueue[Future[subprocess.Popen[bytes]]] = queue.SimpleQueue()
        self._starter: threading.Thread | None = None
        atexit.register(self.close)

    def run(self, requests: Sequence[str], seconds: float, budget: float = math.inf) -> list[Reply]:
        """One reply per request, in their order. `seconds`: wall time after which a request is given up; `budget`: after which all are,
        those included that had not begun. Time in which all that goes on is that workers start is not of it, up to as much again.

        Raises PoolError if workers do not start.
        """
        replies: list[Reply | None] = [None] * len(requests)
        waiting = deque(range(len(requests)))
        until, latest = time.monotonic() + budget, time.monotonic() + 2 * budget
        with self._lock:
            try:
                while waiting or any(worker.request is not None for worker in self._workers):
                    if time.monotonic() >= until:
                        waiting.clear()
                    self._assign(waiting, requests, seconds, until)
                    starting, before = all(worker.request is None for worker in self._workers), time.monotonic()
                    self._listen(replies, latest if starting else until)
                    if starting:
                        until = min(latest, until + time.monotonic() - before)
            except BaseException:  # Ctrl-C: what is on its way would be taken for a later request's reply
                for worker in [worker for worker in self._workers if worker.request is not None or not worker.ready]:
                    self._end(worker)
                raise
        return [reply or Reply((), overran=True) for reply in replies]

    def close(self) -> None:
        """Kill all workers. The pool can be used again afterwards."""
        if os.getpid() != self._owner:  # a forked child has copies of these handles, and no right to the processes
            return
        for worker in self._workers:  # all first: they end side by side
            self._close_input(worker)
        for worker in list(self._workers):
            self._end(worker)

    def _assign(self, waiting: deque[int], requests: Sequence[str], seconds: float, until: float) -> None:
        """Give requests to workers that are free, and start as many as there is work for."""
        for worker in [worker for worker in self._workers if worker.ready and worker.request is None]:
            if not waiting:
                return
            if self.retire and worker.served >= REQUESTS_PER_WORKER:
                self._end(worker)
                continue
            assert worker.process.stdin is not None
            index = waiting.popleft()
            # Before it is sent: if Ctrl-C comes now, the worker counts as busy and goes.
            worker.request, worker.lines = index, []
            worker.deadline, worker.served = min(time.monotonic() + seconds, until), worker.served + 1
            try:
                worker.process.stdin.write(requests[index].encode() + b"\n")
                worker.process.stdin.flush()
            except BrokenPipeError:  # died while it had nothing to do
                waiting.appendleft(index)
                self._end(worker)
                self._lost += 1
                if self._lost > LOST_WORKERS:
                    raise PoolError(f"{self.title} keeps ending on its own") from None
        starting = sum(not worker.ready for worker in self._workers)
        while len(self._workers) < self.size and starting < len(waiting):
            self._workers.append(self._start())
            starting += 1

    def _start(self) -> _Worker:
        if self._starter is None:
            self._starter = threading.Thread(target=self._start_ordered, name="unmask-workers", daemon=True)
            self._starter.start()
        self._orders.put(started := Future())
        try:
            # If Ctrl-C comes while this waits, the new worker's standard input is closed with its handle, and it ends.
            process = started.result()
        except OSError as error:
            raise PoolError(f"{self.command[0]} cannot be started: {error}") from error
        return _Worker(process, time.monotonic() + self.start_seconds)

    def _start_ordered(self) -> None:
        """The thread that is the parent of all workers, a daemon: it ends with the interpreter and not before."""
        while True:
            started = self._orders.get()
            try:
                process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self.errors,
                    start_new_session=True,  # Ctrl-C is for the run, not for them
                )
                if self.greeting and process.stdin is not None:
                    with suppress(BrokenPipeError):  # it has ended; who listens to it will see that
                        process.stdin.write(self.greeting)
                        process.stdin.flush()
            except BaseException as error:  # noqa: BLE001  raised again where it is waited for
                started.set_exception(error)
            else:
                started.set_result(process)
                del process
            del started

    def _listen(self, replies: list[Reply | None], until: float) -> None:
        """Wait until a worker says something, ends, or is out of time."""
        active = [worker for worker in self._workers if worker.request is not None or not worker.ready]
        if not active:
            return
        with selectors.DefaultSelector() as selector:
            for worker in active:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            nearest = min(until, *(worker.deadline for worker in active))
            heard = [key.data for key, _ in selector.select(max(0.0, nearest - time.monotonic()))]
        for worker in active:
            if worker in heard:
                self._hear(worker, replies)
            elif time.monotonic() > worker.deadline:
                self._gone(worker, replies, overran=True)

    def _hear(self, worker: _Worker, replies: list[Reply | None]) -> None:
        assert worker.process.stdout is not None
        data = os.read(worker.process.stdout.fileno(), 65536)
        if not data:
            self._gone(worker, replies, overran=False)
            return
        worker.rest += data
        if b"\n" not in data:
            return
        *lines, worker.rest = worker.rest.split(b"\n")
        for line in (line.decode(errors="replace") for line in lines):
            if not worker.ready:
                if line.startswith("!"):
                    raise PoolError(line.removeprefix("! "))
                worker.ready = line == "ready"  # anything else is somebody's greeting
                self.worked = self.worked or worker.ready
                continue
            worker.lines.append(line)
            if line.startswith("=") and worker.request is not None:
                replies[worker.request] = Reply(tuple(worker.lines))
                worker.request = None

    def _gone(self, worker: _Worker, replies: list[Reply | None], *, overran: bool) -> None:
        code = self._end(worker, patience=0.0 if overran else 10.0)
        if not worker.ready:
            how = f"said nothing for {self.start_seconds:.0f} s" if overran else f"ended with status {code}"
            raise PoolError(f"{self.title} {how} before it was ready")
        if worker.request is not None:
            replies[worker.request] = Reply(tuple(worker.lines), code, overran)

    def _end(self, worker: _Worker, patience: float = 0.0) -> int:
        """Make sure that a worker is gone, and say how it ended. One that closed its output is given time to end."""
        if worker in self._workers:
            self._workers.remove(worker)
        process = worker.process
        self._close_input(worker)
        if patience := max(patience, self.grace):
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        if (
            process.returncode is None
        ):  # it is there, or nobody has asked how it ended: the group is its own, children and all
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return code

    @staticmethod
    def _close_input(worker: _Worker) -> None:
        if worker.process.stdin is not None:
            with suppress(BrokenPipeError):
                worker.process.stdin.close()


def per_process(make: Callable[[], Made]) -> Callable[[], Made]:
    """`make`, called once in each process: a forked child must not speak to its parent's workers."""
    made: dict[int, Made] = {}
    lock = threading.Lock()

    def current() -> Made:
        with lock:
            if os.getpid() not in made:
                made[os.getpid()] = make()
            return made[os.getpid()]

    return current

"""What a submission's processes use, read from /proc, and when its time is over.

The clock of a test is the time that its processes had or did not want: wall time, less the time in which they were ready
to run and the machine was busy with others (the run delay of /proc/PID/schedstat). So sleeping counts, waiting in line
does not. Processor time of the whole tree counts by itself, so that threads which wait for each other gain nothing, and
neither can a process feign a busy machine: lowering its own priority is refused to it.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

from rewards.sandbox_process import Interpreter

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
NESTED = 100  # folders in folders
STARVED = 20.0  # times the limit in wall time, and still not used up: the machine is overloaded
CHECKING = 4.0  # times the limit: what the tests' own code may compute
LOOK = 0.1  # seconds between looks at a tree


@dataclass(frozen=True)
class Usage:
    """Of a tree of processes: seconds on the processor, seconds spent waiting for it, bytes in memory."""

    cpu: float
    waited: float
    memory: int


def tree(root: int) -> list[int]:
    """`root` and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, ValueError, IndexError):
                children.setdefault(_parent(int(entry)), []).append(int(entry))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def strays(known: set[int]) -> list[int]:
    """Children of this process other than `known`: inherited, because whoever started them is gone."""
    found, own = [], os.getpid()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in known:
            with suppress(OSError, ValueError, IndexError):
                if _parent(int(entry)) == own:
                    found.append(int(entry))
    return found


def _stat(pid: int) -> list[str]:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def usage(root: int) -> Usage:
    cpu, waited, memory = 0.0, 0.0, 0
    for pid in tree(root):
        with suppress(OSError, ValueError, IndexError):
            fields = _stat(pid)
            cpu += sum(int(field) for field in fields[11:15]) / TICKS
            memory += int(fields[21]) * PAGE
        with suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/schedstat") as file:
            waited += int(file.read().split()[1]) / 1e9
    return Usage(cpu, waited, memory)


def disk(folder: str) -> int:
    """Bytes that a submission's folder takes, a page at least for each entry; without end where folders are nested deeper than
    NESTED, since paths grow too long to look into. A folder in a namespace of its own has a size to begin with."""
    taken, waiting = 0, [(folder, 0)]
    while waiting:
        place, depth = waiting.pop()
        if depth > NESTED:
            return sys.maxsize
        with suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                taken += PAGE
                with suppress(OSError):
                    taken += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, depth + 1))
    return taken


class Clock:
    """The time of one test. `problem` says what is wrong, once something is; `starved`, that it is the machine.

    The submission's time is wall time less what either process waited for the processor, less what the checker computed
    by itself (expected values, comparisons); for that it has CHECKING times as long.
    """

    def __init__(self, interpreter: Interpreter, checker: int, seconds: float, limits: dict[str, float]) -> None:
        self.roots = [interpreter.root] + ([checker] if checker else [])
        self.seconds, self.limits, self.folder = seconds, limits, interpreter.folder
        self.started = self.looked = time.monotonic()
        self.before: list[Usage] | None = None
        self.starved = False

    def problem(self) -> str | None:
        now = time.monotonic()
        if now - self.looked < min(LOOK, self.seconds / 4):
            return None
        self.looked = now
        usages = [usage(root) for root in self.roots]
        if self.before is None:
            self.before = usages
        if self.folder and disk(self.folder) > self.limits["tmp_bytes"]:
            return "wrote too much to disk"
        return self.judge(now - self.started, usages, self.before)

    def judge(self, wall: float, now: list[Usage], before: list[Usage]) -> str | None:
        """The verdict after `wall` seconds, from the usage of the submission and (if there is one) the checker."""
        if now[0].memory > self.limits["memory_bytes"]:
            return "out of memory"
        cpu = [after.cpu - earlier.cpu for after, earlier in zip(now, before)]
        waited = sum(max(0.0, after.waited - earlier.waited) for after, earlier in zip(now, before))
        if wall - waited - sum(cpu[1:]) >= self.seconds or cpu[0] >= self.seconds:
            return f"timed out after {self.seconds:g} s"
        if sum(cpu[1:]) >= CHECKING * self.seconds:
            return f"checking its answer took more than {CHECKING * self.seconds:g} s"
        if wall > STARVED * self.seconds:
            self.starved = True
            return f"a test got too little of the processor in {wall:.0f} s"
        return None

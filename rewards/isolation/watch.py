"""What a submission's processes use, read from /proc, and when its time is over.

The clock of a test is the time that its processes had or did not want: wall time, less the time in which they were ready
to run and the machine was busy with others (the run delay of /proc/PID/schedstat). So sleeping counts, waiting in line
does not. Processor time of the whole tree counts by itself, so that threads which wait for each other gain nothing, and
neither can a process feign a busy machine: lowering its own priority is refused to it.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass

from rewards.isolation.interpreter import Interpreter

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
STARVED = 20.0  # times the limit in wall time, and still not used up: the machine is overloaded
CHECKING = 4.0  # times the limit: what the tests' own code may compute
ENTRY = 1024  # bytes that an empty file counts: about what the kernel keeps of it
SPELL = 0.5  # seconds between looks at the time of a whole round
LOOK = 0.1  # seconds between looks at a tree


@dataclass(frozen=True)
class Usage:
    """Of a tree of processes: seconds on the processor, seconds that one of them (the one that waited longest) spent waiting
    for it, bytes in memory, and how many there are.

    Not what all of them waited: many processes that wake up together wait for each other.
    """

    cpu: float
    waited: float
    memory: int
    processes: int = 1


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
    found = tree(root)
    for pid in found:
        with suppress(OSError, ValueError, IndexError):
            fields = _stat(pid)
            cpu += sum(int(field) for field in fields[11:15]) / TICKS
            memory += int(fields[21]) * PAGE
        with suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/schedstat") as file:
            waited = max(waited, int(file.read().split()[1]) / 1e9)
    return Usage(cpu, waited, memory, len(found))


def disk(folder: str) -> float:
    """Bytes that a submission's folder takes, infinite where it hides some of it: in folders that are closed, or too deep to
    be named. A folder in a namespace of its own has a size to begin with; see `entries`."""
    taken, places = 0.0, [folder]
    for place in places:
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        taken += max(ENTRY, entry.stat(follow_symlinks=False).st_blocks * 512)
                        if entry.is_dir(follow_symlinks=False):
                            places.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):  # gone meanwhile
            continue
        except OSError:
            return math.inf
    return taken


def entries(pid: int) -> int:
    """Bytes that the names in the /tmp in memory of a namespace count, empty files and folders as well. `pid`: its first process.

    bubblewrap can set the size of that file system and not how many files it holds, and the kernel's own number grows with
    the machine's memory. 0 where we may not look: a bubblewrap that is installed setuid hides it from all but root.
    """
    try:
        room = os.statvfs(f"/proc/{pid}/root/tmp")
    except OSError:
        return 0
    return (room.f_files - room.f_ffree) * ENTRY


class Clock:
    """The time of one test. `problem` says what is wrong, once something is; `starved`, that it is the machine.

    The submission's time is wall time less what either process waited for the processor, less what the checker computed
    by itself (expected values, comparisons); for that it has CHECKING times as long.
    """

    def __init__(self, interpreter: Interpreter, checker: int, seconds: float, limits: dict[str, float]) -> None:
        self.roots = [interpreter.root] + ([checker] if checker else [])
        self.seconds, self.limits = seconds, limits
        self.folder, self.namespace = interpreter.folder, interpreter.child
        self.started = self.looked = time.monotonic()
        self.before: list[Usage] | None = None
        self.starved = False
        self.most = 0  # processes of the submission at a time

    def problem(self) -> str | None:
        now = time.monotonic()
        if now - self.looked < min(LOOK, self.seconds / 4):
            return None
        self.looked = now
        usages = [usage(root) for root in self.roots]
        if self.before is None:
            self.before = usages
        taken = disk(self.folder) if self.folder else entries(self.namespace)
        if taken > self.limits["tmp_bytes"]:
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
        self.most = max(self.most, now[0].processes)
        if wall > STARVED * self.seconds:
            if self.most > before[0].processes:  # it may have waited for processes that it started itself
                return f"timed out after {self.seconds:g} s"
            self.starved = True
            return f"a test got too little of the processor in {wall:.0f} s"
        return None


class Spell:
    """Seconds since its making, without those that a submission or its checker waited for the processor."""

    def __init__(self, interpreter: Interpreter, checker: int) -> None:
        self.roots = [interpreter.root, checker]
        self.started = self.looked = time.monotonic()
        self.before: list[Usage] | None = None
        self.found = 0.0

    def seconds(self) -> float:
        """As found at the last look."""
        now = time.monotonic()
        if now - self.looked < SPELL:
            return self.found
        self.looked = now
        usages = [usage(root) for root in self.roots]
        self.before = self.before or usages
        waited = sum(max(0.0, after.waited - earlier.waited) for after, earlier in zip(usages, self.before))
        self.found = now - self.started - waited
        return self.found

"""A sandboxed interpreter, as its keeper sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Interpreter:
    """A sandboxed interpreter. `child`: the first process inside bubblewrap's namespaces, 0 at other levels."""

    pid: int
    requests: int
    replies: int
    stdin: int
    stdout: int
    stderr: int
    info: int
    folder: str
    child: int = 0
    ready: bool = False

    @property
    def root(self) -> int:
        return self.child or self.pid

"""Code that a model wrote, run against tests: the one place that runs untrusted code.

Three parties. The *driver* is this process. A *checker*, a process of ours that can be killed, runs the tests' source.
The *submission* runs in a sandboxed process that never sees a test: the checker calls its functions through a proxy that
carries plain data, rebuilt on the checker's side. A submission can therefore do no more than return values, and a forged
reply is one. Nothing that a submission does raises here: what it does is in the report.

    with Sandbox() as sandbox:
        report, = sandbox.check([Job("add", "function", "def add(a, b): return a + b", ("assert add(1, 2) == 3",), ("add",))])
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from rewards.contract.pool import Pool, PoolError, per_process

LEVELS = ("namespace", "landlock", "remote", "weak")
STRONG = ("namespace", "landlock")  # what `best_level` and "auto" choose from, best first


class StdioTest(NamedTuple):
    """One test of a whole program: what it reads from standard input, and what it has to print."""

    stdin: str
    stdout: str


@dataclass(frozen=True)
class Job:
    """One submission and the tests it has to pass.

    id         for the report
    kind       "function": tests are statements that call the functions `names`; "stdio": tests are `StdioTest`s;
               "puzzle": tests are sources of `sat`, and `names` holds the one function that has to satisfy them (P3)
    code       the submission
    tests      one verdict each
    names      functions of the submission that tests call
    setup      code of the data set that the tests need; it runs in the checker, before them
    reference  a solution of the data set's. It settles whether the item can be graded at all, and whether its tests look
               at arguments that a function changed. Without one, every item is taken to be gradable that is so by its text
    tolerance  "stdio" only: numbers may differ by this much, absolutely or relatively; 0: texts must be equal
    stop       leave out the tests after the first that fails
    """

    id: str
    kind: Literal["function", "stdio", "puzzle"]
    code: str
    tests: tuple[str, ...] | tuple[StdioTest, ...]
    names: tuple[str, ...] = ()
    setup: str = ""
    reference: str | None = None
    tolerance: float = 0.0
    stop: bool = False


@dataclass(frozen=True)
class Limits:
    """What one submission may use. Seconds are those of `docs/sandbox.md`: waiting for a busy machine does not count.

    seconds        of one test
    start_seconds  of the submission's top level
    job_seconds    wall time of all tests; those left over have not passed
    memory_bytes   address space of a process, and memory of all its processes together
    processes      processes and threads at a time
    open_files     of a process
    file_bytes     of one file
    tmp_bytes      of its whole /tmp (level "namespace")
    output_bytes   of standard output ("stdio"; other output goes nowhere)
    """

    seconds: float = 5.0
    start_seconds: float = 20.0
    job_seconds: float = 120.0
    memory_bytes: int = 1 << 30
    processes: int = 32
    open_files: int = 64
    file_bytes: int = 16 << 20
    tmp_bytes: int = 64 << 20
    output_bytes: int = 1 << 20


@dataclass(frozen=True)
class Remote:
    """A service that runs submissions, for level "remote". Checkers stay here.

    service   "fusion" (Sandbox Fusion) or "e2b"
    url       its address: of Fusion's server, or of E2B's API
    template  "e2b": the sandbox's template
    host      "e2b": where a sandbox listens, with {port} and {id}
    A key is read from the environment, E2B_API_KEY or SANDBOX_FUSION_API_KEY, and written nowhere.
    """

    service: Literal["fusion", "e2b"]
    url: str
    template: str = "code-interpreter-v1"
    host: str = "https://{port}-{id}.e2b.app"


@dataclass(frozen=True)
class Report:
    """What became of one job.

    passed          per test
    details         per test: "passed", "wrong", "raised NameError: ...", "timed out after 5 s", "out of memory", ...
    error           why the submission as a whole failed: it does not compile, or its top level raises
    ungradable      why nobody's submission can be graded on this item: a property of the item
    infrastructure  why grading failed on this machine: drop the sample, do not score it
    seconds         wall time of the job, without waiting for a free worker
    """

    id: str
    passed: tuple[bool, ...]
    details: tuple[str, ...]
    error: str | None = None
    ungradable: str | None = None
    infrastructure: str | None = None
    seconds: float = 0.0

    @property
    def solved(self) -> bool:
        """Whether it was graded and passed every test (of which there is at least one)."""
        graded = self.ungradable is None and self.infrastructure is None
        return graded and bool(self.passed) and all(self.passed)


class SandboxError(RuntimeError):
    """The sandbox asked for cannot be had here. The message says why and what to do."""


@dataclass(frozen=True)
class _Item:
    """What the reference solution has shown about an item."""

    ungradable: str | None = None
    infrastructure: str | None = None
    mutation: bool = False


class Sandbox:
    """Checks submissions, `workers` at a time. Usable from any thread, and in forked children, which start processes
    of their own.

    level     "namespace", "landlock", "weak", or "auto": the best this machine gives, never "weak"
    packages  names of installed packages that submissions may import, such as "numpy"; a service has its own
    remote    the service, for level "remote"
    Raises SandboxError where the level cannot be had.
    """

    def __init__(
        self,
        level: str = "auto",
        limits: Limits = Limits(),
        workers: int | None = None,
        packages: Sequence[str] = (),
        remote: Remote | None = None,
    ) -> None:
        self.level = _chosen(level, remote)
        self.remote = remote
        self.limits = limits
        self.packages = tuple(packages)
        self.workers = workers or len(os.sched_getaffinity(0))
        self._pool = per_process(
            lambda: Pool(_command(self.level, limits, self.packages, remote), self.workers, grace=5.0)
        )
        self._items: dict[str, _Item] = {}
        self._lock = per_process(threading.Lock)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes. The sandbox can be used again."""
        self._pool().close()

    def check(self, jobs: Sequence[Job]) -> list[Report]:
        """One report per job, in their order."""
        items = self._settle(jobs)
        waiting = [
            (index, job)
            for index, (job, item) in enumerate(zip(jobs, items))
            if not item.ungradable and not item.infrastructure
        ]
        done = self._run([job for _, job in waiting], [items[index].mutation for index, _ in waiting])
        reports = {index: _graded(job, report) for (index, job), report in zip(waiting, done)}
        return [reports.get(index) or _not_run(job, item) for index, (job, item) in enumerate(zip(jobs, items))]

    def _settle(self, jobs: Sequence[Job]) -> list[_Item]:
        """What can be said of each job's item before its submission runs; the reference runs once per item."""
        keys = [_key(job) for job in jobs]
        with self._lock():
            missing = {key: job for key, job in zip(keys, jobs) if key not in self._items}
            found = self._examine(missing)
            self._items.update({key: item for key, item in found.items() if item.infrastructure is None})
            return [found.get(key) or self._items[key] for key in keys]

    def _examine(self, jobs: dict[str, Job]) -> dict[str, _Item]:
        found = {key: _Item(ungradable=unpassable(job)) for key, job in jobs.items()}
        open_ = [key for key, job in jobs.items() if job.reference is not None and not found[key].ungradable]
        for mutation in (False, True):  # arguments travel back only where the item's own solution needs it
            references = [replace(jobs[key], code=jobs[key].reference or "") for key in open_]
            reports = self._run(references, [mutation] * len(open_))
            found.update({key: _shown(report, mutation=mutation) for key, report in zip(open_, reports)})
            open_ = [key for key in open_ if found[key].ungradable]
        return found

    def _run(self, jobs: Sequence[Job], mutations: Sequence[bool]) -> list[Report]:
        if not jobs:
            return []
        requests = [json.dumps({**asdict(job), "mutation": mutation}) for job, mutation in zip(jobs, mutations)]
        try:
            # The keeper holds the limits; this one is for a keeper that is stuck.
            replies = self._pool().run(requests, 2 * self.limits.job_seconds + 20 * self.limits.seconds + 60)
        except PoolError as error:
            return [_failed(job, str(error)) for job in jobs]
        reports = []
        for job, reply in zip(jobs, replies):
            if reply.code is None and reply.lines:
                found = json.loads(reply.lines[-1].removeprefix("= "))
                found.update(passed=tuple(found["passed"]), details=tuple(found["details"]))
                reports.append(Report(job.id, **found))
            else:
                how = "overran its time" if reply.overran else f"ended with status {reply.code}"
                reports.append(_failed(job, f"the sandbox's keeper {how}"))
        return reports


def levels() -> dict[str, str | None]:
    """Every level, best first, and why this machine does not give it (None if it does). Starts an interpreter at each."""
    return {level: _probe(level) for level in LEVELS}


def best_level() -> str | None:
    """The best level that this machine gives, "weak" never; None if it gives none."""
    return next((level for level in STRONG if _probe(level) is None), None)


_probed: dict[str, str | None] = {}


def _probe(level: str) -> str | None:
    """Start one interpreter at that level, in a keeper of its own. The answer is kept for the life of this process."""
    if level == "remote":
        return "it needs a service: Sandbox('remote', remote=Remote(...))"
    if level not in _probed:
        command = _command(level, Limits(), ())
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        said = done.stdout.strip()
        _probed[level] = None if said == "ready" else said.removeprefix("! ") or done.stderr.strip()[-300:]
    return _probed[level]


def _chosen(level: str, remote: Remote | None) -> str:
    if (level == "remote") != (remote is not None):
        raise SandboxError("level 'remote' and `remote=` belong together: name both or neither")
    if level == "remote":
        return level
    if level == "auto":
        best = best_level()
        if best is None:
            reasons = "; ".join(f"{name}: {_probe(name)}" for name in STRONG)
            raise SandboxError(
                f"this machine gives no sandbox for code ({reasons}). See docs/sandbox.md for what containers need"
            )
        return best
    if level not in LEVELS:
        raise SandboxError(f"no level {level!r}; there are {', '.join(LEVELS)} and auto")
    if reason := _probe(level):
        raise SandboxError(f"this machine gives no level {level!r}: {reason}")
    return level


def _command(level: str, limits: Limits, packages: Sequence[str], remote: Remote | None = None) -> list[str]:
    root = str(Path(__file__).resolve().parent.parent)
    start = f"import sys; sys.path.insert(0, {root!r}); from rewards.isolation.keeper import main; main(sys.argv[1])"
    given = {
        "level": level,
        "limits": asdict(limits),
        "packages": list(packages),
        "remote": asdict(remote) if remote else None,
    }
    return [sys.executable, "-P", "-c", start, json.dumps(given)]


def unpassable(job: Job) -> str | None:
    """Why no submission can be graded on this item, as far as its text shows it; None where it does not.

    Tests must hold together by themselves: what they use has to come from Python, from the setup, from the test or from
    `names`. And they may hand no function, class or generator to the submission.
    """
    if job.kind != "function":
        return None
    try:
        setup, trees = ast.parse(job.setup), [ast.parse(str(test)) for test in job.tests]
    except (SyntaxError, ValueError) as error:
        return f"its tests are no Python: {error}"
    imports = [node for tree in (setup, *trees) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    if any(alias.name == "*" for node in imports for alias in node.names):
        return None
    known = {*dir(builtins), "__name__", *job.names, *bound_names(setup)}
    for tree in trees:
        own = known | set(bound_names(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id not in own:
                return f"its tests use {node.id!r}, which neither they nor the functions asked for define"
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in job.names:
                continue
            if any(isinstance(argument, ast.Lambda | ast.GeneratorExp) for argument in node.args):
                return f"a test passes a function or a generator to {node.func.id}, which is no plain data"
    return None


def bound_names(tree: ast.AST) -> list[str]:
    """Names that are bound anywhere in a piece of code."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
            names.append(node.name or "")
        elif isinstance(node, ast.alias):
            names.append((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.arg):
            names.append(node.arg)
    return names


def _key(job: Job) -> str:
    """The same for all submissions to one item."""
    item = [job.kind, job.tests, job.names, job.setup, job.reference, job.tolerance]
    return hashlib.sha256(json.dumps(item).encode()).hexdigest()


def _shown(report: Report, *, mutation: bool) -> _Item:
    if report.infrastructure:
        return _Item(infrastructure=report.infrastructure)
    if report.solved:
        return _Item(mutation=mutation)
    failed = next((detail for passed, detail in zip(report.passed, report.details) if not passed), "it has no tests")
    return _Item(ungradable=report.ungradable or f"its own reference solution does not pass: {failed}")


def _graded(job: Job, report: Report) -> Report:
    """An item whose own solution passed can be graded: what a submission makes of it is the submission's fault."""
    if report.ungradable is None or job.reference is None:
        return report
    details = tuple("passed" if passed else report.ungradable for passed in report.passed)
    return replace(report, ungradable=None, details=details)


def _not_run(job: Job, item: _Item) -> Report:
    nothing = (False,) * len(job.tests), ("could not be graded",) * len(job.tests)
    return Report(job.id, *nothing, ungradable=item.ungradable, infrastructure=item.infrastructure)


def _failed(job: Job, why: str) -> Report:
    return Report(job.id, (False,) * len(job.tests), ("not run",) * len(job.tests), infrastructure=why)

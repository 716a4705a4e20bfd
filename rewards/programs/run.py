"""The sandbox of this process: one for each way a recipe asks for it, warm, and a memory of what it has said."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from rewards.contract.reward import RewardError
from rewards.sandbox import LEVELS, Job, Limits, Remote, Report, Sandbox, SandboxError

REMEMBERED = 4096  # reports kept, so that two rewards of one recipe run each program once
IMPORT_SECONDS = 20.0  # for the top level of a program that may import packages
_MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """The recipe's kwargs, checked. Raises RewardError."""

    level: str = "auto"
    seconds: float = 5.0
    total_seconds: float = 60.0
    memory: int = 1024
    packages: Sequence[str] = ()
    workers: int | None = None
    max_tests: int | None = None
    remote: Remote | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.remote is not None and not isinstance(self.remote, Remote):
            object.__setattr__(self, "remote", _remote(self.remote))
        if isinstance(self.packages, str) or not all(isinstance(name, str) for name in self.packages):
            raise RewardError(f"code rewards: packages must be a list of names, as in [numpy], got {self.packages!r}")
        object.__setattr__(self, "packages", tuple(self.packages))
        if self.level not in ("auto", *LEVELS):
            raise RewardError(f"code rewards: level {self.level!r} is none of auto, {', '.join(LEVELS)}")
        for name in ("seconds", "total_seconds", "memory", "workers", "max_tests"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0):
                raise RewardError(f"code rewards: {name} must be a number above 0, got {value!r}")

    def limits(self) -> Limits:
        start = max(self.seconds, IMPORT_SECONDS) if self.packages else self.seconds
        memory = int(self.memory * _MIB)
        return Limits(seconds=self.seconds, start_seconds=start, job_seconds=self.total_seconds, memory_bytes=memory)


def _remote(given: Any) -> Remote:
    known = [field.name for field in fields(Remote)]
    if not isinstance(given, Mapping) or not {"service", "url"} <= set(given) <= set(known):
        raise RewardError(f"code rewards: remote must say {', '.join(known)} (service and url at least), got {given!r}")
    if given["service"] not in ("fusion", "e2b"):
        raise RewardError(f"code rewards: remote.service must be fusion or e2b, got {given['service']!r}")
    return Remote(**given)


_sandboxes: dict[tuple[int, Settings], Sandbox] = {}
_remembered: OrderedDict[str, Report] = OrderedDict()
_lock = threading.Lock()


def sandbox(settings: Settings) -> Sandbox:
    """The sandbox of this process for these settings, made when first asked for and warm from then on. It ends with the
    interpreter. Raises RewardError where this machine does not give it."""
    missing = [name for name in settings.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise RewardError(
            f"code rewards: packages: {', '.join(missing)} cannot be imported here; pip install what is missing"
        )
    key = (os.getpid(), replace(settings, max_tests=None))
    with _lock:
        if key not in _sandboxes:
            try:
                _sandboxes[key] = Sandbox(
                    settings.level,
                    settings.limits(),
                    settings.workers,
                    settings.packages,
                    settings.remote,  # pyright: ignore
                )
            except SandboxError as error:
                raise RewardError(
                    f"code rewards: {error}\n    `unmask doctor` says which levels this machine gives, and what to do"
                ) from error
        return _sandboxes[key]


def reports(jobs: Sequence[Job], settings: Settings) -> list[Report]:
    """One report per job; equal jobs, and those of the last calls, are run once."""
    if not jobs:
        return []
    keys = [_key(job, settings) for job in jobs]
    with _lock:
        known = {key: _remembered[key] for key in keys if key in _remembered}
    open_ = {key: job for key, job in zip(keys, jobs, strict=True) if key not in known}
    known.update(zip(open_, sandbox(settings).check(list(open_.values())), strict=True))
    with _lock:
        for key in open_:
            if known[key].infrastructure is None:
                _remembered[key] = known[key]
        while len(_remembered) > REMEMBERED:
            _remembered.popitem(last=False)
    return [known[key] for key in keys]


def _key(job: Job, settings: Settings) -> str:
    told = json.dumps([asdict(replace(job, id="")), asdict(settings), os.getpid()])
    return hashlib.sha256(told.encode()).hexdigest()

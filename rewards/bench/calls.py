"""Calling a reward function that nobody trusts yet: in a process that is killed when it takes too long."""

from __future__ import annotations

import base64
import json
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards.contract.pool import Pool, PoolError
from rewards.contract.reward import RewardError

_PATIENCE = 10  # a whole batch, or the first call of a process, may take this many times the limit of a row


@dataclass(frozen=True)
class Sample:
    """One row to be scored. `prompt` is text or messages, `completion` text; `ids` None: a stand-in, one id per word."""

    prompt: Any
    completion: str
    columns: Mapping[str, Any]
    ids: Sequence[int] | None = None


@dataclass(frozen=True)
class Answer:
    """What became of one call with n samples.

    scores   n numbers or None (not applicable, or dropped); empty when the call failed
    dropped  n reasons or None: rows for which grading itself failed
    error    what a run would stop with; "" for none. `raised`: the author's exception, if there was one
    hung     the call was given up after the limit; `died`: how its process ended, if it did
    changed  names of the arguments that the function changed
    """

    scores: tuple[float | None, ...] = ()
    dropped: tuple[str | None, ...] = ()
    error: str = ""
    raised: str | None = None
    hung: bool = False
    died: int | None = None
    seconds: float = 0.0
    changed: tuple[str, ...] = ()
    returned: str = ""

    @property
    def failed(self) -> bool:
        """Whether there are no scores."""
        return bool(self.error) or self.hung or self.died is not None


@dataclass(frozen=True)
class Signature:
    """What a function is: its name, the columns it names, those that the data lacks, whether it is async, and needs whole groups."""

    name: str
    asynchronous: bool
    columns: tuple[str, ...]
    missing: tuple[str, ...]
    groups: bool = False


@dataclass
class Subject:
    """The function under test. Use it in a `with` block: its process ends there.

    entry    a recipe's reward entry; `base` the folder that files are relative to
    seconds  wall time that one row may take
    """

    entry: Mapping[str, Any]
    base: Path
    seconds: float
    warm_with: Sequence[Sample] = ()
    _pool: Pool = field(init=False)
    _cold: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        # The parent's import path is passed on: what can be imported here can be there.
        start = f"import sys; sys.path[:] = {sys.path!r}; from rewards.bench.worker import main; "
        self._pool = Pool([sys.executable, "-c", f"{start}main({dict(self.entry)!r}, {str(self.base)!r})"], size=1)

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def restart(self) -> None:
        """End the process; the next call starts another, with another seed of `hash`."""
        self._pool.close()
        self._cold = True

    def describe(self, columns: Sequence[str]) -> Signature:
        """What the function asks of data with these columns. RewardError if it cannot be loaded."""
        found = self._ask({"columns": list(columns)}, self.seconds * _PATIENCE)
        if isinstance(found, Answer):
            raise RewardError(f"{self.entry['fn']}: its process ended or hung while the function was looked at")
        return Signature(
            found["name"], found["asynchronous"], tuple(found["columns"]), tuple(found["missing"]), found["groups"]
        )

    def call(self, samples: Sequence[Sample], *, batch: bool = False) -> Answer:
        """Score the samples in one call. `batch`: many at once, or slow for other reasons; the limit is ten times larger."""
        if self._cold and self.warm_with and not batch:  # so that loading a library is not held against a row
            self._cold = False
            self._ask(_request(self.warm_with), self.seconds * _PATIENCE)
        found = self._ask(_request(samples), self.seconds * (_PATIENCE if batch else 1))
        if isinstance(found, Answer):
            self._cold = True
            return found
        self._cold = False
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in found.items()
        }
        return Answer(**values)

    def _ask(self, request: Mapping[str, Any], seconds: float) -> Any:
        """The worker's reply as a mapping, or an Answer that says that there was none."""
        try:
            (reply,) = self._pool.run([base64.b64encode(pickle.dumps(request)).decode()], seconds)
        except PoolError as error:
            raise RewardError(_why(str(error), str(self.entry["fn"]))) from error
        if reply.code is None:
            return json.loads(reply.lines[-1].removeprefix("= "))
        return Answer(hung=True, seconds=seconds) if reply.overran else Answer(died=reply.code)


def _request(samples: Sequence[Sample]) -> dict[str, Any]:
    names = list(samples[0].columns) if samples else []
    return {
        "prompts": [sample.prompt for sample in samples],
        "completions": [
            sample.completion
            if isinstance(sample.prompt, str)
            else [{"role": "assistant", "content": sample.completion}]
            for sample in samples
        ],
        "completion_ids": [
            list(range(1, 1 + len(sample.completion.split()))) if sample.ids is None else list(sample.ids)
            for sample in samples
        ],
        "columns": {name: [sample.columns[name] for sample in samples] for name in names},
    }


def _why(message: str, fn: str) -> str:
    try:
        return json.loads(message).replace("rewards[0].", "")  # said by the worker
    except ValueError:
        return f"{fn}: the process that should load it {'hangs' if 'said nothing' in message else 'ends'} at once"

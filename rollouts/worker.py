"""The Ray actor of this room: it holds a copy of the policy, takes new weights, and draws groups of rollouts."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed import TCPStore

from rollouts.hints import with_hint_entropy
from rollouts.line import Line
from rollouts.logs import log_to
from rollouts.spec import SamplerSpec
from rollouts.strategy import sample_groups
from rollouts.trajectory import RolloutBatch


class WeightError(RuntimeError):
    """The weights that arrived are not those that were sent."""


def fingerprint(named: Mapping[str, Tensor]) -> str:
    """Of tensors with their names, shapes and dtypes: two sums over their bits, one by position, quick on any device."""
    found = []
    for name in sorted(named):
        tensor = named[name].detach().contiguous()
        bits = tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16).flatten().long()
        place = torch.arange(1, len(bits) + 1, device=bits.device) % 65521
        found.append(f"{name} {tuple(tensor.shape)} {tensor.dtype} {int(bits.sum())} {int((bits * place).sum())}")
    return "\n".join(found)


class SamplerWorker:
    """Made an actor by `rl.cluster`; every call is answered in order."""

    def __init__(self, load: Callable[[], Any], threads: int | None, deterministic: bool, log: str) -> None:
        """load: gives the policy. log: the file of what this process prints."""
        log_to(log)
        torch.set_num_threads(threads or 1)
        torch.use_deterministic_algorithms(deterministic)
        self.policy, self.version = load(), 0  # -1: between two versions
        self.parameters = dict(self.policy.named_parameters())
        self.line: Line | None = None

    def ready(self) -> int:
        return os.getpid()

    @torch.no_grad()
    def take(self, version: int, named: Mapping[str, Tensor], expected: str, last: bool) -> None:
        """Some of the weights of a version. Raises WeightError where they are not what was sent."""
        self.version = -1
        for name, value in named.items():
            self.parameters[name].copy_(value)
        found = fingerprint({name: self.parameters[name] for name in named})
        if found != expected:
            raise WeightError(f"version {version}: {len(named)} weights arrived otherwise than they were sent")
        if last:
            self.version = version

    def open_line(self, address: str, name: str, number: int, count: int, seconds: float) -> None:
        """As `rollouts.line.Line`; address: ``host:port`` of the store."""
        host, _, port = address.rpartition(":")
        store = TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=seconds))
        self.line = Line(store, name, number, count, seconds)

    @torch.no_grad()
    def receive(self, version: int, names: Sequence[str], last: bool) -> str:
        """Some of the weights of a version, over the line; the fingerprint of what arrived."""
        assert self.line is not None, "open_line comes first"
        self.version = -1
        self.line.pass_on(self.parameters[name].data for name in names)
        if last:
            self.version = version
        return fingerprint({name: self.parameters[name] for name in names})

    def sample(
        self, version: int, prompts: Sequence[Sequence[int]], spec: SamplerSpec, options: dict[str, Any]
    ) -> tuple[RolloutBatch, dict[str, int], float]:
        """Rollouts; rows computed by kind; the seconds it took. Raises WeightError where the weights are of another version."""
        self._check(version)
        before, start = dict(self.policy.rows_run), time.perf_counter()
        batch = sample_groups(self.policy, prompts, spec, **options)
        return batch, self._since(before), time.perf_counter() - start

    def hint_entropy(self, version: int, batch: RolloutBatch, rows: int) -> tuple[RolloutBatch, dict[str, int], float]:
        self._check(version)
        before, start = dict(self.policy.rows_run), time.perf_counter()
        found = with_hint_entropy(self.policy, batch, rows)
        return found, self._since(before), time.perf_counter() - start

    def _check(self, version: int) -> None:
        if version != self.version:
            raise WeightError(f"asked to draw with weights of version {version}, and it holds {self.version}")

    def _since(self, before: Mapping[str, int]) -> dict[str, int]:
        return {kind: count - before[kind] for kind, count in self.policy.rows_run.items()}

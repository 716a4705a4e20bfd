"""How one learner's gradients, weights and optimizer states lie over the ranks: whole on each, or in shards (``rl.zero``).

A rank backwards its own views with the cotangents of the whole batch's loss, so gradients are *added* over the ranks, and nothing else
of a method knows how many there are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rl.capacity import BUCKET


class TrainingError(RuntimeError):
    """The run cannot go on; the message says what happened, where, and what to do."""


class Moved(NamedTuple):
    """What an optimizer step did. norm: of the gradient, before it was clipped. Of ``probes`` elements, ``changed`` moved, and ``rounded``
    would also as bfloat16."""

    norm: float
    probes: float
    changed: float
    rounded: float


class Backend(Protocol):
    """What a learner asks. Parameters are the trainable ones, in order; a *part* is what this rank holds of one, a *whole* all of it.

    model: what is forwarded. lockstep: every rank must make the same calls of ``model`` and ``backward``.
    """

    model: Any
    lockstep: bool

    def backward(self, value: Tensor) -> None:
        """Accumulate the gradient of a scalar."""

    def step(self) -> Moved:
        """One optimizer step on the gradients of all ranks. Raises TrainingError if their norm is not finite."""
        ...

    def parts(self) -> list[Tensor]: ...

    @contextmanager
    def holding(self, parts: Sequence[Tensor]) -> Iterator[None]:
        """Within the block the model has these parts; pointers are exchanged, nothing is copied."""
        ...

    def part_of(self, number: int, whole: Tensor) -> Tensor: ...

    def whole_of(self, number: int, part: Tensor) -> Tensor:
        """Asked on every rank at the same time."""
        ...

    def moments(self) -> dict[str, dict[int, Tensor]]:
        """Optimizer state by its name and the parameter's number, whole; asked on every rank at the same time."""
        ...

    def load(self, weights: Sequence[Tensor], moments: dict[str, dict[int, Tensor]]) -> None:
        """Take wholes of weights and optimizer state."""


def ranks() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def moved(norm: float, before: Sequence[Tensor], after: Sequence[Tensor]) -> Moved:
    """before, after: the probed elements of each parameter."""
    old, new = (torch.cat([one.flatten() for one in these]) if these else torch.zeros(0) for these in (before, after))
    rounded = (old.to(torch.bfloat16) != new.to(torch.bfloat16)).sum()
    return Moved(norm, len(old), float((old != new).sum()), float(rounded))


def finite_norm(value: Tensor | float) -> float:
    norm = float(value)
    if not torch.isfinite(torch.tensor(norm)):
        raise TrainingError(f"the gradient norm is {norm}")
    return norm


class Whole:
    """Every rank holds everything; gradients are added after the last micro-batch. One rank is the case without communication."""

    lockstep = False

    def __init__(
        self, model: Any, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, max_grad_norm: float
    ):
        self.model, self.parameters, self.optimizer, self.most = model, parameters, optimizer, max_grad_norm

    def backward(self, value: Tensor) -> None:
        value.backward()

    def step(self) -> Moved:
        if ranks() > 1:
            self._add_gradients()
        norm = finite_norm(torch.nn.utils.clip_grad_norm_(self.parameters, self.most))
        # Per parameter with a gradient, the element where it is largest: the one that must move.
        reached = [(p.data.view(-1), p.grad) for p in self.parameters if p.grad is not None and bool(p.grad.any())]
        probes = [(data, int(grad.abs().argmax())) for data, grad in reached]
        before = [data[at].clone() for data, at in probes]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return moved(norm, before, [data[at] for data, at in probes])

    def _add_gradients(self) -> None:
        """In flat buckets; a parameter that this rank's views did not reach has a gradient of zero."""
        grads = []
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
        low = 0
        while low < len(grads):
            high, size = low, 0
            while high < len(grads) and (high == low or size + grads[high].numel() <= BUCKET):
                size, high = size + grads[high].numel(), high + 1
            flat = torch.cat([grad.flatten() for grad in grads[low:high]])
            torch.distributed.all_reduce(flat)
            for grad, piece in zip(grads[low:high], flat.split([g.numel() for g in grads[low:high]]), strict=True):
                grad.copy_(piece.view_as(grad))
            low = high

    def parts(self) -> list[Tensor]:
        return [parameter.data for parameter in self.parameters]

    @contextmanager
    def holding(self, parts: Sequence[Tensor]) -> Iterator[None]:
        own = self.parts()
        for parameter, other in zip(self.parameters, parts, strict=True):
            parameter.data = other
        try:
            yield
        finally:
            for parameter, data in zip(self.parameters, own, strict=True):
                parameter.data = data

    def part_of(self, number: int, whole: Tensor) -> Tensor:
        return whole.to(self.parameters[number].device)

    def whole_of(self, number: int, part: Tensor) -> Tensor:
        return part

    def moments(self) -> dict[str, dict[int, Tensor]]:
        found: dict[str, dict[int, Tensor]] = {}
        for number, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                found.setdefault(key, {})[number] = torch.as_tensor(value)
        return found

    @torch.no_grad()
    def load(self, weights: Sequence[Tensor], moments: dict[str, dict[int, Tensor]]) -> None:
        for parameter, value in zip(self.parameters, weights, strict=True):
            parameter.copy_(value)
        state: dict[int, dict[str, Tensor]] = {}
        for key, values in moments.items():
            for number, value in values.items():
                state.setdefault(number, {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})

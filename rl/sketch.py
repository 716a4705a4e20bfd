"""A gradient as a vector of bounded size: itself where it is small, else a random projection that keeps inner products."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rollouts.streams import Purpose, stream

SIZE = 16_384  # numbers per gradient; a cosine is then off by about 0.008


class Sketch:
    """CountSketch (Charikar et al. 2002) of the gradients of ``parameters``, float32 ``[size]`` on the CPU.

        s_b = sum over i with h(i) = b of sign(i) x_i,   E s(x) . s(y) = x . y,   Var <= (|x|^2 |y|^2 + (x . y)^2) / size

    Each run of ``size`` numbers of a parameter is laid over the buckets with one random shift and random signs, so that two numbers of one
    run never meet and two of different runs meet with chance 1/size. Gradients of at most ``size`` numbers are kept as they are.
    Held: one byte per number, drawn from a stream of the seed and the parameter's place.
    """

    def __init__(self, parameters: Sequence[Tensor], seed: int, size: int = SIZE) -> None:
        self.parameters = list(parameters)
        total = sum(parameter.numel() for parameter in self.parameters)
        self.exact = total <= size
        self.size = total if self.exact else size
        self._signs: list[Tensor] = []
        self._place: list[Tensor] = []
        if not self.exact:
            for number, parameter in enumerate(self.parameters):
                self._draw(parameter, stream(seed, Purpose.SKETCH, number))

    def __call__(self) -> Tensor:
        """Of the gradients as they stand; a parameter without one counts as zeros."""
        if self.exact:
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
            return torch.cat([part.detach().reshape(-1).float() for part in parts]).cpu()
        total = torch.zeros(self.size, device=self.parameters[0].device)
        for parameter, signs, place in zip(self.parameters, self._signs, self._place, strict=True):
            if parameter.grad is not None:
                total += self._fold(parameter.grad.detach().reshape(-1).float(), signs, place)
        return total.cpu()

    def _draw(self, parameter: Tensor, generator: np.random.Generator) -> None:
        runs = -(-parameter.numel() // self.size)
        bits = np.unpackbits(np.frombuffer(generator.bytes(-(-parameter.numel() // 8)), dtype=np.uint8))
        signs = bits[: parameter.numel()].astype(np.int8) * 2 - 1
        self._signs.append(torch.from_numpy(signs).to(parameter.device))
        self._place.append(torch.from_numpy(generator.integers(self.size, size=runs)))

    def _fold(self, values: Tensor, signs: Tensor, place: Tensor) -> Tensor:
        total = torch.zeros(self.size, device=values.device)
        for run, shift in enumerate(place.tolist()):
            part = slice(run * self.size, min((run + 1) * self.size, len(values)))
            signed = values[part] * signs[part]
            room = min(len(signed), self.size - shift)  # what does not fit before the end goes on at the start
            total[shift : shift + room] += signed[:room]
            total[: len(signed) - room] += signed[room:]
        return total

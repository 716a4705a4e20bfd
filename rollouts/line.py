"""A line from the process that has new weights to those that want them: NCCL between GPUs, gloo elsewhere."""

from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as distributed
from torch import Tensor


class Line:
    """A process group beside torch's default one, which these processes have not in common. Its number 0 sends."""

    def __init__(self, store: distributed.Store, name: str, number: int, count: int, seconds: float) -> None:
        """store: where all of them meet; name: of this line there, never used twice. seconds: that each waits for the others."""
        place, patience = distributed.PrefixStore(name, store), timedelta(seconds=seconds)
        self.group: distributed.ProcessGroup
        if torch.cuda.is_available():
            options = distributed.ProcessGroupNCCL.Options()
            options._timeout = patience
            self.group = distributed.ProcessGroupNCCL(place, number, count, options)  # type: ignore[assignment]
        else:
            self.group = distributed.ProcessGroupGloo(place, number, count, patience)  # type: ignore[assignment]

    def pass_on(self, tensors: Iterable[Tensor]) -> None:
        """Each of them as number 0 has it, written into those of the others. Raises RuntimeError where somebody is gone."""
        for tensor in tensors:
            self.group.broadcast(tensor, 0).wait()

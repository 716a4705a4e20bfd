"""How tensors travel between the processes of a run: as the bytes of what is named, and nothing else.

Ray leaves a tensor to torch's own pickling. That writes the whole storage behind a view, so that a rank's slice of a plan carried the plan
of all ranks, and copies it three times on the way. Here a tensor is a contiguous array of bytes, which Ray puts into its store with one
copy. The receiver makes one more, because what Ray hands out is shared and must not be written to.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

Packed = tuple[np.ndarray, str, tuple[int, ...], str]  # bytes, dtype by name, shape, device


def packed(tensor: Tensor) -> Packed:
    """Only the elements of the tensor, on the CPU, without gradient."""
    own = tensor.detach().cpu().contiguous().reshape(-1)
    return (
        own.view(torch.uint8).numpy(),
        str(tensor.dtype).removeprefix("torch."),
        tuple(tensor.shape),
        str(tensor.device),
    )


def unpacked(sent: Packed) -> Tensor:
    """An equal tensor that may be written to, on the device it came from."""
    data, name, shape, device = sent
    dtype = getattr(torch, name)
    if not data.size:  # has no bytes to look at as another dtype
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.array(data)).view(dtype).reshape(shape).to(device)


def teach(_: Any = None) -> None:
    """This process, once Ray runs in it, sends its tensors so; who receives them need not have been taught."""
    from ray.util import register_serializer  # type: ignore[import-not-found]

    register_serializer(Tensor, serializer=packed, deserializer=unpacked)

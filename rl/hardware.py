"""Published figures of GPUs, and what ``--gpus 8x80`` means."""

import re
from dataclasses import dataclass

from rl.errors import CommandError

GB = 1e9


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet. memory in GiB; bfloat16 and float32 in dense FLOP/s; bandwidth of its memory and link to its neighbours
    (one direction) in bytes/s."""

    name: str
    memory: int
    bfloat16: float
    float32: float
    bandwidth: float
    link: float


# NVIDIA's data sheets; without sparsity. Links: NVLink 3 and 4, and PCIe 4.0 x16 where there is none.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("RTX4090-24", 24, 165e12, 82.6e12, 1008 * GB, 32 * GB),
        Gpu("A100-40", 40, 312e12, 19.5e12, 1555 * GB, 300 * GB),
        Gpu("L40S-48", 48, 362e12, 91.6e12, 864 * GB, 32 * GB),
        Gpu("H100-80", 80, 989e12, 67e12, 3350 * GB, 450 * GB),
        Gpu("A100-80", 80, 312e12, 19.5e12, 2039 * GB, 300 * GB),
        Gpu("H200-141", 141, 989e12, 67e12, 4800 * GB, 450 * GB),
    )
}
RESERVE = 0.10  # of a GPU's memory: context, communication, and what an allocator cannot use
NETWORK = 25 * GB  # bytes/s between nodes, for each GPU
HOST_LINK = 25 * GB  # bytes/s from a GPU to the host's memory
HOST_BANDWIDTH = 200 * GB  # bytes/s of a host's memory, shared by its GPUs


@dataclass(frozen=True)
class Hardware:
    """``nodes`` machines of ``per_node`` GPUs each."""

    gpu: Gpu
    per_node: int
    nodes: int = 1
    assumed: bool = False  # the kind follows from the memory alone

    @property
    def count(self) -> int:
        return self.per_node * self.nodes

    @property
    def room(self) -> float:
        """Bytes of a GPU that a plan may fill."""
        return self.gpu.memory * 2**30 * (1 - RESERVE)

    @property
    def link(self) -> float:
        """Bytes/s between the GPUs of a group: that of the slowest part."""
        return self.gpu.link if self.nodes == 1 else min(self.gpu.link, NETWORK)

    @property
    def words(self) -> str:
        machines = "" if self.nodes == 1 else f"{self.nodes} nodes of "
        return f"{machines}{self.per_node} x {self.gpu.name} ({self.gpu.memory} GiB each)"


def read_hardware(gpus: str, nodes: int = 1, name: str | None = None) -> Hardware:
    """``8x80``: GPUs of a node, GiB of each. name: of the table; else the first of this size. Raises CommandError."""
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", gpus.strip().lower())
    if match is None:
        raise CommandError(f"--gpus {gpus}: give GPUs per node and GiB of each, as in --gpus 8x80")
    per_node, memory = int(match[1]), int(match[2])
    if name is None:
        known = [gpu for gpu in GPUS.values() if gpu.memory == memory]
        if not known:
            sizes = ", ".join(str(size) for size in sorted({gpu.memory for gpu in GPUS.values()}))
            raise CommandError(
                f"--gpus {gpus}: no GPU of {memory} GiB is in the table ({sizes}); add --gpu NAME for its speed, of: {', '.join(GPUS)}"
            )
        return Hardware(known[0], per_node, nodes, assumed=True)
    found = next((gpu for key, gpu in GPUS.items() if key.lower() == name.strip().lower()), None)
    if found is None:
        raise CommandError(f"--gpu {name}: not in the table; choose one of: {', '.join(GPUS)}")
    if found.memory != memory:  # its speed, with other memory
        found = Gpu(found.name, memory, found.bfloat16, found.float32, found.bandwidth, found.link)
    return Hardware(found, per_node, nodes)

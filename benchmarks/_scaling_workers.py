"""Stand-ins for `rl.rank.Rank` and `rollouts.worker.SamplerWorker`: they sleep instead of running a model, and answer with values of the
true shapes, dtypes and sizes. What they answer is packed as `rl.wire` packs it.

A process that imports torch holds 150 MB of its own, so the sampler's does not: it makes its tensors from numpy arrays, which become
torch's at the driver, and keeps numpy arrays of the weights that it is given.
"""

import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

MB = 1e6
LETTER = "abcdefghijklmnopqrstuvwxyz"
CHARACTERS = 4  # of text that a token stands for


class Sent:
    """A tensor on its way, as `rl.wire.packed` would send it. device: the CPU."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.ascontiguousarray(array)

    def __reduce__(self) -> tuple[Any, ...]:
        data = self.array.reshape(-1).view(np.uint8)
        return arrived, ((data, self.array.dtype.name, self.array.shape, "cpu"),)


class SentBatch:
    """A `RolloutBatch` on its way. fields: its own, tensors as ``Sent``."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        return arrived_batch, (self.fields,)


def arrived(sent: Any) -> Any:
    """At the driver: the tensor."""
    from rl.wire import unpacked

    return unpacked(sent)


def arrived_batch(fields: dict[str, Any]) -> Any:
    """At the driver: the batch."""
    from rollouts.trajectory import RolloutBatch

    return RolloutBatch(**fields)


def without_torch() -> None:
    """Tensors that come to this process become numpy arrays, with the one copy that `rl.wire.unpacked` makes."""
    stub = ModuleType("rl.wire")
    stub.unpacked = lambda sent: np.array(sent[0])  # type: ignore[attr-defined]
    sys.modules["rl.wire"] = stub


class SimulatedSampler:
    """Draws nothing. told: seconds of a piece of work (``piece``), and the id of MASK (``mask``)."""

    def __init__(self) -> None:
        without_torch()
        self.told: dict[str, Any] = {}

    def begin(self, told: dict[str, Any]) -> None:
        self.told = told

    def ready(self) -> int:
        return 0

    def take(self, version: int, named: Any, expected: str, last: bool) -> None:
        """The weights have been copied out of Ray's store; a real worker also copies them to its GPU and adds up their bits."""

    def sample(
        self, version: int, prompts: Sequence[Sequence[int]], spec: Any, options: dict[str, Any]
    ) -> tuple[SentBatch, dict[str, int], float]:
        batch = rollouts(prompts, spec, options, self.told["mask"])
        time.sleep(self.told["piece"])
        return batch, {}, self.told["piece"]


def rollouts(prompts: Sequence[Sequence[int]], spec: Any, options: dict[str, Any], mask: int) -> SentBatch:
    """Finished trajectories of prompts of one length: letters all over the canvas, as many revealed at each step. No EOS."""
    group = options["group_size"]
    count, start = len(prompts) * group, len(prompts[0])
    size = (count, start + spec.canvas)
    first = options["first_rollout"]
    place = np.arange(size[1]) - start
    canvas = np.broadcast_to(place >= 0, size)
    block, inside = np.divmod(place, spec.block)
    reveal = np.where(place >= 0, block * spec.steps_per_block + inside * spec.steps_per_block // spec.block, -1)
    tokens = np.broadcast_to(place % 26 + 10, size).astype(np.int64)  # ids 10 to 35 are letters
    tokens[:, start] = (first + np.arange(count)) % 10  # the digit that the reward reads
    tokens[:, :start] = np.repeat(np.array(prompts, dtype=np.int64), group, axis=0)
    tail = LETTER * (CHARACTERS * spec.canvas // len(LETTER))
    minus = np.where(canvas, -1.0, 0.0).astype(np.float32)
    tensors = {
        "tokens": tokens,
        "prompt_mask": ~canvas,
        "canvas_mask": canvas,
        "hint_mask": np.zeros(size, dtype=bool),
        "loss_mask": canvas,
        "reveal_step": np.broadcast_to(reveal, size).astype(np.int64),
        "raw_logprob": minus,
        "sampler_logprob": minus,
        "entropy": -minus,
        "select_logprob": np.zeros((count, spec.steps), dtype=np.float32),
        "policy_version": np.full(count, options["policy_version"], dtype=np.int64),
        "group_id": np.repeat(np.array(options["group_ids"], dtype=np.int64), group),
        "prompt_id": np.repeat(np.array(options["prompt_ids"], dtype=np.int64), group),
        "rollout_id": first + np.arange(count, dtype=np.int64),
        "forwards": np.full(count, spec.steps, dtype=np.int64),
    }
    return SentBatch(
        {
            **{name: Sent(array) for name, array in tensors.items()},
            "texts": tuple(f"{(first + i) % 10}{tail}" for i in range(count)),
            "finish_reason": ("length",) * count,
            "sampler_spec": spec,
            "mask_id": mask,
        }
    )


class SimulatedRank:
    """Scores nothing. told: seconds of a verb with a forward (``call``), and bytes of all trained weights for each of the driver's own
    (``scale``); the first rank has them."""

    def __init__(self) -> None:
        import rl.step  # noqa: F401  # what the arguments are made of, loaded before anything is timed

        self.told: dict[str, Any] = {}

    def begin(self, told: dict[str, Any]) -> None:
        from rl.wire import teach

        teach()
        self.told = told

    def meeting_place(self) -> str:
        return ""

    def join(self, address: str) -> None: ...

    def open(self, *_: Any) -> None: ...

    def freeze_reference(self, kind: str) -> None: ...

    def mix_reference(self, share: float) -> None: ...

    def step(self) -> dict[str, float]:
        return {"grad_norm": 1.0, "lr": 1e-6, "changed_bf16": 1.0}

    def score(self, batch: Any, rows: Any, plan: Any, *_: Any) -> tuple[Any, int, int, dict[str, int]]:
        """log p = -1 at every position that is scored."""
        time.sleep(self.told["call"])
        return -plan.rows_scored.float(), len(plan), 0, {}

    def backward(
        self, batch: Any, rows: Any, plan: Any, cotangent: Any, *_: Any
    ) -> tuple[Any, int, int, dict[str, int]]:
        time.sleep(self.told["call"])
        return -plan.rows_scored.float(), len(plan), len(plan), {}

    def trained(self) -> dict[str, Any]:
        """Zeros of the driver's shapes, which it saves at the end."""
        import torch

        return {name: torch.zeros(shape) for name, shape in self.told.get("shapes", {}).items()}

    def publish(self, names: Sequence[str]) -> tuple[dict[str, Any], str]:
        import torch

        if self.told["number"]:
            return {}, ""
        return {name: torch.zeros(max(1, int(self.told["sizes"][name] / 4))) for name in names}, "fingerprint"

    def state(self) -> Any:
        import torch

        return {"weights": {"none": torch.zeros(1)}}, {}

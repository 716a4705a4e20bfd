"""DeepSpeed ZeRO under a learner: optimizer states (1), gradients (2) and weights (3) in shards over the ranks.

Checkpoints hold wholes, by parameter name, whatever the stage and the number of ranks: a run may be taken up with others.
DeepSpeed averages gradients over the ranks; a learner's are a sum, so what is backwarded is multiplied by their number.
"""

import hashlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rl.backends import Moved, TrainingError, finite_norm, moved, ranks
from rl.capacity import BUCKET

STALE = 600.0  # seconds after which a lock of a compilation is nobody's any more
PROBES = 64  # elements of each part that are looked at after a step


def engine_config(stage: int, offload: str, max_grad_norm: float) -> dict[str, Any]:
    """DeepSpeed's configuration. No option of it decides a number: batch sizes are the learner's, accumulation is ours."""
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "stage3_param_persistence_threshold": 0}
    # By default DeepSpeed sets 2 GB aside for this, whatever the model.
    zero["reduce_bucket_size"] = BUCKET
    # Weights are let go right after their layer, so that the reference can stand in for them between forwards.
    zero |= {"stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0} if stage == 3 else {}
    if offload == "optimizer":
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": max_grad_norm,
        "zero_optimization": zero,
        # torch's AdamW: the same optimizer as without shards, and nothing to compile.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def prepare() -> None:
    """Import DeepSpeed and let it make itself ready; the process group is there already. On machines without GPU it compiles its
    communication the first time, in a minute or two. Raises TrainingError where it cannot."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        check_compiler()
        _build_folder()
    import deepspeed  # type: ignore[import-not-found]
    from deepspeed.utils import logger  # type: ignore[import-not-found]

    logger.setLevel(logging.WARNING)
    deepspeed.init_distributed()


def _build_folder() -> None:
    """A folder of this environment's own for what is compiled: two environments would each find the other's stale, and build anew. A
    process that was killed while it compiled leaves a lock there for which all others would wait forever."""
    name = hashlib.sha256(f"{sys.prefix} {torch.__version__}".encode()).hexdigest()[:12]
    folder = Path(
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path.home() / ".cache" / "unmask" / "build" / name))
    )
    print(f"DeepSpeed's own parts are compiled in {folder}", flush=True)
    for lock in folder.glob("*/lock"):
        if time.time() - lock.stat().st_mtime > STALE:
            print(f"{lock} is of a process that is gone; it is removed", flush=True)
            lock.unlink(missing_ok=True)


def check_compiler() -> None:
    """Raises TrainingError where DeepSpeed cannot compile."""
    os.environ["PATH"] = _programs()
    problem = compiler_problem()
    if problem is not None:
        raise TrainingError(f"cluster.zero_stage: {problem[0]}; {problem[1]}")


def compiler_problem() -> tuple[str, str] | None:
    """What DeepSpeed lacks on this machine, and the remedy; None where it has all, or a GPU."""
    missing = [name for name in ("c++", "ninja") if shutil.which(name, path=_programs()) is None]
    if torch.cuda.is_available() or not missing:
        return None
    what = f"DeepSpeed compiles a part of itself on machines without GPU, and {' and '.join(missing)} is not there"
    return what, "install g++ and ninja (Debian: apt-get install g++ ninja-build), or set cluster.zero_stage: 0"


def _programs() -> str:
    """PATH with this environment's own: ninja comes as a package, and is on nobody's path unless the environment is activated."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


class Zero:
    """Shards of stage 1, 2 or 3."""

    lockstep = True

    def __init__(
        self,
        model: Any,
        parameters: Sequence[Any],
        optimizer: torch.optim.Optimizer,
        max_grad_norm: float,
        *,
        stage: int,
        offload: str = "none",
    ) -> None:
        import deepspeed  # type: ignore[import-not-found]

        self.parameters, self.base, self.stage = parameters, optimizer, stage
        self.device = model.device  # under stage 3 parameters are empty between forwards
        config = engine_config(stage, offload, max_grad_norm)
        self.engine: Any = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
        self.model = self.engine
        if stage == 3:
            self._keep_head(model)

    def _keep_head(self, model: Any) -> None:
        """The head stays whole on every rank: how often it is called depends on the rows a rank scores, and a gathering that one rank
        asks for and another does not would wait forever."""
        offload = self.engine.optimizer.parameter_offload
        kept = {
            id(p): p
            for p in [*model.causal_lm.lm_head.parameters(), *model.causal_lm.get_input_embeddings().parameters()]
        }
        for parameter in kept.values():
            parameter.ds_persist = True
            if not any(parameter is other for other in offload.persistent_parameters):
                offload.persistent_parameters.append(parameter)
            parameter.all_gather([parameter])

    def backward(self, value: Tensor) -> None:
        self.engine.backward(value * ranks())

    def step(self) -> Moved:
        before = self._probed()
        self.engine.step()
        norm = finite_norm(self.engine.get_global_grad_norm() or 0.0)
        here = moved(norm, before, self._probed())
        if self.stage < 3:
            return here
        counts = torch.tensor(here[1:], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(counts)
        return Moved(norm, *counts.tolist())

    def _probed(self) -> list[Tensor]:
        """Some elements of each part, evenly spaced: where the gradient is largest, no rank knows."""
        return [part.view(-1)[:: max(1, part.numel() // PROBES)].clone() for part in self.parts()]

    def close(self) -> None:
        """Let go of the shards and their buffers."""
        self.engine.destroy()

    def parts(self) -> list[Tensor]:
        return [p.ds_tensor.data if self.stage == 3 else p.data for p in self.parameters]

    @contextmanager
    def holding(self, parts: Sequence[Tensor]) -> Iterator[None]:
        own = self.parts()
        self._point_to(parts)
        try:
            yield
        finally:
            self._point_to(own)

    def _point_to(self, parts: Sequence[Tensor]) -> None:
        if self.stage < 3:
            for parameter, part in zip(self.parameters, parts, strict=True):
                parameter.data = part
            return
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.ds_tensor.data = part
            if parameter.ds_persist:  # whole at hand: gathered anew from the shards
                parameter.partition([parameter], has_been_updated=False)
                parameter.all_gather([parameter])

    def part_of(self, number: int, whole: Tensor) -> Tensor:
        if self.stage < 3:
            return whole.to(self.device)
        size = self.parameters[number].ds_tensor.ds_numel
        flat, low = whole.flatten().to(self.device), torch.distributed.get_rank() * size
        part = torch.zeros(size, dtype=flat.dtype, device=self.device)
        piece = flat[low : low + size]
        part[: len(piece)] = piece
        return part

    def whole_of(self, number: int, part: Tensor) -> Tensor:
        if self.stage < 3:
            return part
        parameter: Any = self.parameters[number]
        flat = torch.empty(ranks() * part.numel(), dtype=part.dtype, device=part.device)
        torch.distributed.all_gather_into_tensor(flat, part.contiguous())
        return flat[: parameter.ds_numel].view(parameter.ds_shape)

    def moments(self) -> dict[str, dict[int, Tensor]]:
        steps = [state["step"] for state in self.base.state.values() if "step" in state]
        if not steps or float(steps[0]) == 0.0:  # no step yet
            return {}
        found = {"step": {number: torch.as_tensor(steps[0]).cpu() for number in range(len(self.parameters))}}
        for key in ("exp_avg", "exp_avg_sq"):
            found[key] = {n: self._whole_moment(p, key) for n, p in enumerate(self.parameters)}
        return found

    def _whole_moment(self, parameter: Any, key: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state  # type: ignore[import-not-found]

        found = safe_get_full_optimizer_state(parameter, key)
        assert found is not None
        return found.cpu()

    @torch.no_grad()
    def load(self, weights: Sequence[Tensor], moments: dict[str, dict[int, Tensor]]) -> None:
        for number, (part, whole) in enumerate(zip(self.parts(), weights, strict=True)):
            part.copy_(self.part_of(number, whole))
            self._put(number, whole)
        self._point_to(self.parts())  # what is whole at hand is gathered anew
        if moments:
            self._begin_moments(float(next(iter(moments["step"].values()))))
        for key in ("exp_avg", "exp_avg_sq"):
            for number, whole in moments.get(key, {}).items():
                self._put(number, whole, key)

    def _put(self, number: int, whole: Tensor, key: str | None = None) -> None:
        """Into the float32 master, or the optimizer's state of that name."""
        parameter: Any = self.parameters[number]
        if self.stage < 3:
            whole = whole.to(self.device).float()
            parameter.set_full_hp_param(whole, *([] if key is None else [key]))
            return
        from deepspeed.utils import (  # type: ignore[import-not-found]
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        part = self.part_of(number, whole.float())
        if key is None:
            safe_set_local_fp32_param(parameter, part)
        else:
            safe_set_local_optimizer_state(parameter, part, key)

    def _begin_moments(self, step: float) -> None:
        """States as after a step of this number, all zero: DeepSpeed makes them at the first step only."""
        shards = self.engine.optimizer
        masters = shards.fp32_partitioned_groups_flat if self.stage == 3 else shards.single_partition_of_fp32_groups
        for flat in masters:
            state = self.base.state[flat]
            if "exp_avg" not in state:
                state |= {"exp_avg": torch.zeros_like(flat), "exp_avg_sq": torch.zeros_like(flat)}
            state["step"] = torch.tensor(step)
        if self.stage < 3:
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

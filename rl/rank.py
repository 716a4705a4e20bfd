"""One rank of the learning side, in a process of its own: it joins the others, loads the policy, and does what `LearnerGroup` asks."""

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed import TCPStore

from rl import origin
from rl.backends import Whole
from rl.config_schema import Recipe
from rl.learner import Learner
from rl.masks import MaskPlan
from rl.setup import load_model
from rl.zero import Zero, prepare
from rollouts.law import Law
from rollouts.line import Line
from rollouts.logs import log_to
from rollouts.models import DTYPES
from rollouts.trajectory import RolloutBatch
from rollouts.worker import fingerprint

# What a verb returns: values on the CPU, rows forwarded and backwarded, and rows computed by kind.
Found = tuple[Tensor, int, int, dict[str, int]]

PATIENCE = timedelta(minutes=30)  # with each other, once all are there; torch's own


def own_address() -> str:
    """Of this machine, as others of the cluster reach it; loopback where there are none."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("10.255.255.255", 1))  # no packet is sent: this asks for the route
            return probe.getsockname()[0]
    except OSError:
        return "127.0.0.1"


class Rank:
    """A learner of its own recipe's policy. Every verb is called on all ranks at once."""

    def __init__(self, recipe: Recipe, rank: int, count: int, log: str) -> None:
        """log: the file of what this process prints."""
        log_to(log)
        origin.check()
        self.recipe, self.number, self.count = recipe, rank, count
        self.learner: Learner | None = None
        self.anchors_kept: Any = None
        self.policy: Any = None
        self.store: Any = None  # the ranks' meeting place
        self.line: Line | None = None
        self.laid: dict[int, dict[str, Tensor]] = {}  # weights by version and name

    def ready(self) -> int:
        return os.getpid()

    def meeting_place(self) -> str:
        """Where the ranks find each other, ``host:port`` of this machine: it is held from now on, so that nobody else can take it."""
        host = own_address()
        self.store = TCPStore(host, 0, self.count, is_master=True, wait_for_workers=False, timeout=self._start_time())
        return f"{host}:{self.store.port}"

    def _start_time(self) -> timedelta:
        return timedelta(seconds=self.recipe.cluster.start_timeout)

    def join(self, address: str) -> None:
        """Meet the others at rank 0's ``host:port``, and load the policy."""
        host, _, port = address.rpartition(":")
        # DeepSpeed reads these, whatever the process group was made from.
        rank, count, recipe = self.number, self.count, self.recipe
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": host, "MASTER_PORT": port}
        os.environ |= {"LOCAL_RANK": "0", "LOCAL_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        torch.set_num_threads(recipe.train.threads or 1)
        torch.use_deterministic_algorithms(recipe.train.deterministic)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if self.store is None:
            self.store = TCPStore(host, int(port), count, is_master=False, timeout=self._start_time())
        torch.distributed.init_process_group(backend, store=self.store, rank=rank, world_size=count)
        self.store.set_timeout(PATIENCE)
        if recipe.cluster.zero_stage:
            prepare()
        self.policy = load_model(recipe.model, seed=recipe.train.seed)

    def open(self, section: str, total_steps: int, micro_batch: int) -> None:
        """A learner with an optimizer of its own, by the recipe's section."""
        cluster = self.recipe.cluster
        backend = Whole if not cluster.zero_stage else partial(Zero, stage=cluster.zero_stage, offload=cluster.offload)
        if self.learner is not None and cluster.zero_stage:  # the warm start's shards: a model is dealt out once
            trained, shards = self.learner.trained(), self.learner.backend
            assert isinstance(shards, Zero)
            shards.close()
            self.learner, self.policy = None, None
            self.policy = load_model(self.recipe.model, seed=self.recipe.train.seed)
            with torch.no_grad():
                for name, parameter in self.policy.named_parameters():
                    if parameter.requires_grad:
                        parameter.copy_(trained[name])
        self.learner = Learner(
            self.policy,
            getattr(self.recipe, section),
            total_steps=total_steps,
            micro_batch=micro_batch,
            backend=backend,
        )

    @property
    def _learner(self) -> Learner:
        assert self.learner is not None, "open comes first"
        return self.learner

    def score(
        self, batch: RolloutBatch, rows: Tensor, plan: MaskPlan, law: Law, which: str, anchored: bool, idle: int
    ) -> Found:
        learner, part = self._learner, batch.rows(rows)
        with self._counted() as count:
            anchors = self.anchors_kept if anchored else None
            if which == "reference":
                with learner.reference():
                    values = learner.score(part, plan, law, anchors, idle)
            else:
                values = learner.score(part, plan, law, anchors, idle)
        return count.of(values)

    def anchors(self, batch: RolloutBatch, rows: Tensor, plan: MaskPlan, idle: int) -> Found:
        with self._counted() as count:
            self.anchors_kept = self._learner.anchors(batch.rows(rows), plan, idle)
        return count.of(torch.zeros(0))

    def backward(
        self, batch: RolloutBatch, rows: Tensor, plan: MaskPlan, cotangent: Any, law: Law, anchored: bool, idle: int
    ) -> Found:
        if isinstance(cotangent, Tensor):  # of the driver, which may have no GPU
            cotangent = cotangent.to(self._learner.device)
        with self._counted() as count:
            anchors = self.anchors_kept if anchored else None
            values = self._learner.backward(batch.rows(rows), plan, cotangent, law, anchors, idle)
        return count.of(values)

    def step(self) -> dict[str, float]:
        return self._learner.step()

    def freeze_reference(self, kind: str) -> None:
        self._learner.freeze_reference(kind)

    def mix_reference(self, share: float) -> None:
        self._learner.mix_reference(share)

    def trained(self) -> dict[str, Tensor] | None:
        """Whole trainable weights, from rank 0."""
        found = self._learner.trained()
        return {name: value.detach().cpu() for name, value in found.items()} if self.number == 0 else None

    def publish(self, names: Sequence[str]) -> tuple[dict[str, Tensor], str]:
        """Some of the trainable weights as the samplers hold them, with their fingerprint; of rank 0, nothing from the others."""
        kept = {name: value.cpu() for name, value in self._as_drawn(names).items()}
        return kept, fingerprint(kept) if kept else ""

    def lay(self, version: int, names: Sequence[str], keep: int) -> None:
        """Some of the same stay with rank 0, on its GPU, for `send`; those of versions below ``keep`` go."""
        found = {name: value.clone() for name, value in self._as_drawn(names).items()}
        self.laid = {number: weights for number, weights in self.laid.items() if number >= keep}
        self.laid.setdefault(version, {}).update(found)

    def _as_drawn(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Of rank 0: whole weights in the dtype that samplers hold; asked on all ranks, which gather them."""
        model = self.recipe.model
        dtype = torch.float32 if model.lora is not None or model.adapter is not None else DTYPES[model.dtype]
        found = self._learner.trained(names)
        return {} if self.number else {name: value.detach().to(dtype) for name, value in found.items()}

    def open_line(self, name: str, count: int, seconds: float) -> None:
        """As `rollouts.line.Line`, from rank 0 to samplers; they meet where the ranks did."""
        self.line = Line(self.store, name, 0, count, seconds)

    def send(self, version: int, names: Sequence[str]) -> str:
        """Over the line; the fingerprint of what was sent."""
        assert self.line is not None, "open_line comes first"
        sent = {name: self.laid[version][name] for name in names}
        self.line.pass_on(sent.values())
        return fingerprint(sent)

    def state(self) -> Any:
        tensors, rest = self._learner.state()
        if self.number:
            return None
        return {group: {n: t.detach().cpu() for n, t in named.items()} for group, named in tensors.items()}, rest

    def load_state(self, tensors: dict[str, dict[str, Tensor]], rest: dict[str, Any]) -> None:
        self._learner.load_state(tensors, rest)

    def _counted(self) -> "_Counted":
        return _Counted(self)


class _Counted:
    """What was computed within a block."""

    def __init__(self, rank: Rank) -> None:
        self.rank = rank

    def __enter__(self) -> "_Counted":
        work = self.rank._learner.work
        self.before = work.forward, work.backward, dict(self.rank.policy.rows_run)
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def of(self, values: Tensor) -> Found:
        forward, backward, rows = self.before
        work, now = self.rank._learner.work, self.rank.policy.rows_run
        run = {kind: count - rows[kind] for kind, count in now.items()}
        return values.detach().cpu(), work.forward - forward, work.backward - backward, run

"""The learner: policy, reference and optimizer on one rank. It can score views and backward a cotangent, and knows nothing else.

Between the two lies ordinary maths on a small tensor ``[N, S]`` (``rl.step``), so any coupling of views costs constant memory, and
micro-batches cannot change the gradient: each is forwarded again and receives its slice of the cotangent.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rl.backends import Backend, TrainingError, Whole
from rl.likelihood import Anchor, score_views, view_states
from rl.masks import MaskPlan
from rollouts import law as laws
from rollouts.law import Law
from rollouts.trajectory import RolloutBatch

# (which views, their values [n, S]) -> the cotangent of these values.
Slope = Callable[[slice, Tensor], Tensor]
Anchors = Sequence[Anchor]


class OptimLike(Protocol):
    """What the learner reads of a recipe's ``optim`` or ``warm_start`` section."""

    @property
    def lr(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def schedule(self) -> str: ...


def lr_factor(schedule: str, warmup: int, total: int, floor: float) -> Callable[[int], float]:
    """Multiplier of the learning rate at optimizer step k = 0, 1, ...: linear warm-up that never wastes a step at zero, then constant,
    or linear / cosine down to ``floor`` at the last step."""
    from math import cos, pi

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total - warmup - 1))
        if schedule == "linear":
            return 1.0 - (1.0 - floor) * progress
        if schedule == "cosine":
            return floor + (1.0 - floor) * 0.5 * (1.0 + cos(pi * progress))
        return 1.0

    return factor


def micro_batches(row: Tensor, most: int) -> list[slice]:
    """Slices of at most ``most`` adjacent views. The views of a row stay together unless they are more than that. row int ``[N]``."""
    parts, low, high = [], 0, 0
    for size in row.unique_consecutive(return_counts=True)[1].tolist():
        if low < high and high + size - low > most:
            parts.append(slice(low, high))
            low = high
        high += size
        while high - low > most:
            parts.append(slice(low, low + most))
            low += most
    return [*parts, slice(low, high)] if low < high else parts


@dataclass
class Work:
    """Rows forwarded and rows backwarded so far (a row = one view or one sequence)."""

    forward: int = 0
    backward: int = 0


class Learner:
    """One rank of the learning side."""

    def __init__(
        self,
        policy: Any,
        optim: OptimLike,
        *,
        total_steps: int,
        micro_batch: int,
        backend: Callable[..., Backend] = Whole,
    ) -> None:
        """backend: called with (policy, parameters, optimizer, largest gradient norm); how all that lies over the ranks."""
        self.names = [name for name, p in policy.named_parameters() if p.requires_grad]
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        wrong = {str(p.dtype) for p in self.parameters} - {"torch.float32"}
        if wrong:
            raise TrainingError(f"trainable parameters must be float32 masters, found {', '.join(sorted(wrong))}")
        self.micro_batch = micro_batch
        optimizer = torch.optim.AdamW(
            self.parameters,
            lr=optim.lr,
            betas=optim.betas,
            eps=getattr(optim, "eps", 1e-8),
            weight_decay=optim.weight_decay,
        )
        factor = lr_factor(optim.schedule, optim.warmup_steps, total_steps, getattr(optim, "min_lr_ratio", 0.0))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        self.optimizer, self.device = optimizer, policy.device
        self.backend = backend(policy, self.parameters, optimizer, optim.max_grad_norm)
        self.policy = self.backend.model
        self.work = Work()
        self._reference: list[Tensor] | None = None

    # -- the two verbs --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(
        self, batch: RolloutBatch, plan: MaskPlan, law: Law, anchors: Anchors | None = None, idle: int = 0
    ) -> Tensor:
        """Log-probabilities ``[N, S]`` of a plan's views under the current weights, without gradient; ``[N, S, 2]`` with anchors.

        idle: forwards of no use afterwards, where other ranks have more micro-batches than this one; made if all must keep step.
        """
        values = self._empty(batch, plan, 0.0, anchors)
        for number, (part, tokens, attention) in enumerate(self._micro_batches(batch, plan)):
            anchor = None if anchors is None else anchors[number]
            values[part, : tokens.shape[1]] = self._forward(plan, part, tokens, attention, law, anchor)
        for _ in range(idle if self.backend.lockstep else 0):
            self._idle(batch)
        return values

    @torch.no_grad()
    def anchors(self, batch: RolloutBatch, plan: MaskPlan, idle: int = 0) -> Anchors:
        """The reference at a plan's scored positions, one anchor per micro-batch: what exact divergences are computed from."""
        found = []
        with self.reference():
            for part, tokens, attention in self._micro_batches(batch, plan):
                self.work.forward += len(tokens)
                states = view_states(self.policy, plan.views(part).cut(tokens.shape[1]), tokens, attention)
                found.append(Anchor(states, self._reference_logits))
            for _ in range(idle if self.backend.lockstep else 0):
                self._idle(batch)
        return found

    @torch.no_grad()
    def _reference_logits(self, states: Tensor) -> Tensor:
        with self.reference():
            return self.policy.logits(states)

    def _empty(self, batch: RolloutBatch, plan: MaskPlan, fill: float, anchors: Anchors | None) -> Tensor:
        size = (len(plan), batch.length) if anchors is None else (len(plan), batch.length, 2)
        return torch.full(size, fill, device=self.policy.device)

    def backward(
        self,
        batch: RolloutBatch,
        plan: MaskPlan,
        cotangent: Tensor | Slope,
        law: Law,
        anchors: Anchors | None = None,
        idle: int = 0,
    ) -> Tensor:
        """Accumulate d(sum(values * cotangent)) in the gradients; returns the values of this pass, shaped as `score` gives them.

        A cotangent that depends on the values of its own micro-batch alone may be given as a function of them; then nothing need be
        scored beforehand. Of a tensor, micro-batches that are zero are left out: they add exactly nothing. Their values are returned
        as NaN. idle: as `score` takes it.
        """
        known, every = isinstance(cotangent, Tensor), self.backend.lockstep
        values = self._empty(batch, plan, float("nan") if known else 0.0, anchors)
        self.policy.train()  # gradient checkpointing acts in train mode only; dropout was removed at load
        for number, (part, tokens, attention) in enumerate(self._micro_batches(batch, plan)):
            width = tokens.shape[1]
            if known and not every and not cotangent[part].any():  # type: ignore[index]
                continue
            anchor = None if anchors is None else anchors[number]
            scores = self._forward(plan, part, tokens, attention, law, anchor)
            values[part, :width] = scores.detach()
            slope = cotangent[part] if isinstance(cotangent, Tensor) else cotangent(part, values[part])
            if every or slope.any():
                self.backend.backward((scores * slope[:, :width]).sum())
                self.work.backward += len(tokens)
        for _ in range(idle if self.backend.lockstep else 0):
            self.backend.backward(0.0 * self._idle(batch).sum())
        return values

    def _idle(self, batch: RolloutBatch) -> Tensor:
        """One forward of one row that scores one position. It is no work, and is not counted. By the raw law: a nucleus may give the
        token no probability, and zero times the slope of that is no number."""
        canvas = batch.canvas_mask[:1]
        first, zero = canvas & (canvas.long().cumsum(1) == 1), torch.zeros(1, dtype=torch.int64)
        view = MaskPlan(zero, zero, zero, canvas, first, torch.zeros_like(canvas, dtype=torch.float32))
        return score_views(self.policy, view, batch.tokens[:1], batch.attention_mask[:1], laws.RAW)

    def step(self) -> dict[str, float]:
        """One optimizer step on the accumulated gradients. Returns gradient norm, learning rate, and what the update changed.

        An update with lr > 0 and gradient > 0 that changed no float32 master element is an error.
        """
        lr = self.schedule.get_last_lr()[0]
        norm, probes, changed, rounded = self.backend.step()
        self.schedule.step()
        if lr > 0 and norm > 0 and not changed:
            raise TrainingError(
                f"an update with learning rate {lr:g} and gradient norm {norm:g} changed no parameter: "
                "the optimizer does not hold the parameters that received the gradient, or the step is below float32 resolution"
            )
        return {"grad_norm": norm, "lr": float(lr), "changed_bf16": rounded / max(1.0, probes)}

    # -- the reference --------------------------------------------------------------------------------------------

    def freeze_reference(self, kind: str) -> None:
        """Keep a float32 copy of the trainable weights as the reference; ``base`` with LoRA: the model without its adapter."""
        self._reference = [part.detach().clone() for part in self.backend.parts()]
        if kind == "base":
            for name, copy in zip(self.names, self._reference, strict=True):
                if ".lora_B." in name:
                    copy.zero_()  # the product B A is then zero: exactly the base model

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within the block the policy has the reference's weights; pointers are exchanged, nothing is copied."""
        if self._reference is None:
            raise TrainingError("no reference was frozen")
        with self.backend.holding(self._reference):
            yield

    @contextmanager
    def weights(self, named: dict[str, Tensor] | None = None) -> Iterator[None]:
        """Within the block the policy has these trainable weights (of a checkpoint); by default its own."""
        if named is None:
            yield
            return
        with self.backend.holding([self.backend.part_of(i, named[name]) for i, name in enumerate(self.names)]):
            yield

    @torch.no_grad()
    def mix_reference(self, share: float) -> None:
        """reference += share * (policy - reference), in float32."""
        if self._reference is None:
            raise TrainingError("no reference was frozen")
        torch._foreach_lerp_(self._reference, self.backend.parts(), share)

    # -- what a checkpoint holds ----------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Everything that training has changed: whole tensors by group and parameter name, and the rest as plain JSON."""
        names, backend = self.names, self.backend
        tensors = {
            "weights": self._whole(backend.parts()),
            "optimizer": {
                f"{key}/{names[number]}": value
                for key, values in backend.moments().items()
                for number, value in values.items()
            },
            "reference": {} if self._reference is None else self._whole(self._reference),
        }
        schedule = {key: value for key, value in self.schedule.state_dict().items() if key != "lr_lambdas"}
        rest = {"schedule": schedule, "forward": self.work.forward, "backward": self.work.backward}
        return {group: named for group, named in tensors.items() if named}, rest

    def trained(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The trainable weights, whole, by name: those of these names, or all."""
        return self._whole(self.backend.parts(), names)

    def _whole(self, parts: Sequence[Tensor], names: Sequence[str] | None = None) -> dict[str, Tensor]:
        wanted = set(self.names if names is None else names)
        own = enumerate(zip(self.names, parts, strict=True))
        return {name: self.backend.whole_of(i, part) for i, (name, part) in own if name in wanted}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, dict[str, Tensor]], rest: dict[str, Any]) -> None:
        """Take back what `state` gave. Raises ``TrainingError`` where the names or shapes are another model's."""
        names, weights = self.names, tensors["weights"]
        shapes = [getattr(p, "ds_shape", p.shape) for p in self.parameters]  # of a weight in shards
        wrong = sorted(set(names) ^ set(weights)) or [
            name for name, shape in zip(names, shapes, strict=True) if weights[name].shape != shape
        ]
        if wrong:
            raise TrainingError(
                f"the checkpoint holds other trainable weights than this recipe: {', '.join(wrong[:4])}; "
                "resume with the recipe that the run was started with (recipe.yaml in its folder)"
            )
        index = {name: number for number, name in enumerate(names)}
        moments: dict[str, dict[int, Tensor]] = {}
        for key, value in tensors.get("optimizer", {}).items():
            moment, _, name = key.partition("/")
            moments.setdefault(moment, {})[index[name]] = value
        self.backend.load([weights[name] for name in names], moments)
        # The schedule, loaded after it, owns the learning rate.
        self.schedule.load_state_dict({**rest["schedule"], "lr_lambdas": [None]})  # ours come from the recipe
        for group, lr in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = lr
        frozen = tensors.get("reference")
        self._reference = [self.backend.part_of(i, frozen[n]) for i, n in enumerate(names)] if frozen else None
        self.work = Work(rest["forward"], rest["backward"])

    # -- inside ---------------------------------------------------------------------------------------------------

    def _micro_batches(self, batch: RolloutBatch, plan: MaskPlan) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slices of views with their rows' tokens and attention, cut to the longest row of the slice."""
        attention = batch.attention_mask
        for part in micro_batches(plan.row, self.micro_batch):
            rows = plan.row[part]
            real = attention[rows]
            width = int(real.sum(1).max())
            yield part, batch.tokens[rows, :width], real[:, :width]

    def _forward(
        self, plan: MaskPlan, part: slice, tokens: Tensor, attention: Tensor, law: Law, anchor: Anchor | None
    ) -> Tensor:
        self.work.forward += len(tokens)
        views = plan.views(part).cut(tokens.shape[1])
        return score_views(self.policy, views, tokens, attention, law, anchor)

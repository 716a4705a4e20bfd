"""``RolloutBatch``: what a rollout strategy returns. It knows nothing of rewards.

Shapes: ``B`` rollouts, ``S`` padded row (prompt, canvas, right padding), ``T`` denoising steps.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rollouts.spec import SamplerSpec

FINISH_EOS = "eos"
FINISH_LENGTH = "length"
FINISH_GIVEN = "given"  # not sampled: a stored completion, all of it in place at once

_ROW_TENSORS = (
    "tokens",
    "prompt_mask",
    "canvas_mask",
    "hint_mask",
    "loss_mask",
    "reveal_step",
    "raw_logprob",
    "sampler_logprob",
    "entropy",
)
_STEP_TENSORS = ("x0_pred", "confidence")  # optional, [B,T,S]
_PADDING = {"tokens": 0, "reveal_step": -1}


@dataclass(frozen=True, eq=False)
class RolloutBatch:
    """Finished denoising trajectories.

    tokens          int64 [B,S]  x_0: prompt, canvas, right padding; MASK where never revealed
    prompt_mask     bool  [B,S]  given
    canvas_mask     bool  [B,S]  every canvas position that stood in the sampler's input, revealed or not
    hint_mask       bool  [B,S]  canvas positions that were injected; subset of canvas_mask
    loss_mask       bool  [B,S]  subset of canvas_mask without hints: where the EOS policy lets text, mean-field and ELBO units count
    reveal_step     int64 [B,S]  -1 given (prompt, hint, padding); 0..T-1 the step that fixed the token; T never revealed
    raw_logprob     f32   [B,S]  log p(token | state) at temperature 1 over all ids; 0 where no token was drawn
    sampler_logprob f32   [B,S]  the same under the law the token was drawn from
    entropy         f32   [B,S]  of the raw law at the step that revealed the token, nats; of hints where they were injected by
                                 ``rollouts.strategies.Inpaint``: with the whole canvas masked
    select_logprob  f32   [B,T]  log-probability of each step's choice of positions (``rollouts.select``)
    policy_version, group_id, prompt_id, forwards  int64 [B]
    texts           decoded canvas up to the first EOS;  finish_reason: "eos", "length", or "given" (not sampled: no step and no
                    log-probability of it means anything)
    x0_pred         int32 [B,T,S] or None  if recorded: the answer that each step predicted, what stood included
    confidence      f32   [B,T,S] or None  p(x0_pred | state) at temperature 1 where the step's state shows MASK; 0 elsewhere
    """

    tokens: Tensor
    prompt_mask: Tensor
    canvas_mask: Tensor
    hint_mask: Tensor
    loss_mask: Tensor
    reveal_step: Tensor
    raw_logprob: Tensor
    sampler_logprob: Tensor
    entropy: Tensor
    select_logprob: Tensor
    policy_version: Tensor
    group_id: Tensor
    prompt_id: Tensor
    rollout_id: Tensor
    forwards: Tensor
    texts: tuple[str, ...]
    finish_reason: tuple[str, ...]
    sampler_spec: SamplerSpec
    mask_id: int
    x0_pred: Tensor | None = None
    confidence: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        """S, the padded row length."""
        return self.tokens.shape[1]

    @property
    def steps(self) -> int:
        """T, the denoising steps of the sampler."""
        return self.select_logprob.shape[1]

    @property
    def attention_mask(self) -> Tensor:
        """bool [B,S]: prompt and canvas; False on right padding."""
        return self.prompt_mask | self.canvas_mask

    @property
    def drawn_mask(self) -> Tensor:
        """bool [B,S]: canvas positions whose token the sampler drew (revealed, not hints): the trajectory's units."""
        return self.canvas_mask & ~self.hint_mask & (self.reveal_step < self.steps)

    @property
    def truncated(self) -> Tensor:
        """bool [B]: the canvas ended before an EOS was seen."""
        return torch.tensor([reason == FINISH_LENGTH for reason in self.finish_reason])

    @property
    def step_mask(self) -> Tensor:
        """bool [B,T]: steps at which the row was at work; each of them revealed a token."""
        seen = torch.zeros(len(self), self.steps + 1, dtype=torch.int64)
        seen.scatter_(1, torch.where(self.drawn_mask, self.reveal_step, self.steps), 1)
        return seen[:, : self.steps] > 0

    def state(self, step: int) -> Tensor:
        """x_t ``[B,S]``: the sampler's input at a step, rebuilt from ``reveal_step`` alone."""
        hidden = self.canvas_mask & ~self.hint_mask & (self.reveal_step >= step)
        return torch.where(hidden, self.mask_id, self.tokens)

    def completion_ids(self, eos_ids: Sequence[int]) -> list[list[int]]:
        """Canvas tokens of each row up to and including the first EOS, unrevealed positions left out."""
        rows = []
        for tokens, keep in zip(self.tokens, self.canvas_mask & (self.reveal_step < self.steps), strict=True):
            ids = tokens[keep].tolist()
            end = next((i for i, token in enumerate(ids) if token in eos_ids), len(ids) - 1)
            rows.append(ids[: end + 1])
        return rows

    def rows(self, index: Tensor | Sequence[int]) -> "RolloutBatch":
        """The batch with these rows only (int indices, in the given order)."""
        index = torch.as_tensor(index, dtype=torch.int64)
        picked: dict = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                picked[field.name] = value[index]
            elif isinstance(value, tuple):
                picked[field.name] = tuple(value[i] for i in index.tolist())
        return replace(self, **picked)

    def padded(self, length: int) -> "RolloutBatch":
        """The batch with rows right-padded to ``length`` positions."""
        extra = length - self.length
        if extra < 0:
            raise ValueError(f"rows of {self.length} positions cannot be padded to {length}")
        if extra == 0:
            return self
        padded = {}
        for name in _ROW_TENSORS:
            value = getattr(self, name)
            fill = value.new_full((len(self), extra), _PADDING.get(name, 0))
            padded[name] = torch.cat([value, fill], dim=1)
        for name in _STEP_TENSORS:
            value = getattr(self, name)
            if value is not None:
                padded[name] = torch.cat([value, value.new_zeros((*value.shape[:2], extra))], dim=2)
        return replace(self, **padded)

    @staticmethod
    def concat(batches: Sequence["RolloutBatch"]) -> "RolloutBatch":
        """One batch from several of the same sampler, rows in order."""
        specs = {batch.sampler_spec.digest() for batch in batches}
        if len(specs) != 1:
            raise ValueError(f"rollouts of different samplers cannot form one batch: {sorted(specs)}")
        if len({batch.x0_pred is None for batch in batches}) != 1:
            raise ValueError("rollouts with and without recorded answers cannot form one batch")
        length = max(batch.length for batch in batches)
        parts = [batch.padded(length) for batch in batches]
        joined: dict = {}
        for field in fields(RolloutBatch):
            values = [getattr(part, field.name) for part in parts]
            if isinstance(values[0], Tensor):
                joined[field.name] = torch.cat(values)
            elif isinstance(values[0], tuple):
                joined[field.name] = tuple(item for value in values for item in value)
        return replace(parts[0], **joined)

    def validate(self) -> None:
        """Raise ``ValueError`` naming the first invariant that does not hold."""
        size = (len(self), self.length)
        checks = {
            "row tensors have one shape": all(getattr(self, name).shape == size for name in _ROW_TENSORS),
            "prompt and canvas are disjoint": not bool((self.prompt_mask & self.canvas_mask).any()),
            "hints lie on the canvas": not bool((self.hint_mask & ~self.canvas_mask).any()),
            "loss_mask lies on drawn positions": not bool((self.loss_mask & ~self.drawn_mask).any()),
            "given positions have reveal_step -1": bool(
                (self.reveal_step[~self.canvas_mask | self.hint_mask] == -1).all()
            ),
            "canvas positions have reveal_step in 0..T": bool(
                ((self.reveal_step >= 0) & (self.reveal_step <= self.steps))[self.canvas_mask & ~self.hint_mask].all()
            ),
            "no MASK was drawn": not bool((self.tokens[self.drawn_mask] == self.mask_id).any()),
            "log-probabilities are finite": bool(torch.isfinite(self.sampler_logprob[self.drawn_mask]).all()),
            "padding stands to the right": bool((self.attention_mask.int().diff(dim=1) <= 0).all()),
            "recorded answers hold what was revealed": self._record_holds(),
        }
        for rule, holds in checks.items():
            if not holds:
                raise ValueError(f"RolloutBatch: '{rule}' does not hold")

    def _record_holds(self) -> bool:
        """At each step of a row: what stood stands in its answer, and so does what the step revealed."""
        if self.x0_pred is None or self.confidence is None:
            return self.x0_pred is None and self.confidence is None
        if self.x0_pred.shape != (len(self), self.steps, self.length):
            return False
        step = torch.arange(self.steps).view(1, -1, 1)
        known = (self.reveal_step.unsqueeze(1) <= step) & self.attention_mask.unsqueeze(1)
        known &= self.step_mask.unsqueeze(2)
        hidden = (self.x0_pred == self.mask_id) & self.step_mask.unsqueeze(2) & self.canvas_mask.unsqueeze(1)
        return bool((self.x0_pred == self.tokens.unsqueeze(1))[known].all()) and not bool(hidden.any())

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and the rest as plain JSON."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        rest = {
            "texts": self.texts,
            "finish_reason": self.finish_reason,
            "mask_id": self.mask_id,
            "sampler_spec": self.sampler_spec.model_dump(),
        }
        return tensors, rest

    @staticmethod
    def of(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> "RolloutBatch":
        """From what `parts` gave."""
        return RolloutBatch(
            **tensors,
            texts=tuple(rest["texts"]),
            finish_reason=tuple(rest["finish_reason"]),
            mask_id=rest["mask_id"],
            sampler_spec=SamplerSpec(**rest["sampler_spec"]),
        )

    def save(self, folder: str | Path) -> None:
        """Write ``tensors.safetensors`` and ``rollouts.json`` into a folder."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors, rest = self.parts()
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "tensors.safetensors")
        (folder / "rollouts.json").write_text(json.dumps(rest, ensure_ascii=False, indent=1))

    @staticmethod
    def load(folder: str | Path) -> "RolloutBatch":
        """Read what :meth:`save` wrote."""
        from safetensors.torch import load_file

        folder = Path(folder)
        return RolloutBatch.of(
            load_file(folder / "tensors.safetensors"), json.loads((folder / "rollouts.json").read_text())
        )

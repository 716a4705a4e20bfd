"""The policy: a transformers decoder with bidirectional attention.

The rest of the program sees a `Policy` only through `forward` (states at chosen positions) and `logits` (the head on
those states); everything particular to a family of models stays behind it. `rollouts.models` loads one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rollouts.families import Family, ModelError
from rollouts.tokens import SpecialIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Policy(nn.Module):
    """A masked diffusion language model: rows of tokens in, distributions at chosen positions out.

    Attributes:
        model: the transformers causal LM, or the PeftModel around it.
        tokenizer: its tokenizer.
        family: its row in the table of families.
        config: the checkpoint's official `config.json`, as it will be exported.
        mask_id, eos_ids, pad_id, forbidden_ids: see `SpecialIds`.
        vocab_size: V, rows of the head.
        max_length: positions the model was made for.
        dtype: the dtype of computation. Trainable parameters are float32 whatever it is.
        quantized: the base weights are 4-bit.
        rows_run: rows forwarded so far, with and without gradient; what compute is counted in.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerFast,
        family: Family,
        ids: SpecialIds,
        config: Mapping[str, Any],
        dtype: torch.dtype,
        *,
        quantized: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.family = family
        self.config = dict(config)
        self.mask_id, self.eos_ids, self.pad_id, self.forbidden_ids = ids.mask, ids.eos, ids.pad, ids.forbidden
        self.dtype = dtype
        self.quantized = quantized
        self.rows_run = {"without_gradient": 0, "with_gradient": 0}
        self.vocab_size: int = self.causal_lm.config.vocab_size
        self.max_length: int = self.causal_lm.config.max_position_embeddings

    @property
    def causal_lm(self) -> Any:
        """The transformers causal LM itself. LoRA layers sit inside it, so calling it applies them."""
        from peft import PeftModel

        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, select: torch.Tensor
    ) -> torch.Tensor:
        """States from which `logits` gives the distribution of the token at each selected position.

        Every real token sees every other one. A family whose state at i - 1 predicts token i is read there; its
        position 0, which no state predicts, is read at 0 itself, as the published sampler does.

        Args:
            input_ids: int64 [n, S], padded on the right only.
            attention_mask: bool [n, S], True = real token, False = right padding (hidden from every query); None when
                nothing is padded.
            select: bool [n, S], positions to return.

        Returns:
            [R, d] with R = select.sum(), in row-major order.

        Raises:
            ModelError: rows longer than the model's positions.
        """
        if input_ids.shape[1] > self.max_length:
            raise ModelError(
                f"rows of {input_ids.shape[1]} tokens exceed the model's {self.max_length} positions; shorten the "
                "prompts or the canvas."
            )
        self.rows_run["with_gradient" if torch.is_grad_enabled() else "without_gradient"] += len(input_ids)
        if attention_mask is not None and bool(attention_mask.all()):
            attention_mask = None  # no mask to build or read, and attention kernels that take none
        with self._compute():
            states = self.causal_lm.model(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False, is_causal=False
            ).last_hidden_state
        if not self.family.logit_shift:
            return states[select]
        rows, columns = select.nonzero(as_tuple=True)
        return states[rows, (columns - self.family.logit_shift).clamp_min(0)]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The head on states [R, d] from `forward`: float32 [R, V]."""
        with self._compute():
            return self.causal_lm.lm_head(hidden).float()

    def _compute(self) -> contextlib.AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        # No weight cache: each weight is used once per forward, and a copy cast without gradient must not be reused
        # by a later pass that needs one.
        return torch.autocast(self.device.type, dtype=self.dtype, cache_enabled=False)

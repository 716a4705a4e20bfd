"""The policy: a transformers decoder with bidirectional attention, and how one is loaded.

The rest of the program sees a `Policy` only through `forward` (states at chosen positions) and `logits` (the head on
those states); everything particular to a family of models stays behind it. There are no modelling files and no remote
code: `rollouts.families` says how each published checkpoint maps onto a decoder that transformers ships.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rollouts import checkpoints
from rollouts.checkpoints import save_adapter, save_policy
from rollouts.decoders import build_decoder, check_attention, checkpoint_layers, quantize_layers
from rollouts.families import FAMILIES, Family, ModelError, find_family
from rollouts.lora import LoraSpec, add_lora, check_agreement, load_adapter, lora_matches
from rollouts.tokens import SpecialIds, load_tokenizer, special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "FAMILIES",
    "LoraSpec",
    "ModelError",
    "Policy",
    "SpecialIds",
    "build_decoder",
    "load_policy",
    "load_tokenizer",
    "lora_matches",
    "save_adapter",
    "save_policy",
    "special_ids",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


def load_policy(
    path: str | os.PathLike[str],
    *,
    family: str = "auto",
    dtype: str = "float32",
    attention: str = "sdpa",
    lora: LoraSpec | None = None,
    adapter: str | os.PathLike[str] | None = None,
    quantization: str = "none",
    gradient_checkpointing: bool = False,
    device: str | torch.device = "cpu",
    trainable: bool = True,
    hollow: bool = False,
    seed: int = 0,
) -> Policy:
    """Load a checkpoint in its official format as a `Policy`, in train mode with every dropout at 0.

    What trains is float32: the adapter where there is one, else the whole model. What does not train is held in
    `dtype`. Under bfloat16 the policy computes in autocast.

    Args:
        path: folder, or hub name; no code from it is run.
        family: a name from the table of families, or "auto" to go by `model_type` in config.json.
        dtype: "float32" or "bfloat16".
        attention: "sdpa", "eager" or "flash_attention_2".
        lora: put a fresh adapter on the frozen model.
        adapter: folder of a saved PEFT adapter to continue from; `lora`, if also given, must agree with it.
        quantization: "none", or "nf4" for 4-bit base weights (needs bitsandbytes and an adapter).
        gradient_checkpointing: recompute each layer in the backward pass.
        device: where everything goes.
        trainable: False freezes all parameters and holds them in `dtype` (rollout workers, references).
        hollow: the checkpoint is checked and not read; the base weights are NaN and take no memory (a driver whose workers have them).
        seed: stream of the fresh adapter's weights.

    Raises:
        ModelError: anything that does not fit; the message says what to change.
    """
    _check_options(dtype, attention, quantization, has_adapter=lora is not None or adapter is not None)
    compute, target = DTYPES[dtype], torch.device(device)
    folder = checkpoints.resolve_folder(path)
    config, where = checkpoints.read_config(folder), str(folder / "config.json")
    if not Path(path).expanduser().is_dir():
        config = checkpoints.point_to_hub(config, str(path))
    row = find_family(config, where, family)
    tokenizer = load_tokenizer(folder, row)
    model = build_decoder(row, config, where, attention=attention)
    model.name_or_path = str(path)
    adapted = lora is not None or adapter is not None
    held = torch.float32 if trainable and not adapted else compute
    packed = quantization == "nf4"
    place = quantize_layers(model, compute, target) if packed and not hollow else None
    checkpoints.load_weights(model, row, folder, device=target, dtype=held, place=place, hollow=hollow)
    model.to(target)  # pyright: ignore[reportArgumentType]  # the rotary tables; everything else is there already
    ids = special_ids(row, config, tokenizer, model.config.vocab_size, where)
    wrapped: nn.Module = model
    if adapter is not None:
        wrapped = load_adapter(model, row, adapter)
        check_agreement(wrapped, lora, adapter)
    elif lora is not None:
        wrapped = add_lora(model, row, lora, seed=seed)
    if gradient_checkpointing:  # after the adapter: PEFT would hook the embedding, as reentrant checkpoints need
        checkpoint_layers(model)
    if not trainable:
        wrapped.requires_grad_(False)
    policy = Policy(wrapped, tokenizer, row, ids, config, compute, quantized=packed)
    return policy.train()


def _check_options(dtype: str, attention: str, quantization: str, *, has_adapter: bool) -> None:
    if dtype not in DTYPES:
        raise ModelError(f"model.dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}.")
    check_attention(attention)
    if attention == "flash_attention_2" and dtype == "float32":
        raise ModelError("model.attention flash_attention_2 computes in bfloat16 only; set model.dtype: bfloat16.")
    if quantization not in ("none", "nf4"):
        raise ModelError(f"model.quantization {quantization!r} is unknown; choose none or nf4.")
    if quantization == "nf4":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ModelError(
                "model.quantization nf4 needs bitsandbytes, which is not installed: pip install 'unmask[quant]', or "
                "set quantization: none."
            )
        if not has_adapter:
            raise ModelError("model.quantization nf4 freezes the base weights; set model.lora as well.")

"""transformers' own decoders, made bidirectional: the only place that knows how that is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rollouts.families import Family, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = ("sdpa", "eager", "flash_attention_2")


class _Rope32(nn.Module):
    """Hands out float32 cosines and sines, so that the rotation happens in float32 and autocast rounds its result."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inner(x.new_empty(0, dtype=torch.float32), position_ids)


def build_decoder(
    family: Family, config: Mapping[str, Any], where: str, *, attention: str = "sdpa", device: str = "meta"
) -> PreTrainedModel:
    """The family's decoder for an official config: bidirectional, without dropout; parameters on `device`.

    On the meta device the parameters hold nothing until a checkpoint is read into them; rotary tables are real.

    Raises:
        ModelError: a config of another network, or an attention back end that is not there.
    """
    import transformers

    check_attention(attention)
    fields = family.to_transformers(config, where)
    settings = getattr(transformers, family.config_class)(
        **{**fields, "attention_dropout": 0.0},
        is_causal=False,
        use_cache=False,
        # No padding id: the embedding of one would get no gradient, and it often is the end-of-sequence token.
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    cls = getattr(transformers, family.architecture)
    with torch.device(device):
        model = cls._from_config(settings, attn_implementation=attention, dtype=torch.float32)
    rotary = type(model.model.rotary_emb)(config=settings)
    model.model.rotary_emb = _Rope32(rotary) if family.rope_fp32 else rotary
    for module in model.modules():
        if hasattr(module, "is_causal"):  # back ends fall back on the module's own flag when a call does not say
            module.is_causal = False
    remove_dropout(model)
    return model


def layer_count(model: nn.Module) -> int:
    """Decoder layers of a transformers causal LM."""
    return sum(1 for _ in model.get_submodule("model.layers").children())


def remove_dropout(model: nn.Module) -> None:
    """Set every dropout probability to 0, in dropout layers and in attributes that functional calls read.

    Likelihoods scored with gradient (train mode) must equal those scored without, so no policy keeps any.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def check_attention(attention: str) -> None:
    if attention not in ATTENTION:
        raise ModelError(f"model.attention {attention!r} is unknown; choose one of {', '.join(ATTENTION)}.")
    if attention == "flash_attention_2":
        from transformers.utils import is_flash_attn_2_available

        if not is_flash_attn_2_available():
            raise ModelError(
                "model.attention flash_attention_2 needs a CUDA device and the flash-attn package; install it, or use "
                "sdpa, which has flash kernels of its own."
            )


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Recompute each layer in the backward pass (in train mode only, as transformers has it)."""
    # Non-reentrant, so that frozen embeddings need no tricks. Nothing random happens in a layer.
    options = {"use_reentrant": False, "preserve_rng_state": False}
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(options)


def quantize_layers(
    model: PreTrainedModel, compute: torch.dtype, device: torch.device
) -> Callable[[nn.Module, str, torch.Tensor], bool]:
    """Exchange the decoder's linear layers for 4-bit ones; returns the function that fills them."""
    import bitsandbytes as bnb  # pyright: ignore[reportMissingImports]

    for layer in model.get_submodule("model.layers").modules():
        for name, child in list(layer.named_children()):
            if isinstance(child, nn.Linear):
                with torch.device("meta"):
                    bias = child.bias is not None
                    new = bnb.nn.Linear4bit(
                        child.in_features, child.out_features, bias, compute_dtype=compute, quant_type="nf4"
                    )
                setattr(layer, name, new)
    vars(model)["is_loaded_in_4bit"] = True  # PEFT picks its kind of layer by this

    def place(module: nn.Module, leaf: str, tensor: torch.Tensor) -> bool:
        if not isinstance(module, bnb.nn.Linear4bit) or leaf != "weight":
            return False
        weight = bnb.nn.Params4bit(tensor.to(compute, copy=True), requires_grad=False, quant_type="nf4", module=module)
        module.weight = weight.to(device)  # quantises on arrival
        return True

    return place

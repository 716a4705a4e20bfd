"""From a checkpoint to a policy: what is asked for is checked, read, adapted and frozen as it says.

There are no modelling files and no remote code: `rollouts.families` says how each published checkpoint maps onto a decoder that
transformers ships.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch
from torch import nn

from rollouts import checkpoints
from rollouts.decoders import build_decoder, check_attention, checkpoint_layers, quantize_layers
from rollouts.families import ModelError, find_family
from rollouts.lora import LoraSpec, add_lora, check_agreement, load_adapter
from rollouts.policy import Policy
from rollouts.tokens import load_tokenizer, special_ids

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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

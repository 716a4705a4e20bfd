"""LoRA through PEFT, with what it adapts counted: an adapter that matches nothing trains nothing, silently."""

from __future__ import annotations

import difflib
import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from rollouts.checkpoints import layer_count
from rollouts.decoders import remove_dropout
from rollouts.families import Family, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LoraSpec:
    """A LoRA adapter to put on a policy.

    Attributes:
        r: rank.
        alpha: scale; the adapter's output is multiplied by alpha / r.
        targets: "auto" for the family's own list, or names of linear layers as transformers calls them.
    """

    r: int = 16
    alpha: float = 32
    targets: Literal["auto"] | tuple[str, ...] = "auto"


def lora_matches(model: nn.Module, family: Family, targets: Literal["auto"] | Iterable[str]) -> dict[str, list[str]]:
    """For each LoRA target the full names of the linear layers that it adapts.

    Raises:
        ModelError: a target that adapts nothing, or a family's own list that adapts another number than it should.
    """
    wanted = family.lora_targets if targets == "auto" else tuple(targets)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    matches = {t: [name for name in linear if name == t or name.endswith(f".{t}")] for t in wanted}
    short = sorted({name.rpartition(".")[2] for name in linear})
    for target in (t for t in wanted if not matches[t]):
        near = difflib.get_close_matches(target, short, n=len(short), cutoff=0.0)
        official = {a.rpartition(".")[2]: b.rpartition(".")[2] for a, b in family.modules}
        hint = f" The checkpoint's {target} is called {official[target]} here." if target in official else ""
        raise ModelError(
            f"LoRA target {target!r} matches no linear layer of a {family.name} model.{hint} Available, nearest first: "
            f"{', '.join(near)}."
        )
    layers = layer_count(model)
    total = len(set().union(*matches.values()))
    if targets == "auto" and total != family.lora_per_layer * layers:
        raise ModelError(
            f"LoRA targets of family {family.name} match {total} modules; {family.lora_per_layer} in each of {layers} "
            "layers were expected. The installed transformers names its layers differently from the tested version."
        )
    if not wanted:
        raise ModelError("LoRA without targets; give names of linear layers, or auto.")
    if model.config.tie_word_embeddings and "lm_head" in set().union(*matches.values()):  # pyright: ignore[reportAttributeAccessIssue]
        raise ModelError(
            "LoRA on lm_head is not possible here: the model ties its head to its embedding, and an exported model "
            "could not hold the difference. Leave lm_head out of the targets."
        )
    return matches


def add_lora(model: PreTrainedModel, family: Family, spec: LoraSpec, *, seed: int = 0) -> nn.Module:
    """Wrap a decoder in a fresh LoRA adapter (float32, no dropout) drawn from its own generator.

    Raises:
        ModelError: see `lora_matches`; or PEFT adapted another number of modules than matched.
    """
    from peft import LoraConfig

    if spec.r < 1:
        raise ModelError(f"LoRA rank {spec.r} is not possible; r must be at least 1.")
    matches = lora_matches(model, family, spec.targets)
    config = LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,  # pyright: ignore[reportArgumentType]
        target_modules=list(matches),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return _wrap(model, config, expected=len(set().union(*matches.values())), seed=seed)


def load_adapter(model: PreTrainedModel, family: Family, path: str | os.PathLike[str]) -> nn.Module:
    """Wrap a decoder in a saved PEFT adapter, trainable.

    Raises:
        ModelError: no adapter there, targets that match nothing, or tensors that do not fit.
    """
    from peft import LoraConfig, PeftConfig, load_peft_weights, set_peft_model_state_dict

    folder = Path(path).expanduser()
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(f"model.adapter {folder}: no adapter_config.json there; give the folder of a PEFT adapter.")
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig) or config.modules_to_save or config.bias != "none":
        raise ModelError(f"{folder}: only plain LoRA adapters are supported (no bias, no modules_to_save).")
    targets = config.target_modules or ()
    if isinstance(targets, str):
        raise ModelError(f"{folder}: target_modules is the pattern {targets!r}; a list of names is supported.")
    config.lora_dropout = 0.0
    config.inference_mode = False
    matches = lora_matches(model, family, sorted(targets))
    wrapped = _wrap(model, config, expected=len(set().union(*matches.values())), seed=0)
    weights = load_peft_weights(str(folder), device="cpu")
    result = set_peft_model_state_dict(wrapped, weights)
    absent = [name for name in result.missing_keys if ".lora_" in name]
    if absent or result.unexpected_keys:
        names = ", ".join((absent + list(result.unexpected_keys))[:4])
        raise ModelError(f"{folder}: adapter tensors do not fit this {family.name} model ({names}, ...).")
    return wrapped


def _wrap(model: PreTrainedModel, config: Any, *, expected: int, seed: int) -> nn.Module:
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT draws from the global stream, which is nobody's to move, and asks transformers deprecated questions.
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = get_peft_model(model, config, autocast_adapter_dtype=True)
    generator = torch.Generator().manual_seed(seed)
    adapted = sum(isinstance(module, LoraLayer) for module in wrapped.modules())
    if adapted != expected:
        raise ModelError(f"PEFT adapted {adapted} modules where {expected} match; check the installed version.")
    for name, weight in wrapped.named_parameters():
        if ".lora_A." in name:
            draw = torch.empty(weight.shape, dtype=torch.float32)
            weight.data.copy_(nn.init.kaiming_uniform_(draw, a=math.sqrt(5), generator=generator))
    remove_dropout(wrapped)
    return wrapped


def check_agreement(wrapped: Any, lora: LoraSpec | None, path: str | os.PathLike[str]) -> None:
    """Refuse a loaded adapter whose rank, scale or targets differ from those asked for."""
    if lora is None:
        return
    saved = wrapped.peft_config["default"]
    targets = set(wrapped_targets) if (wrapped_targets := lora.targets) != "auto" else set(saved.target_modules)
    if (saved.r, saved.lora_alpha, set(saved.target_modules)) != (lora.r, lora.alpha, targets):
        raise ModelError(
            f"model.lora disagrees with the adapter at {path} (r {saved.r}, alpha {saved.lora_alpha}, targets "
            f"{', '.join(sorted(saved.target_modules))}); make them equal, or leave one out."
        )

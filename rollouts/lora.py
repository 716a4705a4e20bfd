"""LoRA through PEFT, with what it adapts counted: an adapter that matches nothing trains nothing, silently."""

from __future__ import annotations

import difflib
import json
import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from rollouts.decoders import layer_count, remove_dropout
from rollouts.families import Family, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_PEFT_PREFIX = "base_model.model."  # of every tensor name in a saved adapter


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
    """Wrap a decoder in a saved PEFT adapter, trainable. Its modules may have the names of the model's published code.

    Raises:
        ModelError: no adapter there, targets that match nothing, or tensors that do not fit.
    """
    from peft import LoraConfig, PeftConfig, load_peft_weights, set_peft_model_state_dict

    folder = Path(path).expanduser()
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(f"model.adapter {folder}: no adapter_config.json there; give the folder of a PEFT adapter.")
    config = PeftConfig.from_pretrained(str(folder))
    # A merge adds B A to the weights; DoRA and the like do more than that.
    more = ("modules_to_save", "use_dora", "target_parameters", "trainable_token_indices", "layer_replication")
    extra = [name for name in more if getattr(config, name, None)] + (
        ["bias"] if getattr(config, "bias", "none") != "none" else []
    )
    if not isinstance(config, LoraConfig) or extra:
        named = f", not with {', '.join(extra)}" if extra else ""
        raise ModelError(f"{folder}: only plain LoRA adapters are supported (no bias, no modules_to_save){named}.")
    targets = config.target_modules or ()
    if isinstance(targets, str):
        raise ModelError(f"{folder}: target_modules is the pattern {targets!r}; a list of names is supported.")
    config.lora_dropout = 0.0
    config.inference_mode = False
    weights = load_peft_weights(str(folder), device="cpu")
    official = {name: ours for name, ours in family.module_map(layer_count(model)).items() if name != ours}
    modules = {key: key.removeprefix(_PEFT_PREFIX).partition(".lora_")[0] for key in weights}
    if modules and official.keys() >= set(modules.values()):  # trained on the published code, or exported for it
        weights = {key.replace(modules[key], official[modules[key]], 1): value for key, value in weights.items()}
        targets = {official[name] for name in modules.values()}
        config.target_modules = sorted(targets)
    matches = lora_matches(model, family, sorted(targets))
    wrapped = _wrap(model, config, expected=len(set().union(*matches.values())), seed=0)
    _check_shapes(wrapped, weights, family, folder)
    result = set_peft_model_state_dict(wrapped, weights)
    absent = [name for name in result.missing_keys if ".lora_" in name]
    if absent or result.unexpected_keys:
        names = ", ".join((absent + list(result.unexpected_keys))[:4])
        raise ModelError(f"{folder}: adapter tensors do not fit this {family.name} model ({names}, ...).")
    return wrapped


def _check_shapes(wrapped: nn.Module, weights: dict[str, torch.Tensor], family: Family, folder: Path) -> None:
    """Refuse tensors of another shape than the model's: the adapter of a model of another size."""
    there = dict(wrapped.named_parameters())
    for key, value in weights.items():
        ours = there.get(f"{key.removesuffix('.weight')}.default.weight")
        if ours is not None and ours.shape != value.shape:
            raise ModelError(
                f"{folder}: adapter tensors do not fit this {family.name} model ({key} is {list(value.shape)}, the model asks for "
                f"{list(ours.shape)}): it was made for another model."
            )


def official_adapter(folder: Path, family: Family, layers: int) -> None:
    """Rename the modules of a saved adapter to those of the model's published code, in place.

    PEFT then puts it on that code. Every target is named in full: two layers of LLaDA share the short name `ff_out`.

    Raises:
        ModelError: an adapter with settings per module, whose patterns cannot be translated.
    """
    from safetensors.torch import load_file, save_file

    names = {ours: official for official, ours in family.module_map(layers).items()}
    if not names:
        return
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ModelError(f"{folder}: an adapter with rank_pattern or alpha_pattern cannot be renamed.")
    weights, targets = {}, set()
    for key, value in load_file(folder / "adapter_model.safetensors").items():
        module, _, leaf = key.removeprefix(_PEFT_PREFIX).partition(".lora_")
        if module not in names:
            raise ModelError(f"{folder}: {key} has no name in the published code of the {family.name} family.")
        weights[f"{_PEFT_PREFIX}{names[module]}.lora_{leaf}"] = value
        targets.add(names[module])
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    path.write_text(json.dumps({**config, "target_modules": sorted(targets)}, indent=2) + "\n", encoding="utf-8")


def _wrap(model: PreTrainedModel, config: Any, *, expected: int, seed: int) -> nn.Module:
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT draws from the global stream, which is nobody's to move, and asks transformers deprecated questions.
        warnings.simplefilter("ignore", FutureWarning)
        # A base model that was moved or is given by another name; what matters is whether the tensors fit.
        warnings.filterwarnings("ignore", message=".*base_model_name_or_path.*")
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

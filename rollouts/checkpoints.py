"""Checkpoints on disk: official names in, official names out.

Weights are read tensor by tensor into a model whose parameters do not exist yet, so that at no time two copies are
held; names and shapes are compared first, from the file headers alone. Exports are sharded safetensors with the
official tensor names, `config.json` and tokenizer, so that other tools read them as they read the original.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rollouts.decoders import layer_count
from rollouts.families import Family, ModelError
from rollouts.policy import Policy
from rollouts.tokens import save_tokenizer

INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


# -- reading -------------------------------------------------------------------------------------------------------


def resolve_folder(path: str | os.PathLike[str], *, weights: bool = True) -> Path:
    """A local folder as it is; a hub name (`owner/model`) downloaded, weights and tokenizer only, no code.

    weights: False leaves them out of a download: config and tokenizer alone.

    Raises:
        ModelError: neither a folder nor a model that the hub can give.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    name = str(path)
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ModelError(
            f"model path {name}: no such folder. Give a folder holding config.json, *.safetensors and tokenizer.json, "
            "or a hub name such as GSAI-ML/LLaDA-8B-Instruct."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.jinja", "merges.txt", *(["*.safetensors"] if weights else [])]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model path {name}: no such folder, and the hub did not give it ({type(error).__name__}). Check the name "
            "and the connection, or download the model and give its folder."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint, parsed.

    Raises:
        ModelError: no such file, or not a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        hint = " It holds adapter_config.json: an adapter goes under model.adapter, its base model under model.path."
        raise ModelError(f"{path}: no such file.{hint if (folder / 'adapter_config.json').is_file() else ''}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: a JSON object is expected, found {type(config).__name__}.")
    return config


def point_to_hub(config: dict[str, Any], name: str) -> dict[str, Any]:
    """`config` with the code files it mentions found in hub model `name`, for an export that holds no code itself."""
    if "auto_map" not in config:
        return config
    code = {key: value if "--" in value else f"{name}--{value}" for key, value in config["auto_map"].items()}
    return {**config, "auto_map": code}


def list_tensors(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Every tensor of a checkpoint: name -> (file, shape), read from the headers.

    Raises:
        ModelError: no safetensors files, or a shard of the index is missing.
    """
    from safetensors import SafetensorError, safe_open

    index = folder / INDEX
    if index.is_file():
        files = sorted({folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise ModelError(f"{index}: names shards that are not there: {_some(absent)}. Download them again.")
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        other = sorted(file.name for pattern in ("*.bin", "*.pt", "*.gguf") for file in folder.glob(pattern))
        found = f" Found {_some(other)}, which cannot be read: convert to safetensors." if other else ""
        raise ModelError(f"{folder}: no *.safetensors files.{found}")
    tensors: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as reader:
                for name in reader.keys():  # noqa: SIM118  # not a dict: it cannot be iterated
                    tensors[name] = (file, tuple(reader.get_slice(name).get_shape()))
        except SafetensorError as error:
            raise ModelError(f"{file}: not a readable safetensors file ({error}). Download it again.") from error
    return tensors


def load_weights(
    model: nn.Module,
    family: Family,
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    place: Callable[[nn.Module, str, torch.Tensor], bool] | None = None,
    hollow: bool = False,
) -> None:
    """Fill a model built on the meta device from a checkpoint in official names.

    Args:
        model: a transformers causal LM whose parameters are on the meta device.
        device, dtype: where the parameters go, and as what.
        place: called with (module, leaf name, tensor on the CPU) first; True means that it has stored the tensor
            itself, which is how quantised layers are filled.
        hollow: check the checkpoint, and read nothing: parameters are NaN of their shapes and take no memory.

    Raises:
        ModelError: missing, unexpected or wrongly shaped tensors, each named.
    """
    from safetensors import safe_open

    wanted = dict(model.named_parameters())  # a tied head appears once, under the name of the embedding
    names = family.tensor_names(wanted, layer_count(model))
    found = list_tensors(folder)
    _check_names(model, family, folder, {names[ours]: tuple(p.shape) for ours, p in wanted.items()}, found)
    by_file: dict[Path, list[tuple[str, str]]] = {}
    for ours, parameter in wanted.items() if hollow else ():
        path, _, leaf = ours.rpartition(".")
        one = torch.full((), float("nan"), dtype=dtype).expand(parameter.shape)
        setattr(model.get_submodule(path), leaf, nn.Parameter(one))
    for ours, official in names.items() if not hollow else ():
        by_file.setdefault(found[official][0], []).append((ours, official))
    for file, pairs in by_file.items():
        with safe_open(file, framework="pt") as reader:
            for ours, official in pairs:
                path, _, leaf = ours.rpartition(".")
                module, tensor = model.get_submodule(path), reader.get_tensor(official)
                if place is None or not place(module, leaf, tensor):
                    # copy=True: what the reader gives may be mapped from the file, and the file may change
                    setattr(module, leaf, nn.Parameter(tensor.to(device=device, dtype=dtype, copy=True)))
    if model.config.tie_word_embeddings:  # pyright: ignore[reportAttributeAccessIssue]
        model.get_submodule("lm_head").weight = model.get_submodule("model.embed_tokens").weight


def _check_names(
    model: nn.Module,
    family: Family,
    folder: Path,
    wanted: dict[str, tuple[int, ...]],
    found: dict[str, tuple[Path, tuple[int, ...]]],
) -> None:
    problems: list[str] = []
    missing = sorted(wanted.keys() - found.keys())
    # Tied models may or may not store the head; older exports also store rotary tables, which are recomputed.
    spare = set(family.tensor_names(("lm_head.weight",), layer_count(model)).values())
    unexpected = sorted(n for n in found.keys() - wanted.keys() - spare if not n.endswith("rotary_emb.inv_freq"))
    if missing:
        problems.append(f"{len(missing)} missing: {_some(missing)}")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected: {_some(unexpected)}")
    wrong = [f"{n} is {list(found[n][1])}, config.json asks for {list(s)}"
             for n, s in wanted.items() if n in found and found[n][1] != s]  # fmt: skip
    if wrong:
        problems.append(f"{len(wrong)} of another shape: {_some(wrong)}")
    if problems:
        raise ModelError(
            f"{folder}: tensors do not fit the {family.name} family: {'; '.join(problems)}. Check that config.json and "
            "weights belong together and that every shard is there."
        )


def _some(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


# -- writing -------------------------------------------------------------------------------------------------------


def save_policy(
    policy: Policy,
    folder: str | os.PathLike[str],
    *,
    max_shard_bytes: int = 4 * 2**30,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the full weights, LoRA merged in, with official names, `config.json` and tokenizer; `load_policy` reads it.

    The policy itself is not changed.

    Args:
        max_shard_bytes: size of one file; larger models are split and indexed.
        dtype: of the tensors written, rounded to once; default the policy's compute dtype.

    Raises:
        ModelError: a quantised policy (its exact weights are gone; save the adapter).
    """
    from safetensors.torch import save_file

    if policy.quantized:
        raise ModelError("a 4-bit policy cannot be exported as full weights; use save_adapter.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = dtype or policy.dtype
    config = {**policy.config, "torch_dtype": str(dtype).removeprefix("torch.")}
    config.pop("dtype", None)
    shards = _split(list(full_tensors(policy)), dtype.itemsize, max_shard_bytes)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: make().to(device="cpu", dtype=dtype).contiguous() for name, _, make in shard}
        # Written beside and moved into place: an interrupted export leaves no half file under the real name.
        save_file(tensors, folder / f"{file}.part", metadata={"format": "pt"})
        os.replace(folder / f"{file}.part", folder / file)
        weight_map.update(dict.fromkeys(tensors, file))
    for stale in folder.glob("model*.safetensors"):
        if _SHARD.fullmatch(stale.name) and stale.name not in weight_map.values():
            stale.unlink()
    (folder / INDEX).unlink(missing_ok=True)
    if len(shards) > 1:
        total = sum(size for shard in shards for _, size, _ in shard) * dtype.itemsize
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    _write_json(folder / "config.json", config)
    save_tokenizer(policy.tokenizer, folder)


def full_tensors(policy: Policy) -> Iterator[tuple[str, int, Callable[[], torch.Tensor]]]:
    """(official name, number of elements, function giving the tensor) of every weight, LoRA merged into its layer."""
    from peft.tuners.lora import LoraLayer

    model = policy.causal_lm
    weights: dict[str, tuple[nn.Module, nn.Parameter]] = {}
    for path, module in model.named_modules():
        if ".lora_" in path:
            continue
        for leaf, parameter in module.named_parameters(recurse=False):
            weights[f"{path.replace('.base_layer', '')}.{leaf}"] = (module, parameter)
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    adapted = {id(m.get_base_layer()): m for m in model.modules() if isinstance(m, LoraLayer)}
    names = policy.family.tensor_names(weights, layer_count(model))
    for ours, (module, parameter) in weights.items():
        layer = adapted.get(id(module)) if ours.endswith(".weight") else None

        def make(parameter: nn.Parameter = parameter, layer: Any = layer) -> torch.Tensor:
            if layer is None:
                return parameter.detach()
            with torch.no_grad():  # merged in float32, rounded once
                deltas = [layer.get_delta_weight(name).float() for name in layer.active_adapters]
                return sum(deltas, parameter.detach().float())

        yield names[ours], parameter.numel(), make


def save_adapter(policy: Policy, folder: str | os.PathLike[str]) -> None:
    """Write the LoRA adapter as plain PEFT writes it; its module names are transformers'.

    Raises:
        ModelError: the policy has no adapter.
    """
    from peft import PeftModel

    if not isinstance(policy.model, PeftModel):
        raise ModelError("this policy has no LoRA adapter to save; set model.lora, or use save_policy.")
    # No embedding is ever adapted; "auto" would ask the hub about the base model.
    policy.model.save_pretrained(str(folder), save_embedding_layers=False)


def _split(tensors: list[Any], itemsize: int, limit: int) -> list[list[Any]]:
    shards: list[list[Any]] = [[]]
    size = 0
    for entry in tensors:
        if shards[-1] and size + entry[1] * itemsize > limit:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry[1] * itemsize
    return shards


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

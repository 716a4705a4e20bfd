"""Checkpoints: official names and shapes, round trips, exports, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rollouts.checkpoints import INDEX, load_weights, point_to_hub, save_adapter, save_policy
from rollouts.decoders import build_decoder
from rollouts.families import A2D_QWEN3, DREAM, FAMILIES, LLADA, ModelError, find_family
from rollouts.lora import LoraSpec
from rollouts.models import load_policy
from rollouts.tiny import build_tiny
from tests.rollouts.small_models import (
    A2D_06B,
    DREAM_7B,
    LLADA_8B,
    SMALL,
    all_logits,
    random_rows,
    small_policy,
    write_small,
)


def llada_8b_tensors() -> dict[str, list[int]]:
    """The published list of LLaDA-8B: 291 tensors."""
    tensors = {
        "model.transformer.wte.weight": [126464, 4096],
        "model.transformer.ln_f.weight": [4096],
        "model.transformer.ff_out.weight": [126464, 4096],
    }
    for i in range(32):
        block = f"model.transformer.blocks.{i}"
        tensors |= {
            f"{block}.attn_norm.weight": [4096],
            f"{block}.q_proj.weight": [4096, 4096],
            f"{block}.k_proj.weight": [4096, 4096],
            f"{block}.v_proj.weight": [4096, 4096],
            f"{block}.attn_out.weight": [4096, 4096],
            f"{block}.ff_norm.weight": [4096],
            f"{block}.ff_proj.weight": [12288, 4096],
            f"{block}.up_proj.weight": [12288, 4096],
            f"{block}.ff_out.weight": [4096, 12288],
        }
    return tensors


def test_llada_8b_key_map_is_a_bijection_over_the_official_tensors() -> None:
    model = build_decoder(LLADA, LLADA_8B, "config.json")
    ours = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    names = LLADA.tensor_names(ours, 32)
    official = llada_8b_tensors()
    assert len(official) == len(ours) == len(set(names.values())) == 291
    assert {names[name]: shape for name, shape in ours.items()} == official
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(8.0156e9, rel=1e-4)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_the_two_ff_out_are_told_apart() -> None:
    names = LLADA.module_map(2)
    assert names["model.transformer.ff_out"] == "lm_head"
    assert names["model.transformer.blocks.1.ff_out"] == "model.layers.1.mlp.down_proj"
    assert names["model.transformer.blocks.1.ff_proj"] == "model.layers.1.mlp.gate_proj"


@pytest.mark.parametrize(("config", "count"), [(DREAM_7B, 339), (A2D_06B, 310)])
def test_qwen_families_keep_their_names_and_sizes(config: dict, count: int) -> None:
    family = find_family(config, "config.json")
    model = build_decoder(family, config, "config.json")
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == count
    assert family.tensor_names(names, 28) == {name: name for name in names}
    assert model.model.embed_tokens.weight.shape == (config["vocab_size"], config["hidden_size"])
    assert model.config.rope_parameters["rope_theta"] == 1e6
    has_bias = "model.layers.0.self_attn.q_proj.bias" in names
    assert has_bias == (family is DREAM)


@pytest.mark.parametrize("name", FAMILIES)
def test_config_translation_round_trip(name: str) -> None:
    family, config = FAMILIES[name], SMALL[name]
    fields = family.to_transformers(config, "config.json")
    official = family.to_official({"attention_dropout": 0.0, "initializer_range": 0.02, **fields})
    assert family.to_transformers(official, "config.json") == fields
    shared = official.keys() & config.keys()
    assert len(shared) >= 15
    assert {key: official[key] for key in shared} == {key: config[key] for key in shared}


def test_newer_rope_fields_are_understood() -> None:
    config = {k: v for k, v in A2D_06B.items() if not k.startswith("rope_")}
    fields = A2D_QWEN3.to_transformers({**config, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, "")
    assert fields["rope_parameters"] == {"rope_type": "default", "rope_theta": 7.0}


@pytest.mark.parametrize("shard_bytes", [2**30, 40_000])
@pytest.mark.parametrize("name", FAMILIES)
def test_round_trip_changes_nothing(name: str, shard_bytes: int, tmp_path: Path) -> None:
    policy = small_policy(name)
    save_policy(policy, tmp_path, max_shard_bytes=shard_bytes)
    assert (tmp_path / INDEX).exists() == (shard_bytes == 40_000)
    again = load_policy(tmp_path)
    ids, mask = random_rows(policy, [20, 13], 20)
    assert torch.equal(all_logits(policy, ids, mask), all_logits(again, ids, mask))
    assert again.family is policy.family
    for attribute in ("mask_id", "eos_ids", "pad_id", "forbidden_ids", "vocab_size", "max_length"):
        assert getattr(again, attribute) == getattr(policy, attribute)
    assert {k: v for k, v in again.config.items() if k != "torch_dtype"} == policy.config
    assert again.tokenizer("a b\n1").input_ids == policy.tokenizer("a b\n1").input_ids


@pytest.mark.parametrize("name", FAMILIES)
def test_exports_carry_official_names(name: str, tmp_path: Path) -> None:
    write_small(name, tmp_path)
    written = set(load_file(tmp_path / "model.safetensors"))
    if name == "llada":
        assert {n.replace("blocks.1", "blocks.31") for n in written} <= llada_8b_tensors().keys()
        assert len(written) == 3 * 9 + 3
    else:
        assert "model.layers.2.self_attn.q_proj.weight" in written
        assert ("lm_head.weight" in written) == (name == "dream")  # A2D-Qwen3 is tied
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == FAMILIES[name].official_type


def test_tied_head_stays_tied_and_a_stored_copy_of_it_is_accepted(tmp_path: Path) -> None:
    write_small("a2d_qwen3", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors"
    )
    model = load_policy(tmp_path).causal_lm
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_saving_over_the_folder_it_came_from(tmp_path: Path) -> None:
    save_policy(small_policy("llada"), tmp_path, max_shard_bytes=40_000)
    policy = load_policy(tmp_path)
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    save_policy(policy, tmp_path)  # fewer shards: the old ones and their index must not survive
    assert [file.name for file in tmp_path.glob("model*")] == ["model.safetensors"]
    assert all(torch.equal(before[k], v) for k, v in policy.state_dict().items())
    assert all(torch.equal(before[k], v) for k, v in load_policy(tmp_path).state_dict().items())


def test_parameters_go_straight_to_their_dtype_one_tensor_at_a_time(tmp_path: Path) -> None:
    write_small("llada", tmp_path)
    model = build_decoder(LLADA, SMALL["llada"], "config.json")
    assert all(parameter.is_meta for parameter in model.parameters())  # nothing is allocated before the file is read
    seen: list[tuple[str, torch.dtype]] = []

    def watch(module: torch.nn.Module, leaf: str, tensor: torch.Tensor) -> bool:
        assert len(seen) == sum(not p.is_meta for p in model.parameters())  # earlier tensors were stored, not kept
        seen.append((leaf, tensor.dtype))
        return False

    load_weights(model, LLADA, tmp_path, device=torch.device("cpu"), dtype=torch.bfloat16, place=watch)
    assert len(seen) == 30
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def perturb_adapter(policy) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.empty(parameter.shape).normal_(0, 0.1, generator=generator))


@pytest.mark.parametrize("name", FAMILIES)
def test_export_merges_lora_without_touching_the_policy(name: str, tmp_path: Path) -> None:
    write_small(name, tmp_path / "base")
    policy = load_policy(tmp_path / "base", lora=LoraSpec(r=3, alpha=6))
    perturb_adapter(policy)
    ids, mask = random_rows(policy, [20, 13], 20)
    with torch.no_grad():
        before = all_logits(policy, ids, mask)
        save_policy(policy, tmp_path / "merged")
        assert torch.equal(all_logits(policy, ids, mask), before)
        merged = all_logits(load_policy(tmp_path / "merged"), ids, mask)
        base = all_logits(load_policy(tmp_path / "base"), ids, mask)
    scale = before.std()
    assert (merged - before)[mask].abs().max() / scale < 1e-5
    assert (base - before)[mask].abs().max() / scale > 0.1


def test_adapter_round_trip(tmp_path: Path) -> None:
    base = write_small("dream", tmp_path / "base")
    policy = load_policy(base, lora=LoraSpec(r=3, alpha=6, targets=("q_proj", "down_proj")))
    perturb_adapter(policy)
    save_adapter(policy, tmp_path / "adapter")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {f.name for f in (tmp_path / "adapter").iterdir()}
    again = load_policy(base, adapter=tmp_path / "adapter")
    ids, mask = random_rows(policy, [20, 13], 20)
    assert torch.equal(all_logits(policy, ids, mask), all_logits(again, ids, mask))
    trained = [n for n, p in again.named_parameters() if p.requires_grad]
    assert trained == [n for n, p in policy.named_parameters() if p.requires_grad]
    load_policy(base, adapter=tmp_path / "adapter", lora=LoraSpec(r=3, alpha=6))
    with pytest.raises(ModelError, match=r"disagrees with the adapter .*r 3, alpha 6"):
        load_policy(base, adapter=tmp_path / "adapter", lora=LoraSpec(r=4, alpha=6))


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    base = write_small("llada", tmp_path / "base")
    policy = load_policy(base, lora=LoraSpec(r=3, alpha=6))
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        load_policy(base, adapter=tmp_path / "nowhere")
    save_adapter(policy, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file(dict(list(weights.items())[2:]), file)
    with pytest.raises(ModelError, match=r"adapter tensors do not fit this llada model"):
        load_policy(base, adapter=tmp_path / "adapter")
    save_file({k.replace("q_proj", "attn_q"): v for k, v in weights.items()}, file)
    with pytest.raises(ModelError, match=r"adapter tensors do not fit"):
        load_policy(base, adapter=tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"no LoRA adapter to save"):
        save_adapter(load_policy(base), tmp_path / "none")


def test_unknown_family_names_file_type_and_families(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(ModelError) as caught:
        load_policy(tmp_path)
    message = str(caught.value)
    for part in (str(tmp_path / "config.json"), "'qwen2'", "llada", "dream", "a2d_qwen3"):
        assert part in message
    with pytest.raises(ModelError, match=r"'lada' is unknown.*Did you mean llada\?"):
        load_policy(tmp_path, family="lada")


def test_exports_of_a_hub_model_point_to_its_code() -> None:
    config = {
        "model_type": "llada",
        "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "a/b--m.M"},
    }
    code = point_to_hub(config, "owner/model")["auto_map"]
    assert code == {"AutoConfig": "owner/model--configuration_llada.LLaDAConfig", "AutoModel": "a/b--m.M"}
    assert point_to_hub({"model_type": "llada"}, "owner/model") == {"model_type": "llada"}


def test_a_family_can_be_named_for_a_renamed_model_type(tmp_path: Path) -> None:
    write_small("dream", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "my-dream"}))
    assert load_policy(tmp_path, family="dream").family is DREAM


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such folder\. Give a folder"):
        load_policy(tmp_path / "absent")
    with pytest.raises(ModelError, match=r"some-owner/some-model: no such folder, and the hub did not give it"):
        load_policy("some-owner/some-model")
    with pytest.raises(ModelError, match=r"config\.json: no such file"):
        load_policy(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"an adapter goes under model\.adapter"):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: not valid JSON"):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SMALL["llada"]))
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        load_policy(tmp_path)
    small_policy("llada").tokenizer.save_pretrained(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"no \*\.safetensors files\. Found pytorch_model\.bin"):
        load_policy(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match=r"model\.safetensors: not a readable safetensors file"):
        load_policy(tmp_path)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    save_policy(small_policy("llada"), tmp_path, max_shard_bytes=40_000)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(ModelError, match=shards[1].name):
        load_policy(tmp_path)


def test_tensors_that_do_not_fit_are_all_named_at_once(tmp_path: Path) -> None:
    write_small("llada", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.transformer.blocks.1.ff_out.weight"]
    tensors["model.transformer.blocks.7.q_proj.weight"] = torch.zeros(2)
    tensors["model.transformer.ln_f.weight"] = torch.zeros(5)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError) as caught:
        load_policy(tmp_path)
    message = str(caught.value)
    assert "1 missing: model.transformer.blocks.1.ff_out.weight" in message
    assert "1 unexpected: model.transformer.blocks.7.q_proj.weight" in message
    assert "model.transformer.ln_f.weight is [5], config.json asks for [48]" in message


@pytest.mark.parametrize(("key", "value"), [("alibi", True), ("include_bias", True), ("activation_type", "swiglu")])
def test_other_llada_networks_are_refused(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=rf"config\.json: not the published LLaDA network: {key} = "):
        build_decoder(LLADA, {**LLADA_8B, key: value}, "config.json")


def test_incomplete_config_is_refused() -> None:
    with pytest.raises(ModelError, match=r"config\.json: missing n_layers, max_sequence_length"):
        LLADA.to_transformers(
            {k: v for k, v in LLADA_8B.items() if k not in ("n_layers", "max_sequence_length")}, "config.json"
        )
    with pytest.raises(ModelError, match=r"use_sliding_window"):
        DREAM.to_transformers({**DREAM_7B, "use_sliding_window": True}, "config.json")


def test_tiny_is_saved_and_loaded_like_any_other(tmp_path: Path) -> None:
    policy = build_tiny(3, d_model=32, layers=2, heads=2)
    save_policy(policy, tmp_path)
    again = load_policy(tmp_path, lora=LoraSpec(r=2, alpha=4))
    ids, mask = random_rows(policy, [20, 13], 20)
    assert torch.equal(all_logits(policy, ids, mask), all_logits(again, ids, mask))  # a fresh adapter adds zero

"""LoRA adapters: what they adapt is counted, and the policy computes exactly through them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rollouts.families import FAMILIES, LLADA, ModelError
from rollouts.lora import LoraSpec, lora_matches
from rollouts.models import load_policy
from tests.rollouts.small_models import logits, random_rows, small_policy, write_small


@pytest.mark.parametrize("name", FAMILIES)
def test_lora_adapts_the_expected_number_of_modules(name: str, tmp_path: Path) -> None:
    write_small(name, tmp_path)
    policy = load_policy(tmp_path, lora=LoraSpec())
    assert sum(".lora_A." in n for n, _ in policy.named_parameters()) == 3 * FAMILIES[name].lora_per_layer == 21
    assert all(".lora_" in n for n, p in policy.named_parameters() if p.requires_grad)
    few = load_policy(tmp_path, lora=LoraSpec(targets=("q_proj", "layers.1.mlp.up_proj")))
    assert sum(".lora_A." in n for n, _ in few.named_parameters()) == 3 + 1


def test_forward_is_exact_under_lora(tmp_path: Path) -> None:
    write_small("llada", tmp_path)
    policy = load_policy(tmp_path, lora=LoraSpec(r=3, alpha=6, targets=("q_proj", "down_proj", "lm_head")))
    ids, mask = random_rows(policy, [20, 13], 20)
    plain = logits(policy, ids, mask)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
        through_peft = policy.model(input_ids=ids, attention_mask=mask, use_cache=False, is_causal=False).logits
    assert torch.equal(logits(policy, ids, mask), through_peft)
    assert not torch.allclose(plain, through_peft, atol=1e-2)


def test_a_lora_target_that_matches_nothing(tmp_path: Path) -> None:
    write_small("llada", tmp_path)
    with pytest.raises(ModelError) as caught:
        load_policy(tmp_path, lora=LoraSpec(targets=("q_proj", "qproj")))
    message = str(caught.value)
    assert "'qproj' matches no linear layer of a llada model" in message
    assert "nearest first: q_proj, " in message
    assert all(
        name in message for name in ("k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
    )
    with pytest.raises(ModelError, match=r"checkpoint's attn_out is called o_proj here"):
        load_policy(tmp_path, lora=LoraSpec(targets=("attn_out",)))
    with pytest.raises(ModelError, match=r"lm_head is not possible here"):
        load_policy(write_small("a2d_qwen3", tmp_path / "tied"), lora=LoraSpec(targets=("lm_head",)))
    with pytest.raises(ModelError, match=r"without targets"):
        load_policy(tmp_path, lora=LoraSpec(targets=()))
    with pytest.raises(ModelError, match=r"rank 0"):
        load_policy(tmp_path, lora=LoraSpec(r=0))


def test_a_renamed_layer_in_transformers_would_be_noticed() -> None:
    model = small_policy("llada").causal_lm
    model.model.layers[1].mlp.fc_up = model.model.layers[1].mlp.up_proj
    del model.model.layers[1].mlp.up_proj
    with pytest.raises(ModelError, match=r"match 20 modules; 7 in each of 3 layers were expected"):
        lora_matches(model, LLADA, "auto")


def test_fresh_adapters_depend_on_their_seed_alone(tmp_path: Path) -> None:
    write_small("llada", tmp_path)
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    one, two, three = (
        {
            n: p
            for n, p in load_policy(tmp_path, lora=LoraSpec(r=3, alpha=6), seed=s).named_parameters()
            if "lora_A" in n
        }
        for s in (0, 0, 1)
    )
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(one[k], two[k]) and not torch.equal(one[k], three[k]) for k in one)

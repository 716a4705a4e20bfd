"""The policy: bidirectional, blind to padding, shifted where the family is, exact under LoRA and checkpointing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rollouts.checkpoints import save_policy
from rollouts.decoders import build_decoder, remove_dropout
from rollouts.families import FAMILIES, LLADA, ModelError
from rollouts.lora import LoraSpec
from rollouts.models import load_policy
from rollouts.policy import Policy
from rollouts.tiny import build_tiny
from tests.oracles.llada_reference import llada_logits
from tests.oracles.training import tiny_folder
from tests.rollouts.small_models import (
    SMALL,
    all_logits,
    logits,
    random_rows,
    small_policy,
    write_small,
)

BACK_ENDS = ["sdpa", "eager"]
if torch.cuda.is_available() and importlib.util.find_spec("flash_attn"):
    BACK_ENDS.append("flash_attention_2")


def where(back_end: str) -> dict[str, Any]:
    flash = back_end == "flash_attention_2"
    return {"device": "cuda" if flash else "cpu", "dtype": "bfloat16" if flash else "float32", "attention": back_end}


# -- against the published network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_llada_equals_the_plain_reference(attention: str, tmp_path: Path) -> None:
    write_small("llada", tmp_path)
    policy = load_policy(tmp_path, attention=attention)
    ids, mask = random_rows(policy, [24, 17, 9], 24)
    expected = llada_logits(load_file(tmp_path / "model.safetensors"), policy.config, ids, mask)
    error = (logits(policy, ids, mask) - expected)[mask].abs().max() / expected.std()
    assert error < 1e-5
    expected = llada_logits(load_file(tmp_path / "model.safetensors"), policy.config, ids)
    assert (logits(policy, ids, None) - expected).abs().max() / expected.std() < 1e-5


def test_llada_rotates_in_float32_under_bfloat16(tmp_path: Path) -> None:
    write_small("llada", tmp_path)
    policy = load_policy(tmp_path, dtype="bfloat16", trainable=False)
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    attention = policy.causal_lm.model.layers[0].self_attn
    attention.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(
            (kwargs["hidden_states"].dtype, kwargs["position_embeddings"][0].dtype)
        ),
        with_kwargs=True,
    )
    ids, mask = random_rows(policy, [24, 17], 24)
    ours = logits(policy, ids, mask)
    assert seen == [(torch.bfloat16, torch.float32)]
    weights = load_file(tmp_path / "model.safetensors")
    exact = llada_logits({k: v.bfloat16().float() for k, v in weights.items()}, policy.config, ids, mask)
    published = llada_logits({k: v.bfloat16() for k, v in weights.items()}, policy.config, ids, mask).float()

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b)[mask].pow(2).mean().sqrt() / exact.std())

    # As far from the exact values as the published procedure is, and from it no farther than two roundings apart.
    assert distance(ours, exact) < 1.5 * distance(published, exact)
    assert distance(ours, published) < 2.0 * distance(published, exact)


# -- bidirectional, every way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("masked", ["none", "all real", "padded"])
@pytest.mark.parametrize("attention", BACK_ENDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_attention_is_bidirectional(
    name: str, attention: str, masked: str, training: bool, checkpointing: bool, tmp_path: Path
) -> None:
    write_small(name, tmp_path)
    policy = load_policy(tmp_path, gradient_checkpointing=checkpointing, **where(attention)).train(training)
    ids, mask = random_rows(policy, [20, 20 if masked != "padded" else 15], 20)
    given = None if masked == "none" else mask.to(policy.device)
    select = torch.zeros_like(mask)
    select[:, 3] = True
    changed = ids.clone()
    changed[:, 13] = (ids[:, 13] + 1) % 90
    ids, changed, select = (t.to(policy.device) for t in (ids, changed, select))
    before = policy.logits(policy(ids, given, select))
    after = policy.logits(policy(changed, given, select))
    moved = (after - before).abs().amax(-1) / before.std()
    assert (moved > 1e-2).all()  # each row's early prediction hears of its late token
    for parameter in policy.parameters():
        parameter.grad = None
    policy(ids, given, select).sum().backward()
    gradient = policy.causal_lm.model.embed_tokens.weight.grad
    late = ids[0, 13]
    assert (ids[:, :4] != late).all()
    assert gradient[late].abs().sum() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_no_switch_to_causal_attention_is_left_on(name: str) -> None:
    model = small_policy(name).causal_lm
    assert model.config.is_causal is False
    flags = [module.is_causal for module in model.modules() if hasattr(module, "is_causal")]
    assert flags == [False] * 3


@pytest.mark.parametrize("name", FAMILIES)
def test_back_ends_agree_with_and_without_a_mask(name: str) -> None:
    results = []
    for attention in ("sdpa", "eager"):
        policy = small_policy(name, attention=attention)
        ids, mask = random_rows(policy, [20, 20], 20)
        results += [logits(policy, ids, None), logits(policy, ids, mask)]
        # the same with a mask that is really built: one more column, hidden
        wider, hidden = random_rows(policy, [20, 20], 21)
        wider[:, :20] = ids
        results.append(logits(policy, wider, hidden)[:, :20])
    scale = results[0].std()
    for other in results[1:]:
        assert (other - results[0]).abs().max() / scale < 1e-5
    assert torch.equal(results[0], results[1])  # an all-true mask takes the path without one


# -- padding and batch size -----------------------------------------------------------------------------------------


def largest_change(policy: Policy) -> tuple[float, float]:
    """(largest change of any real logit between a padded batch of 8 and each row alone, largest logit)."""
    lengths = [31, 5, 18, 24, 9, 31, 12, 27]
    ids, mask = random_rows(policy, lengths, 31)
    together = logits(policy, ids, mask)
    worst = 0.0
    for row, length in enumerate(lengths):
        alone = logits(policy, ids[row : row + 1, :length], None)
        wider = torch.full((1, length + 7), policy.mask_id)  # what stands in the padding is nobody's business
        wider[0, :length] = ids[row, :length]
        padded = logits(policy, wider, torch.arange(length + 7)[None] < length)[:, :length]
        worst = max(worst, *(float((x[0] - together[row, :length]).abs().max()) for x in (alone, padded)))
    return worst, float(together[mask].abs().max())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
def test_padding_and_batch_size_change_no_logit(name: str, attention: str) -> None:
    """float32, compared with the largest logit; and what stands in the padding changes not one bit."""
    policy = small_policy(name, std=0.08, attention=attention)
    change, largest = largest_change(policy)
    assert largest > 1.0
    assert change < 1e-6 * largest
    ids, mask = random_rows(policy, [20, 13], 24)
    other = torch.where(mask, ids, policy.mask_id)
    assert torch.equal(logits(policy, ids, mask)[mask], logits(policy, other, mask)[mask])


def test_padding_and_batch_size_change_no_logit_of_the_tiny_model() -> None:
    change, _ = largest_change(build_tiny(std=0.02))
    assert change < 1e-6  # absolute, at the spread of weights that LLaDA starts from
    change, largest = largest_change(build_tiny())
    assert change < 1e-6 * largest


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_only_rows_stay_finite(attention: str) -> None:
    policy = small_policy("llada", attention=attention)  # ranks fill up with zero-loss forwards
    ids, mask = random_rows(policy, [6, 0], 6)
    assert logits(policy, ids, mask).isfinite().all()


def test_rows_beyond_the_positions_are_refused() -> None:
    policy = build_tiny(d_model=16, layers=1, heads=2, max_length=12)
    ids = torch.zeros(1, 13, dtype=torch.long)
    with pytest.raises(ModelError, match=r"13 tokens exceed the model's 12 positions"):
        policy(ids, None, ids.bool())


# -- which state predicts which token -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_selected_rows_and_the_logit_shift(name: str) -> None:
    policy = small_policy(name)
    ids, mask = random_rows(policy, [20, 13, 16], 20)
    with torch.no_grad():
        whole = policy.causal_lm(input_ids=ids, attention_mask=mask, use_cache=False, is_causal=False).logits
        if name == "dream":  # position i is predicted one to the left, position 0 by itself
            whole = torch.cat([whole[:, :1], whole[:, :-1]], dim=1)
        select = (torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < 0.4) & mask
        select[0, 0] = select[1, 1] = True
        hidden = policy(ids, mask, select)
        chosen = policy.logits(hidden)
    assert hidden.shape == (int(select.sum()), 48)
    assert chosen.dtype == torch.float32
    # Heads over few rows and over all of them sum in another order; a shift of one place would differ by about 1.
    assert (chosen - whole[select]).abs().max() / whole.std() < 1e-5
    assert policy.logits(policy(ids, mask, torch.zeros_like(mask))).shape == (0, policy.vocab_size)


def test_the_shift_is_what_the_table_says() -> None:
    assert {name: family.logit_shift for name, family in FAMILIES.items()} == {"llada": 0, "dream": 1, "a2d_qwen3": 0}


# -- gradients, dropout, precision ----------------------------------------------------------------------------------


def gradients(policy: Policy) -> dict[str, torch.Tensor]:
    policy.zero_grad()
    ids, mask = random_rows(policy, [20, 13], 20)
    states = policy(ids, mask, mask)
    torch.log_softmax(policy.logits(states), -1)[:, 7].sum().backward()
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LoraSpec(r=3, alpha=6)])
@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_checkpointing_gives_the_same_gradients(
    name: str, lora: LoraSpec | None, dtype: str, tmp_path: Path
) -> None:
    write_small(name, tmp_path)
    plain = load_policy(tmp_path, lora=lora, dtype=dtype)
    saving = load_policy(tmp_path, lora=lora, dtype=dtype, gradient_checkpointing=True)
    calls: list[int] = []
    saving.causal_lm.model.layers[1].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    expected, found = gradients(plain), gradients(saving)
    assert len(calls) == 2  # the layer really ran again in the backward pass
    assert expected.keys() == found.keys()
    assert len(expected) == sum(p.requires_grad for p in plain.parameters())
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_scores_with_and_without_gradient_are_the_same_bits(name: str, dtype: str, tmp_path: Path) -> None:
    write_small(name, tmp_path)
    policy = load_policy(tmp_path, lora=LoraSpec(r=3, alpha=6), dtype=dtype, gradient_checkpointing=True)
    ids, mask = random_rows(policy, [20, 13], 20)
    with_gradient = all_logits(policy, ids, mask)
    assert with_gradient.requires_grad
    assert torch.equal(with_gradient.detach(), logits(policy, ids, mask))
    assert torch.equal(with_gradient.detach(), logits(policy.eval(), ids, mask))


@pytest.mark.parametrize("name", FAMILIES)
def test_dropout_in_a_config_is_removed(name: str, tmp_path: Path) -> None:
    write_small(name, tmp_path, attention_dropout=0.1)
    assert '"attention_dropout": 0.1' in (tmp_path / "config.json").read_text()
    policy = load_policy(tmp_path, lora=LoraSpec(r=3, alpha=6), attention="eager")
    ids, mask = random_rows(policy, [20, 13], 20)
    assert torch.equal(logits(policy.train(), ids, mask), logits(policy.eval(), ids, mask))
    assert all(layer.self_attn.attention_dropout == 0.0 for layer in policy.causal_lm.model.layers)


def test_dropout_of_a_saved_adapter_is_removed(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = write_small("llada", tmp_path / "base")
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], lora_dropout=0.5, init_lora_weights=False)
    get_peft_model(small_policy("llada").causal_lm, config).save_pretrained(str(tmp_path / "adapter"))
    policy = load_policy(base, adapter=tmp_path / "adapter")
    ids, mask = random_rows(policy, [20, 13], 20)
    assert torch.equal(logits(policy.train(), ids, mask), logits(policy.eval(), ids, mask))
    assert not torch.equal(logits(policy, ids, mask), logits(small_policy("llada"), ids, mask))


def test_remove_dropout_finds_layers_and_attributes() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Sequential(torch.nn.Dropout1d(0.2)))
    model.register_module("attention", torch.nn.MultiheadAttention(4, 2, dropout=0.4))
    remove_dropout(model)
    assert (model[0].p, model[1][0].p, model.attention.dropout) == (0.0, 0.0, 0.0)  # pyright: ignore


def test_padding_embedding_of_full_fine_tuning_learns() -> None:
    policy = small_policy("llada")  # end of sequence and padding are one id, and it is a token to learn
    ids = torch.full((1, 4), policy.pad_id)
    policy(ids, None, torch.ones_like(ids, dtype=torch.bool)).sum().backward()
    assert policy.causal_lm.model.embed_tokens.weight.grad[policy.pad_id].abs().sum() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_holds_frozen_weights_small_and_trained_ones_in_float32(name: str, tmp_path: Path) -> None:
    write_small(name, tmp_path)
    exact = load_policy(tmp_path)
    adapted = load_policy(tmp_path, dtype="bfloat16", lora=LoraSpec(r=3, alpha=6))
    full = load_policy(tmp_path, dtype="bfloat16")
    frozen = load_policy(tmp_path, dtype="bfloat16", trainable=False)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in adapted.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in full.parameters()} == {torch.float32}
    assert {p.dtype for p in frozen.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in frozen.parameters())
    ids, mask = random_rows(exact, [20, 13], 20)
    expected = logits(exact, ids, mask)
    for policy in (adapted, full, frozen):
        found = logits(policy, ids, mask)
        assert found.dtype == torch.float32
        difference = (found - expected)[mask].pow(2).mean().sqrt() / expected.std()
        assert 1e-4 < difference < 0.05  # computed in bfloat16, and right
    assert all(g.dtype == torch.float32 and g.abs().sum() > 0 for n, g in gradients(adapted).items() if "lora_B" in n)


# -- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype 'float16' is unknown"),
        ({"attention": "flex"}, "choose one of sdpa, eager, flash_attention_2"),
        ({"quantization": "int8"}, "choose none or nf4"),
    ],
)
def test_unknown_options(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        load_policy(tmp_path, **options)


def test_flash_attention_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: False)
    with pytest.raises(ModelError, match=r"needs a CUDA device and the flash-attn package"):
        build_decoder(LLADA, SMALL["llada"], "config.json", attention="flash_attention_2")


def test_four_bit_without_bitsandbytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small("llada", tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(ModelError, match=r"needs bitsandbytes, which is not installed: pip install"):
        load_policy(tmp_path, quantization="nf4", lora=LoraSpec())


@pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="needs the extra 'quant'")
@pytest.mark.parametrize("name", FAMILIES)
def test_four_bit_base_with_an_adapter(name: str, tmp_path: Path) -> None:
    wide = (
        {"d_model": 128, "mlp_hidden_size": 256} if name == "llada" else {"hidden_size": 128, "intermediate_size": 256}
    )
    write_small(name, tmp_path, **wide)
    exact = load_policy(tmp_path).causal_lm.model.layers[0].mlp.up_proj.weight
    policy = load_policy(tmp_path, quantization="nf4", lora=LoraSpec(r=3, alpha=6))
    layer = policy.causal_lm.model.layers[0].mlp.up_proj.base_layer
    assert layer.weight.dtype == torch.uint8
    found = layer(torch.eye(128)).T
    assert 0.01 < (found - exact).pow(2).mean().sqrt() / exact.std() < 0.15  # rounding to 16 levels
    trained = gradients(policy)
    assert len(trained) == 42
    assert all(gradient.isfinite().all() for gradient in trained.values())
    with pytest.raises(ModelError, match=r"use save_adapter"):
        save_policy(policy, tmp_path / "full")
    with pytest.raises(ModelError, match=r"set model\.lora as well"):
        load_policy(tmp_path, quantization="nf4")


def test_importing_the_room_is_light() -> None:
    code = "import rollouts.models, rollouts.tiny, sys; print('transformers' in sys.modules, 'peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("lora", [None, LoraSpec(r=4, alpha=8)])
def test_a_hollow_policy_has_every_name_and_no_weight(lora: LoraSpec | None, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model")
    whole, hollow = (load_policy(folder, lora=lora, hollow=hollow) for hollow in (False, True))
    for (name, real), (same, empty) in zip(whole.named_parameters(), hollow.named_parameters(), strict=True):
        assert (name, real.shape, real.dtype, real.requires_grad) == (
            same,
            empty.shape,
            empty.dtype,
            empty.requires_grad,
        )
        adapter = ".lora_" in name
        assert bool(empty.isnan().all()) == (not adapter)
        assert empty.untyped_storage().nbytes() <= (real.nbytes if adapter else 4)
    assert (hollow.vocab_size, hollow.mask_id, hollow.device) == (whole.vocab_size, whole.mask_id, whole.device)
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        load_policy(folder, lora=lora, hollow=True)

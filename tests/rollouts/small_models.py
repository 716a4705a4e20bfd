"""Small random checkpoints of every family: official config.json and tensor names, a character tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rollouts.checkpoints import save_policy
from rollouts.decoders import build_decoder
from rollouts.families import A2D_QWEN3, DREAM, FAMILIES, LLADA, Family
from rollouts.policy import Policy
from rollouts.tiny import character_tokenizer
from rollouts.tokens import special_ids

VOCABULARY = 120  # more rows than the tokenizer has tokens, as published checkpoints have

# config.json of LLaDA-8B, the fields that matter.
LLADA_8B: dict[str, Any] = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "activation_type": "silu",
    "alibi": False,
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 4096,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "multi_query_attention": None,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "vocab_size": 126464,
    "weight_tying": False,
}

DREAM_7B: dict[str, Any] = {
    "model_type": "Dream",
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "pad_token_id": 151643,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}

A2D_06B: dict[str, Any] = {
    "model_type": "a2d-qwen3",
    "architectures": ["A2DQwen3LMHeadModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

_QWEN_SMALL = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": VOCABULARY,
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    LLADA.name: {
        **LLADA_8B, "d_model": 48, "mlp_hidden_size": 64, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2,
        "max_sequence_length": 64, "vocab_size": VOCABULARY, "embedding_size": VOCABULARY,
    },
    DREAM.name: {**DREAM_7B, **_QWEN_SMALL},
    A2D_QWEN3.name: {**A2D_06B, **_QWEN_SMALL, "head_dim": 16},
}  # fmt: skip


def small_policy(name: str, *, attention: str = "sdpa", seed: int = 0, std: float = 0.15, **changes: Any) -> Policy:
    """A random three-layer policy with grouped-query attention; `changes` override the official config."""
    family: Family = FAMILIES[name]
    tokenizer = character_tokenizer(chat=name == "llada")
    config = {**SMALL[name], **changes}
    config.update(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id, mask_token_id=tokenizer.mask_token_id
    )
    with torch.random.fork_rng(devices=[]):
        model = build_decoder(family, config, "config.json", attention=attention, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too, so that a swapped pair would show
            noise = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
            parameter.copy_(noise if parameter.ndim > 1 else 1.0 + noise)
    ids = special_ids(family, config, tokenizer, model.config.vocab_size, "config.json")
    return Policy(model, tokenizer, family, ids, config, torch.float32).train()


def write_small(name: str, folder: Path, **changes: Any) -> Path:
    """Write such a policy as a checkpoint and return its folder."""
    save_policy(small_policy(name, **changes), folder)
    return folder


def random_rows(policy: Policy, lengths: list[int], width: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of random real tokens, right-padded: (input_ids int64 [n, width], attention_mask bool [n, width])."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 90, (len(lengths), width), generator=generator)
    mask = torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]
    return torch.where(mask, ids, policy.pad_id), mask


def all_logits(policy: Policy, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """float32 [n, S, V] at every position."""
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    return policy.logits(policy(ids, mask, everywhere)).reshape(*ids.shape, -1)


def logits(policy: Policy, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The same without autograd."""
    with torch.no_grad():
        return all_logits(policy, ids, mask)

"""What LLaDA's published code makes of a checkpoint folder, restated from its facts: defaults of its configuration, module names,
shapes, and the forward pass. The code itself is not here, and was not run: it needs transformers 4.

Facts: `configuration_llada.py` and `modeling_llada.py` of the published checkpoints. The configuration takes its defaults from a
GPT-2 like table, so a config.json that leaves a key out means the default below, not LLaDA's value. `AutoModel` builds the modules
named here and loads tensors of the same names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

# Every key of the published table that decides about the network.
DEFAULTS: dict[str, Any] = {
    "d_model": 768,
    "n_heads": 12,
    "n_kv_heads": None,
    "n_layers": 12,
    "mlp_ratio": 4,
    "mlp_hidden_size": None,
    "activation_type": "swiglu",
    "block_type": "sequential",
    "block_group_size": 1,
    "alibi": False,
    "rope": False,
    "rope_full_precision": True,
    "rope_theta": 10000.0,
    "attention_dropout": 0.1,
    "residual_dropout": 0.1,
    "embedding_dropout": 0.1,
    "multi_query_attention": None,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "layer_norm_type": "default",
    "layer_norm_with_affine": True,
    "rms_norm_eps": 1e-5,
    "max_sequence_length": 1024,
    "include_qkv_bias": False,
    "include_bias": False,
    "bias_for_layer_norm": None,
    "scale_logits": False,
    "vocab_size": 50257,
    "embedding_size": 50304,
    "weight_tying": True,
    "eos_token_id": 50256,
    "pad_token_id": 50256,
    "mask_token_id": 50256,
}


def published_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json as the published configuration class reads it; raises ValueError where that or the model would."""
    read = {key: config.get(key, default) for key, default in DEFAULTS.items()}
    heads, kv_heads, single = read["n_heads"], read["n_kv_heads"], read["multi_query_attention"]
    if kv_heads is None:
        kv_heads = 1 if single else heads
    elif single is not None and kv_heads != (1 if single else heads):
        raise ValueError("n_kv_heads and multi_query_attention at the same time")
    if read["embedding_size"] is not None and read["embedding_size"] < read["vocab_size"]:
        raise ValueError("embedding size smaller than the vocabulary")
    if read["include_qkv_bias"] is None:
        raise ValueError("include_bias | None: the published code adds the two flags")
    if not read["rope"] or read["alibi"]:
        raise ValueError("the diffusion model asks for rope without alibi")
    return {**read, "n_kv_heads": kv_heads, "rows": read["embedding_size"] or read["vocab_size"]}


def published_tensors(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """Name and shape of every tensor that the published model of this config.json has."""
    read = published_config(config)
    assert (read["block_type"], read["layer_norm_type"], read["include_bias"]) == ("llama", "rms", False)
    width, rows = read["d_model"], read["rows"]
    hidden = read["mlp_hidden_size"] or read["mlp_ratio"] * width
    kv = read["n_kv_heads"] * (width // read["n_heads"])
    tensors = {"model.transformer.wte.weight": [rows, width], "model.transformer.ln_f.weight": [width]}
    if not read["weight_tying"]:
        tensors["model.transformer.ff_out.weight"] = [rows, width]
    for i in range(read["n_layers"]):
        block = f"model.transformer.blocks.{i}"
        tensors |= {
            f"{block}.attn_norm.weight": [width],
            f"{block}.ff_norm.weight": [width],
            f"{block}.q_proj.weight": [width, width],
            f"{block}.k_proj.weight": [kv, width],
            f"{block}.v_proj.weight": [kv, width],
            f"{block}.attn_out.weight": [width, width],
            f"{block}.ff_proj.weight": [hidden, width],
            f"{block}.up_proj.weight": [hidden, width],
            f"{block}.ff_out.weight": [width, hidden],
        }
    return tensors


class _Norm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class _Block(nn.Module):
    def __init__(self, read: Mapping[str, Any]) -> None:
        super().__init__()
        width, hidden = read["d_model"], read["mlp_hidden_size"] or read["mlp_ratio"] * read["d_model"]
        self.heads, self.kv_heads, self.theta = read["n_heads"], read["n_kv_heads"], read["rope_theta"]
        self.size = width // self.heads
        self.attn_norm, self.ff_norm = _Norm(width, read["rms_norm_eps"]), _Norm(width, read["rms_norm_eps"])
        self.q_proj, self.attn_out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, self.kv_heads * self.size, bias=False)
        self.v_proj = nn.Linear(width, self.kv_heads * self.size, bias=False)
        self.ff_proj, self.up_proj = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.ff_out = nn.Linear(hidden, width, bias=False)

    def _rotated(self, x: torch.Tensor) -> torch.Tensor:
        frequency = self.theta ** (-torch.arange(0, self.size, 2).float() / self.size)
        angle = torch.outer(torch.arange(x.shape[-2]).float(), frequency).repeat(1, 2)
        first, second = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.attn_norm(x)
        q, k, v = (
            layer(normed).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        share = self.heads // self.kv_heads
        k, v = (one.repeat_interleave(share, dim=1) for one in (self._rotated(k), v))
        weights = (self._rotated(q) @ k.transpose(-1, -2) / math.sqrt(self.size)).softmax(-1)
        x = x + self.attn_out((weights @ v).transpose(1, 2).flatten(2))
        normed = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(normed)) * self.up_proj(normed))


class PublishedLLaDA(nn.Module):
    """The published module tree for a config.json, float32, untied; `forward` gives logits [n, S, V]."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        read = published_config(config)
        assert not read["weight_tying"]
        parts = {
            "wte": nn.Embedding(read["rows"], read["d_model"]),
            "blocks": nn.ModuleList(_Block(read) for _ in range(read["n_layers"])),
            "ln_f": _Norm(read["d_model"], read["rms_norm_eps"]),
            "ff_out": nn.Linear(read["d_model"], read["rows"], bias=False),
        }
        self.config = SimpleNamespace(model_type="llada", tie_word_embeddings=False)  # what PEFT asks for
        self.model = nn.Module()
        self.model.transformer = nn.ModuleDict(parts)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        parts = self.model.get_submodule("transformer")
        x = parts.get_submodule("wte")(input_ids)
        for block in parts.get_submodule("blocks").children():
            x = block(x)
        return parts.get_submodule("ff_out")(parts.get_submodule("ln_f")(x))

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **_: Any) -> dict[str, Any]:
        """The published class has one, and PEFT asks for it."""
        return {"input_ids": input_ids}

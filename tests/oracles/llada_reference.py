"""A slow, plain LLaDA forward pass, written from the published facts, on official tensor names.

Facts (config.json, tensor list and paper of LLaDA-8B): pre-norm blocks; RMS norm computed in float32, cast back, then
scaled by its weight; rotary embedding on half-split pairs with float32 angles, queries and keys rotated in float32
and cast back; full attention among real tokens, scaled by 1/sqrt(head size); MLP down(silu(gate) * up); untied head.
No transformers, no fused attention, one head at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    scale = 1.0 / torch.sqrt((wide * wide).mean(dim=-1, keepdim=True) + eps)
    return (wide * scale).to(x.dtype) * weight


def rotate(x: torch.Tensor, theta: float, dtype: torch.dtype) -> torch.Tensor:
    """Rotate [S, head size] by its row index; component k is paired with component k + head size / 2."""
    rows, size = x.shape
    half = size // 2
    out = torch.empty(rows, size, dtype=dtype)
    frequency = torch.tensor([theta ** (-2.0 * k / size) for k in range(half)], dtype=torch.float32)
    angle = torch.arange(rows, dtype=torch.float32)[:, None] * frequency[None, :]
    cos, sin = torch.cos(angle).to(dtype), torch.sin(angle).to(dtype)
    first, second = x[:, :half].to(dtype), x[:, half:].to(dtype)
    out[:, :half] = first * cos - second * sin
    out[:, half:] = second * cos + first * sin
    return out.to(x.dtype)


def attention(
    x: torch.Tensor,
    real: torch.Tensor,
    weights: Mapping[str, torch.Tensor],
    block: str,
    config: Mapping[str, Any],
    rope: torch.dtype,
) -> torch.Tensor:
    """One row [S, d]; `real` bool [S] says which keys may be looked at."""
    heads, kv_heads = config["n_heads"], config.get("n_kv_heads") or config["n_heads"]
    size = config["d_model"] // heads
    q, k, v = (x @ weights[f"{block}.{name}.weight"].T for name in ("q_proj", "k_proj", "v_proj"))
    outputs = []
    for h in range(heads):
        g = h // (heads // kv_heads)
        query = rotate(q[:, h * size : (h + 1) * size], config["rope_theta"], rope)
        key = rotate(k[:, g * size : (g + 1) * size], config["rope_theta"], rope)
        value = v[:, g * size : (g + 1) * size]
        scores = (query.float() @ key.float().T) / math.sqrt(size)
        scores = scores.masked_fill(~real[None, :], float("-inf"))
        probabilities = torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
        outputs.append((probabilities @ value.float()).to(x.dtype))
    return torch.cat(outputs, dim=-1) @ weights[f"{block}.attn_out.weight"].T


def mlp(x: torch.Tensor, weights: Mapping[str, torch.Tensor], block: str) -> torch.Tensor:
    gate = x @ weights[f"{block}.ff_proj.weight"].T
    up = x @ weights[f"{block}.up_proj.weight"].T
    silu = (gate.float() / (1.0 + torch.exp(-gate.float()))).to(x.dtype)
    return (silu * up) @ weights[f"{block}.ff_out.weight"].T


def llada_logits(
    weights: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    rope: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Logits [n, S, V] of the network whose official tensors are `weights`, in the dtype of the weights.

    `rope` is the dtype in which queries and keys are rotated; the published code uses float32.
    """
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask
    eps = config["rms_norm_eps"]
    rows = []
    for row, keys in zip(input_ids, real, strict=True):
        x = weights["model.transformer.wte.weight"][row]
        for i in range(config["n_layers"]):
            block = f"model.transformer.blocks.{i}"
            normed = rms_norm(x, weights[f"{block}.attn_norm.weight"], eps)
            x = x + attention(normed, keys, weights, block, config, rope)
            x = x + mlp(rms_norm(x, weights[f"{block}.ff_norm.weight"], eps), weights, block)
        x = rms_norm(x, weights["model.transformer.ln_f.weight"], eps)
        rows.append(x @ weights["model.transformer.ff_out.weight"].T)
    return torch.stack(rows)

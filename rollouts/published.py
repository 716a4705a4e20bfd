"""Sizes of published checkpoints, as their own config.json states them: for plans where the Hub is out of reach.

Facts of the published configs (LLaDA: arXiv 2502.09992; Dream: arXiv 2508.15487; DiffuCoder: arXiv 2506.20639). Only what decides
sizes and positions is here; a run always reads the checkpoint's own file.
"""

from typing import Any

_LLADA_8B = {
    "model_type": "llada",
    "d_model": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 32,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "max_sequence_length": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "weight_tying": False,
}
_QWEN25_7B = {
    "model_type": "Dream",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
}
_QWEN3_06B = {
    "model_type": "a2d-qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "GSAI-ML/LLaDA-8B-Base": _LLADA_8B,
    "GSAI-ML/LLaDA-8B-Instruct": _LLADA_8B,
    "GSAI-ML/LLaDA-1.5": _LLADA_8B,
    "Dream-org/Dream-v0-Base-7B": _QWEN25_7B,
    "Dream-org/Dream-v0-Instruct-7B": _QWEN25_7B,
    "apple/DiffuCoder-7B-Base": _QWEN25_7B,
    "apple/DiffuCoder-7B-Instruct": _QWEN25_7B,
    "apple/DiffuCoder-7B-cpGRPO": _QWEN25_7B,
    "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1": _QWEN3_06B,
    "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1": _QWEN3_06B,
}

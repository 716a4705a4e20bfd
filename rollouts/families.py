"""The table of model families: what is peculiar to each, so that nothing else needs to know.

Every family here is one of transformers' own decoders with the causal mask taken away. A row of the table says how a
checkpoint announces itself, how its `config.json` and tensor names translate to transformers and back, which ids are
special, which position's state predicts a token, which modules LoRA adapts, and how a chat is written.

Sources: the published checkpoints' `config.json`, tensor lists and tokenizers (LLaDA, arXiv 2502.09992; Dream,
arXiv 2508.15487; DiffuCoder, arXiv 2506.20639; the A2D-Qwen3 checkpoints of dllm).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class ModelError(ValueError):
    """A model, checkpoint or adapter cannot be used. The message says what, where, and what to do."""


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Attributes:
        name: the name used in recipes (`model.family`).
        model_types: values of `model_type` in `config.json` that belong to this family.
        architecture: class in transformers that holds the weights.
        config_class: its configuration class.
        official_type: `model_type` written at export.
        official_architecture: `architectures` entry written at export.
        to_transformers: official config -> keyword arguments of `config_class`; takes (config, where).
        to_official: (keyword arguments of `config_class`) -> official config; inverse of `to_transformers` on the
            fields that define the network.
        modules: (official, transformers) module names, `{i}` for the layer; empty when the names are the same.
        mask_tokens, end_tokens, header_tokens: spellings in the tokenizer of the mask, of whatever ends an answer,
            and of chat markup that never belongs inside an answer.
        mask_id, end_ids: ids in the published vocabulary, used when neither config.json nor the tokenizer says.
        logit_shift: 0 when the state at position i predicts token i; 1 when the state at i-1 does.
        rope_fp32: rotate queries and keys in float32 under bfloat16 compute, as the published LLaDA code does and
            transformers' Llama does not. Measured on random networks (8 layers, width 512, 256 to 512 positions): the
            two bfloat16 logits differ by 1.6 % of the logits' standard deviation (root mean square), no more than
            either differs from float32 (1.46 % with this, 1.49 % without; with attention sharpened threefold 49 %
            against 53 %). So it is a small gain, taken because it is what the checkpoints were trained with. The Qwen
            families were trained with rotations in the model's dtype, and keep them.
        lora_targets: the linear layers adapted by `targets: auto`, in transformers' names.
        lora_per_layer: how many modules per decoder layer those targets must match.
        chat_template: Jinja; used when `chat_pinned`, or when the tokenizer brings none of its own.
        chat_pinned: the template above replaces the one shipped with the tokenizer.
    """

    name: str
    model_types: tuple[str, ...]
    architecture: str
    config_class: str
    official_type: str
    official_architecture: str
    to_transformers: Callable[[Mapping[str, Any], str], dict[str, Any]]
    to_official: Callable[[Mapping[str, Any]], dict[str, Any]]
    modules: tuple[tuple[str, str], ...]
    mask_tokens: tuple[str, ...]
    end_tokens: tuple[str, ...]
    header_tokens: tuple[str, ...]
    mask_id: int
    end_ids: tuple[int, ...]
    logit_shift: int
    rope_fp32: bool
    lora_targets: tuple[str, ...]
    lora_per_layer: int
    chat_template: str
    chat_pinned: bool

    def module_map(self, layers: int) -> dict[str, str]:
        """Official module name -> transformers module name for a model of `layers` layers; empty when equal."""
        pairs: dict[str, str] = {}
        for official, ours in self.modules:
            for i in range(layers) if "{i}" in official else (0,):
                pairs[official.format(i=i)] = ours.format(i=i)
        return pairs

    def tensor_names(self, names: Iterable[str], layers: int) -> dict[str, str]:
        """transformers tensor names -> official tensor names, for a model of `layers` layers.

        Raises:
            ModelError: a name has no official counterpart.
        """
        if not self.modules:
            return {name: name for name in names}
        official = {ours: theirs for theirs, ours in self.module_map(layers).items()}
        result: dict[str, str] = {}
        for name in names:
            module, _, leaf = name.rpartition(".")
            if module not in official:
                raise ModelError(f"family {self.name}: tensor {name} has no name in the official checkpoint format")
            result[name] = f"{official[module]}.{leaf}"
        return result


# -- LLaDA ---------------------------------------------------------------------------------------------------------

# Fields of the official config that choose another network than the one every published LLaDA checkpoint uses.
# A checkpoint that sets one of them differently would load without complaint and compute nonsense.
_LLADA_REQUIRED: dict[str, tuple[Any, ...]] = {
    "block_type": ("llama",),
    "block_group_size": (1,),
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "rope": (True,),
    "alibi": (False,),
    "attention_layer_norm": (False,),
    "include_bias": (False,),
    "include_qkv_bias": (False, None),
    "bias_for_layer_norm": (False, None),
    "input_emb_norm": (False,),
    "scale_logits": (False,),
}

_LLADA_MODULES = (
    ("model.transformer.wte", "model.embed_tokens"),
    ("model.transformer.blocks.{i}.attn_norm", "model.layers.{i}.input_layernorm"),
    ("model.transformer.blocks.{i}.q_proj", "model.layers.{i}.self_attn.q_proj"),
    ("model.transformer.blocks.{i}.k_proj", "model.layers.{i}.self_attn.k_proj"),
    ("model.transformer.blocks.{i}.v_proj", "model.layers.{i}.self_attn.v_proj"),
    ("model.transformer.blocks.{i}.attn_out", "model.layers.{i}.self_attn.o_proj"),
    ("model.transformer.blocks.{i}.ff_norm", "model.layers.{i}.post_attention_layernorm"),
    ("model.transformer.blocks.{i}.ff_proj", "model.layers.{i}.mlp.gate_proj"),
    ("model.transformer.blocks.{i}.up_proj", "model.layers.{i}.mlp.up_proj"),
    # Two different tensors are called ff_out: inside a block it is the MLP's way down, outside it is the head.
    ("model.transformer.blocks.{i}.ff_out", "model.layers.{i}.mlp.down_proj"),
    ("model.transformer.ln_f", "model.norm"),
    ("model.transformer.ff_out", "lm_head"),
)


def _llada_to_transformers(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    wrong = [
        f"{key} = {config[key]!r} (supported: {', '.join(repr(v) for v in allowed)})"
        for key, allowed in _LLADA_REQUIRED.items()
        if key in config and config[key] not in allowed
    ]
    if wrong:
        raise ModelError(
            f"{where}: not the published LLaDA network: {'; '.join(wrong)}. This variant is not supported."
        )
    _require(config, ("d_model", "n_layers", "n_heads", "vocab_size", "max_sequence_length"), where)
    width, heads = config["d_model"], config["n_heads"]
    kv_heads = config.get("n_kv_heads") or (1 if config.get("multi_query_attention") else heads)
    return {
        # The embedding may have more rows than the vocabulary has tokens; the rows beyond it are never sampled.
        "vocab_size": config.get("embedding_size") or config["vocab_size"],
        "hidden_size": width,
        "intermediate_size": config.get("mlp_hidden_size") or config.get("mlp_ratio", 4) * width,
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width // heads,
        "max_position_embeddings": config["max_sequence_length"],
        "rms_norm_eps": config.get("rms_norm_eps", 1e-5),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(config.get("rope_theta", 10000.0))},
        "tie_word_embeddings": bool(config.get("weight_tying", False)),
        "initializer_range": config.get("init_std", 0.02),
        "attention_dropout": config.get("attention_dropout", 0.0),
    }


def _llada_to_official(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: allowed[0] for key, allowed in _LLADA_REQUIRED.items()},
        "vocab_size": config["vocab_size"],
        "embedding_size": config["vocab_size"],
        "d_model": config["hidden_size"],
        "mlp_hidden_size": config["intermediate_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "max_sequence_length": config["max_position_embeddings"],
        "rms_norm_eps": config["rms_norm_eps"],
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "rope_full_precision": True,
        "weight_tying": config["tie_word_embeddings"],
        "init_std": config["initializer_range"],
        "attention_dropout": config["attention_dropout"],
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
    }


# The published template with two departures: the assistant header is written only when a generation is asked for,
# and contents are not stripped, so that a rendered prefix always is a prefix of the rendered whole.
_LLADA_CHAT = (
    "{{ '<|startoftext|>' }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


# -- Qwen decoders -------------------------------------------------------------------------------------------------

_QWEN_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "initializer_range",
    "attention_dropout",
)
_QWEN_REQUIRED = _QWEN_FIELDS[:6] + ("max_position_embeddings",)


def _qwen_to_transformers(config: Mapping[str, Any], where: str, extra: tuple[str, ...] = ()) -> dict[str, Any]:
    _require(config, _QWEN_REQUIRED, where)
    if config.get("use_sliding_window"):
        raise ModelError(
            f"{where}: use_sliding_window = true is not supported; diffusion models attend to every token."
        )
    fields = {key: config[key] for key in (*_QWEN_FIELDS, *extra) if config.get(key) is not None}
    # transformers 5 writes rope_parameters; older checkpoints carry rope_theta and rope_scaling.
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_type", rope.pop("type", "default"))
    rope.setdefault("rope_theta", float(config.get("rope_theta", 10000.0)))
    return {**fields, "rope_parameters": rope, "use_sliding_window": False}


def _qwen_to_official(config: Mapping[str, Any], extra: tuple[str, ...] = ()) -> dict[str, Any]:
    rope = dict(config["rope_parameters"])
    fields = {key: config[key] for key in (*_QWEN_FIELDS, *extra)}
    scaled = rope.get("rope_type", "default") != "default"
    return {**fields, "rope_theta": rope["rope_theta"], "rope_scaling": rope if scaled else None}


def _dream_to_transformers(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    return _qwen_to_transformers(config, where)


def _dream_to_official(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**_qwen_to_official(config), "use_sliding_window": False}


def _a2d_to_transformers(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    return _qwen_to_transformers(config, where, ("head_dim", "attention_bias"))


def _a2d_to_official(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**_qwen_to_official(config, ("head_dim", "attention_bias")), "use_sliding_window": False}


def _require(config: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    missing = [key for key in keys if config.get(key) is None]
    if missing:
        raise ModelError(f"{where}: missing {', '.join(missing)}; take config.json from the published checkpoint.")


_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

LLADA = Family(
    name="llada",
    model_types=("llada",),
    architecture="LlamaForCausalLM",
    config_class="LlamaConfig",
    official_type="llada",
    official_architecture="LLaDAModelLM",
    to_transformers=_llada_to_transformers,
    to_official=_llada_to_official,
    modules=_LLADA_MODULES,
    mask_tokens=("<|mdm_mask|>",),
    end_tokens=("<|endoftext|>", "<|eot_id|>"),
    header_tokens=("<|start_header_id|>", "<|end_header_id|>"),
    mask_id=126336,
    end_ids=(126081, 126348),
    logit_shift=0,
    rope_fp32=True,
    lora_targets=_PROJECTIONS,
    lora_per_layer=7,
    chat_template=_LLADA_CHAT,
    chat_pinned=True,
)

DREAM = Family(
    name="dream",
    model_types=("Dream", "dream"),
    architecture="Qwen2ForCausalLM",
    config_class="Qwen2Config",
    official_type="Dream",
    official_architecture="DreamModel",
    to_transformers=_dream_to_transformers,
    to_official=_dream_to_official,
    modules=(),
    mask_tokens=("<|mask|>",),
    end_tokens=("<|endoftext|>", "<|im_end|>"),
    header_tokens=("<|im_start|>",),
    mask_id=151666,
    end_ids=(151643, 151645),
    logit_shift=1,
    rope_fp32=False,
    lora_targets=_PROJECTIONS,
    lora_per_layer=7,
    chat_template=_CHATML,
    chat_pinned=False,
)

A2D_QWEN3 = Family(
    name="a2d_qwen3",
    model_types=("a2d-qwen3", "a2d_qwen3"),
    architecture="Qwen3ForCausalLM",
    config_class="Qwen3Config",
    official_type="a2d-qwen3",
    official_architecture="A2DQwen3LMHeadModel",
    to_transformers=_a2d_to_transformers,
    to_official=_a2d_to_official,
    modules=(),
    mask_tokens=("<|mask|>",),
    end_tokens=("<|endoftext|>", "<|im_end|>"),
    header_tokens=("<|im_start|>",),
    mask_id=151669,
    end_ids=(151643, 151645),
    logit_shift=0,
    rope_fp32=False,
    lora_targets=_PROJECTIONS,
    lora_per_layer=7,
    chat_template=_CHATML,
    chat_pinned=False,
)

FAMILIES: dict[str, Family] = {family.name: family for family in (LLADA, DREAM, A2D_QWEN3)}

# Names that stand for a small random model made on the spot (`rollouts.tiny.make`): the quickstart's, and one per family.
TINY = "tiny"
MADE = (TINY, *(f"{TINY}-{name}" for name in FAMILIES))


def find_family(config: Mapping[str, Any], where: str, name: str = "auto") -> Family:
    """The family of a checkpoint, from `model_type` in its config, or by name.

    Args:
        config: the parsed `config.json`.
        where: its path, for messages.
        name: a key of `FAMILIES`, or "auto".

    Raises:
        ModelError: no such family, or a `model_type` that no family claims.
    """
    if name != "auto":
        if name not in FAMILIES:
            near = difflib.get_close_matches(name, FAMILIES, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ModelError(f"model family {name!r} is unknown. Known: auto, {', '.join(FAMILIES)}.{hint}")
        return FAMILIES[name]
    found = config.get("model_type")
    for family in FAMILIES.values():
        if found in family.model_types:
            return family
    known = "; ".join(f"{f.name} (model_type {' or '.join(f.model_types)})" for f in FAMILIES.values())
    raise ModelError(
        f"{where}: model_type {found!r} belongs to no known family of diffusion language models. Known families: "
        f"{known}. Set model.family if the checkpoint is one of these under another name."
    )

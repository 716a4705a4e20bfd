"""A small LLaDA-family model and a character tokenizer, built in-process: for the quickstart and the tests.

It is an ordinary member of the family: official config and tensor names, saved and loaded like the 8B checkpoints.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import torch
from torch import nn

from rollouts.decoders import build_decoder
from rollouts.families import LLADA, ModelError
from rollouts.models import Policy
from rollouts.tokens import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ALPHABET = string.digits + string.ascii_letters + " \n" + string.punctuation
EOS, EOT, MASK, UNKNOWN = "<|endoftext|>", "<|eot_id|>", "<|mdm_mask|>", "<unk>"
CHAT = ("<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>")
# Rows are about a hundred positions long: slow rotations would tell none of them apart. The spread of the initial
# weights is about half of 1/sqrt(width); LLaDA's 0.02 belongs to a width of thousands and costs a small model its first
# hundred steps.
ROPE_THETA = 100.0
INIT_STD = 0.05


def character_tokenizer(alphabet: str = ALPHABET, *, chat: bool = False) -> PreTrainedTokenizerFast:
    """One token per character. Ids: the alphabet in its order, then end (also padding), end of turn, mask, unknown.

    Args:
        alphabet: distinct characters; any other becomes `<unk>`, which no policy samples.
        chat: add the markup of LLaDA's chat template, and the template.

    Raises:
        ModelError: an empty alphabet, or a character twice.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if not alphabet or len(set(alphabet)) != len(alphabet):
        raise ModelError("the alphabet of a character tokenizer must hold distinct characters, at least one.")
    special = (EOS, EOT, MASK, UNKNOWN, *(CHAT if chat else ()))
    vocabulary = {token: i for i, token in enumerate((*alphabet, *special))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    inner.add_special_tokens(list(special))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=EOS,
        pad_token=EOS,
        mask_token=MASK,
        unk_token=UNKNOWN,
        additional_special_tokens=[token for token in special if token not in (EOS, MASK, UNKNOWN)],
        clean_up_tokenization_spaces=False,
    )
    if chat:
        tokenizer.chat_template = LLADA.chat_template
    return tokenizer


def build_tiny(
    seed: int = 0,
    *,
    d_model: int = 128,
    layers: int = 4,
    heads: int = 4,
    ff: int | None = None,
    alphabet: str = ALPHABET,
    max_length: int = 128,
    chat: bool = False,
    rope_theta: float = ROPE_THETA,
    std: float = INIT_STD,
) -> Policy:
    """A randomly initialised LLaDA-family policy, trainable, float32, on the CPU; 0.8M parameters by default.

    Args:
        seed: stream of the weights; the global generator is not touched.
        d_model, layers, heads: width, depth, attention heads; d_model / heads must be even (rotary pairs).
        ff: hidden width of the MLP; default 8/3 of d_model, rounded up to a multiple of 8.
        alphabet: characters the tokenizer knows.
        max_length: positions.
        chat: give the tokenizer LLaDA's chat markup and template.
        rope_theta: base of the rotary frequencies; the published 500000 is made for thousands of positions.
        std: standard deviation of the initial matrices.

    Raises:
        ModelError: sizes that make no model.
    """
    if d_model % heads or (d_model // heads) % 2:
        raise ModelError(f"d_model {d_model} over {heads} heads gives no even head size; choose another number.")
    tokenizer = character_tokenizer(alphabet, chat=chat)
    fields = {
        "vocab_size": len(tokenizer),
        "hidden_size": d_model,
        "intermediate_size": ff or -(-8 * d_model // 24) * 8,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": max_length,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
        "tie_word_embeddings": False,
        "initializer_range": std,
        "attention_dropout": 0.0,
    }
    vocabulary = tokenizer.get_vocab()
    config = {
        "model_type": LLADA.official_type,
        "architectures": [LLADA.official_architecture],
        **LLADA.to_official(fields),
        "mask_token_id": vocabulary[MASK],
        "eos_token_id": vocabulary[EOS],
        "eot_token_id": vocabulary[EOT],
        "pad_token_id": vocabulary[EOS],
    }
    with torch.random.fork_rng(devices=[]):  # building draws from the global stream; what it draws is replaced
        model = build_decoder(LLADA, config, "build_tiny", device="cpu")
    initialise(model, seed, std)
    ids = special_ids(LLADA, config, tokenizer, len(tokenizer), "build_tiny")
    return Policy(model, tokenizer, LLADA, ids, config, torch.float32).train()


@torch.no_grad()
def initialise(model: nn.Module, seed: int, std: float = INIT_STD) -> None:
    """Draw every matrix from N(0, std^2) with a generator of its own; norms become 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)

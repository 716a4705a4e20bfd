"""Small random models and a character tokenizer, built in-process: for the quickstart, for `--toy` and for the tests.

Each is an ordinary member of its family: official config and tensor names, saved and loaded like the 8B checkpoints.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import torch
from torch import nn

from rollouts.decoders import build_decoder
from rollouts.families import FAMILIES, LLADA, TINY, Family, ModelError
from rollouts.policy import Policy
from rollouts.tokens import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ALPHABET = string.digits + string.ascii_letters + " \n" + string.punctuation
UNKNOWN = "<unk>"
START = "<|startoftext|>"  # opens LLaDA's chat template, beside the family's header tokens
TOY_POSITIONS = 8192  # one token a character: room for prompts of several pages
# Rows are about a hundred positions long: slow rotations would tell none of them apart. The spread of the initial
# weights is about half of 1/sqrt(width); LLaDA's 0.02 belongs to a width of thousands and costs a small model its first
# hundred steps.
ROPE_THETA = 100.0
INIT_STD = 0.05


def character_tokenizer(
    alphabet: str = ALPHABET, *, chat: bool = False, family: Family = LLADA
) -> PreTrainedTokenizerFast:
    """One token per character. Ids: the alphabet in its order, then end (also padding), end of turn, mask, unknown.

    Args:
        alphabet: distinct characters; any other becomes `<unk>`, which no policy samples.
        chat: add the markup of the family's chat template, and the template.
        family: whose spellings the special tokens have.

    Raises:
        ModelError: an empty alphabet, or a character twice.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if not alphabet or len(set(alphabet)) != len(alphabet):
        raise ModelError("the alphabet of a character tokenizer must hold distinct characters, at least one.")
    eos, mask = family.end_tokens[0], family.mask_tokens[0]
    markup = (START, *family.header_tokens) if family is LLADA else family.header_tokens
    special = (*family.end_tokens, mask, UNKNOWN, *(markup if chat else ()))
    vocabulary = {token: i for i, token in enumerate((*alphabet, *special))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    inner.add_special_tokens(list(special))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=eos,
        pad_token=eos,
        mask_token=mask,
        unk_token=UNKNOWN,
        additional_special_tokens=[token for token in special if token not in (eos, mask, UNKNOWN)],
        clean_up_tokenization_spaces=False,
    )
    if chat:
        tokenizer.chat_template = family.chat_template
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
    family: Family = LLADA,
) -> Policy:
    """A randomly initialised policy, trainable, float32, on the CPU; 0.8M parameters by default.

    Args:
        seed: stream of the weights; the global generator is not touched.
        d_model, layers, heads: width, depth, attention heads; d_model / heads must be even (rotary pairs).
        ff: hidden width of the MLP; default 8/3 of d_model, rounded up to a multiple of 8.
        alphabet: characters the tokenizer knows.
        max_length: positions.
        chat: give the tokenizer the family's chat markup and template.
        rope_theta: base of the rotary frequencies; the published 500000 is made for thousands of positions.
        std: standard deviation of the initial matrices.
        family: which network and tensor names.

    Raises:
        ModelError: sizes that make no model.
    """
    if d_model % heads or (d_model // heads) % 2:
        raise ModelError(f"d_model {d_model} over {heads} heads gives no even head size; choose another number.")
    tokenizer = character_tokenizer(alphabet, chat=chat, family=family)
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
        # what only the Qwen decoders read
        "hidden_act": "silu",
        "head_dim": d_model // heads,
        "attention_bias": False,
    }
    ends = [tokenizer.get_vocab()[token] for token in family.end_tokens]
    config = {
        "model_type": family.official_type,
        "architectures": [family.official_architecture],
        **family.to_official(fields),
        "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": ends[0],
        **({"eot_token_id": ends[1]} if family is LLADA else {}),
        "pad_token_id": ends[0],
    }
    with torch.random.fork_rng(devices=[]):  # building draws from the global stream; what it draws is replaced
        model = build_decoder(family, config, "build_tiny", device="cpu")
    initialise(model, seed, std)
    ids = special_ids(family, config, tokenizer, len(tokenizer), "build_tiny")
    return Policy(model, tokenizer, family, ids, config, torch.float32).train()


def make(name: str, seed: int = 0) -> Policy:
    """The model that a name of `rollouts.families.MADE` stands for: the quickstart's, or a toy of a family.

    A toy has two layers of width 64, the family's chat markup and 8192 positions: small enough for any laptop, with room for prompts of
    real data at one token a character. What it writes is random.
    """
    if name == TINY:
        return build_tiny(seed)
    family = FAMILIES[name.removeprefix(f"{TINY}-")]
    return build_tiny(
        seed, family=family, chat=True, d_model=64, layers=2, heads=2, max_length=TOY_POSITIONS, rope_theta=10_000.0
    )


@torch.no_grad()
def initialise(model: nn.Module, seed: int, std: float = INIT_STD) -> None:
    """Draw every matrix from N(0, std^2) with a generator of its own; norms become 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)

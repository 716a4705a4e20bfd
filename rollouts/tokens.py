"""Tokenizers of the families, and which token ids mean something."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollouts.families import Family, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class SpecialIds:
    """Token ids with a meaning. `forbidden` are never sampled; `eos` end an answer and may be sampled."""

    mask: int
    eos: tuple[int, ...]
    pad: int
    forbidden: tuple[int, ...]


def load_tokenizer(folder: Path, family: Family) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer, from its data files alone, with the family's chat template where one applies.

    Raises:
        ModelError: no tokenizer files that can be read without running code.
    """
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    if (folder / "tokenizer.json").is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    elif family.architecture.startswith("Qwen") and (folder / "vocab.json").is_file():
        tokenizer = Qwen2Tokenizer.from_pretrained(str(folder))  # Dream ships vocab.json and merges.txt only
    else:
        raise ModelError(f"{folder}: no tokenizer.json; copy the tokenizer files of the published checkpoint there.")
    vocabulary = tokenizer.get_vocab()
    if (family.chat_pinned or not tokenizer.chat_template) and all(t in vocabulary for t in family.header_tokens):
        tokenizer.chat_template = family.chat_template
    return tokenizer  # pyright: ignore[reportReturnType]


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a tokenizer so that transformers 4, which the published modelling code needs, reads it as well as 5 does."""
    tokenizer.save_pretrained(str(folder))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":  # the name of version 5 for what both call this
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in ("backend", "is_local", "local_files_only"):
        config.pop(key, None)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def special_ids(
    family: Family, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, vocab_size: int, where: str
) -> SpecialIds:
    """Special ids of a checkpoint: what config.json says, else the tokenizer, else the published numbers.

    Raises:
        ModelError: no mask or end token, or an id outside the vocabulary.
    """
    vocabulary = tokenizer.get_vocab()

    def spelled(tokens: Iterable[str]) -> list[int]:
        return [vocabulary[token] for token in tokens if token in vocabulary]

    def listed(value: Any) -> list[int]:
        return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]

    published = [family.mask_id] if family.mask_id < vocab_size else []
    own = listed(tokenizer.mask_token_id)
    masks = listed(config.get("mask_token_id")) or own or spelled(family.mask_tokens) or published
    if not masks:
        raise ModelError(f"{where}: no mask token; set mask_token_id in config.json.")
    eos = listed(config.get("eos_token_id")) + listed(config.get("eot_token_id")) + spelled(family.end_tokens)
    eos = list(dict.fromkeys(eos)) or [i for i in family.end_ids if i < vocab_size]
    if not eos:
        raise ModelError(f"{where}: no end-of-sequence token; set eos_token_id in config.json.")
    pad = (listed(config.get("pad_token_id")) or eos)[0]
    outside = [i for i in (masks[0], *eos, pad) if not 0 <= i < vocab_size]
    if outside or masks[0] in eos:
        raise ModelError(
            f"{where}: mask_token_id {masks[0]}, eos_token_id {eos}, pad_token_id {pad} do not fit a vocabulary of "
            f"{vocab_size} rows in which the mask is a token of its own."
        )
    unused = set(range(vocab_size)).difference(vocabulary.values())
    unknown = spelled([str(tokenizer.unk_token)])
    never = {masks[0], pad, *spelled(family.header_tokens), *unknown, *unused} - set(eos)
    return SpecialIds(masks[0], tuple(eos), pad, tuple(sorted(never)))

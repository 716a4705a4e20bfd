"""The tiny model and its character tokenizer."""

from __future__ import annotations

import pytest
import torch

from rollouts.families import ModelError
from rollouts.tiny import ALPHABET, build_tiny, character_tokenizer


def test_default_size_and_ids() -> None:
    policy = build_tiny()
    assert sum(p.numel() for p in policy.parameters()) == pytest.approx(0.8e6, rel=0.05)
    assert policy.vocab_size == len(policy.tokenizer) == len(ALPHABET) + 4
    assert policy.pad_id == policy.eos_ids[0] == policy.tokenizer.eos_token_id
    assert len(policy.eos_ids) == 2
    assert policy.mask_id in policy.forbidden_ids
    assert not set(policy.eos_ids) & set(policy.forbidden_ids)
    assert policy.max_length == 128
    assert policy.config["model_type"] == "llada"
    assert policy.config["mask_token_id"] == policy.mask_id


def test_weights_depend_on_the_seed_alone_and_leave_the_global_stream() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = build_tiny(7, d_model=32, layers=1, heads=2)
    assert torch.equal(torch.rand(3), expected)
    second, other = (build_tiny(seed, d_model=32, layers=1, heads=2) for seed in (7, 8))
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_tokenizer_round_trip() -> None:
    tokenizer = character_tokenizer()
    text = "12 + 3 = 15\nDon't  stop, (ever)! \n"
    ids = tokenizer(text).input_ids
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    with_special = tokenizer("1<|mdm_mask|>2<|endoftext|>").input_ids
    assert len(with_special) == 4
    assert tokenizer.decode(with_special, skip_special_tokens=True) == "12"
    assert tokenizer("é").input_ids == [tokenizer.unk_token_id]


def test_own_alphabet_and_chat_markup() -> None:
    policy = build_tiny(alphabet="1234. ", d_model=16, layers=1, heads=2, chat=True)
    assert policy.vocab_size == 6 + 4 + 3
    text = policy.tokenizer.apply_chat_template([{"role": "1", "content": "2"}], tokenize=False)
    assert text == "<|startoftext|><|start_header_id|>1<|end_header_id|>\n\n2<|eot_id|>"
    vocabulary = policy.tokenizer.get_vocab()
    assert {vocabulary["<|start_header_id|>"], vocabulary["<|end_header_id|>"]} <= set(policy.forbidden_ids)
    assert character_tokenizer().chat_template is None


@pytest.mark.parametrize("arguments", [{"d_model": 30, "heads": 4}, {"d_model": 12, "heads": 4}, {"alphabet": "aab"}])
def test_impossible_sizes(arguments: dict) -> None:
    with pytest.raises(ModelError):
        build_tiny(layers=1, **arguments)

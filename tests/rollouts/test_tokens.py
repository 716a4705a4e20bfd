"""Tokenizers, chat templates and special ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rollouts.checkpoints import save_policy
from rollouts.families import DREAM, LLADA, ModelError
from rollouts.models import load_policy
from rollouts.tiny import character_tokenizer
from rollouts.tokens import special_ids
from tests.rollouts.small_models import DREAM_7B, LLADA_8B, VOCABULARY, small_policy, write_small


def test_llada_chat_template_gives_pinned_ids(tmp_path: Path) -> None:
    """The template's pieces in their order; the stand-in tokenizer has LLaDA's special tokens at small ids."""
    policy = small_policy("llada")
    policy.tokenizer.chat_template = "{{ 'whatever was shipped' }}"
    save_policy(policy, tmp_path)
    tokenizer = load_policy(tmp_path).tokenizer
    special = {t: tokenizer.convert_tokens_to_ids(t) for t in (
        "<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")}  # fmt: skip
    assert special == {"<|startoftext|>": 100, "<|start_header_id|>": 101, "<|end_header_id|>": 102, "<|eot_id|>": 97}
    messages = [{"role": "system", "content": "ab"}, {"role": "user", "content": " 7\n"}]
    u, s, e, r, y, t, m = (tokenizer.convert_tokens_to_ids(c) for c in "userytm")
    a, b, i, n, newline, space = (tokenizer.convert_tokens_to_ids(c) for c in "abin\n ")
    system = [101, s, y, s, t, e, m, 102, newline, newline, a, b, 97]
    user = [101, u, s, e, r, 102, newline, newline, space, 7, newline, 97]
    assistant = [101, a, s, s, i, s, t, a, n, t, 102, newline, newline]
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert whole == [100, *system, *user, *assistant]
    assert tokenizer.apply_chat_template(messages, return_dict=False) == [100, *system, *user]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert isinstance(text, str)
    assert tokenizer(text, add_special_tokens=False).input_ids == [100, *system, *user, *assistant]


def test_qwen_families_keep_their_own_template_or_fall_back_on_chatml(tmp_path: Path) -> None:
    policy = small_policy("dream")
    policy.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path)
    message = [{"role": "user", "content": "1"}]
    text = loaded.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n"
    assert loaded.tokenizer.convert_tokens_to_ids("<|im_start|>") in loaded.forbidden_ids
    assert loaded.tokenizer.convert_tokens_to_ids("<|im_end|>") in loaded.eos_ids
    policy.tokenizer.chat_template = "own"
    save_policy(policy, tmp_path)
    assert load_policy(tmp_path).tokenizer.chat_template == "own"


def test_dream_tokenizer_without_a_tokenizer_json(tmp_path: Path) -> None:
    write_small("dream", tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    tokens = ["a", "b", "Ġ", "ab", "<|endoftext|>", "<|mask|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    config = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "tokenization_dream.py").write_text("raise SystemExit('code of a checkpoint was run')")
    policy = load_policy(tmp_path)
    assert policy.tokenizer("ab b").input_ids == [3, 2, 1]


def test_forbidden_ids() -> None:
    policy = small_policy("llada")
    vocabulary = policy.tokenizer.get_vocab()
    never = {vocabulary[t] for t in ("<|mdm_mask|>", "<unk>", "<|start_header_id|>", "<|end_header_id|>")}
    assert set(policy.forbidden_ids) == never | set(range(len(policy.tokenizer), VOCABULARY))
    assert policy.eos_ids == (vocabulary["<|endoftext|>"], vocabulary["<|eot_id|>"])


def test_special_ids_come_from_config_then_tokenizer_then_publication() -> None:
    tokenizer = character_tokenizer()
    ids = special_ids(LLADA, {"mask_token_id": 5, "eos_token_id": [7, 8], "pad_token_id": 9}, tokenizer, 110, "c")
    assert (ids.mask, ids.pad) == (5, 9)
    assert ids.eos[:2] == (7, 8)
    ids = special_ids(LLADA, {}, tokenizer, 110, "c")
    assert ids.mask == tokenizer.mask_token_id
    assert ids.pad == ids.eos[0] == tokenizer.eos_token_id

    class Nameless:  # a tokenizer that knows no special token, as some published ones do not declare theirs
        mask_token_id = unk_token = None

        def get_vocab(self) -> dict[str, int]:
            return {str(i): i for i in range(126349)}

    published = special_ids(LLADA, LLADA_8B, Nameless(), 126464, "c")  # pyright: ignore
    assert published.mask == 126336
    assert published.eos == (126081,)
    assert set(range(126349, 126464)) | {126336} == set(published.forbidden)
    assert special_ids(DREAM, DREAM_7B, Nameless(), 152064, "c").mask == 151666  # pyright: ignore
    assert special_ids(LLADA, {}, Nameless(), 126464, "c").eos == (126081, 126348)  # pyright: ignore
    with pytest.raises(ModelError, match=r"mask_token_id 200"):
        special_ids(LLADA, {"mask_token_id": 200}, tokenizer, 110, "c")
    with pytest.raises(ModelError, match=r"no mask token"):
        special_ids(LLADA, {}, Nameless(), 110, "c")  # pyright: ignore

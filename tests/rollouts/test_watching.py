"""Being watched changes nothing: `on_step` sees the record as it grows, and rollouts keep their streams in any company."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rollouts.checkpoints import save_adapter
from rollouts.denoise import Record
from rollouts.engine import generate
from rollouts.families import ModelError
from rollouts.lora import LoraSpec
from rollouts.models import load_policy
from rollouts.spec import SamplerSpec
from rollouts.tokens import save_tokenizer
from rollouts.trajectory import RolloutBatch
from tests.oracles.training import SPEC, lora_policy, tiny_folder, tiny_policy
from tests.rollouts.small_models import small_policy

PROMPTS = [[1, 2, 4], [5, 6, 7, 8], [2], [3, 1]]


def rollouts(policy, **options) -> RolloutBatch:
    prompts = options.pop("prompts", PROMPTS)
    ids = range(len(prompts))
    return generate(
        policy, prompts, options.pop("spec", SPEC), seed=3, step=0, group_ids=ids, prompt_ids=ids, **options
    )


@pytest.mark.parametrize("selection", ["confidence", "random", "max_prob"])
def test_on_step_sees_every_step_and_changes_no_draw(selection: str) -> None:
    policy, spec = tiny_policy(), SPEC.model_copy(update={"selection": selection})
    seen: list[tuple[int, int]] = []

    def watch(record: Record, step: int) -> None:
        hidden = record.reveal_step == spec.steps
        assert bool((record.tokens[hidden] == policy.mask_id).all())
        seen.append((step, int(hidden.sum())))

    batch = rollouts(policy, spec=spec, on_step=watch)
    alone = rollouts(policy, spec=spec)
    assert torch.equal(batch.tokens, alone.tokens)
    assert torch.equal(batch.reveal_step, alone.reveal_step)
    assert torch.equal(batch.sampler_logprob, alone.sampler_logprob)
    steps, hidden = zip(*seen, strict=True)
    assert list(steps) == sorted(set(steps))
    assert list(hidden) == sorted(hidden, reverse=True)
    assert hidden[-1] == int((batch.reveal_step == spec.steps).sum())


def test_a_rollout_made_alone_is_the_one_among_many() -> None:
    policy = tiny_policy()
    together = rollouts(policy)
    for i, prompt in enumerate(PROMPTS):
        alone = rollouts(policy, prompts=[prompt], first_rollout=i)
        assert alone.rollout_id.tolist() == [i]
        on, among = alone.canvas_mask[0], together.canvas_mask[i]
        assert torch.equal(alone.tokens[0][on], together.tokens[i][among])
        assert torch.equal(alone.reveal_step[0][on], together.reveal_step[i][among])


def test_a_spec_of_one_block_calls_once_a_step() -> None:
    seen: list[int] = []
    spec = SamplerSpec(canvas=8, block=8, steps=8, early_stop=False, eos="all")
    rollouts(tiny_policy(), spec=spec, on_step=lambda record, step: seen.append(step))
    assert seen == list(range(8))


# -- adapters and tokenizers, as exports need them ------------------------------------------------------------------


def test_an_adapter_of_another_size_is_refused(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    save_adapter(lora_policy(base), tmp_path / "adapter")
    wide = tiny_folder(tmp_path / "wide", d_model=48)
    with pytest.raises(
        ModelError, match=r"is \[4, \d+\], the model asks for \[4, \d+\]\): it was made for another model"
    ):
        load_policy(wide, adapter=tmp_path / "adapter")
    with pytest.raises(ModelError, match="disagrees with the adapter"):
        load_policy(base, adapter=tmp_path / "adapter", lora=LoraSpec(r=2))


@pytest.mark.parametrize("more", [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_that_is_more_than_b_times_a_is_refused(more: dict, tmp_path: Path) -> None:
    """A merge adds B A; what else such an adapter does would be lost without a word."""
    base = tiny_folder(tmp_path / "base")
    save_adapter(lora_policy(base), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    with pytest.raises(ModelError, match=f"only plain LoRA adapters are supported.*{next(iter(more))}"):
        load_policy(base, adapter=tmp_path / "adapter")


def test_tokenizers_are_written_for_transformers_4_and_5(tmp_path: Path) -> None:
    """Version 4, which the published modelling code needs, knows no TokenizersBackend and wants no list there."""
    from transformers import AutoTokenizer

    tokenizer = small_policy("llada").tokenizer
    save_tokenizer(tokenizer, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not isinstance(config.get("extra_special_tokens"), list)
    assert "<|eot_id|>" in config["additional_special_tokens"]
    again = AutoTokenizer.from_pretrained(str(tmp_path))
    assert again("12 a<|eot_id|>").input_ids == tokenizer("12 a<|eot_id|>").input_ids
    assert again.decode([1, again.mask_token_id], skip_special_tokens=True) == "1"
    assert again.chat_template == tokenizer.chat_template
    assert set(again.all_special_tokens) == set(tokenizer.all_special_tokens)

"""The real call, both ways: our rewards in a GRPOTrainer of TRL, which trains a step with them, and TRL's through ours."""

import functools
from pathlib import Path
from typing import Any

import pytest

from rewards import countdown, gsm8k, length
from rewards.contract import TrainerState, grade, load_rewards

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")
trl_rewards = pytest.importorskip("trl.rewards")

ROWS = [
    {"prompt": "two and two?", "answer": "#### 4", "numbers": [2, 2], "target": 4},
    {"prompt": "six by three?", "answer": "18", "numbers": [6, 3], "target": 18},
]
COMPLETIONS = ["<answer>2 + 2</answer>", "<answer>4</answer>", "<answer>6*3 = 18</answer>", "18 or so"]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """A trainer of TRL with a random two-layer model, one token a character, and three rewards of ours."""
    from datasets import Dataset
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = ["<pad>", "<eos>", *map(chr, range(32, 127))]
    plain = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    plain.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(letters), pad_token_id=0, eos_token_id=1, **sizes))
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=8,
        max_steps=1,
        use_cpu=True,
        bf16=False,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        reward_weights=[1.0, 1.0, 0.1],
    )
    short = functools.partial(length.shorter, limit=16)
    return trl.GRPOTrainer(
        model, [gsm8k.correct, countdown.correct, short], arguments, Dataset.from_list(ROWS), processing_class=tokenizer
    )


def test_a_step_of_their_trainer_with_our_rewards(trainer):
    trainer.train()
    (logged, *_) = trainer.state.log_history
    assert logged["rewards/shorter/mean"] == pytest.approx(1 - logged["completions/mean_length"] / 16, abs=1e-4)
    assert logged["rewards/correct/mean"] == 0.0  # random text
    assert logged["reward"] == pytest.approx(0.1 * logged["rewards/shorter/mean"], abs=1e-4)
    assert trainer.state.global_step == 1


def test_their_call_of_our_rewards_gives_our_scores(trainer):
    rows = [ROWS[0], ROWS[0], ROWS[1], ROWS[1]]
    prompts = [row["prompt"] for row in rows]
    ids = [trainer.processing_class(text)["input_ids"] for text in COMPLETIONS]
    theirs = trainer._calculate_rewards(rows, prompts, COMPLETIONS, ids)
    entries = ["gsm8k.correct", "countdown.correct", {"fn": "length.shorter", "kwargs": {"limit": 16}}]
    ours = grade(
        load_rewards(entries, base=Path(".")),
        prompts=prompts,
        completions=COMPLETIONS,
        completion_ids=ids,
        columns={name: [row[name] for row in rows] for name in ("answer", "numbers", "target")},
        trainer_state=TrainerState(),
    )
    for column, scores in enumerate(ours.components.values()):
        assert theirs[:, column].tolist() == pytest.approx(scores)
    # An unfinished sum is no number; 18 can be made of 6 and 3, and 4 of two twos.
    assert [scores[:2] for scores in theirs.tolist()] == [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]


def test_their_rewards_by_name_through_our_call():
    """As a recipe names them, on conversations, with kwargs, beside one of ours."""
    texts = ["<think>\nhalf\n</think>\n\\boxed{\\frac{2}{4}}", "<think>\nhalf\n</think>\n\\boxed{3}", "0.5"]
    entries = [
        "trl.rewards:accuracy_reward",
        "trl.rewards:think_format_reward",
        "trl.rewards:reasoning_accuracy_reward",
        {"fn": "math.correct", "name": "ours"},
        trl_rewards.get_soft_overlong_punishment(max_completion_len=10, soft_punish_cache=5),
    ]
    grades = grade(
        load_rewards(entries, base=Path(".")),
        prompts=[[{"role": "user", "content": "1/4 + 1/4?"}]] * 3,
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completion_ids=[[1] * 4, [1] * 7, [1] * 20],
        columns={"solution": [r"$\frac{1}{2}$"] * 3},
        trainer_state=TrainerState(),
    )
    assert grades.components["accuracy_reward"][:2] == [1.0, 0.0]
    assert grades.components["think_format_reward"] == [1.0, 1.0, 0.0]
    assert grades.components["reasoning_accuracy_reward"][:2] == [1.0, 0.0]
    assert grades.components["ours"] == [1.0, 0.0, 0.0]
    assert grades.components["soft_overlong_punishment_reward"] == pytest.approx([0.0, -0.4, -1.0])

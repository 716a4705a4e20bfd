"""The shipped LLaDA recipe at toy size: a random two-layer checkpoint in LLaDA's own format, real GSM8K rows, two updates."""

import json
import math
from pathlib import Path

import pytest
import torch

from rl.config import load_recipe
from rl.run import Run, read_jsonl
from rollouts.models import load_policy
from tests.oracles.runs import samples
from tests.oracles.toy_recipes import llada_checkpoint, local, train_small

RECIPE = "llada_8b_gsm8k_diffu_grpo"
GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"
REWARDS = ("correct", "format_tags", "format_soft", "format_strict", "format_integer")
PASSES, PROMPTS, GROUP, UPDATES = 12, 2, 3, 2
VIEWS = PROMPTS * GROUP * PASSES

needs_data = pytest.mark.skipif(not (GSM8K / "train.jsonl").is_file(), reason=f"shared data absent: {GSM8K}")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inclined to write fives and spaces: three rows of GSM8K in a row have the answer 5, so some texts are right."""
    return llada_checkpoint(tmp_path_factory.mktemp("llada"), "5 ", max_length=1100)


@pytest.fixture(scope="module")
def run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The recipe by its name, with overrides of size, place and precision only; the method stays as published."""
    overrides = {
        **local("data.train", GSM8K / "train.jsonl", "train[371:374]"),
        **local("data.eval", GSM8K / "test.jsonl"),
        "rollout.group_size": GROUP,
        "train.updates": UPDATES,
        "train.prompts_per_update": PROMPTS,
    }
    return train_small(RECIPE, checkpoint, tmp_path_factory.mktemp("run"), overrides)


@needs_data
@pytest.mark.timeout(120)
def test_two_updates_of_the_published_method(run: Run) -> None:
    assert [row["update"] for row in run.metrics] == [0, 1]
    # bfloat16, LoRA, gradient checkpointing: still exactly the same twice. Asserted when a run starts.
    assert [row.get("first_pass_gap") for row in run.metrics] == [0.0, None]
    for row in run.metrics:
        assert all(math.isfinite(value) for value in row.values())
        assert 0.5 < row["ratio"] < 1.5
        assert 0.0 <= row["clip_share"] < 0.5
        assert row["penalty"] >= 0.0
        assert "kl" not in row  # d1's term is on surrogate log-probabilities
        assert row["logprob"] < 0
        assert row["signal_share"] == 1.0  # under the penalty every row counts
        assert row["optim/changed_bf16"] >= 0
    assert 0 < run.metrics[0]["reward/gsm8k.correct"] < 1  # some right, some wrong: there is something to learn
    assert 0 < run.metrics[0]["penalty"] < 0.01  # zero in the first of twelve passes, and little moves at this rate
    rates = [row["optim/lr"] for row in run.metrics]  # means over twelve passes; warm-up of six optimizer steps
    assert rates == pytest.approx([3e-6 * (21 / 6 + 6) / 12, 3e-6])


@needs_data
def test_every_reward_has_its_columns(run: Run) -> None:
    for row in run.metrics:
        for name in REWARDS:
            assert 0.0 <= row[f"reward/gsm8k.{name}"] <= 1.0
        weighted = 2.0 * row["reward/gsm8k.correct"]
        weighted += sum(0.5 * row[f"reward/gsm8k.{name}"] for name in REWARDS[1:])
        assert row["reward"] == pytest.approx(weighted, abs=1e-6)
        assert row["outcome"] == row["reward/gsm8k.correct"]  # accuracy holds no format credit
        assert not any(name.startswith("dropped/") for name in row)
    assert run.summary["outcome"] == "gsm8k.correct"
    assert run.summary["accuracy_after"]["n"] == 2


@needs_data
def test_the_work_is_what_the_plan_says(run: Run) -> None:
    work = run.summary["forwards"]
    assert work["rollout"] <= UPDATES * PROMPTS * GROUP * 4
    # Each view is scored as reference and once with gradient, and as old in all passes but the first, which is its own (but for
    # the first update, which asserts that). A micro-batch without slope is not backwarded (at the start the penalty has none).
    assert work["train_forward"] == UPDATES * (2 * VIEWS + VIEWS * (PASSES - 1) // PASSES) + VIEWS // PASSES
    assert UPDATES * VIEWS * (PASSES - 1) // PASSES <= work["train_backward"] <= UPDATES * VIEWS
    from rl.method import forwards

    recipe = load_recipe(run.folder / "recipe.yaml")
    cost = forwards(recipe.method, recipe.rollout.sampler, GROUP, PROMPTS, recipe.train.micro_batch)
    assert (cost["old"], cost["reference"], cost["train"]) == (VIEWS * (PASSES - 1) // PASSES, VIEWS, VIEWS)


@needs_data
def test_the_folder_holds_the_published_choices_and_an_adapter(run: Run, checkpoint: Path) -> None:
    recipe = load_recipe(run.folder / "recipe.yaml")
    published = load_recipe(RECIPE)
    assert recipe.method == published.method
    assert recipe.optim == published.optim
    assert recipe.rewards == published.rewards
    assert recipe.model.lora == published.model.lora
    assert recipe.model.dtype == "bfloat16"
    assert recipe.model.gradient_checkpointing
    adapted = json.loads((run.folder / "adapter" / "adapter_config.json").read_text())
    assert sorted(adapted["target_modules"]) == ["k_proj", "q_proj", "up_proj", "v_proj"]
    assert (adapted["r"], adapted["lora_alpha"]) == (128, 64)
    trained = load_policy(checkpoint, adapter=run.folder / "adapter")
    moved = [p for name, p in trained.named_parameters() if ".lora_B." in name and bool(p.any())]
    assert len(moved) == 4 * 2
    assert all(bool(torch.isfinite(p).all()) for p in trained.parameters())


@needs_data
def test_prompts_are_real_and_in_the_published_layout(run: Run, checkpoint: Path) -> None:
    from rl.setup import set_up

    prompts = set_up(load_recipe(run.folder / "recipe.yaml")).train
    assert prompts is not None
    rows = read_jsonl(GSM8K / "train.jsonl")
    assert len(prompts) == 3
    for prompt, row in zip(prompts.prompts, rows[371:374], strict=True):
        assert prompt.columns["answer"] == row["answer"]
        assert row["question"] in prompt.text
        assert prompt.text.startswith("<|startoftext|><|start_header_id|>user<|end_header_id|>")
        assert prompt.text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
        assert "<reasoning>" in prompt.text
        assert isinstance(prompt.raw, str)
    sampled = samples(run)
    assert len(sampled) == UPDATES * 4
    assert all(len(row["tokens"]) == 16 for row in sampled)

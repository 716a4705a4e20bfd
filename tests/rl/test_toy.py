"""`--toy`: any recipe made small, with the same loading path, and nothing changed that is not printed."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rl.cli import app
from rl.config import Recipe, load_recipe
from rl.config_errors import RecipeErrors
from rl.presets import PRESETS
from rl.recipes import recipe_names
from rl.resume import differences
from rl.run import read_jsonl
from rl.toy import Change, describe, family_of, toy_overrides, toy_recipe
from rollouts.checkpoints import save_policy
from rollouts.families import FAMILIES
from rollouts.models import load_policy
from rollouts.tiny import make

GSM8K = [{"question": f"Two and {n}?", "answer": f"It is {n + 2}.\n#### {n + 2}"} for n in range(12)]
BASE: dict[str, Any] = {
    "model": {"path": "GSAI-ML/LLaDA-8B-Instruct"},
    "data": {"train": {"path": "owner/prompts"}},
    "rewards": [{"fn": "gsm8k.correct"}],
}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GSM8K))
    return "rows.jsonl"


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, list(args))


def changed(recipe: Recipe) -> dict[str, Any]:
    return {change.key: change.after for change in toy_overrides(recipe)}


def flat(data: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(data, dict) or not data:
        return {at: data}
    return {key: value for name, item in data.items() for key, value in flat(item, f"{at}.{name}".strip(".")).items()}


def test_stored_answers_have_room() -> None:
    """A toy has one token a character: a canvas of 16 would leave out every pair that people have."""
    full = load_recipe("llada_8b_vrpo", ["data.preferences.path=a/b"])
    assert changed(full)["rollout.canvas"] == 4 * full.rollout.canvas


@pytest.mark.parametrize("name", recipe_names())
def test_nothing_differs_but_what_is_listed(name: str) -> None:
    own = ["data.train.path=a/b", "data.eval.path=a/c"]  # some recipes name files that the user makes
    own = ["data.preferences.path=a/b"] if name == "llada_8b_vrpo" else own
    own += ["warm_start.data.path=a/b"] if name == "sudoku_4x4_tiny" else []
    full = load_recipe(name, own)
    small, changes = toy_recipe(name, own)
    before, after = flat(full.model_dump(mode="json")), flat(small.model_dump(mode="json"))
    differ = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    listed = {change.key.partition(".0.")[0] for change in changes}  # lists are compared whole
    # The sampler of the evaluation inherits from that of training.
    inherited = {key.replace("eval.sampler", "rollout") for key in differ}
    assert inherited - {"train.out"} == listed - {"train.out"}
    for change in changes:
        assert f"{change.key} " in describe(changes)
    assert small.method.preset == full.method.preset
    assert small.rollout.canvas <= 16 or name == "llada_8b_vrpo"  # which has to hold stored answers
    assert differences(full.model_dump()["rewards"], small.model_dump()["rewards"]) == []
    assert toy_overrides(small.model_copy(update={"train": small.train.model_copy(update={"out": None})})) == [
        Change("train.out", f"runs/{name}", f"runs/{name}-toy", "a folder of its own")
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_fits_a_toy(preset: str) -> None:
    """Steps to sub-sample and segments are cut to the steps there are; what cannot be is refused when it is read."""
    sampler = {"canvas": 256, "block": 32, "steps": 128}
    lora = {"model": {**BASE["model"], "lora": {}}}
    strategy = {"igpo": {"kind": "inpaint", "answer_after": "####"}, "mdpo": {"kind": "recorded"}}.get(preset)
    rollout = sampler if strategy is None else {**sampler, "strategy": strategy}
    small, _ = toy_recipe({**BASE, **lora, "method": {"preset": preset}, "rollout": rollout})
    assert (small.rollout.canvas, small.rollout.block, small.rollout.steps) == (16, 8, 8)


@pytest.mark.parametrize(
    ("recipe", "family", "markup"),
    [
        ("llada_8b_gsm8k_diffu_grpo", "llada", "<|start_header_id|>user"),
        ("dream_7b_gsm8k_diffu_grpo", "dream", "<|im_start|>user"),
    ],
)
def test_a_shipped_8b_recipe_on_own_rows(rows: str, recipe: str, family: str, markup: str) -> None:
    """Hub configuration and split names go with the data set that a file on the command line replaces."""
    own = [f"data.train.path={rows}", f"data.eval.path={rows}", "optim.lr=1e-3"]
    planned = invoke("train", recipe, *own, "--toy", "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert f"-> tiny-{family}" in planned.output
    assert markup in planned.output
    assert "data.train: 8 prompts" in planned.output
    assert not Path("runs").exists()
    started = time.perf_counter()
    result = invoke("train", recipe, *own, "--toy")
    assert result.exit_code == 0, result.output
    assert time.perf_counter() - started < 60
    folder = Path("runs") / f"{recipe}-toy"
    stated = load_recipe(folder / "recipe.yaml")
    assert stated.data.eval is not None
    assert (stated.data.eval.name, stated.data.eval.split) == (None, "train")
    assert stated.optim.lr == 1e-3
    assert len(read_jsonl(folder / "metrics.jsonl")) == 2
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    sampled = invoke("sample", str(folder), "x", "--json")
    assert sampled.exit_code == 0, sampled.output
    assert invoke("eval", str(folder)).exit_code == 0
    assert invoke("export", str(folder), "--out", "merged", "--merge").exit_code == 0
    assert load_policy("merged").family.name == family


def test_evaluation_at_toy_size(rows: str) -> None:
    own = [f"data.eval.path={rows}"]
    result = invoke("eval", "llada_8b_gsm8k_diffu_grpo", *own, "--toy")
    assert result.exit_code == 0, result.output
    assert "4 prompts of" in result.output
    refused = invoke("eval", "llada_8b_gsm8k_diffu_grpo", *own, "--toy", "--model", "tiny")
    assert refused.exit_code == 2
    assert "bring weights along" in refused.output


def test_diagnosis_and_pairs_at_toy_size(rows: str) -> None:
    own = [f"data.train.path={rows}"]
    made = invoke("pairs", "llada_8b_gsm8k_diffu_grpo", *own, "--toy", "--out", "pairs.jsonl")
    assert made.exit_code == 0, made.output
    assert "pairs of 8 prompts" in made.output
    measured = invoke("diagnose", "llada_8b_gsm8k_diffu_grpo", *own, "--toy", "--plans", "2", "--budget", "2")
    assert measured.exit_code == 0, measured.output
    assert Path("runs/llada_8b_gsm8k_diffu_grpo-toy-diagnose/diagnose.png").is_file()
    for command in (["pairs", "--out", "more.jsonl"], ["diagnose"]):
        refused = invoke(command[0], "llada_8b_gsm8k_diffu_grpo", *command[1:], "--toy", "--model", "tiny")
        assert refused.exit_code == 2
        assert "bring weights along" in refused.output


def test_what_the_caller_says_wins(rows: str) -> None:
    small, changes = toy_recipe(
        {**BASE, "eval": None}, ["train.updates=7", "rollout.group_size=3", "train={out: here}"]
    )
    assert (small.train.updates, small.rollout.group_size, small.train.out) == (100, 3, "here")
    assert not any(change.key.startswith("train.") for change in changes)


def test_what_needs_a_gpu_or_the_real_checkpoint_is_replaced() -> None:
    model = {
        "path": "owner/LLaDA-new",
        "dtype": "bfloat16",
        "attention": "flash_attention_2",
        "adapter": "owner/adapter",
        "quantization": "nf4",
    }
    small, _ = toy_recipe({**BASE, "model": model, "track": {"sinks": ["tensorboard"]}})
    assert small.model.path == "tiny-llada"
    assert (small.model.attention, small.model.adapter, small.model.quantization) == ("sdpa", None, "none")
    assert small.model.lora is not None
    assert small.model.dtype == "bfloat16"
    assert small.track.sinks == ()


def test_sampler_of_the_evaluation_and_step_counts() -> None:
    source = {
        **BASE,
        "data": {"train": {"path": "a/b"}, "eval": {"path": "a/c"}},
        "rollout": {"canvas": 256, "block": 32, "steps": 128},
        "eval": {"sampler": {"canvas": 512, "block": 64, "steps": 64}, "steps": [8, 64, 256], "n": 8},
    }
    small, _ = toy_recipe(source)
    assert small.eval is not None
    assert (small.eval.sampler.canvas, small.eval.sampler.block, small.eval.sampler.steps) == (16, 8, 2)
    assert small.eval.steps == (2, 8)
    assert small.eval.n == 2


def test_a_warm_start_keeps_room_for_completions(rows: str) -> None:
    """One token a character: the canvas grows by what a token of a real tokenizer stands for."""
    source = {
        **BASE,
        "rollout": {"canvas": 64, "block": 32, "steps": 64, "group_size": 2},
        "data": {"train": {"path": rows, "columns": {"prompt": "question"}}},
        "warm_start": {
            "data": {"path": rows, "columns": {"prompt": "question", "completion": "answer"}},
            "steps": 900,
            "batch": 64,
        },
        "train": {"updates": 1},
    }
    Path("recipe.yaml").write_text(json.dumps(source))
    result = invoke("sft", "recipe.yaml", "--toy")
    assert result.exit_code == 0, result.output
    assert "rollout.canvas" in result.output
    assert len(read_jsonl(Path("runs/recipe-toy/warm_start.jsonl"))) == 10
    assert load_recipe("runs/recipe-toy/recipe.yaml", command="sft").rollout.canvas == 256


@pytest.mark.parametrize("name", FAMILIES)
def test_the_toy_of_a_family_is_one_of_its_own(name: str, tmp_path: Path) -> None:
    policy = make(f"tiny-{name}", seed=3)
    save_policy(policy, tmp_path)
    again = load_policy(tmp_path)
    assert again.family.name == name
    assert (again.mask_id, again.eos_ids, again.forbidden_ids) == (policy.mask_id, policy.eos_ids, policy.forbidden_ids)
    assert len(again.eos_ids) == 2
    assert again.max_length == 8192
    text = again.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert isinstance(text, str)
    assert again.tokenizer.unk_token_id not in again.tokenizer(text, add_special_tokens=False)["input_ids"][-4:]


def test_families_by_name_by_folder_and_unknown(tmp_path: Path) -> None:
    def family(path: str, **more: Any) -> str:
        return family_of(load_recipe({**BASE, "model": {"path": path, **more}}).model)

    assert family("apple/DiffuCoder-7B-cpGRPO") == "dream"
    assert family("owner/unknown", family="a2d_qwen3") == "a2d_qwen3"
    save_policy(make("tiny-dream"), tmp_path)
    assert family(str(tmp_path)) == "dream"
    with pytest.raises(RecipeErrors, match="family of owner/unknown"):
        family("owner/unknown")

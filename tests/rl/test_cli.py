"""The command: exit codes, messages without tracebacks, dry runs, shipped recipes, and how quickly it answers."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rl.cli import app
from rl.recipes import recipe_folder, recipe_names

ROOT = Path(__file__).parents[2]
RECIPE = """\
# A small recipe.
model: {path: tiny}
data:
  train: {path: rows.jsonl, columns: {prompt: puzzle_text}}
rollout: {canvas: 16, block: 16, steps: 4, group_size: 2, early_stop: false, eos: all}
rewards: [{fn: sudoku.solved}]
train: {updates: 1, prompts_per_update: 2}
"""
ROW = {"puzzle_text": "3102200002100320=", "puzzle": "3102200002100320", "solution": "3142243142131324"}


def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "unmask.py"), *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def invoke(*args: str):
    return CliRunner().invoke(app, list(args))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a recipe and its rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, "puzzle_text": ""}) + "\n")
    return tmp_path


def test_help_answers_quickly():
    run("--help")  # compile once
    started = time.perf_counter()
    result = run("--help")
    assert time.perf_counter() - started < 5
    assert result.returncode == 0
    for word in ("train", "sft", "recipes", "quickstart"):
        assert word in result.stdout


def test_help_loads_nothing_heavy():
    heavy = ("torch", "transformers", "datasets", "pydantic", "rewards")
    code = f"import sys, rl.cli; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"


def test_version():
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.output.startswith("unmask ")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["train"], "RECIPE"),
        (["train", "recipe.yaml", "--dryrun"], "--dry-run"),
        (["trian"], "train"),
        (["train", "recip.yaml"], "did you mean"),
        (["train", "recipe.yaml", "rollout.stesp=3"], "did you mean rollout.steps?"),
        (["train", "recipe.yaml", "data.train.path=row.jsonl"], "did you mean rows.jsonl?"),
        (["sft", "recipe.yaml"], "warm_start"),
        (["recipes", "copy", "llada_8b_gsm8k_difu_grpo"], "did you mean llada_8b_gsm8k_diffu_grpo?"),
        (["quickstart", "--seed", "-1"], "--seed"),
    ],
)
def test_mistakes_end_with_2_and_no_traceback(folder, args, said):
    result = run(*args, cwd=folder)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_dry_run_shows_prompts_and_plan_and_starts_nothing(folder):
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({**ROW, "puzzle_text": text}) + "\n" for text in ("[b]1[/b]", "", "22"))
    )
    result = invoke("train", "recipe.yaml", "--dry-run", "method.preset=diffu_grpo", "model.lora.r=4")
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "[b]1[/b]" in output
    assert "token ids: [2, 2]" in output
    assert "data.train: 2 prompts" in output
    assert "dropped 1: empty prompt" in output
    assert "LoRA on 28 modules" in output
    # 2 prompts x 2 rollouts: 4 steps each; then 12 passes of one view each, for reference and new; the first needs no old one.
    assert "156 rows: 16 rollout, 44 old, 48 reference, 48 train" in output
    assert "4 views, about 64 rows scored" in output
    assert sorted(path.name for path in folder.iterdir()) == ["recipe.yaml", "rows.jsonl"]


def test_the_plan_of_a_checkpoint_reads_no_weights(folder):
    from rollouts.checkpoints import save_policy
    from rollouts.tiny import build_tiny

    save_policy(build_tiny(0, chat=True), folder / "model")
    result = invoke("train", "recipe.yaml", "--dry-run", "model.path=./model", "model.lora.r=2", "method.preset=raft")
    assert result.exit_code == 0, result.output
    assert "family llada" in result.output
    assert "<|start_header_id|>user" in result.output


def test_a_dry_run_collects_what_is_wrong_with_model_data_and_rewards(folder):
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "bert"}')
    (folder / "more.jsonl").write_text('{"prompt": "x"}\n')
    overrides = [
        "model.path=./model",
        "data.train.columns.prompt=puzle_text",
        "data.eval.path=more.jsonl",
        "eval.every=1",
    ]
    result = run("train", "recipe.yaml", "--dry-run", *overrides, cwd=folder)
    assert result.returncode == 2
    assert "3 problems" in result.stderr
    assert "data.eval: reward sudoku.solved needs a column 'puzzle'" in result.stderr
    assert "bert" in result.stderr
    assert "did you mean 'puzzle_text'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_dry_run_asks_a_silent_hub_once(folder, monkeypatch):
    """Its library would ask five times for every file, and say so each time: a minute for one model and two data sets."""
    from datasets import config
    from huggingface_hub import constants

    asked: list[int] = []
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("rl.doctor.hub_silence", lambda: asked.append(1) or "no network")
    assert invoke("train", "recipe.yaml", "--dry-run").exit_code == 0
    assert asked == []
    result = invoke("train", "recipe.yaml", "--dry-run", "model.path=some/model", "data.train.path=some/rows")
    assert (result.exit_code, asked) == (2, [1])
    assert "the Hub does not answer (no network): only what this machine holds is looked at" in result.output
    assert "2 problems" in result.output
    assert constants.HF_HUB_OFFLINE
    assert config.HF_HUB_OFFLINE


def test_columns_are_checked_where_the_canvas_or_the_prompts_do_not_fit(folder):
    for canvas in (128, 112):
        sizes = [f"rollout.canvas={canvas}", f"rollout.block={canvas}", f"rollout.steps={canvas}"]
        result = invoke(
            "train", "recipe.yaml", "--dry-run", *sizes, "data.train.columns={prompt: puzzle_text, x: puzzle}"
        )
        assert result.exit_code == 2
        assert "2 problems" in result.output
        assert "needs a column 'puzzle'" in result.output
        assert ("leaves no room" if canvas == 128 else "row 0 has 17 tokens") in result.output


def test_columns_are_checked_where_the_template_names_another(folder):
    """Both, in one go: with the model at hand, and where it is wrong, too."""
    (folder / "more.jsonl").write_text('{"question": "x"}\n')
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "bert"}')
    wrong = ["data.train.path=more.jsonl", "data.train.columns={}", "data.prompt.template='{qestion}'"]
    for model in ([], ["model.path=./model"]):
        result = invoke("train", "recipe.yaml", "--dry-run", *wrong, *model)
        assert result.exit_code == 2
        assert f"{2 + len(model)} problems" in result.output
        assert "did you mean 'question'?" in result.output
        assert "needs a column 'puzzle'" in result.output


def test_a_dry_run_tries_every_reward_on_a_wrong_completion(folder):
    (folder / "mine.py").write_text(
        "from rewards.contract import InfrastructureError\n\n"
        "def half(completions, **_):\n    return [0.5 for _ in completions]\n\n"
        "def down(completions, **_):\n    raise InfrastructureError('no judge')\n\n"
        "def other_task(completions, **_):\n    return [None for _ in completions]\n"
    )
    rewards = "[{fn: 'mine.py:half'}, {fn: 'mine.py:down'}, {fn: 'mine.py:other_task'}, {fn: sudoku.solved}]"
    result = invoke("train", "recipe.yaml", "--dry-run", f"rewards={rewards}")
    assert result.exit_code == 0, result.output
    told = result.output[
        result.output.index("rewards for prompt 0 of data.train and the completion 'I do not know.'") :
    ]
    rows = [" ".join(line.split()) for line in told.splitlines()[1:5]]
    assert rows[0] == "half 0.5"
    assert rows[1].startswith("down could not grade: ")
    assert "no judge" in rows[1]
    assert rows[2:] == ["other_task none (does not apply)", "sudoku.solved 0"]


def test_a_dry_run_finds_a_broken_reward_and_shows_the_line(folder):
    (folder / "mine.py").write_text(
        "import json\n\n\ndef parsed(completions, solution, **_):\n    return [json.loads(text)['x'] for text in completions]\n"
    )
    result = invoke("train", "recipe.yaml", "--dry-run", "rewards=[{fn: 'mine.py:parsed'}]")
    assert result.exit_code == 2
    assert "reward parsed raised JSONDecodeError on row 0" in result.output
    assert f"{folder / 'mine.py'}, line 5, in" in result.output
    assert "return [json.loads(text)['x'] for text in completions] (raised in " in result.output
    assert "column solution: '3142243142131324'" in result.output
    assert "rewards/contract/calls.py" not in result.output


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.lora.targets=[q_prj]"], "q_prj"),
        (["data.train.columns={prompt: puzzle_text, puzle: puzzle}"], "needs a column 'puzzle'"),
        (["rollout.canvas=128", "rollout.block=128", "rollout.steps=128"], "leaves no room"),
        (["rollout.canvas=112", "rollout.block=112", "rollout.steps=112"], "row 0 has 17 tokens"),
        (["data.train.path=rows.jsonl", "data.prompt.template={puzzel}"], "must be text"),
    ],
)
def test_a_dry_run_refuses(folder, overrides, said):
    result = invoke("train", "recipe.yaml", "--dry-run", *overrides)
    assert result.exit_code == 2
    assert said in result.output


def test_a_dry_run_of_fine_tuning(folder):
    (folder / "sft.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    overrides = ["warm_start.data.path=sft.jsonl", "warm_start.steps=3"]
    result = invoke("sft", "recipe.yaml", *overrides, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "3 steps of 128 rows" in result.output


def test_training_from_the_command_line(folder):
    result = run("train", "recipe.yaml", "--out", "1", "optim.lr=1e-4", "data.train.limit=1", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "lr: 0.0001" in (folder / "1" / "recipe.yaml").read_text()
    assert (folder / "1" / "summary.json").is_file()


def test_listing_and_copying_recipes(folder):
    listed = invoke("recipes", "list")
    assert listed.exit_code == 0
    for name in recipe_names():
        assert name in listed.output
    copied = invoke("recipes", "copy", "llada_8b_gsm8k_diffu_grpo")
    assert copied.exit_code == 0
    target = folder / "llada_8b_gsm8k_diffu_grpo.yaml"
    assert target.read_text() == (recipe_folder() / target.name).read_text()
    again = invoke("recipes", "copy", "llada_8b_gsm8k_diffu_grpo")
    assert again.exit_code == 2
    assert "is there already" in again.output


def test_a_reward_file_without_the_function(folder):
    (folder / "mine.py").write_text("def brevity(completions, **_):\n    return [0.0] * len(completions)\n")
    result = invoke("train", "recipe.yaml", "rewards=[{fn: 'mine.py:brevitty'}]", "--dry-run")
    assert result.exit_code == 2
    assert "mine.py" in result.output
    assert "brevity" in result.output


def test_a_reward_file_that_does_not_run(folder):
    (folder / "mine.py").write_text("import nothing_of_this_name\n")
    result = invoke("train", "recipe.yaml", "rewards=[{fn: 'mine.py:brevity'}]", "--dry-run")
    assert result.exit_code == 2
    assert "nothing_of_this_name" in result.output


def test_a_bug_of_ours_keeps_its_traceback(folder, monkeypatch):
    """Only what a user can mend is said in a sentence."""

    def broken(recipe, **options):
        raise ZeroDivisionError

    monkeypatch.setattr("rl.loop.train", broken)
    assert isinstance(invoke("train", "recipe.yaml").exception, ZeroDivisionError)

"""Every shipped recipe: at toy size on real rows, and as a dry run on a few rows of our own.

The GSM8K recipe for LLaDA has a file of its own, test_recipe_gsm8k.py, which looks closer.
"""

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rewards.contract import TrainerState, grade, load_rewards
from rl.cli import app
from rl.config import load_recipe
from rl.recipes import headline, recipe_folder, recipe_names
from rl.run import Run
from rl.setup import set_up
from tests.oracles.runs import samples
from tests.oracles.toy_recipes import SHARED, dream_checkpoint, llada_checkpoint, local, train_small

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"shared data absent: {SHARED}")


@dataclass(frozen=True)
class Case:
    """A recipe with real rows, and a beginning of the answer that two more characters make right."""

    recipe: str
    rows: Callable[[], list[dict[str, Any]]]
    suffix: str  # of the file the rows are written to
    prefill: str
    ending: str
    checkpoint: Callable[..., Path] = llada_checkpoint
    lora: tuple[str, ...] = ("k_proj", "q_proj", "up_proj", "v_proj")
    markup: str = "<|start_header_id|>assistant<|end_header_id|>\n\n"


def _jsonl(*parts: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in SHARED.joinpath(*parts).read_text(encoding="utf-8").splitlines()]


def _math() -> list[dict[str, Any]]:
    return [row for row in _jsonl("math500", "test.jsonl") if row["answer"] == "5" and len(row["problem"]) < 300][:3]


def _sudoku() -> list[dict[str, Any]]:
    with SHARED.joinpath("d1_test", "4x4_test_sudoku.csv").open() as file:
        return list(csv.DictReader(file))[:1]


CASES = [
    Case(
        "llada_8b_math_diffu_grpo", _math, ".jsonl", "<reasoning>\nSo\n</reasoning>\n<answer>\n\\boxed{", "5}"
    ),
    Case(
        "llada_8b_countdown_diffu_grpo", lambda: _jsonl("d1_test", "countdown_cd3_test.jsonl")[:1], ".jsonl",
        "<answer>\n30-(100-9", "3)",
    ),
    Case("llada_8b_sudoku_diffu_grpo", _sudoku, ".csv", "<answer>\n31422431421313", "24"),
    Case(
        "dream_7b_gsm8k_diffu_grpo", lambda: _jsonl("gsm8k", "train.jsonl")[371:374], ".jsonl", "\\boxed{", "5}",
        checkpoint=dream_checkpoint,
        lora=("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
        markup="<|im_start|>assistant\n",
    ),
]  # fmt: skip


def written(rows: list[dict[str, Any]], path: Path) -> Path:
    """Rows as a jsonl or csv file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.recipe)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def overrides(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Real rows for the recipe's data, and the beginning of an answer."""
    rows = written(case.rows(), tmp_path_factory.mktemp("data") / f"rows{case.suffix}")
    return {
        **local("data.train", rows),
        **local("data.eval", rows),
        "data.prompt.prefill": json.dumps(case.prefill),
        "rollout.canvas": 2,
        "rollout.block": 2,
        "rollout.steps": 2,
        "rollout.group_size": 6,
    }


@pytest.fixture(scope="module")
def run(case: Case, overrides: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    checkpoint = case.checkpoint(tmp_path_factory.mktemp("model"), case.ending, by=0.3)
    return train_small(case.recipe, checkpoint, tmp_path_factory.mktemp("run"), overrides)


@needs_data
@pytest.mark.timeout(120)
def test_two_updates_as_published(case: Case, run: Run) -> None:
    recipe = load_recipe(run.folder / "recipe.yaml")
    assert [row["update"] for row in run.metrics] == [0, 1]
    assert run.metrics[0]["first_pass_gap"] == 0.0
    for row in run.metrics:
        assert all(value is None or math.isfinite(value) for value in row.values())
        weighted = sum(entry.weight * row[f"reward/{entry.fn}"] for entry in recipe.rewards)
        assert row["reward"] == pytest.approx(weighted, abs=1e-6)
        assert row["outcome"] == row[f"reward/{recipe.outcome or recipe.rewards[0].fn}"]
        assert not any(name.startswith("dropped/") for name in row)
    # Some right, some wrong: the reward reads what the model writes, and there is something to learn.
    assert 0 < sum(row["outcome"] for row in run.metrics) / 2 < 1
    assert any(row["optim/grad_norm"] > 0 for row in run.metrics)
    right = [row["text"] for row in samples(run) if row["outcome"] == 1.0]
    assert all(text.startswith(case.ending) for text in right)


@needs_data
def test_the_folder_holds_the_published_choices_and_an_adapter(case: Case, run: Run, overrides: dict[str, Any]) -> None:
    recipe = load_recipe(run.folder / "recipe.yaml")
    data = {key: value for key, value in overrides.items() if key.startswith("data.")}
    shipped = load_recipe(case.recipe, [f"{key}={value}" for key, value in data.items()])
    for section in ("method", "optim", "rewards", "outcome"):
        assert getattr(recipe, section) == getattr(shipped, section)
    assert recipe.model.lora == shipped.model.lora
    assert recipe.method.preset == "diffu_grpo"
    adapted = json.loads((run.folder / "adapter" / "adapter_config.json").read_text())
    assert tuple(sorted(adapted["target_modules"])) == case.lora


@needs_data
def test_prompts_are_real_rows_in_the_models_markup(case: Case, run: Run) -> None:
    prompts = set_up(load_recipe(run.folder / "recipe.yaml")).train
    assert prompts is not None
    for prompt, row in zip(prompts.prompts, case.rows(), strict=True):
        asked = next(row[name] for name in ("problem", "question", "Puzzle", "input") if name in row)
        assert asked in prompt.text
        assert prompt.text.endswith(case.markup + case.prefill)
        assert "{" not in prompt.text.replace(asked, "").replace(case.prefill, "").replace("\\boxed{", "")


@needs_data
def test_an_ideal_answer_earns_everything(case: Case, run: Run) -> None:
    recipe = load_recipe(run.folder / "recipe.yaml")
    prompts = set_up(recipe).train
    assert prompts is not None
    ideal = case.prefill + case.ending + ("\n</answer>" if "<answer>" in case.prefill else "")
    rows = len(prompts.prompts)
    grades = grade(
        load_rewards([entry.model_dump() for entry in recipe.rewards], base=Path()),
        prompts=[prompt.raw for prompt in prompts.prompts],
        completions=[ideal] * rows,
        completion_ids=[[0]] * rows,
        columns={name: [prompt.columns[name] for prompt in prompts.prompts] for name in prompts.prompts[0].columns},
        trainer_state=TrainerState(),
    )
    assert grades.total == pytest.approx([sum(entry.weight for entry in recipe.rewards)] * rows)


# --------------------------------------------------------------------------------------------------- without real data

GSM8K = [{"question": "Two and two?", "answer": "2 + 2 = 4\n#### 4"}]
SUDOKU = [{"Puzzle": "0142243142131324", "Solution": "3142243142131324"}]
TINY = [
    {
        "prompt": "0142=",
        "completion": "3142",
        "puzzle": "0142243142131324",
        "solution": SUDOKU[0]["Solution"],
        "grid_id": 0,
    }
]
# One row in the columns of the data set that a recipe names, the ending of its files, and the model's family.
ROWS: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "dream_7b_gsm8k_diffu_grpo": (GSM8K, ".jsonl", "dream"),
    "llada_8b_countdown_diffu_grpo": ([{"input": "30,100,93", "output": "23"}], ".jsonl", "llada"),
    "llada_8b_gsm8k_diffu_grpo": (GSM8K, ".jsonl", "llada"),
    "llada_8b_math_diffu_grpo": ([{"problem": "Halve $1$.", "solution": r"So $\boxed{\frac12}$."}], ".jsonl", "llada"),
    "llada_8b_sudoku_diffu_grpo": (SUDOKU, ".csv", "llada"),
    "sudoku_4x4_tiny": (TINY, ".jsonl", "tiny"),
}


@pytest.mark.parametrize("name", recipe_names())
def test_a_dry_run_of_every_recipe(name: str, tmp_path: Path) -> None:
    """No network: the model and the data are local, everything else is as shipped."""
    assert name in ROWS, f"add a row for {name} to ROWS"
    rows, suffix, family = ROWS[name]
    path = written(rows, tmp_path / f"rows{suffix}")
    settings = {**local("data.train", path), **local("data.eval", path)}
    if family == "tiny":
        settings["warm_start.data.path"] = path
    else:
        make = llada_checkpoint if family == "llada" else dream_checkpoint
        settings["model.path"] = make(tmp_path / "model", "5", max_length=4096)
    result = CliRunner().invoke(app, ["train", name, "--dry-run", *(f"{k}={v}" for k, v in settings.items())])
    assert result.exit_code == 0, result.output
    assert "data.train: 1 prompts" in result.output
    assert "data.eval: 1 prompts" in result.output
    assert "nothing was started" in result.output


@pytest.mark.parametrize("name", recipe_names())
def test_the_header_says_what_one_must_know(name: str) -> None:
    path = recipe_folder() / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    header = text.partition("\nmodel:")[0]
    assert len(headline(path)) > 20
    assert "xpect" in header
    assert re.search(r"source|Source|Reproduces", header)
    if name.startswith(("llada_8b", "dream_7b")):
        assert re.search(r"TRANSCRIBED, NOT RUN AT [78]B HERE", header)
        assert "Where ours departs, and why" in header
        assert re.search(r"arXiv\s+(#\s+)?[0-9]{4}\.[0-9]{5}", header)
    assert "\noutcome:" in text or text.count("- {fn:") == 1 or name == "sudoku_4x4_tiny"


def test_the_countdown_recipe_makes_its_training_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program in the header, on three rows of the Hub's data set: one of four numbers, one of the test file, one new."""
    header = (recipe_folder() / "llada_8b_countdown_diffu_grpo.yaml").read_text()
    program = re.search(r"<<'END'\n(.*?)\n#   END", header, re.DOTALL)
    assert program is not None
    code = "\n".join(line.removeprefix("#   ") for line in program[1].splitlines())
    hub = [{"nums": nums, "target": 23} for nums in ([1, 2, 3, 4], [93, 30, 100], [20, 2, 1])]
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: hub)
    monkeypatch.chdir(tmp_path)
    Path("countdown_cd3_test.jsonl").write_text('{"input": "30,100,93", "output": "23"}\n')
    exec(compile(code, "header", "exec"), {})
    assert Path("countdown_cd3_train.jsonl").read_text() == '{"input": "20,2,1", "output": "23"}\n'

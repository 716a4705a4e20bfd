"""Every shipped recipe: at toy size on real rows, and as a dry run on a few rows of our own.

The GSM8K recipe for LLaDA has a file of its own, test_recipe_gsm8k.py, which looks closer.
"""

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rewards.contract import TrainerState, grade, load_rewards
from rl.cli import app
from rl.config import load_recipe
from rl.presets import PRESETS
from rl.recipes import headline, recipe_folder, recipe_names
from rl.report_panels import OTHER, panels
from rl.run import Run, read_jsonl
from rl.setup import set_up
from scripts.methods_table import method_of_recipe, recipe_of
from tests.oracles.runs import samples
from tests.oracles.toy_recipes import SHARED, counted, dream_checkpoint, llada_checkpoint, local, train_small

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
    preset: str = "diffu_grpo"
    more: dict[str, Any] = field(default_factory=dict)  # overrides that the small canvas asks for


def _jsonl(*parts: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in SHARED.joinpath(*parts).read_text(encoding="utf-8").splitlines()]


def _math() -> list[dict[str, Any]]:
    return [row for row in _jsonl("math500", "test.jsonl") if row["answer"] == "5" and len(row["problem"]) < 300][:3]


def _sudoku() -> list[dict[str, Any]]:
    with SHARED.joinpath("d1_test", "4x4_test_sudoku.csv").open() as file:
        return list(csv.DictReader(file))[:1]


ALL_LAYERS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
CASES = [
    Case(
        "llada_8b_math_diffu_grpo", _math, ".jsonl", "<reasoning>\nSo\n</reasoning>\n<answer>\n\\boxed{", "5}"
    ),
    Case(
        "llada_8b_countdown_diffu_grpo", lambda: _jsonl("d1_test", "countdown_cd3_test.jsonl")[:1], ".jsonl",
        "<answer>\n30-(100-9", "3)",
    ),
    Case(
        "llada_8b_countdown_mdpo", lambda: _jsonl("d1_test", "countdown_cd3_test.jsonl")[:1], ".jsonl",
        "<answer>\n30-(100-9", "3)", lora=ALL_LAYERS, preset="mdpo",
    ),
    Case(
        "llada_8b_gsm8k_igpo", lambda: _jsonl("gsm8k", "train.jsonl")[371:374], ".jsonl",
        "<reasoning>\nSo\n</reasoning>\n<answer>\n", "5", lora=ALL_LAYERS, preset="igpo",
        more={"rollout.strategy.tail": 0, "rollout.strategy.chunk": [1, 1]},
    ),
    Case("llada_8b_sudoku_diffu_grpo", _sudoku, ".csv", "<answer>\n31422431421313", "24"),
    Case(
        "dream_7b_gsm8k_diffu_grpo", lambda: _jsonl("gsm8k", "train.jsonl")[371:374], ".jsonl", "\\boxed{", "5}",
        checkpoint=dream_checkpoint,
        lora=ALL_LAYERS,
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
        **counted(case.recipe),
        "data.prompt.prefill": json.dumps(case.prefill),
        "rollout.canvas": 2,
        "rollout.block": 2,
        "rollout.steps": 2,
        "rollout.group_size": 6,
        **case.more,
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
    assert all(case.ending in text for text in right)


@needs_data
def test_the_folder_holds_the_published_choices_and_an_adapter(case: Case, run: Run, overrides: dict[str, Any]) -> None:
    recipe = load_recipe(run.folder / "recipe.yaml")
    data = {key: value for key, value in overrides.items() if key.startswith("data.")}
    shipped = load_recipe(case.recipe, [f"{key}={value}" for key, value in data.items()])
    for section in ("method", "optim", "rewards", "outcome"):
        assert getattr(recipe, section) == getattr(shipped, section)
    assert recipe.model.lora == shipped.model.lora
    assert recipe.method.preset == case.preset
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
CODE = {"text": "Add one.", "code": "def f(x): return x + 1", "test_list": ["assert f(1) == 2"], "test_setup_code": ""}
ASK, ASKED = {"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "5"}
PAIR = {"chosen": [ASK, {"role": "assistant", "content": "4"}], "rejected": [ASK, ASKED]}
# One row in the columns of the data set that a recipe of each task names, and the ending of its files.
ROWS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "gsm8k": (GSM8K, ".jsonl"),
    "countdown": ([{"input": "30,100,93", "output": "23"}], ".jsonl"),
    "math": ([{"problem": "Halve $1$.", "solution": r"So $\boxed{\frac12}$."}], ".jsonl"),
    "sudoku": (SUDOKU, ".csv"),
    "4x4": (TINY, ".jsonl"),
    "vrpo": ([PAIR], ".jsonl"),
    "mbpp": ([CODE | {"task_id": task} for task in (11, 602)], ".jsonl"),  # one for each split
    "acecode": ([CODE | {"task_id": 11, "id": "a", "question": "Add one.", "test_cases": CODE["test_list"]}], ".jsonl"),
}
MAKERS = {"llada": llada_checkpoint, "dream": dream_checkpoint, "diffucoder": dream_checkpoint}  # by family


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """One small checkpoint for each of the makers."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        make = MAKERS[name.partition("_")[0]]
        if make.__name__ not in made:
            made[make.__name__] = make(tmp_path_factory.mktemp("model"), "5", by=0.0, max_length=4096)
        return made[make.__name__]

    return of


def task_of(name: str) -> str:
    task = "4x4" if "4x4" in name else next((task for task in ROWS if task in name.split("_")), None)
    assert task is not None, f"add a row for the task of {name} to ROWS"
    return task


def local_settings(name: str, checkpoints: Callable[[str], Path], folder: Path) -> dict[str, Any]:
    """Overrides that give a recipe one row of its task and a small checkpoint of its family."""
    rows, suffix = ROWS[task_of(name)]
    path = written(rows, folder / f"rows{suffix}")
    keys = ["data.preferences"] if task_of(name) == "vrpo" else ["data.train", "data.eval"]
    settings = {setting: value for key in keys for setting, value in local(key, path).items()}
    own = {"warm_start.data.path": path} if name == "sudoku_4x4_tiny" else {"model.path": checkpoints(name)}
    return {**settings, **own, **counted(name)}


@pytest.mark.parametrize("name", recipe_names())
def test_a_dry_run_of_every_recipe(name: str, checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    """No network: the model and the data are local, everything else is as shipped."""
    settings = local_settings(name, checkpoints, tmp_path)
    result = CliRunner().invoke(app, ["train", name, "--dry-run", *(f"{k}={v}" for k, v in settings.items())])
    assert result.exit_code == 0, result.output
    stored = "data.preferences.path" in settings
    for key in ["data.preferences"] if stored else ["data.train", "data.eval"]:
        assert f"{key}: 1 {'pairs' if stored else 'prompts'}" in result.output
    assert "nothing was started" in result.output


@pytest.mark.parametrize("name", recipe_names())
def test_the_header_says_what_one_must_know(name: str) -> None:
    path = recipe_folder() / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    header = text.partition("\nmodel:")[0]
    assert len(headline(path)) > 20
    assert "xpect" in header
    assert re.search(r"source|Source|Reproduces", header)
    if name != "sudoku_4x4_tiny":
        assert re.search(r"TRANSCRIBED, NOT RUN AT [78]B HERE", header)
        assert "Where ours departs, and why" in header
        assert re.search(r"arXiv\s+(#\s+)?[0-9]{4}\.[0-9]{5}", header)
    assert "\noutcome:" in text or text.count("- {fn:") <= 1 or name == "sudoku_4x4_tiny"


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


# ---------------------------------------------------------------------------------------------------- every preset trains

EVEN = """
def starts_even(completions, **kwargs):
    return [float(ord(text[:1] or "!") % 2 == 0) for text in completions]
"""
# One token a step, so that 24 sampled steps, 8 segments and merged steps are what the recipe says.
SHORT = {"gsm8k": "{question}", "countdown": "{target}", "math": "{problem}", "sudoku": "{puzzle}", "4x4": "{prompt}"}
TOY_SIZE = {"rollout.canvas": 24, "rollout.steps": 24, "rollout.group_size": 4, "train.prompts_per_update": 1}


# Their recipes need traces, recorded answers or pairs, and have tests of their own.
ELSEWHERE = {"igpo", "mdpo", "vrpo", "online_vrpo"}


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset not in ELSEWHERE])
def test_every_preset_trains_as_its_recipe_says(
    preset: str, checkpoints: Callable[[str], Path], tmp_path: Path, own_folder: None
) -> None:
    """Two updates by the command line: the recipe's method with fewer passes, a short prompt, and a reward half of the texts earn."""
    name = recipe_of(preset)
    assert name is not None, f"recipes/ has no recipe of {preset}"
    shipped = yaml.safe_load((recipe_folder() / f"{name}.yaml").read_text())
    (tmp_path / "even.py").write_text(EVEN)
    settings = local_settings(name, checkpoints, tmp_path) | TOY_SIZE
    settings |= {
        "model.quantization": "none",  # bitsandbytes wants a GPU
        "data.prompt.template": json.dumps(SHORT[task_of(name)]),
        "rollout.block": {1: 1, 256: 24}.get(shipped["rollout"]["block"], 6),
        "rewards": f"[{{fn: {tmp_path / 'even.py'}:starts_even}}]",
        "outcome": "null",
        "method.inner_passes": min(2, method_of_recipe(name).inner_passes),
        "train.updates": 2,
        "train.out": "run",
        "eval": "null",
        "data.eval": "null",
        "data.hold_out": "[]",  # it says what data.eval must not share
        "warm_start": "null",
    }
    if name == "sudoku_4x4_tiny":
        settings = {key: value for key, value in settings.items() if not key.startswith("warm_start.")}
    command = [
        "train",
        name,
        *(f"{k}={v}" for k, v in settings.items() if not k.startswith(("data.eval.", "data.hold_out."))),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    recipe, rows = load_recipe(Path("run/recipe.yaml")), read_jsonl(Path("run/metrics.jsonl"))
    wanted = method_of_recipe(name).model_copy(update={"inner_passes": recipe.method.inner_passes})
    assert recipe.method == wanted
    assert recipe.method.preset == preset
    assert [row["update"] for row in rows] == [0, 1]
    for row in rows:
        assert all(value is None or math.isfinite(value) for value in row.values() if not isinstance(value, str))
        assert row.get("first_pass_gap", 0.0) == 0.0
    learnt = [row for row in rows if row.get("optim/grad_norm", 0.0) > 0]
    assert learnt, rows
    unnamed = [
        panel["keys"] for panel in panels({name for row in rows for name in row}, ()) if panel["section"] == OTHER
    ]
    assert unnamed == [("update",)]  # the report's axis; all else has a heading of its own

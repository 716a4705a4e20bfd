"""`unmask grade`, as the command line offers it; and how a run says that it uses an original's reward."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rl.cli import app
from tests.oracles.runs import ROWS, recipe, written
from tests.oracles.training import tiny_folder

ROOT = Path(__file__).parents[2]
STORED = [
    {"question": "a", "generations": r"<answer>\boxed{5}</answer><|eot_id|>", "ground_truth": 5.0},
    {"question": "b", "generations": r"so \boxed{1,450}", "ground_truth": 1450.0},
    {"question": "c", "generations": "I do not know.", "ground_truth": None},
]


def invoke(*args: str | Path) -> Any:
    return CliRunner().invoke(app, ["grade", *map(str, args)], env={"COLUMNS": "160"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gsm8k_instruct_256_128_0_generations.json"
    path.write_text(json.dumps({"generations": STORED, "metrics": {}}))
    return path


def test_the_table(file: Path) -> None:
    result = invoke("gsm8k", file)
    assert result.exit_code == 0
    lines = {line.split()[0]: line.split() for line in result.output.splitlines() if line.strip()}
    assert lines["unmask"][1] == "100.00"
    assert lines["unmask"][5] == "2"  # one row has no gold answer
    assert lines["d1"][1] == "33.33"
    assert lines["d1"][5] == "3"
    assert lines["d1_training"][1] == "0.00"
    assert lines["d1_training_unboxed"][1] == "50.00"
    assert "accuracy is 0.00 to 100.00 on the same 3 generations; parsers disagree on 2" in result.output
    assert "1 rows have no gold answer" in result.output


def test_json_is_percentages_and_counts(file: Path) -> None:
    said = invoke("gsm8k", file, "--json")
    figures = json.loads(said.stdout)
    assert "1 rows have no gold answer" in said.stderr
    assert figures["d1"]["accuracy"] == pytest.approx(100 / 3, abs=1e-5)
    assert figures["d1"]["n"] == 3
    assert figures["unmask"]["accuracy"] == 100.0
    assert figures["unmask"]["low"] < 100.0 <= figures["unmask"]["high"]


def test_rows_and_disagreements_can_be_read(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    result = invoke("gsm8k", file, "--out", out, "--disagree", "1")
    assert result.exit_code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["parsers"]["unmask"] for row in rows] == [1.0, 1.0, None]
    assert rows[1]["parsers"]["d1"] == 0.0
    assert rows[0]["text"] == STORED[0]["generations"]
    shown = result.output[result.output.index("row 1: gold 1450.0") :]
    assert "right: unmask, flexible" in shown
    assert "wrong: d1, spg, espo" in shown
    assert "row 0: gold" not in shown


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["gsm"], "there is no task 'gsm'; did you mean gsm8k?; tasks: gsm8k, math, math500, countdown, sudoku"),
        (["gsm8k", "--text", "said"], "row 0 has no field 'said'; it has 'question', 'generations', 'ground_truth'"),
        (["gsm8k", "--out", "/nowhere/rows.jsonl"], "/nowhere/rows.jsonl cannot be written"),
        (["sudoku"], "no row has a gold answer for sudoku"),
    ],
)
def test_what_cannot_be_done_is_said(file: Path, args: list[str], message: str) -> None:
    result = invoke(args[0], file, *args[1:])
    assert result.exit_code == 2
    assert message in result.output


def test_no_torch_is_loaded(file: Path) -> None:
    code = (
        f"import sys; sys.argv = ['unmask', 'grade', 'gsm8k', {str(file)!r}, '--json']; from rl.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print({'torch', 'transformers', 'ray', 'datasets', 'pyarrow'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.splitlines()[-1] == "set()"


@pytest.mark.usefixtures("own_folder")
def test_a_run_and_a_dry_run_say_that_an_original_is_used(tmp_path: Path) -> None:
    source = {
        **recipe(tiny_folder(tmp_path / "base"), train={"updates": 1, "out": str(tmp_path / "run")}),
        "rewards": [{"fn": "gsm8k.correct", "kwargs": {"compat": "d1"}}],
    }
    source["data"] = {"train": {"path": str(written(ROWS, tmp_path / "rows.jsonl"))}}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(source))
    for more in (["--dry-run"], []):
        result = CliRunner().invoke(app, ["train", str(path), *more])
        assert result.exit_code == 0, result.output
        said = " ".join(result.output.split())
        assert "note: reward gsm8k.correct_d1 is compat: d1, the training reward of dllm-reasoning/d1 @ 837888f" in said
        assert "the accuracy of this run is measured by it" in said
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert any("compat_d1" in key for key in row)

"""The quickstart: its data is split as it says, and the whole story runs at toy size through the same code."""

import json
from pathlib import Path

import pytest

from rewards.sudoku import count_solutions, solved
from rl import quickstart
from rl.resume import ResumeError
from rl.run import read_jsonl
from rollouts.tiny import ALPHABET


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], list[dict]]:
    train, test = quickstart.write_data(tmp_path_factory.mktemp("data"), seed=3)
    return read_jsonl(train), read_jsonl(test)


def test_no_grid_and_no_puzzle_is_in_both_sets(files: tuple[list[dict], list[dict]]) -> None:
    train, test = files
    assert len({row["grid_id"] for row in test}) == quickstart.TEST_GRIDS
    assert not {row["grid_id"] for row in train} & {row["grid_id"] for row in test}
    assert not {row["puzzle"] for row in train} & {row["puzzle"] for row in test}


def test_rows_are_prompt_and_a_right_completion(files: tuple[list[dict], list[dict]]) -> None:
    for row in files[0][:50] + files[1][:50]:
        assert solved([row["completion"]], [row["puzzle"]]) == [1.0]
        assert set(row["prompt"]) <= set(ALPHABET)
        assert len(row["prompt"]) == 17
        assert quickstart.prompt_of(row["puzzle"]) == row["prompt"]


def test_some_puzzles_have_several_solutions(files: tuple[list[dict], list[dict]]) -> None:
    several = [count_solutions(row["puzzle"]) > 1 for row in files[1]]
    assert 0.4 < sum(several) / len(several) < 0.7


def test_data_depends_on_the_seed_alone(tmp_path: Path, files: tuple[list[dict], list[dict]]) -> None:
    again = quickstart.write_data(tmp_path, seed=3)
    assert [read_jsonl(path) for path in again] == list(files)


def test_another_seed_does_not_overwrite_the_data_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "update-000001").mkdir(parents=True)
    (tmp_path / "recipe.yaml").write_text("train: {seed: 4}\n")
    for resume in ("auto", tmp_path):
        with pytest.raises(ResumeError, match="seed 4; continue it with --seed 4"):
            quickstart.main(seed=5, out=tmp_path, resume=resume)
    assert not (tmp_path / "data").exists()


def test_the_whole_story_at_toy_size(tmp_path: Path) -> None:
    run = quickstart.main(
        seed=1,
        out=tmp_path,
        overrides=[
            "warm_start.steps=3",
            "warm_start.batch=8",
            "train.updates=2",
            "train.prompts_per_update=4",
            "rollout.group_size=2",
            "rewards.1.weight=1.0",
            "eval.every=1",
            "eval.limit=12",
            "eval.steps=[1, 16]",
        ],
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == json.loads(json.dumps(summary, allow_nan=False))
    assert run.summary["gain"]["n"] == 12
    for name in ("accuracy_before", "accuracy_after", "gain"):
        assert summary[name]["low"] <= summary[name]["value"] <= summary[name]["high"]
    assert set(summary["accuracy_by_steps_after"]) == {"1", "4", "16"}
    rows = summary["rows_run"]
    assert summary["control"]["row_forwards"] == rows["without_gradient"] + 3 * rows["with_gradient"]
    assert summary["control"]["sft_steps"] == -(-summary["control"]["row_forwards"] // (3 * 8))
    assert {"warm_start", "rollout", "train", "eval", "total"} <= set(summary["wall_seconds"])
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    assert [row["when"] for row in read_jsonl(tmp_path / "evaluations.jsonl")] == ["start", "update 1", "end"]
    assert (tmp_path / "model" / "config.json").is_file()
    assert (tmp_path / "recipe.yaml").is_file()

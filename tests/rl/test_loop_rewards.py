"""A whole run through the public API: what rewards receive and may answer, and how a run ends that cannot go on."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rewards.contract import InfrastructureError, RewardError
from rl.backends import TrainingError
from rl.cli import app
from rl.errors import DataError
from rl.run import read_jsonl
from rollouts.models import load_policy
from rollouts.trajectory import RolloutBatch
from tests.oracles.runs import ROWS, digits, recipe, same_weights, samples, train, written
from tests.oracles.training import tiny_folder

pytestmark = pytest.mark.usefixtures("own_folder")


CONVERSATIONS = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]


# ---- what rewards receive and may answer


def test_conversations_reach_the_reward_as_trl_shows_them(tmp_path: Path) -> None:
    tiny_folder(tmp_path / "chat", chat=True, max_length=96)
    calls: list[dict[str, Any]] = []

    def spy(completions: list[Any], **columns: Any) -> list[float]:
        calls.append({"completions": completions, **columns})
        return [len(message[0]["content"]) / 8 for message in completions]

    run = train(recipe(tmp_path / "chat"), spy, CONVERSATIONS)
    assert [call["trainer_state"].global_step for call in calls] == [0, 1]
    for call in calls:
        assert all(conversation[0].keys() == {"role", "content"} for conversation in call["completions"])
        assert all(conversation[0]["role"] == "assistant" for conversation in call["completions"])
        for prompt, answer in zip(call["prompts"], call["answer"], strict=True):
            assert prompt[0]["role"] == "user"
            assert len(prompt[0]["content"]) == answer
        assert len(call["completion_ids"]) == 6
        assert call["prompts"][0::2] == call["prompts"][1::2]  # groups of two
    assert run.metrics[0]["reward/spy"] > 0


def test_several_rewards_a_weight_and_an_outcome(checkpoint: Path) -> None:
    Path("mine.py").write_text(
        "def short(completions, cap=8, **_):\n    return [1 - len(c) / cap for c in completions]\n"
    )
    source = {
        **recipe(checkpoint),
        "rewards": [{"fn": "mine.py:short", "weight": 0.5, "kwargs": {"cap": 4}}],
        "outcome": "digits",
    }
    row = train(source).metrics[0]
    assert row["reward"] == pytest.approx(0.5 * row["reward/short"] + row["reward/digits"])
    assert row["outcome"] == row["reward/digits"]


def test_an_outcome_that_is_only_logged_is_still_measured(checkpoint: Path) -> None:
    Path("mine.py").write_text("def exact(completions, **_):\n    return [float(len(c) > 0) for c in completions]\n")
    source = recipe(checkpoint, eval={})
    source |= {"rewards": [{"fn": "mine.py:exact", "weight": 0.0}], "outcome": "exact"}
    run = train(source, eval_dataset=ROWS)
    assert run.summary["accuracy_after"]["n"] == len(ROWS)


def test_rows_a_reward_does_not_apply_to_are_dropped_and_counted(checkpoint: Path) -> None:
    def even_only(completions: list[str], answer: list[int], **_: Any) -> list[float | None]:
        return [None if a % 2 else digits([c])[0] for c, a in zip(completions, answer, strict=True)]

    run = train(recipe(checkpoint, train={"prompts_per_update": 6}), even_only)
    for row in run.metrics:
        assert row["dropped/no reward applies"] == 4  # two prompts of odd length, two rollouts each
        assert row["reward"] == row["outcome"]


def test_crashes_in_grading_are_dropped_and_counted(checkpoint: Path) -> None:
    def fragile(completions: list[str], **_: Any) -> list[Any]:
        return [InfrastructureError("sandbox died") if i == 1 else v for i, v in enumerate(digits(completions))]

    row = train(recipe(checkpoint), fragile).metrics[0]
    assert row["dropped/reward fragile: sandbox died"] == 1
    assert row["reward/fragile/infrastructure_failures"] == 1


def test_an_update_without_any_graded_row_is_survived(checkpoint: Path) -> None:
    def down_at_first(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        if trainer_state.global_step == 0:
            raise InfrastructureError("judge unreachable")
        return digits(completions)

    run = train(recipe(checkpoint, train={"updates": 3}), down_at_first)
    first, second, _ = run.metrics
    assert first["dropped/reward down_at_first: judge unreachable"] == 6
    assert not {"loss", "reward", "outcome"} & set(first)
    assert {"loss", "reward", "outcome"} <= set(second)
    assert {row["update"] for row in samples(run)} == {1, 2}


def test_an_update_without_signal_is_skipped(checkpoint: Path) -> None:
    run = train(recipe(checkpoint), lambda completions, **_: [1.0] * len(completions))
    assert all(row["skipped"] == 1 and row["zero_signal_groups"] == 1.0 for row in run.metrics)
    assert same_weights(load_policy(run.folder / "model"), load_policy(checkpoint))


def raises(completions: list[str], answer: list[int], **_: Any) -> list[float]:
    return [1 / (a - 4) for a in answer]


def too_few(completions: list[str], **_: Any) -> list[float]:
    return [0.0] * (len(completions) - 1)


def words(completions: list[str], **_: Any) -> list[Any]:
    return ["good"] * len(completions)


def wants_more(completions: list[str], solution: list[str], **_: Any) -> list[float]:
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            raises,
            r"reward raises raised ZeroDivisionError on row \d+: division by zero\n.*_rewards\.py, line \d+.*\n.*prompt: +'(6789|5522)'",
        ),
        (too_few, r"reward too_few returned 11 scores for 12 completions"),
        (words, r"reward words returned 'good' \(str\) for row 0"),
    ],
)
def test_a_broken_reward_stops_the_run_with_its_name(checkpoint: Path, reward: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        train(recipe(checkpoint, train={"prompts_per_update": 6}), reward)


def test_a_reward_without_its_column_is_refused_before_anything_starts(checkpoint: Path) -> None:
    with pytest.raises(DataError, match=r"data\.train: reward wants_more needs a column 'solution'"):
        train(recipe(checkpoint), wants_more)
    assert not Path("run").exists()


# ---- when it cannot go on


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_rollouts(checkpoint: Path) -> None:
    def absurd(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        size = 1e38 if trainer_state.global_step == 1 else 1.0
        return [size * value for value in digits(completions)]

    source = recipe(checkpoint, method={"advantage": "group_centered"}, train={"updates": 3})
    with pytest.raises(
        TrainingError, match=r"update 1: the (loss|gradient norm) is .*rollouts of this update are in run"
    ):
        train(source, absurd)
    assert len(read_jsonl(Path("run/metrics.jsonl"))) == 1
    batch = RolloutBatch.load(Path("run/failed"))
    batch.validate()
    assert len(batch) == 6


def test_a_step_too_small_to_act_stops_the_run(checkpoint: Path) -> None:
    with pytest.raises(TrainingError, match=r"update 0: an update with learning rate 1e-30 .* changed no parameter"):
        train(recipe(checkpoint, optim={"lr": 1e-30}))


def test_a_canvas_that_leaves_no_room(checkpoint: Path) -> None:
    source = recipe(checkpoint, rollout={"canvas": 40, "steps": 10})
    with pytest.raises(DataError, match=r"rollout\.canvas: 40 leaves no room for a prompt in the model's 40 positions"):
        train(source)


def test_the_command_ends_with_2_and_no_traceback(checkpoint: Path, tmp_path: Path) -> None:
    file = written(ROWS, tmp_path / "rows.jsonl")
    (tmp_path / "mine.py").write_text("def short(completions, **_):\n    return [1.0]\n")
    lines = json.dumps({**recipe(checkpoint), "rewards": [{"fn": "mine.py:short"}], "data": {"train": {"path": file}}})
    (tmp_path / "recipe.yaml").write_text(lines)
    result = CliRunner().invoke(app, ["train", "recipe.yaml"])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)  # nothing else came up
    assert "error: reward short returned 1 scores for 6 completions" in result.output
    assert "Traceback" not in result.output

    (tmp_path / "mine.py").write_text("def short(completions, **_):\n    return [len(c) / 8 for c in completions]\n")
    result = CliRunner().invoke(app, ["train", "recipe.yaml", "optim.lr=1e-30"])
    assert result.exit_code == 1  # nothing that was typed is wrong
    assert "error: update 0: an update" in result.output

    result = CliRunner().invoke(app, ["train", "recipe.yaml", "--out", "good"])
    assert result.exit_code == 0, result.output
    assert "RL: 2/2" in result.output
    assert (tmp_path / "good" / "summary.json").is_file()


def test_what_a_reward_logs_stands_beside_its_rollout(checkpoint: Path) -> None:
    def logs(completions, log_extra, **kwargs):
        log_extra("seen", [len(text) for text in completions])
        return [None if i == 0 else float(i) for i in range(len(completions))]

    run = train(recipe(checkpoint, train={"log_rollouts": 3}), rewards=logs)
    rows = samples(run)
    assert rows
    for row in rows:
        assert row["extras"] == {"seen": len(row["text"])}


@pytest.mark.parametrize("row", [{"trainer_state": 1}, {"limit": 2}])
def test_columns_that_clash_are_found_before_anything_starts(checkpoint: Path, row: dict, tmp_path: Path) -> None:
    file = tmp_path / "my_rewards.py"
    file.write_text("def brief(completions, limit=3, **kwargs):\n    return [1.0 for _ in completions]\n")
    rows = [{**one, **row} for one in ROWS]
    source = {**recipe(checkpoint), "rewards": [{"fn": f"{file}:brief", "kwargs": {"limit": 1}}]}
    with pytest.raises(DataError, match="rename"):
        train(source, rewards=None, rows=rows)
    assert not Path("run").exists()


def test_weights_of_another_run_do_not_stay(checkpoint: Path) -> None:
    train(recipe(checkpoint))
    assert Path("run/model").is_dir()
    train(recipe(checkpoint, model={"lora": {"r": 2}}))
    assert Path("run/adapter").is_dir()
    assert not Path("run/model").exists()


def test_a_forbidden_id_outside_the_vocabulary(checkpoint: Path) -> None:
    with pytest.raises(DataError, match=r"rollout\.forbid"):
        train(recipe(checkpoint, rollout={"forbid": [99999]}))


def test_evaluation_data_without_a_section_is_measured_before_and_after(checkpoint: Path) -> None:
    run = train(recipe(checkpoint, train={"updates": 1}), eval_dataset=ROWS)
    assert {"accuracy_before", "accuracy_after", "gain"} <= run.summary.keys()


def test_an_evaluation_canvas_that_does_not_fit_is_found_before_anything_starts(checkpoint: Path) -> None:
    source = recipe(checkpoint, eval={"sampler": {"canvas": 64, "steps": 16}})
    with pytest.raises(
        DataError, match=r"eval\.sampler\.canvas: 64 leaves no room for a prompt in the model's 40 positions"
    ):
        train(source, eval_dataset=ROWS)
    source = recipe(checkpoint, eval={"sampler": {"canvas": 36, "steps": 18}})
    with pytest.raises(DataError, match=r"data\.eval: 1 of 1 prompts do not fit"):
        train(source, eval_dataset=[{"prompt": "12345"}])
    assert not Path("run").exists()


def test_a_reward_that_raises_late_costs_no_update_that_was_done(checkpoint: Path) -> None:
    def late(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        if trainer_state.global_step == 2:
            raise ValueError("a strange text")
        return digits(completions)

    asked = recipe(checkpoint, train={"updates": 3})
    with pytest.raises(
        RewardError, match=r"(?s)a strange text.*\n2 of 3 updates are saved in .*--resume auto --accept-changes"
    ):
        train(asked, late)

    def mended(completions: list[str], **_: Any) -> list[float]:
        return digits(completions)

    mended.__name__ = "late"
    run = train(asked, mended, resume="auto", accept_changes=True)
    assert [row["update"] for row in run.metrics] == [0, 1, 2]

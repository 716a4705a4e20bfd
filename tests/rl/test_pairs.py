"""Stored preference pairs: TRL's formats, what is dropped or refused, the batch they become, and runs on them through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import maybe_apply_chat_template
from typer.testing import CliRunner

from rl.cli import app
from rl.config import RecipeErrors, load_recipe
from rl.config_schema import PromptConfig
from rl.errors import DataError
from rl.likelihood import Trajectory
from rl.masks import PlanKey
from rl.pairs import PairSet, load_pairs, pair_batch
from rl.run import read_jsonl
from rollouts.models import load_policy
from rollouts.tiny import build_tiny
from tests.oracles.runs import recipe, written
from tests.oracles.training import tiny_policy

ROWS = [
    {"prompt": "12", "chosen": "345", "rejected": "0"},
    {"prompt": "7", "chosen": "88", "rejected": "9191"},
    {"prompt": "41", "chosen": "2", "rejected": "333"},
]


def load(rows: Any, policy: Any = None, **options: Any) -> PairSet:
    prompt = PromptConfig(**options.pop("prompt", {}))
    return load_pairs(rows, prompt, policy or tiny_policy(), **{"room": 20, "canvas": 8, **options})


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


ANSWER = said("assistant", "2")


# ---- formats


def test_text_pairs() -> None:
    policy = tiny_policy()
    found = load(ROWS, policy)
    decode = policy.tokenizer.decode
    assert [(pair.prompt.text, decode(list(pair.chosen)), decode(list(pair.rejected))) for pair in found.pairs] == [
        tuple(row.values()) for row in ROWS
    ]
    assert found.dropped == {}
    assert len(found) == len(found.prompts) == 3


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_files(tmp_path: Path, suffix: str) -> None:
    from rl.config_schema import Split

    path = tmp_path / f"pairs{suffix}"
    if suffix == ".jsonl":
        written(ROWS, path)
    else:
        Dataset.from_list(ROWS).to_parquet(path)
    renamed = Split(path=str(path), limit=2, columns={"chosen": "rejected", "rejected": "chosen"})
    assert load(Split(path=str(path), limit=2)).pairs == load(ROWS[:2]).pairs
    assert [(p.rejected, p.chosen) for p in load(renamed).pairs] == [
        (p.chosen, p.rejected) for p in load(ROWS[:2]).pairs
    ]


def test_conversations_with_and_without_a_prompt_column() -> None:
    """Explicit, implicit, and the whole conversation in the answers beside a text prompt, as in UltraFeedback: one pair of tokens."""
    policy = build_tiny(0, d_model=32, layers=1, heads=2, chat=True, max_length=300)
    ask, good, bad = said("user", "Two and two?"), said("assistant", "4"), said("assistant", "5, I think")
    rows = [
        {"prompt": [ask], "chosen": [good], "rejected": [bad]},
        {"chosen": [ask, good], "rejected": [ask, bad]},
        {"prompt": "Two and two?", "chosen": [ask, good], "rejected": [ask, bad]},
        {"prompt": "Two and two?", "chosen": "4", "rejected": "5, I think"},
    ]
    found = [load([row], policy, room=200, canvas=16).pairs[0] for row in rows]
    assert {(one.prompt.token_ids, one.chosen, one.rejected) for one in found} == {
        (found[0].prompt.token_ids, found[0].chosen, found[0].rejected)
    }
    # What the model reads is TRL's own rendering.
    text = maybe_apply_chat_template(rows[0], policy.tokenizer)
    assert found[0].prompt.text == text["prompt"]
    several = [ask, good, said("user", "Sure?")]
    turns = load([{"chosen": [*several, good], "rejected": [*several, bad]}], policy, room=200, canvas=16).pairs[0]
    assert turns.prompt.text.count("Two and two?") == turns.prompt.text.count("Sure?") == 1
    assert turns.chosen == found[0].chosen


def test_the_prompt_stands_as_it_is_and_answers_begin_with_the_prefill() -> None:
    policy = tiny_policy()
    rows = [{"prompt": "1", "chosen": "92", "rejected": "93"}, {"prompt": "1", "chosen": "2", "rejected": "93"}]
    found = load(rows, policy, prompt={"template": "{question}", "prefill": "9"})
    assert [(p.prompt.text, policy.tokenizer.decode(list(p.chosen))) for p in found.pairs] == [("19", "2")]
    assert found.dropped == {"answer does not begin with data.prompt.prefill": 1}


def test_what_is_dropped_is_counted() -> None:
    rows = [
        *ROWS,
        {"prompt": "1", "chosen": "2", "rejected": "2"},
        {"prompt": "1", "chosen": None, "rejected": "2"},
        {"prompt": "1", "chosen": "", "rejected": "3"},
        {"prompt": "", "chosen": "3", "rejected": "1"},
        {"prompt": "1", "chosen": "3", "rejected": "123456789"},
        {"prompt": "1" * 21, "chosen": "3", "rejected": "4"},
        {"prompt": "1", "chosen": "3", "rejected": "<|mdm_mask|>"},
    ]
    found = load(rows, prompt={"max_length": "drop"})
    assert len(found) == 3
    assert found.dropped == {
        "chosen and rejected are equal": 1,
        "null answer": 1,
        "empty chosen answer": 1,
        "empty prompt": 1,
        "answer longer than the canvas of 8": 1,
        "prompt longer than 20 tokens": 1,
        "answer spells the mask token": 1,
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "1", "chose": "2", "rejected": "3"}], "no column 'chosen'(.|\n)*did you mean 'chose'"),
        ([{"chosen": "12", "rejected": "13"}], "no column 'prompt'(.|\n)*trl.extract_prompt"),
        ([{"prompt": "1", "chosen": "2", "rejected": "123456789"}], "9 tokens, and the canvas has 8(.|\n)*max_length: drop"),
        ([{"prompt": "1", "chosen": "2", "rejected": "2"}], "no pair of 1 is left: 1 chosen and rejected are equal"),
        ([{"prompt": "1", "chosen": 2, "rejected": 3}], "row 0: chosen and rejected must both be text"),
        (
            [{"chosen": [said("user", "1"), said("assistant", "2")], "rejected": [said("user", "3")]}],
            "not the assistant's",
        ),
        (
            [{"prompt": "9", "chosen": [said("user", "1"), ANSWER], "rejected": [said("user", "1"), said("assistant", "3")]}],
            "other messages than the prompt",
        ),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_refused(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(rows)


# ---- the batch


def small_recipe(folder: str, **sections: Any) -> dict[str, Any]:
    base = recipe(Path(folder), rollout={"group_size": 2}, **sections)
    return {**base, "method": {"preset": "vrpo", "estimator": {"draws": 2}}}


def test_a_batch_is_groups_of_two_that_were_given(tmp_path: Path) -> None:
    policy, pairs = tiny_policy(), load(ROWS)
    source = small_recipe("tiny", data={"preferences": {"path": "a/b"}}, train={"prompts_per_update": 2})
    for eos in ("first", "all"):
        wanted = load_recipe({**source, "rollout": {**source["rollout"], "eos": eos, "early_stop": False}})
        batch = pair_batch(policy, pairs, wanted, 0)
        batch.rollouts.validate()
        assert batch.rollouts.group_id.tolist() == [0, 0, 1, 1]
        assert batch.rollouts.rollout_id.tolist() == [0, 1, 2, 3]
        assert batch.reward.tolist() == [1.0, 0.0] * 2
        assert batch.advantage is not None
        assert batch.advantage.tolist() == [1.0, -1.0] * 2
        assert batch.outcome.isnan().all()
        assert set(batch.rollouts.finish_reason) == {"given"}
        assert not batch.rollouts.truncated.any()
        end = policy.eos_ids[0]
        for row in range(4):
            pair = pairs.pairs[int(batch.rollouts.prompt_id[row])]
            answer = (pair.chosen, pair.rejected)[row % 2]
            canvas = batch.rollouts.tokens[row][batch.rollouts.canvas_mask[row]].tolist()
            assert canvas == [*answer, *[end] * (8 - len(answer))]
            assert int(batch.rollouts.loss_mask[row].sum()) == (8 if eos == "all" else len(answer) + 1)
        with pytest.raises(ValueError, match="no steps of revelation"):
            Trajectory().plan(batch.rollouts, PlanKey(0, 0))
    seen = [
        p for update in range(3) for p in pair_batch(policy, pairs, wanted, update).rollouts.prompt_id[::2].tolist()
    ]
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]  # every pair once an epoch


# ---- recipes


@pytest.mark.parametrize(
    ("changes", "key", "remedy"),
    [
        ({"data": {"preferences": {"path": "a/b"}, "train": {"path": "c/d"}}}, "data.preferences", "online_vrpo"),
        ({"method": "diffu_grpo", "model": {"path": "tiny", "lora": {}}}, "method.objective", "method: vrpo"),
        (
            {
                "method": {
                    "preset": "vrpo",
                    "estimator": {"kind": "trajectory", "unit": "sequence", "length_normalized": False},
                    "approximations": ("order_conditional",),
                }
            },
            "method.estimator",
            "kind: elbo",
        ),
        ({"method": {"preset": "vrpo", "estimator": {"law": "sampler"}}}, "method.estimator.law", "law: raw"),
        ({"rollout": {"canvas": 8, "block": 8, "steps": 4, "group_size": 4}}, "rollout.group_size", "group_size: 2"),
        ({"rewards": [{"fn": "sudoku.solved"}]}, "rewards", "add eval"),
        ({"method": {"preset": "vrpo", "kl": {"reference": "base"}}}, "method.kl.reference", "reference: start"),
    ],
)  # fmt: skip
def test_what_stored_pairs_cannot_mean(changes: dict[str, Any], key: str, remedy: str) -> None:
    base = {"model": {"path": "tiny"}, "data": {"preferences": {"path": "a/b"}}, "method": "vrpo"}
    base["rollout"] = {"canvas": 8, "block": 8, "steps": 4, "group_size": 2}
    assert load_recipe(base).data.train is None
    with pytest.raises(RecipeErrors) as caught:
        load_recipe({**base, **changes})
    assert [problem.key for problem in caught.value.problems] == [key]
    assert remedy in str(caught.value.problems[0].remedy)


# ---- runs


@pytest.mark.usefixtures("own_folder")
def test_a_run_through_the_command_line(checkpoint: Path, tmp_path: Path) -> None:
    pairs = written(ROWS, tmp_path / "pairs.jsonl")
    rows = written([{"prompt": "12"}, {"prompt": "3"}], tmp_path / "eval.jsonl")
    (tmp_path / "mine.py").write_text(
        "def even(completions, **_):\n    return [float('2' in t) for t in completions]\n"
    )
    source = small_recipe(str(checkpoint), data={"preferences": {"path": pairs}, "eval": {"path": rows}}, eval={"n": 2})
    source |= {"rewards": [{"fn": f"{tmp_path}/mine.py:even"}]}
    Path("toy.yaml").write_text(json.dumps(source))
    plan = CliRunner().invoke(app, ["train", "toy.yaml", "--dry-run"])
    assert plan.exit_code == 0, plan.output
    assert "data.preferences: 3 pairs from" in plan.output
    assert "3, stored; nothing is sampled for training" in plan.output
    assert "36 rows: 12 old, 12 reference, 12 train" in plan.output
    result = CliRunner().invoke(app, ["train", "toy.yaml", "train.updates=3", "optim.lr=0.01"])
    assert result.exit_code == 0, result.output
    metrics = read_jsonl(Path("run/metrics.jsonl"))
    assert [row["pairs"] for row in metrics] == [3, 3, 3]
    assert metrics[0]["preference/score"] == metrics[0]["first_pass_gap"] == 0.0
    assert metrics[0]["preference/loss"] == pytest.approx(0.6931, abs=1e-4)
    assert metrics[2]["preference/score"] > 0
    assert metrics[2]["preference/accuracy"] == 1.0
    assert not Path("run/health.jsonl").exists()  # nothing empty about it
    assert not list(Path("run").glob("rollouts/0*.parquet"))  # nothing was sampled
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["forwards"]["rollout"] == 0
    assert {"accuracy_before", "accuracy_after", "gain"} <= set(summary)
    assert load_policy("run/model").max_length == 40
    # What only training needs may be gone.
    Path(pairs).unlink()
    assert CliRunner().invoke(app, ["eval", "run"]).exit_code == 0


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("preset", ["vrpo", "online_vrpo"])
def test_interrupted_and_continued_it_is_the_undisturbed_run(checkpoint: Path, tmp_path: Path, preset: str) -> None:
    """Through the command line, on stored and on sampled pairs."""
    key = "preferences" if preset == "vrpo" else "train"
    rows = written(ROWS, tmp_path / "rows.jsonl")
    (tmp_path / "mine.py").write_text(
        "def even(completions, **_):\n    return [float('2' in t) for t in completions]\n"
    )
    source = {
        **small_recipe(str(checkpoint), data={key: {"path": rows}}, train={"updates": 4, "deterministic": True}),
        "method": {"preset": preset, "estimator": {"draws": 2}},
        "rewards": [] if preset == "vrpo" else [{"fn": f"{tmp_path}/mine.py:even"}],
    }
    if preset == "online_vrpo":
        source["rollout"]["group_size"] = 4
    Path("toy.yaml").write_text(json.dumps(source))
    for name, stops in (("whole", [4]), ("parts", [2, 4])):
        for stop in stops:
            settings = [f"stop.updates={stop}", "--out", name, "--resume", "auto"]
            result = CliRunner().invoke(app, ["train", "toy.yaml", *settings])
            assert result.exit_code == 0, result.output
    whole, parts = Path("whole"), Path("parts")
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()
    one, two = (load_policy(folder / "model") for folder in (whole, parts))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    metrics = read_jsonl(whole / "metrics.jsonl")
    assert len(metrics) == 4
    if preset == "online_vrpo":
        assert 0 < max(row["signal_share"] for row in metrics) <= 0.5  # of four rollouts two, where they differ
    Path(rows).write_text(json.dumps({"prompt": "12", "chosen": "0", "rejected": "345"}) + "\n")
    result = CliRunner().invoke(app, ["train", "toy.yaml", "train.updates=5", "--out", "parts", "--resume", "auto"])
    assert result.exit_code == 2
    assert f"data.{key}: not what" in result.output

"""`unmask pairs`: best against worst of each group, a file that TRL and `datasets` read, and the same file when interrupted."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from trl import extract_prompt
from typer.testing import CliRunner

from rl import make_pairs as module
from rl.cli import app
from rl.config_schema import PromptConfig, Split
from rl.errors import CommandError, DataError
from rl.make_pairs import make_pairs
from rl.pairs import load_pairs
from rl.progress import Reporter
from rl.run import read_jsonl
from tests.oracles.runs import recipe, written
from tests.oracles.training import tiny_policy

pytestmark = pytest.mark.usefixtures("own_folder")

PROMPTS = [{"prompt": text, "answer": text} for text in ("12", "345", "6789", "01", "7", "5522", "8")]


@pytest.fixture
def toy(checkpoint: Path, tmp_path: Path) -> str:
    rows = written(PROMPTS, tmp_path / "rows.jsonl")
    (tmp_path / "mine.py").write_text(
        "def even(completions, answer, **_):\n    return [float(sum(c in '02468' for c in t) >= 3) for t in completions]\n"
    )
    source = {
        **recipe(
            checkpoint, rollout={"group_size": 3}, train={"prompts_per_update": 2}, data={"train": {"path": rows}}
        ),
        "rewards": [{"fn": f"{tmp_path}/mine.py:even"}],
    }
    (tmp_path / "toy.yaml").write_text(json.dumps(source))
    return str(tmp_path / "toy.yaml")


def made(toy: str, out: str, **options: Any) -> dict[str, int]:
    return make_pairs(toy, Path(out), reporter=Reporter(quiet=True), **options)


def even(text: str) -> float:
    return float(sum(c in "02468" for c in text) >= 3)


def test_best_against_worst_of_each_group(toy: str) -> None:
    result = CliRunner().invoke(app, ["pairs", toy, "--out", "pairs.jsonl"])
    assert result.exit_code == 0, result.output
    rows, record = read_jsonl(Path("pairs.jsonl")), json.loads(Path("pairs.jsonl.made.json").read_text())
    counts = record["counts"]
    assert counts["prompts"] == len(PROMPTS)
    assert 0 < counts["pairs"] == len(rows) < len(PROMPTS)
    assert counts["groups with one reward for all"] == len(PROMPTS) - len(rows)
    assert f"{len(rows)} pairs of 7 prompts" in result.output
    for row in rows:
        assert (
            (even(row["chosen"]), even(row["rejected"])) == (1.0, 0.0) == (row["chosen_reward"], row["rejected_reward"])
        )
        assert row["prompt"] == PROMPTS[row["prompt_id"]]["prompt"]
    assert record["made_by"]["rollout"]["group_size"] == 3
    assert record["versions"]["torch"]


def test_datasets_trl_and_we_read_it(toy: str) -> None:
    made(toy, "pairs.jsonl")
    table = load_dataset("json", data_files="pairs.jsonl", split="train")
    assert {"prompt", "chosen", "rejected"} <= set(table.column_names)
    implicit = {
        "chosen": table[0]["prompt"] + table[0]["chosen"],
        "rejected": table[0]["prompt"] + table[0]["rejected"],
    }
    assert str(extract_prompt(implicit)["chosen"]).endswith(table[0]["chosen"][-1])
    policy = tiny_policy()
    found = load_pairs(Split(path="pairs.jsonl"), PromptConfig(), policy, room=20, canvas=8)
    assert len(found) == len(table)
    assert policy.tokenizer.decode(list(found.pairs[0].chosen)) == table[0]["chosen"]


def test_interrupted_it_goes_on(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made(toy, "whole.jsonl")
    own, calls = module._graded, []

    def dying(*args: Any) -> Any:
        calls.append(args[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own(*args)

    monkeypatch.setattr(module, "_graded", dying)
    with pytest.raises(KeyboardInterrupt):
        made(toy, "parts.jsonl")
    with Path("parts.jsonl").open("a") as file:
        file.write('{"half": ')  # a line that was cut
    counts = made(toy, "parts.jsonl")
    assert calls == [0, 1, 2, 2, 3]
    assert Path("parts.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert counts["prompts"] == len(PROMPTS)
    assert made(toy, "parts.jsonl") == counts  # done: nothing is drawn again
    assert len(calls) == 5


def test_ended_before_its_first_batch_it_begins_anew(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_graded", dying)
        with pytest.raises(KeyboardInterrupt):
            made(toy, "pairs.jsonl")
    assert made(toy, "pairs.jsonl")["prompts"] == len(PROMPTS)


def test_pairs_of_other_prompts_or_another_reward_do_not_go_into_one_file(toy: str, tmp_path: Path) -> None:
    made(toy, "pairs.jsonl")
    before = Path("pairs.jsonl").read_bytes()
    for path, name in ((tmp_path / "mine.py", "reward even"), (tmp_path / "rows.jsonl", r"data\.train")):
        content = path.read_text()
        path.write_text(content + ("\n# changed\n" if path.suffix == ".py" else '{"prompt": "1", "answer": "2"}\n'))
        with pytest.raises(CommandError, match=f"made with another {name}"):
            made(toy, "pairs.jsonl")
        path.write_text(content)
    assert Path("pairs.jsonl").read_bytes() == before
    made(toy, "pairs.jsonl")
    record = Path("pairs.jsonl.made.json")
    record.write_text(record.read_text()[:50])
    with pytest.raises(CommandError, match="is damaged"):
        made(toy, "pairs.jsonl")


def test_a_file_of_something_else_is_left_alone(toy: str) -> None:
    made(toy, "pairs.jsonl", overrides=["data.train.limit=1"])
    for out, message in (
        ("pairs.jsonl", "other settings"),
        ("toy.yaml", "ends in .jsonl"),
        ("no/pairs.jsonl", "no folder"),
    ):
        with pytest.raises(CommandError, match=message):
            made(toy, out)
    Path("mine.jsonl").write_text("{}\n")
    with pytest.raises(CommandError, match="there already"):
        made(toy, "mine.jsonl")
    assert Path("mine.jsonl").read_text() == "{}\n"
    alone = CliRunner().invoke(app, ["pairs", toy, "--out", "one.jsonl", "rollout.group_size=1"])
    assert alone.exit_code == 2
    assert "use 2 or more" in alone.output


def test_a_record_that_lacks_a_part_is_damaged_and_a_file_without_pairs_may_be_gone(toy: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def even(completions, **_):\n    return [0.0] * len(completions)\n")
    counts = made(toy, "pairs.jsonl")
    assert counts["pairs"] == 0
    Path("pairs.jsonl").unlink()
    assert made(toy, "pairs.jsonl") == counts
    record = json.loads(Path("pairs.jsonl.made.json").read_text())
    for name in ("setting", "batches", "bytes", "counts"):
        Path("pairs.jsonl.made.json").write_text(json.dumps({key: record[key] for key in record if key != name}))
        with pytest.raises(CommandError, match="is damaged"):
            made(toy, "pairs.jsonl")


def test_pairs_of_a_run_train_offline(toy: str) -> None:
    """Sample and verify with a run's weights, store, train on it by DPO: three commands."""
    run = CliRunner().invoke(app, ["train", toy, "train.updates=1"])
    assert run.exit_code == 0, run.output
    result = CliRunner().invoke(app, ["pairs", "run", "--out", "pairs.jsonl"])
    assert result.exit_code == 0, result.output
    assert json.loads(Path("pairs.jsonl.made.json").read_text())["made_by"]["model"]["path"].endswith("run/model")
    settings = [
        "data.train=null",
        "data.preferences.path=pairs.jsonl",
        "rewards=[]",
        "method=vrpo",
        "rollout.group_size=2",
    ]
    result = CliRunner().invoke(app, ["train", toy, *settings, "model.path=run/model", "train.out=offline"])
    assert result.exit_code == 0, result.output
    assert read_jsonl(Path("offline/metrics.jsonl"))[0]["preference/score"] == 0.0


def held_out(toy: str, tmp_path: Path, **rule: Any) -> str:
    """The recipe with two of its prompts in data.eval, and a rule on them."""
    source = json.loads(Path(toy).read_text())
    held = written([PROMPTS[0], PROMPTS[4]], tmp_path / "held.jsonl")
    source["data"] |= {"eval": {"path": held}, "hold_out": [{"against": "eval", "by": "text", **rule}]}
    (tmp_path / "held.yaml").write_text(json.dumps(source))
    return str(tmp_path / "held.yaml")


def test_prompts_that_the_recipe_holds_out_make_no_pairs(toy: str, tmp_path: Path) -> None:
    """As in training: a run on these pairs would be a run on these prompts."""
    recipe = held_out(toy, tmp_path, on_overlap="drop", among=["train", "preferences"])
    result = CliRunner().invoke(app, ["pairs", recipe, "--out", "pairs.jsonl"])
    assert result.exit_code == 0, result.output
    record = json.loads(Path("pairs.jsonl.made.json").read_text())
    assert record["counts"]["prompts"] == 5
    assert not {row["prompt"] for row in read_jsonl(Path("pairs.jsonl"))} & {"12", "7"}
    assert "overlap: 2 of 7 rows of data.train and 2 of 2 of data.eval" in " ".join(result.output.split())
    assert [one["done"] for one in record["overlaps"]] == ["dropped"]
    # Another held-out set leaves other prompts: not into the same file.
    written([PROMPTS[1]], tmp_path / "held.jsonl")
    with pytest.raises(CommandError, match=r"another data\.hold_out"):
        made(recipe, "pairs.jsonl")


def test_held_out_prompts_are_refused_where_the_recipe_refuses_them(toy: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 7 rows of data\.train and 2 of 2 of data\.eval are the same"):
        made(held_out(toy, tmp_path, on_overlap="refuse"), "pairs.jsonl")


def test_an_original_s_reward_is_said(toy: str, tmp_path: Path) -> None:
    source = json.loads(Path(toy).read_text())
    source["rewards"] = [{"fn": "gsm8k.correct", "kwargs": {"compat": "d1"}}]
    source["data"]["eval"] = source["data"]["train"]
    Path("compat.yaml").write_text(json.dumps(source))
    said = CliRunner().invoke(app, ["pairs", "compat.yaml", "--out", "pairs.jsonl", "data.hold_out=[]"])
    assert "note: reward gsm8k.correct_d1 is compat: d1" in " ".join(said.output.split())
    said = CliRunner().invoke(app, ["eval", "compat.yaml"])
    assert "the accuracy of this run is measured by it" in " ".join(said.output.split())

"""`unmask eval PROTOCOL`: what is sampled, graded and written down; that it goes on where it was killed; and two real protocols."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rewards.contract import RewardError, grade, load_rewards
from rl.cli import app
from rl.errors import CommandError, DataError
from rl.evaluate import pass_at_k
from rl.evaluation import evaluate_protocol
from rl.evaluation_files import Journal, read_rows
from rl.evaluation_result import Outcome
from rl.protocol import load_protocol
from rl.source import find_source
from rl.statistics import majority_at_k, proportion, wilson
from rollouts.checkpoints import save_adapter
from tests.oracles.protocols import TEXT, write_protocol
from tests.oracles.toy_recipes import SHARED, llada_checkpoint
from tests.oracles.training import lora_policy, tiny_folder

KEYS = ("prompt_id", "seed", "sample", "completion", "scores", "reasons", "token_ids", "reveal_step", "forwards")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_protocol(folder)
    tiny_folder(folder / "model")
    return folder


def measured(home: Path, out: Path, *overrides: str, batch: int = 16) -> Outcome:
    return evaluate_protocol(
        load_protocol(home / "digits.yaml", overrides), find_source(str(home / "model")), out=out, batch=batch
    )


@pytest.fixture(scope="module")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return measured(home, tmp_path_factory.mktemp("whole") / "out")


def rows_of(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.folder is not None
    return read_rows(outcome.folder / "samples.parquet")


def said(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must not depend on batches or on the time of day."""
    return [{key: row[key] for key in KEYS} for row in rows]


def test_one_row_for_every_answer(whole: Outcome) -> None:
    rows = rows_of(whole)
    assert len(rows) == 24 * 2 * 2
    assert len({(row["prompt_id"], row["seed"], row["sample"]) for row in rows}) == len(rows)
    for row in rows:
        assert row["prompt"] == f"Say {row['digit']}.\nNow:"
        assert row["model_input"] == row["prompt"] + "= "
        assert row["completion"] == "= " + row["generated"]
        assert row["note"] == f"row {row['prompt_id']}"
        assert row["cluster_label"] == str(row["family"])
        assert len(row["token_ids"]) == len(row["reveal_step"]) == 8
        assert row["forwards"] <= 4
    for seed, sample in ((0, 1), (1, 0)):  # streams of their own
        other = [row["token_ids"] for row in rows if (row["seed"], row["sample"]) == (seed, sample)]
        assert other != [row["token_ids"] for row in rows if (row["seed"], row["sample"]) == (0, 0)]


def test_scores_are_those_of_the_parsers_and_can_be_had_again_offline(home: Path, whole: Outcome) -> None:
    rows = rows_of(whole)
    rewards = load_rewards(["mine.py:ends", "mine.py:most"], base=home)
    again = grade(
        rewards,
        prompts=[row["prompt"] for row in rows],
        completions=[row["completion"] for row in rows],
        completion_ids=[row["token_ids"] for row in rows],
        columns={name: [row[name] for row in rows] for name in ("digit", "family", "note")},
        trainer_state=None,
    )
    for name in ("ends", "most"):
        assert [row["scores"][name] for row in rows] == again.components[name]
    assert 0 < np.mean(again.components["ends"]) < 1  # type: ignore[arg-type]


def test_what_could_not_be_graded_is_counted_by_its_reason(whole: Outcome) -> None:
    cell = whole.accuracy["shy"]
    assert cell["ungraded"] == {"reward shy: the judge is away": 12, "does not apply": 12}
    assert (cell["n"], cell["value"]) == (72, 1.0)
    assert whole.accuracy["ends"]["ungraded"] == {}


def test_the_numbers_of_the_result(whole: Outcome) -> None:
    rows, result = rows_of(whole), whole.result
    scores = np.array([row["scores"]["ends"] for row in rows])
    found = proportion(scores, [row["cluster_label"] for row in rows])
    cell = result["accuracy"]["ends"]
    assert (cell["value"], cell["low"], cell["high"]) == (found.value, found.low, found.high)
    assert (cell["n"], cell["clusters"], cell["interval"]) == (96, 8, "Wilson, family together")
    assert cell["low"] < wilson(scores.sum(), 96)[0]
    table: dict[int, list[Any]] = {}
    for row in rows:
        table.setdefault(row["prompt_id"], []).append(row)
    correct = np.array([[row["scores"]["ends"] for row in each] for each in table.values()])
    for k, values in pass_at_k(correct).items():
        assert result["pass_at_k"]["ends"][k]["value"] == pytest.approx(values.mean())
    votes = [
        majority_at_k([row["voted"] for row in each], [row["scores"]["ends"] for row in each], 4)
        for each in table.values()
    ]
    assert result["maj_at_k"]["ends"]["4"]["value"] == pytest.approx(np.mean(votes))
    assert "most" not in result["pass_at_k"]  # shares are neither right nor wrong
    by_seed = result["by_seed"]["ends"]
    assert by_seed["values"] == {
        str(seed): np.mean([row["scores"]["ends"] for row in rows if row["seed"] == seed]) for seed in (0, 1)
    }
    assert by_seed["deviation"] == pytest.approx(np.std(list(by_seed["values"].values()), ddof=1))
    assert result["forwards"] == sum(row["forwards"] for row in rows)
    assert result["tokens_per_second"] == pytest.approx(result["tokens"] / sum(row["sampling_seconds"] for row in rows))
    assert result["settings"]["sampler"]["canvas"] == 8
    assert result["versions"]["torch"]
    assert whole.folder is not None
    assert json.loads((whole.folder / "result.json").read_text())["hash"] == result["hash"]
    assert "| ends |" in (whole.folder / "result.md").read_text()


@pytest.mark.parametrize("batch", [1, 5, 24])
def test_no_answer_depends_on_the_size_of_a_batch(home: Path, whole: Outcome, tmp_path: Path, batch: int) -> None:
    assert said(rows_of(measured(home, tmp_path / "out", "seeds=[1]", batch=batch))) == [
        one for one in said(rows_of(whole)) if one["seed"] == 1
    ]


def test_no_answer_depends_on_how_many_there_are(home: Path, whole: Outcome, tmp_path: Path) -> None:
    few = said(rows_of(measured(home, tmp_path / "out", "samples=1", "data.limit=7", "seeds=[1]")))
    assert few == [
        one for one in said(rows_of(whole)) if one["seed"] == 1 and one["sample"] == 0 and one["prompt_id"] < 7
    ]


def test_a_killed_evaluation_goes_on_without_double_answers(
    home: Path, whole: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, count = tmp_path / "out", [0]
    append = Journal.append

    def killed(self: Journal, rows: Any) -> None:
        append(self, rows)
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        measured(home, out, batch=7)
    monkeypatch.setattr(Journal, "append", append)
    assert not (out / "result.json").exists()
    with (out / "samples.jsonl").open("a") as file:
        file.write('{"prompt_id": 3, "seed"')  # the line that was being written
    sampled: list[int] = []
    monkeypatch.setattr(Journal, "append", lambda self, rows: (sampled.append(len(rows)), append(self, rows))[1])
    again = measured(home, out, batch=16)
    assert sum(sampled) == 96 - 21
    assert said(rows_of(again)) == said(rows_of(whole))
    assert not (out / "samples.jsonl").exists()
    # Killed once more, after the samples were written and before the journal was taken away.
    (out / "samples.jsonl").write_text("".join(json.dumps(row, default=str) + "\n" for row in rows_of(again)[:5]))
    sampled.clear()
    once_more = measured(home, out)
    assert sampled == []
    assert said(rows_of(once_more)) == said(rows_of(whole))
    assert once_more.accuracy == whole.accuracy


def test_a_folder_is_of_one_evaluation(home: Path, whole: Outcome, tmp_path: Path) -> None:
    assert whole.folder is not None
    with pytest.raises(CommandError, match="another protocol; name another folder"):
        measured(home, whole.folder, "sampler.top_p=0.9")
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(CommandError, match=r"holds letters\.txt, and no evaluation"):
        measured(home, tmp_path)


def test_other_rows_or_weights_are_another_evaluation(home: Path, whole: Outcome, tmp_path: Path) -> None:
    write_protocol(tmp_path)
    rows = (tmp_path / "rows.jsonl").read_text()
    model = find_source(str(home / "model"))
    loaded = load_protocol(tmp_path / "digits.yaml", ["seeds=[0]", "samples=1"])
    (tmp_path / "other.jsonl").write_text(rows.replace('"note": "row 3"', '"note": "ROW 3"'))
    (tmp_path / "more.jsonl").write_text(rows.replace('"digit": 7', '"digit": 6', 1))
    same = evaluate_protocol(loaded, model, data=str(tmp_path / "other.jsonl"), out=tmp_path / "a")
    assert (
        same.result["data"]["fingerprint"] == whole.result["data"]["fingerprint"]
    )  # no prompt and no parser reads the note
    other = evaluate_protocol(loaded, model, data=str(tmp_path / "more.jsonl"), out=tmp_path / "b")
    assert other.result["data"]["fingerprint"] != same.result["data"]["fingerprint"]
    assert other.result["hash"] == same.result["hash"]
    tiny_folder(tmp_path / "model", seed=9)
    third = evaluate_protocol(
        loaded, find_source(str(tmp_path / "model")), data=str(tmp_path / "other.jsonl"), out=tmp_path / "c"
    )
    assert third.result["model"]["fingerprint"] != same.result["model"]["fingerprint"]


def test_an_adapter_is_another_model(home: Path, whole: Outcome, tmp_path: Path) -> None:
    save_adapter(lora_policy(home / "model"), tmp_path / "adapter")
    given = (
        "digits.yaml",
        "--model",
        "model",
        "--adapter",
        str(tmp_path / "adapter"),
        "--limit",
        "4",
        "--out",
        str(tmp_path / "out"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        result = invoke(*given)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert found["model"]["adapter"] == str(tmp_path / "adapter")
    assert found["model"]["fingerprint"] != whole.result["model"]["fingerprint"]
    texts = [row["completion"] for row in read_rows(tmp_path / "out" / "samples.parquet")]
    assert texts != [row["completion"] for row in rows_of(whole) if row["prompt_id"] < 4]
    assert found["device"]


def test_an_interrupted_command_says_how_to_go_on(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    append = Journal.append

    def stop(self: Journal, rows: Any) -> None:
        append(self, rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", stop)
    result = invoke("digits.yaml", "--model", "model", "--out", str(tmp_path / "out"))
    assert result.exit_code == 130
    assert "the same command goes on from here" in result.stderr
    monkeypatch.setattr(Journal, "append", append)
    assert invoke("digits.yaml", "--model", "model", "--out", str(tmp_path / "out")).exit_code == 0


def test_a_data_set_of_another_size_is_a_change(home: Path, tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_text("".join((home / "rows.jsonl").read_text().splitlines(keepends=True)[:5]))
    loaded = load_protocol(home / "digits.yaml")
    found = evaluate_protocol(
        loaded, find_source(str(home / "model")), data=str(tmp_path / "few.jsonl"), out=tmp_path / "out"
    ).result
    assert found["changes"] == ["data.rows: 24 -> 5"]
    assert found["changed"]
    assert found["hash"] != found["stated_hash"] == loaded.protocol.hash


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("data.columns={prompt_id: digit}", DataError, "has the name of one that results hold"),
        ("data.cluster=famly", DataError, "there is no column 'famly'"),
        ("prompt.template=Say {digt}", DataError, "did you mean 'digit'"),
        ("data.subset={count: 99, seed: 0}", DataError, "asks 99 rows, and the data set has 24"),
        ("data.path=rws.jsonl", DataError, "there is no file rws.jsonl"),
        (
            f"prompt.template={'x' * 25}{{note}}",
            DataError,
            "14 of 24 rows cannot be asked: 14 prompt longer than 32 tokens",
        ),
        ("parsers=[gsm8k.correct]", DataError, "parser gsm8k.correct needs a column 'answer'"),
        ("parsers=[gsm8k.corect]", RewardError, "gsm8k.correct"),
        ("data.add={x: {column: nope, old: a, new: b}}", DataError, "there is no column 'nope'"),
    ],
)
def test_mistakes(home: Path, tmp_path: Path, override: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        measured(home, tmp_path / "out", override)


def test_examples_are_turns_and_stops_end_an_answer(tmp_path: Path) -> None:
    llada_checkpoint(tmp_path / "chat", "0123456789Q", by=0.4)
    text = TEXT.replace(
        "  chat_template: none\n", "  few_shot: [{user: 'Say 1.', assistant: '1'}]\n  stop: ['Q', '7']\n"
    )
    text = (
        text.replace("samples: 2", "samples: 1").replace("seeds: [0, 1]", "seeds: [0]").replace("{digit}.", "{shown}.")
    )
    text = text.replace("cluster: family}", "cluster: family, add: {shown: {column: digit, old: '0', new: 'zero'}}}")
    out = evaluate_protocol(
        load_protocol(write_protocol(tmp_path, text)), find_source(str(tmp_path / "chat")), out=tmp_path / "out"
    )
    rows = rows_of(out)
    markup = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
    turns = [("user", "Say 1."), ("assistant", "1"), ("user", "Say zero.\nNow:")]
    begin = "<|startoftext|>" + "".join(markup.format(*turn) for turn in turns)
    assert rows[0]["model_input"] == f"{begin}<|start_header_id|>assistant<|end_header_id|>\n\n= "
    assert rows[0]["prompt"] == "Say zero.\nNow:"
    assert any(row["completion"] != "= " + row["generated"] for row in rows)
    for row in rows:
        whole = row["generated"]
        ends = [whole.find(stop) for stop in "Q7" if stop in whole]
        assert row["completion"] == "= " + whole[: min(ends, default=len(whole))]


# ---- the command, on rows that others published


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, ["eval", *args])


SMALL = ("sampler.canvas=16", "sampler.block=8", "sampler.steps=8", "dtype=float32", "--batch", "4")


@pytest.mark.parametrize(
    ("name", "file", "characters", "parsers"),
    [
        ("d1-gsm8k-128", ("gsm8k", "test.jsonl"), "0123456789", ["gsm8k.correct", "d1", "flexible"]),
        ("d1-sudoku-256", ("d1_test", "4x4_test_sudoku.csv"), "1234", ["sudoku.solved", "sudoku.cells", "d1"]),
        ("d1-countdown-512", ("d1_test", "countdown_cd3_test.jsonl"), "0123456789+-", ["countdown.correct", "d1"]),
    ],
)
def test_real_protocols_end_to_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    file: tuple[str, str],
    characters: str,
    parsers: list[str],
) -> None:
    data = SHARED.joinpath(*file)
    if not data.exists():
        pytest.skip(f"shared data absent: {data}")
    monkeypatch.chdir(tmp_path)
    llada_checkpoint(tmp_path / "model", characters, by=0.5)
    given = (
        name,
        "--model",
        "model",
        "--data",
        str(data),
        *SMALL,
        "sampler.temperature=1.0",
        "--limit",
        "6",
        "--samples",
        "2",
    )
    result = invoke(*given)
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "evals").iterdir()
    assert folder.name.startswith(f"{name}-model-")
    found = json.loads((folder / "result.json").read_text())
    assert list(found["accuracy"]) == parsers
    assert found["changed"]
    assert "CHANGED" in result.stdout
    assert found["stated_hash"] == load_protocol(name).protocol.hash != found["hash"]
    rows = read_rows(folder / "samples.parquet")
    assert len(rows) == 12
    protocol = load_protocol(name).protocol
    for row in rows:
        assert row["completion"].startswith("<reasoning>")
        assert protocol.prompt.template[:40].replace("{{", "{").replace("}}", "}") in row["model_input"]
        assert row["scores"][parsers[0]] in (0.0, 1.0)
    if name == "d1-sudoku-256":  # the first puzzle that d1 drew, and its solution grid as cluster
        assert rows[0]["puzzle"] == "4320004330100004"
        assert data.read_text().splitlines()[1 + rows[0]["prompt_id"]].startswith(rows[0]["puzzle"])
        assert rows[0]["cluster_label"] == json.dumps(rows[0]["solution"])
    if name == "d1-countdown-512":
        assert "Numbers: [30, 100, 93]\nTarget: 23" in rows[0]["prompt"]
    again = invoke(*given)
    assert again.exit_code == 0
    assert len(list((tmp_path / "evals").iterdir())) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["d1-gsm8k-256"], "add --model"),
        (["d1-gsm8k-256", "--model", "model", "--toy"], "--toy makes a recipe small"),
        (["d1-gsm8k-256", "--model", "model", "--limit", "2"], "or give a local file: --data FILE.jsonl"),  # offline
        (["d1-gsm8k-256", "--model", "mdel"], "there is no folder"),
        (["d1-gsm8k-265", "--model", "model"], "did you mean d1-gsm8k-256?"),
        (["sudoku_4x4_tiny", "--samples", "3", "--data", "x"], "--data, --samples: for protocols"),
        (
            ["digits.yaml", "--model", "model", "sampler.canvas=4096", "sampler.block=4096", "sampler.steps=4096"],
            "leaves no room",
        ),
    ],
)
def test_what_the_command_refuses(home: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], words: str) -> None:
    monkeypatch.chdir(home)
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())


def test_python_takes_names_as_the_command_does(home: Path, whole: Outcome, tmp_path: Path) -> None:
    import unmask

    found = unmask.evaluate_protocol(
        home / "digits.yaml", home / "model", overrides=["data.limit=6", "vote=null"], out=tmp_path / "out"
    )
    assert found.result["changes"] == ["data.limit: null -> 6", 'vote: "text" -> null']
    assert found.result["maj_at_k"] == {}
    assert said(rows_of(found)) == [one for one in said(rows_of(whole)) if one["prompt_id"] < 6]


def test_protocols_are_listed() -> None:
    shown = invoke("list")
    assert shown.exit_code == 0
    assert "d1-gsm8k-256" in shown.stdout
    recipes = CliRunner().invoke(app, ["recipes", "list"])
    assert "d1-gsm8k" not in recipes.stdout

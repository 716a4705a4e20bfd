"""Stored generations, graded again: formats of files, counting, intervals, and the published figures of d1's generations."""

import gzip
import json
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from rewards.contract.reward import RewardError
from rewards.grading.generations import read_generations, read_rows
from rewards.grading.gold import countdown_gold, plain_gold, sudoku_gold
from rewards.grading.marks import Mark
from rewards.grading.parsers import tasks
from rewards.grading.regrade import Regraded, regrade, tally
from tests.rewards.test_real_data import shared_data

QUESTION = "How many?"
D1 = {"question": QUESTION, "generations": r"<answer>\boxed{5}</answer>", "ground_truth": 5.0}


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def accuracies(found: Regraded) -> dict[str, float]:
    return {name: round(100 * one.accuracy, 2) for name, one in found.tallies().items()}


# ------------------------------------------------------------------------------------------------------- d1's generations


@pytest.mark.parametrize(
    ("task", "file", "figures", "n"),
    [
        ("gsm8k", "gsm8k", {"d1": 76.37, "espo": 76.60, "flexible": 78.72, "d1_training": 0.0, "d1_training_unboxed": 51.06,
                            "unmask": 78.90, "boxed": 76.42, "lm_eval": 77.30, "spg": 77.88}, 1130),
        ("countdown", "countdown", {"d1": 19.53, "unmask": 19.14, "unmask_attempt": 31.25, "d1_training": 0.0,
                                    "d1_training_mean": 7.85}, 256),
        ("sudoku", "sudoku", {"d1": 6.69, "unmask": 0.0, "solved": 0.0, "givens_kept": 33.59}, 256),
        ("math500", "math500", {"d1": 32.40, "d1_training": 32.40, "unmask": 35.40, "espo": 35.80}, 500),
    ],
)  # fmt: skip
def test_published_generations(task: str, file: str, figures: dict[str, float], n: int) -> None:
    found = regrade(tasks()[task], sorted(shared_data("llada_generations").glob(f"{file}_*.json")))
    assert figures.items() <= accuracies(found).items()
    assert found.tallies()["d1"].n == n
    assert found.notes() == (["2 rows have no gold answer: wrong for d1, spg (as published), not counted by the others"]
                             if task == "gsm8k" else [])  # fmt: skip


def test_golds_from_the_data_itself() -> None:
    """The two golds that d1's pattern could not read are negative, and then count for the others, too."""
    files = sorted(shared_data("llada_generations").glob("gsm8k_*.json"))
    found = regrade(tasks()["gsm8k"], files, golds=shared_data("gsm8k", "test.jsonl"))
    assert {one.n for one in found.tallies().values()} == {1130}
    figures = accuracies(found)
    assert (figures["d1"], figures["flexible"], figures["d1_training_unboxed"]) == (76.37, 78.76, 51.06)


# ------------------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d1.json", {"generations": [D1, D1], "metrics": {"wall_time": 1.0}, "gen_length": 256}),
        ("list.json", [D1, D1]),
        ("ids.json", {"0": D1, "1": D1}),
        ("rows.jsonl", json.dumps(D1) + "\n\n" + json.dumps(D1) + "\n"),
        ("rows.json", json.dumps(D1) + "\n" + json.dumps(D1)),
        ("several.json", [{"problem": QUESTION, "completions": [D1["generations"]] * 2, "answer": "#### 5"}]),
        (
            "lm_eval.jsonl",
            json.dumps({"doc_id": 0, "doc": {"question": QUESTION, "answer": "... #### 5"}, "target": "... #### 5",
                        "resps": [[D1["generations"], D1["generations"]]], "filtered_resps": ["5"]}),
        ),
        (
            "opencompass.json",
            {str(i): {"origin_prompt": [{"role": "HUMAN", "prompt": QUESTION}], "prediction": D1["generations"], "gold": "5"}
             for i in range(2)},
        ),
        ("dllm_rl.json", [{"question": QUESTION, "full_output": [D1["generations"]] * 2, "ground_truth_answer": "5"}]),
        (
            "chat.json",
            [{"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": QUESTION}], "reward_model": {"ground_truth": "5"},
              "responses": [[{"role": "assistant", "content": D1["generations"]}], [{"role": "assistant", "content": D1["generations"]}]]}],
        ),
    ],
)  # fmt: skip
def test_formats(tmp_path: Path, name: str, content: Any) -> None:
    stored = read_generations([written(tmp_path, name, content)])
    assert [(one.question, one.text, one.repeat) for one in stored] == [(QUESTION, D1["generations"], False)] * 2
    found = regrade(tasks()["gsm8k"], [tmp_path / name])
    assert found.tallies()["unmask"].accuracy == 1.0
    assert found.tallies()["d1"].n == 2


def test_filters_of_lm_eval_read_one_generation(tmp_path: Path) -> None:
    """Its files have a row for every filter of a task. Samples of one document are as many as there are."""
    base = {"doc": {"question": QUESTION, "answer": "#### 5"}, "doc_hash": "h"}
    rows = [
        {**base, "doc_id": doc, "resps": [[text]], "filter": name}
        for name in ("strict-match", "flexible-extract")
        for doc, text in ((0, "5"), (1, "5"), (1, "5"), (2, "6"))
    ]
    file = written(tmp_path, "samples.jsonl", "\n".join(map(json.dumps, rows)))
    assert [(one.row, one.text) for one in read_generations([file])] == [(0, "5"), (1, "5"), (2, "5"), (3, "6")]


def test_where_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="holds no rows"):
        read_rows(written(tmp_path, "empty.json", {"generations": [], "metrics": {}}))
    one = {"question": QUESTION, "outputs": []}  # a row by itself, of which nothing was generated
    assert read_rows(written(tmp_path, "one.json", one)) == [one]
    with pytest.raises(RewardError, match=r"name one with --gold, or the data file that has them with --golds$"):
        regrade(tasks()["gsm8k"], [written(tmp_path, "trl.jsonl", {"prompt": QUESTION, "completion": "5"})])


def test_parquet_and_gzip(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    row = {"prompt": QUESTION, "completion": "<answer>5</answer>", "answer": "5", "reward": 1.0}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "samples.parquet")
    with gzip.open(tmp_path / "samples.jsonl.gz", "wt") as file:
        file.write(json.dumps(row))
    for name in ("samples.parquet", "samples.jsonl.gz"):
        (stored,) = read_generations([tmp_path / name])
        assert (stored.question, stored.text, stored.fields["answer"]) == (QUESTION, "<answer>5</answer>", "5")


def test_named_fields(tmp_path: Path) -> None:
    file = written(tmp_path, "own.json", [{"q": 1, "said": "5", "right": 5, "text": "no", "answer": 7}])
    assert regrade(tasks()["gsm8k"], [file], text="said", gold="right").tallies()["unmask"].accuracy == 1.0


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("{", {}, "is not JSON"),
        (" \n", {}, "is empty"),
        ('{"a": 1}\n\n{"a": ', {}, "line 3"),
        ('{"a": 1}\n{"a": ', {}, "line 2"),
        ([], {}, "holds no rows"),
        (["text"], {}, "holds no rows"),
        (
            [{"question": "q", "answer": 1}],
            {},
            r"row 0 has no text: .* it has 'question', 'answer': name one with --text",
        ),
        ([D1], {"text": "said"}, "row 0 has no field 'said'"),
        ([D1], {"gold": "right"}, "row 0 has no field 'right'"),
        ([{"text": "5"}], {}, "no row has a gold answer for gsm8k; the first has 'text'"),
    ],
)
def test_files_that_cannot_be_graded(tmp_path: Path, content: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        regrade(tasks()["gsm8k"], [written(tmp_path, "file.json", content)], **options)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="there is no file"):
        read_rows(tmp_path / "nothing.json")
    with pytest.raises(RewardError, match="is a folder; name the files in it"):
        read_rows(tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(RewardError, match="no parquet file"):
        read_rows(tmp_path / "bad.parquet")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RewardError, match="cannot be read"):
        read_rows(tmp_path / "bytes.json")
    with pytest.raises(RewardError, match="row 0: the file of --golds has no row"):
        regrade(
            tasks()["gsm8k"],
            [written(tmp_path, "a.json", [D1])],
            golds=written(tmp_path, "b.json", [{"question": "other"}]),
        )
    bad = {**D1, "ground_truth": [["x"], 5]}
    with pytest.raises(RewardError, match="row 0: a whole number was expected"):
        regrade(tasks()["countdown"], [written(tmp_path, "c.json", [bad])])


# ------------------------------------------------------------------------------------------------------------------ golds


@pytest.mark.parametrize(
    ("fields", "gold"),
    [({"ground_truth": None}, None),
     ({"answer": "said", "gold": 5}, 5), ({"target": "#### 5"}, "#### 5"), ({"answer": ["7"]}, "7"), ({}, None)],
)  # fmt: skip
def test_plain_golds(fields: dict[str, Any], gold: Any) -> None:
    assert plain_gold(fields, None) == gold


@pytest.mark.parametrize(
    ("fields", "question", "gold"),
    [
        ({"ground_truth": [[3, 2], 5]}, "", ([2, 3], 5)),
        ({"ground_truth": {"numbers": [3, 2], "target": 5}}, "", ([2, 3], 5)),
        ({"nums": [3, 2], "target": 5}, "", ([2, 3], 5)),
        ({"numbers": "3,2", "target": "5"}, "", ([2, 3], 5)),
        ({}, "Numbers: [3, 2]\nTarget: 5", ([2, 3], 5)),
        ({}, "What?", None),
    ],
)
def test_countdown_golds(fields: dict[str, Any], question: str, gold: Any) -> None:
    assert countdown_gold(fields, None, question) == gold


def test_sudoku_golds() -> None:
    puzzle, solution = "0321003004002100", "4321123434122143"
    assert sudoku_gold({"puzzle": puzzle, "solution": solution}, None, "") == (puzzle, solution)
    assert sudoku_gold({"Puzzle": puzzle}, None, "") == (puzzle, None)
    for question in (
        f"Solve the following Sudoku puzzle: {puzzle}\n",
        f"{puzzle} is it",
        f"Solve {puzzle.replace('0', '.')}!",
    ):
        assert sudoku_gold({"ground_truth": solution}, None, question) == (puzzle, solution)
    assert sudoku_gold({"ground_truth": solution}, None, "Solve it") is None


# --------------------------------------------------------------------------------------------------------------- counting


def test_what_stands_in_two_files_counts_twice_for_scripts_only(tmp_path: Path) -> None:
    wrong = {**D1, "question": "Other?", "generations": "<answer>6</answer>"}
    files = [written(tmp_path, "0.json", [D1, D1, wrong]), written(tmp_path, "1.json", [D1])]
    found = regrade(tasks()["gsm8k"], files)
    tallies = found.tallies()
    assert (tallies["d1"].accuracy, tallies["d1"].n) == (3 / 4, 4)
    assert (tallies["unmask"].accuracy, tallies["unmask"].n) == (2 / 3, 3)
    assert found.notes() == [
        "1 generations stand in two files: counted twice by d1, spg (as published), once by the others"
    ]


def test_rows_without_gold_answers_are_noted_and_doubted_where_they_are_most(tmp_path: Path) -> None:
    bare = {**D1, "ground_truth": None}
    few = regrade(tasks()["gsm8k"], [written(tmp_path, "few.json", [D1, bare])]).notes()
    most = regrade(tasks()["gsm8k"], [written(tmp_path, "most.json", [D1, bare, bare])]).notes()
    assert len(few) == 1
    assert most[-1] == "that is most of them: are these files all of the task gsm8k?"


def test_the_task_of_mbpp_is_no_generation(tmp_path: Path) -> None:
    row = {"task_id": 601, "text": "Write a function.", "test_list": ["assert f(1) == 1"], "code": "def f(x): return x"}
    with pytest.raises(RewardError, match="has no text"):
        read_generations([written(tmp_path, "mbpp.json", [row])])
    (found,) = read_generations([written(tmp_path, "mbpp.json", [{**row, "completion": "def f(x): return 1"}])])
    assert found.text == "def f(x): return 1"


def test_a_bomb_in_stored_text_is_wrong_and_over_at_once(tmp_path: Path) -> None:
    rows = [
        {
            "question": "",
            "generations": r"\boxed{99**98**97} <answer>99**98**97</answer>",
            "ground_truth": [[99, 98, 97], 1],
        }
    ]
    figures = accuracies(regrade(tasks()["countdown"], [written(tmp_path, "a.json", rows)]))
    assert set(figures.values()) == {0.0}


def test_disagreements_and_rows(tmp_path: Path) -> None:
    rows = [D1, {**D1, "generations": r"\boxed{1,450}", "ground_truth": 1450.0}, {**D1, "generations": "none"}]
    found = regrade(tasks()["gsm8k"], [written(tmp_path, "a.json", rows)])
    assert found.disagreements() == [
        1,
        0,
    ]  # the most divided first; of the first row only the training rule thinks differently
    row = found.row(1)
    assert (row["row"], row["gold"], row["text"]) == (1, 1450.0, r"\boxed{1,450}")
    assert (row["parsers"]["unmask"], row["parsers"]["d1"]) == (1.0, 0.0)
    assert json.loads(json.dumps(row)) == row
    assert found.spread() == (0.0, 2 / 3)


# -------------------------------------------------------------------------------------------------------------- intervals


def spread_of(marks: Sequence[Mark | None], labels: Sequence[str]) -> float:
    found = tally(marks, labels)
    return found.high - found.low


def test_samples_of_one_question_are_no_independent_rows() -> None:
    rng = random.Random(0)
    rights = [rng.random() < 0.4 for _ in range(200)]
    alone = spread_of([Mark(right) for right in rights], [str(i) for i in range(200)])
    copied = spread_of(
        [Mark(right) for right in rights for _ in range(4)], [str(i) for i in range(200) for _ in range(4)]
    )
    assert copied == pytest.approx(alone, rel=0.02)  # four copies of an answer say no more than one
    fresh = [Mark(rng.random() < 0.4) for _ in range(800)]
    assert spread_of(fresh, [""] * 800) == pytest.approx(alone / 2, rel=0.1)  # without a question, each row is its own


def test_the_interval_of_cells_holds_what_it_promises() -> None:
    """Puzzles of differing difficulty and size; 95 % of the intervals should hold the pooled share of all cells."""
    rng = random.Random(1)
    hits = 0
    for _ in range(400):
        marks = []
        for _ in range(60):
            cells, chance = rng.choice((4, 12)), rng.choice((0.1, 0.7))
            marks.append(Mark(sum(rng.random() < chance for _ in range(cells)), cells))
        found = tally(marks, [""] * 60)
        hits += found.low <= 0.4 <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_a_tally_counts_exactly() -> None:
    marks = [Mark(1), None, Mark(0), Mark(1), Mark(3, 8)]
    found = tally(marks, list("abcde"))
    assert Fraction(found.accuracy).limit_denominator(100) == Fraction(5, 11)
    assert (found.n, found.units) == (4, 11)
    assert math.isnan(tally([None], ["a"]).accuracy)

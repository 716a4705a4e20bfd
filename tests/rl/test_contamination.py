"""What a recipe holds out: rules at load time, what they leave of the data, and where it is said; the command that looks before."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rl.cli import app
from rl.config import RecipeErrors, load_recipe
from rl.errors import DataError
from rl.run import Run
from rl.setup import Setup, set_up
from rl.toy import toy_recipe
from tests.oracles.runs import digits, recipe, train, written

pytestmark = pytest.mark.usefixtures("own_folder")

GRIDS = ("1234341221434321", "1234341241232341", "3412123443212143")


def puzzle(grid: str, *blanks: int) -> dict[str, Any]:
    text = "".join("0" if at in blanks else digit for at, digit in enumerate(grid))
    return {"prompt": f"{text}", "puzzle": text, "solution": grid, "completion": grid}


TRAIN = [puzzle(GRIDS[0], 0), puzzle(GRIDS[0], 5), puzzle(GRIDS[1], 1), puzzle(GRIDS[2], 7)]
EVAL = [puzzle(GRIDS[0], 9), puzzle(GRIDS[2], 7)]  # the second is a training row, word for word


def source(checkpoint: Path, *rules: dict[str, Any], **data: Any) -> dict[str, Any]:
    splits = {"train": TRAIN, "eval": EVAL} | data
    named = {name: {"path": written(rows, Path(f"{name}.jsonl"))} for name, rows in splits.items() if rows}
    return recipe(checkpoint, rollout={"canvas": 8}) | {"data": {**named, "hold_out": list(rules)}}


def loaded(checkpoint: Path, *rules: dict[str, Any], more: Any = None, **data: Any) -> Setup:
    return set_up(
        load_recipe(source(checkpoint, *rules, **data) | (more or {}), provided=("rewards",)), reward_funcs=digits
    )


def by_grid(**more: Any) -> dict[str, Any]:
    return {"against": "eval", "by": "sudoku", **more}


# ---- rules


def test_overlap_is_refused_with_its_size_examples_and_a_way_out(checkpoint: Path) -> None:
    with pytest.raises(DataError) as error:
        loaded(checkpoint, by_grid())
    for part in (
        "data.hold_out.0: 3 of 4 rows of data.train and 2 of 2 of data.eval are the same by sudoku (solution grid):",
        f"row 0 and held-out row 0: {TRAIN[0]['puzzle']}, {GRIDS[0]} | {EVAL[0]['puzzle']}, {GRIDS[0]}",
        "set on_overlap: drop",
    ):
        assert part in str(error.value)


def test_dropped_rows_are_gone_and_counted(checkpoint: Path) -> None:
    setup = loaded(checkpoint, by_grid(on_overlap="drop"))
    assert setup.train is not None
    assert [prompt.prompt_id for prompt in setup.train.prompts] == [2]
    assert setup.train.dropped == {"in data.eval by sudoku (solution grid)": 3}
    assert [(one.done, one.rows, one.held_rows) for one in setup.overlaps] == [("dropped", 3, 2)]
    assert setup.eval is not None
    assert len(setup.eval) == 2


def test_counted_rows_stay_and_are_said(checkpoint: Path) -> None:
    setup = loaded(checkpoint, by_grid(on_overlap="count"))
    assert setup.train is not None
    assert len(setup.train) == 4
    assert [(one.done, one.by, one.rows) for one in setup.overlaps] == [
        ("counted", "sudoku (solution grid)", 3),
        ("said", "prompt, token for token", 1),
    ]


def test_without_a_rule_equal_prompts_are_said(checkpoint: Path) -> None:
    (found,) = loaded(checkpoint).overlaps
    assert str(found) == (
        "1 of 4 rows of data.train and 1 of 2 of data.eval are the same by prompt, token for token; results on data.eval are no "
        "test of unseen problems there. Split anew, or declare it: data.hold_out"
    )
    assert loaded(checkpoint, train=TRAIN[:3]).overlaps == ()


def test_nothing_left_is_an_error(checkpoint: Path) -> None:
    with pytest.raises(DataError, match=r"no row of data.train is left: all 2 are in data.eval by sudoku"):
        loaded(checkpoint, by_grid(on_overlap="drop"), train=TRAIN[:2])


def test_every_problem_is_said_at_once(checkpoint: Path) -> None:
    rules = by_grid(), {"against": "eval", "by": "countdown"}, {"against": "validation", "by": "text"}
    with pytest.raises(DataError) as error:
        loaded(checkpoint, *rules, validation=[TRAIN[1]], more={"eval": {"every": 1}, "save": {"best_by": "digits"}})
    message = str(error.value)
    assert "data.hold_out.0: 3 of 4" in message
    assert "data.hold_out.1: by: countdown needs a column 'numbers', which data.eval does not have" in message
    assert "data.hold_out.2: 1 of 4 rows of data.train and 1 of 1 of data.validation" in message


def test_the_warm_start_is_training_too_unless_left_out(checkpoint: Path) -> None:
    warm = {"warm_start": {"data": {"path": written(TRAIN[:1], Path("warm.jsonl"))}, "steps": 1, "batch": 1}}
    more = warm | {"rollout": {"canvas": 16, "block": 4, "steps": 4, "group_size": 2}}
    with pytest.raises(DataError, match=r"1 of 1 rows of warm_start.data"):
        loaded(checkpoint, by_grid(), train=[TRAIN[2]], more=more)
    assert loaded(checkpoint, by_grid(among=["train"]), train=[TRAIN[2]], more=more).overlaps == ()


def test_stored_pairs_are_training_too(checkpoint: Path) -> None:
    pairs = [{"prompt": text, "chosen": "1", "rejected": "2"} for text in ("What is a b c?", "What is x?")]
    held = [{"prompt": "what is A, B, C"}]
    base = source(checkpoint, {"against": "eval", "by": "text", "on_overlap": "drop"}, train=None, eval=held)
    base["data"]["preferences"] = {"path": written(pairs, Path("pairs.jsonl"))}
    base |= {"method": "vrpo", "eval": {}}
    setup = set_up(load_recipe(base, provided=("rewards",)), reward_funcs=digits)
    assert setup.preferences is not None
    assert [pair.prompt.raw for pair in setup.preferences.pairs] == ["What is x?"]


def test_other_data_can_be_held_out_with_columns_of_its_own(checkpoint: Path) -> None:
    written([{"grid": EVAL[0]["puzzle"]}], Path("other.jsonl"))
    rule = {"against": {"path": "other.jsonl", "columns": {"puzzle": "grid"}}, "by": "sudoku", "on_overlap": "drop"}
    setup = loaded(checkpoint, rule, eval=None)
    assert [(one.held, one.rows) for one in setup.overlaps] == [(str(Path("other.jsonl").resolve()), 2)]
    rows = [{"prompt": "p", "extra": {"puzzle": row["puzzle"]}} for row in TRAIN]
    nested = by_grid(columns={"puzzle": "extra.puzzle"}, on_overlap="count")
    held = [{"prompt": "q", "extra": {"puzzle": EVAL[0]["puzzle"]}}]
    assert loaded(checkpoint, nested, train=rows, eval=held).overlaps[0].rows == 2


def test_texts_are_compared_without_the_template(checkpoint: Path) -> None:
    rule = {"against": "eval", "by": "ngrams", "ngram": 3}
    base = source(checkpoint, rule, train=[{"question": "1 2 3 4"}], eval=[{"question": "3 4 5 6"}])
    base["data"]["prompt"] = {"template": "a b c d {question}"}
    assert set_up(load_recipe(base, provided=("rewards",)), reward_funcs=digits).overlaps == ()


def test_a_bad_cell_is_named(checkpoint: Path) -> None:
    bad = [{**TRAIN[0], "puzzle": "123"}]
    with pytest.raises(DataError, match=r"data.hold_out.0: row 0 of data.train: .*123"):
        loaded(checkpoint, by_grid(), train=bad)


@pytest.mark.parametrize(
    ("rule", "key", "said"),
    [
        (
            {"against": "validation", "by": "text"},
            "data.hold_out.0.against",
            "is validation, and there is no data.validation",
        ),
        ({"against": "eval", "by": "sudok"}, "data.hold_out.0.by", "sudoku"),
        ({"against": "evl", "by": "sudoku"}, "data.hold_out.0.against", "eval"),
        ({"against": "eval", "by": "sudoku", "similarity": 0.5}, "data.hold_out.0.similarity", "is of by: ngrams"),
        ({"against": "eval", "by": "sudoku", "ngram": 5}, "data.hold_out.0.ngram", "is of by: ngrams"),
        ({"against": "eval", "by": "sudoku", "columns": {"puzle": "x"}}, "data.hold_out.0.columns", "puzzle"),
        ({"against": "eval", "by": "sudoku", "among": ["warm_start"]}, "data.hold_out.0.among", "this recipe has none"),
        ({"against": "eval"}, "data.hold_out.0.by", "required"),
        ({"against": {"path": "gone.jsonl"}, "by": "text"}, "data.hold_out.0.against.path", "there is no file"),
    ],
)
def test_rules_are_checked_with_the_recipe(checkpoint: Path, rule: dict[str, Any], key: str, said: str) -> None:
    with pytest.raises(RecipeErrors) as error:
        load_recipe(source(checkpoint, rule), provided=("rewards",))
    assert key in str(error.value)
    assert said in str(error.value)
    assert len(error.value.problems) == 1


def test_a_resolved_recipe_reads_back_equal(checkpoint: Path) -> None:
    first = load_recipe(
        source(checkpoint, by_grid(on_overlap="drop"), {"against": {"path": "a/b"}, "by": "math"}),
        provided=("rewards",),
    )
    assert load_recipe(yaml.safe_load(first.to_yaml()), provided=("rewards",)) == first


def test_a_toy_counts_what_its_recipe_refuses(checkpoint: Path) -> None:
    small, changes = toy_recipe(source(checkpoint, by_grid()), provided=("rewards",))
    assert small.data.hold_out[0].on_overlap == "count"
    assert "data.hold_out.0.on_overlap" in {change.key for change in changes}


# ---- where it is said


def test_a_run_says_it_keeps_it_and_shows_it(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(source(checkpoint, by_grid(on_overlap="drop")), digits, None)
    text = "3 of 4 rows of data.train and 2 of 2 of data.eval are the same by sudoku (solution grid); these rows of data.train are left out"
    assert [one["text"] for one in run.summary["overlaps"]] == [text]
    assert json.loads(Path("run/overlap.json").read_text())["overlaps"] == run.summary["overlaps"]
    assert text in Path("run/report.html").read_text()
    assert isinstance(run, Run)


def test_a_continuation_with_other_dropped_rows_is_refused(checkpoint: Path) -> None:
    Path("mine.py").write_text("def even(completions, **_):\n    return [float(len(c) % 2) for c in completions]\n")
    base = source(checkpoint, by_grid(on_overlap="drop")) | {
        "rewards": [{"fn": "mine.py:even"}],
        "stop": {"updates": 1},
    }
    file = Path("r.yaml")
    file.write_text(yaml.safe_dump(base))
    assert CliRunner().invoke(app, ["train", "r.yaml"]).exit_code == 0
    written(EVAL[:1], Path("eval.jsonl"))  # now a row less is dropped
    file.write_text(yaml.safe_dump(base | {"stop": {"updates": 2}}))
    result = CliRunner().invoke(app, ["train", "r.yaml", "--resume", "auto"])
    assert result.exit_code == 2
    assert "data.hold_out" in result.output


def test_a_dry_run_says_it(checkpoint: Path) -> None:
    Path("mine.py").write_text("def even(completions, **_):\n    return [float(len(c) % 2) for c in completions]\n")
    base = source(checkpoint) | {"rewards": [{"fn": "mine.py:even"}]}
    Path("r.yaml").write_text(yaml.safe_dump(base))
    result = CliRunner().invoke(app, ["train", "r.yaml", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert (
        "overlap: 1 of 4 rows of data.train and 1 of 2 of data.eval are the same by prompt, token for token"
        in result.output
    )
    dropping = ["train", "r.yaml", "--dry-run", "data.hold_out=[{against: eval, by: sudoku, on_overlap: drop}]"]
    result = CliRunner().invoke(app, dropping)
    assert "data.train: 1 prompts from" in result.output
    assert "dropped 3: in data.eval by sudoku (solution grid)" in result.output


def test_evaluating_needs_nothing_that_is_held_out(checkpoint: Path) -> None:
    Path("mine.py").write_text("def even(completions, **_):\n    return [float(len(c) % 2) for c in completions]\n")
    base = source(checkpoint, by_grid()) | {"rewards": [{"fn": "mine.py:even"}]}
    Path("r.yaml").write_text(yaml.safe_dump(base))
    result = CliRunner().invoke(app, ["eval", "r.yaml"])
    assert result.exit_code == 0, result.output


# ---- the command


def test_the_command_counts_and_its_status_says_whether(tmp_path: Path) -> None:
    here, there = written(TRAIN, Path("a.jsonl")), written(EVAL[:1], Path("b.jsonl"))
    result = CliRunner().invoke(app, ["overlap", here, there, "--by", "sudoku"])
    assert result.exit_code == 1
    for part in (
        "by sudoku (solution grid):",
        "2 of 4 rows of a.jsonl",
        "1 of 1 rows of b.jsonl (100.0%)",
        "3 different keys, 1 held out, 1 in both",
    ):
        assert part in result.output
    result = CliRunner().invoke(app, ["overlap", here, there, "--by", "text", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.output)["rows"] == 0


def test_the_command_takes_columns_by_name(tmp_path: Path) -> None:
    here = written([{"meta": {"q": "a b c d"}}, {"meta": {"q": "x"}}], Path("a.jsonl"))
    there = written([{"question": "Z a b c"}], Path("b.jsonl"))
    command = [
        "overlap",
        here,
        there,
        "--by",
        "ngrams",
        "--ngram",
        "3",
        "--column",
        "text=meta.q",
        "--held-column",
        "text=question",
    ]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, "1 of 2 rows" in result.output) == (1, True)
    assert CliRunner().invoke(app, [*command, "--similarity", "0.5"]).exit_code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--by", "soduku"], "did you mean sudoku?"),
        (["--by", "text", "--column", "text"], "write NAME=COLUMN"),
        (["--by", "text", "--column", "puzzle=x"], "has no use for 'puzzle'"),
        (["--by", "text", "--similarity", "0.5"], "is of --by ngrams"),
        (["--by", "countdown"], "name it, --column numbers=..."),
        (["--by", "text", "--column", "text=promt"], "did you mean 'prompt'?"),
    ],
)
def test_what_the_command_refuses(options: list[str], said: str) -> None:
    here = written(TRAIN, Path("a.jsonl"))
    result = CliRunner().invoke(app, ["overlap", here, here, *options])
    assert result.exit_code == 2
    assert said in result.output


def test_the_command_names_the_column_that_holds_the_text(tmp_path: Path) -> None:
    here = written([{"question": "1 + 1?", "answer": "2"}], Path("a.jsonl"))
    result = CliRunner().invoke(app, ["overlap", here, here, "--by", "text"])
    assert (result.exit_code, "name it, --column text=question" in result.output) == (2, True)


def test_the_page_says_what_is_so() -> None:
    import re

    from rewards.overlap import KINDS
    from rl.config_schema import HoldOut

    page = (Path(__file__).parents[2] / "docs/contamination.md").read_text(encoding="utf-8")
    for name in ("train.jsonl", "test.jsonl", "other.jsonl"):
        written(EVAL, Path(name))
    example = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    rules = load_recipe(
        recipe(Path("tiny")) | example | {"model": {"path": "tiny"}}, provided=("rewards",)
    ).data.hold_out
    assert [rule.on_overlap for rule in rules] == ["refuse", "drop", "count"]
    for name in (*KINDS, *HoldOut.model_fields):
        assert f"`{name}`" in page, name

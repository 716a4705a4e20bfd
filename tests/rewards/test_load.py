"""Finding reward functions: built in, from files by path, by import; and what is said when they cannot be found."""

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

import rewards
from rewards.contract import RewardError, available, grade, load_rewards

BASE = Path(".")


def problem(entry: Any, base: Path = BASE) -> tuple[str, str]:
    with pytest.raises(RewardError) as caught:
        load_rewards([entry], base=base)
    ((key, message),) = caught.value.problems
    assert f"{key}: {message}" in str(caught.value)
    return key, message


def score(fn: Any, base: Path, completions: list[str]) -> list[float | None]:
    loaded = load_rewards([fn], base=base)
    ids = [[0]] * len(completions)
    graded = grade(
        loaded, prompts=completions, completions=completions, completion_ids=ids, columns={}, trainer_state=None
    )
    return graded.total


def test_built_in() -> None:
    assert available() == [
        "choice.correct", "code.format", "code.pass_rate", "code.tests", "countdown.attempt", "countdown.correct",
        "format.answered", "format.boxed", "format.soft", "format.strict", "format.tags",
        "gsm8k.correct", "gsm8k.format_integer", "gsm8k.format_soft", "gsm8k.format_strict", "gsm8k.format_tags",
        "judge.graded", "judge.pairwise", "judge.rubric",
        "length.shorter", "length.within", "math.correct", "reasoning_gym.correct", "reasoning_gym.score",
        "repetition.ngrams", "speed.forwards", "sudoku.cells", "sudoku.solved",
    ]  # fmt: skip
    judge = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "reference_column": "answer"}
    loaded = load_rewards(
        [{"fn": name, "kwargs": judge if name.startswith("judge.") else {}} for name in available()], base=BASE
    )
    assert [reward.name for reward in loaded] == available()
    (reward,) = load_rewards([{"fn": "sudoku.solved", "weight": 0, "kwargs": None, "name": None}], base=BASE)
    assert (reward.name, reward.weight, reward.kwargs) == ("sudoku.solved", 0.0, {})


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        (
            "sudoku.solvd",
            "fn",
            ["unknown reward 'sudoku.solvd'", "did you mean 'sudoku.solved'?", ": sudoku.cells, sudoku.solved; your"],
        ),
        ("sudoku", "fn", ["family", "sudoku.cells, sudoku.solved"]),
        ("zzz", "fn", ["unknown reward 'zzz'", "built in:", "gsm8k.correct, ", "my_rewards.py:function"]),
        ("my_rewards.py", "fn", ["say which function", "my_rewards.py:my_function"]),
        ("", "fn", ["needs the name of a function"]),
        (None, "fn", ["needs the name of a function"]),
        (7, "fn", ["got 7"]),
        ({"weight": 1.0}, "fn", ["got None"]),
        ("no_such_module:f", "fn", ["no module named 'no_such_module'", "./no_such_module.py:f"]),
        ("json.no_such:f", "fn", ["no module named 'json.no_such'"]),
        ("json:dumbs", "fn", ["the module json has no function 'dumbs'", "did you mean 'dumps'?"]),
        ("json:JSONDecoder", "fn", ["a class"]),
        ({"fn": "sudoku.solved", "wieght": 2}, "wieght", ["unknown key", "did you mean 'weight'?"]),
        ({"fn": "sudoku.solved", "weight": "2"}, "weight", ["finite number", "'2'"]),
        ({"fn": "sudoku.solved", "weight": float("nan")}, "weight", ["finite number"]),
        ({"fn": "sudoku.solved", "weight": True}, "weight", ["finite number"]),
        ({"fn": "sudoku.solved", "kwargs": [1]}, "kwargs", ["mapping"]),
        ({"fn": "sudoku.solved", "name": 3}, "name", ["word"]),
        ({"fn": "gsm8k.format_soft", "kwargs": {"prefil": "x"}}, "kwargs.prefil", ["did you mean 'prefill'?"]),
        ({"fn": "gsm8k.correct", "kwargs": {"prompts": 1}}, "kwargs.prompts", ["passed by the trainer"]),
        (lambda completions: [0.0], "fn", ["must end its arguments with **kwargs"]),
        (lambda max_length, cache: None, "fn", ["**kwargs", "my_reward = <lambda>(...)"]),
    ],
)
def test_messages(entry: Any, key: str, words: list[str]) -> None:
    if key.startswith("kwargs.prompts"):
        with pytest.raises(RewardError) as caught:
            load_rewards([entry], base=BASE)
        found, message = caught.value.problems[0]
    else:
        found, message = problem(entry)
    assert found == f"rewards[0].{key}"
    for word in words:
        assert word in message


def test_all_problems_at_once() -> None:
    with pytest.raises(RewardError) as caught:
        load_rewards(["sudoku.solved", "nope", {"fn": "nope.py:f", "weight": "x"}, "sudoku.solved"], base=BASE)
    assert [key for key, _ in caught.value.problems] == [
        "rewards[1].fn", "rewards[2].weight", "rewards[2].fn", "rewards[3].name",
    ]  # fmt: skip
    assert len(str(caught.value).splitlines()) == 4


def test_missing_file_lists_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text("def f(**kwargs): ...")
    _, message = problem("my_reward.py:f", tmp_path)
    assert f"no file {tmp_path / 'my_reward.py'}" in message
    assert "did you mean 'my_rewards.py'?" in message
    _, message = problem("nowhere/x.py:f", tmp_path)
    assert "folder" in message
    assert "does not exist" in message


def test_what_a_file_imports_is_no_function_of_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass, field\nfrom functools import partial\nfrom math import sqrt\n"
        "from typing import Any, Callable, Optional\nfrom rewards.extract import text_of as words\n"
        "class Judge:\n    def __call__(self, **kwargs): ...\n"
        "def make():\n    def inner(**kwargs): ...\n    return inner\n"
        "built, some, judge = make(), partial(words), Judge()\ndef brevity(**kwargs): ...\n"
    )
    _, message = problem("mine.py:brevty", tmp_path)
    listed = message.rpartition("it has: ")[2].split(", ")
    assert listed[0] == "brevity"
    assert set(listed) == {"brevity", "make", "built", "some", "judge"}


def test_missing_function_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("LIMIT = 3\ndef brevity(**kwargs): return []\ndef other(**kwargs): return []\n")
    _, message = problem("mine.py:brevty", tmp_path)
    assert "has no function 'brevty'; did you mean 'brevity'?; it has: brevity, other" in message
    _, message = problem("mine.py:LIMIT", tmp_path)
    assert "is not a function but int" in message


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\nraise ValueError('at import')\n", ["line 2", "ValueError: at import"]),
        ("def f(:\n", ["line 1", "SyntaxError"]),
        ("\nimport helper_beside_it\n", ["line 2", "helper_beside_it", "keep the reward in one file"]),
        ("import sys\nsys.exit(1)\n", ["SystemExit"]),
    ],
)
def test_a_file_that_fails_to_load(tmp_path: Path, source: str, words: list[str]) -> None:
    (tmp_path / "mine.py").write_text(source)
    before = set(sys.modules)
    _, message = problem("mine.py:f", tmp_path)
    for word in words:
        assert word in message
    assert not [name for name in set(sys.modules) - before if name.startswith("unmask_user_")]


def test_a_file_called_rewards_shadows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rewards.py").write_text("def f(completions, **kwargs): return [3.0] * len(completions)")
    monkeypatch.chdir(tmp_path)
    assert score("rewards.py:f", tmp_path, ["a", "b"]) == [3.0, 3.0]
    assert sys.modules["rewards"] is rewards
    assert score({"fn": str(tmp_path / "rewards.py") + ":f", "name": "absolute"}, Path("/"), ["a"]) == [3.0]


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def f(completions, **kwargs): return [{value}] * len(completions)")
    loaded = load_rewards([{"fn": "a/mine.py:f", "name": "a"}, {"fn": "b/mine.py:f", "name": "b"}], base=tmp_path)
    assert [reward.fn(completions=["x"]) for reward in loaded] == [[1], [2]]
    assert loaded[0].fn.__module__ != loaded[1].fn.__module__
    assert "mine" not in sys.modules


def test_equal_files_in_two_folders_know_their_own_folder(tmp_path: Path) -> None:
    source = "from pathlib import Path\ndef f(**kwargs): return [float((Path(__file__).parent / 'limit').read_text())]"
    for folder in ("1", "2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(source)
        (tmp_path / folder / "limit").write_text(folder)
    assert [load_rewards([f"{folder}/mine.py:f"], base=tmp_path)[0].fn() for folder in "12"] == [[1.0], [2.0]]


def test_one_file_is_loaded_once_and_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("calls = []\ndef f(**kwargs): calls.append(1); return calls\ndef g(**kwargs): return calls\n")
    f, g = load_rewards(["mine.py:f", "mine.py:g"], base=tmp_path)
    f.fn()
    assert g.fn() == [1]
    file.write_text("def f(completions, **kwargs): return [9.0] * len(completions)")
    assert score("mine.py:f", tmp_path, ["a"]) == [9.0]


def test_dataclasses_and_pickle_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "@dataclass\n"
        "class Limit:\n"
        "    kind: ClassVar[str] = 'words'\n"
        "    words: int = 3\n"
        "class Short:\n"
        "    def __call__(self, completions, **kwargs):\n"
        "        return [float(len(c.split()) <= Limit().words) for c in completions]\n"
        "short = Short()\n"
    )
    assert score("mine.py:short", tmp_path, ["a b", "a b c d"]) == [1.0, 0.0]
    (reward,) = load_rewards(["mine.py:short"], base=tmp_path)
    again = pickle.loads(pickle.dumps(reward))
    assert again.fn(completions=["a"]) == [1.0]
    assert sys.modules[reward.fn.__class__.__module__].Limit(2) == sys.modules[reward.fn.__class__.__module__].Limit(2)


def test_relative_to_base_not_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.py").write_text("def f(completions, **kwargs): return [1.0] * len(completions)")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert score("mine.py:f", tmp_path, ["a"]) == [1.0]


def test_example_of_the_docs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    source = page.split("<!-- example: a test runs this block -->\n```python\n")[1].split("```")[0]
    (tmp_path / "my_rewards.py").write_text(source)
    loaded = load_rewards([{"fn": "my_rewards.py:brevity", "weight": 0.1, "kwargs": {"limit": 10}}], base=tmp_path)
    assert loaded[0].name == "brevity"
    for wrap in (str, lambda text: [{"role": "assistant", "content": text}]):
        grades = grade(
            loaded,
            prompts=["q"] * 3,
            completions=[wrap(text) for text in ("it is 72", "it is 73", "x")],
            completion_ids=[[0]] * 3,
            columns={"answer": ["#### 72", "#### 72", None]},
            trainer_state=None,
        )
        assert grades.components["brevity"] == [pytest.approx(0.7), 0.0, None]
        assert grades.total == [pytest.approx(0.07), 0.0, None]
        assert grades.metrics == {"words": 3.0}


def test_example_of_a_rollout_in_the_docs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    source = page.split("<!-- example: a test runs this block -->\n```python\n")[2].split("```")[0]
    (tmp_path / "my_rewards.py").write_text(source)
    loaded = load_rewards(["my_rewards.py:settled"], base=tmp_path)
    given = {"prompts": ["q"], "completions": ["72"], "completion_ids": [[1, 2]], "columns": {}, "trainer_state": None}
    assert grade(loaded, **given, rollout={"intermediate_texts": [["░░", "7░", "72", "72"]]}).total == [0.5]


def test_the_docs_list_every_built_in_reward() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    for name in available():
        assert f"`{name}`" in page or f"`{name.partition('.')[2]}`" in page


def test_a_name_that_is_how_a_number_of_another_is_logged() -> None:
    entries = [{"fn": "sudoku.solved", "name": "x"}, {"fn": "sudoku.cells", "name": "x/std"}]
    with pytest.raises(RewardError, match=r"rewards\[1\]\.name: 'x/std' is how a number of 'x' is logged"):
        load_rewards(entries, base=Path())

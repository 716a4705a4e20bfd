"""Protocols: what their hash covers, what is refused, and that the shipped ones say what was published."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.contract import available, load_rewards
from rl.config_yaml import read_file
from rl.protocol import Protocol, ProtocolErrors, is_protocol, load_protocol
from rl.protocol_items import _picked, load_items
from rl.recipes import headline, protocol_folder, protocol_names, recipe_names
from rollouts.tiny import character_tokenizer
from tests.oracles.protocols import TEXT, write_protocol
from tests.oracles.toy_recipes import SHARED


def changed(folder: Path, old: str, new: str) -> str:
    """The hash of the protocol with one text in it replaced."""
    assert TEXT.count(old) == 1
    return load_protocol(write_protocol(folder, TEXT.replace(old, new))).protocol.hash


def test_a_changed_byte_changes_the_hash_and_a_comment_does_not(tmp_path: Path) -> None:
    stated = load_protocol(write_protocol(tmp_path)).protocol.hash
    assert len(stated) == 64
    assert changed(tmp_path, "Say {digit}.", "Say {digit}. ") != stated
    assert changed(tmp_path, ".\\nNow:", ".\\n\\nNow:") != stated
    assert changed(tmp_path, "= ", "=") != stated
    assert changed(tmp_path, "steps: 4", "steps: 8") != stated
    assert changed(tmp_path, "seeds: [0, 1]", "seeds: [1, 0]") != stated
    assert changed(tmp_path, "none that matter", "none that mattr") != stated
    assert changed(tmp_path, "# Digits", "# Numbers") == stated
    assert changed(tmp_path, "task: digits", "task:    digits   # of course") == stated
    assert changed(tmp_path, "vote: text", "vote: number") != stated


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from("abc9. "))
def test_any_byte_of_the_text_of_a_shipped_prompt_counts(at: int, letter: str) -> None:
    protocol = load_protocol("d1-gsm8k-256").protocol
    template = protocol.prompt.template
    place = at % len(template)
    other = template[:place] + letter + template[place + 1 :]
    prompt = protocol.prompt.model_copy(update={"template": other})
    assert (protocol.model_copy(update={"prompt": prompt}).hash != protocol.hash) == (other != template)


def test_what_a_later_schema_adds_as_null_leaves_old_hashes_alone() -> None:
    class Later(Protocol):
        word: str | None = None

    stated = load_protocol("d1-gsm8k-256").protocol
    assert Later.model_validate(stated.model_dump()).hash == stated.hash
    assert Later.model_validate({**stated.model_dump(), "word": "x"}).hash != stated.hash


def test_an_override_makes_another_protocol_that_says_so(tmp_path: Path) -> None:
    path = write_protocol(tmp_path)
    stated, other = load_protocol(path), load_protocol(path, ["sampler.steps=8", "data.limit=4"])
    assert stated.changes == []
    assert other.changes == ["data.limit: null -> 4", "sampler.steps: 4 -> 8"]
    assert other.protocol.hash != stated.protocol.hash == other.stated.hash
    assert load_protocol(path, ["sampler.steps=4"]).changes == []
    assert load_protocol(path, ["data.columns.question=q"]).changes == ['data.columns.question: null -> "q"']
    assert other.with_rows(9).changes[0] == "data.rows: 24 -> 9"


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = (
        TEXT.replace("canvas: 8", "cavnas: 8")
        .replace("samples: 2", "samples: 0")
        .replace("dtype: float32", "dtype: fp32")
    )
    with pytest.raises(ProtocolErrors) as caught:
        load_protocol(write_protocol(tmp_path, text), ["promt.stop=[x]", "what"])
    said = str(caught.value)
    assert "problems with this protocol" in said
    for wanted in (
        "did you mean sampler.canvas?",
        "samples",
        "dtype",
        "did you mean prompt?",
        "is not an override",
        "digits.yaml:11",
    ):
        assert wanted in said, wanted


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("temperature: 1.0", "temperature: 0.0", "at temperature 0 all answers to a prompt are the same"),
        ("seeds: [0, 1]", "seeds: [1, 1]", "a seed stands twice"),
        ("steps: 4", "steps: 3", "3 steps cannot be shared evenly by 2 blocks"),
        ('"mine.py:most"', '"mine.py:ends"', "two parsers are called 'ends'"),
        (
            "chat_template: none",
            "chat_template: none\n  few_shot: [{user: a, assistant: b}]",
            "turns need a chat template",
        ),
        ("protocol: 1", "protocol: 2", "must be 1"),
        ("temperature: 1.0, ", "", "sampler.temperature"),
    ],
)
def test_contradictions(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ProtocolErrors, match=said):
        load_protocol(write_protocol(tmp_path, TEXT.replace(old, new)))


def test_a_protocol_is_told_from_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_protocol("d1-gsm8k-256")
    assert is_protocol(str(write_protocol(tmp_path)))
    assert not is_protocol("llada_8b_gsm8k_diffu_grpo")
    assert not is_protocol("nowhere.yaml")
    (tmp_path / "mine.yaml").write_text("model: {path: tiny}\n")
    assert not is_protocol("mine.yaml")
    (tmp_path / "d1-gsm8k-256").mkdir()
    with pytest.raises(ProtocolErrors, match="names a protocol and the file or folder"):
        is_protocol("d1-gsm8k-256")
    assert not set(protocol_names()) & set(recipe_names())
    with pytest.raises(ProtocolErrors, match=r"did you mean d1-gsm8k-256\?"):
        load_protocol("d1-gsm8k-265")


@pytest.mark.parametrize("name", protocol_names())
def test_shipped_protocols(name: str) -> None:
    loaded = load_protocol(name)
    header = headline(loaded.file)
    assert header
    assert len(header) < 110
    assert loaded.protocol.source.code or loaded.protocol.source.kind == "own"
    assert loaded.protocol.data.rows
    text = loaded.file.read_text()
    assert all(
        len(line) <= 250 or line.startswith("  - ") or '"' in line or "\\n" in line for line in text.splitlines()
    )
    assert not any(
        line != line.rstrip() for line in text.splitlines()
    )  # an editor that strips blanks must not change a hash


@pytest.mark.parametrize("task", ["gsm8k", "math500", "countdown", "sudoku"])
def test_d1s_three_lengths_differ_in_length_alone(task: str) -> None:
    stated = {n: read_file(protocol_folder() / f"d1-{task}-{n}.yaml").data for n in (128, 256, 512)}
    for n, data in stated.items():
        assert (data["sampler"].pop("canvas"), data["sampler"].pop("steps")) == (n, n // 2)
        assert str(n) in data["source"].pop("what")
    assert stated[128] == stated[256] == stated[512]


def published(task: str) -> list[dict]:
    files = sorted((SHARED / "llada_generations").glob(f"{task}_*.json"))
    if not files:
        pytest.skip(f"shared data absent: {SHARED / 'llada_generations'}")
    return [row for file in files for row in json.loads(file.read_text())["generations"]]


def test_d1s_sudoku_subset_is_the_puzzles_that_d1_asked() -> None:
    subset = load_protocol("d1-sudoku-256").protocol.data.subset
    asked = {row["question"].rpartition(":")[2].strip() for row in published("sudoku")}
    with (SHARED / "d1_test" / "4x4_test_sudoku.csv").open() as file:
        puzzles = [row["Puzzle"] for row in csv.DictReader(file)]
    picked = _picked(len(puzzles), subset)
    assert len(picked) == 256
    assert {puzzles[i] for i in picked} == asked


@pytest.mark.parametrize("task", ["gsm8k", "math500", "countdown", "sudoku"])
def test_the_end_of_a_d1_prompt_is_the_question_that_d1_asked(task: str) -> None:
    """d1's published file holds the question after the instructions, rendered; ours must render alike."""
    protocol = load_protocol(f"d1-{task}-256").protocol
    question = published(task)[0]["question"]
    values = {"question": question, "problem": question}
    if task == "countdown":
        numbers, target = question.split("\nTarget: ")
        values = {"shown": numbers.removeprefix("Numbers: [").removesuffix("]"), "target": target}
    if task == "sudoku":
        values = {"puzzle": question.rpartition(": ")[2].strip()}
    assert protocol.prompt.template.format(**values).endswith("\n\n" + question)


def test_a_subset_is_drawn_as_numpy_draws_it() -> None:
    subset = load_protocol("d1-sudoku-256").protocol.data.subset
    assert subset is not None
    generator = np.random.RandomState(42)  # what np.random.seed(42) sets
    assert _picked(500, subset) == generator.permutation(500)[:256].tolist()
    assert _picked(5, None) == [0, 1, 2, 3, 4]


def test_the_page_shows_the_protocols_as_they_are() -> None:
    from scripts.protocol_table import PAGE, page

    assert PAGE.read_text(encoding="utf-8") == page(PAGE.read_text(encoding="utf-8")), "run scripts/protocol_table.py"


def test_the_protocol_on_the_page_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    assert load_protocol(tmp_path / "mine.yaml").protocol.seeds == (0, 1, 2)


@pytest.mark.parametrize("name", protocol_names())
def test_every_parser_of_a_shipped_protocol_is_there(name: str) -> None:
    parsers = load_protocol(name).protocol.parsers
    assert {parser.fn for parser in parsers if ":" not in parser.fn} <= set(available())
    for reward in load_rewards([parser.model_dump() for parser in parsers], base=Path.cwd()):
        if "parser" in reward.kwargs:
            assert reward.fn(completions=[], **reward.kwargs) == []  # names of tasks and rules that are there


def test_rows_of_a_file_that_holds_more(tmp_path: Path) -> None:
    """MBPP's own file holds the tasks of all splits: the protocol asks the test tasks, and calls that no change."""
    lines = [json.dumps({"task_id": i, "text": "t", "test_list": ["assert f(1) == 2"]}) for i in range(1, 975)]
    (tmp_path / "mbpp.jsonl").write_text("\n".join(lines))
    loaded = load_protocol("mbpp-256")
    policy = SimpleNamespace(max_length=10**4, tokenizer=character_tokenizer(chat=True))
    found, items = load_items(loaded, (), policy, str(tmp_path / "mbpp.jsonl"))
    assert not found.changes
    assert [prompt.columns["task_id"] for prompt in items.prompts] == list(range(11, 511))


@pytest.mark.parametrize("where", ["{task_id: {at_lest: 3}}", "{task_id: []}", "{task_id: null}"])
def test_what_picks_no_rows_is_refused(tmp_path: Path, where: str) -> None:
    with pytest.raises(ProtocolErrors, match="task_id"):
        load_protocol("mbpp-256", [f"data.where={where}"])

"""Data: files and rows in memory become prompts, rows that cannot are counted, and what is wrong is said plainly."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.config_schema import PromptConfig, Split
from rl.data import PromptSet, batches, load_split
from rl.errors import DataError
from rl.tables import read_table
from rollouts.families import LLADA
from rollouts.streams import Purpose
from rollouts.tiny import character_tokenizer

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "train.jsonl"
PLAIN = character_tokenizer()
CHAT = character_tokenizer(chat=True)


def load(split, prompt: PromptConfig | None = None, tokenizer: Any = PLAIN, **options) -> PromptSet:
    return load_split(split, prompt or PromptConfig(), tokenizer, **{"room": 100, **options})


def error(split, prompt: PromptConfig | None = None, tokenizer: Any = PLAIN, **options) -> str:
    with pytest.raises(DataError) as caught:
        load(split, prompt, tokenizer, **options)
    return str(caught.value)


def write(path: Path, rows: list[dict]) -> Split:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Split(path=str(path))


# --- formats

ROWS = [{"prompt": "1+1=", "answer": 2}, {"prompt": "2+2=", "answer": 4}]


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "folder"])
def test_every_format_gives_the_same_prompts(tmp_path, ending):
    from datasets import Dataset

    table = Dataset.from_list(ROWS)
    path = tmp_path / f"rows.{ending}"
    if ending == "folder":
        table.save_to_disk(str(path))
    elif ending == "json":
        path.write_text(json.dumps(ROWS))
    elif ending == "jsonl":
        table.to_json(str(path))
    else:
        getattr(table, f"to_{ending}")(str(path))
    loaded = load(Split(path=str(path)))
    assert [prompt.text for prompt in loaded.prompts] == ["1+1=", "2+2="]
    assert [prompt.columns for prompt in loaded.prompts] == [{"answer": 2}, {"answer": 4}]
    assert loaded.prompts[1].token_ids == tuple(PLAIN("2+2=", add_special_tokens=False).input_ids)
    assert loaded.dropped == {}
    assert str(path) in loaded.source


def test_rows_in_memory():
    from datasets import Dataset

    assert load(ROWS).prompts == load(Dataset.from_list(ROWS)).prompts
    assert load(ROWS).prompts[0].columns == {"answer": 2}


def test_csv_does_not_lose_zeros_and_numbers_stay_numbers(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,puzzle,count,share,note\na,0300,1,0.5,NA\nb,1234,,2.0,\n")
    columns = [prompt.columns for prompt in load(Split(path=str(path))).prompts]
    assert columns == [
        {"puzzle": "0300", "count": 1, "share": 0.5, "note": "NA"},
        {"puzzle": "1234", "count": None, "share": 2.0, "note": ""},
    ]


def test_csv_identifiers_of_sixteen_digits_stay_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,puzzle\na,3102200002100320\n")
    assert load(Split(path=str(path))).prompts[0].columns == {"puzzle": "3102200002100320"}


def test_limit_slice_and_columns(tmp_path):
    split = write(tmp_path / "a.jsonl", [{"q": f"{i}?", "a": i} for i in range(9)])
    changed = split.model_copy(update={"columns": {"prompt": "q", "answer": "a"}, "limit": 3, "split": "train[2:]"})
    prompts = load(changed).prompts
    assert [prompt.raw for prompt in prompts] == ["2?", "3?", "4?"]
    assert prompts[0].columns == {"answer": 2}


TASKS = [{"q": f"{i}?", "id": i, "kind": "odd" if i % 2 else "even", "hard": i > 4, "big": "x"} for i in range(9)]


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({"id": {"at_least": 3, "at_most": 5}}, [3, 4, 5]),
        ({"id": {"at_least": 3.5, "at_most": 5.5}}, [4, 5]),
        ({"id": {"at_least": 7}}, [7, 8]),
        ({"id": {"at_most": 1}}, [0, 1]),
        ({"id": {"at_least": 8, "at_most": 8}}, [8]),
        ({"id": [8, 2, "3"]}, [2, 8]),
        ({"id": 2}, [2]),
        ({"kind": "odd"}, [1, 3, 5, 7]),
        ({"kind": ["odd"], "id": {"at_least": 2, "at_most": 6}}, [3, 5]),
        ({"hard": True}, [5, 6, 7, 8]),
    ],
)
def test_rows_are_chosen_before_columns_are_renamed_and_before_the_limit(tmp_path, where, kept):
    columns = {"prompt": "q", "number": "id"}
    split = write(tmp_path / "a.jsonl", TASKS).model_copy(update={"where": where, "columns": columns})
    prompts = load(split).prompts
    assert [prompt.columns["number"] for prompt in prompts] == kept
    assert [prompt.columns["number"] for prompt in load(split.model_copy(update={"limit": 2})).prompts] == kept[:2]


def test_only_the_columns_asked_for_are_read(tmp_path):
    split = write(tmp_path / "a.jsonl", TASKS)
    chosen = split.model_copy(update={"only": ("q", "id"), "where": {"kind": "odd"}, "columns": {"prompt": "q"}})
    assert [prompt.columns for prompt in load(chosen).prompts] == [{"id": i} for i in (1, 3, 5, 7)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"where": {"idd": 1}}, "data.train.where: there is no column 'idd'\n    did you mean 'id'?"),
        ({"only": ("q", "ids")}, "data.train.only: there is no column 'ids'\n    did you mean 'id'?"),
        (
            {"where": {"id": {"at_least": 10, "at_most": 20}}},
            "no row has id at_least 10 and at_most 20\n    the first row has 0",
        ),
        ({"where": {"id": [10, 20]}}, "no row has id [10, 20]"),
        ({"where": {"id": "3"}}, "no row has id '3'"),
        ({"where": {"hard": 1}}, "no row has hard 1"),
        ({"where": {"kind": {"at_least": 0}}}, "no row has kind at_least 0"),
        ({"only": ("q",), "columns": {"prompt": "q", "number": "id"}}, "there is no column 'id'"),
    ],
)
def test_a_choice_that_leaves_nothing(tmp_path, changes, said):
    assert said in error(write(tmp_path / "a.jsonl", TASKS).model_copy(update=changes))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "must list text, numbers"),
        ([None], "must list text, numbers"),
        (None, "must be text, a number"),
        ({}, "a range is {at_least: number"),
        ({"min": 1}, "a range is {at_least: number"),
        ({"at_least": True}, "a range is {at_least: number"),
    ],
)
def test_a_choice_that_cannot_be_read(value, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Split(path="a.jsonl", where={"id": value})


def test_a_template_takes_items_of_a_list():
    rows = [{"text": "Add.", "tests": ["a", "b"]}, {"text": "Take.", "tests": ["c"]}, {"text": "x", "tests": None}]
    loaded = load(rows, PromptConfig(template="{text} {tests[0]} {{{tests[1]}}}"))
    assert [prompt.text for prompt in loaded.prompts] == ["Add. a {b}"]
    assert loaded.dropped == {"a list shorter than the template asks for": 1, "null column tests": 1}


def test_the_completion_is_for_fine_tuning_and_not_for_rewards():
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": None}, {"prompt": "e", "completion": ""}]
    loaded = load(rows, need_completion=True)
    assert [prompt.completion for prompt in loaded.prompts] == ["b"]
    assert loaded.dropped == {"empty completion": 2}
    assert loaded.prompts[0].columns == {}
    assert "'completion'" in error(ROWS, need_completion=True)
    messages = [{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}]
    assert load(messages).prompts[0].completion == "b"


# --- rendering


def test_plain_prompts_are_read_as_they_are():
    assert load(ROWS, PromptConfig(prefill="so ")).prompts[0].text == "1+1=so "
    assert load(ROWS, PromptConfig(system="Add.")).prompts[0].text == "Add.\n\n1+1="


def test_a_template_fills_columns_and_keeps_doubled_braces():
    rows = [{"question": "1+1", "answer": 2.0}]
    prompt = load(rows, PromptConfig(template="Q: {question} {{x}} {answer:.1f}")).prompts[0]
    assert prompt.raw == prompt.text == "Q: 1+1 {x} 2.0"
    assert prompt.columns == {"question": "1+1", "answer": 2.0}


def test_the_chat_template_wraps_text_and_messages_alike():
    config = PromptConfig(system="Add.", prefill="<a>")
    text = load(ROWS, config, CHAT).prompts[0]
    messages = load([{"prompt": [{"role": "user", "content": "1+1="}]}], config, CHAT).prompts[0]
    assert text.text == messages.text
    assert text.token_ids == messages.token_ids
    assert text.text.endswith("<a>")
    assert text.text.startswith("<|startoftext|>")
    assert "Add." in text.text
    # Rewards see what TRL would give them: text for text, messages for messages.
    assert text.raw == "1+1="
    assert messages.raw == [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1="}]


def test_the_chat_template_can_be_turned_off():
    assert load(ROWS, PromptConfig(chat_template="none"), CHAT).prompts[0].text == "1+1="


def test_markup_is_tokenised_once():
    ids = load(ROWS, None, CHAT).prompts[0].token_ids
    assert ids.count(CHAT.convert_tokens_to_ids("<|startoftext|>")) == 1  # pyright: ignore[reportArgumentType]


# --- rows that are dropped


def test_every_dropped_row_is_counted_under_its_reason():
    rows = [{"prompt": text} for text in ("ok", None, "", "  ", f"a{LLADA.mask_tokens[0]}b", "x" * 50)]
    loaded = load(rows, PromptConfig(max_length="drop"), room=10)
    assert [prompt.prompt_id for prompt in loaded.prompts] == [0]
    assert loaded.dropped == {
        "null prompt": 1,
        "empty prompt": 2,
        "prompt spells the mask token": 1,
        "prompt longer than 10 tokens": 1,
    }


def test_null_cells_of_a_template_drop_the_row():
    loaded = load([{"a": "x", "b": None}, {"a": "x", "b": "y"}], PromptConfig(template="{a}{b}"))
    assert (len(loaded), loaded.dropped) == (1, {"null column b": 1})


def test_empty_messages_are_empty_prompts():
    rows = [
        {"prompt": [{"role": "user", "content": "x"}]},
        {"prompt": []},
        {"prompt": [{"role": "user", "content": " "}]},
    ]
    assert load(rows).dropped == {"empty prompt": 2}


def test_the_mask_is_the_policy_s():
    policy = SimpleNamespace(tokenizer=PLAIN, mask_id=PLAIN("z").input_ids[0])
    assert load([{"prompt": "xyz"}, {"prompt": "xy"}], None, policy).dropped == {"prompt spells the mask token": 1}


# --- what is wrong


def test_a_prompt_too_long_names_row_and_lengths():
    said = error([{"prompt": "abc"}, {"prompt": "abcdefgh"}, {"prompt": "abcdef"}], room=5)
    assert "2 of 3 prompts" in said
    assert "row 1 has 8 tokens" in said
    assert "room for 5" in said
    assert "max_length: drop" in said


def test_a_missing_file_names_the_nearest(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    said = error(Split(path=str(tmp_path / "trian.jsonl")))
    assert "data.train.path" in said
    assert "did you mean 'train.jsonl'?" in said


def test_a_missing_column_names_the_nearest(tmp_path):
    split = write(tmp_path / "a.jsonl", [{"question": "x"}])
    said = error(split.model_copy(update={"columns": {"prompt": "qestion"}}))
    assert "data.train.columns.prompt" in said
    assert "did you mean 'question'?" in said
    assert "{prompt: question}" in error(split)


@pytest.mark.parametrize(
    ("columns", "said"),
    [({"prompt": "b"}, "already has a column 'prompt'"), ({"x": "b", "y": "b"}, "mapped twice")],
)
def test_columns_that_collide(tmp_path, columns, said):
    split = write(tmp_path / "a.jsonl", [{"prompt": "x", "b": "y"}])
    assert said in error(split.model_copy(update={"columns": columns}))


def test_columns_can_be_swapped(tmp_path):
    split = write(tmp_path / "a.jsonl", [{"prompt": "x", "b": "y"}])
    prompt = load(split.model_copy(update={"columns": {"prompt": "b", "b": "prompt"}})).prompts[0]
    assert (prompt.raw, prompt.columns) == ("y", {"b": "x"})


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", ""), ("a.csv", "prompt\n"), ("a.json", "[]")])
def test_an_empty_data_set(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert "the data set is empty" in error(Split(path=str(tmp_path / name)))


def test_empty_rows_in_memory():
    assert "the data set is empty" in error([])
    assert "not str" in error("rows")  # pyright: ignore[reportArgumentType]


def test_a_column_of_several_types():
    assert "a column holds values of several types" in error([{"prompt": "a", "n": 1}, {"prompt": "b", "n": "two"}])


def test_no_row_left():
    assert "no row of 2 is left: 2 empty prompt" in error([{"prompt": ""}, {"prompt": ""}])


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{quesion}", "did you mean 'question'?"),
        ("{}", "empty braces"),
        ("{question", "cannot be read"),
        ("solve it", "names no column"),
        ("{question.__class__}", "does not have"),
        ("{question[0].__class__}", "write {question}, or {question[0]}"),
        ("{question[x]}", "write {question}, or {question[0]}"),
        ("{quesion[0]}", "did you mean 'question'?"),
        ("{question:d}", "cannot be filled with a row"),
        ("{question!z}", "cannot be filled with a row"),
    ],
)
def test_a_template_that_does_not_fit(template, said):
    assert said in error([{"question": "x"}], PromptConfig(template=template))


@pytest.mark.parametrize(
    ("split", "said"),
    [("tarin", "did you mean 'train'?"), ("train[:3", "train[:100]"), ("train[5:5]", "empty")],
)
def test_a_split_that_is_not_there(tmp_path, split, said):
    assert said in error(write(tmp_path / "a.jsonl", ROWS).model_copy(update={"split": split}))


def test_a_file_that_is_not_what_it_says(tmp_path):
    for name in ("a.jsonl", "a.parquet"):
        (tmp_path / name).write_text("{nonsense")
        assert "cannot be read" in error(Split(path=str(tmp_path / name)))
    (tmp_path / "a.txt").write_text("x")
    assert "no known ending" in error(Split(path=str(tmp_path / "a.txt")))


def test_a_single_file_has_no_configurations(tmp_path):
    assert "leave name out" in error(write(tmp_path / "a.jsonl", ROWS).model_copy(update={"name": "main"}))


def test_a_hub_name_that_cannot_be_reached():
    said = error(Split(path="nobody/nothing"))
    assert "nobody/nothing" in said
    assert "check the name and the connection" in said


def test_conversations_need_a_chat_template():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert "the tokenizer has no chat template" in error([{"prompt": turns}])
    assert load([{"prompt": turns}], None, CHAT, room=200).prompts[0].raw == turns


def test_two_system_messages_are_refused():
    rows = [{"prompt": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}]
    assert "leave data.prompt.system out" in error(rows, PromptConfig(system="c"), CHAT)


def test_prompts_must_be_text():
    assert "row 0: the prompt must be text" in error([{"prompt": 5}])
    assert "a role and text content" in error([{"prompt": [{"from": "human", "value": "x"}]}])


# --- order


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 3))
def test_every_epoch_uses_every_item_once(count, size, seed):
    items = list(range(count))
    seen = [item for step in range(-(-3 * count // size)) for item in batches(items, size, seed, step)]
    for epoch in range(3):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == items


def test_the_order_is_a_function_of_seed_step_and_purpose():
    items = list(range(50))
    first = batches(items, 8, 0, 3)
    assert first == batches(items, 8, 0, 3)
    assert first != batches(items, 8, 1, 3)
    assert first != batches(items, 8, 0, 3, Purpose.SFT_DATA)
    epochs = [batches(items, 50, 0, step) for step in range(2)]
    assert epochs[0] != epochs[1]


def test_an_order_needs_items():
    with pytest.raises(ValueError, match="no items"):
        batches([], 4, 0, 0)


# --- real data


@pytest.mark.skipif(not GSM8K.is_file(), reason="real data not here: GSM8K")
def test_real_gsm8k_rows():
    split = Split(path=str(GSM8K), limit=50)
    loaded = load(split, PromptConfig(template="{question}", max_length="drop"), CHAT, room=300)
    assert len(loaded) + sum(loaded.dropped.values()) == 50
    assert all("####" in prompt.columns["answer"] for prompt in loaded.prompts)
    assert all(len(prompt.token_ids) <= 300 for prompt in loaded.prompts)


def test_numbers_in_the_text_columns_of_a_csv_stay_text(tmp_path: Path) -> None:
    file = tmp_path / "sums.csv"
    file.write_text("question,completion,answer\n12,3,4\n13,4,5\n")
    table = read_table(Split(path=str(file), columns={"prompt": "question"}), "data.train")
    assert list(table["prompt"]) == ["12", "13"]
    assert list(table["completion"]) == ["3", "4"]
    assert list(table["answer"]) == [4, 5]


@pytest.mark.parametrize("line", ["null", "[1, 2]", "3"])
def test_a_jsonl_whose_first_line_is_no_row(tmp_path: Path, line: str) -> None:
    file = tmp_path / "odd.jsonl"
    file.write_text(f'{line}\n{{"prompt": "ab"}}\n')
    with pytest.raises(DataError, match="not a row in braces"):
        read_table(Split(path=str(file)), "data.train")

"""Recipes: defaults, overrides, and every wrong one told at once, with file, line, nearest name and remedy."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rl.config import Problem, RecipeErrors, load_recipe
from rl.config_errors import COMMAND_LINE
from rl.config_explain import ELSEWHERE, _all_keys
from rl.config_schema import RolloutConfig, Split
from rl.config_yaml import parse_value, read_yaml, to_yaml
from rl.recipes import recipe_folder, recipe_names
from rollouts.spec import SamplerSpec

GOOD = {
    "model": {"path": "tiny"},
    "data": {"train": {"path": "some/dataset"}},
    "rewards": [{"fn": "sudoku.solved"}],
}


def merged(base: dict, changes: dict) -> dict:
    result = dict(base)
    for key, value in changes.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(value, dict) and isinstance(inner, dict) else value
    return result


def problems_of(source, overrides=(), **options) -> list[Problem]:
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(source, overrides, **options)
    return list(caught.value.problems)


def only_problem(changes: dict, overrides=(), **options) -> Problem:
    problems = problems_of(merged(GOOD, changes), overrides, **options)
    assert len(problems) == 1, [problem.render() for problem in problems]
    return problems[0]


# --- what a good recipe gives


def test_a_recipe_holds_only_what_differs():
    recipe = load_recipe(GOOD)
    assert recipe.rollout.sampler == SamplerSpec()
    assert recipe.method.preset == "trajectory_grpo"
    assert recipe.optim.betas == (0.9, 0.99)
    assert recipe.out == Path("runs/run")


def test_a_recipe_is_frozen():
    recipe = load_recipe(GOOD)
    with pytest.raises(ValidationError):
        recipe.optim.lr = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_the_resolved_recipe_reads_back_equal(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    changes = {
        "data": {"train": {"path": str(tmp_path / "rows.jsonl"), "columns": {"prompt": "on"}}},
        "eval": {"sampler": {"steps": 64}, "steps": [8, 256]},
        "model": {"lora": {"targets": ["q_proj"]}},
        "method": {"preset": "diffu_grpo", "reduction": {"constant": 256}},
        "warm_start": {"data": {"path": "x/y"}, "steps": 3, "lr": 1e-3},
        "rewards": [{"fn": "sudoku.solved", "name": "1e-5"}],
    }
    recipe = load_recipe(merged(merged(GOOD, {"data": {"eval": {"path": "a/b"}}}), changes))
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "again.yaml", ["name=null"]) == recipe.model_copy(update={"name": "again"})
    assert load_recipe(recipe) == recipe


def test_the_name_is_the_file_and_the_out_folder_follows(tmp_path):
    (tmp_path / "mine.yaml").write_text(to_yaml(GOOD))
    assert load_recipe(tmp_path / "mine.yaml").out == Path("runs/mine")


def test_the_evaluation_sampler_inherits_from_rollout_at_temperature_zero():
    changes = {
        "data": {"eval": {"path": "a/b"}},
        "rollout": {"canvas": 64, "block": 16, "steps": 16, "top_p": 0.9},
        "eval": {"sampler": {"steps": 64}},
    }
    sampler = load_recipe(merged(GOOD, changes)).eval.sampler  # pyright: ignore[reportOptionalMemberAccess]
    assert sampler == SamplerSpec(canvas=64, block=16, steps=64, top_p=0.9, temperature=0.0)


def test_a_changed_component_keeps_the_rest_of_its_preset():
    method = load_recipe(merged(GOOD, {"method": {"preset": "diffu_grpo", "kl": {"reference": "start"}}})).method
    assert (method.kl.beta, method.kl.reference, method.inner_passes) == (0.04, "start", 12)


def test_a_preset_may_stand_for_the_method():
    recipe = load_recipe(merged(GOOD, {"method": "raft"}))
    assert recipe.method.preset == "raft"


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = yaml.safe_load((recipe_folder() / f"{name}.yaml").read_text())
    splits = [*(written.get("data") or {}).values(), (written.get("warm_start") or {}).get("data")]
    for file in (split["path"] for split in splits if split and "path" in split):
        if Path(file).suffix in (".jsonl", ".csv"):  # the user's own, beside the recipe
            (tmp_path / file).write_text("")
    recipe = load_recipe(name)
    assert recipe.name == name


def test_shipped_recipes_open_with_a_header():
    for path in recipe_folder().glob("*.yaml"):
        assert path.read_text().startswith("# "), path


def test_local_files_are_found_beside_the_recipe_then_in_the_working_folder(tmp_path, monkeypatch):
    beside, working = tmp_path / "beside", tmp_path / "working"
    for folder, files in ((beside, ["a.jsonl"]), (working, ["a.jsonl", "b.jsonl"])):
        folder.mkdir()
        for file in files:
            (folder / file).write_text('{"prompt": "x"}\n')
    monkeypatch.chdir(working)
    (beside / "r.yaml").write_text(to_yaml(merged(GOOD, {"data": {"train": {"path": "a.jsonl"}}})))

    def train_path(*overrides: str) -> str:
        split = load_recipe(beside / "r.yaml", overrides).data.train
        assert isinstance(split, Split)
        return split.path

    assert train_path() == str(beside / "a.jsonl")
    assert train_path("data.train.path=b.jsonl") == str(working / "b.jsonl")
    assert train_path("data.train.path=a.jsonl") == str(working / "a.jsonl")  # what is typed is meant from here


def test_a_file_on_the_command_line_takes_the_place_of_a_hub_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text("{}\n")
    source = {**GOOD, "data": {"train": {"path": "owner/set", "name": "main", "split": "test[:50]"}}}

    def split(*overrides: str) -> tuple[str, str | None, str]:
        found = load_recipe(source, overrides).data.train
        assert found is not None
        return found.path, found.name, found.split

    assert split("data.train.path=a.jsonl") == (str(tmp_path / "a.jsonl"), None, "train[:50]")
    assert split("data.train.path=owner/other") == ("owner/other", "main", "test[:50]")
    # What was said is kept, and refused where it is read.
    assert split("data.train.path=a.jsonl", "data.train.split=test")[2] == "test"


def test_tiny_is_the_model_made_on_the_spot_even_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe(GOOD).model.path == "tiny"


# --- YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        (".5", 0.5),
        ("on", "on"),
        ("off", "off"),
        ("no", "no"),
        ("true", True),
        ("010", 10),
        ("1_000", 1000),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("null", None),
        ("", None),
        ("[0.9, 1e-1]", [0.9, 0.1]),
        ("'1e-5'", "1e-5"),
        ("-.inf", float("-inf")),
    ],
)
def test_scalars_are_yaml_1_2(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


SCALARS = st.text(max_size=8) | st.floats(allow_nan=False) | st.integers() | st.booleans() | st.none()


@given(st.dictionaries(st.text(max_size=8), SCALARS | st.lists(SCALARS, max_size=3)))
def test_plain_data_survives_the_way_through_yaml(data):
    document = read_yaml(to_yaml(data), "x")
    assert not document.problems
    assert document.data == data


@pytest.mark.parametrize(
    ("word", "value"), [("on", True), ("yes", True), ("off", False), ("no", False), ("true", True)]
)
def test_switches_may_be_words(word, value):
    assert load_recipe(GOOD, [f"train.deterministic={word}"]).train.deterministic is value


# --- one mistake, one message


@pytest.mark.parametrize(
    ("changes", "key", "said", "nearest"),
    [
        ({"lr": 1e-4}, "lr", "no such key", "optim.lr or warm_start.lr"),
        ({"optim": {"learning_rate": 1e-4}}, "optim.learning_rate", "no such key", "optim.lr"),
        ({"rollout": {"stesp": 4}}, "rollout.stesp", "no such key", "rollout.steps"),
        ({"num_generations": 4}, "num_generations", "no such key", "rollout.group_size"),
        ({"model": {"lora": {"rank": 8}}}, "model.lora.rank", "no such key", None),
        ({"rewards": [{"fn": "sudoku.solved", "wieght": 1}]}, "rewards.0.wieght", "no such key", "rewards.0.weight"),
        ({"rewards": [{"fn": "sudoku.solve"}]}, "rewards.0.fn", "sudoku.solved", None),
        ({"rewards": "sudoku.solved"}, "rewards", "must be a list", None),
        ({"rewards": []}, "rewards", "no reward function", None),
        ({"method": {"estimator": {"kind": "elbow"}}}, "method.estimator", "kind is the text 'elbow'", "elbo"),
        ({"method": {"estimator": {"draws": 3}}}, "method.estimator.draws", "no such key", None),
        ({"method": {"preset": "difu_grpo"}}, "method.preset", "no preset 'difu_grpo'", "diffu_grpo"),
        (
            {"method": {"reduction": {"constnt": 3}}},
            "method.reduction.constnt",
            "no such key",
            "method.reduction.constant",
        ),
        ({"rollout": {"selection": "entropie"}}, "rollout.selection", "must be", "entropy"),
        ({"rollout": {"steps": "4"}}, "rollout.steps", "whole number, but is the text '4'", None),
        ({"rollout": {"steps": True}}, "rollout.steps", "whole number, but is true", None),
        ({"rollout": {"steps": 128.0}}, "rollout.steps", "whole number", None),
        ({"rollout": {"top_p": 1.5}}, "rollout.top_p", "at most 1", None),
        ({"rollout": {"top_p": 0}}, "rollout.top_p", "greater than 0", None),
        ({"optim": {"lr": -1}}, "optim.lr", "at least 0", None),
        ({"optim": {"lr": "1e-5"}}, "optim.lr", "must be a number, but is the text", None),
        ({"optim": {"lr": float("inf")}}, "optim.lr", "finite", None),
        ({"optim": {"betas": [0.9]}}, "optim.betas", "too few items", None),
        ({"optim": {"betas": [0.9, 1.0]}}, "optim.betas.1", "less than 1", None),
        ({"optim": 5}, "optim", "must be a section", None),
        ({"name": 5}, "name", "must be text", None),
        ({"data": {"prompt": {"template": {"question": None}}}}, "data.prompt.template", "must be text", None),
        ({"train": {"deterministic": 1}}, "train.deterministic", "true or false", None),
        ({"model": {"lora": {"targets": 3}}}, "model.lora.targets", "must be 'auto', or must be a list", None),
        ({"warm_start": {"steps": 3}}, "warm_start.data", "is required", None),
        # combinations
        ({"rollout": {"canvas": 100}}, "rollout.block", "100 is not divisible by block 32", None),
        ({"rollout": {"canvas": 8}}, "rollout.block", "8 is not divisible by block 32", None),
        ({"rollout": {"steps": 12}}, "rollout.steps", "8 blocks", None),
        ({"rollout": {"steps": 4}}, "rollout.steps", "8 blocks", None),
        ({"rollout": {"steps": 512}}, "rollout.steps", "64 steps for a block of 32", None),
        ({"rollout": {"eos": "all"}}, "rollout.eos", "early_stop", None),
        ({"rollout": {"temperature": 0}}, "rollout.temperature", "nothing to learn", None),
        ({"rollout": {"group_size": 1}}, "method.advantage", "group_size is 1", None),
        ({"model": {"lora": {"dropout": 0.05}}}, "model.lora.dropout", "first ratio is not 1", None),
        ({"model": {"lora": {"targets": []}}}, "model.lora.targets", "empty", None),
        ({"model": {"quantization": "nf4"}}, "model.quantization", "model.lora", None),
        ({"model": {"attention": "flash_attention_2"}}, "model.attention", "bfloat16 only", None),
        ({"method": {"preset": "diffu_grpo"}}, "method.kl.reference", "neither model.lora nor model.adapter", None),
        ({"rewards": [{"fn": "sudoku.solved", "weight": 0}]}, "rewards.0.weight", "weight 0", None),
        ({"outcome": "solved"}, "outcome", "no reward 'solved'", "sudoku.solved"),
        ({"data": {"eval": {"path": "a/b"}}, "eval": None}, "data.eval", "nothing evaluates", None),
        ({"eval": {}}, "data.eval", "no prompts to evaluate on", None),
        ({"train": {"out": __file__}}, "train.out", "is a file", None),
        ({"train": {"out": f"{__file__}/deeper"}}, "train.out", "is a file", None),
    ],
)
def test_each_mistake_is_named_with_its_key(changes, key, said, nearest):
    problem = only_problem(changes)
    assert problem.key == key
    assert said in problem.message
    assert nearest is None or problem.nearest == nearest
    assert problem.file == "recipe (dict)"


@pytest.mark.parametrize("missing", ["model", "data", "rewards"])
def test_a_missing_section_is_asked_for(missing):
    problems = problems_of({key: value for key, value in GOOD.items() if key != missing})
    assert [problem.key.partition(".")[0] for problem in problems] == [missing]


def test_what_the_caller_provides_need_not_be_named():
    recipe = load_recipe({"model": {"path": "tiny"}}, provided=["data.train", "rewards"])
    assert recipe.data.train is None


def test_sft_needs_a_warm_start_and_nothing_else():
    assert only_problem({}, command="sft").key == "warm_start"
    load_recipe({"model": {"path": "tiny"}, "warm_start": {"data": {"path": "a/b"}, "steps": 2}}, command="sft")


def test_prompts_to_report_on_are_measured_before_and_after_unless_the_recipe_says_otherwise():
    assert load_recipe({**GOOD, "data": {**GOOD["data"], "eval": {"path": "a/b"}}}).eval is not None
    assert load_recipe(GOOD, provided=["data.eval"]).eval is not None
    assert load_recipe(GOOD).eval is None


def test_outcome_and_best_by_may_spell_a_reward_as_its_entry_does(tmp_path):
    (tmp_path / "mine.py").write_text("def a(completions, **_):\n    return [0.0]\n\n\nb = a\n")
    (tmp_path / "recipe.yaml").write_text(
        "model: {path: tiny}\ndata: {train: {path: a/b}, eval: {path: a/c}, validation: {path: a/d}}\n"
        "rewards: [{fn: mine.py:a, weight: 0.5}, {fn: mine.py:b, name: other}]\n"
        "eval: {every: 1}\nsave: {best_by: mine.py:a}\noutcome: mine.py:b\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert (recipe.outcome, recipe.save.best_by) == ("other", "a")
    assert load_recipe(recipe) == recipe


def test_a_superscript_is_no_number_of_a_list_item():
    (problem,) = problems_of(GOOD, ["rewards.²=1"])
    assert (problem.file, problem.key) == ("command line", "rewards.²")


def test_problems_stand_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Whatever finds them: keys, types, names of presets and rewards. Those of the command line have no line, and come last."""
    file = tmp_path / "bad.yaml"
    file.write_text(
        "model: {path: tiny, dtyp: bfloat16}\n"
        "data: {train: {path: some/rows, limt: 3}}\n"
        "rewards:\n"
        "  - {fn: gsm8k.corect}\n"
        "outcome: gsm8k.correkt\n"
        "rollout: {canvas: eight}\n"
        "method: {preset: grpoo}\n"
        "train: {updats: 3}\n"
    )
    found = [(one.line, one.key) for one in problems_of(file, ["optim.lrr=1"])]
    keys = [
        "model.dtyp",
        "data.train.limt",
        "rewards.0.fn",
        "outcome",
        "rollout.canvas",
        "method.preset",
        "train.updats",
    ]
    assert found == [*zip([1, 2, 4, 5, 6, 7, 8], keys, strict=True), (None, "optim.lrr")]


def test_a_nul_character_is_named_with_its_place(tmp_path):
    (problem,) = problems_of({**GOOD, "data": {"train": {"path": "a\0b.jsonl"}}})[:1]
    assert (problem.key, problem.message) == ("data.train.path", "holds a NUL character")
    file = tmp_path / "recipe.yaml"
    file.write_text('model:\n  path: "ti\\0ny"\n')
    assert ("model.path", 2) in [(one.key, one.line) for one in problems_of(file)]
    file.write_text("model:\n  path: ti\0ny\n")
    (problem,) = problems_of(file)
    assert (problem.line, problem.message) == (2, "this is not valid YAML: it holds the character U+0000")
    (problem,) = problems_of(GOOD, ["optim.lr=\0"])
    assert problem.key == "optim.lr"


def test_evaluation_steps_are_checked_against_the_evaluation_sampler():
    changes = {"data": {"eval": {"path": "a/b"}}, "eval": {"steps": [8, 9, 256]}}
    problem = only_problem(changes)
    assert problem.key == "eval.steps.1"
    assert "9 steps" in problem.message


def test_a_broken_sampler_is_reported_once_though_the_evaluation_inherits_it():
    changes = {"data": {"eval": {"path": "a/b"}}, "eval": {}, "rollout": {"canvas": 100}}
    assert only_problem(changes).key == "rollout.block"
    changes["rollout"] = {"canvas": "long"}
    assert only_problem(changes).key == "rollout.canvas"


# --- files and lines

BROKEN = """\
model:
  path: tiny
  lora: {r: 8, dropout: 0.1}
data:
  train: {path: rows.jsonl}
rollout:
  canvas: 100
  temprature: 0.5
  group_size: 1
  group_size: 8
optim:
  lr: -1
rewards:
  - {fn: sudoku.solvd}
"""


def test_all_problems_come_at_once_with_file_and_line(tmp_path):
    (tmp_path / "row.jsonl").write_text("{}\n")
    path = tmp_path / "broken.yaml"
    path.write_text(BROKEN)
    problems = problems_of(path, ["optim.lr=fast", "train.update=3", "nonsense"])
    told = {problem.key: (problem.line, problem.nearest) for problem in problems if problem.file == str(path)}
    assert told == {
        "rollout.group_size": (10, None),  # twice
        "rollout.temprature": (8, "rollout.temperature"),
        "model.lora.dropout": (3, None),
        "data.train.path": (5, "row.jsonl"),
        "rollout.block": (6, None),
        "rewards.0.fn": (14, None),
        "method.advantage": (None, None),
    }
    typed = {problem.key: problem.nearest for problem in problems if problem.file == COMMAND_LINE}
    assert typed == {"nonsense": None, "optim.lr": None, "train.update": "train.updates"}


@pytest.mark.parametrize("key", sorted(RolloutConfig.model_fields))
def test_a_misspelt_key_of_the_rollout_is_one_problem(key):
    """The field it was meant for holds its default, which nobody chose: what hangs on that is not said."""
    own = {"canvas": 8, "block": 4, "steps": 2, "group_size": 4, "eos": "all", "early_stop": False}
    value = own.pop(key, "nonsense")
    problem = only_problem({"rollout": {**own, f"{key}z": value}})
    assert (problem.key, problem.nearest) == (f"rollout.{key}z", f"rollout.{key}")


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"data": {"hold_out": [{"against": "eval"}]}}, ["data.hold_out.0.by", "data.hold_out.0.against"]),
        ({"data": {"hold_out": [{"by": "text"}]}}, ["data.hold_out.0.against"]),
        ({"data": {"hold_out": [{"against": {"path": "a/b"}, "by": "sodoku", "columns": {"puzzle": "p"}}]}},
         ["data.hold_out.0.by"]),
        ({"rollout": {"steps": "many"}, "eval": {}}, ["rollout.steps", "data.eval"]),
        ({"rollout": {"selection": "best"}, "eval": {}}, ["rollout.selection", "data.eval"]),
        ({"rollout": {"canvas": 0}, "data": {"eval": {"path": "a/b"}}, "eval": {"every": 0}, "save": {"best_by": "reward"}},
         ["rollout.canvas"]),
    ],
)  # fmt: skip
def test_a_mistake_in_one_section_hides_none_in_another(changes, keys):
    """What hangs on the first is not said; what stands by itself is."""
    alone = [problem.key for problem in problems_of(merged(GOOD, changes))]
    assert [key for key in alone if key != "save.best_by"] == keys
    assert ("save.best_by" in alone) == ("save" in changes)
    both = merged(GOOD, merged(changes, {"model": {"lora": {"targets": []}}, "health": {"eval_falls": "stop"}}))
    assert {*keys, "model.lora.targets", "health.eval_falls"} <= {problem.key for problem in problems_of(both)}


def test_what_acts_on_validation_needs_something_measured():
    changes = {"data": {"validation": {"path": "a/b"}}, "health": {"eval_falls": "stop"}, "eval": None}
    problem = only_problem(changes)
    assert (problem.key, problem.message) == ("health.eval_falls", "is stop, and nothing is measured during the run")


def test_a_name_from_elsewhere_gives_no_second_problem():
    problem = only_problem({"rollout": {"gen_length": 8, "block": 4, "steps": 2}})
    assert (problem.key, problem.nearest) == ("rollout.gen_length", "rollout.canvas")


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"rewards": [{"fn": "sudoku.solve"}], "outcome": "nothing"}, ["rewards.0.fn", "outcome"]),
        ({"rewards": [{"fn": "sudoku.solve"}], "outcome": "sudoku.solved"}, ["rewards.0.fn"]),  # right once that is mended
        ({"rewards": [{"fn": "sudoku.solve"}], "outcome": "sudoku.solve"}, ["rewards.0.fn", "outcome"]),
        ({"rewards": [{"fn": "sudoku.solve", "name": "grid"}], "outcome": "grid"}, ["rewards.0.fn"]),
        ({"rewards": [{"fn": "none.py:short"}], "outcome": "short"}, ["rewards.0.fn"]),
        ({"rewards": [{"fn": "none.py:short"}], "outcome": "correct"}, ["rewards.0.fn", "outcome"]),
        ({"rewards": [{"fn": "sudoku.cells", "kwargs": {"compat": "d2"}}], "outcome": "sudoku.cells_d1"},
         ["rewards.0.kwargs.compat"]),
        ({"rewards": [{"fn": "sudoku.solved", "weight": "much"}, {"fn": "sudoku.cels"}], "outcome": "nothing"},
         ["rewards.0.weight", "rewards.1.fn", "outcome"]),
        ({"rewards": [{"weight": 1}], "outcome": "nothing"}, ["rewards.0.fn"]),
        ({"rewards": [{"fm": "sudoku.solved"}], "outcome": "sudoku.solved"}, ["rewards.0.fn", "rewards.0.fm"]),
        ({"rewards": [5, {"fn": "sudoku.cels"}]}, ["rewards.0", "rewards.1.fn"]),
    ],
)  # fmt: skip
def test_an_unknown_reward_hides_no_other_problem(changes, keys):
    assert [problem.key for problem in problems_of(merged(GOOD, changes))] == keys


def test_the_rendered_text_is_plain(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(to_yaml(GOOD) + "lr: 1.0\n")
    text = str(RecipeErrors(problems_of(path)))
    line = len(path.read_text().splitlines())
    assert text == (
        "1 problem with this recipe; nothing was started:\n\n"
        f"{path}:{line}  lr\n    there is no such key\n    did you mean optim.lr or warm_start.lr?"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\nb: 2", "not valid YAML"),
        ("- a\n", "mapping of sections"),
        ("a: b: c", "not valid YAML"),
        ("a: &x [*x]", "nested deeper than 50 levels"),
        ("\ta: 1", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, text, said):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    problems = problems_of(path)
    assert said in problems[0].message


def test_an_empty_file_is_asked_for_everything(tmp_path):
    (tmp_path / "r.yaml").write_text("")
    assert {problem.key for problem in problems_of(tmp_path / "r.yaml")} == {"model", "rewards", "data.train"}


def test_a_missing_recipe_names_the_nearest(tmp_path):
    (tmp_path / "sudoku.yaml").write_text("")
    problem = problems_of(tmp_path / "sudokku.yaml")[0]
    assert problem.nearest == str(tmp_path / "sudoku.yaml")
    assert problems_of("llada_8b_gsm8k_difu_grpo")[0].nearest == "llada_8b_gsm8k_diffu_grpo"
    assert "folder" in problems_of(tmp_path)[0].message


# --- overrides


def test_overrides_reach_into_lists_and_absent_sections():
    recipe = load_recipe(GOOD, ["rewards.0.weight=0.5", "model.lora.r=8", "optim.betas=[0.8, 0.9]", "eval=null"])
    assert recipe.rewards[0].weight == 0.5
    assert recipe.model.lora is not None
    assert recipe.model.lora.r == 8
    assert recipe.optim.betas == (0.8, 0.9)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.lr", "not an override"),
        ("=3", "not an override"),
        ("optim.lr.x=3", "is a section with x"),
        ("rewards.3.weight=1", "a list of 1"),
        ("model.path.x=1", "has no keys"),
        ("train.updates=[1", "not valid YAML"),
    ],
)
def test_overrides_that_cannot_be(override, said):
    problems = problems_of(GOOD, [override])
    assert problems[0].file == COMMAND_LINE
    assert said in problems[0].message


def test_the_caller_s_mapping_is_left_alone():
    source = merged(GOOD, {"optim": {"lr": 1e-3}})
    load_recipe(source, ["optim.lr=1e-4"])
    assert source["optim"] == {"lr": 1e-3}
    assert "method" not in source


def test_names_from_elsewhere_point_at_keys_that_exist():
    assert set(ELSEWHERE.values()) <= set(_all_keys())


def test_an_unknown_key_everywhere_in_the_schema_is_refused():
    """No section lets a stray key pass, whatever room it is defined in."""
    full = load_recipe(
        merged(
            GOOD,
            {
                "model": {"lora": {}},
                "warm_start": {"data": {"path": "a/b"}, "steps": 1},
                "data": {"eval": {"path": "a/b"}},
                "eval": {},
            },
        )
    ).model_dump(mode="json")

    def sections(node, path=()):
        if isinstance(node, dict):
            yield path
            for key, value in node.items():
                yield from sections(value, (*path, key))
        elif isinstance(node, list):
            for index, value in enumerate(node):
                yield from sections(value, (*path, index))

    free = {"columns", "kwargs", "where", "task"}  # mappings whose keys are the user's
    checked = 0
    for path in sections(full):
        if path and path[-1] in free:
            continue
        problems = problems_of(full, [".".join(map(str, (*path, "zzz"))) + "=1"])
        assert [problem.key for problem in problems] == [".".join(map(str, (*path, "zzz")))]
        checked += 1
    assert checked > 15


# --- what chooses a checkpoint or an end


@pytest.mark.parametrize("key", ["save.best_by", "stop.plateau"])
def test_choosing_needs_a_split_of_its_own(key, tmp_path):
    section, name = key.split(".")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1", "puzzle": "0"}\n')
    value = "sudoku.solved" if name == "best_by" else 2
    wanted = {section: {name: value}, "eval": {"every": 5}, "data": {"eval": {"path": str(rows)}}}
    problem = only_problem(wanted)
    assert problem.key == key
    assert "data.eval is only reported" in problem.message
    own = {"validation": {"path": str(rows), "limit": 1}, "eval": {"path": str(rows)}}
    load_recipe(merged(GOOD, {**wanted, "data": own}))
    same = {"validation": {"path": str(rows)}, "eval": {"path": str(rows)}}
    assert "is the same split as data.eval" in only_problem({**wanted, "data": same}).message
    never = {**wanted, "data": own, "eval": {"every": 0}}
    assert only_problem(never).message == "nothing is measured during the run"
    assert "nothing looks at it" in only_problem({"data": own, "eval": {"every": 5}}).message
    misspelt = merged(GOOD, {**wanted, "data": own, "save": {"best_by": "solved"}})
    found = problems_of(misspelt)
    assert [(one.key, one.nearest) for one in found] == [("save.best_by", "sudoku.solved")]


def test_a_sink_that_is_not_installed_is_said_before_the_run(monkeypatch):
    monkeypatch.setattr("rl.config_checks.missing", list)
    problem = only_problem({"track": {"sinks": ["wandb"]}})
    assert problem.key == "track.sinks"
    assert "unmask[track]" in (problem.remedy or "")


@pytest.mark.parametrize("overrides", [["method.kl.beta=0.1"], ["method=espo", "method.kl.beta=0.1"]])
def test_overrides_reach_into_a_method_given_by_name(overrides):
    source = merged(GOOD, {"method": "diffu_grpo", "model": {"lora": {"r": 4}}})
    method = load_recipe(source, overrides).method
    assert (method.preset, method.kl.beta) == ("espo" if len(overrides) > 1 else "diffu_grpo", 0.1)
    assert source["method"] == "diffu_grpo"
    assert problems_of(source, ["method.kl.bata=0.1"])[0].nearest == "method.kl.beta"

"""`unmask diagnose`: the whole way from a recipe to table, picture, page and words."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import unmask
from rl.cli import app
from rl.config import RecipeErrors, load_recipe
from rl.diagnose import diagnose
from rl.diagnose_candidates import candidates, describe, measured_method
from rl.diagnose_report import as_json, show
from rl.diagnose_rows import Diagnosis, Row
from rl.diagnose_words import advice, frontier, rivals
from rl.errors import CommandError
from rl.estimators import Sandwich
from rl.likelihood import Elbo, MeanField, Trajectory
from rl.presets import PRESETS
from rl.progress import Reporter
from rl.run import plain
from tests.oracles.runs import ROWS, recipe, written
from tests.oracles.training import tiny_folder

QUIET: dict[str, Any] = {"reporter": Reporter(quiet=True), "train_dataset": ROWS}
SMALL = {"train": {"prompts_per_update": 4, "micro_batch": 64}, "rollout": {"group_size": 2, "max_rows": 8}}


def worth_of_text(text: str) -> float:
    """A number that hardly two texts share."""
    return sum((place + 1) * (int(char) + 1) for place, char in enumerate(text)) / 100


def digits(completions: list[str], **_: Any) -> list[float]:
    return [worth_of_text(text) for text in completions]


def same(completions: list[str], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def first_only(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
    return [float(p == ROWS[0]["prompt"]) * worth_of_text(text) for p, text in zip(prompts, completions, strict=True)]


def run(base: Path, rewards: Any = digits, sections: dict[str, Any] | None = None, **options: Any) -> Diagnosis:
    source = recipe(base, **{**SMALL, **(sections or {})})
    return diagnose(source, reward_funcs=rewards, **{**QUIET, "plans": 2, "budget": 4, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("diagnose") / "base")


@pytest.fixture
def only_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not hang on how many estimators there are is tried with the first three."""
    monkeypatch.setattr("rl.diagnose.candidates", lambda recipe: (candidates(recipe)[0][:3], candidates(recipe)[1]))


@pytest.fixture(scope="module")
def found(base: Path) -> Diagnosis:
    return run(base)


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(one) for key, one in value.items() if key not in ("seconds", "peak_bytes", "provenance")}
    return [untimed(one) for one in value] if isinstance(value, list) else value


def test_what_a_diagnosis_holds(found: Diagnosis) -> None:
    by_name = {row.name: row for row in found.rows}
    assert found.groups == 4
    assert found.joint
    assert found.record_gap < 1e-4
    exact = by_name["trajectory (order)"]
    assert exact is found.rows[0] is found.leader
    assert exact.exact
    assert (exact.cosine["value"], exact.worth["value"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert exact.value.gap_rms == pytest.approx(0.0, abs=1e-5)
    tokens = by_name["trajectory"]
    assert tokens.value_tokens.gap_rms == pytest.approx(0.0, abs=1e-5)
    assert tokens.cosine_tokens == pytest.approx(1.0)
    assert tokens.step.error == pytest.approx(0.0, abs=1e-6)
    assert tokens.own
    assert "trajectory_grpo" in tokens.used_by
    for row in found.rows:
        assert row.averaged == (max(1, int(4 / row.views)))
        assert row.affordable == (row.views <= 4)
        assert row.random or row.plans == 1
        assert row.worth["value"] <= 1.0 + 1e-6
        assert row.peak_bytes > 0
        assert row.seconds > 0
        assert row.curve[0][0] == pytest.approx(row.views)
        assert not row.random or [b >= a - 1e-9 for (_, a), (_, b) in zip(row.curve, row.curve[1:], strict=False)]
    assert by_name["sandwich"].linear is False
    assert "more than the 4 denoising steps" in found.refused["trajectory (raw, segments 8), of d2"]


def test_every_preset_is_measured_or_refused(found: Diagnosis) -> None:
    used = {name for row in found.rows for name in row.used_by}
    refused = {name.rpartition(", of ")[2] for name in found.refused}
    assert used | refused >= set(PRESETS)


def test_it_is_the_same_twice_and_another_seed_is_another(only_three: None, base: Path) -> None:
    one, again = run(base), run(base)
    assert untimed(plain(as_json(one))) == untimed(plain(as_json(again)))
    other = run(base, sections={"train": {"prompts_per_update": 4, "micro_batch": 64, "seed": 1}})
    assert untimed(plain(as_json(other))) != untimed(plain(as_json(one)))


def test_no_signal_is_said_and_not_measured(base: Path) -> None:
    with pytest.raises(CommandError, match=r"all rewards are 0 \(8 rollouts of 4 prompts\).*partial credit"):
        run(base, same)
    with pytest.raises(CommandError, match="none of the 8 rollouts of 4 prompts is verified"):
        run(base, same, {"method": {"preset": "raft"}})


def test_too_little_signal_is_said(only_three: None, base: Path) -> None:
    few = run(base, first_only)
    assert few.groups == 1
    assert few.leader is None
    words = " ".join(advice(few))
    assert "Cannot tell: of 4 prompts only 1 prompt has rollouts with different rewards" in words
    assert "--prompts 32" in words  # four times four with a signal
    assert "has the best" not in words


def test_temperature_zero_is_refused_as_in_training(base: Path) -> None:
    with pytest.raises(RecipeErrors, match=r"rollout.temperature[\s\S]*nothing to learn from"):
        run(base, sections={"rollout": {"group_size": 2, "temperature": 0.0}})


@pytest.mark.parametrize(
    ("selection", "said"), [("random", "does not depend on the policy"), ("entropy", "no density")]
)
def test_other_selections_have_another_law(only_three: None, base: Path, selection: str, said: str) -> None:
    rows = run(base, sections={"rollout": {"group_size": 2, "selection": selection}})
    assert not rows.joint
    assert said in " ".join(advice(rows))
    leader = rows.leader
    assert leader is not None
    assert leader.name == "trajectory"
    assert any(name.startswith("trajectory (order)") for name in rows.refused)


def test_lora_and_a_run_and_its_checkpoint(only_three: None, base: Path, tmp_path: Path, own_folder: None) -> None:
    source = recipe(base, **{**SMALL, "model": {"lora": {"r": 2, "alpha": 4}}, "train": {"updates": 1, "out": "one"}})
    (tmp_path / "mine.py").write_text(
        "def share(completions, **_):\n    return [sum(map(int, c)) / 72 for c in completions]\n"
    )
    source["rewards"] = [{"fn": f"{tmp_path / 'mine.py'}:share"}]
    source["data"] = {"train": {"path": written(ROWS, tmp_path / "rows.jsonl")}}
    Path("recipe.yaml").write_text(json.dumps(source))
    unmask.train("recipe.yaml", reporter=Reporter(quiet=True))
    options: dict[str, Any] = {"reporter": Reporter(quiet=True), "plans": 2, "budget": 1, "prompts": 2}
    fresh = diagnose("recipe.yaml", **options)
    for target in ("one", "one/checkpoints/update-000001"):
        trained = diagnose(target, **options)
        assert trained.parameters == fresh.parameters  # the adapter, not the model
        assert [row.worth for row in trained.rows] != [row.worth for row in fresh.rows]
    assert diagnose("recipe.yaml", model=str(base), **options).parameters == fresh.parameters
    dear = [row for row in trained.rows if not row.affordable]
    assert dear
    assert list(trained.rows[-len(dear) :]) == dear  # ranked last, whatever they are worth
    assert "Beyond the budget" in " ".join(advice(replace(trained, groups=9)))


def test_the_command_leaves_its_files(base: Path, tmp_path: Path, own_folder: None) -> None:
    source = recipe(base, **SMALL)
    Path("mine.py").write_text(
        "def share(completions, **_):\n    return [sum(map(int, c)) / 72 for c in completions]\n"
    )
    source["rewards"] = [{"fn": "mine.py:share"}]
    source["data"] = {"train": {"path": written(ROWS, tmp_path / "rows.jsonl")}}
    Path("toy.yaml").write_text(json.dumps(source))
    args = ["diagnose", "toy.yaml", "rollout.selection=random", "--prompts", "4", "--plans", "2", "--budget", "2"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    folder = Path("runs/toy-diagnose")
    written_value = json.loads((folder / "diagnose.json").read_text())
    assert written_value["sampler"]["selection"] == "random"
    assert {"worth", "cosine", "snr", "views", "value", "step", "seconds"} <= set(written_value["rows"][0])
    assert (folder / "diagnose.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "diagnose.html").read_text()
    assert "data:image/png;base64," in page
    assert not re.findall(r"(?:src|href)='?http", page)
    for sentence in written_value["advice"]:
        assert sentence.split(" ")[0] in page
    assert "worth" in result.output
    assert "wrote" in result.output
    assert str(folder / "diagnose.html") in result.output.replace("\n", "")
    Path("taken").write_text("")
    refused = CliRunner().invoke(app, [*args, "--out", "taken/here"])
    assert refused.exit_code == 2
    assert "taken is a file" in refused.stderr


# ---- words


def with_rows(found: Diagnosis, *changes: dict[str, Any]) -> Diagnosis:
    """The first rows of a diagnosis with other numbers, none of them the target itself."""
    plain_row = {
        "random": True,
        "affordable": True,
        "rival": 0.0,
        "snr": 5.0,
        "views": 1.0,
        "averaged": 4,
        "used_by": (),
    }
    rows = []
    for index, change in enumerate(changes):
        values = {**plain_row, "name": f"e{index}", **change}
        for key in ("worth", "cosine"):
            if isinstance(values.get(key), float):
                values[key] = {"value": values[key], "low": values[key] - 0.05, "high": values[key] + 0.02}
        values.setdefault("curve", ((values["views"], values["worth"]["value"]),))
        rows.append(replace(found.rows[0], **values))
    return replace(found, rows=tuple(rows), groups=16, prompts=16, budget=4)


def test_ties_are_said_and_the_quickest_of_them_named(found: Diagnosis) -> None:
    some = with_rows(
        found,
        {"worth": 0.8, "cosine": 0.99, "seconds": 3.0, "rival": 1.0},
        {"worth": 0.78, "cosine": 0.98, "seconds": 1.0, "rival": 0.3},
        {"worth": 0.2, "cosine": 0.5, "seconds": 0.1, "rival": 0.04},
    )
    assert [row.name for row in rivals(some)] == ["e1"]
    hair = with_rows(found, {"worth": 0.8, "cosine": 0.99}, {"worth": 0.79, "cosine": 0.99, "rival": 0.0})
    assert [row.name for row in rivals(hair)] == ["e1"]  # always a little behind, and not worth a thought
    words = advice(some)
    assert words[0].startswith("At 4 views per rollout, e0 has the best signal-to-noise")
    assert "80 % [75 %, 82 %]" in words[0]
    assert words[1].startswith("Within noise: e1 is not told apart from e0")
    assert "Of these, e1 takes the least time" in words[1]
    assert "--prompts 32" in words[1]


def test_the_least_variance_is_not_recommended_for_it(found: Diagnosis) -> None:
    some = with_rows(
        found,
        {"worth": 0.8, "cosine": 0.99, "snr": 4.0},
        {"worth": 0.25, "cosine": 0.5, "snr": math.inf, "random": False},
    )
    words = " ".join(advice(some))
    assert some.leader is some.rows[0]
    assert "By variance alone one would take e1, which has no variance at all" in words
    assert "worth 25 %" in words
    assert "Biased for this purpose: the gradients of e1" in words


def test_the_recipes_own_place_and_smaller_budgets(found: Diagnosis) -> None:
    some = with_rows(
        found,
        {"worth": 0.8, "cosine": 0.99, "views": 4.0, "averaged": 1},
        {"worth": 0.4, "cosine": 0.9, "curve": ((1.0, 0.1), (2.0, 0.3), (4.0, 0.4))},
        {"worth": 0.35, "cosine": 0.7, "used_by": ("this recipe",), "curve": ((1.0, 0.2), (2.0, 0.25))},
    )
    words = " ".join(advice(some))
    assert "This recipe's own estimator, e2, is worth 35 % [30 %, 37 %]: place 3 of 3" in words
    assert [(views, row.name, worth) for views, row, worth in frontier(some)] == [(1, "e2", 0.2), (2, "e1", 0.3)]
    assert "1 view: e2 (20 %); 2 views: e1 (30 %)" in words


def test_nothing_stands_out(found: Diagnosis) -> None:
    some = with_rows(found, {"worth": 0.0, "cosine": math.nan, "snr": 0.0})
    assert some.leader is None
    assert "no estimator's gradient stands out of its noise" in advice(some)[0]


def test_the_table_is_for_people(found: Diagnosis) -> None:
    console = Console(width=110, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(found, console)
    text = console.export_text()
    assert "estimator" in text
    assert "trajectory (order)" in text
    assert "nan" not in text
    assert "not applicable: trajectory (raw, segments 8), of d2" in text


# ---- candidates


def test_candidates_are_whole_rows_and_each_law_once() -> None:
    source = load_recipe(recipe(Path("somewhere/model")), provided=("data.train", "rewards"))
    entries, _ = candidates(source)
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names)
    assert names[0] == "trajectory"
    assert all(entry.estimator.unit == "sequence" and not entry.estimator.length_normalized for entry in entries)
    assert {entry.estimator.kind for entry in entries} >= {"trajectory", "mean_field", "elbo", "coupled", "sandwich"}
    drawn = measured_method(source, {"kind": "elbo", "draws": 16, "unit": "draw"}).estimator
    assert drawn == Elbo(draws=1, length_normalized=False)
    kept = measured_method(source, {"kind": "elbo", "draws": 4, "levels": "stratified"}).estimator
    assert kept == Elbo(draws=4, levels="stratified", length_normalized=False)
    assert describe(kept) == "elbo (draws 4, stratified)"
    bent = measured_method(source, {"kind": "sandwich", "draws": 3}).estimator
    assert bent == Sandwich(draws=3, length_normalized=False)  # not linear: its draws matter


def test_names() -> None:
    assert describe(Trajectory(order=True, unit="step")) == "trajectory (order)"
    assert describe(Trajectory(law="raw", segments=8)) == "trajectory (raw, segments 8)"
    assert describe(MeanField(prompt_mask_prob=0.0)) == "mean_field (prompt mask prob 0)"
    assert describe(Sandwich()) == "sandwich"


def test_a_row_knows_the_target(found: Diagnosis) -> None:
    assert [row.exact for row in found.rows] == [row.name == "trajectory (order)" for row in found.rows]
    assert isinstance(found.rows[0], Row)

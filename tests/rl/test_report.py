"""The report's data and file: what is read, what is left out and said, and that nothing written by a model becomes markup."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.config import load_recipe
from rl.config_yaml import read_file, to_yaml
from rl.health_config import HealthConfig
from rl.recipes import recipe_names
from rl.report import MAX_RUNS, ReportError, payload, run_names, write_report
from rl.report_data import MAX_POINTS, embedded, read_run
from rl.report_facts import facts, recipe_differences, sampler_differences
from rl.report_panels import ALARM_METRICS
from rl.report_rollouts import MAX_ROWS, spread
from rl.samples import read_samples, write_samples
from tests.oracles.report_runs import write_lines, write_run

ATTACK = "</script><script>hit=1</script><img src=x onerror=hit=1><!-- ${data} \u2028"


class Page(HTMLParser):
    """Tags, attributes and the texts of script and style elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag in ("script", "style")
        if self.inside:
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data


def data_of(path: Path) -> dict[str, Any]:
    """The data in a report."""
    page = Page(path.read_text(encoding="utf-8"))
    kinds = [attrs.get("type") for tag, attrs in page.tags if tag in ("script", "style")]
    return json.loads(page.texts[kinds.index("application/json")])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of 12 updates."""
    return write_run(tmp_path_factory.mktemp("runs") / "small", updates=12, every=4, canvas=64, steps=32)


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """The same run, to damage."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def one(folder: Path) -> dict[str, Any]:
    return data_of(write_report([folder]))["runs"][0]


# --- one file, small, closed


def test_a_run_of_500_updates_stays_under_5_mb_and_says_what_is_left_out(tmp_path):
    long = write_run(tmp_path / "long", updates=500, rollouts=4, canvas=256, steps=128)
    path = write_report([long])
    assert path == long / "report.html"
    assert path.stat().st_size < 5_000_000
    told = data_of(path)["runs"][0]
    assert any("of 500 updates" in note for note in told["notes"])
    kept = [found["update"] for found in told["rollouts"] if found["update"] is not None]
    assert len(kept) > 50
    assert (kept[0], kept[-1]) == (0, 499)
    assert max(np.diff(kept)) <= 3 * min(np.diff(kept))


def test_rollouts_of_any_size_stay_within_the_budget(tmp_path, monkeypatch):
    large = write_run(tmp_path / "large", updates=6, rollouts=MAX_ROWS + 8, canvas=128)
    monkeypatch.setattr("rl.report.ROLLOUT_BYTES", 60_000)
    told = one(large)
    assert len(embedded(told["rollouts"])) < 110_000
    assert any("eval-start.parquet: " in note and f"of {MAX_ROWS + 8} rollouts" in note for note in told["notes"])


def test_the_page_asks_for_nothing_and_allows_only_its_own_script_and_style(run):
    text = write_report([run]).read_text(encoding="utf-8")
    page = Page(text)
    for tag, attrs in page.tags:
        assert tag in {"html", "head", "meta", "link", "title", "style", "body", "a", "header", "nav", "button"} | {
            *("span", "main", "noscript", "section", "footer", "script")
        }
        assert not {name for name in attrs if name.startswith("on") or name == "src"}, tag
        assert (attrs.get("href") or "").startswith(("#", "data:", "")), tag
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    style, _, script = page.texts
    for kind, body in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none'")
    assert "unsafe" not in str(policy)
    assert set(re.findall(r"https?://[^\s'\"`]+", style + script)) <= {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in script
    assert "@import" not in style
    assert "url(" not in style


# --- nothing written by a model is markup


def test_texts_cannot_leave_their_script_element(copy):
    hostile = write_run(copy, name=ATTACK, updates=3, every=1, canvas=64, steps=32, texts=[ATTACK])
    row = {"update": 1, "monitor": ATTACK, "level": "warn", "message": ATTACK, "remedy": ATTACK}
    write_lines(hostile / "health.jsonl", [row])
    with (hostile / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"update": 3, f"user/{ATTACK}": 1.0}) + "\n")
    text = write_report([hostile]).read_text(encoding="utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == ["script", "script"]
    assert text.count("</script>") == 2
    told = data_of(hostile / "report.html")
    assert told["runs"][0]["name"] == ATTACK
    assert told["runs"][0]["alarms"][0]["message"] == ATTACK
    written = "".join(told["tokens"][i][1] for i in told["runs"][0]["rollouts"][0]["rows"][0]["tokens"])
    assert written.startswith(ATTACK[:40])


@given(st.recursive(st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.none(), st.lists, max_leaves=5))
def test_what_is_embedded_comes_back_and_holds_no_markup(value):
    text = embedded(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)
    text.encode()  # no lone surrogates


def test_lone_surrogates_are_escaped():
    assert json.loads(embedded("\ud800<")) == "\ud800<"
    embedded("\ud800").encode()


# --- runs in progress, damaged, or old


def test_a_half_written_last_line_is_not_yet_there(copy):
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"update": 12, "outcome": 0.')
    told = one(copy)
    assert told["updates"] == 12
    assert not any("metrics.jsonl" in note for note in told["notes"])


def test_a_damaged_line_in_the_middle_is_counted(copy):
    path = copy / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[4] = lines[4][:20]
    path.write_text("\n".join(lines) + "\n")
    told = one(copy)
    assert told["updates"] == 11
    assert "metrics.jsonl: 1 line could not be read and is left out" in told["notes"]


def test_a_damaged_parquet_file_is_named_and_the_others_are_shown(copy):
    path = copy / "rollouts" / "000005.parquet"
    path.write_bytes(path.read_bytes()[:500])
    (copy / "rollouts" / "000006.parquet").write_bytes(b"")
    (copy / "rollouts" / ".writing-000012.parquet").write_bytes(b"PAR1")
    told = one(copy)
    assert "000005.parquet could not be read" in told["notes"]
    shown = [found["update"] for found in told["rollouts"] if found["update"] is not None]
    assert shown == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    "kept", ["recipe.yaml", "metrics.jsonl", "warm_start.jsonl", "evaluations.jsonl", "summary.json"]
)
def test_a_folder_with_one_file_has_a_report(run, tmp_path, kept):
    folder = tmp_path / "partial"
    folder.mkdir()
    shutil.copyfile(run / kept, folder / kept)
    told = one(folder)
    assert told["finished"] == (kept == "summary.json")
    assert told["rollouts"] == []


def test_no_summary_means_not_finished(copy):
    (copy / "summary.json").unlink()
    (copy / "rollouts" / "eval-end.parquet").unlink()
    told = one(copy)
    assert (told["finished"], told["updates"], told["planned"]) == (False, 12, 12)
    assert "eval-start" in [found["name"] for found in told["rollouts"]]


def test_an_old_folder_leaves_curves_out(tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    write_lines(old / "metrics.jsonl", [{"update": u, "outcome": 0.1 * u, "seconds/rollout": 1.0} for u in range(5)])
    cell = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    whens = ("start", "update 2", "end")
    write_lines(old / "evaluations.jsonl", [{"when": when, "accuracy": {"4": cell}} for when in whens])
    data = data_of(write_report([old]))
    assert [panel["title"] for panel in data["panels"]] == ["seconds per update"]
    assert [panel["keys"] for panel in data["panels"]] == [["seconds/rollout"]]
    assert [row["update"] for row in data["runs"][0]["evaluations"]] == [0, 2, 5]
    assert data["runs"][0]["main_steps"] == "4"


def test_nan_and_infinity_are_gaps(copy):
    (copy / "metrics.jsonl").write_text(
        '{"update": 0, "loss": NaN}\n{"update": 1, "loss": 1e999}\n{"update": 2, "loss": 2}\n'
    )
    assert read_run(copy).curves["values"]["loss"] == [None, None, 2]


def test_timing_is_joined_by_update_and_rows_ahead_are_left_out(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"update": u, "outcome": 0.5} for u in range(3)])
    write_lines(tmp_path / "timing.jsonl", [{"update": u, "seconds/train": float(u)} for u in (0, 1, 1, 2, 3)])
    curves = read_run(tmp_path).curves
    assert curves["x"] == [0, 1, 2]
    assert curves["values"]["seconds/train"] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rewards": 5}, "recipe.yaml: rewards could not be read and is left out"),
        ({"rewards": "gsm8k.correct"}, "recipe.yaml: rewards could not be read and is left out"),
        ({"rollout": 5, "optim": "fast"}, "recipe.yaml: rollout, optim could not be read and are left out"),
        (
            {key: [1] for key in ("model", "data", "rollout", "method", "optim", "train", "eval")},
            "recipe.yaml: model, data",
        ),
        ({"eval": {"sampler": "greedy"}, "train": {"updates": [1]}}, None),
        ({"method": {"inner_passes": "abc"}}, None),
        ({"method": {"kl": {"beta": 1}}}, None),
        ({"method": {"preset": ["raft"], "kl": 7, "estimator": 3}}, None),
        ({"name": {"a": 1}, "outcome": [float("nan")], "rewards": [1, {"fn": 2}]}, None),
    ],
)
def test_a_recipe_of_another_shape(copy, changes, said):
    (copy / "recipe.yaml").write_text(to_yaml({**read_file(copy / "recipe.yaml").data, **changes}))
    told = one(copy)
    assert told["updates"] == 12
    assert said is None or any(note.startswith(said) for note in told["notes"])


def test_a_method_given_by_name(copy):
    (copy / "recipe.yaml").write_text("method: diffu_grpo\n")
    assert dict(facts(read_run(copy)))["Method"] == "diffu_grpo"


@pytest.mark.parametrize(
    "text", ["train: {updates: !!int x}", "a: !!bool 7", "a: !!timestamp x", "a: " + "9" * 5000, "[" * 5000, "\x00"]
)
def test_a_recipe_that_is_none(copy, text):
    (copy / "recipe.yaml").write_text(text)
    told = one(copy)
    assert "recipe.yaml is not a readable recipe: nothing is known of the settings" in told["notes"]
    assert told["recipe"] == text


def test_numbers_that_no_run_measures_are_gaps(copy):
    rows = [{"update": update, "loss": value} for update, value in enumerate((10**400, 1.7e308, -(10**400), 2, 3))]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (copy / "metrics.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n" + '{"update": ' + "9" * 5000 + "}\n")
    summary = {"wall_seconds": {"train": 10**400}, "gain": {"value": 10**400}, "best": {"value": 10**400}}
    (copy / "summary.json").write_text(json.dumps({**summary, "outcome": 5}))
    assert one(copy)["gain"] is None
    read = read_run(copy)
    assert read.curves["values"]["loss"] == [None, None, None, 2, 3]
    assert "metrics.jsonl: 2 lines could not be read and are left out" in read.notes


def test_rows_of_another_shape(copy):
    cell = {"value": 0.5, "low": "x", "high": 0.6, "n": 4}
    accuracy = {"4": cell, "\u00b2": cell, "8": 3}
    write_lines(
        copy / "timing.jsonl",
        [{"update": [1], "seconds/train": 1.0}, *({"update": u, "seconds/train": 2.0} for u in (1, 2))],
    )
    write_lines(copy / "warm_start.jsonl", [{"step": [1], "loss": 1.0}, {"loss": 1.0}])
    write_lines(copy / "health.jsonl", [{"update": True, "monitor": "x"}, {"update": {}, "monitor": []}])
    write_lines(
        copy / "evaluations.jsonl",
        [{"when": "update \u00b2", "accuracy": accuracy, "pass_at_k": {"\u00b2": cell}, "reward": [1]}],
    )
    told = one(copy)
    assert told["evaluations"] == [
        {
            "when": "update \u00b2",
            "update": 12,
            "split": "eval",
            "reward": None,
            "pass_at_k": {},
            "accuracy": {"4": {"value": 0.5, "n": 4}},
        }
    ]
    assert told["warm_start"]["x"] == told["alarms"] == []
    assert told["curves"]["values"]["seconds/train"][:4] == [None, 2.0, 2.0, None]


def test_rollouts_of_another_shape(copy):
    path = copy / "rollouts" / "000005.parquet"
    shutil.copyfile(path, copy / "rollouts" / f"{chr(0xB2) * 6}.parquet")
    rows = pq.read_table(path).to_pylist()
    rows[0]["tokens"] = None
    rows[1]["token_texts"] = rows[1]["token_texts"][:-1]
    rows[2] |= {"raw_logprob": None, "entropy": [1.0], "hint": None, "counted": [None], "extras": '{"a": NaN}'}
    rows[3] |= {"components": "[1, Infinity]", "extras": "[" * 100_000, "reward": None, "prompt": None}
    rows[3]["reveal_step"][2] = None
    rows.append({**rows[2], "extras": "5", "components": '{"deep": {"list": [1e400]}}'})
    write_samples(path, [{name: row[name] for name in rows[0]} for row in rows])
    pq.write_table(
        pa.table({"tokens": [1], "token_texts": ["a"], "reveal_step": [None]}), path.with_name("000006.parquet")
    )
    told = one(copy)
    sets = {found["update"]: found["rows"] for found in told["rollouts"]}
    assert set(sets) == {None, *range(12)} - {6}
    assert [row["extras"] for row in sets[5]] == [{"a": None}, {"value": 5}]
    assert sets[5][1]["components"] == {"deep": {"list": "[null]"}}
    assert {"logprob", "entropy", "uncounted"}.isdisjoint(sets[5][0])
    assert "000005.parquet: 3 of 5 rollouts could not be read and are left out" in told["notes"]
    assert "000006.parquet: 1 of 1 rollouts could not be read and are left out" in told["notes"]


# --- what is drawn


def test_every_metric_has_a_place_on_the_page(run):
    data = data_of(write_report([run]))
    drawn = {key for panel in data["panels"] if panel["source"] == "metrics" for key in panel["keys"]}
    assert set(data["runs"][0]["curves"]["values"]) == drawn | {"outcome"}
    warm = {key for panel in data["panels"] if panel["source"] == "warm_start" for key in panel["keys"]}
    assert set(data["runs"][0]["warm_start"]["values"]) == warm


def test_long_runs_are_averaged_and_keep_their_extremes(tmp_path):
    count = 2 * MAX_POINTS + 100
    rows = [{"update": u, "outcome": float(u % 2), "ratio_max": float(u == 701) + 1} for u in range(count)]
    write_lines(tmp_path / "metrics.jsonl", rows)
    run = read_run(tmp_path)
    assert len(run.curves["x"]) <= MAX_POINTS
    assert max(run.curves["values"]["ratio_max"]) == 2.0
    assert run.updates == count
    assert any("mean of 3" in note for note in run.notes)


def test_a_check_written_once_is_said_in_words(tmp_path):
    rows = [{"update": u, "outcome": 0.5, **({"first_pass_gap": 1e-7} if u == 0 else {})} for u in range(9)]
    write_lines(tmp_path / "metrics.jsonl", rows)
    run = read_run(tmp_path)
    assert run.single == ["first_pass_gap 1e-07 (update 0)"]
    assert "first_pass_gap" not in run.curves["values"]


def test_counts_are_zero_where_nothing_was_counted(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"update": 0}, {"update": 1, "dropped/timeout": 3}, {"update": 2}])
    assert read_run(tmp_path).curves["values"]["dropped/timeout"] == [0, 3, 0]


def test_alarms_name_monitors_that_exist_and_are_gathered(run):
    assert set(ALARM_METRICS) <= set(HealthConfig.model_fields)
    told = one(run)["alarms"]
    assert [(alarm["monitor"], alarm["count"]) for alarm in told] == [("reward_all_format", 2), ("entropy_collapse", 1)]
    assert told[0]["metrics"] == ["reward"]


# --- rollouts


def test_rollouts_in_the_page_are_those_of_the_file(run):
    data = data_of(write_report([run]))
    for found in data["runs"][0]["rollouts"]:
        rows = read_samples(run / "rollouts" / f"{found['name']}.parquet")
        assert len(found["rows"]) == len(rows)
        for small, row in zip(found["rows"], rows, strict=True):
            assert [data["tokens"][i] for i in small["tokens"]] == [
                list(p) for p in zip(row["tokens"], row["token_texts"])
            ]
            assert small["reveal"] == row["reveal_step"]
            assert data["texts"][small["prompt"]] == row["prompt"]
            assert small["components"] == row["components"]
            count = len(row["tokens"])
            assert small["hint"] == [i for i in range(count) if row["hint"][i]]
            uncounted = {i for start, end in small["uncounted"] for i in range(start, end)}
            assert uncounted == {i for i in range(count) if not row["counted"][i]}
            drawn = [0 <= step < small["steps"] for step in row["reveal_step"]]
            for name, column, scale in (
                ("logprob", "raw_logprob", 100),
                ("ratio", "ratio", 1000),
                ("token_advantage",) * 2 + (1000,),
            ):
                values = small[name] if isinstance(small[name], list) else [small[name]] * count
                for value, exact, shown in zip(values, row[column], drawn, strict=True):
                    if shown and exact is not None:
                        assert value / scale == pytest.approx(exact, abs=0.51 / scale)


@given(st.integers(0, 300))
def test_spread_visits_everything_once(count):
    assert sorted(spread(count)) == list(range(count))


@given(st.integers(10, 600), st.integers(3, 100))
def test_any_beginning_of_spread_is_even(count, taken):
    order = list(spread(count))[:taken]
    gaps = np.diff(sorted(order))
    if len(gaps):
        assert gaps.max() <= 2 * gaps.min() + 2


# --- facts, comparison, errors


def test_samplers_are_compared_key_by_key(run):
    found = sampler_differences(read_run(run).recipe)
    assert found == [("temperature", 0.9, 0.0), ("early_stop", True, False)]
    assert ("Evaluation sampler", "differs from training: temperature 0.9 → 0 · early_stop true → false") in facts(
        read_run(run)
    )


@pytest.mark.parametrize("name", recipe_names())
def test_facts_of_every_shipped_recipe(name, tmp_path):
    stored = name == "llada_8b_vrpo"
    keys = ("data.preferences.path",) if stored else ("data.train.path", "data.eval.path")
    data = [f"{key}=x.jsonl" for key in keys]
    extra = ["warm_start.data.path=x.jsonl"] if name.startswith("sudoku") else []
    for file in ("x.jsonl",):
        (tmp_path / file).write_text("{}\n")
    overrides = [text.replace("x.jsonl", str(tmp_path / "x.jsonl")) for text in (*data, *extra)]
    recipe = load_recipe(name, overrides)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    said = dict(facts(read_run(tmp_path)))
    assert said["Method"] == recipe.method.preset
    assert said["Estimator"].startswith(recipe.method.estimator.kind)
    graded = set() if stored else {"Rewards", "Evaluation sampler"}
    assert {"Model", "Objective", "Advantage", "Training sampler", "Optimizer", *graded} <= set(said)


def test_the_best_checkpoint_is_said(copy):
    summary = json.loads((copy / "summary.json").read_text())
    best = {"update": 8, "value": 0.6125, "reward": "correct"}
    (copy / "summary.json").write_text(json.dumps({**summary, "best": best}))
    assert dict(facts(read_run(copy)))["Best"] == "update 8, by validation: correct 0.613"


def test_runs_are_compared(run, tmp_path):
    other = write_run(tmp_path / "other", updates=8, every=4, canvas=64, steps=16, lr=3e-6, finished=False)
    path = write_report([run, other], tmp_path / "deep" / "er" / "both.html")
    data = data_of(path)
    assert [told["name"] for told in data["runs"]] == ["small", "other"]
    assert ["optim.lr", ["1e-05", "3e-06"]] in data["differences"]
    assert {"name", "train.out"}.isdisjoint(key for key, _ in data["differences"])
    assert recipe_differences([read_run(run)] * 2) == []


def test_compared_runs_have_their_report_above_them(run, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(run, tmp_path / name)
    assert write_report([tmp_path / "a", tmp_path / "b"]) == tmp_path / "report.html"


def test_what_is_no_run_is_said(run, tmp_path):
    with pytest.raises(ReportError, match=r"there is no folder .*smal; runs in .*: small"):
        write_report([run.parent / "smal"])
    with pytest.raises(ReportError, match=r"is no run folder: it holds none of recipe\.yaml"):
        write_report([tmp_path])
    with pytest.raises(ReportError, match=f"at most {MAX_RUNS} runs, and {MAX_RUNS + 1} were named"):
        write_report([run] * (MAX_RUNS + 1))
    with pytest.raises(ReportError, match="no run was named"):
        write_report([])


def test_a_report_replaces_the_one_before_whole(copy):
    first = write_report([copy])
    assert write_report([copy]) == first
    assert [path.name for path in copy.glob("*.html")] == ["report.html"]
    assert not list(copy.glob(".writing-*"))


def test_runs_of_one_recipe_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    def named(*folders: str) -> list[str]:
        data = []
        for folder in folders:
            write_run(tmp_path / folder, name="sudoku", updates=2, every=1, canvas=16, steps=8)
            data.append(read_run(tmp_path / folder))
        return run_names(data)

    assert named("one") == ["sudoku"]
    assert named("one", "two") == ["sudoku (one)", "sudoku (two)"]
    assert named("one/run", "two/run") == ["sudoku (one/run)", "sudoku (two/run)"]
    assert payload([read_run(tmp_path / "one"), read_run(tmp_path / "two")])["runs"][1]["name"] == "sudoku (two)"

"""`unmask eval compare BASE OTHER...`: which results stand beside which, Holm over all that is shown, and what is refused."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from rl.cli import app
from rl.compare import ALPHA, Comparison, compare, verdict_of
from rl.compare_family import Family, compare_models, compare_results
from rl.compare_picture import draw
from rl.compare_report import show
from rl.compare_sides import MixError, Side, natural, read_sides
from rl.errors import CommandError
from rl.statistics import holm, mcnemar, proportion, smallest_seen
from tests.oracles.statistics import by_closure

N = 40


def side(protocol: str, model: str, scores: Mapping[str, Sequence[float]], path: str = "", **told: Any) -> Side:
    """A result as it is read. told: weights, dtype, rows (their fingerprint), canvas, code, changes."""
    count = len(next(iter(scores.values())))
    rows = [
        {"prompt_id": i, "seed": 0, "sample": 0, "place": i, "prompt": f"{i}?", "reasons": {}}
        | {"scores": {name: values[i] for name, values in scores.items()}}
        for i in range(count)
    ]
    canvas = told.get("canvas", 8)
    result = {
        "protocol": protocol,
        "hash": f"{protocol}-{canvas}-{told.get('dtype')}".ljust(64, "0"),
        "changed": "changes" in told,
        "changes": told.get("changes", []),
        "settings": {"dtype": told.get("dtype", "bfloat16"), "sampler": {"canvas": canvas}},
        "data": {"source": "rows.jsonl", "fingerprint": told.get("rows", "rows")},
        "parsers": dict.fromkeys(scores, told.get("code", "code")),
        "model": {"path": model, "adapter": None, "checkpoint": None, "fingerprint": told.get("weights", model)},
    }
    return Side(path or f"{protocol}-{Path(model).name}", result, rows)


def written(folder: Path, one: Side) -> Path:
    """The same on the disk."""
    folder.mkdir(parents=True)
    columns = {name: [row[name] for row in one.rows] for name in ("prompt_id", "seed", "sample", "place", "prompt")}
    for name in one.parsers:
        columns[f"score/{name}"] = [row["scores"][name] for row in one.rows]
    pq.write_table(pa.table(columns), folder / "samples.parquet")
    (folder / "result.json").write_text(json.dumps(one.result))
    return folder


def drawn(seed: int, rate: float = 0.5, count: int = N) -> list[float]:
    return (np.random.default_rng(seed).random(count) < rate).astype(float).tolist()


def three() -> list[Side]:
    """A base and two models on two lengths, by two parsers; the second model is better, the first is not."""
    rates = {"org/base": 0.3, "runs/a/checkpoints/update-1": 0.35, "runs/a/checkpoints/update-2": 0.85}
    return [
        side(protocol, model, {"right": drawn(10 * i + j, rate), "share": drawn(50 + 10 * i + j, rate)})
        for i, (model, rate) in enumerate(rates.items())
        for j, protocol in enumerate(("digits-1024", "digits-256"))
    ]


def alone(sides: Sequence[Side]) -> list[list[Side]]:
    return [[one] for one in sides]


# ---- the numbers


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.025, 0.05, 1.0]), min_size=1, max_size=7))
def test_holm_is_closed_testing_by_bonferroni(values: list[float]) -> None:
    assert holm(values) == pytest.approx(by_closure(values), abs=1e-12)


@pytest.mark.parametrize("parsers", [(), ("all",), ("share",)])
def test_the_family_is_all_that_is_shown(parsers: tuple[str, ...]) -> None:
    found = compare_models(alone(three()), parsers=parsers)
    names = {(): ["right"], ("all",): ["right", "share"], ("share",): ["share"]}[parsers]
    assert [(one.protocol, one.model, one.parser) for one in found.compared] == [
        (protocol, model, name)
        for protocol in ("digits-256", "digits-1024")
        for model in ("a/update-1", "a/update-2")
        for name in names
    ]
    assert [one.found.adjusted for one in found.compared] == pytest.approx(
        by_closure([one.found.p_value for one in found.compared])
    )
    assert found.plain()["family"] == len(found.compared) == 4 * len(names)


def test_each_comparison_is_that_of_two_results() -> None:
    sides = three()
    found = compare_models(alone(sides), parsers=["all"])
    for one in found.compared:
        a, b = (
            next(s for s in sides if s.result["protocol"] == one.protocol and s.path.endswith(name))
            for name in ("base", one.model.split("/")[-1])
        )
        pair = compare(a, b).parsers[one.parser]
        same = ("a", "b", "difference", "clusters", "test", "p_value")
        assert [getattr(one.found, key) for key in same] == [getattr(pair, key) for key in same]
        for shown, result in ((one.base, a), (one.other, b)):
            assert shown == proportion(np.array([row["scores"][one.parser] for row in result.rows]))
        moved = np.array(
            [x["scores"][one.parser] - y["scores"][one.parser] for x, y in zip(b.rows, a.rows, strict=True)]
        )
        assert one.found.seen == smallest_seen(moved, looks=8) > pair.seen
    few = compare_models(
        alone([sides[0], sides[2]]), parsers=["all"]
    )  # a family of one pair: Holm as between two results
    assert [one.found.adjusted for one in few.compared] == [
        one.adjusted for one in compare(sides[0], sides[2]).parsers.values()
    ]


def test_without_a_difference_some_verdict_is_rarely_passed() -> None:
    """3 models x 2 protocols of 60 prompts beside one base, no true difference; answers agree more often than not. The chance that
    anything is called better or worse stays below 5 %; without Holm it would not."""
    generator = np.random.default_rng(6)
    any_held, any_alone, rounds = 0, 0, 1500
    for _ in range(rounds):
        values = []
        for _ in range(2):
            hard = generator.beta(1.5, 1.5, 60)
            base = (generator.random(60) < hard).astype(float)
            values += [mcnemar(base, (generator.random(60) < hard).astype(float)) for _ in range(3)]
        any_alone += min(values) < ALPHA
        any_held += min(holm(values)) < ALPHA
    assert any_held / rounds < 0.05
    assert any_alone / rounds > 0.07


def test_no_verdict_without_holm() -> None:
    """The real comparison, many times, on noise: better and worse are said only where the adjusted p says so."""
    verdicts = []
    for seed in range(12):
        sides = [side("digits", f"m{i}", {"right": drawn(100 * seed + i)}) for i in range(7)]
        for one in compare_models(alone(sides)).compared:
            outside = one.found.difference["low"] > 0 or one.found.difference["high"] < 0
            assert (one.found.verdict in ("better", "worse")) == (outside and one.found.adjusted < ALPHA)
            assert (one.found.verdict == "none") == (not outside and one.found.p_value >= ALPHA)
            verdicts.append(one.found.verdict)
    assert "unsettled" in verdicts


@pytest.mark.parametrize(
    ("low", "high", "p_value", "adjusted", "verdict"),
    [
        (0.1, 0.3, 0.01, 0.04, "better"),
        (-0.3, -0.1, 0.01, 0.04, "worse"),
        (0.1, 0.3, 0.01, 0.06, "unsettled"),  # not after Holm
        (0.1, 0.3, 0.06, 0.06, "unsettled"),  # the interval alone
        (-0.1, 0.3, 0.01, 0.04, "unsettled"),  # the test alone
        (-0.1, 0.3, 0.06, 0.06, "none"),
    ],
)
def test_a_verdict_takes_interval_and_test(
    low: float, high: float, p_value: float, adjusted: float, verdict: str
) -> None:
    assert verdict_of({"low": low, "high": high, "value": (low + high) / 2}, p_value, adjusted) == verdict


# ---- the words


def kept(gained: int, lost: int) -> list[float]:
    """Of a base that is right on the second half."""
    half = N // 2
    return [1.0] * gained + [0.0] * (half - gained) + [0.0] * lost + [1.0] * (half - lost)


@pytest.mark.parametrize(
    ("gained", "lost", "verdict", "words"),
    [
        (15, 0, "better", "m is better than base by 37.5 points [22.5, 52.5], p < 0.001 after Holm over 2 comparisons"),
        (0, 15, "worse", "m is worse than base by 37.5 points ["),
        (3, 2, "none", "no difference between m and base shown (+2.5 points ["),
        (7, 1, "unsettled", "and the test says otherwise (p = 0.070)"),
        (8, 1, "unsettled", "p = 0.039 by itself and p = 0.078 after Holm over 2 comparisons"),
    ],
)
def test_verdicts_in_words(gained: int, lost: int, verdict: str, words: str) -> None:
    sides = [side("digits", name, {"right": kept(*moved)}) for name, moved in (("base", (0, 0)), ("m", (gained, lost)))]
    found = compare_models(alone([*sides, side("digits", "other", {"right": kept(2, 2)})])).compared[0].found
    assert found.verdict == verdict
    assert words in found.words
    assert ("would mostly not have been seen" in found.words) == (verdict == "none")


def test_what_nobody_graded_is_said_to_be_nothing(tmp_path: Path) -> None:
    found = compare_models(alone([side("d", name, {"right": [float("nan")] * 4}) for name in ("base", "m", "other")]))
    assert {one.found.words for one in found.compared} == {"nothing to compare: no prompt was graded in both"}
    console = Console(record=True, width=100)
    show(found, console)
    assert "none graded" in console.export_text()
    draw(found, tmp_path / "none.svg")
    assert "<!-- nothing to compare -->" in (tmp_path / "none.svg").read_text()


def test_prompts_that_one_side_did_not_grade_are_counted() -> None:
    nan, scores = float("nan"), [1.0, 0.0, 1.0, 1.0]
    sides = [side("d", "base", {"right": scores}), side("d", "m", {"right": [0.0, nan, nan, 1.0]})]
    found = compare_models(alone([*sides, side("d", "whole", {"right": scores})]))
    assert [note for note in found.notes if "graded in both" in note] == [
        "d, right: m is compared over the 2 of 4 prompts that were graded in both"
    ]


# ---- which results stand beside which


def test_who_was_not_measured_is_named() -> None:
    sides = [one for one in three() if one.path != "digits-256-update-1"]
    sides.append(side("sudoku", "runs/a/checkpoints/update-1", {"right": drawn(1)}))
    found = compare_models(alone(sides))
    assert "a/update-1 was not measured by digits-256" in found.notes
    assert "base was not measured by sudoku, and a/update-1's result by it is compared with nothing" in found.notes
    assert len(found.compared) == 3


def test_names_tell_models_and_protocols_apart() -> None:
    right = {"right": drawn(1)}
    sides = [side("digits", "org/base", right)]
    sides += [side("digits", f"runs/{run}/best", right, weights=f"{run}w") for run in "ab"]
    sides += [side("digits", "runs/a/best", right, "later", weights="0123456789")]
    sides += [
        side("digits", "org/base", right, "long", canvas=16),
        side("digits", "runs/b/best", right, canvas=16, weights="bw"),
    ]
    found = compare_models(alone(sides))
    assert list(found.models) == ["base", "best (aw)", "b/best", "best (012345)"]
    assert len({one.protocol for one in found.compared}) == 2
    assert all(one.protocol.startswith("digits (digits-") for one in found.compared)


def test_one_model_in_two_dtypes_is_one() -> None:
    right = {"right": drawn(1)}
    sides = [
        side(f"digits-{dtype}", name, right, dtype=dtype, weights=f"{name} {dtype}")
        for name in ("base", "new")
        for dtype in ("bfloat16", "float32")
    ]
    found = compare_models(alone(sides))
    assert (list(found.models), len(found.compared)) == (["base", "new"], 2)
    changed = side("other", "new", right, weights="later")
    with pytest.raises(CommandError, match="the weights at new changed between these evaluations"):
        compare_models(alone([*sides, changed]))


def test_what_a_reader_should_know() -> None:
    right = {"right": drawn(1)}
    limited: dict[str, Any] = {"changes": ["data.limit: null -> 100"]}
    sides = [side("digits", "base", right, **limited), side("digits", "new", right, code="other", **limited)]
    notes = compare_models(alone(sides)).notes
    assert any("digits: new was graded by different code (right)" in note for note in notes)
    assert any("digits: measured with changes (data.limit: null -> 100)" in note for note in notes)


RIGHT = {"right": drawn(1), "share": drawn(2)}


@pytest.mark.parametrize(
    ("sides", "options", "words"),
    [
        (
            [("d", "a"), ("d", "b"), ("d", "b", "again")],
            {},
            "two results of b by d (d-8-None0000), with the same weights: d-b and again",
        ),
        ([("d", "a"), ("e", "a"), ("f", "a")], {}, "all of these are results of a"),
        ([("d", "a"), ("e", "a"), ("f", "b")], {}, r"no protocol measured both a (d (d-8-None0000), e (e-8"),
        ([("d", "a"), ("d", "b"), ("d", "c")], {"parsers": ["rigth"]}, "did you mean right?"),
        ([("d", "a"), ("d", "b"), ("d", "c")], {"parsers": ["zzz"]}, "there are right, share"),
    ],
)
def test_mistakes(sides: list[tuple[str, ...]], options: dict[str, Any], words: str) -> None:
    with pytest.raises(CommandError) as caught:
        compare_models(alone([side(one[0], one[1], RIGHT, *one[2:]) for one in sides]), **options)
    assert words in str(caught.value)


def test_other_settings_or_rows_are_not_mixed_unless_told() -> None:
    sides = [side("d", "a", RIGHT), side("d", "b", RIGHT), side("d", "c", RIGHT, canvas=16)]
    with pytest.raises(
        MixError, match=r"no protocol measured both a .*\n.*\n    sampler.canvas: 8 and 16\n    --mix"
    ) as caught:
        compare_models(alone(sides))
    assert "d-16-None" in str(caught.value)
    mixed = compare_models(alone(sides), mix=True)
    assert [one.protocol for one in mixed.compared] == ["d", "d / d"]
    assert mixed.notes[0].startswith("NOT MEASURED ALIKE: d-c: protocols: d (d-8-None")
    assert not any("d-b" in note for note in mixed.notes)
    with pytest.raises(MixError, match=r"rows: 40 of rows\.jsonl and 40 of rows\.jsonl"):
        compare_models(alone([*sides[:2], side("d", "c", RIGHT, rows="others")]))
    with pytest.raises(CommandError, match="compares single results with the first"):
        compare_models([sides[:2], sides[2:]], mix=True)
    with pytest.raises(MixError, match="nobody knows how x was measured"):
        compare_models(alone([*sides[:2], Side("x", {}, sides[0].rows)]))
    assert len(compare_models(alone([*sides[:2], Side("x", {}, sides[0].rows)]), mix=True).compared) == 2


# ---- files and the command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for one in three():
        name = Path(one.result["model"]["path"]).name
        written(tmp_path / "evals" / name / one.result["protocol"], one)
    return tmp_path


def test_results_are_found_below_folders_and_once(home: Path) -> None:
    (home / "evals" / "update-1" / "begun").mkdir()
    (home / "evals" / "update-1" / "begun" / "evaluation.json").write_text("{}")
    sides, notes = read_sides([Path("evals/base"), Path("evals/base/digits-256/samples.parquet"), Path("evals")])
    assert [one.path for one in sides[0]] == ["evals/base/digits-256", "evals/base/digits-1024"]
    found = compare_results([Path("evals/base"), Path("evals")])
    assert isinstance(found, Family)
    assert len(found.compared) == 4
    assert notes == ["evals/update-1/begun is not whole, and is left out"]
    assert notes[0] in found.notes
    (home / "x" / "y").mkdir(parents=True)
    (home / "x" / "y" / "evaluation.json").write_text("{}")
    with pytest.raises(CommandError, match="no evaluation below it is whole"):
        read_sides([home / "x"])
    with pytest.raises(CommandError, match="the first argument holds results of several models"):
        compare_results([Path("evals")])
    with pytest.raises(CommandError, match="is one result, and two are compared"):
        compare_results([Path("evals/base/digits-256"), Path("evals/base/digits-256")])
    assert isinstance(compare_results([Path("evals/base/digits-256"), Path("evals/update-1/digits-256")]), Comparison)
    assert sorted(["b-1024", "b-128", "a²"], key=natural) == ["a²", "b-128", "b-1024"]


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, ["eval", "compare", *args], env={"COLUMNS": "120"})


def test_the_command(home: Path) -> None:
    told = invoke("evals/base", "evals/update-1", "evals/update-2", "--out", "pictures/forest.svg")
    assert told.exit_code == 0, told.output
    assert "base, the base: org/base" in told.stdout
    data = json.loads(invoke("evals/base", "evals", "--json").stdout)
    for one in data["compared"]:
        assert f"{one['protocol']}, right: {one['found']['words']}" in told.stdout
        assert f"{one['other']['value']:.3f} [{one['other']['low']:.3f}, {one['other']['high']:.3f}]" in told.stdout
        assert f"{100 * one['found']['difference']['value']:+.1f} [" in told.stdout
    picture = Path("pictures/forest.svg").read_text()
    for words in ("digits-256, right", "a/update-2", "accuracy less that of base", "better", "p, Holm"):
        assert f"<!-- {words} -->" in picture
    two = invoke("evals/base/digits-256", "evals/update-2/digits-256", "--parser", "right", "--out", "two.png")
    assert "right: B is better by" in two.stdout
    assert "share" not in two.stdout
    assert Path("two.png").stat().st_size > 5000
    wrong = invoke("evals/base", "evals", "--out", "page.html")
    assert wrong.exit_code == 2
    assert "ends in .png, .svg, .pdf" in " ".join(wrong.stderr.split())
    near = invoke("evals/base", "evals", "--parser", "rigth")
    assert near.exit_code == 2
    assert "did you mean right?" in near.stderr
    Path("taken").write_text("")
    for out, words in (
        ("taken/x.png", "taken is a file, and a folder is needed"),
        ("pictures.png", "this is a folder"),
    ):
        Path("pictures.png").mkdir(exist_ok=True)
        told = invoke("evals/base", "evals", "--out", out)
        assert told.exit_code == 2
        assert words in " ".join(told.stderr.split())
        assert not told.stdout


@pytest.mark.parametrize("text", ["[1]", '{"protocol": "digits-256"}', "null"])
def test_a_result_that_is_none_of_ours_is_named(home: Path, text: str) -> None:
    (home / "evals" / "update-1" / "digits-256" / "result.json").write_text(text)
    told = invoke("evals/base", "evals/update-1", "evals/update-2")
    assert told.exit_code == 2
    assert "digits-256/result.json: is not what unmask eval writes" in " ".join(told.stderr.split())

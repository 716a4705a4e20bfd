"""`unmask eval compare`: what is refused, what is said, and that it says it of the right numbers."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rl.cli import app
from rl.compare import Comparison, compare, unseen
from rl.compare_report import show
from rl.compare_sides import MixError
from rl.errors import CommandError
from rl.evaluate import paired_gain
from rl.evaluation import evaluate_protocol
from rl.evaluation_files import read_rows
from rl.protocol import load_protocol
from rl.source import find_source
from rl.statistics import mcnemar, smallest_seen
from tests.oracles.protocols import TEXT, write_protocol
from tests.oracles.training import tiny_folder

SINGLE = (
    TEXT.replace("samples: 2", "samples: 1").replace("seeds: [0, 1]", "seeds: [0]").replace(", cluster: family", "")
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a, b: two models by one protocol; byte: one byte of the template changed; more: with two answers and clusters."""
    folder = tmp_path_factory.mktemp("compare")
    tiny_folder(folder / "first")
    tiny_folder(folder / "second", seed=3)
    texts = {
        "a": SINGLE,
        "b": SINGLE,
        "byte": SINGLE.replace("Say {digit}.", "Say {digit}!"),
        "more": TEXT,
        "other": TEXT,
    }
    for name, text in texts.items():
        (folder / f"in-{name}").mkdir()
        model = folder / ("second" if name in ("b", "other") else "first")
        evaluate_protocol(
            load_protocol(write_protocol(folder / f"in-{name}", text)), find_source(str(model)), out=folder / name
        )
    return folder


def rewritten(source: Path, to: Path, scores: dict[str, list[float]]) -> Path:
    """A result folder with other scores, for verdicts that are known."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.copytree(source, to)
    table = pq.read_table(to / "samples.parquet")
    for parser, values in scores.items():
        at = table.column_names.index(f"score/{parser}")
        table = table.set_column(at, f"score/{parser}", pa.array(values, pa.float64()))
    pq.write_table(table, to / "samples.parquet")
    return to


def test_the_numbers_are_those_of_the_statistics(home: Path) -> None:
    found = compare(home / "a", home / "b").parsers["ends"]
    a, b = (np.array([row["scores"]["ends"] for row in read_rows(home / name / "samples.parquet")]) for name in "ab")
    assert (found.a, found.b) == (a.mean(), b.mean())
    assert found.difference == paired_gain(a, b)
    assert (found.test, found.p_value) == ("McNemar, exact", mcnemar(a, b))
    assert found.seen == smallest_seen(b - a)
    turned = compare(home / "b", home / "a").parsers["ends"]
    assert turned.difference["value"] == -found.difference["value"]
    assert turned.p_value == found.p_value


def test_answers_to_one_prompt_and_clusters_are_not_independent_pairs(home: Path) -> None:
    found = compare(home / "more", home / "other").parsers["ends"]
    assert (found.test, found.clusters, found.difference["n"]) == ("sign flips by cluster", 8, 24)


def test_a_changed_byte_is_not_mixed_unless_told(home: Path) -> None:
    with pytest.raises(MixError, match="were not measured alike") as caught:
        compare(home / "a", home / "byte")
    said = str(caught.value)
    assert 'prompt.template: "Say {digit}.' in said
    assert "24 are in both, 24 of these with another prompt" in said
    mixed = compare(home / "a", home / "byte", mix=True)
    assert mixed.notes[0].startswith("NOT MEASURED ALIKE: protocols: digits (")
    assert mixed.parsers["ends"].difference["n"] == 24
    command = CliRunner().invoke(app, ["eval", "compare", str(home / "a"), str(home / "byte")])
    assert command.exit_code == 2
    assert "--mix compares them all the same" in command.stderr
    told = CliRunner().invoke(app, ["eval", "compare", str(home / "a"), str(home / "byte"), "--mix"])
    assert told.exit_code == 0
    assert told.stdout.startswith("NOT MEASURED ALIKE")


def test_samples_without_their_result_are_refused(home: Path, tmp_path: Path) -> None:
    shutil.copy(home / "a" / "samples.parquet", tmp_path / "samples.parquet")
    with pytest.raises(MixError, match="nobody knows how"):
        compare(tmp_path / "samples.parquet", home / "a")
    same = compare(tmp_path / "samples.parquet", home / "a", mix=True).parsers["ends"]
    assert same.difference["value"] == 0.0
    assert compare(home / "a" / "samples.parquet", home / "b").parsers == compare(home / "a", home / "b").parsers


@pytest.mark.parametrize(
    ("gained", "lost", "verdict", "words"),
    [
        (12, 1, "better", "B is better by 45.8 points ["),
        (1, 12, "worse", "B is worse by 45.8 points ["),
        (3, 2, "none", "no difference shown (B - A is +4.2 points ["),
        (0, 0, "none", "at n = 24 a true difference below about"),
        (5, 0, "unsettled", "not settled: B - A is +20.8 points"),  # the interval leaves 0 out, p = 0.0625
    ],
)
def test_verdicts_in_words(home: Path, tmp_path: Path, gained: int, lost: int, verdict: str, words: str) -> None:
    before = [0.0] * gained + [1.0] * lost + [1.0] * (24 - gained - lost)
    after = [1.0] * gained + [0.0] * lost + before[gained + lost :]
    a, b = (
        rewritten(home / "a", tmp_path / "a", {"ends": before}),
        rewritten(home / "a", tmp_path / "b", {"ends": after}),
    )
    found = compare(a, b).parsers["ends"]
    assert found.verdict == verdict
    assert words in found.words
    if verdict in ("better", "worse"):
        low, high = (float(end) for end in found.words.partition("[")[2].partition("]")[0].split(", "))
        assert 0 < low < 45.8 < high


def test_several_parsers_are_told_to_be_several(home: Path, tmp_path: Path) -> None:
    ends = [0.0] * 11 + [1.0] * 13
    a = rewritten(home / "a", tmp_path / "a", {"ends": ends, "most": [0.5] * 24})
    b = rewritten(home / "a", tmp_path / "b", {"ends": [1.0] * 24, "most": [0.5] * 24})
    found = compare(a, b)
    assert found.parsers["ends"].adjusted == pytest.approx(3 * found.parsers["ends"].p_value)
    note = next(note for note in found.notes if "Holm" in note)
    assert "3 parsers of the same answers: the verdict is that of ends" in note
    assert note.endswith("below 0.05: ends")
    assert "A and B have the same weights" in found.notes


def test_one_parser_has_no_column_of_adjusted_values(home: Path) -> None:
    def table(found: Comparison) -> str:
        console = Console(file=io.StringIO(), width=200)
        show(found, console)
        return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]

    found = compare(home / "a", home / "b")
    assert "p, Holm" in table(found)
    assert "p, Holm" not in table(replace(found, parsers={"ends": found.parsers["ends"]}))


def test_json_holds_what_the_table_shows(home: Path) -> None:
    def told(*more: str) -> Any:
        result = CliRunner().invoke(app, ["eval", "compare", str(home / "a"), str(home / "b"), *more])
        assert result.exit_code == 0, result.output
        return result.stdout

    data = json.loads(told("--json"))
    one = data["parsers"]["ends"]
    assert one["words"] in told()
    assert f"{one['difference']['value']:+.3f}" in told()
    assert {"a", "b", "difference", "p_value", "adjusted", "seen", "verdict"} <= set(one)


def test_what_is_no_result(home: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="name a folder that unmask eval wrote"):
        compare(home / "first", home / "a")
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(CommandError, match="is not whole"):
        compare(tmp_path, home / "a")
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(CommandError, match="cannot be read"):
        compare(tmp_path / "x.parquet", home / "a")


def test_a_difference_beyond_all_points_is_not_named() -> None:
    assert unseen(0.069) == "a true difference below about 6.9 points"
    assert unseen(1.285) == "any true difference"

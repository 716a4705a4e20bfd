"""Sinks: what arrives in them, what a resumed run adds, and what happens when one fails."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rl import track
from rl.config import RecipeErrors
from rl.track import Tracker, TrackError, open_trackers
from rl.track_config import TrackConfig
from tests.oracles.runs import recipe, train
from tests.oracles.training import tiny_folder

ROOT = Path(__file__).parents[2]


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason="needs the extra 'track'")


def scalars(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """What TensorBoard shows of a run: name -> (step, value), in order."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(event.step, pytest.approx(event.value, rel=1e-6)) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def text(folder: Path) -> str:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()


# ---- none


def test_no_sink_imports_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from rl.track import open_trackers\n"
        f"sink = open_trackers((), 'p', 'run', {str(tmp_path)!r}, {{}}); sink.log({{'reward': 1.0}}, step=1); sink.close()\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "accelerate", "tensorboard", "wandb", "trackio"} & set(result.stdout.split())
    assert not list(tmp_path.iterdir())
    assert TrackConfig().sinks == ()


def test_a_package_that_is_not_there_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "find_spec", lambda name: None)
    with pytest.raises(TrackError) as caught:
        open_trackers(["wandb", "trackio"], "p", "run", tmp_path, {})
    assert str(caught.value) == (
        "track.sinks: wandb, trackio are not installed\n    pip install 'unmask[track]', or leave the name out of track.sinks"
    )
    assert not list(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeErrors, match=r"pip install 'unmask\[track\]'"):
        train({**recipe(Path("tiny")), "track": {"sinks": ["wandb"]}})
    assert not (tmp_path / "run").exists()


def test_names_are_checked() -> None:
    for wrong in ({"sinks": ["tensorbord"]}, {"sinks": ["wandb", "wandb"]}, {"project": ""}):
        with pytest.raises(ValidationError):
            TrackConfig.model_validate(wrong)


# ---- tensorboard


@needs("tensorboard")
def test_tensorboard_gets_the_numbers_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = train({**recipe(tiny_folder(tmp_path / "model")), "track": {"sinks": ["tensorboard"]}})
    shown = scalars(run.folder)
    for name in ("reward", "outcome", "entropy", "optim/grad_norm", "reward/digits"):
        assert shown[name] == [(row["update"] + 1, row[name]) for row in run.metrics]
    assert "update" not in shown
    assert "prompts_per_update: 3" in text(run.folder)


@needs("tensorboard")
def test_a_resumed_run_shows_every_step_once(tmp_path: Path) -> None:
    def part(steps: range, value: float, **options: Any) -> None:
        sink = open_trackers(["tensorboard"], "p", "run", tmp_path, {"a": 1}, **options)
        for step in steps:
            sink.log({"update": step - 1, "reward": value, "missing": None, "nan": float("nan")}, step=step)
        sink.close()

    part(range(1, 6), 0.25)
    part(range(4, 8), 0.75, resumed_at=3)  # the checkpoint was made after 3 updates
    assert scalars(tmp_path) == {"reward": [(step, 0.25 if step <= 3 else 0.75) for step in range(1, 8)]}
    part(range(1, 3), 0.5)  # a new run in a used folder
    assert scalars(tmp_path) == {"reward": [(1, 0.5), (2, 0.5)]}


# ---- the two with a server, which are used without one; each in a process of its own, as they leave threads behind

PROGRAM = """
import sys, time
from accelerate import PartialState
from rl.track import open_trackers
PartialState(cpu=True)
for first, last, resumed_at in ((1, 5, None), (4, 7, 3)):
    sink = open_trackers([sys.argv[1]], "proj", "toy", sys.argv[2], {"optim": {"lr": 0.1}, "eval": None}, resumed_at=resumed_at)
    for step in range(first, last + 1):
        sink.log({"reward": step + 0.5 * (resumed_at is not None), "nothing": None}, step=step)
    sink.close()
    time.sleep(1.1)  # wandb names its folders by the second
"""
# Steps 4 and 5 had been sent before the interruption, and cannot be taken back.
SENT = {**{step: float(step) for step in range(1, 6)}, 6: 6.5, 7: 7.5}


def run_program(sink: str, folder: Path) -> str:
    environment = {**os.environ, "WANDB_MODE": "offline", "TRACKIO_DIR": str(folder / "trackio"), "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, sink, str(folder)],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    known = json.loads((folder / "track.json").read_text())
    assert known["last"] == 7
    return known["id"]


def leveldb_log(data: bytes, block: int = 32768) -> Iterator[bytes]:
    """The records of a LevelDB log: blocks of chunks, each with checksum (4 bytes), length (2) and kind (1: whole, 2-4: parts)."""
    place, record = 0, b""
    while place + 7 <= len(data):
        if (
            block - (place + 7) % block < 7
        ):  # what is left of a block is too short for a header; the file began 7 bytes earlier
            place += block - (place + 7) % block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record = (b"" if kind in (1, 2) else record) + data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record


@needs("wandb")
def test_wandb_works_offline_and_goes_on_under_one_id(tmp_path: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportMissingImports]

    name = run_program("wandb", tmp_path)
    seen: list[tuple[int, float]] = []
    files = sorted(tmp_path.glob(f"wandb/offline-run-*-toy-{name}/run-toy-{name}.wandb"))
    assert len(files) == 2
    for file in files:
        for data in leveldb_log(file.read_bytes()[7:]):  # after wandb's own seven bytes
            record = Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                seen.append((items["_step"], items["reward"]))
    assert seen == list(SENT.items())


@needs("trackio")
def test_trackio_writes_locally_and_goes_on_in_one_run(tmp_path: Path) -> None:
    name = run_program("trackio", tmp_path)
    with sqlite3.connect(tmp_path / "trackio" / "proj.db") as database:
        found = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert {run for run, _, _ in found} == {f"toy-{name}"}
    assert [(step, json.loads(metrics)["reward"]) for _, step, metrics in found] == list(SENT.items())


# ---- when a sink fails


class Broken:
    """A sink whose disk is full, or with a mistake in it."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def log(self, values: dict[str, Any], step: int) -> None:
        self.calls += 1
        raise self.error

    def finish(self) -> None:
        self.log({}, 0)


def tracker(tmp_path: Path, sink: Any, told: list[str]) -> Tracker:
    place = track.Place("p", "run", tmp_path, {}, "abcdef", None)
    return Tracker({"tensorboard": sink}, place, -1, told.append)


def test_a_sink_that_fails_is_told_once_and_the_run_goes_on(tmp_path: Path) -> None:
    told: list[str] = []
    sink = Broken(OSError(28, "No space left on device"))
    open_sinks = tracker(tmp_path, sink, told)
    for step in range(1, 4):
        open_sinks.log({"reward": 1.0}, step=step)
    open_sinks.close()
    assert sink.calls == 4  # it may come back
    assert told == [
        "track: tensorboard failed, and the run goes on without it: [Errno 28] No space left on device (OSError). Nothing is lost: "
        f"{tmp_path} holds every number. Later failures are tried again and not told"
    ]


def test_a_mistake_of_ours_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        tracker(tmp_path, Broken(KeyError("reward")), []).log({"reward": 1.0}, step=1)


@needs("tensorboard")
def test_a_sink_that_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(TrackError, match=r"tensorboard could not be opened: .*\n    it writes below the run folder"):
        open_trackers(["tensorboard"], "p", "run", tmp_path, {})

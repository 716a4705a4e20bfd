"""`unmask train` with rewards that hang, crash their process, answer nonsense or change what they are given, and with entries' options."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from rl.cli import app
from rl.run import read_jsonl
from rl.samples import read_samples
from tests.oracles.runs import ROWS, recipe, written

pytestmark = pytest.mark.usefixtures("own_folder")

# One of six prompts has answer 1; with groups of two, two of twelve rollouts are of it.
BAD = """
import ctypes, os, time
from pathlib import Path
from rewards.contract import InfrastructureError

def even(text):
    return sum(char in "02468" for char in text) / 8

def good(completions, log_extra, **kwargs):
    log_extra("worker", [os.getpid()] * len(completions))
    return [even(text) for text in completions]

def bad(completions, answer, how, trainer_state, **kwargs):
    if 1 in answer and trainer_state.global_step == 0:
        if how == "hang":
            time.sleep(600)
        if how == "exit":
            os._exit(7)
        if how == "segfault":
            ctypes.string_at(0)
        if how == "raise":
            raise ValueError("cannot read it")
        if how == "length":
            return [0.0, 0.0]
        if how == "words":
            return ["good"] * len(completions)
        if how == "nan":
            return [float("nan") if one == 1 else 0.0 for one in answer]
    return [even(text) for text in completions]

def vandal(prompts, completions, completion_ids, answer, marks, **kwargs):
    for ids, one in zip(completion_ids, marks):
        ids.clear()
        one["seen"].append(1)
    prompts[:], answer[:] = [], []
    return [even(text) for text in completions]

def tidy(prompts, completions, completion_ids, answer, marks, log_extra, **kwargs):
    log_extra("clean", [len(prompts) == len(answer) and one == {"seen": []} and bool(ids) for one, ids in zip(marks, completion_ids)])
    return [even(text) for text in completions]

def short_rows(completions, answer, **kwargs):
    assert set(answer) <= {1, 2}, answer
    return [1.0 for _ in completions]

def flaky(completions, answer, trainer_state, **kwargs):
    tried = Path(f"tried-{trainer_state.global_step}")
    first = not tried.exists()
    tried.touch()
    return [InfrastructureError("busy") if first and one == 1 else 0.5 for one in answer]

def counted(completions, completion_ids, **kwargs):
    with open("calls.txt", "a") as file:
        file.write("".join(f"{text}\\n" for text in completions))
    return [even(text) for text in completions]
"""


@pytest.fixture(autouse=True)
def files(own_folder: None) -> None:
    Path("mine.py").write_text(BAD)
    written([{**row, "marks": {"seen": []}} for row in ROWS], Path("rows.jsonl"))


def entry(function: str, **options: Any) -> dict[str, Any]:
    return {"fn": f"mine.py:{function}", **options}


def write(checkpoint: Path, *rewards: dict[str, Any], **sections: Any) -> None:
    """recipe.yaml with these rewards: two updates with all six prompts."""
    sections = {"train": {"prompts_per_update": 6, "log_rollouts": 12}, **sections}
    whole = recipe(checkpoint, data={"train": {"path": "rows.jsonl"}}, **sections) | {"rewards": list(rewards)}
    Path("recipe.yaml").write_text(json.dumps(whole))


def trained(*arguments: str) -> tuple[str, list[dict[str, Any]]]:
    """What a command that must go well says, and its metrics."""
    result = CliRunner().invoke(app, ["train", "recipe.yaml", *arguments])
    assert result.exit_code == 0, result.output
    return result.output, read_jsonl(Path("run/metrics.jsonl"))


def refused() -> str:
    """What a command says that must end with an error of the reward."""
    result = CliRunner().invoke(app, ["train", "recipe.yaml"])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


def kept(update: int) -> list[dict[str, Any]]:
    return read_samples(Path(f"run/rollouts/{update:06d}.parquet"))


# ---- what breaks


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("hang", "did not answer in 3 s"),
        ("exit", "its process ended with status 7"),
        ("segfault", "its process was killed by SIGSEGV"),
    ],
)
def test_a_reward_that_hangs_or_kills_its_process(checkpoint: Path, how: str, reason: str) -> None:
    write(checkpoint, entry("good"), entry("bad", kwargs={"how": how}, timeout=3.0))
    started = time.monotonic()
    said, (first, second) = trained()
    assert time.monotonic() - started < 30
    assert first[f"dropped/reward bad: {reason}"] == 2
    assert first["reward/bad/lost"] == 2
    assert "reward/bad/lost" not in second
    assert second["loss"] is not None
    assert len(kept(0)) == 10
    assert len(kept(1)) == 12
    assert f"reward bad: {reason}: rows" in said
    assert "of 12 dropped" in said
    assert "prompt:     '7'" in said


@pytest.mark.parametrize(
    ("how", "message", "lost"),
    [
        ("nan", r"reward bad returned nan (float) for row", 2),
        ("length", "reward bad returned 2 scores for 12 completions", 2),
        ("words", "reward bad returned 'good' (str) for row 0", 12),
        ("raise", "reward bad raised ValueError on row", 2),
    ],
)
def test_a_reward_that_answers_nonsense(checkpoint: Path, how: str, message: str, lost: int) -> None:
    write(checkpoint, entry("good"), entry("bad", kwargs={"how": how}))
    said = refused()
    assert message in said
    assert "completion: '" in said
    assert "column answer: " in said
    write(checkpoint, entry("good"), entry("bad", kwargs={"how": how}, on_error="drop"))
    _, (first, second) = trained()
    assert first["reward/bad/errors"] == lost
    assert sum(count for name, count in first.items() if name.startswith("dropped/reward bad: ")) == lost
    assert "reward/bad/errors" not in second


def test_a_reward_that_changes_what_it_is_given(checkpoint: Path) -> None:
    write(checkpoint, entry("vandal"), entry("tidy"))
    trained()
    for update in (0, 1):
        assert len(kept(update)) == 12
        assert all(row["extras"]["clean"] is True for row in kept(update))
        assert all(row["prompt"] for row in kept(update))


def test_grading_is_in_a_process_that_ends_with_the_run(checkpoint: Path) -> None:
    write(checkpoint, entry("good"))
    trained()
    workers = {row["extras"]["worker"] for update in (0, 1) for row in kept(update)}
    assert len(workers) == 1
    assert not any(map(psutil.pid_exists, workers))


@pytest.mark.timeout(120)
def test_as_a_person_types_it(checkpoint: Path) -> None:
    """In a process of its own: all that may happen to it, at once."""
    breaking = [entry("bad", name=how, kwargs={"how": how}, timeout=2.0, weight=0.1) for how in ("hang", "segfault")]
    write(checkpoint, entry("good"), *breaking)
    command = [sys.executable, "-m", "unmask", "train", "recipe.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = read_jsonl(Path("run/metrics.jsonl"))
    assert (first["reward/hang/lost"], first["reward/segfault/lost"]) == (2, 2)
    assert second["loss"] is not None
    assert "in bad" in done.stderr  # faulthandler's word on the line that crashed


@pytest.mark.timeout(240)
def test_on_a_cluster(checkpoint: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra 'cluster'")
    breaking = [entry("bad", name=how, kwargs={"how": how}, weight=0.1) for how in ("hang", "exit")]
    options = {"backend": "ray", "reward_workers": 2, "reward_timeout": 16.0}
    write(checkpoint, entry("good"), *breaking, entry("short_rows", where={"answer": [1, 2]}), cluster=options)
    command = [sys.executable, "-m", "unmask", "train", "recipe.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = read_jsonl(Path("run/metrics.jsonl"))
    assert (first["reward/hang/lost"], first["reward/exit/lost"]) == (2, 2)
    assert first["dropped/reward hang: did not answer in 16 s"] == 2
    assert second["loss"] is not None
    assert "prompt:     '7'" in done.stdout + done.stderr


# ---- what an entry may say


def test_routing_by_a_column(checkpoint: Path) -> None:
    write(checkpoint, entry("good"), entry("short_rows", where={"answer": [1, 2]}))
    _, rows = trained()
    for row in rows:
        assert row["reward/short_rows"] == row["reward/short_rows/hits"] == 1.0
        assert row["reward/short_rows/std"] == 0.0
    scored = [row["components"] for row in kept(0)]
    assert sum(one["short_rows"] is not None for one in scored) == 6  # three of the six prompts


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"answr": 1}, "is for rows by their column 'answr' (where), and there is none"),
        ({"answer": "1"}, "reward short_rows is for no row of it (where: {'answer': '1'}): answer is 2, 3, 4, 1"),
    ],
)
def test_routing_that_leads_nowhere(checkpoint: Path, where: dict[str, Any], message: str) -> None:
    write(checkpoint, entry("good"), entry("short_rows", where=where))
    said = refused()
    assert message in said
    assert ("did you mean 'answer'?" in said) == ("answr" in where)
    assert not Path("run").exists()


def test_failed_rows_are_tried_again(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.contract.batch.FIRST_WAIT", 0.01)
    write(checkpoint, entry("good"), entry("flaky", retries=1))
    _, rows = trained()
    for row in rows:
        assert row["reward/flaky"] == 0.5
        assert row["reward/flaky/retries"] == 2
        assert not any(name.startswith("dropped/") for name in row)


def test_equal_rows_are_graded_once(checkpoint: Path) -> None:
    write(checkpoint, entry("counted"), train={"prompts_per_update": 6, "updates": 4})
    _, without = trained()
    assert len(Path("calls.txt").read_text().splitlines()) == 48
    Path("calls.txt").unlink()
    write(checkpoint, entry("counted", cache=True), train={"prompts_per_update": 6, "updates": 4})
    _, rows = trained()
    assert rows == without
    hits = sum(row.get("reward/counted/cache_hits", 0) for row in read_jsonl(Path("run/timing.jsonl")))
    assert hits > 0
    assert len(Path("calls.txt").read_text().splitlines()) == 48 - hits


def test_problems_of_entries_are_told_at_once(checkpoint: Path) -> None:
    write(
        checkpoint,
        entry("good", timeout=0, retries=-1, on_error="dropp", cach=True),
        entry("good", name="x", cache="maybe"),
    )
    said = refused()
    for key in ("timeout", "retries", "on_error", "cach"):
        assert f"rewards.0.{key}" in said
    assert "did you mean rewards.0.cache?" in said
    assert "rewards.1.cache" in said

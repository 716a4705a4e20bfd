"""The quickstart's recipe in a process of its own, killed by SIGKILL at random moments and continued: bit for bit the undisturbed run."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl.quickstart import write_data
from tests.rl.test_resume import same

KILLS = 10
UPDATES = 20
OVERRIDES = [
    f"train.updates={UPDATES}",
    "train.deterministic=true",
    "train.threads=1",
    "train.prompts_per_update=16",
    "warm_start.steps=60",
    "warm_start.batch=16",
    "save.every=1",
    "save.sft_every=10",
    "eval.every=5",
    "eval.limit=32",
    "eval.steps=[2]",
]


def command(folder: Path, data: tuple[Path, Path]) -> list[str]:
    train, test = data
    paths = [f"data.train.path={train}", f"data.eval.path={test}", f"warm_start.data.path={train}"]
    start = [sys.executable, "-m", "unmask", "train", "sudoku_4x4_tiny"]
    return [*start, *paths, *OVERRIDES, "--out", str(folder), "--resume", "auto"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 0)
    subprocess.run(command(tmp_path / "undisturbed", data), check=True, capture_output=True)
    folder, rng = tmp_path / "killed", random.Random(0)
    killed = in_checkpoint = 0
    while killed < KILLS:
        with subprocess.Popen(command(folder, data), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            # The start of a process takes most of a short run: wait for a sign of life, then for a random moment after it.
            before = _stamp(folder)
            while process.poll() is None and _stamp(folder) == before:
                time.sleep(0.02)
            time.sleep(rng.uniform(0.0, 1.5))
            if killed % 3 == 2:  # in the middle of writing a checkpoint
                limit = time.monotonic() + 20
                while process.poll() is None and time.monotonic() < limit and not _writing(folder):
                    pass
                in_checkpoint += _writing(folder)
            if process.poll() is not None:
                break  # finished before it could be killed
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    subprocess.run(command(folder, data), check=True, capture_output=True)
    print(f"killed {killed} times, {in_checkpoint} of them while a checkpoint was written")
    assert killed >= KILLS - 2
    same(folder, tmp_path / "undisturbed")


def _stamp(folder: Path) -> int:
    """Changes whenever the run has written a row."""
    tables = ("warm_start.jsonl", "metrics.jsonl", "evaluations.jsonl")
    return sum((folder / name).stat().st_size for name in tables if (folder / name).exists())


def _writing(folder: Path) -> bool:
    return any((folder / "checkpoints").glob(".writing-*"))

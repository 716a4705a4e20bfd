"""Whole runs on workers, by the command line: the numbers of one process, whoever draws; nothing left over; what dies is replaced."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from rl import checkpoint
from rl.run import read_jsonl

pytest.importorskip("ray", reason="needs the extra 'cluster'")
pytest.importorskip("deepspeed", reason="needs the extra 'cluster'")

REWARD = """
def spread(completions, **kwargs):
    return [sum(map(ord, text)) % 7 / 6 for text in completions]
"""
RAY = ["cluster.backend=ray", "cluster.start_timeout=120"]


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path) -> Path:
    rows = [{"prompt": f"{n}+{n}=", "completion": str(2 * n)} for n in range(1, 9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.py").write_text(REWARD)
    recipe = {
        "model": {"path": str(checkpoint)},
        "data": {"train": {"path": "rows.jsonl"}, "eval": {"path": "rows.jsonl"}},
        "rollout": {"canvas": 8, "block": 4, "steps": 4, "group_size": 4, "max_rows": 8},
        "rewards": [{"fn": "own.py:spread"}],
        "method": {"preset": "order_grpo"},
        "optim": {"lr": 1e-3},
        "train": {"updates": 3, "prompts_per_update": 3, "threads": 1, "deterministic": True},
        "eval": {"at_start": True, "batch": 8},
        "save": {"every": 1},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "unmask", "train", "recipe.yaml", *arguments]


def run(folder: Path, out: str, *settings: str) -> Path:
    done = subprocess.run(
        command(*settings, "--out", out), cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / out


def rows(run: Path) -> list[dict[str, Any]]:
    return read_jsonl(run / "metrics.jsonl")


def weights(run: Path) -> dict[str, torch.Tensor]:
    saved, _ = checkpoint.newest(run / "checkpoints")
    assert saved is not None
    return saved.tensors["weights"]


def children(of: int) -> list[tuple[int, str]]:
    """Processes below one, with their titles."""
    found, parents = [], {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat, title = (path / "stat").read_text(), (path / "cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:  # it has ended
            continue
        parents[int(path.name)] = (int(stat.rpartition(")")[2].split()[1]), title)
    for pid, (parent, title) in parents.items():
        while parent not in (0, of):
            parent = parents.get(parent, (0, ""))[0]
        if parent == of:
            found.append((pid, title))
    return found


@pytest.mark.timeout(180)  # half a minute where nothing else runs
def test_who_draws_changes_no_number(folder: Path) -> None:
    alone = run(folder, "alone")
    one = run(folder, "one", *RAY)
    two = run(folder, "two", *RAY, "cluster.samplers=2")
    assert rows(alone) == rows(one) == rows(two)
    assert len(rows(alone)) == 3
    assert all(torch.equal(value, weights(one)[name]) for name, value in weights(alone).items())
    for name in ("accuracy_before", "accuracy_after", "forwards", "rows_run"):
        said = [json.loads((one / "summary.json").read_text())[name] for one in (alone, one, two)]
        assert said[0] == said[1] == said[2], name
    assert {path.name for path in (two / "logs").iterdir()} == {"learner-0.log", "sampler-0.log", "sampler-1.log"}


@pytest.mark.timeout(180)
def test_what_cannot_be_is_said_and_nothing_is_left(folder: Path) -> None:
    for settings, said in (
        (["cluster.gpus_per_learner=1", "cluster.gpus_per_sampler=1"], "need 2 GPUs, and the cluster has 0"),
        (["cluster.address=127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
    ):
        done = subprocess.run(
            command(*RAY, *settings, "--out", "bad"),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert not (folder / "bad" / "recipe.yaml").exists()  # nor an earlier run been moved aside


@pytest.mark.timeout(180)
def test_sigterm_saves_and_what_it_says_goes_on(folder: Path) -> None:
    """Ray has a handler of its own for it, and clusters send it."""
    settings = [*RAY, "train.updates=500", "save.every=0", "eval=null", "data.eval=null"]
    with subprocess.Popen(
        command(*settings, "--out", "cut"), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as cut:
        wait_for(folder / "cut", 2)
        cut.send_signal(signal.SIGTERM)
        said = cut.communicate(timeout=60)[0]
    assert cut.returncode == 130, said
    assert "Stopping with a checkpoint" in said
    saved, _ = checkpoint.newest(folder / "cut" / "checkpoints")
    assert saved is not None
    assert saved.state["progress"]["updates"] == len(rows(folder / "cut")) >= 2


def kill(driver: int, title: str, run: Path, after: int) -> None:
    """End a worker once so many updates are done."""
    wait_for(run, after)
    victim = next(pid for pid, name in children(driver) if name.startswith(title))
    os.kill(victim, signal.SIGKILL)


def wait_for(run: Path, updates: int, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    path = run / "metrics.jsonl"
    while not path.is_file() or len(path.read_text().splitlines()) < updates:
        assert time.monotonic() < until, f"{run} does not come to update {updates}"
        time.sleep(0.02)


def gone(pids: Any) -> None:
    """None of these is left within a while."""
    until, left = time.monotonic() + 30, list(pids)
    while left and time.monotonic() < until:
        left = [pid for pid in left if Path(f"/proc/{pid}").exists()]
        time.sleep(0.1)
    assert not left


def same(left: Path, right: Path) -> None:
    assert rows(left) == rows(right)
    assert weights(left).keys() == weights(right).keys()
    assert all(torch.equal(value, weights(right)[name]) for name, value in weights(left).items())

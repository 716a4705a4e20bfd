"""Checkpoints on disk: whole or not at all, verified, the damaged one named and the one before it used."""

import errno
import json
from pathlib import Path

import pytest
import torch

from rl import checkpoint
from rl.checkpoint import CheckpointError

TENSORS = {"weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7)}, "optimizer": {"step/a": torch.ones(1)}}


def write(folder: Path, update: int, sft_step: int | None = None) -> Path:
    return checkpoint.write(folder, checkpoint.name_of(update, sft_step), TENSORS, {"progress": {"updates": update}})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    saved = checkpoint.read(write(tmp_path / "deep" / "er", 3))
    assert saved.state["progress"] == {"updates": 3}
    assert {group: set(named) for group, named in saved.tensors.items()} == {
        "weights": {"a", "b"},
        "optimizer": {"step/a"},
    }
    for group, named in TENSORS.items():
        for name, value in named.items():
            assert torch.equal(saved.tensors[group][name], value)


def test_the_newest_is_the_one_that_is_furthest(tmp_path: Path) -> None:
    for update, step in ((10, None), (9, None), (0, 900), (0, 1000), (0, None)):
        write(tmp_path, update, step)
    listed = [path.name for path in checkpoint.listed(tmp_path)]
    assert listed == [
        "update-000000-sft-000900",
        "update-000000-sft-001000",
        "update-000000",
        "update-000009",
        "update-000010",
    ]
    saved, problems = checkpoint.newest(tmp_path)
    assert saved is not None
    assert saved.path.name == "update-000010"
    assert problems == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "act", "said"),
    [
        ("weights.safetensors", cut, "weights.safetensors has"),
        ("weights.safetensors", flip, "SHA-256"),
        ("optimizer.safetensors", Path.unlink, "optimizer.safetensors is missing"),
        ("state.json", flip, "SHA-256"),
        ("manifest.json", Path.unlink, "manifest.json cannot be read"),
        ("manifest.json", cut, "manifest.json cannot be read"),
        ("manifest.json", lambda path: path.write_text("[]"), "manifest.json cannot be read"),
        ("manifest.json", lambda path: path.write_text("{}"), "names no state.json"),
    ],
)
def test_a_damaged_one_is_named_and_the_one_before_it_used(tmp_path: Path, file: str, act, said: str) -> None:
    write(tmp_path, 1)
    act(write(tmp_path, 2) / file)
    saved, problems = checkpoint.newest(tmp_path)
    assert saved is not None
    assert saved.state["progress"] == {"updates": 1}
    assert len(problems) == 1
    assert "update-000002 is damaged" in problems[0]
    assert said in problems[0]


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(CheckpointError, match="has format 1, this version of unmask reads format 2"):
        checkpoint.read(path)


class Killed(BaseException):
    """What SIGKILL is to a process: nothing after it runs, and nobody catches it."""


@pytest.mark.parametrize("calls", range(7))
def test_a_crash_while_writing_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Killed at each flush and at the rename: either the old state or the new one, never a half."""
    write(tmp_path, 1)
    left = calls

    def dying(path: Path, *args) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    monkeypatch.setattr(checkpoint, "flush", dying)
    own = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: (dying(self), own(self, to))[1])
    with pytest.raises(Killed):
        write(tmp_path, 2)
    monkeypatch.undo()
    found = [path.name for path in checkpoint.listed(tmp_path)]
    assert found == (["update-000001", "update-000002"] if calls == 6 else ["update-000001"])
    assert all(checkpoint.damage(path) is None for path in checkpoint.listed(tmp_path))
    write(tmp_path, 3)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_a_full_disk_is_said_and_costs_nothing_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "flush", full)
    with pytest.raises(
        CheckpointError, match=r"update-000002 could not be written: .*No space left.*update-000001, is intact"
    ):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert names(tmp_path) == ["update-000001"]
    assert checkpoint.damage(tmp_path / "update-000001") is None


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for update in range(1, 6):
        write(tmp_path, update)
    checkpoint.prune(tmp_path, 2, "update-000002")
    assert names(tmp_path) == ["update-000002", "update-000004", "update-000005"]


def test_a_second_one_under_a_name_replaces_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    (path / "weights.safetensors").unlink()
    write(tmp_path, 1)
    assert checkpoint.damage(path) is None
    assert json.loads((path / "manifest.json").read_text()).keys() == {
        "weights.safetensors",
        "optimizer.safetensors",
        "state.json",
    }

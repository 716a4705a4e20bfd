"""Checkpoints: written whole or not at all, verified when read.

A checkpoint is a folder: ``*.safetensors``, ``state.json``, and ``manifest.json`` with the size and SHA-256 of both. It is written under a
temporary name, flushed to disk (files, folder, parent) and renamed, so that a crash at any moment leaves the earlier ones as they were.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

MANIFEST = "manifest.json"
STATE = "state.json"
FORMAT = 1  # of what a checkpoint holds; another number is refused with this reason
_WRITING, _REMOVED = ".writing-", ".removed-"
_PREFIX = "update-"
_NAME = re.compile(rf"{_PREFIX}\d+(-sft-\d+)?")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or does not fit; the message says which one and what to do."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint read back: tensors by group (``weights``, ``optimizer``, ``reference``) and the rest as plain JSON."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def name_of(update: int, sft_step: int | None = None) -> str:
    """Folder name: sorts by age, warm start before RL."""
    return f"{_PREFIX}{update:06d}" if sft_step is None else f"{_PREFIX}000000-sft-{sft_step:06d}"


def listed(folder: Path) -> list[Path]:
    """Finished checkpoints of a run's ``checkpoints`` folder, oldest first."""
    if not folder.is_dir():
        return []

    def age(path: Path) -> tuple[int, int]:
        update, _, step = path.name.removeprefix(_PREFIX).partition("-sft-")
        return (int(update), -1 if not step else int(step) - 2**40)

    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=age)


def write(folder: Path, name: str, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Write one checkpoint into ``folder`` atomically; what stands under its name already is replaced.

    Raises ``CheckpointError`` where the disk refuses (full, read-only); the earlier checkpoints are untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target, part = folder / name, folder / f"{_WRITING}{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clean(folder)
        part.mkdir()
        for group, named in tensors.items():
            on_cpu = {key: value.detach().cpu().contiguous() for key, value in named.items()}
            save_file(on_cpu, part / f"{group}.safetensors")
        (part / STATE).write_text(json.dumps({**state, "format": FORMAT}, allow_nan=False, indent=1), encoding="utf-8")
        files = sorted(path for path in part.iterdir())
        manifest = {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in files}
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in (*files, part / MANIFEST, part):
            flush(path)
        if target.exists():
            remove(target)
        part.rename(target)
        flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        earlier = listed(folder)
        left = f"the one before it, {earlier[-1]}, is intact" if earlier else "there is no earlier one"
        raise CheckpointError(
            f"checkpoint {target} could not be written: {error}; {left}. Make room (save.keep: fewer checkpoints), "
            "then continue with --resume auto"
        ) from error
    return target


def clean(folder: Path) -> None:
    """Remove what an interrupted write or deletion left behind."""
    for path in (*folder.glob(f"{_WRITING}*"), *folder.glob(f"{_REMOVED}*")):
        shutil.rmtree(path, ignore_errors=True)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint on disk, or None: every file there, of the size and digest its manifest says."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, entry in manifest.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, {entry['bytes']} were written"
            if _digest(file) != entry["sha256"]:
                return f"{name} is not what was written (its SHA-256 differs)"
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"
    lacking = [name for name in (STATE, "weights.safetensors") if name not in manifest]
    return f"{MANIFEST} names no {lacking[0]}" if lacking else None


def read(path: Path) -> Saved:
    """Read a checkpoint after verifying it. Raises ``CheckpointError`` naming what is damaged."""
    from safetensors.torch import load_file

    wrong = damage(path)
    if wrong:
        raise CheckpointError(f"checkpoint {path} is damaged: {wrong}")
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {state.get('format')}, this version of unmask reads format {FORMAT}"
        )
    tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return Saved(path, tensors, state)


def newest(folder: Path) -> tuple[Saved | None, list[str]]:
    """The newest checkpoint that verifies, and a message for each newer one that does not."""
    problems = []
    for path in reversed(listed(folder)):
        try:
            return read(path), problems
        except CheckpointError as error:
            problems.append(str(error))
    return None, problems


def prune(folder: Path, keep: int, spare: str | None) -> None:
    """Delete all but the ``keep`` newest checkpoints and the one named ``spare``."""
    for path in listed(folder)[:-keep]:
        if path.name != spare:
            remove(path)


def remove(path: Path) -> None:
    """Delete a checkpoint; renamed first, so that a crash leaves no half of one under its name."""
    doomed = path.with_name(f"{_REMOVED}{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def is_full_disk(error: Exception) -> bool:
    """Whether an error of writing says that there is no room (or no quota) left. Safetensors tells it in words alone."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or f"(os error {errno.ENOSPC})" in str(error)


def flush(path: Path) -> None:
    """Push a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The run folder: what a run leaves behind, and how it is read again."""

import fcntl
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rl.checkpoint import CheckpointError, flush

VERSIONED = ("unmask", "torch", "transformers", "peft", "accelerate", "datasets", "trl", "numpy")


@dataclass(frozen=True)
class Run:
    """A finished run. folder holds recipe.yaml, metrics.jsonl, rollouts/, summary.json, report.html and the weights."""

    folder: Path
    summary: dict[str, Any]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One mapping per update, in order."""
        path = self.folder / "metrics.jsonl"
        return read_jsonl(path) if path.exists() else []


# What a run writes into its folder. The tables grow line by line and are cut back on resume; the rest is made anew.
TABLES = ("metrics.jsonl", "timing.jsonl", "warm_start.jsonl", "evaluations.jsonl", "health.jsonl")
RESULTS = ("summary.json", "report.html", "curve.png", "best.json", "model", "adapter", "best", "failed")
OTHERS = (
    "tensorboard",
    "wandb",
    "recipe.yaml",
    "overlap.json",
    "track.json",
    "rollouts",
    "rollouts.jsonl",
    "warm_start",
    "checkpoints",
    "control",
)
EARLIER = "earlier"


class RunFolder:
    """Writes the files of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def begin(path: Path, recipe_yaml: str) -> tuple["RunFolder", Path | None]:
        """A folder for a new run, and where the run that stood there was moved to: ``earlier/001`` and on; nothing is deleted."""
        path.mkdir(parents=True, exist_ok=True)
        there = [path / name for name in (*TABLES, *RESULTS, *OTHERS) if (path / name).exists()]
        moved = None
        own = path / "recipe.yaml"
        unchanged = own.exists() and own.read_text(encoding="utf-8") == recipe_yaml
        if [one.name for one in there] != (["recipe.yaml"] if unchanged else []):
            numbers = [int(one.name) for one in (path / EARLIER).glob("[0-9]*") if one.name.isdecimal()]
            moved = path / EARLIER / f"{max(numbers, default=0) + 1:03d}"
            moved.mkdir(parents=True)
            for one in there:
                one.rename(moved / one.name)
        (path / "recipe.yaml").write_text(recipe_yaml, encoding="utf-8")
        return RunFolder(path), moved

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n")

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        part = self.path / f".writing-{name}"
        part.write_text(
            json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
        part.replace(self.path / name)

    def sizes(self) -> dict[str, int]:
        """Bytes of each table, all of them on the disk: what a checkpoint remembers."""
        sizes = {}
        for name in TABLES:
            path = self.path / name
            if path.exists():
                flush(path)
            sizes[name] = path.stat().st_size if path.exists() else 0
        return sizes

    def cut_back(self, sizes: Mapping[str, int], update: int) -> None:
        """Undo what was written after a checkpoint: rows of tables, rollouts from ``update`` on, results, later checkpoints.

        Raises ``CheckpointError`` where a table is shorter than it was: rows that the checkpoint counts on are gone.
        """
        for name in TABLES:
            path, size = self.path / name, sizes.get(name, 0)
            have = path.stat().st_size if path.exists() else 0
            if have < size:
                raise CheckpointError(
                    f"{path} has {have} bytes, but the checkpoint was written when it had {size}; "
                    "restore the file, or resume from an earlier checkpoint by its path"
                )
            if have > size:
                os.truncate(path, size)
        for file in (self.path / "rollouts").glob("*.parquet"):
            keep = int(file.stem) < update if file.stem.isdecimal() else file.stem == "eval-start"
            if not keep:
                file.unlink()
        for name in RESULTS:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


LOCK = ".lock"


class FolderBusyError(RuntimeError):
    """Another process is writing to the run folder."""


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Within the block no other process of this machine can run in the folder. Raises ``FolderBusyError`` where one does.

    The lock belongs to the process: it is gone when the process is, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            who = file.read().strip() or "another process"
            raise FolderBusyError(
                f"{folder}: {who} runs in this folder; wait for it, stop it, or choose another with --out"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """The value as strict JSON can hold it: NaN and infinities become null, arrays lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # of numpy or torch: an array gives a list, a scalar a number
        return plain(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def provenance() -> dict[str, Any]:
    """Versions, commit and machine, for ``summary.json``."""
    versions = {}
    for name in VERSIONED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "versions": {"python": platform.python_version(), **versions},
        "commit": _commit(),
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
    }


def _commit() -> str | None:
    """Commit of the checkout this package runs from, with ``+`` for local changes; None in an installed wheel."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
        dirty = subprocess.run(
            ["git", "-C", here, "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")

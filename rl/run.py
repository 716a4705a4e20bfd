"""The run folder: what a run leaves behind, and how it is read again."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

VERSIONED = ("unmask", "torch", "transformers", "peft", "accelerate", "datasets", "trl", "numpy")


@dataclass(frozen=True)
class Run:
    """A finished run. folder holds recipe.yaml, metrics.jsonl, rollouts.jsonl, summary.json and the weights."""

    folder: Path
    summary: dict[str, Any]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One mapping per update, in order."""
        path = self.folder / "metrics.jsonl"
        return read_jsonl(path) if path.exists() else []


class RunFolder:
    """Writes the files of a run; starting a run in a used folder begins its files anew."""

    def __init__(self, folder: Path, recipe_yaml: str) -> None:
        self.path = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(recipe_yaml, encoding="utf-8")
        for name in ("metrics.jsonl", "rollouts.jsonl", "warm_start.jsonl", "evaluations.jsonl", "summary.json"):
            (folder / name).unlink(missing_ok=True)
        for name in (
            "model",
            "adapter",
            "warm_start",
            "failed",
        ):  # weights of another run must not stand beside this recipe
            shutil.rmtree(folder / name, ignore_errors=True)

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n")

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        (self.path / name).write_text(
            json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )


def plain(value: Any) -> Any:
    """The value as strict JSON can hold it: NaN and infinities become null, numpy scalars numbers."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
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

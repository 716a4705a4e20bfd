"""A formula with one sign flipped fails a test: each mutation is made in a copy, and its tests are run there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutations.mutation import Mutation
from tests.mutations.table import MUTATIONS

ROOT = Path(__file__).resolve().parents[2]
COPY_PARTS = 8  # of the tests that the table names: all of them at once take longer than one test may
COPIED = ("rl", "rollouts", "rewards", "tests")


def copy_to(folder: Path) -> None:
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "unmask.py"):
        shutil.copy(ROOT / name, folder)


def run_tests(folder: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """pytest in the copy, with the copy's packages; stops at the first failure."""
    command = [
        sys.executable,
        "-B",
        "-m",
        "pytest",
        *tests.split(),
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "CI": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=580, check=False
    )


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[m.name for m in MUTATIONS])
def test_the_table_follows_the_code(mutation: Mutation) -> None:
    source = (ROOT / mutation.file).read_text()
    assert source.count(mutation.before) == 1, f"{mutation.file}: {mutation.before!r}"
    assert mutation.before != mutation.after
    assert all((ROOT / test.partition("::")[0]).exists() for test in mutation.tests.split())


def test_names_are_unique() -> None:
    assert len({m.name for m in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(COPY_PARTS))
def test_the_copy_itself_passes(part: int, tmp_path: Path) -> None:
    """Otherwise a mutation could fail for a reason of its own; it also shows that the copy is what is imported."""
    copy_to(tmp_path)
    (tmp_path / "tests" / "test_where.py").write_text(
        "import rl.masks, rollouts.law\n\n\ndef test_where():\n"
        f"    for module in (rl.masks, rollouts.law):\n        assert module.__file__.startswith({str(tmp_path)!r})\n"
    )
    named = {test for m in MUTATIONS for test in m.tests.split()}
    tests = sorted(test for test in named if "::" not in test or test.partition("::")[0] not in named)
    result = run_tests(tmp_path, " ".join(["tests/test_where.py", *tests[part::COPY_PARTS]]))
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=[m.name for m in MUTATIONS])
def test_a_mutation_is_noticed(mutation: Mutation, tmp_path: Path) -> None:
    copy_to(tmp_path)
    file = tmp_path / mutation.file
    file.write_text(file.read_text().replace(mutation.before, mutation.after))
    result = run_tests(tmp_path, mutation.tests)
    assert result.returncode == 1, f"{mutation.name} went unnoticed:\n{result.stdout[-2000:]}{result.stderr[-1000:]}"

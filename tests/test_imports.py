"""The arrows between rooms, and what may load what: read from the source, and tried in fresh processes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("rl", "rewards", "rollouts")
MAY_IMPORT = {"rl": {"rl", "rollouts", "rewards"}, "rollouts": {"rollouts"}, "rewards": {"rewards"}}
MAY_IMPORT_RAY = {"rl/cluster.py", "rl/graders.py", "rl/placement.py", "rl/sampler_pool.py", "rl/wire.py"}
FILES = sorted(path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imported(file: str, *, at_import_time: bool = False) -> set[str]:
    """Top-level names of the modules that a file imports; at import time: outside of functions and TYPE_CHECKING."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write absolute imports"
            names.add((node.module or "").partition(".")[0])
        for child in ast.iter_child_nodes(node):
            deferred = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            if not (at_import_time and (deferred or typing_only)):
                visit(child)

    visit(tree)
    return names


def loaded_by(module: str) -> set[str]:
    """Top-level modules in sys.modules after importing one module in a fresh process."""
    code = f"import {module}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return set(result.stdout.split())


def test_there_is_something_to_check():
    assert len(FILES) > 20


@pytest.mark.parametrize("file", FILES)
def test_arrows_between_rooms(file):
    room = file.partition("/")[0]
    assert imported(file) & set(ROOMS) <= MAY_IMPORT[room]


@pytest.mark.parametrize("file", FILES)
def test_ray_stands_in_its_files_only(file):
    assert "ray" not in imported(file) or file in MAY_IMPORT_RAY


def test_rewards_know_no_torch():
    for file in (file for file in FILES if file.startswith("rewards/")):
        assert "torch" not in imported(file), file


@pytest.mark.parametrize("file", FILES)
def test_trl_is_imported_lazily(file):
    assert not {"trl", "deepspeed", "wandb", "lm_eval"} & imported(file, at_import_time=True)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("rl.objectives", {"ray", "transformers"}),
        ("rewards", {"ray", "transformers", "torch"}),
        ("rewards.contract", {"ray", "transformers", "torch"}),
        ("rl.reward_worker", {"ray", "transformers", "torch"}),
        ("rl.config", {"ray", "transformers", "datasets"}),
        ("rl.cli", {"ray", "transformers", "datasets", "torch", "pydantic"}),
        ("unmask", {"ray", "transformers", "torch", "typer"}),
        ("rl.report", {"ray", "transformers", "torch", "pyarrow", "pydantic"}),
        ("rl", {"torch"}),
        ("rollouts", {"torch"}),
    ],
)
def test_importing_is_light(module, absent):
    assert not loaded_by(module) & absent


def test_files_and_functions_stay_readable():
    """Rooms keep their size: a file of more than 450 lines holds two of them."""
    for file in FILES:
        assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= 450, file

"""The arrows between rooms, that modules form no circles, and what may load what: read from the source, and tried in fresh processes."""

import ast
import subprocess
import sys
from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("rl", "rewards", "rollouts")
MAY_IMPORT = {"rl": {"rl", "rollouts", "rewards"}, "rollouts": {"rollouts"}, "rewards": {"rewards"}}
MAY_IMPORT_RAY = {
    "rl/cluster.py",
    "rl/crew.py",
    "rl/graders.py",
    "rl/placement.py",
    "rl/sampler_pool.py",
    "rl/site.py",
    "rl/wire.py",
}
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


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports_of(tree: ast.AST, modules: Collection[str]) -> set[str]:
    """Those of ``modules`` that a file imports anywhere in it: inside functions and under TYPE_CHECKING, too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            names.update(part if part in modules else str(node.module) for part in parts)
    return names & set(modules)


def circle_in(files: Mapping[str, str]) -> str | None:
    """A circle of modules that import each other, with its names, or None. files: path -> text."""
    modules = {module_of(file): ast.parse(text) for file, text in files.items()}
    graph = {name: imports_of(tree, modules) - {name} for name, tree in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:  # its list goes from what is imported to who imports it
        return " -> ".join(reversed(error.args[1]))
    return None


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


def test_no_modules_import_each_other():
    files = {file: (ROOT / file).read_text(encoding="utf-8") for file in [*FILES, "unmask.py"]}
    circle = circle_in(files)
    assert circle is None, f"{circle}: move what they share to where both can reach it"


@pytest.mark.parametrize(
    "back",
    [
        "from rl.a import x",
        "from rl import a",
        "import rl.a",
        "def f():\n    from rl.a import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rl.a import X",
    ],
)
def test_a_circle_is_found_and_named(back: str):
    files = {
        "rl/__init__.py": "",
        "rl/a.py": "import rl.b.c",
        "rl/b/__init__.py": "",
        "rl/b/c.py": "import rl.d",
        "rl/d.py": "",
    }
    assert circle_in(files) is None
    found = circle_in({**files, "rl/d.py": back})
    assert found is not None
    around = found.split(" -> ")
    assert around[0] == around[-1]
    assert {*pairwise(around)} == {("rl.a", "rl.b.c"), ("rl.b.c", "rl.d"), ("rl.d", "rl.a")}


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

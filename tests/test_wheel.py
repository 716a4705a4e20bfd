"""The wheel, installed outside the checkout: what it holds, and that a user's files never take our packages' place."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """bin folder of a fresh environment that holds the wheel, and sees the dependencies of this one."""
    home = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    site = next((home / "lib").glob("python*")) / "site-packages"
    # A .pth file adds the folder alone: .pth files inside it do not count, an editable install of the checkout least.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--ignore-installed", str(wheel)], check=True, timeout=120)
    return home / "bin"


@pytest.fixture
def decoys(tmp_path) -> Path:
    """A working folder as people have them."""
    (tmp_path / "rewards.py").write_text("raise SystemExit('the wrong rewards')\n")
    (tmp_path / "rl.py").write_text("raise SystemExit('the wrong rl')\n")
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "__init__.py").write_text("raise SystemExit('the wrong rollouts')\n")
    return tmp_path


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=path | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_wheel_holds_three_packages_one_module_and_the_recipes(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {
        "rl",
        "rewards",
        "rollouts",
        "unmask.py",
    }
    sources = {
        path.relative_to(ROOT).as_posix()
        for room in ("rl", "rewards", "rollouts")
        for path in (ROOT / room).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == sources | {"unmask.py"}
    folder = ROOT / "recipes"
    recipes = {f"rl/_recipes/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.yaml")}
    assert {name for name in names if name.endswith(".yaml")} == recipes
    assert "rl/_recipes/protocols/d1-gsm8k-256.yaml" in recipes


def test_the_wheel_holds_the_page_of_the_report(wheel):
    page = {f"rl/_report/{path.name}" for path in (ROOT / "rl" / "_report").iterdir()}
    assert {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("rl/_report/")} == page
    assert page


def test_the_command_works_beside_decoys(installed, decoys):
    listed = run(installed / "unmask", "recipes", "list", cwd=decoys)
    assert listed.returncode == 0, listed.stderr
    assert "llada_8b_gsm8k_diffu_grpo" in listed.stdout
    # A recipe that loads everything, rewards included, and a mistake to end it.
    train = run(installed / "unmask", "train", "llada_8b_gsm8k_diffu_grpo", "rewards.0.fn=gsm8k.corect", cwd=decoys)
    assert train.returncode == 2
    assert "gsm8k.correct" in train.stderr
    assert "wrong" not in train.stdout + train.stderr


def test_the_installed_files_are_used(installed, decoys):
    code = "import unmask, rl.recipes; print(unmask.__file__, rl.recipes.recipe_folder())"
    told = run(installed / "python", "-P", "-c", code, cwd=decoys)
    assert told.returncode == 0, told.stderr
    for path in told.stdout.split():
        assert path.startswith(str(installed.parent))


@pytest.mark.parametrize("decoy", ["rewards.py", "rl.py", "rollouts"])
def test_a_decoy_on_the_path_is_named(installed, tmp_path, decoys, decoy):
    for other in {"rewards.py", "rl.py"} - {decoy}:
        (decoys / other).unlink()
    if decoy != "rollouts":
        (decoys / "rollouts" / "__init__.py").unlink()
        (decoys / "rollouts").rmdir()
    told = run(installed / "unmask", "--version", cwd=tmp_path, PYTHONPATH=str(decoys))
    assert told.returncode == 2
    assert str(decoys / decoy) in told.stderr
    assert "rename" in told.stderr
    assert "Traceback" not in told.stderr
    assert "wrong" not in told.stderr


def test_a_script_beside_a_decoy_is_told_and_can_be_started_safely(installed, decoys):
    (decoys / "script.py").write_text("import unmask\nprint(unmask.load_policy.__module__)\n")
    told = run(installed / "python", "script.py", cwd=decoys)
    assert told.returncode == 1
    assert "ShadowedError" in told.stderr
    assert str(decoys / "rewards.py") in told.stderr
    assert "python -P" in told.stderr
    safe = run(installed / "python", "-P", "script.py", cwd=decoys)
    assert (safe.returncode, safe.stdout.strip()) == (0, "rollouts.models")


def test_a_module_that_was_imported_before_is_named(installed, tmp_path):
    (tmp_path / "rewards.py").write_text("")
    told = run(installed / "python", "-c", "import rewards\nimport unmask", cwd=tmp_path)
    assert told.returncode == 1
    assert str(tmp_path / "rewards.py") in told.stderr


def test_running_the_module_beside_a_decoy(installed, tmp_path):
    (tmp_path / "rewards.py").write_text("raise SystemExit('the wrong rewards')\n")
    for module in ("rl.cli", "unmask"):
        told = run(installed / "python", "-m", module, "--version", cwd=tmp_path)
        assert told.returncode == 2
        assert str(tmp_path / "rewards.py") in told.stderr
        assert "Traceback" not in told.stderr


def test_a_folder_without_code_shadows_nothing(installed, tmp_path):
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "notes.txt").write_text("")
    told = run(installed / "python", "-c", "import unmask; print(unmask.__version__)", cwd=tmp_path)
    assert told.returncode == 0, told.stderr


def test_user_files_are_loaded_beside_their_namesakes(installed, tmp_path):
    """A reward in a file called rewards.py: named by its file, it works, and our package keeps its name."""
    (tmp_path / "rewards.py").write_text("def brevity(completions, **_):\n    return [0.0] * len(completions)\n")
    code = (
        "import sys; sys.path.remove('')\n"
        "from pathlib import Path; from rewards.contract import load_rewards; import rewards\n"
        "reward, = load_rewards([{'fn': 'rewards.py:brevity'}], base=Path.cwd())\n"
        "print(reward.fn(['x']), rewards.__file__)"
    )
    told = run(installed / "python", "-c", code, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("[0.0] " + str(installed.parent))

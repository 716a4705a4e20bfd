"""The script that serves a judge: what it would do, and what it refuses to. vLLM itself needs a GPU and is not run."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts/serve_judge.sh"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "JUDGE_API_KEY"} | environment
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, timeout=30, env=clean)


def test_it_is_a_script_that_bash_can_read():
    assert subprocess.run(["bash", "-n", str(SCRIPT)], timeout=30).returncode == 0


def test_a_dry_run_shows_every_command_and_does_none(tmp_path: Path):
    place = tmp_path / "an env"
    found = run(
        "Qwen/Qwen3-8B", "--port", "8123", "--gpus", "2", "--env", str(place), "--name", "judge", "--dry-run",
        "--", "--max-model-len", "8192",
        JUDGE_API_KEY="sk-secret",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert not place.exists()
    commands = [line for line in found.stdout.splitlines() if line.startswith("+ ")]
    quoted = str(place).replace(" ", r"\ ")
    assert len(commands) == 4
    assert f"pip install --quiet --requirement {ROOT}/requirements/vllm.txt" in commands[1]
    assert commands[-1] == (
        f"+ {quoted}/bin/vllm serve Qwen/Qwen3-8B --host 127.0.0.1 --port 8123 --tensor-parallel-size 2 "
        "--served-model-name judge --max-model-len 8192"
    )
    recipe = 'kwargs: {base_url: "http://127.0.0.1:8123/v1", model: "judge", api_key_env: JUDGE_API_KEY}'
    assert recipe in found.stdout
    assert "sk-secret" not in found.stdout + found.stderr


def test_an_environment_of_these_requirements_is_used_as_it_is(tmp_path: Path):
    (tmp_path / "unmask-requirements.txt").write_bytes((ROOT / "requirements/vllm.txt").read_bytes())
    found = run("m", "--env", str(tmp_path), "--dry-run")
    assert [line.split()[1] for line in found.stdout.splitlines() if line.startswith("+ ")] == [f"{tmp_path}/bin/vllm"]
    assert "api_key_env" not in found.stdout


def test_it_serves_with_the_key_in_the_environment_alone(tmp_path: Path):
    (tmp_path / "unmask-requirements.txt").write_bytes((ROOT / "requirements/vllm.txt").read_bytes())
    stand_in = tmp_path / "bin/vllm"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\necho "served: $*, key: ${#VLLM_API_KEY} letters"\n')
    stand_in.chmod(0o755)
    found = run("m", "--env", str(tmp_path), JUDGE_API_KEY="sk-secret")
    assert "served: serve m --host 127.0.0.1" in found.stdout
    assert "key: 9 letters" in found.stdout
    assert "sk-secret" not in found.stdout


def test_what_it_refuses(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("do not delete")
    for arguments, said in (
        ((), "serve_judge.sh MODEL"),
        (("m", "n"), "one model at a time"),
        (("m", "--prot", "1"), "there is no option --prot"),
        (("m", "--port"), "--port needs a value"),
        (("m", "--port", "high"), "take whole numbers"),
        (("m", "--env", str(tmp_path)), "holds other files"),
    ):
        found = run(*arguments)
        assert found.returncode == 2
        assert said in found.stderr
    assert (tmp_path / "mine.txt").exists()


def test_the_version_is_pinned():
    lines = [line for line in (ROOT / "requirements/vllm.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 1
    assert re.fullmatch(r"vllm==[0-9.]+", lines[0])

"""`unmask export --push` against a small Hub on loopback: what is sent, where, and what is refused."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import unmask
from rl.progress import Reporter
from tests.oracles.hub_server import Hub, running_hub
from tests.oracles.runs import ROWS, digits, recipe
from tests.oracles.training import tiny_folder

ROOT = Path(__file__).parents[2]
TOKEN = "hf_not_a_real_token"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("push")
    base = tiny_folder(folder / "base")
    source = recipe(base, model={"lora": {"r": 2, "alpha": 4}}, train={"updates": 1, "out": str(folder / "run")})
    unmask.train(source, digits, ROWS, reporter=Reporter(quiet=True))
    return folder / "run"


def push(run: Path, out: Path, address: str, *args: str, token: str | None = TOKEN, offline: str = "0"):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": offline,
        "HF_HOME": str(out.parent / "home"),
        "NO_PROXY": "127.0.0.1",
    }
    if token is not None:
        environment["HF_TOKEN"] = token
    command = [sys.executable, str(ROOT / "unmask.py"), "export", str(run), "--out", str(out), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=55, check=False, env=environment)


def test_an_adapter_goes_to_a_private_repository(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with running_hub() as hub:
        result = push(run, out, hub.address, "--push", "jane/digits", "--base-model", "GSAI-ML/LLaDA-8B-Base")
    assert result.returncode == 0, result.stderr
    assert f"uploaded to {hub.address}/jane/digits (private)" in result.stdout
    assert hub.repositories == {"jane/digits": True}
    assert hub.tokens == {TOKEN}
    assert set(hub.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    for name, content in hub.files.items():
        assert content == (out / name).read_bytes()
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "GSAI-ML/LLaDA-8B-Base"
    assert TOKEN not in result.stdout + result.stderr + hub.files["README.md"].decode()
    with running_hub() as hub:
        result = push(run, out, hub.address, "--push", "jane/digits", "--public")
    assert result.returncode == 0, result.stderr
    assert hub.repositories == {"jane/digits": False}


def refused(hub: Hub | str, run: Path, out: Path, *args: str, **options: str | None) -> str:
    address = hub if isinstance(hub, str) else hub.address
    result = push(run, out, address, *args, **options)  # type: ignore[arg-type]
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_public_repository_gets_nothing_unasked(run: Path, tmp_path: Path) -> None:
    with running_hub() as hub:
        hub.repositories["jane/digits"] = False
        said = refused(hub, run, tmp_path / "out", "--push", "jane/digits")
    assert "exists and is public; add --public" in said
    assert hub.files == {}
    assert (tmp_path / "out" / "adapter_config.json").is_file()


def test_what_the_hub_refuses_is_said(run: Path, tmp_path: Path) -> None:
    with running_hub() as hub:
        hub.refuse = 403
        said = refused(hub, run, tmp_path / "out", "--push", "someone-else/digits")
    assert "the token may not write there" in said
    assert "nothing is lost" in said


def test_no_connection(run: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    said = refused(address, run, tmp_path / "out", "--push", "jane/digits")
    assert "the Hub cannot be reached" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [({"token": None}, "there is no Hugging Face token"), ({"offline": "1"}, "HF_HUB_OFFLINE is set")],
)
def test_what_is_missing_is_said_before_anything_is_written(
    run: Path, tmp_path: Path, options: dict[str, str | None], said: str
) -> None:
    assert said in refused("http://127.0.0.1:9", run, tmp_path / "out", "--push", "jane/digits", **options)
    assert not (tmp_path / "out").exists()

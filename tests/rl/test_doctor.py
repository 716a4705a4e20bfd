"""`unmask doctor`: a line for everything, a remedy where one is due, an exit code for what the core needs, and no waiting."""

import json
import time
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as real_version
from typing import Any

import pytest
from typer.testing import CliRunner

from rl import doctor
from rl.cli import app
from rl.doctor import FAIL, NOTE, OK, WARN, Check, examine


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def line(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_a_line_for_everything() -> None:
    checks = examine()
    names = [check.name for check in checks]
    for name in ("python", "packages", "torch", "cpu", "flash attention", "bitsandbytes", "C++ compiler", "ray", "deepspeed",
                 "vllm", "lm-eval", "reasoning-gym", "openai", "disk here", "Hub token", "Hub", "trackers"):  # fmt: skip
        assert names.count(name) == 1, name
    assert line(checks, "python").status == OK
    assert "torch" in line(checks, "packages").found
    assert line(checks, "Hub").found.startswith("HF_HUB_OFFLINE is set")
    assert all(check.remedy for check in checks if check.status == FAIL)
    assert not any("hf_" in check.found for check in checks)


def test_the_command_and_its_json() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["ok"] is True
    assert {"name", "status", "found", "remedy"} == set(value["checks"][0])
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 0
    assert "ready; 0 failed" in shown.stdout


@pytest.mark.parametrize(
    ("package", "have", "status", "said"),
    [("peft", None, FAIL, "pip install 'peft>=0.19'"), ("transformers", "4.57.1", WARN, "pip install 'transformers")],
)
def test_a_core_package_that_is_missing_or_old(
    monkeypatch: pytest.MonkeyPatch, package: str, have: str | None, status: str, said: str
) -> None:
    def version(name: str) -> str:
        if name != package:
            return real_version(name)
        if have is None:
            raise PackageNotFoundError(name)
        return have

    monkeypatch.setattr(doctor, "version", version)
    found = line(examine(), package)
    assert found.status == status
    assert said in found.remedy
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == (1 if status == FAIL else 0)
    assert ("not ready" in result.stdout) == (status == FAIL)


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("ray", "cluster"),
        ("bitsandbytes", "quant"),
        ("lm-eval", "eval"),
        ("reasoning-gym", "tasks"),
        ("openai", "judge"),
    ],
)
def test_an_extra_is_there_with_its_version_or_named(monkeypatch: pytest.MonkeyPatch, package: str, extra: str) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "9.8.7")
    found = doctor._optional(package, "", extra)
    assert (found.status, found.found) == (OK, "9.8.7")
    monkeypatch.undo()

    def version(name: str) -> str:
        if name == package:
            raise PackageNotFoundError(name)
        return real_version(name)

    monkeypatch.setattr(doctor, "version", version)
    found = line(examine(), package)
    assert found.status == doctor.NOTE
    assert f"pip install 'unmask[{extra}]'" in found.found


def test_a_library_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.importlib.import_module

    def broken(name: str) -> Any:
        if name == "datasets":
            raise ImportError("libarrow.so: cannot open shared object file")
        return real(name)

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    found = line(examine(), "datasets")
    assert found.status == FAIL
    assert "libarrow" in found.found


def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.2)
    monkeypatch.setattr(doctor, "_ask", lambda address: time.sleep(5) or "")
    started = time.perf_counter()
    found = line(doctor._hub(), "Hub")
    assert time.perf_counter() - started < 2
    assert found.status == WARN
    assert "no answer within" in found.found
    assert found.remedy


def test_a_hub_that_answers_and_one_that_is_not_there() -> None:
    from tests.oracles.hub_server import running_hub

    with running_hub() as hub:
        assert doctor._ask(hub.address) == ""  # an error of the server is an answer, too
        address = hub.address
    assert "refused" in doctor._ask(address)


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(doctor, "_run", lambda command: "NVIDIA H100, 550.1" if command[0] == "nvidia-smi" else "")
    (found,) = doctor._devices()
    assert found.status == WARN
    assert "H100" in found.found
    assert found.remedy
    monkeypatch.setattr(doctor, "_run", lambda command: "")
    assert doctor._devices()[0].status == NOTE


def test_gpus_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: f"Card {index}")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda index: (9, 0) if index else (7, 5))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda index: ((70 if index else 2) * 2**30, 80 * 2**30))
    old, new = doctor._devices()
    assert (old.status, new.status) == (WARN, OK)
    assert "no bfloat16" in old.found
    assert "70 of 80 GiB free, bfloat16" in new.found


def test_a_disk_that_is_nearly_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**30}))
    found = doctor._free("disk here", tmp_path)
    assert (found.status, found.found) == (WARN, "1 GiB free")
    assert "16 GiB" in found.remedy

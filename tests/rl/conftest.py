"""What tests of whole runs start from."""

from pathlib import Path

import pytest
import torch

from tests.oracles.training import tiny_folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model in LLaDA's format."""
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs write into the working folder and may switch torch to deterministic algorithms; give both back."""
    monkeypatch.chdir(tmp_path)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(1)

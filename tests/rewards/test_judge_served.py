"""A judge reward through transformers' own server: a real server, a real tokenizer and chat template, a real forward, on CPU."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards.contract import Grades, RewardError, grade, load_rewards

if any(importlib.util.find_spec(name) is None for name in ("openai", "fastapi", "uvicorn")):
    pytest.skip("needs the extra 'judge'", allow_module_level=True)

VERDICT = '{"score": 4}'
COMMAND = "from transformers.cli.transformers import main; main()"


def checkpoint(folder: Path) -> Path:
    """A Llama that says one thing: whatever it reads, its most probable token is the verdict."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1, VERDICT: 2}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=2048, eos_token_id=1, bos_token_id=None, pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 if parameter.ndim == 1 else 0.0)
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight[2].fill_(1.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(base_url, model) of a server in a process of its own, which ends with the tests."""
    folder = checkpoint(tmp_path_factory.mktemp("judge"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        COMMAND,
        "serve",
        str(folder),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 50
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def call(name: str, served: tuple[str, str], completions: list[str], **kwargs: object) -> Grades:
    settings = {
        "base_url": served[0],
        "model": served[1],
        "max_tokens": 2,
        "retries": 0,
        "concurrency": 2,
        "timeout": 30,
    }
    rewards = load_rewards([{"fn": f"judge.{name}", "kwargs": settings | kwargs}], base=Path.cwd())
    return grade(
        rewards,
        prompts=["Say hello."] * len(completions),
        completions=completions,
        completion_ids=[[]] * len(completions),
        columns={},
        trainer_state=None,
    )


def test_scores_come_back_from_a_real_server(served: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    found = call("rubric", served, ["hello", "hello there", "ho"])
    assert found.components["judge.rubric"] == [0.75] * 3, found.dropped
    assert found.metrics["judge.rubric/requests"] == 1
    assert found.metrics["judge.rubric/tokens_in"] > 50
    assert found.metrics["judge.rubric/tokens_out"] == 2
    with pytest.raises(RewardError, match="sends no log-probabilities"):
        call("graded", served, ["hello"])
    found = call("pairwise", served, ["a", "b"], against="group")
    assert found.dropped == ["reward judge.pairwise: unreadable verdict: cut off at max_tokens"] * 2

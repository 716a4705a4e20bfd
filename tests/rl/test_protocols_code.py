"""The protocols for code: an ideal answer to the prompt as the model reads it is right, and a wrong one is not."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rewards.contract import TrainerState, grade, load_rewards
from rewards.sandbox import best_level
from rl.config_schema import PromptConfig
from rl.data import load_split
from rl.protocol import Protocol, load_protocol
from rollouts.tiny import character_tokenizer
from tests.oracles.toy_recipes import SHARED

# Rows as the data sets have them: HumanEval's (with a helper in the prompt), and MBPP's, whose plus form brings a script.
HEAD = 'from typing import List\n\n\ndef half(x):\n    return x // 2\n\n\ndef f(xs: List[int]) -> int:\n    """Half the sum."""\n'
HUMANEVAL = {
    "task_id": "HumanEval/0", "prompt": HEAD, "entry_point": "f", "canonical_solution": "    return half(sum(xs))\n",
    "test": "def check(candidate):\n    assert candidate([2, 4]) == 3\n",
}  # fmt: skip
MBPP = {"task_id": 11, "text": "Add one.", "code": "def f(x):\n    return x + 1", "test_list": ["assert f(1) == 2"] * 3}
PLUS = {**MBPP, "prompt": "Add one.", "test_imports": [], "test": "for x in range(3):\n    assert f(x) == x + 1"}
ROWS = {"humaneval": HUMANEVAL, "humanevalplus": HUMANEVAL, "mbpp": MBPP, "mbppplus": PLUS}
NAMES = [
    "llada-humaneval-512-block32", "evalplus-humaneval-512", "evalplus-humanevalplus-512", "evalplus-mbppplus-512", "mbpp-256",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _sandboxed() -> None:
    if best_level() is None:
        pytest.skip("this machine gives no sandbox for code")


def outcome(protocol: Protocol, row: dict[str, Any], answer: str) -> float | None:
    """The headline for one row and the model's own part of an answer."""
    made = PromptConfig(template=protocol.prompt.template, prefill=protocol.prompt.prefill)
    (prompt,) = load_split([row], made, character_tokenizer(chat=True), room=10**6).prompts
    grades = grade(
        load_rewards([parser.model_dump() for parser in protocol.parsers], base=Path()),
        prompts=[prompt.raw], completions=[(protocol.prompt.prefill or "") + answer], completion_ids=[[0]],
        columns={name: [value] for name, value in prompt.columns.items()}, trainer_state=TrainerState(),
    )  # fmt: skip
    return grades.components["code.tests"][0]


@pytest.mark.parametrize("name", NAMES)
def test_right_and_wrong_answers(name: str) -> None:
    protocol = load_protocol(name).protocol
    row = ROWS[protocol.task]
    program = row["code"] if "code" in row else f"{HEAD}{HUMANEVAL['canonical_solution']}"
    wrong = program.replace("return", "return 1 +")
    opened = protocol.prompt.prefill is not None  # the answer goes on inside a block
    for body, score in ((program, 1.0), (wrong, 0.0)):
        assert (
            outcome(protocol, row, f"{body}\n```" if opened else f"So:\n```python\n{body}\n```\nThat is it.") == score
        )
        assert outcome(protocol, row, body) == score  # cut short, or without a block


@pytest.mark.parametrize("name", ["llada-humaneval-512-block32", "evalplus-humaneval-512"])
def test_real_rows(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"shared data absent: {SHARED}")
    lines = gzip.decompress((SHARED / "humaneval" / "HumanEval.jsonl.gz").read_bytes()).decode().splitlines()
    protocol = load_protocol(name).protocol
    for row in map(json.loads, (lines[0], lines[38], lines[50])):  # the last two use helpers of their prompts
        body = row["canonical_solution"]
        assert outcome(protocol, row, f"{row['prompt']}{body}\n```" if protocol.prompt.prefill else body) == 1.0
        assert outcome(protocol, row, f"{row['prompt']}    return None\n") == 0.0

"""Others' rules as parsers: they give the published figures, through the contract of rewards."""

import json
from pathlib import Path
from typing import Any

import pytest

from rewards.contract.load import load_rewards
from rewards.contract.reward import RewardError
from rewards.panel import rule

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def published(task: str) -> list[dict[str, Any]]:
    files = sorted((SHARED / "llada_generations").glob(f"{task}_*.json"))
    if not files:
        pytest.skip(f"shared data absent: {SHARED / 'llada_generations'}")
    return [row for file in files for row in json.loads(file.read_text())["generations"]]


def mean(scores: list[float | None]) -> float:
    return sum(score or 0.0 for score in scores) / len(scores)


def test_d1s_own_rule_gives_d1s_own_figures() -> None:
    rows = published("gsm8k")
    texts = [row["generations"] for row in rows]
    golds = [row["ground_truth"] for row in rows]
    assert mean(rule(texts, "gsm8k", "d1", answer=golds)) == pytest.approx(0.7637, abs=1e-4)
    graded = [score for score in rule(texts, "gsm8k", "flexible", answer=golds) if score is not None]
    assert len(graded) == 1128  # d1 could not read two of the gold answers
    assert sum(graded) / 1128 == pytest.approx(0.787, abs=1e-3)
    rows = published("countdown")
    texts = [row["generations"] for row in rows]
    numbers, target = [row["ground_truth"][0] for row in rows], [row["ground_truth"][1] for row in rows]
    assert mean(rule(texts, "countdown", "d1", numbers=numbers, target=target)) == pytest.approx(0.1953, abs=1e-4)


def test_a_row_without_a_gold_answer_does_not_apply() -> None:
    found = rule(["72", "72"], "gsm8k", "flexible", answer=[None, "#### 72"])
    assert found == [None, 1.0]


def test_messages_are_read_as_texts_are() -> None:
    said = [[{"role": "assistant", "content": "so 72"}]]
    asked = [[{"role": "user", "content": "How many?"}]]
    assert (
        rule(said, "gsm8k", "flexible", prompts=asked, answer=["72"])
        == rule(["so 72"], "gsm8k", "flexible", answer=["72"])
        == [1.0]
    )


@pytest.mark.parametrize(
    ("task", "parser", "words"), [("gsm8", "d1", "did you mean 'gsm8k'"), ("gsm8k", "d11", "did you mean 'd1'")]
)
def test_names_that_are_not_there(task: str, parser: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=words):
        rule(["1"], task, parser, answer=["1"])
    assert (
        load_rewards([{"fn": "rewards.panel:rule", "kwargs": {"task": task, "parser": parser}}], base=tmp_path)[0].name
        == "rule"
    )

"""scripts/acecode_hard.py: which problems are hard, and what is written of them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts import acecode_hard
from scripts.acecode_hard import hard, pass_rates


def row(number: int, rates: list[float]) -> dict[str, object]:
    inferences = [{"model_name": name, "completion": "x", "completion_id": 0, "pass_rate": rate}
                  for name, rate in zip(["qwen_coder_2.5", "llama3_instruct", "another"], [*rates, 0.5], strict=True)]  # fmt: skip
    return {
        "id": f"a{number}",
        "source": "oss",
        "question": "?",
        "test_cases": ["assert f()"],
        "inferences": inferences,
    }


def test_other_models_do_not_count() -> None:
    assert pass_rates(row(0, [0.25, 0.75])) == [0.25, 0.75]


def test_hard_is_low_and_spread() -> None:
    rng = np.random.default_rng(0)
    rates = [list(rng.random(4)) for _ in range(200)] + [[], [0.0, 0.0]]
    chosen = hard(rates)
    known = [one for one in rates if one]
    low = np.percentile([np.mean(one) for one in known], 20)
    wide = np.percentile([np.std(one) for one in known], 40)
    assert chosen == [at for at, one in enumerate(rates) if one and np.mean(one) <= low and np.std(one) >= wide]
    assert 0 < len(chosen) < 40
    assert 201 not in chosen  # as low as can be, and nobody ever solved it


def test_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    easier = (row(at, [0.5 + at / 25, 0.52 + at / 25]) for at in range(2, 10))
    rows = [row(0, [0.0, 0.4]), row(1, [0.3, 0.3]), *easier]  # the second is as low, without spread
    data, out = tmp_path / "ace.jsonl", tmp_path / "hard.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in rows))
    monkeypatch.setattr(sys, "argv", ["acecode_hard.py", str(out), "--data", str(data)])
    acecode_hard.main()
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"id": "a0", "question": "?", "test_cases": ["assert f()"]}
    ]
    assert "1 of 10 problems" in capsys.readouterr().out

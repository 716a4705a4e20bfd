"""A small protocol of arithmetic, its rows and its parsers: what tests of evaluations start from."""

import json
from pathlib import Path

PARSERS = '''"""Two ways of grading, and one that sometimes cannot."""

from rewards.contract import InfrastructureError


def ends(completions, digit, **_):
    """1 where the answer holds the digit."""
    return [float(str(d) in c) for c, d in zip(completions, digit, strict=True)]


def most(completions, **_):
    """Share of characters that are digits."""
    return [sum(x.isdigit() for x in c) / max(1, len(c)) for c in completions]


def shy(completions, digit, **_):
    """Cannot grade digit 3, does not apply to digit 4."""
    return [InfrastructureError("the judge is away") if d == 3 else None if d == 4 else 1.0 for d in digit]
'''

TEXT = """# Digits: does the answer hold the digit that was asked for?
protocol: 1
task: digits
source: {what: a test, kind: own}
departures: [none that matter]
data: {path: rows.jsonl, rows: 24, cluster: family}
prompt:
  template: "Say {digit}.\\nNow:"
  prefill: "= "
  chat_template: none
sampler: {canvas: 8, block: 4, steps: 4, selection: confidence, temperature: 1.0, eos: first, early_stop: true}
dtype: float32
parsers: ["mine.py:ends", "mine.py:most", "mine.py:shy"]
vote: text
samples: 2
seeds: [0, 1]
"""


def write_protocol(folder: Path, text: str = TEXT) -> Path:
    """``digits.yaml`` with its rows and parsers beside it."""
    rows = [{"digit": i % 8, "family": i // 3, "note": f"row {i}"} for i in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.py").write_text(PARSERS)
    (folder / "digits.yaml").write_text(text)
    return folder / "digits.yaml"

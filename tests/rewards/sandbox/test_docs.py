"""docs/sandbox.md: its snippet runs, and its table holds the attempts that the tests make."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_table_holds_the_attempts() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "sandbox_attempts.py"))
    text = (ROOT / "docs" / "sandbox.md").read_text()
    assert text == script["page"](text), "run scripts/sandbox_attempts.py"


def test_the_snippet_runs() -> None:
    text = (ROOT / "docs" / "sandbox.md").read_text()
    (block,) = re.findall(r"<!-- example: a test runs this block -->\n```python\n(.*?)```", text, re.DOTALL)
    exec(block.replace("Sandbox(limits", "Sandbox('weak', limits"), {})

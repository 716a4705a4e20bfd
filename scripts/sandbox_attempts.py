"""Write the table of attempts in docs/sandbox.md from the files in tests/rewards/sandbox/attempts: `python scripts/sandbox_attempts.py`.

A test fails while the table differs from the files, so what the page says is refused is what the tests try at each level.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "sandbox.md"
BEGIN, END = "<!-- attempts: scripts/sandbox_attempts.py -->\n", "<!-- end of attempts -->"


def table() -> str:
    files = sorted((ROOT / "tests" / "rewards" / "sandbox" / "attempts").glob("*.py"))
    said = {file.stem: ast.get_docstring(ast.parse(file.read_text())) or "" for file in files}
    lines = [f"| `{name}` | {text.rstrip('.')} |" for name, text in said.items()]
    return "\n".join(["", "| attempt | what it tries |", "|---|---|", *lines, "", ""])


def page(text: str) -> str:
    """The page with the table as the files have it."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))

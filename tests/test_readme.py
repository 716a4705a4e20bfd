"""What the README shows is what happens."""

import re
from pathlib import Path

import pytest

from rl.presets import PRESETS

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_custom_reward_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = README.split("<!-- example: a test runs this block -->\n```python\n")[1].split("```")[0]
    assert len(block.strip().splitlines()) <= 22
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    assert len(names["run"].metrics) == 2
    assert (tmp_path / "runs" / "letters" / "summary.json").is_file()


def test_every_preset_is_named_and_has_its_row() -> None:
    methods = (Path(__file__).parent.parent / "docs" / "methods.md").read_text(encoding="utf-8")
    for name in PRESETS:
        assert f"`{name}`" in README
        assert f"| `{name}` |" in methods


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target


def test_sections_that_messages_name_exist() -> None:
    root = Path(__file__).parent.parent
    named = [
        pair
        for room in ("rewards", "rollouts", "rl")
        for file in sorted((root / room).rglob("*.py"))
        for pair in re.findall(r"(docs/\w[\w-]*\.md), '([^']+)'", file.read_text(encoding="utf-8"))
    ]
    assert ("docs/rewards.md", "What a function receives") in named
    for page, section in named:
        headings = re.findall(r"^#+ (.+)$", (root / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert section in headings, f"{page}, '{section}'"


def test_the_flaw_of_the_custom_reward_is_found(tmp_path: Path) -> None:
    from rewards.bench.run import Plan, bench

    block = README.split("<!-- example: a test runs this block -->\n```python\n")[1].split("```")[0]
    function = block[block.index("def starts_right") : block.index("recipe = ")]
    (tmp_path / "my_rewards.py").write_text(function, encoding="utf-8")
    rows = [{"prompt": f"{letter} is for ", "letter": letter} for letter in "abcdefgh"]
    report = bench(Plan("my_rewards.py:starts_right", tmp_path, gold="letter"), rows)
    cheating = next(one for one in report.findings if one.check == "cheating")
    assert (cheating.status, "the prompt repeated" in cheating.seen) == ("fail", True)

"""The rule of .ci/run: no test is skipped for a reason that tests/allowed_skips.txt does not allow."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = """\
import pytest
@pytest.mark.skip(reason="real data not here: GSM8K")
def test_allowed(): pass
@pytest.mark.skip(reason="flaky on Mondays")
def test_not_allowed(): pass
def test_runs(): pass
"""


def verdict(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest on `source` as .ci/run does, and the check on its report."""
    (folder / "test_sample.py").write_text(source)
    report = folder / "report.xml"
    pytest_run = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
        "test_sample.py",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    subprocess.run(pytest_run, cwd=folder, env=environment, capture_output=True, timeout=60, check=False)
    check = [
        sys.executable,
        str(ROOT / "scripts" / "check_skips.py"),
        str(report),
        str(ROOT / "tests" / "allowed_skips.txt"),
    ]
    return subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)


def test_a_skip_without_leave_fails(tmp_path):
    result = verdict(tmp_path, SOURCE)
    assert result.returncode == 1
    assert "flaky on Mondays" in result.stdout
    assert "GSM8K" not in result.stdout


def test_allowed_skips_pass(tmp_path):
    result = verdict(tmp_path, SOURCE.replace("flaky on Mondays", "needs a GPU"))
    assert (result.returncode, result.stdout) == (0, "")


def test_no_report_is_no_pass(tmp_path):
    check = [
        sys.executable,
        str(ROOT / "scripts" / "check_skips.py"),
        str(tmp_path / "none.xml"),
        str(ROOT / "tests" / "allowed_skips.txt"),
    ]
    assert subprocess.run(check, capture_output=True, timeout=60, check=False).returncode == 1

"""Fails when a test was skipped for a reason that nobody has allowed.

A skip hides a test. Each allowed reason stands in tests/allowed_skips.txt as a regular expression, one a line, so that
a new skip is a decision in a diff and never an accident of the machine.

Usage: python scripts/check_skips.py JUNIT_XML ALLOWED_SKIPS
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def unexpected_skips(report: Path, allowed: Path) -> list[str]:
    """The skipped tests of a JUnit report whose reason no line of `allowed` matches, as 'test: reason'."""
    lines = (line.strip() for line in allowed.read_text(encoding="utf-8").splitlines())
    patterns = [re.compile(line) for line in lines if line and not line.startswith("#")]
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        for skip in case.iter("skipped"):
            reason = skip.get("message") or (skip.text or "").strip()
            if not any(pattern.search(reason) for pattern in patterns):
                found.append(f"{case.get('classname')}::{case.get('name')}: {reason}")
    return found


def main() -> int:
    report, allowed = Path(sys.argv[1]), Path(sys.argv[2])
    if not report.is_file() or report.stat().st_size == 0:
        print("no test report was written: pytest did not get as far as running tests")
        return 1
    found = unexpected_skips(report, allowed)
    for line in found:
        print(f"skipped without leave: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

r"""What public code rewards do, quirks included: for comparing with their numbers, never for training something new.

Behaviour as read and measured on DiffuCoder (commit f735e013), ESPO (b5f2dac4), dllm (ca17675); rewritten from it, none of
their code. Programs that these rules want to run are run inside our sandbox: their verdict, our walls.

`code.format` and `code.pass_rate` take `compat: diffucoder` or `compat: espo`. The rules of dllm are functions only.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.sandbox import Job, Report, StdioTest

# Whether a layout may, or has to, end in a newline after the closing fence.
FINAL_NEWLINE = {"diffucoder": "\n", "espo": ""}
SECONDS = 5.0  # for each test; one that takes longer ends the whole program's grading with 0

# Those of dllm's list that are known here. They are looked for as substrings, with the blank before them.
DLLM_BLOCKED = (" os", " sys")
DLLM_TAG_BONUS = 0.5


def raw_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """The completion as the originals read it: the only message's content, end markers and white space included."""
    return completion if isinstance(completion, str) else str(completion[-1].get("content") or "")


def layout(text: str, origin: str) -> float:
    """DiffuCoder's and ESPO's `code_format`: 1.0, or 0.5 where the program does not parse, or 0.0.

    The whole text must be prose, one block that opens with "```python" and a line break, and the closing fence, followed
    by exactly one line break (`diffucoder`) or at most one (`espo`). A blank after it, a second block or three backticks
    in the prose give 0.0; so does a perfect answer without its last line break (`diffucoder`). An empty block is 1.0.
    """
    parts = text.split("```")
    if len(parts) != 3 or not parts[1].startswith("python\n") or parts[2] not in ("\n", FINAL_NEWLINE[origin]):
        return 0.0
    return 1.0 if _parses(parts[1].removeprefix("python\n").strip()) else 0.5


def first_block(text: str) -> str:
    """The program that both run: what the first "```python" block holds, "" without one."""
    _, opened, rest = text.partition("```python\n")
    program, closed, _ = rest.partition("```")
    return program if opened and closed else ""


def processes(program: str, job: Job) -> list[Job]:
    """One job per test for the sandbox: program and test in one process, whose output nobody reads."""
    return [
        Job(job.id, "stdio", f"{_SILENCE}{program}\n{job.setup}\n{test}", (StdioTest("", ""),)) for test in job.tests
    ]


def verdict(reports: Sequence[Report]) -> float:
    """The share of processes that ended with status 0, whatever ended them; 0.0 for all if one of them took too long."""
    if any(detail.startswith("timed out") for report in reports for detail in report.details):
        return 0.0
    return sum(all(report.passed) for report in reports) / len(reports)


_SILENCE = "import os as _os\n_os.dup2(_os.open(_os.devnull, _os.O_WRONLY), 1)\ndel _os\n"


def dllm_refuses(program: str) -> bool:
    """dllm's guard: whether a substring stands in the program. A tab instead of a blank passes it, a variable's name does not."""
    return any(word in program for word in DLLM_BLOCKED)


def dllm_score(text: str, passed: bool) -> float:
    """dllm's reward given whether the program passed: 0.5 more for `<answer>` tags around anything, right or not."""
    _, opened, rest = text.partition("<answer>")
    return float(passed) + (DLLM_TAG_BONUS if opened and "</answer>" in rest else 0.0)


def _parses(program: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(program)
    except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError):
        return False
    return True

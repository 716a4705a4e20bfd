r"""What public code rewards do with programs, quirks included: for comparison only, as `rewards/compat.py` says.

Behaviour as read and measured on DiffuCoder @ f735e01, ESPO @ b5f2dac, dllm @ ca17675; rewritten from it. Programs that these
rules want to run are run inside our sandbox: their verdict, our walls. The layout rule is `originals.code_layout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rewards.contract.answers import InfrastructureError
from rewards.programs.rows import Unfit
from rewards.programs.run import Settings, reports
from rewards.sandbox import Job, Report, StdioTest

SECONDS = 5.0  # for each test; one that takes longer ends the grading of its program with 0
# Those of dllm's list that are known here. They are looked for as substrings, with the blank before them.
DLLM_BLOCKED = (" os", " sys")
DLLM_TAG_BONUS = 0.5

Score = float | InfrastructureError | None


def pass_rates(
    layouts: Sequence[Score], texts: Sequence[str], jobs: Sequence[Job | Unfit | None], settings: Settings
) -> list[Score]:
    """DiffuCoder's and ESPO's pass rate: each test behind the program in a process of its own, judged by its exit status.

    layouts: their layout score; what is not perfect is not run. A sandbox that fails drops the row; theirs scores 0.0, which
    is not reproduced: it would be noise.
    """
    scores: list[Score] = []
    to_run: list[tuple[int, Job]] = []
    for row, (layout, text, job) in enumerate(zip(layouts, texts, jobs, strict=True)):
        scores.append(None if job is None else 0.0)
        if isinstance(job, Unfit) or (job is not None and job.kind != "function"):
            why = job.reason if isinstance(job, Unfit) else "its tests are no statements"
            scores[row] = InfrastructureError(f"cannot be graded: {why}")
        elif job is not None and isinstance(layout, InfrastructureError):
            scores[row] = layout
        elif job is not None and layout == 1.0:
            to_run += [(row, one) for one in processes(first_block(text), job)]
    settings = replace(settings, seconds=min(settings.seconds, SECONDS))
    outcomes: dict[int, list[Report]] = {}
    for (row, _), report in zip(to_run, reports([job for _, job in to_run], settings), strict=True):
        outcomes.setdefault(row, []).append(report)
    for row, ended in outcomes.items():
        failed = next((report.infrastructure for report in ended if report.infrastructure), None)
        scores[row] = InfrastructureError(failed) if failed else verdict(ended)
    return scores


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

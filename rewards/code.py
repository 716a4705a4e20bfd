"""Programs, graded by running them in the sandbox (`rewards/sandbox.py`) against the tests of their row.

`rewards/programs/rows.py` says which columns hold tests (MBPP, AceCode, KodCode, HumanEval, TACO, P3, ...), and
`rewards/programs/text.py` which part of a completion is the program. `tests` is the outcome; `pass_rate` and `format` are shaping.

What costs what:

- no program, one that does not parse, fails, runs out of time or memory, or tries to get out: 0 for the tests that it costs.
  A slow test costs itself; the others count.
- a row that nobody's program can be graded on (`code_rows.Unfit`, or its own reference solution fails): dropped, counted
  by its reason. `unfit` finds those that their text shows before training.
- a sandbox that fails: the row is dropped and counted.
- no sandbox on this machine: an error when the run is set up. Programs are never run unprotected unless the recipe says
  `level: weak`.

Equal programs for equal tests are run once, also by several of these functions.
"""

# ruff: noqa: PT028  `tests` is no test

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rewards.compat import has_originals, published
from rewards.contract.answers import InfrastructureError
from rewards.extract import text_of
from rewards.programs.rows import COLUMNS, READ, Unfit, entry_point, job_of
from rewards.programs.run import Settings, reports, sandbox
from rewards.programs.text import Program, does_something, find_program, head_of, prompt_context
from rewards.sandbox import Job, Report, unpassable

Score = float | InfrastructureError | None
LogMetric = Callable[[str, float], None] | None
LogExtra = Callable[[str, Sequence[Any]], None] | None

CANNOT = "cannot be graded: "  # begins the reason of a row that is dropped because of the row


def tests(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    level: str = "auto",
    seconds: float = 5.0,
    total_seconds: float = 60.0,
    memory: int = 1024,
    packages: Sequence[str] = (),
    workers: int | None = None,
    max_tests: int | None = None,
    remote: Mapping[str, Any] | None = None,
    log_metric: LogMetric = None,
    log_extra: LogExtra = None,
    **columns: Any,
) -> list[Score]:
    """1.0 where the program passes all tests of its row, else 0.0; None where the row holds no tests.

    level          isolation: auto (the best this machine gives), namespace, landlock; remote; weak only by this name
    remote         the service, for level remote: {service: fusion or e2b, url: ...}, as docs/sandbox.md says
    seconds        for each test
    total_seconds  for all tests of a program; those left over count as failed
    memory         MiB
    packages       installed packages that programs may import, such as numpy; the standard library is always there
    workers        programs run at a time; default: one for each processor
    max_tests      only the first tests of a row
    Logged: `code_seconds` (a program, mean), shares of programs `code_no_program`, `code_syntax_error`, `code_timeout`;
    `code_tests_passed` (share of tests); the column `code_failure`: what the first failing test says.
    """
    settings = Settings(level, seconds, total_seconds, memory, packages, workers, max_tests, remote)
    found = _graded(completions, prompts, columns, settings)
    _log(tests, completions, found, log_metric, log_extra)
    return [_score(one, lambda report: float(report.solved)) for one in found]


@has_originals
def pass_rate(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    level: str = "auto",
    seconds: float = 5.0,
    total_seconds: float = 60.0,
    memory: int = 1024,
    packages: Sequence[str] = (),
    workers: int | None = None,
    max_tests: int | None = None,
    remote: Mapping[str, Any] | None = None,
    compat: str | None = None,
    log_metric: LogMetric = None,
    log_extra: LogExtra = None,
    **columns: Any,
) -> list[Score]:
    """The share of its row's tests that the program passes. Shaping: a program that returns a constant passes some.

    compat: `diffucoder` or `espo`: their verdict on the same tests, for comparison only. The program runs only if the
    layout is exact, a test passes if the process ends with status 0, whatever ended it, and one slow test makes it 0.0.
    Their programs run in our sandbox all the same. A sandbox that fails drops the row; theirs scores 0.
    The rest as `tests`.
    """
    settings = Settings(level, seconds, total_seconds, memory, packages, workers, max_tests, remote)
    if compat is not None:
        jobs = _jobs(len(completions), columns, max_tests)
        return published("code.pass_rate", compat, completions, jobs, settings, log_metric=log_metric)
    found = _graded(completions, prompts, columns, settings)
    _log(pass_rate, completions, found, log_metric, log_extra)
    return [_score(one, lambda report: sum(report.passed) / len(report.passed)) for one in found]


@has_originals
def format(
    completions: Sequence[Any], compat: str | None = None, log_metric: LogMetric = None, **columns: Any
) -> list[Score]:
    """1.0 for a closed block of Python that parses and does something, 0.5 if it does not parse, else 0.0.

    The block is the one that `tests` would run; prose, other blocks and blanks around it are no matter. Nothing is run.
    compat: `diffucoder` or `espo`: their `code_format`, which wants one block at the very end; for comparison only.
    """
    if compat is not None:
        return published("code.format", compat, completions, log_metric=log_metric)
    scores: list[Score] = []
    for completion, job in zip(completions, _jobs(len(completions), columns, None), strict=True):
        program = find_program(text_of(completion), entry_point(job) if isinstance(job, Job) else None)
        if program is None or not program.closed:
            scores.append(0.0)
        else:
            scores.append(0.5 if program.error else float(does_something(program.code)))
    return scores


REWARDS = (tests, pass_rate, format)


# --------------------------------------------------------------------------------------------- before anything is sampled


def ready(**kwargs: Any) -> None:
    """Whether programs can be run here as the recipe's `kwargs` ask. RewardError says what is wrong and what to do."""
    settings = Settings(**{name: value for name, value in kwargs.items() if name != "compat"})
    sandbox(settings)
    if settings.level == "weak":
        _log_once(
            "level: weak runs what the model writes with your rights: it can read your files and reach the network. "
            "`unmask doctor` says which safer level this machine gives"
        )


def unfit(columns: Mapping[str, Sequence[Any]], **kwargs: Any) -> list[str | None]:
    """Why no program can be graded on a row, as far as its text shows that; None for the others. Nothing is run."""
    rows = max(map(len, columns.values()), default=0)
    jobs = _jobs(rows, columns, kwargs.get("max_tests"))
    return [job.reason if isinstance(job, Unfit) else unpassable(job) if job is not None else None for job in jobs]


def row_seconds(**kwargs: Any) -> float:
    """The longest that one program may take, with what starting and ending its processes adds."""
    return 1.5 * kwargs.get("total_seconds", Settings().total_seconds)


for _function in (tests, pass_rate):
    _function.one_of_columns = COLUMNS  # pyright: ignore[reportFunctionMemberAccess]
    _function.reads_columns = READ  # pyright: ignore[reportFunctionMemberAccess]
    _function.row_seconds = row_seconds  # pyright: ignore[reportFunctionMemberAccess]
    _function.row_seconds_by = ("total_seconds",)  # pyright: ignore[reportFunctionMemberAccess]
    _function.ready = ready  # pyright: ignore[reportFunctionMemberAccess]
    _function.unfit = unfit  # pyright: ignore[reportFunctionMemberAccess]


# ---------------------------------------------------------------------------------------------------------------- grading


@dataclass(frozen=True)
class Graded:
    """What became of a row: `report` of the sandbox; or `failure`, for a program that was not run (it counts as wrong);
    or `dropped`, the reason why the row does not count. All None: the row holds no tests."""

    report: Report | None = None
    failure: str | None = None
    dropped: str | None = None
    program: Program | None = None


def _graded(
    completions: Sequence[Any], prompts: Sequence[Any] | None, columns: Mapping[str, Any], settings: Settings
) -> list[Graded]:
    asked = [""] * len(completions) if prompts is None else [_prompt_text(prompt) for prompt in prompts]
    jobs = _jobs(len(completions), columns, settings.max_tests, asked)
    found: list[Graded] = []
    to_run: list[tuple[int, Job]] = []
    for row, (completion, prompt, job) in enumerate(zip(completions, asked, jobs, strict=True)):
        if job is None:
            found.append(Graded())
        elif isinstance(job, Unfit):
            found.append(Graded(dropped=CANNOT + job.reason))
        else:
            name = entry_point(job)
            program = find_program(text_of(completion), name, prompt)
            failure = "no program" if program is None else program.error and f"does not parse: {program.error}"
            found.append(Graded(failure=failure, program=program))
            if program is not None and failure is None:
                given = columns.get("entry_point")  # the prompt is then the head of a program, as in HumanEval
                context = prompt_context(prompt, name) if given is not None and given[row] and name else ""
                to_run.append((row, replace(job, code=f"{context}{program.code}")))
    for (row, _), report in zip(to_run, reports([job for _, job in to_run], settings), strict=True):
        why = CANNOT + report.ungradable if report.ungradable else report.infrastructure
        found[row] = replace(found[row], report=None if why else report, dropped=why)
    return found


def _score(graded: Graded, of_report: Callable[[Report], float]) -> Score:
    if graded.dropped is not None:
        return InfrastructureError(graded.dropped)
    if graded.report is not None:
        return of_report(graded.report)
    return None if graded.failure is None else 0.0


def _jobs(
    rows: int, columns: Mapping[str, Any], max_tests: int | None, asked: Sequence[str] | None = None
) -> list[Job | Unfit | None]:
    """What is to be checked for each row. Rows of one group hold the same cells, and are read once.

    asked: the prompts. The head of a function in one takes the place of HumanEval's column `prompt`, which rewards never see.
    """
    cells = {name: columns[name] for name in READ if name in columns}
    read: dict[tuple[int | str, ...], Job | Unfit | None] = {}
    jobs = []
    for row in range(rows):
        one = {name: values[row] for name, values in cells.items()}
        if asked is not None and one.get("entry_point") and not one.get("prompt"):
            one["prompt"] = head_of(asked[row], one["entry_point"])
        key = (*(id(values[row]) for values in cells.values()), one.get("prompt", ""))
        if key not in read:
            read[key] = job_of(one, max_tests=max_tests)
        jobs.append(read[key])
    return jobs


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message.get("content") or "") for message in prompt)


# ---------------------------------------------------------------------------------------------------------------- logging

_said: set[str] = set()
_logged: list[tuple[str, int]] = [("", 0)]  # the function and the batch that were logged last


def _log_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        logging.getLogger("unmask").warning(message)


def _log(
    reward: Callable[..., Any],
    completions: Sequence[Any],
    found: Sequence[Graded],
    log_metric: LogMetric,
    log_extra: LogExtra,
) -> None:
    """Shares and seconds over the rows that count. Where two of these rewards see the same batch, the first logs it."""
    batch = hash(repr(completions))
    if _logged[0][1] == batch and _logged[0][0] != reward.__name__:
        return
    _logged[0] = (reward.__name__, batch)
    counted = [one for one in found if one.dropped is None and (one.report or one.failure)]
    if log_extra is not None:
        log_extra("code_failure", [_failure(one) for one in found])
    if log_metric is None or not counted:
        return
    ran = [one.report for one in counted if one.report is not None]
    log_metric("code_no_program", sum(one.failure == "no program" for one in counted) / len(counted))
    syntax = sum(one.failure is not None and one.program is not None for one in counted)
    log_metric("code_syntax_error", syntax / len(counted))
    log_metric("code_timeout", sum(any(map(_timed_out, report.details)) for report in ran) / len(counted))
    if ran:
        log_metric("code_seconds", sum(report.seconds for report in ran) / len(ran))
        log_metric("code_tests_passed", sum(sum(one.passed) for one in ran) / sum(len(one.passed) for one in ran))


def _failure(graded: Graded) -> str | None:
    """What is said of the first test that failed, or of the whole program; None where all passed or nothing was run."""
    report = graded.report
    if report is None:
        return graded.failure or graded.dropped
    first = next((index for index, passed in enumerate(report.passed) if not passed), None)
    return None if first is None else report.error or f"test {first + 1}: {report.details[first]}"


def _timed_out(detail: str) -> bool:
    return detail.startswith("timed out")

r"""The flaws of public code rewards: each is there under their rule, and absent from ours.

DiffuCoder and ESPO by `compat`, their processes inside our sandbox; dllm's rules as functions; dLLM-RL's verdict as a small
program of our own, run here on harmless submissions.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rewards import code
from rewards.contract import InfrastructureError, TrainerState, grade, load_rewards
from rewards.programs import run as code_run
from rewards.published import code as originals
from rewards.sandbox import Report, Sandbox, best_level

TESTS = ["assert f(1) == 2", "assert f(2) == 3", "assert f(3) == 4"]
RIGHT = "def f(x):\n    return x + 1"


def fenced(program: str, end: str = "\n") -> str:
    return f"```python\n{program}\n```{end}"


def scores(text: str, compat: str | None = None, tests: list[str] = TESTS, seconds: float = 1.0) -> tuple[Any, Any]:
    """(pass rate, layout) under their rule, or ours."""
    asked = {} if compat is None else {"compat": compat}
    entries = [
        {"fn": "code.pass_rate", "kwargs": {"seconds": seconds, **asked}},
        {"fn": "code.format", "kwargs": asked},
    ]
    found = grade(
        load_rewards(entries, base=Path()),
        prompts=["?"], completions=[text], completion_ids=[[0]], columns={"test_cases": [tests]}, trainer_state=TrainerState(),
    )  # fmt: skip
    of = "" if compat is None else f"_{compat}"
    return found.components[f"code.pass_rate{of}"][0], found.components[f"code.format{of}"][0]


@pytest.fixture
def sandboxed() -> None:
    if best_level() is None:
        pytest.skip("this machine gives no sandbox for code")


# ------------------------------------------------------------------------------------------- DiffuCoder and ESPO: the layout

LAYOUTS = [
    (fenced(RIGHT), 1.0, 1.0, 1.0),
    (fenced(RIGHT, ""), 0.0, 1.0, 1.0),  # one newline short: not run, 0 for everything
    (fenced(RIGHT, "\n\n"), 0.0, 0.0, 1.0),
    (fenced(RIGHT, " \n"), 0.0, 0.0, 1.0),
    (fenced(RIGHT) + "It adds one.", 0.0, 0.0, 1.0),
    (f"So:\n{fenced(RIGHT)}", 1.0, 1.0, 1.0),
    (f"Write ``` around it.\n{fenced(RIGHT)}", 0.0, 0.0, 1.0),
    (f"```bash\nls\n```\n{fenced(RIGHT)}", 0.0, 0.0, 1.0),
    (fenced(RIGHT).replace("python", "py"), 0.0, 0.0, 1.0),
    (fenced(RIGHT).replace("python\n", "python \n"), 0.0, 0.0, 1.0),
    (fenced("def f(x:"), 0.5, 0.5, 0.5),
    (fenced(""), 1.0, 1.0, 0.0),  # an empty program has a perfect layout
    ("```python\n```\n", 1.0, 1.0, 0.0),
    (RIGHT, 0.0, 0.0, 0.0),
    ("", 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("text", "diffucoder", "espo", "ours"), LAYOUTS)
def test_layout(text: str, diffucoder: float, espo: float, ours: float) -> None:
    assert code.format([text], compat="diffucoder") == [diffucoder]
    assert code.format([text], compat="espo") == [espo]
    assert code.format([text]) == [ours]


# ------------------------------------------------------------------------------------------- DiffuCoder and ESPO: the verdict


@pytest.mark.usefixtures("sandboxed")
@pytest.mark.parametrize(
    ("program", "theirs", "ours"),
    [
        (RIGHT, 1.0, 1.0),
        ("def f(x):\n    return 2", 1 / 3, 1 / 3),
        ("import sys\nsys.exit(0)", 1.0, 0.0),
        ("raise SystemExit", 1.0, 0.0),
        ("import os\ndef f(x):\n    os._exit(0)", 1.0, 0.0),
        ("class Always:\n    def __eq__(self, other): return True\ndef f(x): return Always()", 1.0, 0.0),
        ("import sys\nsys.exit(1)", 0.0, 0.0),
        ("print('a' * 200_000)\n" + RIGHT, 1.0, 1.0),
        ("def f(x):\n    while x == 2:\n        pass\n    return x + 1", 0.0, 2 / 3),  # one slow test of three
    ],
)
def test_exit_statuses_and_slow_tests(program: str, theirs: float, ours: float) -> None:
    for compat in ("diffucoder", "espo"):
        assert scores(fenced(program), compat)[0] == pytest.approx(theirs)
    assert scores(fenced(program))[0] == pytest.approx(ours)


@pytest.mark.usefixtures("sandboxed")
def test_a_missing_newline_zeroes_a_right_program() -> None:
    text = fenced(RIGHT, "")
    assert scores(text, "diffucoder") == (0.0, 0.0)
    assert scores(text, "espo") == (1.0, 1.0)
    assert scores(text) == (1.0, 1.0)


@pytest.mark.usefixtures("sandboxed")
def test_trouble_with_the_machine_is_no_score_under_either_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one quirk that is not reproduced: theirs is 0.0, and would be noise here."""
    code_run._remembered.clear()
    broken = lambda _, jobs: [Report(job.id, (False,), ("not run",), infrastructure="gone") for job in jobs]  # noqa: E731
    monkeypatch.setattr(Sandbox, "check", broken)
    (fn,) = load_rewards(["code.pass_rate"], base=Path())
    for compat in (None, "diffucoder"):
        (score,) = fn.fn(completions=[fenced(RIGHT)], tests=[TESTS], compat=compat)
        assert isinstance(score, InfrastructureError)


# ------------------------------------------------------------------------------------------------------------------ dLLM-RL

# Their verdict: tests run in one process by `exec`, SystemExit means passed, and results go through a queue that is read
# after the process has ended. One clock for all.
THEIRS = """
import json, multiprocessing, sys

def work(code, tests, queue):
    results, said = [], []
    space = {"print": lambda *values: said.append(" ".join(map(str, values)))}
    try:
        exec(code, space)
        for test in tests:
            try:
                exec(test, space)
                results.append(True)
            except Exception:
                results.append(False)
        queue.put((results, said))
    except SystemExit:
        queue.put(([True] * len(tests), said))

def verdict(code, tests, seconds):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=work, args=(code, tests, queue), daemon=True)
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        return [False] * len(tests)
    return queue.get()[0]

print(json.dumps(verdict(*json.loads(sys.argv[1]))))
"""


def dllm_rl(program: str, tests: list[str] = TESTS) -> list[bool]:
    asked = json.dumps([program, tests, 1.0])
    done = subprocess.run([sys.executable, "-c", THEIRS, asked], capture_output=True, text=True, timeout=30, check=True)
    return json.loads(done.stdout)


@pytest.mark.usefixtures("sandboxed")
@pytest.mark.parametrize(
    ("program", "theirs", "ours"),
    [
        (RIGHT, [True] * 3, 1.0),
        ("import sys\nsys.exit(0)", [True] * 3, 0.0),
        ("def f(x):\n    raise SystemExit", [True] * 3, 0.0),
        ("class Always:\n    def __eq__(self, other): return True\ndef f(x): return Always()", [True] * 3, 0.0),
        ("import time\ndef f(x):\n    if x == 2: time.sleep(2)\n    return x + 1", [False] * 3, 2 / 3),
        (RIGHT + "\nprint('a' * 200_000)", [False] * 3, 1.0),
    ],
)
def test_dllm_rl(program: str, theirs: list[bool], ours: float) -> None:
    assert dllm_rl(program) == theirs
    assert scores(fenced(program))[0] == pytest.approx(ours)


# --------------------------------------------------------------------------------------------------------------------- dllm


@pytest.mark.usefixtures("sandboxed")
@pytest.mark.parametrize(
    ("program", "refused"),
    [
        (RIGHT, False),
        ("import os\n" + RIGHT, True),
        ("import\tos\n" + RIGHT, False),  # a tab gets past a list of substrings
        ("from\tsys import path\n" + RIGHT, False),
        ("def f(x):\n    oscillation = x + 1\n    return oscillation", True),  # and an honest name does not
        ("def f(x):\n    open('/dev/null').close()\n    return x + 1", False),  # open() is on no list
    ],
)
def test_dllm_refuses_words_and_ours_runs_programs(program: str, refused: bool) -> None:
    assert originals.dllm_refuses(program) == refused
    assert scores(fenced(program)) == (1.0, 1.0)


@pytest.mark.usefixtures("sandboxed")
def test_dllm_pays_half_for_tags_around_anything() -> None:
    for inside, passed in (("no", False), (RIGHT, True)):
        assert originals.dllm_score(f"<answer>{inside}</answer>", passed) == passed + 0.5
        assert originals.dllm_score(inside, passed) == passed
    assert originals.dllm_score("<answer>no", False) == 0.0
    assert scores("<answer>no</answer>") == (0.0, 0.0)
    assert scores(f"<answer>{RIGHT}</answer>")[0] == scores(RIGHT)[0] == 1.0

"""math.correct: where the answer is read, what is equal, what a policy might try, and what happens to hanging workers."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from rewards import math_pool
from rewards.contract import InfrastructureError, Reward, RewardError, TrainerState, grade, missing_columns
from rewards.contract.pool import Pool, Reply
from rewards.math import correct, gold_answer, stated_answer

ROOT = Path(__file__).parents[2]


def score(answer: str, gold: str, prompt: str = "What is it?") -> float | InfrastructureError | None:
    """The score of a boxed answer."""
    return correct([rf"So \boxed{{{answer}}}."], prompts=[prompt], answer=[gold])[0]


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        (r"<answer>\boxed{5}</answer>", "5"),
        (r"\boxed{4} <answer>\boxed{5}</answer> \boxed{6}", "5"),
        (r"<answer>The side is $\frac{1}{2}$.</answer>", r"\frac{1}{2}"),
        (r"<answer>\( x = 5 \)</answer>", "x = 5"),
        (r"<answer>\[5\]</answer>", "5"),
        (r"<answer>$5$ or $6$</answer>", "$5$ or $6$"),  # no single formula: all of it
        ("<answer>$5 or $6</answer>", "$5 or $6"),
        ("<answer>5.</answer>", "5"),
        ("<answer>\n5\n</answer>", "5"),
        (r"It is \boxed{5}.", "5"),
        (r"\boxed{4}, no, \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{$5$}", "5"),
        (r"\boxed{10\,000}", "10000"),
        (r"\boxed{29,\!322,\! 216}", "29,322,216"),
        (r"\boxed{2*sqrt(3)}", r"2*\sqrt{3}"),
        (r"\boxed{2pi}", r"2\pi"),
        (r"\boxed{\approx 8.24}", "8.24"),
        (r"\boxed{１２}", "12"),
        ("The answer is 5.", None),
        ("", None),
        (r"\boxed{}", None),
    ],
)
def test_where_the_answer_stands(text: str, stated: str | None) -> None:
    assert stated_answer(text) == stated


@pytest.mark.parametrize(
    ("cell", "gold"),
    [
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"$\frac{1}{2}$", r"\frac{1}{2}"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"We have $x = 3$, so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        ("48/2 = 24.\n#### 24", "24"),
        (24, "24"),
        (0.5, "0.5"),
        (None, None),
        ("", None),
    ],
)
def test_gold(cell: Any, gold: str | None) -> None:
    assert gold_answer(cell) == gold


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac34", r"\frac{3}{4}"),
        (r"\frac34", "0.75"),
        (r"\frac34", "3/4"),
        (r"\frac{1}{3}", "0.333333"),
        (r"\frac{3}{2}", r"1\frac{1}{2}"),
        ("5", "x = 5"),
        ("5", "2 + 3 = 5"),
        ("5", r"5 \text{ cm}"),
        ("5", r"\{5\}"),
        ("-2", "−2"),
        ("10000", "10,000"),
        (r"11,\! 111,\! 111,\! 100", "11111111100"),
        ("58,500", "58500"),
        ("1500", r"1.5 \times 10^3"),
        (r"50\%", "0.5"),
        (r"50\%", r"50\%"),
        (r"\$11.50", "11.5"),
        (r"90^\circ", "90"),
        (r"2516_8", "2516_{8}"),
        (r"\frac{\pi}{4}", "pi/4"),
        (r"2\sqrt{3}", "2*sqrt(3)"),
        ("p - q", "-q+p"),
        ("x^2 + 2x + 1", "(x+1)^2"),
        ("y = 2x + 3", "2x+3"),
        ("3, 5, 7", "3, 7, 5"),
        ("[-2, 7]", r"x \in [-2,7]"),
        (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty,2)\cup(3,\infty)"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)"),
        (r"\begin{pmatrix} 1 \\ -2 \end{pmatrix}", r"\begin{pmatrix}1\\-2\end{pmatrix}"),
        ("6 - 5i", "-5i+6"),
        (r"\text{(A)}", "(A)"),
        (r"\text{Evelyn}", "evelyn"),
        (r"\text{June 20}", "June 20"),
        (r"\emptyset", r"\emptyset"),
        (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
        # bases and times
        ("2516_8", "2516"),
        ("2516_8", r"1358_{10} = 2516_8"),
        ("2516_8", r"2516 \text{ base } 8"),
        ("2A_{16}", "2A_16"),
        ("11", "11_{10}"),
        ("52_8, 40_9", "52_{8}, 40_{9}"),
        ("12:30", r"12:30 \text{ p.m.}"),
        ("3:4", "6:8"),
        # equations that can be true
        ("5", "f(3) = 5"),
        ("5", "x = y = 5"),
        (r"\frac12", r"x = \frac{1}{2} = 0.5"),
        (r"3\sqrt2", r"d = \sqrt{18} = 3\sqrt{2}"),
        ("x = 4", "4"),
        ("4, 5", "x = 4, y = 5"),
        # words
        ("BCA", r"\text{bca}"),
        (r"\text{east}", r"\textbf{East}"),
        (r"\text{Monday, Friday}", "Friday, Monday"),
        ("xy + 1", "yx + 1"),
        ("45", r"4\text{5}"),
        # the same formula in other words: docs/rewards.md says that it is right
        ("x^2 + 2x + 1", "(x+1)(x+1)"),
        (r"\tan x", r"\frac{\sin x}{\cos x}"),
        (r"\log_2 3", r"\frac{\ln 3}{\ln 2}"),
    ],
)
def test_equal(gold: str, answer: str) -> None:
    assert score(answer, gold) == 1.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "6"),
        ("5", "-5"),
        ("5", "x"),
        ("5", ""),
        ("5", r"\text{the answer}"),
        ("5", "x > 4"),
        ("5", "[4, 6]"),
        (r"\frac{1}{3}", "0.333"),
        ("12", "1 2"),
        ("x", "y"),
        ("(1,2,3)", "(3,2,1)"),
        (r"\text{(A)}", "(B)"),
        ("p - q", "q - p"),
        # several guesses
        ("5", "4, 5"),
        ("5", "4 or 5"),
        ("5", r"4 \text{ or } 5"),
        ("5", r"\{4, 5\}"),
        ("5", r"\pm 5"),
        ("5", "x = 4, x = 5"),
        ("5", "1, 2, 3, 4, 5, 6, 7, 8, 9"),
        ("5", "5; 6"),
        # the question again: right in value, but nothing was worked out
        ("5", "2 + 3"),
        ("1024", "2^{10}"),
        ("10", r"\binom{5}{2}"),
        ("-2", r"\det \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
        ("2", r"\gcd(4, 6)"),
        ("5", r"\sqrt{25}"),
        ("3", r"\log_2 8"),
        ("5050", r"\sum_{k=1}^{100} k"),
        (r"\frac{1}{3}", r"\int_0^1 x^2 dx"),
        ("5", "x = 2 + 3"),
        ("5", "|-5|"),
        ("(3, 4)", "(1+2, 2^2)"),
        (r"\frac{\pi^2}{6}", r"\sum_{k=1}^\infty \frac{1}{k^2}"),
        ("e", r"\lim_{n \to \infty} (1 + 1/n)^n"),
        (r"\sqrt3", r"\tan(\pi/3)"),
        (r"\sqrt3", r"\max(1, \sqrt3)"),
        (r"\frac{\pi}{4}", r"\arctan 1"),
        (r"\frac{n(n-1)}{2}", r"\binom{n}{2}"),
        # another base, another kind of number
        ("2516_8", "2516_7"),
        ("2516_8", "2516_{9}"),
        ("2516_8", "1358_{10}"),
        ("2516_8", "7 = 2516_8"),
        ("11_2", "11_3"),
        ("11", "11_2"),
        ("2A_{16}", "2A_{15}"),
        ("52_8, 40_9", "52_7, 40_9"),
        ("12:30", "12/30"),
        (r"\frac25", "12:30"),
        # equations that cannot be true, or of which only a part is read
        ("5", "4 = 5"),
        ("5", "6 = 5"),
        ("5", "1 = 2 = 3 = 4 = 5"),
        ("5", "4 = x = 5"),
        ("5", "2 + 2 = 5"),
        ("x = 4", "x = 5 = 4"),
        ("x = 4", "x = 5, x = 5 = 4"),
        ("5", "(x = 4) = 5"),
        # words: letters do not commute
        (r"\text{east}", "seat"),
        ("east", "seat"),
        (r"\text{Evelyn}", "nylevE"),
        ("BCA", "ABC"),
        ("AB, CD", "AC, BD"),
        ("4", r"4\text{5}"),
        ("4", r"4\mbox{ 5}"),
        ("4", r"4\mathrm{5}"),
    ],
)
def test_different(gold: str, answer: str) -> None:
    assert score(answer, gold) == 0.0


def test_an_answer_copied_from_the_prompt_must_read_as_the_gold_answer() -> None:
    prompt = r"Factor $x^2 - 1$ completely. Options: (A) yes, (B) no. Angles: $\sin 60^\circ$. Points $1, 2, 3$."
    assert score("x^2 - 1", "(x-1)(x+1)", prompt) == 0.0
    assert score("x^2-1", "(x-1)(x+1)", prompt) == 0.0
    assert score("(x+1)(x-1)", "(x-1)(x+1)", prompt) == 1.0
    assert score("x^2-1", "x^2 - 1", prompt) == 1.0
    assert score("(B)", r"\text{(B)}", prompt) == 1.0
    assert score("B", r"\text{(B)}", prompt) == 1.0
    assert score("1, 2", "2, 1", prompt) == 1.0  # numbers are found, not copied
    messages = [{"role": "user", "content": prompt}]
    assert correct([r"\boxed{x^2 - 1}"], prompts=[messages], answer=["(x-1)(x+1)"]) == [0.0]


def test_columns() -> None:
    texts = [r"\boxed{5}"] * 3
    assert correct(texts, solution=["5", r"so $\boxed{5}$", None]) == [1.0, 1.0, None]
    assert correct(texts, answer=["5", None, None], solution=["6", "5", None]) == [1.0, 1.0, None]
    with pytest.raises(RewardError, match="neither a column 'answer' nor 'solution'"):
        correct(texts)
    reward = Reward("math.correct", correct)
    assert missing_columns(reward, ["question"]) == ["answer"]
    assert missing_columns(reward, ["solution"]) == missing_columns(reward, ["answer"]) == []
    with pytest.raises(ValueError, match="more than 0"):
        correct(texts, answer=["5"] * 3, seconds=0)


def test_equal_rows_are_compared_once_and_order_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Spy:
        def run(self, requests: list[str], seconds: float) -> list[Reply]:
            asked.extend(requests)
            return [Reply(("gold", "answer", "= right")) for _ in requests]

    monkeypatch.setattr(math_pool, "_pool", Spy)
    texts = [rf"\boxed{{{answer}}}" for answer in ("0.5", "5", "0.5", "0.5")]
    assert correct(texts, answer=["1/2", "5", "1/2", "2/4"]) == [1.0] * 4
    assert len(asked) == 2  # 5 = 5 needs no library


# ---------------------------------------------------------------------------------------------------- hanging and dying

BOMBS = [
    r"9^{9^{9^{9}}}",
    r"(10^{10})!",
    r"\binom{10^9}{500000000}",
    r"(((x+1)^{50}+1)^{50}+1)^{50}",
    "{" * 190 + "5" + "}" * 190,
]


def graded(completions: list[str], answer: list[str], seconds: float = 1.0) -> Any:
    return grade(
        [Reward("math.correct", correct, kwargs={"seconds": seconds})],
        prompts=["p"] * len(completions),
        completions=completions,
        completion_ids=[[0]] * len(completions),
        columns={"answer": answer},
        trainer_state=TrainerState(),
    )


def test_an_answer_that_cannot_be_compared_is_wrong_and_counted() -> None:
    texts = [r"\boxed{\sqrt{8}}", *(rf"\boxed{{{bomb}}}" for bomb in BOMBS), r"\boxed{2^{3/2}}"]
    started = time.perf_counter()
    grades = graded(texts, [r"2\sqrt{2}"] * len(texts))
    assert time.perf_counter() - started < 40
    assert grades.components["math.correct"] == [1.0, *[0.0] * len(BOMBS), 1.0]
    assert grades.dropped == [None] * len(texts)
    assert 3 <= grades.metrics["math_runaway_answers"] <= len(BOMBS)  # some are refused sooner
    assert grades.extras["math_answer"][0] == r"\sqrt{8}"


def test_a_gold_answer_that_cannot_be_read_drops_its_row() -> None:
    grades = graded([r"\boxed{7}", r"\boxed{7}", r"\boxed{7}"], [BOMBS[2], "7.0", "9" * 500])
    assert grades.components["math.correct"] == [None, 1.0, None]
    assert grades.dropped == [reason := "reward math.correct: the gold answer cannot be read", None, reason]
    assert grades.total == [None, 1.0, None]
    assert grades.counts["math.correct/infrastructure_failures"] == 2


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (Reply(("gold", "answer", "= right")), 1.0),
        (Reply(("gold", "answer", "= wrong")), 0.0),
        (Reply(("gold", "answer", "= unreadable")), 0.0),
        (Reply(("gold", "answer", "= gold")), 0.0),
        (Reply(("gold", "answer"), -signal.SIGPROF), None),
        (Reply(("gold", "answer"), -signal.SIGSEGV), None),
        (Reply(("gold", "answer"), 1), None),
        (Reply(("gold", "answer"), -9, overran=True), "no processor time"),
        (Reply(("gold", "answer"), -9), "killed from outside"),
        (Reply(("gold",), -signal.SIGPROF), "gold answer"),
    ],
)
def test_who_is_to_blame(reply: Reply, verdict: Any) -> None:
    found = math_pool.verdict(reply)
    if isinstance(verdict, str):
        assert isinstance(found, InfrastructureError)
        assert verdict in str(found)
    else:
        assert found == verdict


def test_a_machine_too_busy_to_compare_drops_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = (
        "import sys, time; print('ready', flush=True); sys.stdin.readline(); print('gold', flush=True); time.sleep(60)"
    )
    pool = Pool([sys.executable, "-c", stuck], 1)
    monkeypatch.setattr(math_pool, "_pool", lambda: pool)
    monkeypatch.setattr(math_pool, "_PATIENCE", 1.0)
    grades = graded([r"\boxed{0.5}", r"\boxed{5}"], ["1/2", "5"], seconds=0.3)
    assert grades.dropped == ["reward math.correct: the worker had no processor time", None]
    assert not pool._workers


def test_without_the_library_the_run_ends_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        math_pool, "_pool", lambda: Pool([sys.executable, "-c", "print('! No module named math_verify')"], 1)
    )
    with pytest.raises(RewardError, match=r"do not start: No module named math_verify"):
        correct([r"\boxed{0.5}"], answer=["1/2"])


def test_workers_that_fail_later_drop_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(["/no/such/program"], 1)
    pool.worked = True
    monkeypatch.setattr(math_pool, "_pool", lambda: pool)
    assert graded([r"\boxed{0.5}"], ["1/2"]).dropped == ["reward math.correct: the workers do not start any more"]


@pytest.mark.parametrize("piece", [r"\(", r"\boxed{", "$", "<answer>", "sqrt(", r"\!", " ", "1,", r"\text{", "9"])
def test_long_texts_end_at_once(piece: str) -> None:
    text = (piece * 100_000)[:100_000]
    started = time.process_time()
    assert correct([text, f"<answer>{text}</answer>", rf"\boxed{{{text}}}"], answer=["x"] * 3) == [0.0] * 3
    assert time.process_time() - started < 2.0


def test_it_works_in_a_thread() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(correct([r"\boxed{0.5}"], answer=["1/2"])))
    thread.start()
    thread.join(30)
    assert found == [1.0]


def test_memory_is_bounded() -> None:
    """A worker that asks for more than its share gets no more; the run's own memory is not touched."""
    code = "import rewards.math_worker as w; w._limit_memory(); bytearray(3 << 30)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert "MemoryError" in done.stderr


def workers_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "math_worker" in " ".join(child.cmdline())]


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


PROGRAM = r"""
    import os, sys
    from rewards.math import correct
    assert correct([r"\boxed{0.5}"], answer=["1/2"]) == [1.0]
    child = os.fork()
    if child == 0:  # a forked child has workers of its own, and leaves its parent's alone
        ok = correct([r"\boxed{0.25}"], answer=["1/4"]) == [1.0]
        sys.exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert correct([r"\boxed{0.2}"], answer=["1/5"]) == [1.0]
    print("working", flush=True)
    correct([r"\boxed{9^{9^{9^{9}}}}"], answer=[r"\sqrt{2}"], seconds=2.0)
    assert correct([r"\boxed{0.125}"], answer=["1/8"]) == [1.0]
    print("done", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("when", ["working", "done", "end"])
def test_no_worker_outlives_a_run(when: str) -> None:
    """Killed in the middle of a hanging comparison, killed while idle, and ending by itself."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    for line in program.stdout:
        if line.strip() in (when, "done"):
            break
    time.sleep(0.2)
    workers = workers_of(program.pid)
    assert workers
    if when == "end":
        program.communicate("\n", timeout=30)
        assert program.returncode == 0
    else:
        os.kill(program.pid, signal.SIGKILL)
        program.communicate(timeout=30)
    assert gone(workers, 15)


BUSY = r"""
    import threading
    from rewards.math import correct

    golds = [r"\sqrt{2}", r"\sqrt{3}"]
    halves = threading.Thread(target=lambda: correct([r"\boxed{0.5}", r"\boxed{0.25}"], answer=["1/2", "1/4"]))
    halves.start()  # workers live longer than the thread that first asked for them
    halves.join()
    print("warm", flush=True)
    input()
    correct([r"\boxed{9^{9^{9^{9}}}}"] * 2, answer=golds, seconds=25.0)
"""


def test_busy_workers_die_with_a_killed_run() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(BUSY)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert program.stdout is not None
    assert program.stdin is not None
    assert program.stdout.readline() == b"warm\n"
    time.sleep(0.3)
    workers = workers_of(program.pid)
    assert workers
    program.stdin.write(b"\n")
    program.stdin.flush()
    deadline = time.monotonic() + 20  # until they are all at work
    before = [worker.cpu_times().user for worker in workers]
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if all(w.cpu_times().user > b + 0.3 for w, b in zip(workers, before, strict=True)):
            break
    else:
        pytest.fail("the workers do nothing")
    os.kill(program.pid, signal.SIGKILL)
    program.communicate(timeout=30)
    # Elsewhere the processor time of the request, shared by all that runs on the machine, has to end them.
    assert gone(workers, 3 if sys.platform == "linux" else 50)

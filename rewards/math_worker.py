r"""A process that compares LaTeX answers for `rewards/math.py`. Run as a file by the pool; a run never imports it.

One request a line on standard input, JSON `{"gold", "answer", "echoed", "seconds"}`, or for the rule of published code
`{"rule": "espo", "gold", "answer", "seconds"}`. On standard output, one line
per stage as it begins (`gold`, `answer`), so that the parent knows what was being read if the process dies, then the
verdict: `= right`, `= wrong`, `= unreadable` (the answer is no formula) or `= gold` (the gold answer is none).

Text of a policy can keep sympy busy for years and ask it for all memory. The kernel ends this process when a request
has used its processor seconds, whatever Python is doing at the time, also when the parent is gone. Processor time, not
wall time: a busy machine must not turn a right answer into a wrong one. On Linux it also ends the process at once when
the parent dies.
"""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

MEMORY_BYTES = 2 << 30
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Commands of LaTeX that compute nothing: all that an answer may hold where the gold answer is made of numbers.
_INERT = re.compile(
    r"[dtc]?frac|left|right|text(bf|rm)?|math(rm|bf)|mbox|boxed|displaystyle|[bB]ig|quad|begin|end"
    r"|circ|degree|infty|l?dots|cdot|times|cup|in"
)


def main() -> None:
    """Serve requests until standard input ends."""
    _die_with_parent()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to standard output; only replies may
    logging.disable(logging.CRITICAL)
    _limit_memory()
    try:
        # Here, so that no request pays for loading the libraries and the tables of their grammars.
        judge(r"\sqrt{2}", r"\frac{2}{\sqrt{2}}", echoed=False, seconds=0.0, say=lambda _: None)
    except ImportError as error:
        _say(replies, f"! {error}")
        return
    _say(replies, "ready")
    for line in sys.stdin:
        request = json.loads(line)
        rule = RULES[request.pop("rule", "ours")]
        verdict = rule(**request, say=functools.partial(_say, replies))
        _budget(0)
        _say(replies, f"= {verdict}")


def judge(gold: str, answer: str, echoed: bool, seconds: float, say: Callable[[str], None]) -> str:
    """The verdict on one answer; `seconds` of processor time each for the gold answer and for the rest, 0: no limit."""
    from math_verify import verify
    from sympy import Symbol

    say("gold")
    _budget(seconds)
    expected = _read_gold(gold)
    say("answer")
    _budget(seconds)
    if expected is None:
        return "gold"
    found = read(answer)
    if found is None:
        return "unreadable"
    # The question itself, written down again, has the right value, too.
    plain = _states_numbers(found)
    if _states_numbers(expected):
        worked_out = plain and all(map(_INERT.fullmatch, re.findall(r"\\([A-Za-z]+)", answer)))
    else:
        copied = echoed and not (plain or isinstance(found, Symbol))
        worked_out = not copied and not any(work(found) and not work(expected) for work in (_has_work, _has_functions))
    if not worked_out or not _holds(found, answer):
        return "wrong"
    return "right" if verify(expected, found, timeout_seconds=None) else "wrong"


def judge_espo(gold: str, answer: str, seconds: float, say: Callable[[str], None]) -> str:
    """The verdict of ESPO's math reward: whatever math-verify finds in either text, the answer in the place of the gold."""
    from math_verify import parse, verify

    say("gold")
    _budget(seconds)
    expected = parse(gold, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    say("answer")
    _budget(seconds)
    found = parse(answer, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    return "right" if verify(found, expected, timeout_seconds=None) else "wrong"


RULES = {"ours": judge, "espo": judge_espo}


def read(latex: str) -> Any:
    """The one formula that `latex` is, as math-verify parses it; None if it is none.

    Only the whole text is read: math-verify would otherwise look for the last number in it, and a list of guesses
    would be right whenever its last one is.
    """
    from math_verify import LatexExtractionConfig, parse

    whole = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
    found = parse(
        rf"\boxed{{{latex}}}",
        [whole],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,  # pyright: ignore[reportArgumentType]  as its own documentation says to turn signals off
    )
    return found[0] if found else None


_read_gold = functools.lru_cache(maxsize=1024)(read)


def _states_numbers(value: Any) -> bool:
    """Whether a parsed answer states numbers rather than calculations: 5, -1/2, 50 %, 1.5 * 10^3, x = 5, (1, 2), [0, 1)."""
    from sympy import And, Eq, FiniteSet, Interval, MatrixBase, Tuple, Union

    while isinstance(value, (Eq, And)):  # of a chain a = b = 5 the last
        value = getattr(value, "_unsorted_args", value.args)[-1]
    if isinstance(value, Interval):
        return _is_number(value.start) and _is_number(value.end)
    if isinstance(value, (FiniteSet, Tuple, Union)):
        return all(map(_states_numbers, value.args))
    if isinstance(value, MatrixBase):
        return all(map(_is_number, value.flat()))
    return _is_number(value)


def _is_number(value: Any) -> bool:
    from sympy import Integer, Mul, Number, Pow, UnevaluatedExpr

    if isinstance(value, Mul) and len(value.args) == 2:
        number, scale = value.args
        power_of_ten = isinstance(scale, Pow) and scale.args[0] == 10 and isinstance(scale.args[1], Integer)
        return isinstance(number, Number) and (power_of_ten or isinstance(scale, UnevaluatedExpr))  # the latter: %
    return isinstance(value, Number)


def _has_work(value: Any) -> bool:
    """Whether a parsed answer leaves a sum, an integral, a limit or the like to be worked out."""
    from sympy import Derivative, Integral, Limit, Product, Sum

    return bool(value.has(Sum, Product, Integral, Derivative, Limit))


def _has_functions(value: Any) -> bool:
    """Whether a parsed answer holds functions with a value to be found: sin, log, max and so on, not f, |x| or e^x."""
    from sympy import Abs, Function, Max, Min, exp
    from sympy.core.function import AppliedUndef

    return any(not isinstance(found, (Abs, AppliedUndef, exp)) for found in value.atoms(Function, Max, Min))


def _holds(value: Any, latex: str) -> bool:
    """Whether the equations of a parsed answer can be true: 4 = 5 and x = 5 = 4 cannot, nor one that was not read."""
    from math_verify import verify
    from sympy import And, Eq, FiniteSet, Tuple
    from sympy.core.function import AppliedUndef

    if not _has_work(value) and len(re.findall("(?<![<>!])=", latex)) > len(value.atoms(Eq)):
        return False  # of `(x = 4) = 5` math-verify reads the 5 only
    for part in value.args if isinstance(value, (FiniteSet, Tuple)) else (value,):
        equations = [part] if isinstance(part, Eq) else part.args if isinstance(part, And) else ()
        sides = [side for equation in equations if isinstance(equation, Eq) for side in equation.args]
        numbers = [side for side in sides if not (side.free_symbols or side.has(AppliedUndef))]  # f(3) is not known
        if not all(verify(numbers[0], number, timeout_seconds=None) for number in numbers[1:]):
            return False
    return True


def _say(replies: TextIO, line: str) -> None:
    replies.write(f"{line}\n")
    replies.flush()


def _budget(seconds: float) -> None:
    """From now on so much processor time, then the kernel ends the process; 0: no limit."""
    if hasattr(signal, "setitimer"):  # elsewhere the parent's wall clock is all there is
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _die_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends, which the pool keeps for its own life."""
    if sys.platform != "linux":  # elsewhere the processor time of a request and the end of standard input must do
        return
    parent = os.getppid()
    with suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before this was asked for
        os._exit(1)


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    main()

"""What is odd but honest passes, at every level."""

from dataclasses import replace

import pytest

from rewards.sandbox import Job, Sandbox, StdioTest

HONEST = {
    "recursion": ("def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)", "f(15) == 610"),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(5000)\ndef f(n):\n    return 0 if n == 0 else 1 + f(n - 1)",
        "f(3000) == 3000",
    ),
    "global state": ("calls = []\ndef f(n):\n    calls.append(n)\n    return len(calls)", "[f(0), f(0)] == [1, 2]"),
    "prints": ("print('hello')\ndef f(n):\n    print(n, flush=True)\n    return n", "f(3) == 3"),
    "slow, but within the limit": ("import time\ndef f(n):\n    time.sleep(0.3)\n    return n", "f(1) == 1"),
    "generator inside": ("def g(n):\n    yield from range(n)\ndef f(n):\n    return sum(g(n))", "f(4) == 6"),
    "class inside": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(n):\n    return P(n).x",
        "f(4) == 4",
    ),
    "input that nobody calls": ("def g():\n    return input()\ndef f(n):\n    return n", "f(1) == 1"),
    "main guard": ("def f(n):\n    return n\nif __name__ == '__main__':\n    f(int(input()))", "f(1) == 1"),
    "unicode": ("def f(ä):\n    return ä[::-1] + '\\N{SNOWMAN}' + '\\ud800'", "f('αβ\\0') == '\\0βα☃\\ud800'"),
    "large result": ("def f(n):\n    return list(range(n))", "f(200_000)[-1] == 199_999"),
    "large number": ("def f(n):\n    return 7 ** n", "f(20_000) == 7 ** 20_000"),
    "threads inside": (
        "import threading\ndef f(n):\n    out = []\n    ts = [threading.Thread(target=out.append, args=(i,)) for i in range(n)]\n"
        "    [t.start() for t in ts]\n    [t.join() for t in ts]\n    return sorted(out)",
        "f(4) == [0, 1, 2, 3]",
    ),
    "own files": (
        "import tempfile\ndef f(n):\n    with tempfile.TemporaryFile('w+') as t:\n        t.write('x' * n)\n        t.seek(0)\n"
        "        return len(t.read())",
        "f(1000) == 1000",
    ),
    "asyncio": (
        "import asyncio\nasync def g(n):\n    await asyncio.sleep(0)\n    return n\ndef f(n):\n    return asyncio.run(g(n))",
        "f(2) == 2",
    ),
    "standard library": (
        "import re, math, heapq, bisect, decimal, fractions, json, datetime, hashlib, random, statistics, textwrap, string\n"
        "def f(n):\n    random.seed(n)\n    return json.loads(json.dumps([math.comb(n, 2), str(decimal.Decimal(n))]))",
        "f(4) == [6, '4']",
    ),
    "keyword arguments": ("def f(n, *, k=1):\n    return n * k", "f(2, k=5) == 10"),
    "subclasses of plain types": (
        "from collections import Counter, OrderedDict, defaultdict, namedtuple\nimport enum\nE = enum.IntEnum('E', 'A B')\n"
        "P = namedtuple('P', 'x y')\ndef f(n):\n    return [Counter('aab'), OrderedDict(a=1), P(1, 2), E.B]",
        "f(0) == [{'a': 2, 'b': 1}, {'a': 1}, (1, 2), 2]",
    ),
    "kinds of data": (
        "def f(x):\n    return x",
        "all(f(x) == x and type(f(x)) is type(x) for x in [None, True, 1 << 99, -0.5, 2j, 'a', b'\\xff', [1], (1,), {1}, "
        "frozenset([1]), {(1, 2): [3]}, range(3), float('inf')])",
    ),
    "functions that call each other": ("def g(n):\n    return n + 1\ndef f(n):\n    return g(n) + 1", "g(f(0)) == 3"),
    "callable that is no function": ("import functools\nf = functools.partial(max, 3)", "f(5) == 5"),
    "arguments changed on the way": ("def f(xs):\n    xs.sort()\n    return xs[0]", "f([3, 1]) == 1"),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_code_passes(name: str, sandbox: Sandbox) -> None:
    code, condition = HONEST[name]
    (report,) = sandbox.check([Job(name, "function", code, (f"assert {condition}",), ("f", "g"))])
    assert report.solved, report


def test_expected_exceptions_pass_by_name(sandbox: Sandbox) -> None:
    code = "class Odd(KeyError): pass\ndef f(n):\n    if n: raise Odd('no ' + str(n))\n    return [][1]"
    tests = (
        "try:\n    f(3)\nexcept KeyError as error:\n    assert error.args == (\"'no 3'\",)\nelse:\n    assert False",
        "try:\n    f(0)\nexcept IndexError:\n    pass\nelse:\n    assert False",
        "try:\n    f(0)\nexcept KeyError:\n    pass",
    )
    (report,) = sandbox.check([Job("exceptions", "function", code, tests, ("f",))])
    assert report.passed == (True, True, False)
    assert report.details[2].startswith("raised IndexError: list index out of range")


def test_numpy_where_the_caller_names_it(sandbox: Sandbox) -> None:
    code = "import numpy as np\ndef f(n):\n    return np.float64(n), np.int64(n), np.arange(n).sum(), np.bool_(n), np.ones(n).tolist()"
    job = Job(
        "numpy", "function", code, ("assert f(3) == (3.0, 3, 3, True, [1.0] * 3)\nassert type(f(3)[1]) is int",), ("f",)
    )
    (without,) = sandbox.check([job])
    assert without.error is not None
    assert "No module named 'numpy'" in without.error
    limits = replace(sandbox.limits, memory_bytes=1 << 30, start_seconds=20.0)
    with Sandbox(sandbox.level, limits, workers=1, packages=["numpy"]) as with_numpy:
        (report,) = with_numpy.check([job])
    assert report.solved, report


def test_whole_programs(sandbox: Sandbox) -> None:
    code = "import sys\nn = int(input())\nprint(n * 2, ' ')\nprint()\nsys.stderr.write('note')\nif n == 9: sys.exit(3)\nsys.exit()"
    tests = (StdioTest("4\n", "8"), StdioTest("4\n", "9"), StdioTest("", ""), StdioTest("9\n", "18"))
    (report,) = sandbox.check([Job("double", "stdio", code, tests)])
    assert report.passed == (True, False, False, False)
    assert report.details[1] == "wrong"
    assert "exit status 1" in report.details[2]
    assert "exit status 3" in report.details[3]


def test_much_input_and_output_of_a_program(sandbox: Sandbox) -> None:
    text = "".join(f"line {index}\n" for index in range(40_000))
    code = (
        "import sys\nfor line in sys.stdin:\n    sys.stdout.write(line)\nif __name__ == '__main__':\n    print('end')"
    )
    (report,) = sandbox.check([Job("cat", "stdio", code, (StdioTest(text, text + "end"),))])
    assert report.solved, report


def test_puzzles(sandbox: Sandbox) -> None:
    sat = "def sat(x: List[int], n=3, text='a'):\n    assert len(text) == 1\n    return sum(x) == n"
    setup = "from typing import List"
    good = "def sol(n=5, text=''):\n    return [n]"
    bad = "def sol(n=5, text=''):\n    return [True] * n"
    reports = sandbox.check([Job(code, "puzzle", code, (sat,), ("sol",), setup) for code in (good, bad)])
    assert [report.solved for report in reports] == [True, False]

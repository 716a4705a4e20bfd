"""The program in a completion: a table of cases, and properties over random texts and wrappings."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.extract import END_MARKERS
from rewards.programs.text import MAX_PROGRAM_CHARS, blocks, defines, does_something, find_program, syntax_error

F = "def f(x):\n    return x + 1"
WRONG = "def f(x):\n    return x - 1"
CUT = "def f(x):\n    return (x +"
HEAD = 'from typing import List\n\n\ndef f(x):\n    """One more."""\n'


def code_of(text: str, entry_point: str | None = "f", prompt: str = "") -> str | None:
    program = find_program(text, entry_point, prompt)
    return None if program is None else program.code.strip("\n")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"```python\n{F}\n```", F),
        (f"```py\n{F}\n```", F),
        (f"```Python3\n{F}\n```\n", F),
        (f"```\n{F}\n```", F),
        (f"~~~python\n{F}\n~~~", F),
        (f"````python\n{F}\n````", F),
        (f"Sure:\n\n```python\n{F}\n```\nIt adds one.", F),
        (f"Sure: ```python\n{F}\n```", F),
        (f"```python\n{F}```", F),
        ("1. So:\n   ```python\n   def f(x):\n       return x + 1\n   ```", F),
        (f"```python\r\n{F.replace(chr(10), chr(13) + chr(10))}\r\n```", F),
        (f"```python\n{F}\n```<|eot_id|><|endoftext|>", F),
        # cut short: the fence is never closed
        (f"```python\n{F}", F),
        (f"```python\n{F}<|endoftext|>", F),
        # several blocks: the one that defines the entry point, the last of them that parses
        (f"```python\n{F}\n```\nExample:\n```python\nprint(f(1))\n```", F),
        (f"```python\nimport math\n```\n```python\n{F}\n```\n```bash\npip install x\n```", F),
        (f"```python\n{WRONG}\n```\nNo, plus:\n```python\n{F}\n```", F),
        (f"```python\n{F}\n```\nBetter:\n```python\n{CUT}", F),
        (f"```python\n{CUT}\n```\nBetter:\n```python\n{F}\n```", F),
        (f"```python\n{F}\n```\nTo try it:\n```python\ndef main():\n    print(f(1))\n```", F),
        (f"```text\nf(1) == 2\n```\n```python\n{F}\n```", F),
        # none of them defines it: definitions before calls
        ("```python\ndef g(): pass\n```\n```python\ng()\n```", "def g(): pass"),
        # answer tags
        (f"<reasoning>\nSo.\n</reasoning>\n<answer>\n{F}\n</answer>", F),
        (f"<answer>\n```python\n{F}\n```\n</answer>", F),
        (f"```python\n{WRONG}\n```\n<answer>\n```python\n{F}\n```\n</answer>", F),
        (f"```python\n{F}\n```\n<answer>see above</answer>", F),
        # bare
        (F, F),
        (f"\n\n{F}\n\n", F),
        (f"Here it is:\n\n{F}\n\nThis adds one to x.", F),
        (f"from the text I take that it adds one.\n{F}", F),
        ("    def f(x):\n        return x + 1", F),
        ("f = lambda x: x + 1", "f = lambda x: x + 1"),
        # nothing
        ("", None),
        ("I do not know.", None),
        ("42", None),
        ("yes", None),
        ("```python\n```", None),
        ("```json\n{}\n```", None),
    ],
)
def test_where_the_program_is_found(text: str, code: str | None) -> None:
    assert code_of(text) == code


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("    return x + 1", "    return x + 1"),
        ("return x + 1", "    return x + 1"),
        ("y = x\nreturn y + 1", "    y = x\n    return y + 1"),
        ("for y in [x]:\n        x += 1\n    return x", "    for y in [x]:\n        x += 1\n    return x"),
        ("    return x + 1\n\n\ndef g(): pass\n", "    return x + 1"),
        ("    return x + 1\n\n\nThis adds one.", "    return x + 1"),
        ("```python\n    return x + 1\n```", "    return x + 1"),
    ],
)
@pytest.mark.parametrize(
    "prompt", [HEAD, f"Complete this function:\n```python\n{HEAD}```\nGo on.", f"```\n{HEAD}\n```"]
)
def test_the_body_of_a_function_whose_head_is_the_prompt(text: str, body: str, prompt: str) -> None:
    assert code_of(text, "f", prompt) == f"{HEAD}{body}"


def test_a_whole_program_is_not_put_behind_the_prompt() -> None:
    assert code_of(F, "f", HEAD) == F
    assert code_of(f"```python\n{F}\n```", "f", HEAD) == F
    assert code_of("I do not know.", "f", HEAD) is None


def test_what_is_said_of_a_program() -> None:
    program = find_program(f"```python\n{F}\n```", "f")
    assert program is not None
    assert (program.fenced, program.closed, program.error) == (True, True, None)
    program = find_program(f"```python\n{CUT}", "f")
    assert program is not None
    assert (program.fenced, program.closed) == (True, False)
    assert program.error == "'(' was never closed (line 2)"
    program = find_program(F)
    assert program is not None
    assert not program.fenced


def test_defines() -> None:
    for code in ("def f(): pass", "async def f(): pass", "class f: pass", "class A:\n  def f(self): pass", "f = 1"):
        assert defines(code, "f")
    for code in ("f: int = 1", "f : 'Callable' = abs"):
        assert defines(code, "f")
    for code in ("def ff(): pass", "f(1)", "f == 1", "x = f", "# def f", "def g(f=1): pass"):
        assert not defines(code, "f")


def test_constants_and_names_do_nothing() -> None:
    for code in ("", "pass", "1", "'text'", "x", "# x", "...", "yes\nno"):
        assert not does_something(code)
    for code in ("print()", "x = 1", "def f(): pass", "import os", "-1"):
        assert does_something(code)


@pytest.mark.parametrize(
    "text",
    [
        "-" * 30_000 + "1", "(" * 30_000, "x" + ".a" * 15_000, "1+" * 15_000 + "1", "not " * 9_000 + "x", "'" * 30_001,
        "a\0b", "\ud800", "9" * 30_000, "f" + "()" * 15_000, "*" * 30_000, "if a:\n pass\n" + "elif b:\n pass\n" * 2_000,
        "`" * 100_000, "```\n" * 30_000, ("`" * 50 + "x") * 2_000, "<answer>" * 10_000, "def f(\n" * 15_000,
        "def f(x):\n" + " return x\n" * 15_000, " " * 100_000, "\n" * 100_000, "~" * 100_000, "def f:" + " " * 100_000 + "=",
        "```python" * 10_000, "@" * 100_000, "\r" * 100_000,
    ],
)  # fmt: skip
def test_hostile_texts_are_read_and_never_raise(text: str) -> None:
    for shown in (text, f"```python\n{text}\n```"):
        program = find_program(shown, "f", shown)
        assert program is None or len(program.code) <= MAX_PROGRAM_CHARS
        blocks(shown)


def test_too_long_is_no_program() -> None:
    assert find_program(f"```python\n{F}\n{'#' * MAX_PROGRAM_CHARS}\n```", "f") is None


PIECES = st.sampled_from(
    ["```python\n", "```", "```\n", "~~~", "\n", "\r", "def f(x):\n", "    return x", "<answer>", "</answer>", "    ", "(",
     "'''", "class f:", "import os\n", "f = ", "<|eot_id|>", "\0", "\ud800", "é", "text ", "\t", "@", "# ", "\\", "=="]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=25).map("".join)), st.sampled_from([None, "f", "é("]))
def test_no_text_raises(text: str, name: str | None) -> None:
    program = find_program(text, name, text)
    if program is not None:
        assert program.error == syntax_error(program.code)
        assert program.code.strip()


SOLUTIONS = [F, f"import math\n\n\n{F}", f"{F}\n\n\ndef g():\n\n    return f(2)"]
PROSE = st.text(st.characters(blacklist_characters="`~<>", blacklist_categories=["Cs"]), max_size=60)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SOLUTIONS), PROSE, PROSE, st.sampled_from(["python", "py", "", "Python"]),
    st.sampled_from(["```", "~~~", "````"]), st.lists(st.sampled_from([*END_MARKERS, "\n", " "]), max_size=4),
)  # fmt: skip
def test_prose_fences_and_end_markers_change_nothing(
    code: str, before: str, after: str, language: str, mark: str, ends: list[str]
) -> None:
    text = f"{before}\n{mark}{language}\n{code}\n{mark}\n{after}{''.join(ends)}"
    assert code_of(text) == code
    assert code_of(text, None) == code


@settings(max_examples=60, deadline=None)
@given(st.integers(1, len(F)))
def test_a_program_cut_anywhere_is_found_as_far_as_it_goes(at: int) -> None:
    text = f"```python\n{F}"[: 10 + at]
    code = code_of(text)
    assert code is None or F.startswith(code)
    if at == len(F):
        assert code == F


def test_syntax_error_agrees_with_the_parser() -> None:
    for code in (F, CUT, "x =", "def", "import os", "\tx = 1", "print 'a'"):
        try:
            ast.parse(code)
            parses = True
        except SyntaxError:
            parses = False
        assert (syntax_error(code) is None) == parses

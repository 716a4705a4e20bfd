r"""Finding the program in a completion: fenced blocks, answer tags, bare code, the continuation of a prompt.

Which block is taken, and why (`find_program`):

- **A block that defines the entry point**, where the data names one. A completion that explains itself often ends with a
  block of example calls, and begins with one that repeats the question; neither is the answer.
- Of several such blocks, **the last that parses**: a model that corrects itself says so last, and one that is cut short in
  its second attempt has still made its first. Published graders take the first (ESPO, DiffuCoder) or the longest
  (EvalPlus). No test is looked at, so a completion cannot offer many programs and be graded by its best one.
- An unclosed fence reaches to the end of the text. It counts like any other if it parses.

Every function is linear in the length of the text and raises on no input.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.extract import strip_end_markers, tagged_answer

# Longer texts are no program that a rollout writes, and parsing them takes seconds.
MAX_PROGRAM_CHARS = 40_000
_PYTHON = ("python", "py", "python3", "")  # what a fence may say to hold a program; in a block with no name, too
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n`]*$", re.MULTILINE)
_OPENING = re.compile(r"(`{3,12})(python3?|py)?$")  # prose may stand before a fence on its line
_STARTS = re.compile(
    r"^(?:(?:async )?def \w|class \w+[ \t]*[:(]|import \w|from [\w.]+ import\b|@\w)", re.MULTILINE
)  # of code at the left margin; prose begins lines with "from" and "class", too
_NAME = r"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{0}\b|^{0}[ \t]*(?::[^=\n]*)?=(?!=)"


@dataclass(frozen=True)
class Program:
    """A program found in a text.

    code    the program, lines ending in `\\n`; may be any text where nothing better was found
    error   why it does not parse (one line), or None
    fenced  whether it stood in a fenced block
    closed  whether that block was closed
    """

    code: str
    error: str | None = None
    fenced: bool = False
    closed: bool = False


def find_program(text: str, entry_point: str | None = None, prompt: str = "") -> Program | None:
    """The program that a completion offers, or None where it offers none (no code, or more than MAX_PROGRAM_CHARS of it).

    entry_point  the name of the function or class that tests will use, if it is known
    prompt       the text that the completion answers: where it ends in the head of `entry_point` and the completion
                 is only the body, the two are put together
    """
    text = _plain_lines(strip_end_markers(text))
    tagged = tagged_answer(text)
    regions = [tagged, text] if tagged is not None else [text]
    found = next((program for region in regions if (program := _fenced(region, entry_point))), None)
    if found is None:
        found = _bare(regions[0], entry_point)
    if entry_point is not None and (found is None or not defines(found.code, entry_point)):
        found = _continued(prompt, text, entry_point) or found
    return found if found is None or len(found.code) <= MAX_PROGRAM_CHARS else None


def defines(code: str, name: str) -> bool:
    """Whether a line of the code defines `name`: a function, a class, or an assignment at the left margin."""
    return re.search(_NAME.format(re.escape(name)), code, re.MULTILINE) is not None


def syntax_error(code: str) -> str | None:
    """Why `code` is not Python, in one line; None if it parses. Raises on no text; nothing is run."""
    if len(code) > MAX_PROGRAM_CHARS:
        return f"longer than {MAX_PROGRAM_CHARS} characters"
    try:
        parse(code)
    except SyntaxError as error:
        return f"{error.msg} (line {error.lineno})"
    except (
        ValueError,
        MemoryError,
        RecursionError,
        OverflowError,
    ) as error:  # null bytes, half characters, deep nesting
        return str(error).partition("\n")[0][:200] or type(error).__name__
    return None


def does_something(code: str) -> bool:
    """Whether code that parses holds a statement that is more than a constant, a name or `pass`."""
    return any(
        not isinstance(node, ast.Pass)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, (ast.Constant, ast.Name)))
        for node in parse(code).body
    )


def head_of(prompt: str, entry_point: str) -> str:
    """The code in a prompt that ends in the head of `entry_point`, as HumanEval's prompts do; or ""."""
    heads = _heads(_plain_lines(prompt), entry_point)
    return f"{heads[0]}\n" if heads else ""


def prompt_context(prompt: str, entry_point: str) -> str:
    """What a prompt that ends in the head of a function says before it: imports and helpers, as HumanEval has them; or ""."""
    for head in _heads(_plain_lines(prompt), entry_point):
        place = re.search(_NAME.format(re.escape(entry_point)), head, re.MULTILINE)
        before = head[: place.start()] if place else ""
        if before.strip() and syntax_error(before) is None:
            return f"{before.rstrip()}\n\n\n"
    return ""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language in lower case, its text without the fences, and whether it was closed."""

    language: str
    code: str
    closed: bool


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a text, in order. A fence is closed by one of its own kind without a language, or by the end."""
    found: list[Block] = []
    lines: list[str] = []
    mark = language = ""
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if not mark:
            opening = fence or _OPENING.search(line.rstrip()[-20:])
            if opening:
                mark, language, lines = opening[1], (opening[2] or "").lower(), []
        elif fence and fence[1].startswith(mark) and not fence[2]:
            found.append(Block(language, "\n".join(lines), True))
            mark = ""
        elif (
            line.rstrip().endswith(mark) and line.count(mark) == 1
        ):  # the fence stands at the end of the last line of code
            lines.append(line.rstrip().removesuffix(mark))
            found.append(Block(language, "\n".join(lines), True))
            mark = ""
        else:
            lines.append(line)
    if mark:
        found.append(Block(language, "\n".join(lines), False))
    return found


# ------------------------------------------------------------------------------------------------------------- choosing


def _fenced(text: str, entry_point: str | None) -> Program | None:
    """The program in the fenced blocks of a text."""
    candidates = [
        Program(textwrap.dedent(block.code), None, True, block.closed)
        for block in blocks(text)
        if block.language in _PYTHON and block.code.strip()
    ]
    if entry_point is not None:
        candidates = [one for one in candidates if defines(one.code, entry_point)] or candidates
    if not candidates:
        return None
    for preferred in (_STARTS.search, bool):  # without a name to look for, a block of definitions before one of calls
        for one in reversed([one for one in candidates if preferred(one.code)]):
            if syntax_error(one.code) is None:
                return one
    last = candidates[-1]
    return Program(last.code, syntax_error(last.code), True, last.closed)


def _bare(text: str, entry_point: str | None) -> Program | None:
    """The program in a text without fences: all of it if it parses, else from its first line of code to where that ends."""
    whole = textwrap.dedent(text).strip("\n")
    error = syntax_error(whole)
    if error is None:
        return Program(whole) if does_something(whole) else None
    start = _STARTS.search(text)
    if start is None:
        return None
    code = text[start.start() :]
    lines = code.split("\n")
    error = syntax_error(code)
    if error is not None:  # prose after it: keep what stands before the statement that does not parse
        broken = _line_of(error, len(lines))
        kept = "\n".join(lines[: _statement_start(lines, broken)])
        if kept.strip() and syntax_error(kept) is None and (entry_point is None or defines(kept, entry_point)):
            return Program(kept)
    return Program(code, error)


def _continued(prompt: str, text: str, entry_point: str) -> Program | None:
    """The head of a function in the prompt with the completion as its body; None where they do not fit together."""
    body = _body(next((block.code for block in blocks(text)), text))
    if not body.strip():
        return None
    for head in _heads(_plain_lines(prompt), entry_point):
        code = f"{head}\n{body}"
        if syntax_error(code) is None:
            return Program(code)
    return None


def _heads(prompt: str, entry_point: str) -> list[str]:
    """The code in a prompt that defines `entry_point`, or begins to: its fenced blocks, else all from its first line of code."""
    start = _STARTS.search(prompt)
    found = [block.code for block in blocks(prompt)] + ([prompt[start.start() :]] if start else [])
    return [code.rstrip("\n") for code in found if defines(code, entry_point)]


def _body(text: str) -> str:
    """The lines that belong to a function whose head stands in the prompt, indented.

    Where the first line is indented, the first later one that is not ends the body; where only the first line is not
    (its indentation is stripped with the white space around an answer), or none is, it is put right.
    """
    first, *rest = text.strip("\n").split("\n")
    if first[:1].isspace():
        end = next((at for at, line in enumerate(rest) if line[:1].strip()), len(rest))
        return "\n".join([first, *rest[:end]])
    if any(line[:1].strip() for line in rest):
        return textwrap.indent("\n".join([first, *rest]), "    ")
    return "\n".join([f"    {first}", *rest])


def _statement_start(lines: Sequence[str], line: int) -> int:
    """The index of the line at the left margin that begins the statement which `line` (an index) belongs to."""
    return next((at for at in range(min(line, len(lines) - 1), 0, -1) if lines[at][:1].strip()), 0)


def _line_of(error: str, lines: int) -> int:
    found = re.search(r"\(line (\d+)\)$", error)
    return int(found[1]) - 1 if found else lines - 1


def parse(code: str) -> ast.Module:
    """`ast.parse`, its warnings unsaid. Raises what it raises: SyntaxError, ValueError, MemoryError, RecursionError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the author of the program is no reader of ours
        return ast.parse(code)


def _plain_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")

r"""What public code reads in a completion, and what it pays: each rule as published, with its quirks, in our own words.

One small pure function per rule; `text` is the completion as it stands, end-of-text markers and all. For comparison only:
`rewards/compat.py` makes rewards of the training rules, `rewards/grading/parsers.py` graders of all. Linear in the length of the text,
where some of the originals are quadratic; none raises, except where it says so.

d1 is dllm-reasoning/d1 @ 837888f (`diffu-grpo/reward_func.py`, `eval/parse_and_get_acc.py`), SPG facebookresearch/SPG
@ a1c7120, ESPO ML-GSAI/ESPO @ b5f2dac (`espo/rewards.py`), DiffuCoder apple/ml-diffucoder @ f735e01. d1 has since let its two
layout patterns match across lines (4bab4b9); what its paper trained on is the version here.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from rewards.extract import END_MARKERS
from rewards.published.arithmetic import hits_target, uses_numbers
from rewards.published.math import UnreadableError, last_box

_OPEN, _CLOSE = "<answer>", "</answer>"
_SIMPLE_BOX = re.compile(r"\\boxed\{([^{}]*+)\}")


# ----------------------------------------------------------------------------------------------------------- answer tags


def without_special_tokens(text: str) -> str:
    """The text as a training script decodes it (`skip_special_tokens`), where an evaluation script keeps them."""
    for marker in END_MARKERS:
        text = text.replace(marker, "")
    return text


def unboxed(text: str) -> str:
    r"""The text with `72` in place of each `\boxed{72}`; boxes with braces in them stay."""
    return _SIMPLE_BOX.sub(r"\1", text)


def _closed_tags(text: str) -> Iterator[str]:
    """The insides of `<answer>...</answer>`, from the left, none inside another."""
    at = 0
    while (start := text.find(_OPEN, at)) >= 0 and (end := text.find(_CLOSE, start)) >= 0:
        yield text[start + len(_OPEN) : end].strip()
        at = end + len(_CLOSE)


def first_tag(text: str) -> str | None:
    """What d1's evaluation takes from answer tags: the first that is closed, or None."""
    return next(_closed_tags(text), None)


def last_tag(text: str) -> str | None:
    """What d1's countdown and sudoku rewards take: the last that is closed, or None."""
    last = deque(_closed_tags(text), maxlen=1)
    return last[0] if last else None


def after_last_tag(text: str) -> str:
    """What d1's GSM8K reward takes: from the last opening tag to the next closing one; all of it where there are no tags."""
    return text.rpartition(_OPEN)[2].partition(_CLOSE)[0].strip()


# ----------------------------------------------------------------------------------------------------------------- GSM8K

_BOX_END = re.compile(r"[}\n]")
_DECIMALS = re.compile(r"-?\d+\.?\d*")
_D1_GOLD = re.compile(r"####\s*\$?([\d,]+(?:\.\d+)?)")
_COT = re.compile(r"The answer is (-?[0-9.,]+).")
_HASH = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def gold_text(gold: Any) -> str | None:
    """The gold answer as the training scripts hold it: the text after the first `####`, stripped, commas kept.

    A cell without that mark is taken whole; a whole number is written without a decimal point.
    """
    if gold is None:
        return None
    if isinstance(gold, float) and gold.is_integer():
        gold = int(gold)
    text = str(gold)
    return text.split("####")[1].strip() if "####" in text else text.strip()


def d1_gold_number(gold: Any) -> float | None:
    """The gold answer as d1's evaluation holds it: a number after `####`, without a minus sign in its pattern, so that a
    negative one is None; commas taken out. A number stays what it is."""
    if gold is None or isinstance(gold, (int, float)):
        return gold
    text = str(gold)
    found = _D1_GOLD.search(text)
    if found or "####" in text:
        return _float(found[1].replace(",", "")) if found else None
    return _float(text.strip().replace(",", ""))


def d1_number(text: str) -> float | None:
    r"""The number that d1's evaluation script reads in a GSM8K completion, or None.

    The first `\boxed{}` that gives a number: the box ends at its first `}`, must not cross a line, and is a Python float
    or else its first number, so `\boxed{1,450}` is 1 and `\boxed{\frac{1}{2}}` is 1. Boxes of nothing but dots are passed
    over. Without such a box, the first closed answer tag: a float, or else its last number.
    """
    for box in map(str.strip, _flat_boxes(text)):
        if box.strip("."):
            number = _float_or_found(box, 0)
            if number is not None:
                return number
    tagged = first_tag(text)
    return _float_or_found(tagged, -1) if tagged else None


def _flat_boxes(text: str) -> Iterator[str]:
    r"""What stands between each `\boxed{` and the next `}`, if that is on the same line."""
    at = 0
    while (start := text.find("\\boxed{", at)) >= 0 and (end := _BOX_END.search(text, start)):
        if end[0] == "}":
            yield text[start + len("\\boxed{") : end.start()]
        at = end.end()


def spg_number(text: str) -> float | None:
    """SPG's evaluation script: d1's, and then also the last tag when it is not closed, and text without any tag."""
    number = d1_number(text)
    return number if number is not None else _float_or_found(after_last_tag(text), -1)


def espo_answer(text: str) -> str:
    r"""The answer that ESPO's GSM8K reward reads: "The answer is X", else "#### X", else the last whole number.

    The first of the first two counts; X keeps commas and a full stop, and "The answer is 42" at the end of the text is 4
    (one more character has to follow). The last resort knows no decimals, commas or brackets: `\boxed{72.5}` is 5,
    `\boxed{1,450}` is 450 and `10-12` is -12.
    """
    stated = _COT.search(text) or _HASH.search(text)
    if stated:
        return stated[1]
    numbers = re.findall(r"-?[0-9]+", text)
    return numbers[-1] if numbers else ""


def flexible_answer(text: str, digits: bool = False) -> str | None:
    r"""The last number of the text as lm-eval's filter `flexible-extract` cuts it (gsm8k.yaml, version 3.0), or None.

    For its pattern the dots of `\boxed{...}` are one, too. digits: not for us; the last that holds a digit.
    """
    numbers = _FLEXIBLE.findall(text)
    return next((one for one in reversed(numbers) if not digits or any(map(str.isdecimal, one))), None)


def lm_eval_text(answer: str) -> str:
    """An answer as lm-eval's exact_match of the task gsm8k compares it: no comma, no `$`, nothing up to `#### `, no last dot."""
    return answer.replace(",", "").replace("$", "").rpartition("#### ")[2].removesuffix(".").lower()


def last_box_number(text: str) -> float | None:
    r"""The last number of the last `\boxed{}`, commas taken out, or None: what many scripts call the answer."""
    if "\\boxed" not in text:
        return None
    try:
        numbers = _DECIMALS.findall(last_box(text).replace(",", ""))
    except UnreadableError:
        return None
    return float(numbers[-1]) if numbers else None


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _float_or_found(text: str, which: int) -> float | None:
    number = _float(text)
    if number is None:
        numbers = _DECIMALS.findall(text)
        return float(numbers[which]) if numbers else None
    return number


# ---------------------------------------------------------------------------------------------------------------- layout

_STRICT = re.compile(r"<reasoning>\n[^\n]*\n</reasoning>\n<answer>\n[^\n]*\n</answer>\n\n?")
_REASONED = re.compile(r"</reasoning>\s*<answer>")


def strict_layout(text: str) -> float:
    """d1's strict_format: 0.5 for four tags on lines of their own, one line in each, and a line break at the end."""
    return 0.5 * bool(_STRICT.fullmatch(text))


def soft_layout(text: str) -> float:
    """d1's soft_format: 0.5 for text that begins with reasoning, then an answer, each within a single line."""
    if not text.startswith("<reasoning>"):
        return 0.0
    start, line = len("<reasoning>"), _end_of_line(text, 0)
    link = _REASONED.search(text, start, line)
    if link is None or text.rfind(_CLOSE, link.end(), line) < 0:
        # Or the reasoning is the end of its line, and the answer stands on a later one.
        last = text.rfind("</reasoning>", start, line)
        link = _REASONED.match(text, last) if last >= 0 else None
    return 0.5 * (link is not None and text.find(_CLOSE, link.end(), _end_of_line(text, link.end())) >= 0)


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def integer_layout(text: str) -> float:
    """d1's int reward: 0.5 where the answer is digits, of any kind: `²` is, `-5` and `1,450` are not."""
    return 0.5 * after_last_tag(text).isdigit()


def tag_count(text: str, spg: bool = False) -> float:
    r"""d1's xmlcount: 0.125 for each tag that stands once with its line breaks, less 0.001 for every character behind.

    "Behind" is counted twice, without a floor, from the last `\n</answer>\n` and from the last `\n</answer>`; where the
    text has no line break after its last tag, the first of these is the whole text. SPG counts from `\n<answer>\n` instead,
    so that it is the answer that costs.
    """
    count = 0.0
    if text.count("<reasoning>\n") == 1:
        count += 0.125
    if text.count("\n</reasoning>\n") == 1:
        count += 0.125
    if text.count("\n<answer>\n") == 1:
        count += 0.125
        count -= len(text.rpartition("\n<answer>\n" if spg else "\n</answer>\n")[2]) * 0.001
    if text.count("\n</answer>") == 1:
        count += 0.125
        count -= (len(text.rpartition("\n</answer>")[2]) - 1) * 0.001
    return count


def boxed_in_tags(text: str) -> float:
    r"""d1's MATH layout reward: 0.75 with an opening answer tag, 0.25 without.

    It also means to pay for a box, but looks for a backspace and `oxed`, from a Python string that should have been raw.
    """
    opened = _OPEN in text
    looked_at = text.split(_OPEN)[1].partition(_CLOSE)[0] if opened else text
    return 0.5 * (opened + (1.0 if "\boxed" in looked_at else 0.5))


def code_layout(text: str, last_break: bool = True) -> float:
    """DiffuCoder's code_format: prose, one fenced python block, exactly one line break: 1.0 if it parses, 0.5 if not, else 0.

    last_break: DiffuCoder demands the line break after the last fence (without it the code is never run); ESPO does not.
    Raises ValueError, MemoryError or RecursionError where `ast.parse` does; DiffuCoder catches syntax errors only.
    """
    parts = text.split("```")
    if len(parts) != 3 or not parts[1].startswith("python\n") or parts[2] not in ("\n",) + ("",) * (not last_break):
        return 0.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(parts[1].removeprefix("python\n").strip())
    except SyntaxError:
        return 0.5
    return 1.0


# ------------------------------------------------------------------------------------------------------------- countdown

_LATEX_OPERATORS = (("\\div", "/"), ("\\times", "*"), ("\\cdot", "*"))
# The look-behind makes a match begin where a run of such characters begins, as the leftmost match does anyway.
_LEFT_SIDE = re.compile(r"(?<![0-9+\-*/() ])([0-9+\-*/() ]++)=[0-9. ]")


def countdown_score(text: str, numbers: Sequence[int], target: float) -> float:
    """d1's countdown reward: 0 without a closed answer tag, 1.0 for a right expression in the last, 0.1 for anything else.

    No `=`, no LaTeX, no box: those earn 0.1. `**` and `//` are allowed, within 1e-5 of the target is right, and the numbers
    are compared as a list of digit runs. Raises NeverEndsError where `eval` never ends.
    """
    equation = last_tag(text)
    if equation is None:
        return 0.0
    return 1.0 if uses_numbers(equation, numbers) and hits_target(equation, target) else 0.1


def countdown_right(text: str, numbers: Sequence[int], target: float | None) -> bool:
    r"""d1's countdown evaluation: the last box, else the whole text; the answer tag only for a box that is never closed.

    LaTeX's `\div`, `\times` and `\cdot` are operators, and of the first `... = number` the left side counts, whatever number
    is stated. Then as in training. Raises NeverEndsError.
    """
    try:
        equation = last_box(text)
    except UnreadableError:
        tagged = first_tag(text)
        equation = text if tagged is None else tagged
    for latex, sign in _LATEX_OPERATORS:
        equation = equation.replace(latex, sign)
    stated = _LEFT_SIDE.search(equation)
    if stated:
        equation = stated[1].strip()
    return target is not None and uses_numbers(equation, numbers) and hits_target(equation.strip(), target)


# ---------------------------------------------------------------------------------------------------------------- sudoku

_FENCED = re.compile(r"```([\d\s]++)```")
_END = re.compile(r"<\|eot_id\|>|<\|endoftext\|>")
_BEFORE_CLOSE = re.compile(r"(\d{16})\s*</answer>")
_ALONE = re.compile(r"\b(\d{16})\b")
CELLS = 16


def sudoku_digits(text: str) -> str:
    """The 16 characters that d1's sudoku reward takes: the digits of the last closed answer tag, cut or filled up with 0."""
    return _sixteen(tag_digits(text))


def tag_digits(text: str) -> str:
    """All digits of the last closed answer tag, `²` among them."""
    return "".join(filter(str.isdigit, last_tag(text) or ""))


def sudoku_text(text: str) -> str:
    """The 16 characters that d1's sudoku evaluation takes, spaces left out: they need not be digits. "" when there are none.

    The first of these that holds anything: a fence of digits after the first `<answer>`; what follows that tag up to the
    next `</answer>`, `<|eot_id|>` or `<|endoftext|>`; what follows the first `</answer>`; 16 digits before a `</answer>`; 16
    digits alone. Cut to 16, or filled up with 0.
    """
    for found in _sudoku_places(text):
        if found and found.strip():
            return _sixteen(re.sub(r"\s", "", found))
    return ""


def _sudoku_places(text: str) -> Iterator[str | None]:
    opened, closed = text.find(_OPEN), text.find(_CLOSE)
    if opened >= 0:
        inside = text[opened + len(_OPEN) :]
        yield _group(_FENCED.search(inside))
        ends = [end for end in (_end_marker(inside), inside.find(_CLOSE)) if end >= 0]
        yield inside[: min(ends)] if ends else None
    if closed >= 0:
        behind = text[closed + len(_CLOSE) :].lstrip()
        end = _end_marker(behind)
        yield behind if end < 0 else behind[:end]
    yield _group(_BEFORE_CLOSE.search(text))
    yield _group(_ALONE.search(text))


def _end_marker(text: str) -> int:
    found = _END.search(text)
    return found.start() if found else -1


def _group(match: re.Match[str] | None) -> str | None:
    return match[1] if match else None


def _sixteen(text: str) -> str:
    return text[:CELLS].ljust(CELLS, "0") if text else ""


def blanks_right(found: str, puzzle: str, solution: str) -> tuple[int, int]:
    """(blank cells among the first 16 that `found` has as the solution has them, blank cells). Givens are never looked at."""
    blanks = [cell for cell, given in enumerate(puzzle[:CELLS]) if given == "0"]
    return sum(found[cell : cell + 1] == solution[cell : cell + 1] for cell in blanks) if found else 0, len(blanks)

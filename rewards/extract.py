"""Finding the answer in a completion: tags, boxes, numbers. Shared by rewards and evaluation.

Every function is linear in the length of the text (sampled text can be long and pathological) and none of them raises
on any input string. Numbers are exact: `fractions.Fraction`, never floats.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import deque
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

# Written out by models that decode their special tokens into text (LLaDA and Llama-style, Qwen-style, T5-style).
END_MARKERS = ("<|eot_id|>", "<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<eos>", "<eot>", "<pad>", "</s>")
_LONGEST_END_MARKER = max(map(len, END_MARKERS))

# A longer run of digits is noise, and turning it into an integer costs quadratic time.
MAX_NUMBER_CHARS = 80

_OPEN_TAG, _CLOSE_TAG = "<answer>", "</answer>"
# ASCII capitals only: str.lower may change the length of other text, and with it every position.
_SMALL = {ord(capital): capital.lower() for capital in string.ascii_uppercase}
_DASHES = str.maketrans({"\u2212": "-", "\uff0d": "-", "\ufe63": "-", "\u2010": "-", "\u2011": "-"})

_NUMBER = re.compile(
    r"""
    (?P<sign>(?<![\w)\]}])[-+])?               # after a digit, letter or closing bracket, "-" subtracts or hyphenates
    (?:\\?[$€£][ ]?(?P<inner_sign>-)?)?        # $, \$, €, £; the sign may follow it: $-5
    (?<!\^)(?<!\^\{)                           # the 2 of m^2 belongs to the unit
    (?P<body>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![.0-9])\.[0-9]+)
    (?P<exponent>[eE][-+]?[0-9]{1,2}(?![0-9]))?
    (?:/(?P<denominator>[0-9]+)(?![0-9.]) | [ ](?P<part>[0-9]{1,4})/(?P<parts>[0-9]{1,4})(?![0-9.]))?
    """,
    re.VERBOSE,
)
# What follows a number when it was only the first term of a calculation, a range or a time of day.
_OPERATOR = re.compile(r"[ ]{0,3}(?:[-+*/^:×÷·]|\\times|\\cdot|\\div|x\b)[ ]{0,3}[({]?\\?[$€£]?-?[0-9.]")
_THOUSANDS_SPACE = re.compile(r"(?<=[0-9])(?:\\,|[\u2009\u202f])(?=[0-9]{3}(?![0-9]))")
# A Markdown heading also starts with '####': only a number with at most a short unit after it is an answer line.
_UNIT = re.compile(r"[.%]?|(?:[ ]?[A-Za-z%$]+\.?){1,2}")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac(?:\{([0-9]{1,40})\}\{([0-9]{1,40})\}|([0-9])([0-9]))")


def text_of(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of one completion, without trailing end-of-text markers.

    `completion` is a string or a list of chat messages, as TRL passes them. Of a list, the assistant's messages count
    (all messages when none has that role), joined by newlines; content given as parts contributes its text parts.
    """
    if isinstance(completion, str):
        return strip_end_markers(completion)
    spoken = [message for message in completion if message.get("role", "assistant") == "assistant"]
    return strip_end_markers("\n".join(_content(message) for message in spoken or completion))


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if part.get("type", "text") == "text")


def strip_end_markers(text: str) -> str:
    """`text` without the run of end-of-text markers and whitespace at its end; untouched when it has no such marker."""
    end, cut = len(text), len(text)
    while end:
        while end and text[end - 1].isspace():
            end -= 1
        tail = text[max(0, end - _LONGEST_END_MARKER) : end]
        marker = next((m for m in END_MARKERS if tail.endswith(m)), None)
        if marker is None:
            break
        end -= len(marker)
        cut = end
    return text[:cut]


def ascii_digits(text: str) -> str:
    """`text` with the decimal digits of every script as 0-9 and Unicode minus signs as '-'. Superscripts stay."""
    if text.isascii():
        return text
    return "".join(
        str(unicodedata.decimal(c)) if not c.isascii() and c.isdecimal() else c for c in text.translate(_DASHES)
    )


def tagged_answer(text: str) -> str | None:
    """What stands in the last <answer> tag that holds anything, or None. Tags may be written in capitals.

    An opening tag that is never closed (a completion cut short) reaches to the end of the text. A closing tag alone is
    no answer tag.
    """
    end, tags = len(text), text.lower() if text.isascii() else text.translate(_SMALL)
    while (start := tags.rfind(_OPEN_TAG, 0, end)) >= 0:
        close = tags.find(_CLOSE_TAG, start, end)
        content = text[start + len(_OPEN_TAG) : close if close >= 0 else end].strip()
        if content:
            return content
        end = start
    return None


def boxed_answer(text: str) -> str | None:
    r"""What stands in the last \boxed{...} that holds anything, braces matched, or None.

    A box that is never closed reaches to the end of its line.
    """
    end = len(text)
    while (start := text.rfind("\\boxed", 0, end)) >= 0:
        opening = start + len("\\boxed")
        if text.startswith("{", opening):
            content = _braced(text, opening, end).strip()
            if content:
                return content
        end = start
    return None


def _braced(text: str, opening: int, end: int) -> str:
    depth = 0
    for i in range(opening, end):
        if text[i] == "{" and text[i - 1] != "\\":
            depth += 1
        elif text[i] == "}" and text[i - 1] != "\\":
            depth -= 1
            if depth == 0:
                return text[opening + 1 : i]
    return text[opening + 1 : end].split("\n", 1)[0]


def hash_answer(text: str) -> str | None:
    """The line after the last '####' (GSM8K's own mark) when it is a number, with or without a unit, or None."""
    start = text.rfind("####")
    if start < 0:
        return None
    rest = text[start + 4 :].lstrip().split("\n", 1)[0].strip()[: 2 * MAX_NUMBER_CHARS]
    plain = _plain(rest)
    number = _NUMBER.match(plain)
    return rest if number and _UNIT.fullmatch(plain, number.end()) else None


def last_number(text: str) -> Fraction | None:
    """The last number of free text, or None. `10-12` ends in 12, `COVID-19` in 19; exponents of units do not count."""
    last = deque(_NUMBER.finditer(_plain(text)), maxlen=1)
    return _value(last[0]) if last else None


def stated_number(text: str) -> Fraction | None:
    r"""The number that a short answer states (the inside of a tag or box), or None when it states none.

    Read from the last line that has a digit, there from what follows the last '=', there the first number: so `18
    dollars in 2 days` is 18 and `48+24 = 72 clips` is 72. An unfinished calculation (`48+24`), a range (`10-12`) or a
    time (`5:30`) is no number.
    """
    lines = [line for line in _plain(text).splitlines() if _has_digit(line)]
    if not lines:
        return None
    segment = next(part for part in reversed(lines[-1].split("=")) if _has_digit(part))
    match = _NUMBER.search(segment)
    if match is None or _OPERATOR.match(segment, match.end()):
        return None
    return _value(match)


def final_number(text: str) -> Fraction | None:
    r"""The number a completion gives as its answer, or None.

    Places are tried in this order, and the first that holds a digit decides, even when no number can be read there:
    1. the last `<answer>` tag (inside it a `\boxed{}`, then a `####` line, then its text); 2. the last `\boxed{}`;
    3. the line after the last `####`; 4. the last number anywhere.
    """
    tagged = tagged_answer(text)
    if tagged and _has_digit(tagged):
        for inner in (boxed_answer(tagged), hash_answer(tagged)):
            if inner and _has_digit(inner):
                return stated_number(inner)
        return stated_number(tagged)
    for stated in (boxed_answer(text), hash_answer(text)):
        if stated and _has_digit(stated):
            return stated_number(stated)
    return last_number(text)


def _has_digit(text: str) -> bool:
    return any(map(str.isdecimal, text))


def _plain(text: str) -> str:
    r"""ASCII digits and signs; LaTeX's thousands separators and simple fractions in plain characters."""
    text = ascii_digits(text)
    if "\\" in text or "{" in text:
        text = text.replace("{,}", ",").replace("\\!", "").replace("\\%", "%")
        text = _LATEX_FRACTION.sub(_plain_fraction, text)
    return _THOUSANDS_SPACE.sub("", text).replace("\\,", " ")


def _plain_fraction(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1 : match.start()]
    return f"{' ' if before.isdigit() else ''}{match[1] or match[3]}/{match[2] or match[4]}"


def _value(match: re.Match[str]) -> Fraction | None:
    body = match["body"].replace(",", "")
    denominator = match["denominator"] or "1"
    if len(body) > MAX_NUMBER_CHARS or len(denominator) > MAX_NUMBER_CHARS:
        return None
    below = Fraction(denominator)
    parts = Fraction(match["parts"] or 1)
    if below == 0 or parts == 0:
        return None
    value = Fraction(body + (match["exponent"] or "")) / below + Fraction(match["part"] or 0) / parts
    negative = match["sign"] == "-" or match["inner_sign"] == "-"
    return -value if negative else value

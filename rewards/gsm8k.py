"""GSM8K and other word problems whose answer is one number; and the format rewards of the published d1 recipe.

Rows need the column `answer`: GSM8K's own text ("... #### 72"), or the bare number as text or number.

d1's reward is the sum `gsm8k.correct` x 2.0 + `gsm8k.format_tags` x 0.5 + `gsm8k.format_soft` x 0.5 +
`gsm8k.format_strict` x 0.5 + `gsm8k.format_integer` x 0.5 (maximum 4.0). Here each function lies in [0, 1] and the
published size is the weight in the recipe. Where a published function could not do what it was meant to, ours departs,
and its docstring says how. The format functions judge the text the model continued as well. In a run the completion
begins with the recipe's prefill already; the kwarg `prefill` is for texts from elsewhere that lack it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rewards.extract import ascii_digits, final_number, last_number, stated_number, tagged_answer, text_of

_TAG_LINES = ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>")
_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
_STRICT = re.compile(r"<reasoning>\n.*\n</reasoning>\n<answer>\n.*\n</answer>", re.DOTALL)
_REASONED = re.compile(r"</reasoning>\s*<answer>")
_INTEGER = re.compile(r"[-+]?\\?\$?-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)\.?")


def correct(completions: Sequence[Any], answer: Sequence[Any], **_: Any) -> list[float | None]:
    r"""1.0 where the completion's final number equals the gold answer, else 0.0; None where the row has no gold number.

    Numbers are compared exactly as values: `$1,450.00` = `1450`. Where the final number is read, in this order: the
    last `<answer>` tag, the last `\boxed{}`, the line after `####`, the last number of the text
    (`rewards.extract.final_number`).

    d1's training reward compares strings inside the tag, so `$72`, `72.0`, `72 clips` and `\boxed{72}` fail and a gold
    of `1,450` must be printed with its comma; its evaluation reads boxes and tags. Training and evaluation agree here.
    """
    return [
        None if (gold := gold_number(row)) is None else float(final_number(text_of(completion)) == gold)
        for completion, row in zip(completions, answer, strict=True)
    ]


def gold_number(answer: Any) -> Fraction | None:
    """The number of an `answer` cell, or None when there is none: what follows the last '####', else the whole cell."""
    if answer is None:
        return None
    stated = str(answer).rpartition("####")[2].strip()
    number = stated_number(stated)
    return number if number is not None else last_number(stated)


def format_tags(completions: Sequence[Any], prefill: str = "", **_: Any) -> list[float]:
    r"""A quarter for each of the four tags that stands exactly once with its line breaks, less for text after the end.

    The tags are `<reasoning>\n`, `\n</reasoning>\n`, `\n<answer>\n` and `\n</answer>`. Every character after the last
    `</answer>`, surrounding whitespace and end-of-text markers apart, costs 0.002 (0.001 at the recipe's weight 0.5).
    Never below 0.

    The published xmlcount has no floor and counts the tail twice (2,000 characters after the answer give -3.5, more
    than all other rewards together), and an ideal answer without a last newline pays for its whole length.
    """
    scores = []
    for text in _full_texts(completions, prefill):
        present = sum(text.count(tag) == 1 for tag in _TAG_LINES)
        tail = text.rpartition("</answer>")[2].strip() if "</answer>" in text else ""
        scores.append(max(0.0, 0.25 * present - 0.002 * len(tail)))
    return scores


def format_soft(completions: Sequence[Any], prefill: str = "", **_: Any) -> list[float]:
    """1.0 for text that opens with `<reasoning>...</reasoning>` followed by `<answer>...</answer>`, line breaks or not.

    The published pattern cannot match a line break, so it never fires on reasoning of more than one line. Whitespace
    before the first tag is allowed here.
    """
    return [float(_is_soft(text)) for text in _full_texts(completions, prefill)]


def _is_soft(text: str) -> bool:
    text = text.lstrip()
    if not text.startswith("<reasoning>"):
        return False
    answer = _REASONED.search(text, len("<reasoning>"))
    return answer is not None and text.find("</answer>", answer.end()) >= 0


def format_strict(completions: Sequence[Any], prefill: str = "", **_: Any) -> list[float]:
    """1.0 for exactly the four tags, each once and on its own line, with text between them and nothing around them.

    Published: the same layout, but the pattern cannot match reasoning of more than one line and demands a newline after
    `</answer>`. Here reasoning and answer may have any number of lines, and surrounding whitespace does not count.
    """
    return [
        float(all(text.count(tag) == 1 for tag in _TAGS) and _STRICT.fullmatch(text.strip()) is not None)
        for text in _full_texts(completions, prefill)
    ]


def format_integer(completions: Sequence[Any], **_: Any) -> list[float]:
    """1.0 where the `<answer>` tag holds one integer and nothing else; a sign, thousands commas and `$` are allowed.

    The published int reward asks `str.isdigit`, which refuses `-5` and `1,450` (82 of GSM8K's 7,473 training answers
    could not earn it), and accepts a bare number without any tag. Here the tag is required.
    """
    scores = []
    for completion in completions:
        tagged = tagged_answer(text_of(completion))
        scores.append(float(tagged is not None and _INTEGER.fullmatch(ascii_digits(tagged)) is not None))
    return scores


REWARDS = (correct, format_tags, format_soft, format_strict, format_integer)


def _full_texts(completions: Sequence[Any], prefill: str) -> list[str]:
    return [prefill + text_of(completion) for completion in completions]

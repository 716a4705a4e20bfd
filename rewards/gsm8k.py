"""GSM8K and other word problems whose answer is one number; and the format rewards of the published d1 recipe.

Rows need the column `answer`: GSM8K's own text ("... #### 72"), or the bare number as text or number.

d1's reward is the sum `gsm8k.correct` x 2.0 + `gsm8k.format_tags` x 0.5 + `gsm8k.format_soft` x 0.5 +
`gsm8k.format_strict` x 0.5 + `gsm8k.format_integer` x 0.5 (maximum 4.0). Here each function lies in [0, 1] and the
published size is the weight in the recipe. Where a published function could not do what it was meant to, ours departs,
and its docstring says how. `format_tags`, `format_soft` and `format_strict` are those of `rewards/format.py`, under the
names of that recipe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from rewards import format as layout
from rewards.compat import Scores, has_originals, published
from rewards.extract import ascii_digits, final_number, last_number, stated_number, tagged_answer, text_of

_INTEGER = re.compile(r"[-+]?\\?\$?-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)\.?")


@has_originals
def correct(
    completions: Sequence[Any],
    answer: Sequence[Any],
    compat: str | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> Scores:
    r"""1.0 where the completion's final number equals the gold answer, else 0.0; None where the row has no gold number.

    Numbers are compared exactly as values: `$1,450.00` = `1450`. Where the final number is read, in this order: the
    last `<answer>` tag, the last `\boxed{}`, the line after `####`, the last number of the text
    (`rewards.extract.final_number`).

    d1's training reward compares strings inside the tag, so `$72`, `72.0`, `72 clips` and `\boxed{72}` fail and a gold
    of `1,450` must be printed with its comma; its evaluation reads boxes and tags. Training and evaluation agree here.

    compat  `d1`, `spg` or `espo`: the original's score instead, up to 2.0, 2.0 and 1.0 (rewards/compat.py)
    """
    if compat is not None:
        return published("gsm8k.correct", compat, completions, answer, log_metric=log_metric)
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


def states_number(answer: Any) -> bool:
    """Whether an `answer` cell is a number, and not a formula or a text in which one stands."""
    stated = str(answer).rpartition("####")[2].strip()
    return "\\" not in stated and stated_number(stated) is not None


@has_originals
def format_tags(completions: Sequence[Any], prefill: str = "", compat: str | None = None, **others: Any) -> Scores:
    """`format.tags`: a quarter for each tag that stands once on its own line, less for text after the end."""
    return layout.tags(completions, prefill, compat, **others)


@has_originals
def format_soft(completions: Sequence[Any], prefill: str = "", compat: str | None = None, **others: Any) -> Scores:
    """`format.soft`: 1.0 for reasoning, then answer, in their tags."""
    return layout.soft(completions, prefill, compat, **others)


@has_originals
def format_strict(completions: Sequence[Any], prefill: str = "", compat: str | None = None, **others: Any) -> Scores:
    """`format.strict`: 1.0 for exactly the four tags, each on its own line, and nothing around them."""
    return layout.strict(completions, prefill, compat, **others)


@has_originals
def format_integer(
    completions: Sequence[Any],
    compat: str | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> Scores:
    """1.0 where the `<answer>` tag holds one integer and nothing else; a sign, thousands commas and `$` are allowed.

    The published int reward asks `str.isdigit`, which refuses `-5` and `1,450` (82 of GSM8K's 7,473 training answers
    could not earn it), and accepts a bare number without any tag. Here the tag is required. `compat`: `d1` or `spg`, 0.5.
    """
    if compat is not None:
        return published("gsm8k.format_integer", compat, completions, log_metric=log_metric)
    scores: Scores = []
    for completion in completions:
        tagged = tagged_answer(text_of(completion))
        scores.append(float(tagged is not None and _INTEGER.fullmatch(ascii_digits(tagged)) is not None))
    return scores


REWARDS = (correct, format_tags, format_soft, format_strict, format_integer)

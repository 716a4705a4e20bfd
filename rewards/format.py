r"""The layout of a completion: tags and boxes that a prompt asks for. Pure shaping: nothing here looks at what is answered.

The layout is that of the published d1 recipes: `<reasoning>`, then `<answer>`, each tag on its own line. Every function
gives a score in [0, 1] per completion and needs no column. Reasoning and answers may have any number of lines: public
versions of `soft` and `strict` match with a `.` that stops at a line break, so they never fire on real outputs.

In a run the completion begins with the recipe's prefill already; the kwarg `prefill` is for texts from elsewhere that
lack it. Keep these out of `outcome`: a policy can earn all of them without solving anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from rewards.compat import Scores, has_originals, published, raw_text
from rewards.extract import boxed_answer, tagged_answer, text_of

_TAG_LINES = ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>")
_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
_STRICT = re.compile(r"<reasoning>\n.*\n</reasoning>\n<answer>\n.*\n</answer>", re.DOTALL)
_FENCE = re.compile(r"```(?:python|py|python3)[ \t]*\n", re.IGNORECASE)
_REASONED = re.compile(r"</reasoning>\s*<answer>")


@has_originals
def tags(
    completions: Sequence[Any],
    prefill: str = "",
    compat: str | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> Scores:
    r"""A quarter for each of the four tags that stands exactly once with its line breaks, less for text after the end.

    The tags are `<reasoning>\n`, `\n</reasoning>\n`, `\n<answer>\n` and `\n</answer>`. Every character after the last
    `</answer>`, surrounding whitespace and end-of-text markers apart, costs 0.002 (0.001 at the recipe's weight 0.5).
    Never below 0.

    The published xmlcount has no floor and counts the tail twice (2,000 characters after the answer give -3.5, more
    than all other rewards together), and an ideal answer without a last newline pays for its whole length. That is
    `compat: d1` (`spg`: the answer itself pays), in its own size: up to 0.5.
    """
    if compat is not None:
        return _original("format.tags", compat, completions, prefill, log_metric)
    scores: Scores = []
    for text in _full_texts(completions, prefill):
        present = sum(text.count(tag) == 1 for tag in _TAG_LINES)
        tail = text.rpartition("</answer>")[2].strip() if "</answer>" in text else ""
        scores.append(max(0.0, 0.25 * present - 0.002 * len(tail)))
    return scores


@has_originals
def soft(
    completions: Sequence[Any],
    prefill: str = "",
    compat: str | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> Scores:
    """1.0 for text that opens with `<reasoning>...</reasoning>` followed by `<answer>...</answer>`, line breaks or not.

    The published pattern cannot match a line break, so it never fires on reasoning of more than one line: `compat: d1` or
    `spg`, 0.5. Whitespace before the first tag is allowed here.
    """
    if compat is not None:
        return _original("format.soft", compat, completions, prefill, log_metric)
    return [float(_is_soft(text)) for text in _full_texts(completions, prefill)]


def _is_soft(text: str) -> bool:
    text = text.lstrip()
    if not text.startswith("<reasoning>"):
        return False
    answer = _REASONED.search(text, len("<reasoning>"))
    return answer is not None and text.find("</answer>", answer.end()) >= 0


@has_originals
def strict(
    completions: Sequence[Any],
    prefill: str = "",
    compat: str | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> Scores:
    """1.0 for exactly the four tags, each once and on its own line, with text between them and nothing around them.

    Published: the same layout, but the pattern cannot match reasoning of more than one line and demands a newline after
    `</answer>`: `compat: d1` or `spg`, 0.5. Here reasoning and answer may have any number of lines, and surrounding
    whitespace does not count.
    """
    if compat is not None:
        return _original("format.strict", compat, completions, prefill, log_metric)
    return [
        float(all(text.count(tag) == 1 for tag in _TAGS) and _STRICT.fullmatch(text.strip()) is not None)
        for text in _full_texts(completions, prefill)
    ]


def answered(completions: Sequence[Any], **_: Any) -> list[float]:
    """1.0 where the last `</answer>` closes an `<answer>` tag that holds a letter or a digit.

    The published MATH reward is content with an opening tag; a completion that was cut short has that, too. The `...`
    of a prompt that shows the layout is no answer.
    """
    return [float(_is_answered(text_of(completion))) for completion in completions]


def _is_answered(text: str) -> bool:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return start >= 0 and _says_something(text[start + len("<answer>") : end])


@has_originals
def boxed(
    completions: Sequence[Any],
    compat: str | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> Scores:
    r"""1.0 where the last `<answer>` tag holds a `\boxed{}` with a letter or a digit in it; without a tag, the whole text.

    The published check looks for a backspace followed by `oxed` (a Python string that should have been raw), so it
    never fires. `compat: d1` or `spg` gives the whole of that reward: 0.75 with an opening `<answer>`, 0.25 without.
    """
    if compat is not None:
        return published("format.boxed", compat, completions, log_metric=log_metric)
    return [float(_is_boxed(text_of(completion))) for completion in completions]


def _is_boxed(text: str) -> bool:
    return _says_something(boxed_answer(tagged_answer(text) or text) or "")


def _says_something(text: str) -> bool:
    return any(map(str.isalnum, text))


REWARDS = (tags, soft, strict, answered, boxed)


def _original(
    name: str,
    compat: str,
    completions: Sequence[Any],
    prefill: str,
    log_metric: Callable[[str, float], None] | None,
) -> Scores:
    full = [prefill + raw_text(completion) for completion in completions]
    return published(name, compat, full, log_metric=log_metric)


def _full_texts(completions: Sequence[Any], prefill: str) -> list[str]:
    return [prefill + text_of(completion) for completion in completions]

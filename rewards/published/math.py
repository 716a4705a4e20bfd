r"""Formulas as d1 compares them, in training and in evaluation (dllm-reasoning/d1 @ 837888f; SPG and wd1 carry the same file).

Two answers are equal when their texts are, after a fixed series of replacements: the normaliser of Hendrycks et al. (MATH,
arXiv 2103.03874). So `10,000` is not `10000`, `\frac{2}{4}` not `\frac12`, `2\sqrt3` not `\sqrt{12}`, `\text{(A)}` not
`(A)`, and a missing answer equals a missing one.

Whatever a step of the normaliser cannot digest (`\text{ ` twice, a bare `\frac` or `\sqrt` at the end, `x/2`: its parts are no
integers) stops the whole of it, and then the raw texts are compared: `x/2` equals `x/2` and not `x / 2`.

`espo_scores` is ESPO's rule, which leaves the comparing to math-verify.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewards.contract.answers import InfrastructureError
from rewards.math_pool import BAD_GOLD, replies, verdict

_SPACED, _BRACED = "\\boxed ", "\\boxed{"


class UnreadableError(Exception):
    """The original raises here: a box that is never closed."""


def last_box(text: str) -> str:
    r"""What stands in the last box, as d1 finds it. Raises UnreadableError for a box whose braces do not match.

    `\boxed ` with a space anywhere wins over every braced box, and reaches to the next `$`. Without a box, the last
    `\fbox`, with its command; without either, the whole text.
    """
    if _SPACED in text:
        return text.rpartition(_SPACED)[2].partition("$")[0]
    start = text.rfind("\\boxed")
    if start < 0:
        start = text.rfind("\\fbox")
    if start < 0:
        return text
    depth = 0
    for at in range(start, len(text)):
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                found = text[start : at + 1]
                return found[len(_BRACED) : -1] if found.startswith(_BRACED) else found
    raise UnreadableError


def same(answer: Any, gold: Any) -> bool:
    """Whether d1 takes two answers for equal. None equals None. A float on either side: both as numbers, to 1e-6."""
    if isinstance(answer, float) or isinstance(gold, float):
        try:
            return abs(float(answer) - float(gold)) < 1e-6
        except (TypeError, ValueError, OverflowError):
            return False
    if answer is None or gold is None:
        return answer is gold
    try:
        return normal(answer) == normal(gold)
    except (AttributeError, ValueError):  # no text; or a step that cannot be done
        return bool(answer == gold)


# In this order: each step sees what the one before left.
_FIRST = (
    ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""),
    ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""),
)  # fmt: skip
_THEN = (("\\%", ""), (" .", " 0."), ("{.", "{0."))


def normal(text: str) -> str:
    """A formula after the normaliser. Raises ValueError where the original raises anything."""
    text = _without_unit(_replaced(text, _FIRST))
    text = _replaced(text, _THEN)
    if not text:
        return text
    if text[0] == ".":
        text = f"0{text}"
    name, equals, value = text.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        text = value
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    return _slash_as_fraction("\\frac{1}{2}" if text == "0.5" else text)


def _replaced(text: str, steps: tuple[tuple[str, str], ...]) -> str:
    for old, new in steps:
        text = text.replace(old, new)
    return text


def _without_unit(text: str) -> str:
    r"""What stands before `\text{ `, the mark of a unit. Two of them are too many."""
    before, *after = text.split("\\text{ ")
    if len(after) > 1:
        raise ValueError("two units")
    return before


def _braced_roots(text: str) -> str:
    r"""`\sqrt3` as `\sqrt{3}`: one character, whatever it is."""
    before, *roots = text.split("\\sqrt")
    if "" in roots:
        raise ValueError("a root of nothing")
    return before + "".join("\\sqrt" + (root if root[0] == "{" else f"{{{root[0]}}}{root[1:]}") for root in roots)


def _braced_fractions(text: str) -> str:
    r"""`\frac12` as `\frac{1}{2}`, `\frac1{72}` as `\frac{1}{72}`. One with a single character leaves the text as it is."""
    before, *fractions = text.split("\\frac")
    done = [before]
    for fraction in fractions:
        if not fraction:
            raise ValueError("a fraction of nothing")
        if fraction[0] == "{":
            done.append(f"\\frac{fraction}")
            continue
        if len(fraction) < 2:
            return text
        above, below = fraction[0], fraction[1]
        done.append(f"\\frac{{{above}}}{below if below == '{' else f'{{{below}}}'}{fraction[2:]}")
    return "".join(done)


def _slash_as_fraction(text: str) -> str:
    r"""`3/4` as `\frac{3}{4}`, for two integers as Python writes them. ValueError where a side is no integer at all."""
    above, *rest = text.split("/")
    if len(rest) != 1:
        return text
    whole = int(above), int(rest[0])
    return f"\\frac{{{whole[0]}}}{{{whole[1]}}}" if text == f"{whole[0]}/{whole[1]}" else text


def espo_scores(
    texts: Sequence[str], golds: Sequence[Any], seconds: float = 5.0
) -> list[float | InfrastructureError | None]:
    r"""ESPO's math reward (ML-GSAI/ESPO @ b5f2dac): math-verify's own search in both texts, and the answer as the reference.

    Whatever takes more than `seconds`, or breaks math-verify, is wrong, as in the original. ESPO's golds are worked
    solutions; one without a box is put in a box, or it would not be found. None where the row has no gold.
    """
    requests = {
        row: {
            "rule": "espo",
            "gold": gold if "\\boxed" in gold else rf"\boxed{{{gold}}}",
            "answer": text,
            "seconds": seconds,
        }
        for row, (text, gold) in enumerate(zip(texts, (None if g is None else str(g) for g in golds), strict=True))
        if gold is not None
    }
    scores: list[float | InfrastructureError | None] = [None] * len(texts)
    for row, reply in zip(requests, replies(list(requests.values())), strict=True):
        found = verdict(reply)
        broken = found is None or (isinstance(found, InfrastructureError) and str(found) == BAD_GOLD)
        scores[row] = 0.0 if broken else found
    return scores

"""`compat=`: the training rewards of published code in place of ours, quirks included, for comparison only.

    rewards:
      - {fn: gsm8k.correct, kwargs: {compat: d1}}                 # what d1 trains on, here named gsm8k.correct_d1
      - {fn: gsm8k.correct, weight: 0}                            # ours, beside it
    outcome: gsm8k.correct

A reward that has an original takes the keyword and then returns the original's own numbers (2.0, 0.5, -3.5), not shares of
1: leave its weight at 1. The whole text of the completion is read, end-of-text markers included, as the originals do; nothing
is printed, and no random stream is touched. The rules themselves are in `rewards/published/rules.py`.

Where an original has no answer at all, the row is dropped and counted: text on which it never ends, crashes, or holds no
gold answer. Whoever asks for `compat` is told so when a run starts (`notes`), and each call logs `compat_<name>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rewards.contract.answers import InfrastructureError
from rewards.contract.reward import Reward, RewardError
from rewards.published import math as originals_math
from rewards.published import rules as originals
from rewards.published.arithmetic import NeverEndsError

SOURCES = {
    "d1": "dllm-reasoning/d1 @ 837888f",
    "spg": "facebookresearch/SPG @ a1c7120",
    "espo": "ML-GSAI/ESPO @ b5f2dac",
    "diffucoder": "apple/ml-diffucoder @ f735e01",
}

Scores = list[float | InfrastructureError | None]
_Fn = TypeVar("_Fn", bound=Callable[..., Any])
_Rule = Callable[..., Scores]  # (texts, a list of cells for each column) -> one score per text


def published(
    name: str,
    compat: str,
    completions: Sequence[Any],
    *columns: Any,
    log_metric: Callable[[str, float], None] | None = None,
) -> Scores:
    """The scores of the reward `name` by the original `compat`. columns: what its rule needs: cells of columns, one per completion.

    Raises RewardError where there is no such original.
    """
    rules = _RULES[name]
    if compat not in tuple(rules):  # a tuple: what was asked for may not be hashable
        raise RewardError(f"reward {name}: {_unknown(compat, rules)}")
    if log_metric is not None:
        log_metric(f"compat_{compat}", 1.0)
    return rules[compat](list(map(raw_text, completions)), *columns)


def raw_text(completion: Any) -> str:
    """The text that the originals look at: the string, or the content of the first message."""
    return completion if isinstance(completion, str) else str(completion[0].get("content") or "")


def has_originals(fn: _Fn) -> _Fn:
    """Marks a reward of this package that takes `compat`: what it may be, and that a recipe's value is looked at before a run."""
    rules = _RULES[f"{fn.__module__.removeprefix('rewards.')}.{fn.__name__}"]

    def problems(kwargs: Mapping[str, Any]) -> list[tuple[str, str]]:
        compat = kwargs.get("compat")
        return [] if compat in (None, *rules) else [("compat", _unknown(compat, rules))]

    fn.originals = tuple(rules)  # type: ignore[attr-defined]
    fn.kwargs_problems = problems  # type: ignore[attr-defined]
    return fn


def originals_of(fn: Callable[..., Any]) -> tuple[str, ...]:
    """The valid values of `compat` for a function of this package; none for all others."""
    return getattr(fn, "originals", ())


def notes(rewards: Sequence[Reward], outcome: str | None = None) -> Iterator[str]:
    """What a run that uses originals has to be told: one line for each."""
    for reward in rewards:
        compat = reward.kwargs.get("compat")
        if compat in originals_of(reward.fn):
            measured = ", and the accuracy of this run is measured by it" if reward.name == outcome else ""
            yield (
                f"reward {reward.name} is compat: {compat}, the training reward of {SOURCES[compat]} with its flaws and in "
                f"its own size{measured}; for comparison only (docs/grading.md)"
            )


def _unknown(compat: Any, rules: Sequence[str] | dict[str, _Rule]) -> str:
    return f"compat is one of {', '.join(rules)}, or null for ours; got {compat!r}"


def _each(rule: Callable[..., float | None]) -> _Rule:
    """The rule for a list of texts, from the one for a single text."""

    def scores(texts: Sequence[str], *columns: Sequence[Any]) -> Scores:
        return [_score(rule, text, cells) for text, *cells in zip(texts, *columns, strict=True)]

    return scores


def _score(rule: Callable[..., float | None], text: str, cells: Sequence[Any]) -> float | InfrastructureError | None:
    try:
        return rule(text, *cells)
    except NeverEndsError as error:
        return InfrastructureError(str(error))
    except originals_math.UnreadableError:
        return InfrastructureError("the original crashes on this gold answer")
    except (ValueError, MemoryError, RecursionError):  # of ast.parse
        return InfrastructureError("the original crashes on this answer")


# ----------------------------------------------------------------------------------------------------------------- rules


def _d1_gsm8k(text: str, gold: Any) -> float | None:
    """d1, SPG: 2.0 where the answer is the gold answer character by character, commas included."""
    expected = originals.gold_text(gold)
    return None if expected is None else 2.0 * (originals.after_last_tag(text) == expected)


def _espo_gsm8k(text: str, gold: Any) -> float | None:
    expected = originals.gold_text(gold)
    return None if expected is None else float(originals.espo_answer(text) == expected)


def _d1_math(text: str, gold: Any) -> float | None:
    """d1, SPG: 2.0 where the last boxes are equal after the normaliser; an unclosed box leaves the whole text."""
    if gold is None:
        return None
    expected = originals_math.last_box(str(gold))
    try:
        found = originals_math.last_box(text)
    except originals_math.UnreadableError:
        found = text
    return 2.0 * originals_math.same(found, expected)


def _d1_countdown(text: str, numbers: Any, target: Any) -> float | None:
    return None if numbers is None or target is None else originals.countdown_score(text, numbers, target)


def _d1_sudoku(text: str, puzzle: Any, solution: Any) -> float | None:
    """d1, SPG, ESPO: the share of blank cells, 0 without any. Neither the givens nor the rules are looked at."""
    if puzzle is None or solution is None:
        return None
    right, blanks = originals.blanks_right(originals.sudoku_digits(text), puzzle, solution)
    return right / blanks if blanks else 0.0


def _espo_code(text: str) -> float:
    """ESPO: no line break needed at the end, and whatever `ast.parse` raises is worth 0.5."""
    try:
        return originals.code_layout(text, last_break=False)
    except (ValueError, MemoryError, RecursionError):
        return 0.5


def _pass_rates(layout: Callable[[str], float]) -> _Rule:
    """DiffuCoder, ESPO: the share of processes that end with status 0, for programs in a perfect layout; see there."""

    def scores(texts: Sequence[str], *asked: Any) -> Scores:
        from rewards.published.code import pass_rates

        return pass_rates(_each(layout)(texts), texts, *asked)

    return scores


def _espo_math(texts: Sequence[str], golds: Sequence[Any]) -> Scores:
    """1.0 where math-verify takes what it finds anywhere in the text for equal to what it finds in the gold solution."""
    return originals_math.espo_scores(texts, golds)


def _for(names: str, rule: Callable[..., float | None]) -> dict[str, _Rule]:
    return dict.fromkeys(names.split(), _each(rule))


_TAGS = _for("d1", originals.tag_count) | _for("spg", lambda text: originals.tag_count(text, spg=True))
_SOFT, _STRICT = _for("d1 spg", originals.soft_layout), _for("d1 spg", originals.strict_layout)
_RULES: dict[str, dict[str, _Rule]] = {
    "gsm8k.correct": _for("d1 spg", _d1_gsm8k) | _for("espo", _espo_gsm8k),
    "gsm8k.format_tags": _TAGS,
    "gsm8k.format_soft": _SOFT,
    "gsm8k.format_strict": _STRICT,
    "gsm8k.format_integer": _for("d1 spg", originals.integer_layout),
    "format.tags": _TAGS,
    "format.soft": _SOFT,
    "format.strict": _STRICT,
    "format.boxed": _for("d1 spg", originals.boxed_in_tags),
    "code.format": _for("diffucoder", originals.code_layout) | _for("espo", _espo_code),
    "code.pass_rate": {"diffucoder": _pass_rates(originals.code_layout), "espo": _pass_rates(_espo_code)},
    "math.correct": _for("d1 spg", _d1_math) | {"espo": _espo_math},
    "countdown.correct": _for("d1 spg espo", _d1_countdown),
    "sudoku.cells": _for("d1 spg espo", _d1_sudoku),
}

"""A judge's reply as a value: a score, a preference, an expected digit. What cannot be read is an error, never a 0."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_REPLY_CHARS = 50_000
MAX_REASON_CHARS = 2000
LEAST_MASS = 0.5  # of the probability that a judge must put on digits
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>|\A(?:(?!<think>).)*?</think>", re.DOTALL)
_WINNERS = {"a": 1.0, "b": 0.0, "tie": 0.5}

# One token of a reply: its text, and (text, log-probability) of what could have stood there.
Token = tuple[str, Sequence[tuple[str, float]]]


class UnreadableError(Exception):
    """A reply that holds no verdict. The message is short, and says what is wrong with it."""


@dataclass(frozen=True)
class Verdict:
    value: float
    reason: str


def read_score(text: str, low: float, high: float) -> Verdict:
    """The one `{"score": number, "reason": text}` of a reply, its score in [low, high].

    Around it there may be thoughts, fences and other text. A score written as text ("4") is read; true, null, lists and
    numbers outside the scale are not. Two verdicts with different scores are none: one may be quoted from the answer.
    Raises UnreadableError.
    """
    found = _objects_with("score", text)
    scores = {_number(one["score"]) for one in found}
    if len(scores) > 1:
        raise UnreadableError("several verdicts that differ")
    score = scores.pop()
    if not low <= score <= high:
        raise UnreadableError("score outside the scale")
    return Verdict(score, _reason(found[-1]))


def read_winner(text: str) -> Verdict:
    """The one `{"winner": "A" | "B" | "tie", "reason": text}` of a reply: 1 for A, 0 for B, 0.5 for a tie.

    Raises UnreadableError.
    """
    found = _objects_with("winner", text)
    named = {str(one["winner"]).strip().casefold() for one in found if isinstance(one["winner"], str)}
    if len(named) > 1:
        raise UnreadableError("several verdicts that differ")
    winner = named.pop() if named else ""
    if winner not in _WINNERS:
        raise UnreadableError("winner is none of A, B, tie")
    return Verdict(_WINNERS[winner], _reason(found[-1]))


def read_digit(text: str, low: int, high: int) -> Verdict:
    """The digit that a reply consists of. Raises UnreadableError."""
    match = re.fullmatch(r"\s*([0-9])[\s.]*", _spoken(text))
    if match is None:
        raise UnreadableError("no single digit")
    if not low <= int(match[1]) <= high:
        raise UnreadableError("score outside the scale")
    return Verdict(float(match[1]), "")


def expected_score(tokens: Sequence[Token], low: int, high: int) -> tuple[float, float]:
    """(mean, mass) of the digits low..high under the distribution of the reply's first token that is not blank.

    mean = sum_d p(d) d / sum_d p(d), as G-Eval weights its scores (Liu et al. 2023, arXiv 2303.16634, equation 1, which
    estimates p by sampling); mass is the denominator, over the alternatives that the server lists. Raises
    UnreadableError where the mass is below `LEAST_MASS`: the judge was about to say something else.
    """
    first = next((alternatives for text, alternatives in tokens if text.strip()), ())
    weights = dict.fromkeys(range(low, high + 1), 0.0)
    for text, logprob in first:
        digit = text.strip()
        if len(digit) == 1 and digit in "0123456789" and int(digit) in weights and not math.isnan(logprob):
            weights[int(digit)] += math.exp(min(0.0, logprob))
    mass = math.fsum(weights.values())
    if mass < LEAST_MASS:
        raise UnreadableError("no digit of the scale among the likely first tokens")
    return math.fsum(digit * weight for digit, weight in weights.items()) / mass, mass


def _objects_with(name: str, text: str) -> list[dict[str, Any]]:
    """The JSON objects of a reply that have `name`, outermost ones only."""
    spoken, found, at = _spoken(text), [], 0
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    while (at := spoken.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(spoken, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        if name in value:
            found.append(value)
    if not found:
        raise UnreadableError(f"no JSON object with {name!r}")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise UnreadableError("a verdict that names a field twice")
    return dict(pairs)


def _spoken(text: str) -> str:
    """A reply without the thoughts that reasoning models put first."""
    if len(text) > MAX_REPLY_CHARS:
        raise UnreadableError("reply too long")
    return _THOUGHT.sub("", text, count=1)


def _number(value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,9}(?:\.[0-9]{1,9})?\s*", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e9 or math.isnan(value):
        raise UnreadableError("score is no number")
    return float(value)


def _reason(verdict: dict[str, Any]) -> str:
    reason = verdict.get("reason", "")
    return (reason if isinstance(reason, str) else json.dumps(reason))[:MAX_REASON_CHARS]

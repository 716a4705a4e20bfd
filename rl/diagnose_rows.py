"""The result of `unmask diagnose`: a row per estimator, ordered by what its gradient is worth at the budget."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rl.config import Recipe
from rl.diagnose_candidates import OWN
from rl.diagnose_measure import Measured, Target
from rl.diagnose_stats import FEW, StepSummary, ValueSummary, interval, resampled, summarise_values, worth_of

Interval = dict[str, float]
EXACT = 1e-6  # of a cosine


@dataclass(frozen=True)
class Row:
    """One estimator. averaged: plans that the budget pays for; affordable: one plan costs no more than the budget; curve: (views, worth)
    as plans are averaged; rival: share of resamples in which it is worth at least as much as the best
    that is not the target itself."""

    name: str
    used_by: tuple[str, ...]
    views: float
    plans: int
    random: bool
    linear: bool
    averaged: int
    affordable: bool
    snr: float
    cosine: Interval
    cosine_tokens: float
    worth: Interval
    curve: tuple[tuple[float, float], ...]
    rival: float
    value: ValueSummary
    value_tokens: ValueSummary
    value_random_order: ValueSummary | None
    step: StepSummary
    seconds: float
    peak_bytes: int

    @property
    def own(self) -> bool:
        return OWN in self.used_by

    @property
    def exact(self) -> bool:
        """It is the target's gradient itself: no noise, and the same direction."""
        return not self.random and abs(self.cosine["value"] - 1.0) <= EXACT


@dataclass(frozen=True)
class Diagnosis:
    """Everything measured. rows: best first, those beyond the budget last; refused: estimator -> why it has no meaning here."""

    recipe: Recipe
    model: str
    selection: str
    joint: bool  # gradients are held against the joint law of tokens and order
    prompts: int
    groups: int
    rollouts: int
    outcome: float
    reward_name: str
    budget: int
    parameters: int
    sketch: int | None  # numbers kept of a gradient; None: all
    chance: float
    record_gap: float
    step: StepSummary  # of the exact law itself
    step_tokens: StepSummary  # of the exact law of the tokens given their order
    step_size: float
    random_order: dict[str, float] | None
    rows: tuple[Row, ...]
    refused: dict[str, str]
    notes: tuple[str, ...]
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def leader(self) -> Row | None:
        """The estimator worth most at the budget; None where nothing can be said."""
        ranked = [row for row in self.rows if row.affordable]
        return ranked[0] if self.groups >= FEW and ranked and ranked[0].worth["value"] > 0 else None


def ranked_rows(
    measured: Sequence[Measured],
    exact: Target,
    steps: Sequence[StepSummary],
    gram: np.ndarray,
    orders: np.ndarray | None,
    budget: int,
    seed: int,
) -> tuple[Row, ...]:
    """Statistics of all, ordered by what they are worth at the budget; those that cost more come last."""
    once, many = np.ones(len(gram)), resampled(len(gram), seed)
    token_gram = gram_of(exact.tokens)
    averaged = [max(1, int(budget / one.views + 1e-9)) for one in measured]
    points = [worth_of(one.products, gram, k, once) for one, k in zip(measured, averaged, strict=True)]
    spreads = [worth_of(one.products, gram, k, many) for one, k in zip(measured, averaged, strict=True)]
    affordable = [one.views <= budget + 1e-9 for one in measured]
    order = sorted(range(len(measured)), key=lambda i: (not affordable[i], -float(points[i].worth), measured[i].views))
    # What others are compared with: the best that is not the target itself, which nothing beats.
    best = next((i for i in order if measured[i].random or abs(points[i].cosine - 1.0) > EXACT), order[0])
    rows = []
    for i in order:
        one, point, spread = measured[i], points[i], spreads[i]
        tokens = worth_of(one.token_products, token_gram, averaged[i], once)
        rows.append(
            Row(
                name=one.candidate.name,
                used_by=tuple(one.candidate.used_by),
                views=one.views,
                plans=one.plans,
                random=one.random,
                linear=one.candidate.estimator.linear,
                averaged=averaged[i],
                affordable=affordable[i],
                snr=float(point.snr),
                cosine=_with_interval(point.cosine, spread.cosine),
                cosine_tokens=float(tokens.cosine),
                worth=_with_interval(point.worth, spread.worth),
                curve=_curve(one, gram, budget, once),
                rival=float((np.minimum(spread.worth, 1) >= np.minimum(spreads[best].worth, 1) - 1e-9).mean()),
                value=summarise_values(one.values, exact.values),
                value_tokens=summarise_values(one.values, exact.token_values),
                value_random_order=None if orders is None else summarise_values(one.values, orders[:, 0]),
                step=steps[i],
                seconds=one.seconds,
                peak_bytes=one.peak,
            )
        )
    return tuple(rows)


def _curve(one: Measured, gram: np.ndarray, budget: int, once: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Worth as 1, 2, 4, .. plans are averaged, up to four times the budget; a fixed plan has one point."""
    counts = [1]
    while one.random and 2 * counts[-1] * one.views <= 4 * budget:
        counts.append(2 * counts[-1])
    return tuple((k * one.views, float(np.clip(worth_of(one.products, gram, k, once).worth, -1, 1))) for k in counts)


def gram_of(gradients: np.ndarray) -> np.ndarray:
    wide = gradients.astype(np.float64)
    return wide @ wide.T


def _with_interval(value: np.ndarray, spread: np.ndarray) -> Interval:
    """Of a cosine or a worth. Neither can leave [-1, 1]; estimates without bias can, where prompts are few."""
    low, high = interval(np.clip(spread, -1.0, 1.0))
    return {"value": float(np.clip(value, -1.0, 1.0)), "low": low, "high": high}

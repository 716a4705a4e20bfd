"""Blocked denoising by exhaustive enumeration: every draw a sampler can make, with its probability.

Plain Python on float64 numbers. Besides the probability of each outcome it writes down the uniforms that lead there, so
that a test can drive the real sampler into every corner.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from rollouts.spec import SamplerSpec
from tests.oracles.tabular import TabularPolicy, row_logits

Script = tuple[np.ndarray, ...]


def softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(z - top) for z in logits]
    total = sum(weights)
    return [w / total for w in weights]


def sampling_law(logits: Sequence[float], temperature: float, top_p: float, forbidden: Sequence[int]) -> list[float]:
    """What a token is drawn from: forbidden ids out, temperature, smallest nucleus with mass >= top_p, renormalised."""
    allowed = [v for v in range(len(logits)) if v not in forbidden]
    if temperature == 0:
        best = max(allowed, key=lambda v: (logits[v], -v))
        return [1.0 if v == best else 0.0 for v in range(len(logits))]
    heated = softmax([logits[v] / temperature for v in allowed])
    law = dict(zip(allowed, heated, strict=True))
    kept, mass = [], 0.0
    for v in sorted(allowed, key=lambda v: (-law[v], v)):
        if mass >= top_p:
            break
        kept.append(v)
        mass += law[v]
    return [law[v] / mass if v in kept else 0.0 for v in range(len(logits))]


def quotas(masked: int, steps: int) -> list[int]:
    """Deal the masked positions out one at a time, first steps first."""
    share = [0] * steps
    for card in range(masked):
        share[card % steps] += 1
    return share


def rule_score(rule: str, law: Sequence[float]) -> float:
    """Score of a position under the position-first rules; higher goes first."""
    ranked = sorted(law, reverse=True)
    if rule == "max_prob":
        return ranked[0]
    if rule == "margin":
        return ranked[0] - ranked[1]
    if rule == "entropy":
        return sum(p * math.log(p) for p in law if p > 0)
    raise ValueError(rule)


@dataclass
class Outcome:
    """One (tokens, reveal steps) of the canvas: its probability, and uniforms that lead there."""

    probability: float = 0.0
    scripts: list[Script] = field(default_factory=list)  # the first and the last way found


Key = tuple[tuple[int, ...], tuple[int, ...]]


def enumerate_law(
    policy: TabularPolicy, prompt: Sequence[int], spec: SamplerSpec, hints: dict[int, int] | None = None
) -> dict[Key, Outcome]:
    """The joint law of (canvas tokens, reveal steps); hints have step -1, unrevealed positions MASK and step T."""
    hints = hints or {}
    tokens = tuple(hints.get(i, policy.mask_id) for i in range(spec.canvas))
    reveal = tuple(-1 if i in hints else spec.steps for i in range(spec.canvas))
    alive: dict[Key, Outcome] = {(tokens, reveal): Outcome(1.0, [()])}
    finished: dict[Key, Outcome] = {}
    logits_of: dict[tuple[int, ...], list[list[float]]] = {}
    per_block = spec.steps // (spec.canvas // spec.block)
    for block in range(spec.canvas // spec.block):
        places = range(block * spec.block, (block + 1) * spec.block)
        share = quotas(sum(i not in hints for i in places), per_block)
        for offset, quota in enumerate(share):
            after: dict[Key, Outcome] = {}
            for (tokens, reveal), outcome in alive.items():
                if tokens not in logits_of:
                    logits_of[tokens] = row_logits(policy, (*prompt, *tokens))[len(prompt) :]
                masked = [i for i in places if reveal[i] == spec.steps]
                for chance, kept, uniforms in _step(policy, logits_of[tokens], masked, quota, spec, places):
                    now_tokens, now_reveal = list(tokens), list(reveal)
                    for i, v in kept.items():
                        now_tokens[i], now_reveal[i] = v, block * per_block + offset
                    target = after.setdefault((tuple(now_tokens), tuple(now_reveal)), Outcome())
                    target.probability += outcome.probability * chance
                    for script in outcome.scripts:
                        target.scripts = [*target.scripts[:1], (*script, uniforms)]
            alive = after
        if spec.early_stop:
            ended = [key for key in alive if any(key[0][i] in policy.eos_ids for i in places)]
            finished |= {key: alive.pop(key) for key in ended}
    return finished | alive


def _step(policy, logits, masked, quota, spec, places) -> Iterator[tuple[float, dict[int, int], np.ndarray]]:
    """Every draw of one step: (probability, {kept position: token}, uniforms ``[kinds, block]``)."""
    kinds = 2 if spec.selection == "random" else 1
    forbidden = {*policy.forbidden_ids, *spec.forbid}
    p = {i: softmax(logits[i]) for i in masked}
    q = {i: sampling_law(logits[i], spec.temperature, spec.top_p, sorted(forbidden)) for i in masked}
    if quota == 0:
        yield 1.0, {}, np.full((kinds, len(places)), 0.5)
        return
    support = [[v for v in range(len(q[i])) if q[i][v] > 0] for i in masked]
    for drawn in itertools.product(*support):
        token = dict(zip(masked, drawn, strict=True))
        chance = math.prod(q[i][v] for i, v in token.items())
        uniforms = np.full((kinds, len(places)), 0.5)
        for i, v in token.items():
            uniforms[0, i - places[0]] = sum(q[i][:v]) + q[i][v] / 2
        if spec.selection == "random":
            subsets = list(itertools.combinations(masked, quota))
            for subset in subsets:
                order = np.full(len(places), 0.75)
                order[[i - places[0] for i in subset]] = 0.25
                yield chance / len(subsets), {i: token[i] for i in subset}, np.stack([uniforms[0], order])
            continue
        if spec.selection == "confidence":
            score = {i: p[i][token[i]] for i in masked}
        else:
            score = {i: rule_score(spec.selection, p[i]) for i in masked}
        sure = 0 if spec.threshold is None else sum(max(p[i]) >= spec.threshold for i in masked)
        kept = sorted(masked, key=lambda i: (-score[i], i))[: max(quota, sure)]
        yield chance, {i: token[i] for i in kept}, uniforms


def published_llada(policy: TabularPolicy, prompt: Sequence[int], length: int, block: int, steps: int) -> list[int]:
    """LLaDA's published low-confidence decoding at temperature 0, for one prompt. Returns the canvas.

    Blocks from left to right, fixed quota with remainders first, argmax everywhere, confidence = softmax at temperature
    1; nothing outside the block or already written may be chosen; the quota's most confident positions are written.
    """
    row = [*prompt, *[policy.mask_id] * length]
    for first in range(len(prompt), len(row), block):
        here = list(range(first, first + block))
        for quota in quotas(sum(row[i] == policy.mask_id for i in here), steps * block // length):
            logits = row_logits(policy, row)
            guess = [max(range(len(z)), key=lambda v, z=z: (z[v], -v)) for z in logits]
            confidence = [-math.inf] * len(row)
            for i in here:
                if row[i] == policy.mask_id:
                    confidence[i] = softmax(logits[i])[guess[i]]
            for i in sorted(range(len(row)), key=lambda i: (-confidence[i], i))[:quota]:
                row[i] = guess[i]
    return row[len(prompt) :]

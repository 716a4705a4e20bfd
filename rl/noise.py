"""How the masks of an ELBO are drawn: which of a row's tokens are hidden in each view, and what a hidden token weighs.

The estimand is the order-agnostic evidence lower bound of a row's L tokens given its prompt (LLaDA, arXiv 2502.09992),

    B = E_sigma sum_i log p(x_sigma(i) | x_sigma(<i)) = sum_{l=1..L} a_l,    a_l = mean of log p(x_i | M hidden) over |M| = l and i in M.

Each law is a weighted sum over views, sum_views weight * sum_{i in M} log p(x_i | M hidden), whose expectation is B unless said
otherwise. Weights carry every share (1 / draws, 1 / masks, 1 / 2 for a pair).

Conventions. A fixed count without pairs is l ~ U{1..L} with weight L / l (LLaDA, eq. 14). Complementary pairs of a fixed count are
x ~ U{0..L} with weight (L + 1) / x, where an empty half adds 0 and has no view (ESPO, arXiv 2512.03759): so the fully masked state is
met, with probability 2 / (L + 1). Pairs on {1..L-1} would never meet it and are not offered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

MIN_T = 1e-3  # the floor in LLaDA's code


class Noise(BaseModel):
    """The law of the masks of one rollout.

    ``fixed_count``: l tokens hidden, uniformly. ``iid``: t ~ U(min_t, 1), each token hidden with probability t, weight 1/t; with min_t: 0
    unbiased but of infinite variance, otherwise what lies below min_t is left out. ``quadrature``: t at the nodes of the Gauss-Legendre
    rule, masks as in iid, weight w/t (GDPO, arXiv 2510.08554); n nodes are unbiased for L <= 2n tokens, and have an error beyond.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    draws: int = Field(default=2, ge=1, description="noise levels per rollout (quadrature: nodes)")
    masks_per_level: int = Field(default=1, ge=1, description="masks drawn at each level (VRPO's n_y)")
    noise: Literal["fixed_count", "iid", "quadrature"] = Field(
        default="fixed_count", description="how many tokens a view hides: a count, a coin per token, nodes in t"
    )
    levels: Literal["independent", "stratified", "systematic"] = Field(
        default="independent",
        description="levels of a rollout's draws: independent; one in each of n equal strata; n evenly spaced, one offset",
    )
    pair: Literal["none", "complement", "mirror"] = Field(
        default="none",
        description="a second view of each mask: complement hides the other tokens, mirror the same number from the other end",
    )
    min_t: float = Field(
        default=MIN_T, ge=0.0, lt=0.5, description="iid: lowest t; 0 is unbiased, of infinite variance"
    )

    @model_validator(mode="after")
    def _has_meaning(self) -> "Noise":
        if self.noise == "quadrature" and self.levels != "independent":
            raise ValueError(f"quadrature has fixed nodes and no levels to draw; leave out levels: {self.levels}")
        if self.noise != "iid" and self.min_t != MIN_T:
            raise ValueError(f"only noise: iid draws t above min_t, not {self.noise}; leave min_t out")
        return self

    @property
    def views(self) -> int:
        """Views per rollout, at most."""
        return self.draws * self.masks_per_level * (1 if self.pair == "none" else 2)


@dataclass(frozen=True, eq=False)
class Subset:
    """One view: its number within the rollout, the tokens it hides and scores (bool ``[L]``, never empty), their weight."""

    draw: int
    hidden: np.ndarray
    weight: float


def subsets(
    noise: Noise, generators: Sequence[np.random.Generator], length: int, points: Sequence[float] | None = None
) -> list[Subset]:
    """The views of a rollout of ``length`` tokens; one generator per draw. Views that would hide nothing are left out.

    points: the levels as numbers in [0, 1), one per draw, where they are drawn elsewhere (stratified over a batch).
    """
    halves = _by_count if noise.noise == "fixed_count" else _by_coins
    found = []
    for number, (generator, (level, share)) in enumerate(
        zip(generators, _levels(noise, generators, length, points), strict=True)
    ):
        for repeat in range(noise.masks_per_level):
            views = halves(generator, length, level, noise.pair)
            first = (number * noise.masks_per_level + repeat) * len(views)
            found += [
                Subset(first + half, hidden, scale * share / noise.masks_per_level / len(views))
                for half, (hidden, scale) in enumerate(views)
                if hidden.any()
            ]
    return found


def _levels(
    noise: Noise, generators: Sequence[np.random.Generator], length: int, points: Sequence[float] | None
) -> list[tuple[float, float]]:
    """(level, share) of each draw: a count of tokens or a probability t; the shares sum to 1."""
    if noise.noise == "quadrature":
        nodes, weights = np.polynomial.legendre.leggauss(noise.draws)
        return [(float(node + 1) / 2, float(weight) / 2) for node, weight in zip(nodes, weights, strict=True)]
    size = noise.draws
    least = 0 if noise.pair == "complement" else 1  # of a count
    if points is None and noise.noise == "fixed_count" and noise.levels == "independent":
        return [(int(generator.integers(least, length + 1)), 1 / size) for generator in generators]
    if points is not None:
        pass
    elif noise.levels == "independent":
        points = [float(generator.random()) for generator in generators]
    elif noise.levels == "stratified":
        points = [(index + float(generator.random())) / size for index, generator in enumerate(generators)]
    else:
        offset = float(generators[0].random())
        points = [(index + offset) / size for index in range(size)]
    if noise.noise == "fixed_count":
        return [(min(least + int((length + 1 - least) * point), length), 1 / size) for point in points]
    high = 1.0 - noise.min_t if noise.pair == "complement" else 1.0
    return [(noise.min_t + (high - noise.min_t) * point, 1 / size) for point in points]


def _by_count(generator: np.random.Generator, length: int, level: float, pair: str) -> list[tuple[np.ndarray, float]]:
    """A mask of ``level`` tokens drawn without replacement, and its partner; (hidden, weight) each."""
    count = int(level)
    rank = np.empty(length, dtype=np.int64)
    rank[generator.permutation(length)] = np.arange(length)
    hidden = rank < count
    if pair == "complement":
        return [(hidden, (length + 1) / max(count, 1)), (~hidden, (length + 1) / max(length - count, 1))]
    scale = length / count
    return [(hidden, scale)] if pair == "none" else [(hidden, scale), (rank >= length - count, scale)]


def _by_coins(generator: np.random.Generator, length: int, level: float, pair: str) -> list[tuple[np.ndarray, float]]:
    """A mask of one coin per token, and its partner. mirror: U < t and U > 1 - t share the uniforms (MIRROR, ICLR 2026)."""
    uniform = generator.random(length)
    hidden = np.asarray(uniform < level)
    scale = 1.0 / level if hidden.any() else 0.0
    if pair == "complement":
        return [(hidden, scale), (~hidden, 0.0 if hidden.all() else 1.0 / (1.0 - level))]
    if pair == "mirror":
        partner = np.asarray(uniform > 1.0 - level)
        return [(hidden, scale), (partner, 1.0 / level if partner.any() else 0.0)]
    return [(hidden, scale)]

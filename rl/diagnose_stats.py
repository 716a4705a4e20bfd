"""What a gradient estimator is worth, from inner products alone. Pure functions on float64 arrays.

P prompts, n independent mask plans of the same rollouts, D numbers per gradient. g_pm is the advantage-weighted gradient of prompt p's
rollouts under plan m, with mean mu_p and covariance C_p over plans; r_p is the target's: the gradient of the exact trajectory law. A batch
has the gradient g = (1/P) sum_p g_p. Plans are independent between prompts, so an average of k plans has

    signal |mu|^2,   noise(k) = (1/P^2 k) sum_p tr C_p,   cosine mu.r / |mu||r|,
    worth(k) = (mu.r)^2 / (|r|^2 (|mu|^2 + noise(k))) = cosine^2 signal / (signal + noise(k)).

worth is the first-order progress of a step of the best length, as a share of that of a step along r: minimising
E f(x - s g) = f - s mu.r + s^2 c (|mu|^2 + noise) / 2 over s leaves (mu.r)^2 / (2 c (|mu|^2 + noise)). With u = signal along r against
everything else in g (what lies across r, and the noise), worth = u / (1 + u): it orders as that signal-to-noise ratio does. A gradient
without variance that points elsewhere is worth its cosine squared and no more; a gradient of zero is worth nothing.

Squares of means are taken from products of distinct plans, and are free of the bias in E |mean of n|^2 = |mu|^2 + tr C / n.
"""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray as Array

from rollouts.streams import Purpose, stream

RESAMPLES = 2000
BOUNDS = (2.5, 97.5)  # percentiles of an interval
FEW = 4  # prompts with a signal, below which nothing is recommended
UNDECIDED = 0.05  # share of resamples in which another is as good as the leader: then the two are not told apart
MARGIN = 0.02  # of worth: so little is nothing to choose by


@dataclass(frozen=True, eq=False)
class Products:
    """Inner products, float64. own, cross ``[P, P]``: mu_p . mu_q (without bias) and mu_p . r_q;  noise ``[P]``: tr C_p;
    along ``[P]``: variance over plans of g_p . r, r the batch's target;  plans: n."""

    own: Array
    cross: Array
    noise: Array
    along: Array
    plans: int


def reduce_plans(gradients: Array, direction: Array) -> tuple[Array, float, float]:
    """One prompt's gradients ``[n, D]`` -> their mean ``[D]``, tr C and the variance along ``direction`` (n - 1 in both; 0 of one)."""
    mean = gradients.mean(0)
    count = len(gradients)
    if count < 2:
        return mean, 0.0, 0.0
    noise = float(np.square(gradients - mean).sum() / (count - 1))
    return mean, noise, float((gradients @ direction).var(ddof=1))


def products(means: Array, noise: Array, along: Array, plans: int, target: Array) -> Products:
    """From the prompts' mean gradients ``[P, D]`` and the target's ``[P, D]``."""
    own = means @ means.T
    own[np.diag_indices(len(own))] -= noise / plans  # products of a mean with itself hold its noise; others do not
    return Products(own, means @ target.T, noise, along, plans)


def batch_product(gram: Array, weight: Array) -> Array:
    """a . b of two batch gradients, a = (1/P) sum_p a_p, from gram_pq = a_p . b_q ``[P, P]``; weight ``[..., P]`` -> ``[...]``.

    (1/P) mean_p gram_pp + (1 - 1/P) mean_{p != q} gram_pq: at weight 1 exactly the product. A resample draws some prompts twice; pairs of
    a prompt with itself then stay out of the second mean, or every resample would hold more of the first than a batch does.
    """
    count, total = gram.shape[0], weight.sum(-1)
    diagonal = np.diagonal(gram)
    same = weight @ diagonal / total
    if count == 1:
        return same
    pairs = np.square(total) - np.square(weight).sum(-1)
    other = (((weight @ gram) * weight).sum(-1) - np.square(weight) @ diagonal) / np.maximum(pairs, 1e-12)
    return same / count + (1.0 - 1.0 / count) * np.where(pairs > 0, other, same)


@dataclass(frozen=True, eq=False)
class Worth:
    """Of an average of k plans; ``[...]`` as the weights. signal, noise; snr = signal / noise (inf without noise); cosine (NaN where no
    signal stands out of the noise); worth in about [-1, 1], negative where the gradient points away from the target."""

    signal: Array
    noise: Array
    snr: Array
    cosine: Array
    worth: Array


def worth_of(found: Products, target: Array, averaged: float, weight: Array) -> Worth:
    """The equations above. target ``[P, P]``: r_p . r_q; averaged: k; weight ``[..., P]``: of the prompts."""
    count = len(found.noise)
    noise = weight @ found.noise / weight.sum(-1) / count / averaged
    along = weight @ found.along / weight.sum(-1) / count / found.plans
    signal, cross = batch_product(found.own, weight), batch_product(found.cross, weight)
    length = batch_product(target, weight)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.where(noise > 0, np.maximum(signal, 0.0) / noise, np.where(signal > 0, np.inf, np.nan))
        cosine = np.where((signal > 0) & (length > 0), cross / np.sqrt(signal * length), np.nan)
        squared = np.maximum(np.square(cross) - along, 0.0)  # of a mean, without its bias
        whole = np.maximum(signal, 0.0) + noise
        worth = np.where((whole > 0) & (length > 0), np.sign(cross) * squared / (length * whole), 0.0)
    return Worth(signal, noise, snr, cosine, worth)


def chance_share(target: Array) -> float:
    """How much of |r|^2 of this batch is chance of its prompts and rollouts: 1 - |E r|^2 / |r|^2, from products of distinct prompts.

    NaN for fewer than two prompts; above 1 where those products are negative, which is chance, too.
    """
    count = len(target)
    if count < 2:
        return float("nan")
    other = (target.sum() - np.trace(target)) / (count * (count - 1))
    return float(1.0 - other / (target.sum() / count**2))


def resampled(count: int, seed: int) -> Array:
    """Bootstrap weights of prompts, ``[RESAMPLES, P]``: how often each is drawn. A prompt brings its plans, and so their noise, along."""
    picks = stream(seed, Purpose.BOOTSTRAP, count).integers(count, size=(RESAMPLES, count))
    return np.stack([np.bincount(row, minlength=count) for row in picks]).astype(float)


def interval(values: Array) -> tuple[float, float]:
    """95 % percentile interval of resampled values; NaN where most of them are."""
    kept = values[~np.isnan(values)]
    if 2 * len(kept) < len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(kept, BOUNDS)
    return float(low), float(high)


@dataclass(frozen=True)
class ValueSummary:
    """Of row log-likelihoods: deviation of one plan's around its own mean (root of the rows' mean variance), the mean gap of that mean to
    an exact value with its standard error over rows, and the root mean square gap without what noise adds; nats per row."""

    deviation: float
    gap: float
    gap_error: float
    gap_rms: float


def summarise_values(values: Array, exact: Array) -> ValueSummary:
    """values ``[n, B]``: of B rows under n plans; exact ``[B]``."""
    count = len(values)
    variance = values.var(0, ddof=1) if count > 1 else np.zeros(values.shape[1])
    gap = values.mean(0) - exact
    square = max(float((np.square(gap) - variance / count).mean()), 0.0)
    error = float(gap.std(ddof=1) / np.sqrt(len(gap))) if len(gap) > 1 else float("nan")
    return ValueSummary(float(np.sqrt(variance.mean())), float(gap.mean()), error, float(np.sqrt(square)))


@dataclass(frozen=True)
class StepSummary:
    """Of rows' log-ratios after a step: their spread over rows within one plan, the root mean square distance to an exact log-ratio, and
    the effective sample size of the ratios as a share of the rows, (sum r)^2 / (B sum r^2); means over plans."""

    spread: float
    error: float
    ess: float


def summarise_step(log_ratio: Array, exact: Array) -> StepSummary:
    """log_ratio ``[n, B]``; exact ``[B]``."""
    ratio = np.exp(log_ratio - log_ratio.max(1, keepdims=True))
    ess = np.square(ratio.sum(1)) / (ratio.shape[1] * np.square(ratio).sum(1))
    error = float(np.sqrt(np.square(log_ratio - exact).mean()))
    return StepSummary(float(log_ratio.std(1).mean()), error, float(ess.mean()))


def random_order(table: Array) -> tuple[float, float]:
    """(log-likelihood, ELBO) of L tokens revealed one at a time in uniformly random order, from every mask.

        log E_sigma prod_i p(x_sigma(i) | x_sigma(<i))   and   E_sigma sum_i log p(x_sigma(i) | x_sigma(<i))

    table ``[2^L, L]``: log p of token i where the bits of the row's number say which tokens are hidden. By recursion over hidden sets:
    the next token is each hidden one with equal chance.
    """
    size, length = table.shape
    likelihood, bound = np.zeros(size), np.zeros(size)
    for hidden in range(1, size):
        places = [i for i in range(length) if hidden >> i & 1]
        rest = [hidden ^ (1 << i) for i in places]
        steps = table[hidden, places]
        likelihood[hidden] = np.logaddexp.reduce(steps + likelihood[rest]) - np.log(len(places))
        bound[hidden] = float((steps + bound[rest]).mean())
    return float(likelihood[-1]), float(bound[-1])

"""The interval of a share seen in a sample: one formula for `unmask eval`, `unmask grade` and the reports of runs."""

from __future__ import annotations

import math
from statistics import NormalDist

LEVEL = 0.95


def wilson(successes: float, n: float, critical: float | None = None) -> tuple[float, float]:
    """Wilson's score interval (J. Am. Stat. Assoc. 22, 1927) of a proportion; n may be an effective number.

        (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)

    critical: z; default that of 95 %. n = 0 gives (0, 1).
    """
    if n <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2) if critical is None else critical
    p, square = successes / n, z * z
    middle, scale = (p + square / (2 * n)) / (1 + square / n), z / (1 + square / n)
    half = scale * math.sqrt(max(0.0, p * (1 - p) / n + square / (4 * n * n)))
    # At p = 0 and 1 the end is exact; rounding must not move it.
    return (0.0 if p <= 0 else max(0.0, middle - half)), (1.0 if p >= 1 else min(1.0, middle + half))

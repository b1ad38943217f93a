"""How far a figure that was measured on some answers may be from that of all answers that there could be: 95 % confidence intervals.

Shares have Wilson's interval (E. B. Wilson, JASA 22, 1927; recommended for few trials by Brown, Cai and DasGupta, Statistical Science 16,
2001): it stays between 0 and 1, and has a width where all answers agree. Means have Student's, and so has the ratio of two sums over rows,
such as nats per token: tokens of one answer depend on each other, so that rows are what is counted, not tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, stdev

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Interval:
    """Where the figure of all would lie, and what it was measured on."""

    low: float
    high: float
    count: int
    unit: str
    """What was counted: `answers`, `rows`, `questions`."""


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Of a share between 0 and 1 among so many independent trials; for means of values between 0 and 1 it is no narrower than it must be."""
    centre = (share + Z * Z / (2 * trials)) / (1 + Z * Z / trials)
    half = Z / (1 + Z * Z / trials) * math.sqrt(share * (1 - share) / trials + (Z / (2 * trials)) ** 2)
    low = 0.0 if share == 0 else max(0.0, centre - half)
    return low, 1.0 if share == 1 else min(1.0, centre + half)


def share(value: float, error: float | None, trials: int) -> tuple[float, float]:
    """Of a share whose standard error is known otherwise: of so many trials as would have that error if they were independent.

    Where all agree, or nothing is known of the error, ``trials`` are those (Korn and Graubard, Survey Methodology 24, 1998).
    """
    return wilson(value, value * (1 - value) / error**2 if error and 0 < value < 1 else trials)


def student(value: float, error: float, count: int) -> tuple[float, float]:
    """Around a mean of ``count`` with this standard error."""
    half = _quantile(count - 1) * error
    return value - half, value + half


def of_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """Of the mean of what was measured; None of fewer than two."""
    if len(values) < 2:
        return None
    return student(mean(values), stdev(values) / math.sqrt(len(values)), len(values))


def error_of_ratio(above: float, below: float, products: tuple[float, float, float], count: int) -> float | None:
    """The standard error of ``above / below``, sums over ``count`` rows; None of fewer than two.

    ``products``: the sums over rows of above², above·below and below². Cochran, Sampling Techniques (1977), 6.4.
    """
    if count < 2 or not below:
        return None
    ratio = above / below
    square = products[0] - 2 * ratio * products[1] + ratio * ratio * products[2]
    return math.sqrt(max(0.0, square) * count / (count - 1)) / below


def _quantile(freedom: int) -> float:
    """Of Student's distribution, within 1 % from 3 degrees of freedom on (Abramowitz and Stegun, 26.7.5)."""
    z = Z
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )

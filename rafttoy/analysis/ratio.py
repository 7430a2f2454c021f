"""What two systems that were measured in turn tell of each other: a ratio, its interval, and how easily chance would make it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import accumulate
from math import comb

import msgspec
from scipy import stats

__all__ = ["CONFIDENCE", "Ratio", "ratio_of", "u_counts"]

CONFIDENCE = 0.95


class Ratio(msgspec.Struct, frozen=True):
    """Ours over theirs: `ratio`, an interval that covers the true one with probability `coverage`, and `p`, the probability of
    samples at least so far apart if there were no difference."""

    ratio: float
    low: float
    high: float
    coverage: float
    p: float


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The Hodges-Lehmann estimate of the ratio (the median of all pairs' ratios), and the interval that inverts the exact
    Mann-Whitney test (Hollander & Wolfe, "Nonparametric Statistical Methods", §4.3), whose p-value stands beside it.

    With so few runs that no interval covers CONFIDENCE it is the widest there is, and `coverage` says what that is worth."""
    ratios = sorted(mine / other for mine in ours for other in theirs)
    below = [count / comb(len(ours) + len(theirs), len(ours)) for count in accumulate(u_counts(len(ours), len(theirs)))]
    cut = max(1, sum(1 for chance in below[: (len(ratios) + 1) // 2] if chance <= (1 - CONFIDENCE) / 2))
    return Ratio(
        ratio=statistics.median(ratios),
        low=ratios[cut - 1],
        high=ratios[-cut],
        coverage=1 - 2 * below[cut - 1],
        p=float(stats.mannwhitneyu(ours, theirs, alternative="two-sided").pvalue),
    )


def u_counts(n: int, m: int) -> list[int]:
    """How many of the orders of n + m values have Mann-Whitney's U = 0, 1, …, n·m: coefficients of the Gaussian binomial."""
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):
            counts[u] += counts[u - i]
    return counts

"""Student's t: shifts of means with their errors, where units are too few for exact intervals.

Comparisons and plans use it. It supposes normal units. No SciPy: the tail is the incomplete beta
function by its continued fraction.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, exp, inf, lgamma, log, sqrt

import numpy as np
from numpy.typing import ArrayLike

from kvmbench.stats import Interval, sample

__all__ = ["Shift", "mean_shift", "mean_shift_paired", "quantile", "tail"]

TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Shift:
    """A difference of means with its standard error and the degrees of freedom of that error."""

    difference: float
    error: float
    freedom: float

    def interval(self, confidence: float) -> Interval:
        """Return the t interval of the shift."""
        half = quantile(1 - confidence, self.freedom) * self.error
        return self.difference - half, self.difference + half

    def p(self, margin: float) -> float:
        """Return the two-sided p of a shift of at most `margin`."""
        beyond = abs(self.difference) - margin
        if beyond <= 0:
            return 1.0
        return tail(beyond / self.error, self.freedom) if self.error else 0.0


def mean_shift(
    before: ArrayLike,
    after: ArrayLike,
    *,
    quantum: float = 0.0,
    known: float = 0.0,
    freedom: float = inf,
) -> Shift:
    """Return Welch's shift of means (1947) of two samples of two values or more.

    `quantum` is the step of the values, whose rounding adds quantum**2 / 12 to each variance.
    `known` is a further variance of the shift, such as that of the boots, with its degrees of
    `freedom`; the error has Satterthwaite's (1946).
    """
    sizes = [_size(values) for values in (before, after)]
    parts = [((var + quantum**2 / 12) / n, n - 1.0) for _, var, n in sizes]
    parts.append((known, freedom))
    return _shift(sizes[1][0] - sizes[0][0], parts)


def mean_shift_paired(diffs: ArrayLike, *, quantum: float = 0.0) -> Shift:
    """Return the mean of two or more paired differences as a shift."""
    mean, variance, n = _size(diffs)
    return _shift(mean, [((variance + quantum**2 / 6) / n, n - 1.0)])


def _size(values: ArrayLike) -> tuple[float, float, int]:
    """Return (mean, variance, number) of a sample."""
    x = sample(values)
    if len(x) < 2:
        raise ValueError("one value has no spread: expected two or more")
    return float(np.mean(x - x[0]) + x[0]), float(np.var(x - x[0], ddof=1)), len(x)


def _shift(difference: float, parts: list[tuple[float, float]]) -> Shift:
    variance = sum(part for part, _ in parts)
    if not variance:
        return Shift(difference, 0.0, min(freedom for _, freedom in parts))
    weight = sum((part / variance) ** 2 / freedom for part, freedom in parts)
    return Shift(difference, sqrt(variance), 1 / weight if weight else inf)


def tail(t: float, freedom: float) -> float:
    """Return P(|T| > t) of Student's t with `freedom` degrees, 0 < freedom <= infinity."""
    if not freedom > 0 or not t >= 0:
        raise ValueError(f"t {t}, freedom {freedom}: expected t >= 0 and freedom > 0")
    if freedom > 1e7:
        return erfc(t / sqrt(2))
    return _beta(freedom / 2, 0.5, freedom / (freedom + t * t)) if t < inf else 0.0


def quantile(level: float, freedom: float) -> float:
    """Return the t with P(|T| > t) = level, 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"level {level}: expected a number between 0 and 1")
    low, high = 0.0, 1.0
    while tail(high, freedom) > level:
        low, high = high, 2 * high
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, freedom) > level else (low, middle)
    return high


def _beta(a: float, b: float, x: float) -> float:
    """Return the regularized incomplete beta function, by Lentz's method (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1 - _beta(b, a, 1 - x)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log(1 - x)) / a
    fraction = c = 1.0
    d = 1 / max(1 - (a + b) * x / (a + 1), TINY)
    fraction = d
    for m in range(1, 500):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / ((1 + term * d) or TINY)
            c = (1 + term / c) or TINY
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction

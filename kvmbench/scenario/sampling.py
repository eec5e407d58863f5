"""Tables for random draws in integers: the same bits on every machine, no libm when drawing.

`_host` draws with them; docs/scenario.md, "Random numbers", has the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from functools import cache, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIXED", "ONE", "QUANTILES", "alias_table", "exponential", "quantiles"]

QUANTILES = 1 << 10  # entries of a table of times; drawn with 10 bits
ONE = 1 << 20  # a table's 1.0; drawn with 20 bits, which round without a bias
FIXED = (ONE,) * QUANTILES
"""The table of a time that is always its mean."""


@cache
def exponential() -> tuple[int, ...]:
    """Return the exponential distribution of mean 1 in QUANTILES equally likely values.

    Each value is the distribution's mean over its 1/QUANTILES of the probability, in units of
    1/ONE; they sum to QUANTILES * ONE, so that the mean is exactly 1. The largest is 7.93.
    """
    with localcontext() as context:
        context.prec = 30
        # The mean of -ln(s) over (a, b] is ((b - b ln b) - (a - a ln a)) / (b - a).
        shares = [Decimal(n) / QUANTILES for n in range(QUANTILES + 1)]
        areas = [s - s * s.ln() if s else Decimal(0) for s in shares]
        scale = Decimal(QUANTILES * ONE)
        means = [(b - a) * scale for a, b in pairwise(areas)]
        table = [int(mean.quantize(Decimal(1), ROUND_HALF_EVEN)) for mean in means[::-1]]
    table[-1] += QUANTILES * ONE - sum(table)
    return tuple(table)


@cache
def quantiles(fixed: bool) -> NDArray[np.uint32]:
    """Return the table of times as uint32, (QUANTILES,): always the mean, or `exponential`."""
    table = np.array(FIXED if fixed else exponential(), np.uint32)
    table.flags.writeable = False
    return table


def alias_table(weights: Sequence[float]) -> Sequence[tuple[int, int]]:
    """Return (threshold, alias) for each weight: Walker's alias method, thresholds of 2**32.

    A draw chooses an entry, all equally likely, and below its threshold the entry itself, else
    its alias. So each weight is met to 2**-32 of the whole. Weights are 0 or more, their sum more.
    """
    return _alias_table(tuple(weights))


@lru_cache(1024)  # a sweep draws from few mixes, many times
def _alias_table(weights: tuple[float, ...]) -> tuple[tuple[int, int], ...]:
    exact = [Fraction(weight) for weight in weights]
    left = [weight * len(exact) / sum(exact) for weight in exact]
    table = [(2**32 - 1, i) for i in range(len(exact))]
    small = [i for i, share in enumerate(left) if share < 1]
    large = [i for i, share in enumerate(left) if share >= 1]
    while small:
        low, high = small.pop(), large[-1]
        table[low] = (min(round(left[low] * 2**32), 2**32 - 1), high)
        left[high] -= 1 - left[low]
        if left[high] < 1:
            small.append(large.pop())
    return tuple(table)

"""What an estimate is: a mean, a rate or a ratio with its interval, and Student's t."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its interval."""

    mean: float
    low: float
    high: float

    @property
    def relative_half_width(self) -> float:
        """Half the interval's width over the mean; infinite for a mean of zero."""
        if self.mean == 0 or not math.isfinite(self.high - self.low):
            return math.inf
        return (self.high - self.low) / 2 / abs(self.mean)


@dataclass(frozen=True, slots=True)
class RateEstimate:
    """A rate over one steady stretch of one run.

    ``low`` and ``high`` cover the variation *within* the run only.
    """

    rate: float
    low: float
    high: float
    batches: int
    seconds: float

    @property
    def relative_half_width(self) -> float:
        """Half the interval's width over the rate; infinite while nothing is known."""
        return Interval(self.rate, self.low, self.high).relative_half_width


@dataclass(frozen=True, slots=True)
class RatioEstimate:
    """candidate / baseline with the interval of the ratio."""

    ratio: float
    low: float
    high: float
    blocks: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 1."""
        return self.low > 1.0 or self.high < 1.0


def t_quantile(dof: float, confidence: float = 0.95) -> float:
    """Two-sided Student t quantile; infinite below one degree of freedom.

    Hill, Algorithm 396 (Communications of the ACM, 1970), with its exact cases for one and two
    degrees of freedom. Not scipy's: importing that costs every trial and every command of the
    user a quarter of a second and more.
    """
    if dof < 1:
        return math.inf
    p = 1.0 - confidence
    if dof == 1:
        return 1.0 / math.tan(p * math.pi / 2)
    if dof == 2:
        return math.sqrt(2.0 / (p * (2.0 - p)) - 2.0)
    a = 1.0 / (dof - 0.5)
    b = 48.0 / (a * a)
    c = ((20700.0 * a / b - 98.0) * a - 16.0) * a + 96.36
    d = ((94.5 / (b + c) - 3.0) / b + 1.0) * math.sqrt(a * math.pi / 2) * dof
    y = (d * p) ** (2.0 / dof)
    if y > 0.05 + a:
        x = statistics.NormalDist().inv_cdf(p / 2)
        y = x * x
        if dof < 5:
            c += 0.3 * (dof - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5.0) * x - 7.0) * x - 2.0) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36.0) * y + 94.5) / c - y - 3.0) / b + 1.0) * x
        y = math.expm1(a * y * y)
    else:
        y = (
            (
                1.0 / (((dof + 6.0) / (dof * y) - 0.089 * d - 0.822) * (dof + 2.0) * 3.0)
                + 0.5 / (dof + 4.0)
            )
            * y
            - 1.0
        ) * (dof + 1.0) / (dof + 2.0) + 1.0 / y
    return math.sqrt(dof * y)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of independent values with its t interval (infinite for fewer than two values).

    Raises:
        ValueError: if there are no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("mean_interval needs at least one value")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, -math.inf, math.inf)
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    half = t_quantile(n - 1, confidence) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half)

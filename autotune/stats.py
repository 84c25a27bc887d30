"""What counts as steady, as an interval, as different: pure functions, no I/O.

Rates are samples per second. Intervals are two-sided, 95 % unless told otherwise. Differences
between runs multiply rather than add, so they are handled on the logarithm.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

MIN_STEADY_BATCHES = 10
"""Below so many batches after truncation, a warm-up detector is not to be trusted."""

PRIOR_BETWEEN_SD = 0.031
"""Relative standard deviation between fresh runs of one configuration, before a study has
repeats of its own: measured over nine fresh runs of an SPDL pipeline on two CPU cores."""

PRIOR_BETWEEN_DOF = 8.0
"""Degrees of freedom behind `PRIOR_BETWEEN_SD`."""

_UNKNOWN = 10.0
"""A half-width of the logarithm (a factor of 22,000) from which on nothing is known."""


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


def mser(values: Sequence[float], batch: int = 5) -> int:
    """Length of the warm-up in ``values``, by MSER-``batch`` (White, 1997).

    The values are averaged in groups of ``batch``; the truncation d minimises
    sum((x_i - mean(x_d..x_n))^2) / (n - d)^2 over the first half. Returns a number of values.
    """
    groups = [
        math.fsum(values[i : i + batch]) / batch for i in range(0, len(values) - batch + 1, batch)
    ]
    n = len(groups)
    if n < 2:
        return 0
    best_d, best_score = 0, math.inf
    total = 0.0
    squares = 0.0
    scores: list[float] = [math.inf] * n
    for d in range(n - 1, -1, -1):
        total += groups[d]
        squares += groups[d] ** 2
        count = n - d
        spread = max(0.0, squares - total * total / count)
        scores[d] = spread / count**2
    for d in range(n // 2 + 1):
        if scores[d] < best_score:
            best_d, best_score = d, scores[d]
    return best_d * batch


def warmup_end(arrivals: Sequence[float], samples: Sequence[int], drained: int = 0) -> int:
    """Index of the first batch of the steady part.

    ``drained`` batches may have been waiting in buffers when counting began: they arrive faster
    than the pipeline makes them and are always cut, or a large sink buffer would make a short
    measurement look fast. The rest is cut by MSER-5 on the time a sample takes.

    Shapes: ``arrivals`` (s) and ``samples`` have one entry a batch.
    """
    n = len(arrivals)
    start = min(drained, n)
    gaps = [(arrivals[i] - arrivals[i - 1]) / max(1, samples[i]) for i in range(max(1, start), n)]
    return start + mser(gaps)


def rate_interval(
    arrivals: Sequence[float], samples: Sequence[int], confidence: float = 0.95
) -> RateEstimate:
    """Rate over a steady stretch, from the arrival time of every batch.

    The first arrival starts the clock and its samples do not count, so no partial batch biases
    the rate. The interval comes from non-overlapping batch means (Schmeiser, 1982): groups of
    consecutive gaps, long enough that the lag-1 autocorrelation between the groups is
    insignificant, at least 5 and at most 20 groups; a t interval over the groups' time a sample.
    With fewer than 6 batches the interval is infinite.
    """
    n = len(arrivals)
    if n < 2 or arrivals[-1] <= arrivals[0]:
        return RateEstimate(0.0, 0.0, math.inf, max(0, n - 1), 0.0)
    seconds = arrivals[-1] - arrivals[0]
    rate = sum(samples[1:]) / seconds
    gaps = n - 1
    if gaps < 5:
        return RateEstimate(rate, 0.0, math.inf, gaps, seconds)
    chosen: list[float] = []
    for groups in (20, 15, 10, 8, 6, 5):
        if gaps < groups:
            continue
        bounds = [round(g * gaps / groups) for g in range(groups + 1)]
        chosen = [
            (arrivals[stop] - arrivals[start]) / max(1, sum(samples[start + 1 : stop + 1]))
            for start, stop in itertools.pairwise(bounds)
        ]
        if abs(_lag1(chosen)) < 1.96 / math.sqrt(groups):
            break
    # On the time that a sample takes, not on its inverse: where batches come in bursts, the
    # time of a group may be next to nothing and its rate next to infinite.
    half = mean_interval(chosen, confidence).relative_half_width
    high = rate / (1 - half) if half < 1 else math.inf
    return RateEstimate(rate, rate / (1 + half), high, gaps, seconds)


def _lag1(values: Sequence[float]) -> float:
    """Lag-1 autocorrelation."""
    n = len(values)
    mean = math.fsum(values) / n
    denominator = math.fsum((v - mean) ** 2 for v in values)
    if denominator == 0:
        return 0.0
    numerator = math.fsum((values[i] - mean) * (values[i + 1] - mean) for i in range(n - 1))
    return numerator / denominator


def between_run_sd(
    groups: Sequence[Sequence[float]],
    prior_sd: float = PRIOR_BETWEEN_SD,
    prior_dof: float = PRIOR_BETWEEN_DOF,
) -> tuple[float, float]:
    """Relative standard deviation between fresh runs of one configuration, and its freedom.

    ``groups`` holds, for each configuration that was measured more than once, the rate of every
    run. The variances of the logarithms are pooled over the groups, and with a prior of
    ``prior_dof`` degrees of freedom (a scaled inverse chi-square update), so that two lucky
    repeats do not make every interval narrow.
    """
    total = prior_sd**2 * prior_dof
    dof = prior_dof
    for group in groups:
        logs = [math.log(v) for v in group if v > 0]
        if len(logs) < 2:
            continue
        mean = math.fsum(logs) / len(logs)
        total += math.fsum((x - mean) ** 2 for x in logs)
        dof += len(logs) - 1
    return (math.sqrt(total / dof) if dof > 0 else math.inf), dof


def published_interval(
    means: Sequence[float],
    within_half_widths: Sequence[float],
    between_sd: float,
    dof: float,
) -> tuple[float, float]:
    """The 95 % interval of a configuration's mean over its ``len(means)`` fresh runs.

    It covers what differs between runs (``between_sd``, relative, with ``dof`` degrees of
    freedom) as well as within them. ``between_sd`` is estimated from the spread of whole runs
    and so holds the usual within-run noise already; where this configuration's own within-run
    half-width exceeds what that leaves room for, the wider one is added in quadrature.

    Raises:
        ValueError: if there are no runs.
    """
    k = len(means)
    if k == 0:
        raise ValueError("published_interval needs at least one run")
    mean = math.fsum(means) / k
    if mean <= 0:
        return 0.0, math.inf
    between_half = t_quantile(dof) * between_sd / math.sqrt(k)
    within = [w / mean for w in within_half_widths if math.isfinite(w)]
    within_half = math.sqrt(math.fsum(w * w for w in within)) / k if within else 0.0
    half = math.hypot(between_half, within_half)
    if half > _UNKNOWN:
        return 0.0, math.inf
    return mean * math.exp(-half), mean * math.exp(half)


def ratio_interval(
    candidate: Sequence[float], baseline: Sequence[float], confidence: float = 0.95
) -> RatioEstimate:
    """candidate / baseline over paired blocks: a t interval on the logarithm of the ratio.

    Raises:
        ValueError: if the sequences differ in length, hold fewer than two blocks or a rate
            that is not positive.
    """
    if len(candidate) != len(baseline):
        raise ValueError(f"{len(candidate)} candidate blocks, {len(baseline)} baseline blocks")
    if len(candidate) < 2:
        raise ValueError("a ratio needs at least two blocks")
    if min(*candidate, *baseline) <= 0:
        raise ValueError("a ratio needs rates above 0")
    logs = [math.log(c / b) for c, b in zip(candidate, baseline, strict=True)]
    interval = mean_interval(logs, confidence)
    return RatioEstimate(
        math.exp(interval.mean), math.exp(interval.low), math.exp(interval.high), len(logs)
    )

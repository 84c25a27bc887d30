"""One run: where its warm-up ends, whether the rest is steady, its rate and how well it is known.

All of it works on groups of consecutive batches (batch means, Schmeiser, Operations Research
1982) and corrects for the correlation that is left between the groups.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from autotune.stats.estimates import Interval, RateEstimate, t_quantile

MIN_STEADY_BATCHES = 10
"""Below so many batches after truncation, a warm-up detector is not to be trusted."""

MIN_NARROW_BATCHES = 20
"""Below so many batches an interval says too little of its own width to end a run by it."""

LOOKS_INFLATION = 1.1
"""What looking repeatedly costs. A run that ends as soon as its interval is narrow ends, more
often than not, while its variance is underestimated. With looks spaced by 10 % this factor on the
half-width gives the coverage back: `experiments/benchmarks/calibration.py` measures it."""

_MAX_GROUPS = 30
_MIN_GROUPS = 5
_MAX_CORRELATION = 0.9
_MSER_BATCH = 5
_MSER_GROUPS = 200
"""More tell MSER nothing new: above it the groups grow, so that a look costs the same."""
_EXTREME = 3.0
"""Robust standard deviations beyond which a value is drawn in before MSER sees it."""
_MAD_TO_SD = 1.4826


def mser(values: Sequence[float]) -> int:
    """How many of ``values`` belong to the warm-up: the MSER rule (White, Simulation 1997).

    The truncation d minimises sum((x_i - mean(x_d..x_n))^2) / (n - d)^2. Two of its weaknesses
    are handled: values beyond 3 robust standard deviations of the median are drawn in, because
    one stall would otherwise move the truncation behind itself (and leave the stall out of the
    rate); and the last 5 truncations, of next to no values, are not considered. The third is the
    caller's: a truncation in the last half means that the series is too short to tell.
    """
    n = len(values)
    if n < 2:
        return 0
    drawn_in = _drawn_in(values)
    shift = drawn_in[-1]  # keeps the sum of squares from cancelling
    best, best_score = 0, math.inf
    total = squares = 0.0
    for d in range(n - 1, -1, -1):
        x = drawn_in[d] - shift
        total += x
        squares += x * x
        count = n - d
        score = max(0.0, squares - total * total / count) / (count * count)
        if score <= best_score and (count > _MIN_GROUPS or d == 0):
            best, best_score = d, score
    return best


def _drawn_in(values: Sequence[float]) -> list[float]:
    middle = statistics.median(values)
    spread = _MAD_TO_SD * statistics.median([abs(v - middle) for v in values])
    if spread == 0:
        return list(values)
    low, high = middle - _EXTREME * spread, middle + _EXTREME * spread
    return [min(high, max(low, v)) for v in values]


def warmup_end(arrivals: Sequence[float], samples: Sequence[float], drained: int = 0) -> int | None:
    """Index of the first batch after the warm-up; None where the series is too short to tell.

    ``drained`` batches may have been waiting in buffers when counting began: they arrive faster
    than the pipeline makes them and are always cut, or a large sink buffer would make a short
    measurement look fast. The rest is cut by MSER-5 on the time that a sample takes; a
    truncation in its last half is not trusted.

    Shapes: ``arrivals`` (s) and ``samples`` have one entry a batch.
    """
    start = min(drained, len(arrivals))
    clock = max(0, start - 1)
    batches = len(arrivals) - 1 - clock
    size = max(_MSER_BATCH, batches // _MSER_GROUPS)
    groups = batches // size
    if groups < 2:
        return start
    # whole groups from the end: the beginning is what may have to go
    first = len(arrivals) - 1 - groups * size
    bounds = range(first, len(arrivals), size)
    cut = mser(_seconds_a_sample(arrivals, samples, bounds))
    if 2 * cut > groups:
        return None
    return start if cut == 0 else max(start, first + 1 + cut * size)


def rate_interval(
    arrivals: Sequence[float],
    samples: Sequence[float],
    confidence: float = 0.95,
    inflation: float = LOOKS_INFLATION,
) -> RateEstimate:
    """Rate over a steady stretch, from the arrival time of every batch.

    The first arrival starts the clock and its samples do not count, so no partial batch biases
    the rate. The interval comes from the means of up to 30 groups of consecutive batches. What
    correlation is left between them is taken for that of an autoregression of first order, as in
    Skart (Tafazzoli and Wilson, IIE Transactions 2011): the variance of the mean grows by
    growth = (1 + r) / (1 - r); there are 1 / growth as many independent groups, from which follow
    the degrees of freedom and what the groups' own variance is underestimated by. ``inflation``
    multiplies the half-width; see `LOOKS_INFLATION`. With fewer than 5 gaps it is infinite.
    """
    n = len(arrivals)
    if n < 2 or arrivals[-1] <= arrivals[0]:
        return RateEstimate(0.0, 0.0, math.inf, max(0, n - 1), 0.0)
    seconds = arrivals[-1] - arrivals[0]
    rate = (math.fsum(samples) - samples[0]) / seconds
    if n - 1 < _MIN_GROUPS:
        return RateEstimate(rate, 0.0, math.inf, n - 1, seconds)
    # On the time that a sample takes, not on its inverse: where batches come in bursts, the
    # time of a group may be next to nothing and its rate next to infinite.
    values = _group_means(arrivals, samples)
    groups = len(values)
    mean = math.fsum(values) / groups
    deviations = [v - mean for v in values]
    independent = max(2.0, groups / variance_growth(deviations, fitted=1))
    # the mean square deviation of correlated groups lacks the variance of their mean
    variance = math.fsum(d * d for d in deviations) / groups / (1 - 1 / independent)
    error = math.sqrt(variance / independent)
    half = inflation * t_quantile(independent - 1, confidence) * error / mean
    high = rate / (1 - half) if half < 1 else math.inf
    return RateEstimate(rate, rate / (1 + half), high, n - 1, seconds)


def relative_trend(
    arrivals: Sequence[float], samples: Sequence[float], confidence: float = 0.95
) -> Interval:
    """How much the time a sample takes changes from the beginning to the end of a stretch, as a
    share of its mean: a straight line through the group means, with its interval.

    0.1 means that a sample takes 10 % longer at the end than at the beginning. The residuals'
    correlation is handled as in `rate_interval`. With fewer than 5 gaps the interval is infinite.
    """
    if len(arrivals) - 1 < _MIN_GROUPS or arrivals[-1] <= arrivals[0]:
        return Interval(0.0, -math.inf, math.inf)
    values = _group_means(arrivals, samples)
    groups = len(values)
    middle = (groups - 1) / 2
    mean = math.fsum(values) / groups
    spread = groups * (groups * groups - 1) / 12  # of the group numbers around their mean
    slope = math.fsum((i - middle) * v for i, v in enumerate(values)) / spread
    residuals = [v - mean - slope * (i - middle) for i, v in enumerate(values)]
    independent = max(3.0, groups / variance_growth(residuals, fitted=2))
    variance = math.fsum(r * r for r in residuals) / groups / (1 - 2 / independent)
    error = math.sqrt(variance * groups / independent / spread)
    half = t_quantile(independent - 2, confidence) * error
    to_change = groups / mean
    return Interval(slope * to_change, (slope - half) * to_change, (slope + half) * to_change)


def _group_means(arrivals: Sequence[float], samples: Sequence[float]) -> list[float]:
    """The time a sample takes in up to 30 groups of at least two batches each."""
    gaps = len(arrivals) - 1
    groups = min(_MAX_GROUPS, gaps // 2 if gaps >= 2 * _MIN_GROUPS else gaps)
    bounds = [round(g * gaps / groups) for g in range(groups + 1)]
    return _seconds_a_sample(arrivals, samples, bounds)


def _seconds_a_sample(
    arrivals: Sequence[float], samples: Sequence[float], bounds: Sequence[int]
) -> list[float]:
    """Time over samples between each two of ``bounds`` (indices of arrivals)."""
    counts = list(itertools.accumulate(samples))
    return [
        (arrivals[stop] - arrivals[start]) / max(1.0, counts[stop] - counts[start])
        for start, stop in itertools.pairwise(bounds)
    ]


def variance_growth(deviations: Sequence[float], fitted: int) -> float:
    """(1 + r) / (1 - r): what correlation adds to the variance of a mean. 1 where there is none.

    r is the lag-1 autocorrelation of what is left after ``fitted`` parameters. It is biased
    towards -1/n; to first order by (1 + 3 r) / n around a mean (Marriott and Pope, Biometrika
    1954) and by (2 + 4 r) / n around a line. Negative correlation is not believed.
    """
    squares = math.fsum(d * d for d in deviations)
    if squares == 0:
        return 1.0
    r = math.fsum(a * b for a, b in itertools.pairwise(deviations)) / squares
    r += (fitted + (fitted + 2) * r) / len(deviations)
    r = min(_MAX_CORRELATION, max(0.0, r))
    return (1 + r) / (1 - r)

"""What counts as steady, as an interval, as different: pure functions, no I/O.

    arrivals of one run   -> warm-up, trend, rate with the interval *within* the run (`within`)
    rates of fresh runs   -> spread *between* runs, published interval, noise floor (`between`)
    interleaved blocks    -> ratio of two configurations, and how many blocks it takes (`ratio`)
    a run of hours        -> whether its memory grows, its rate falls (`trend`)

Rates are samples per second. Intervals are two-sided, 95 % unless told otherwise. Differences
between runs multiply rather than add, so they are handled on the logarithm. What each interval
covers in practice is measured by ``python -m experiments.benchmarks.calibration``.
"""

from __future__ import annotations

from autotune.stats.between import (
    MIN_BETWEEN_DOF,
    PRIOR_BETWEEN_DOF,
    PRIOR_BETWEEN_SD,
    PRIOR_WITHIN,
    between_run_sd,
    noise_floor,
    published_interval,
    rates_tie,
    repeat_dof,
    usual_within,
)
from autotune.stats.estimates import (
    Interval,
    RateEstimate,
    RatioEstimate,
    mean_interval,
    t_quantile,
)
from autotune.stats.ratio import (
    FIRST_BLOCKS,
    MAX_BLOCKS,
    MIN_RATIO_HALF_WIDTH,
    blocks_needed,
    enough_blocks,
    ratio_interval,
    sequential_ratio,
)
from autotune.stats.trend import (
    MIN_GROWTH_SECONDS,
    Course,
    Growth,
    growth,
    slope,
)
from autotune.stats.within import (
    LOOKS_INFLATION,
    MIN_NARROW_BATCHES,
    MIN_STEADY_BATCHES,
    mser,
    rate_interval,
    relative_trend,
    warmup_end,
)

__all__ = [
    "FIRST_BLOCKS",
    "LOOKS_INFLATION",
    "MAX_BLOCKS",
    "MIN_BETWEEN_DOF",
    "MIN_GROWTH_SECONDS",
    "MIN_NARROW_BATCHES",
    "MIN_RATIO_HALF_WIDTH",
    "MIN_STEADY_BATCHES",
    "PRIOR_BETWEEN_DOF",
    "PRIOR_BETWEEN_SD",
    "PRIOR_WITHIN",
    "Course",
    "Growth",
    "Interval",
    "RateEstimate",
    "RatioEstimate",
    "between_run_sd",
    "blocks_needed",
    "enough_blocks",
    "growth",
    "mean_interval",
    "mser",
    "noise_floor",
    "published_interval",
    "rate_interval",
    "rates_tie",
    "ratio_interval",
    "relative_trend",
    "repeat_dof",
    "sequential_ratio",
    "slope",
    "t_quantile",
    "usual_within",
    "warmup_end",
]

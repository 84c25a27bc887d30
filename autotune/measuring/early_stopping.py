"""When a run is beyond doubt worse than the incumbent, so that measuring on would teach nothing.

    arrivals of the steady part --reachable--> the most that this run could still turn out to be
    the incumbent               --required---> the least that is worth measuring to the end

A run is stopped where the first lies below the second.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from autotune import stats
from autotune.measuring.figures import Decision, Record, merge
from autotune.trial import Incumbent, MeasurementSettings

TOLERATED = 0.03
"""A configuration this close to the optimum is never to be stopped."""

MIN_SECONDS = 1.5
"""Steady seconds before the first verdict, or ``min_seconds`` where that is less."""

MIN_BATCHES = 15
"""Batches in them. Half as many again as a warm-up detector needs: with fewer, a slow warm-up
is too often taken for a slow configuration (`experiments/benchmarks/early_stopping.py`)."""

RISK = 0.01
"""How often, over all looks at one run, its own noise may put it outside its interval."""

_BETWEEN_CONFIDENCE = 0.99
_TREND_CONFIDENCE = 0.9
_GOES_ON = 2.0
"""A trend is carried on from the middle of the steady part over so many times its length."""
_RISING = 0.02
"""A run that gets faster by so much over its steady part, and significantly, still warms up."""


class EarlyStopping:
    """Looks at one run as it grows.

    Args:
        incumbent: what the search has to beat; None: never stop.
        settings: how the run is measured.
    """

    def __init__(self, incumbent: Incumbent | None, settings: MeasurementSettings) -> None:
        self._required = 0.0 if incumbent is None else required(incumbent)
        self._settings = settings
        self._looks = 0

    def hopeless(self, records: Sequence[Record], decision: Decision | None) -> bool:
        """Whether to stop now.

        Args:
            records: the run so far, one a rank.
            decision: what `figures.decide` says of them.
        """
        return self._required > 0 and self.look(records, decision) < self._required

    def look(self, records: Sequence[Record], decision: Decision | None) -> float:
        """The most that the run could still turn out to be, samples/s; infinite while too little
        is known. Each look makes the next one more careful."""
        if decision is None:
            return math.inf
        times, samples = _steady_part(records, decision.start)
        if not enough_data(times, self._settings.min_seconds):
            return math.inf
        self._looks += 1
        return reachable(times, samples, self._looks)


def enough_data(times: Sequence[float], min_seconds: float) -> bool:
    """Whether a steady part is long enough for a verdict.

    Args:
        times: arrivals of its batches, s; the first one starts the clock.
        min_seconds: the shortest measurement of this study.
    """
    if len(times) - 1 < MIN_BATCHES:
        return False
    return times[-1] - times[0] >= min(MIN_SECONDS, min_seconds)


def required(incumbent: Incumbent) -> float:
    """The least rate of a run that is worth measuring to the end, samples/s.

    The means of two configurations are to be compared, and all that is there is one run of each.
    The incumbent's was chosen for being the fastest of many, so the two errors are added, not
    put together in quadrature: it may be as lucky as this run is unlucky. 0 where nothing is
    known of the spread between runs: then nothing is stopped.
    """
    if incumbent.spread <= 0:
        luck = 0.0
    else:
        luck = stats.t_quantile(incumbent.dof, _BETWEEN_CONFIDENCE) * incumbent.spread
    return incumbent.samples_per_second * (1 - TOLERATED) * math.exp(-2 * luck)


def reachable(times: Sequence[float], samples: Sequence[float], look: int = 1) -> float:
    """The most that the rate of this run could turn out to be, samples/s.

    Noise within the run is allowed for by its interval, at a confidence that grows with ``look``:
    6 / (pi look)^2 of `RISK` each, which adds up to `RISK` however many looks are taken. A run
    that may be getting faster is taken to go on so for one and a half times as long as it was
    steady; one that certainly is getting faster has no bound.

    Args:
        times: arrivals of the batches in the steady part, s.
        samples: of each batch. One entry a batch; those of the first one do not count.
        look: how often this run was looked at, this time included.
    """
    trend = stats.relative_trend(times, samples, _TREND_CONFIDENCE)
    if trend.high < 0 and trend.mean < -_RISING:
        return math.inf
    # the time that a sample would take then, as a share of what it takes in the middle
    later = 1 + _GOES_ON * min(0.0, trend.low)
    if later <= 0:
        return math.inf
    confidence = 1 - RISK * 6 / (math.pi * look) ** 2
    return stats.rate_interval(times, samples, confidence, inflation=1.0).high / later


def _steady_part(
    records: Sequence[Record], start: float
) -> tuple[Sequence[float], Sequence[float]]:
    """The arrivals from ``start`` on, of one rank or summed over several, and their samples."""
    if len(records) == 1:
        times: Sequence[float] = records[0].times
        samples: Sequence[float] = records[0].samples
    else:
        times, samples = merge(records)
    first = bisect.bisect_left(times, start)
    return times[first:], samples[first:]

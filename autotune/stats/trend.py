"""Whether something rises or falls over a long run: memory, or a rate. Pure functions, no I/O.

    samples --Course--> a bounded series --slope--> change a second, with its interval
                                         --growth-> does it hold, or grow without an end?

The interval of a slope alone accuses too many: memory that fills a cache and then holds has a
slope, and so has half a tooth of garbage collection. So growth is claimed only where it lasts:
in every quarter of the run, never given back, and not dying away.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autotune.stats.estimates import Interval, t_quantile
from autotune.stats.within import variance_growth

MIN_GROWTH_SECONDS = 60.0
"""Below it nothing is said of growth: what a loader allocates while it starts looks the same."""

MIN_POINTS = 48

_GROUPS = 24
_QUARTERS = 4
_SURE = 0.995
"""Confidence of the interval that must exclude no growth at all."""
_LATE_SHARE = 1 / 3
"""The last quarter must grow at least at this share of the whole run's slope."""
_HALF_SHARE = 0.5
"""The second half must grow at least at this share of the first half's slope."""
_FLOOR_SHARE = 0.25
"""Of the growth that the slope promises a quarter, each must keep at least this share."""

_LEFT_OUT = (1 / 3, 0.5)
"""Shares of a stretch that are left out at its beginning, in turn, to find what lasts."""
_LATE_HALF_SHARE = 0.75
"""`_HALF_SHARE` for what is left: a cache that fills ever more slowly looks straighter there."""
_FEWEST = 5.0
"""Independent groups that are believed in at least: with fewer the quantile says nothing more."""
_GIVEN_BACK = 0.1
"""Share of a late part's growth by which what came before may be above its beginning."""

Verdict = Literal["too_short", "holds", "grows"]


@dataclass(frozen=True, slots=True)
class Growth:
    """What can be said of growth over one stretch. Slopes are per second."""

    verdict: Verdict
    slope: Interval
    """95 %; infinite where there is too little to tell."""
    mean: float
    seconds: float
    """Length of the stretch."""


class Course:
    """A series of any length in bounded memory: means over equal bins that widen as it grows.

    Args:
        width: of the first bins, seconds.
        limit: bins kept at most; where there are more, two neighbours become one.
    """

    def __init__(self, width: float = 1.0, limit: int = 960) -> None:
        self._width = width
        self._limit = limit
        self._start: float | None = None
        self._bins: dict[int, tuple[float, float, int]] = {}

    def add(self, time: float, value: float) -> None:
        """Add one value; times (s) must not go back before the first one."""
        if self._start is None:
            self._start = time
        number = int((time - self._start) / self._width)
        times, values, count = self._bins.get(number, (0.0, 0.0, 0))
        self._bins[number] = (times + time, values + value, count + 1)
        if len(self._bins) > self._limit:
            self._widen()

    def _widen(self) -> None:
        merged: dict[int, tuple[float, float, int]] = {}
        for number, found in self._bins.items():
            before = merged.get(number // 2, (0.0, 0.0, 0))
            times, values, count = (a + b for a, b in zip(before, found, strict=True))
            merged[number // 2] = (times, values, int(count))
        self._bins = merged
        self._width *= 2

    def __len__(self) -> int:
        return len(self._bins)

    def points(
        self, start: float = -math.inf, end: float = math.inf
    ) -> tuple[list[float], list[float]]:
        """Mean time and mean value of the bins between two times."""
        means = [(times / n, values / n) for _, (times, values, n) in sorted(self._bins.items())]
        chosen = [(time, value) for time, value in means if start <= time <= end]
        return [time for time, _ in chosen], [value for _, value in chosen]


def slope(times: Sequence[float], values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Change per second over a series, with its interval; infinite below 12 points.

    A straight line through the medians of up to 24 groups of consecutive points, so that single
    outliers do not count. What correlation is left between the groups is handled as in
    `within.relative_trend`: as that of an autoregression of first order.
    """
    if len(times) < _GROUPS // 2:
        return Interval(0.0, -math.inf, math.inf)
    return _line(*_medians(times, values, min(_GROUPS, len(times) // 2)), confidence)


def growth(
    times: Sequence[float], values: Sequence[float], least: float, since: float = 0.1
) -> Growth:
    """Whether a series grows without an end.

    It does where all of this holds: the 99.5 % interval of its slope excludes 0; from beginning to
    end it gains at least ``least``; what later never falls below (the running minimum from each
    moment to the end) rises in every quarter; the second half grows at half the pace of the
    first, or faster; and the last quarter still grows at a third of the whole run's pace. The
    same is asked, more strictly, of the last two thirds and of the last half, where they are
    long enough and start no lower than what came before: so a cache that fills at the beginning
    does not hide a leak behind it.

    What takes longer than the run to fill, or to be given back, cannot be told from a leak.

    Args:
        times: seconds, ascending.
        values: as many.
        least: growth that matters, in the values' unit.
        since: share of the stretch at its beginning that is left out.

    Returns:
        The verdict, with the slope of the stretch that it rests on.
    """
    settled = _after(times, values, since)
    if not _long_enough(settled[0]):
        return _growth("too_short", *settled)
    if _lasts(*settled, least, _HALF_SHARE):
        return _growth("grows", *settled)
    for share in _LEFT_OUT:
        late = _after(*settled, share)
        if (
            _long_enough(late[0])
            and _lasts(*late, least, _LATE_HALF_SHARE)
            and not _gave_back(settled[1], late)
        ):
            return _growth("grows", *late)
    return _growth("holds", *settled)


def _after(
    times: Sequence[float], values: Sequence[float], share: float
) -> tuple[Sequence[float], Sequence[float]]:
    """What is left without a share of the time at the beginning."""
    if not times:
        return times, values
    begin = times[0] + share * (times[-1] - times[0])
    first = bisect.bisect_left(times, begin)
    return times[first:], values[first:]


def _long_enough(times: Sequence[float]) -> bool:
    return len(times) >= MIN_POINTS and times[-1] - times[0] >= MIN_GROWTH_SECONDS


def _growth(verdict: Verdict, times: Sequence[float], values: Sequence[float]) -> Growth:
    return Growth(
        verdict=verdict,
        slope=slope(times, values),
        mean=math.fsum(values) / len(values) if values else 0.0,
        seconds=times[-1] - times[0] if times else 0.0,
    )


def _gave_back(values: Sequence[float], late: tuple[Sequence[float], Sequence[float]]) -> bool:
    """Whether what came before a late part was higher than its beginning: then it is a tooth."""
    times, grown = late
    _, before = _medians(values[: -len(grown)], values[: -len(grown)], _GROUPS // 2)
    _, after = _medians(grown, grown, _GROUPS)
    pace = slope(times, grown).mean
    lowest = min(after[: _GROUPS // _QUARTERS])
    return max(before) > lowest + _GIVEN_BACK * pace * (times[-1] - times[0])


def _lasts(
    times: Sequence[float], values: Sequence[float], least: float, half_share: float
) -> bool:
    seconds = times[-1] - times[0]
    found = slope(times, values, _SURE)
    pace = found.mean
    if pace * seconds < least or found.low <= 0:
        return False
    half, late = len(times) // 2, 3 * len(times) // 4
    early = slope(times[:half], values[:half]).mean
    return (
        slope(times[half:], values[half:]).mean >= half_share * early
        and slope(times[late:], values[late:]).mean >= _LATE_SHARE * pace
        and min(_kept(times, values)) >= _FLOOR_SHARE * pace * seconds / _QUARTERS
    )


def _kept(times: Sequence[float], values: Sequence[float]) -> list[float]:
    """By how much what is never given back rises from each quarter to the next."""
    _, medians = _medians(times, values, _GROUPS)
    floor = list(itertools.accumulate(reversed(medians), min))[::-1]
    size = _GROUPS // _QUARTERS
    levels = [math.fsum(floor[i : i + size]) / size for i in range(0, _GROUPS, size)]
    return [b - a for a, b in itertools.pairwise(levels)]


def _medians(
    times: Sequence[float], values: Sequence[float], groups: int
) -> tuple[list[float], list[float]]:
    """Mean time and median value of groups of consecutive points."""
    bounds = [round(g * len(times) / groups) for g in range(groups + 1)]
    spans = list(itertools.pairwise(bounds))
    return (
        [math.fsum(times[a:b]) / (b - a) for a, b in spans],
        [statistics.median(values[a:b]) for a, b in spans],
    )


def _line(times: Sequence[float], values: Sequence[float], confidence: float) -> Interval:
    """Slope of the least-squares line, with its interval."""
    n = len(times)
    middle, mean = math.fsum(times) / n, math.fsum(values) / n
    spread = math.fsum((t - middle) ** 2 for t in times)
    if spread == 0:
        return Interval(0.0, -math.inf, math.inf)
    pairs = list(zip(times, values, strict=True))
    pace = math.fsum((t - middle) * v for t, v in pairs) / spread
    residuals = [v - mean - pace * (t - middle) for t, v in pairs]
    independent = max(_FEWEST, n / variance_growth(residuals, fitted=2))
    variance = math.fsum(r * r for r in residuals) / n / (1 - 2 / independent)
    error = math.sqrt(variance * n / independent / spread)
    half = t_quantile(independent - 2, confidence) * error
    return Interval(pace, pace - half, pace + half)

"""What makes a measurement of windows: where the steady part is, its rate, its figures.

No process and no loader here: the loop of one rank and the leader of several use it alike.
With several ranks it works on the sum of their rates over the time they have in common.
"""

from __future__ import annotations

import bisect
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autotune import stats
from autotune.trial import (
    FailedClip,
    Failure,
    Measurement,
    MeasurementSettings,
    RankFigures,
    Resources,
    StageStats,
    Window,
    WindowEvent,
)

MIN_PROCESSED = 20
"""Below so many samples a share of failures says little."""

_EARLY_FAILURE_NATS = 9.2
"""Early end for failed clips: the chance of so many by luck is below exp(-9.2) = 1e-4."""

_MAX_CHANGE = 0.25
"""A trend steeper than this (relative, from end to end) is not steady even where correlated noise
could explain it: a curve leaves residuals that look like such noise."""

_MIN_BATCHES = 3
"""Fewer give no rate at all: go on past max_seconds (the supervisor's deadline still holds)."""


_MOST_COARSE = 128
"""Windows of a record that is thinned. One holds some 11 KiB with the statistics of eight stages:
a thousand of them, one a second, looked like a loader whose memory grows for 17 minutes."""


@dataclass
class Record:
    """The windows of one rank, and the arrivals in them as one series."""

    rank: int = 0
    first_batch_seconds: float = 0.0
    drained: int = 0
    """Batches that may have been waiting in buffers when counting began."""
    windows: list[Window] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    bounds: list[int] = field(default_factory=list)
    """Index of the first batch of each window."""

    def add(self, window: Window) -> None:
        """Append the next window."""
        self.bounds.append(len(self.times))
        self.windows.append(window)
        self.times.extend(window.arrivals)
        self.samples.extend(window.batch_samples)

    @property
    def start(self) -> float:
        """When counting began."""
        return self.windows[0].start

    def thin(self, most: int = _MOST_COARSE) -> None:
        """Where there are more windows, make one of each two neighbours: hours fit into bounded
        memory. Of `coarse` windows only, which count as one batch each."""
        if len(self.windows) <= most:
            return
        pairs = [self.windows[i : i + 2] for i in range(0, len(self.windows), 2)]
        thinned = Record(self.rank, self.first_batch_seconds, (self.drained + 1) // 2)
        for pair in pairs:
            thinned.add(_joined(pair))
        self.drained, self.windows = thinned.drained, thinned.windows
        self.times, self.samples, self.bounds = thinned.times, thinned.samples, thinned.bounds


def coarse(window: Window) -> Window:
    """A window whose batches are seen as one, which arrives at its end."""
    return window.model_copy(update={"arrivals": [window.end], "batch_samples": [window.samples]})


def _joined(windows: Sequence[Window]) -> Window:
    first, last = windows[0], windows[-1]
    counts = ("batches", "samples", "frames", "unique_frames", "decoded_frames", "failed")
    sums = {name: sum(getattr(w, name) for w in windows) for name in (*counts, "busy_seconds")}
    return coarse(
        first.model_copy(update={"end": last.end, "stages": merge_stages(windows), **sums})
    )


@dataclass(frozen=True, slots=True)
class Decision:
    """What can be said of a measurement so far."""

    start: float
    end: float
    """The steady part, CLOCK_MONOTONIC."""
    estimate: stats.RateEstimate
    steady: bool
    enough: bool
    """Whether to end."""


def decide(records: Sequence[Record], settings: MeasurementSettings) -> Decision | None:
    """Look at what was measured; None while there is nothing to say.

    The warm-up ends where MSER-5 says so, but not before every batch that waited in a buffer is
    gone. The rest is steady if it holds `stats.MIN_STEADY_BATCHES` and shows no trend. Where
    MSER would cut more than half, its cut is not trusted: it is the trend over everything after
    the buffers that decides, and if there is one the figure is that of the later half.
    """
    series = _series(records)
    if series is None:
        return None
    n = len(series.times)
    cut = stats.warmup_end(series.times, series.samples, series.drained)
    begin = series.drained if cut is None else cut
    first = series.first_at(begin)
    steady = first >= begin and series.is_steady(first, settings.relative_half_width)
    if cut is None and not steady:
        first = series.first_at((series.drained + n) // 2)
    estimate = stats.rate_interval(series.times[first - 1 :], series.samples[first - 1 :])
    narrow = (
        steady
        and estimate.batches >= stats.MIN_NARROW_BATCHES
        and estimate.seconds >= settings.min_seconds
        and estimate.relative_half_width <= settings.relative_half_width
    )
    elapsed = series.times[-1] - min(r.start for r in records)
    return Decision(
        start=series.times[first - 1],
        end=series.times[-1],
        estimate=estimate,
        steady=steady,
        enough=narrow or elapsed >= settings.max_seconds,
    )


@dataclass(frozen=True, slots=True)
class _Series:
    """Arrivals of batches, of one rank or summed over several."""

    times: Sequence[float]
    samples: Sequence[float]
    bounds: Sequence[int]
    """Index of the first batch of each window, ascending."""
    drained: int

    def first_at(self, index: int) -> int:
        """The first batch of a window from ``index`` on, with a batch before it to start the
        clock. If there is no such window, or none long enough, the last window before that
        leaves half of the series."""
        n = len(self.times)
        after = bisect.bisect_left(self.bounds, max(1, index))
        if after < len(self.bounds) and self.bounds[after] <= n - 2:
            return self.bounds[after]
        before = bisect.bisect_right(self.bounds, max(1, min(n - 2, n // 2))) - 1
        return max(1, self.bounds[before])

    def is_steady(self, first: int, tolerance: float) -> bool:
        """Whether the stretch from ``first`` on is long enough to tell and has no trend: none
        that is significant and changes the rate by more than ``tolerance``, and none so steep
        that calling it noise would be no better."""
        if len(self.times) - first < stats.MIN_STEADY_BATCHES:
            return False
        trend = stats.relative_trend(self.times[first - 1 :], self.samples[first - 1 :])
        significant = trend.low > 0 or trend.high < 0
        change = abs(trend.mean)
        return change <= (tolerance if significant else _MAX_CHANGE)


def _series(records: Sequence[Record]) -> _Series | None:
    """The records as one series; None where there are too few batches to say anything."""
    if any(len(r.times) < _MIN_BATCHES for r in records):
        return None
    if len(records) == 1:
        record = records[0]
        return _Series(record.times, record.samples, record.bounds, record.drained)
    times, samples = merge(records)
    if len(times) <= _MIN_BATCHES:
        return None
    begin = max(r.times[min(r.drained, len(r.times) - 1)] for r in records)
    return _Series(times, samples, range(len(times)), bisect.bisect_left(times, begin))


def merge(records: Sequence[Record]) -> tuple[list[float], list[float]]:
    """The sum of several ranks as one series of times (s) and samples between them.

    Each rank's count is drawn as a line from arrival to arrival and read on a common grid, from
    the latest start to the earliest end, of as many cells as the slowest rank has batches in
    it. Adding the arrivals themselves would be biased: ranks in step deliver all their batches
    at once, and the first such cluster would be counted without the time it took.
    """
    start = max(r.start for r in records)
    end = min(r.times[-1] for r in records)
    cells = min(sum(start < t <= end for t in r.times) for r in records)
    if cells < 1 or end <= start:
        return [], []
    times = [start + (end - start) * i / cells for i in range(cells + 1)]
    curves = [_counts(r, times) for r in records]
    totals = [sum(curve[i] for curve in curves) for i in range(cells + 1)]
    steps = [0.0, *(b - a for a, b in itertools.pairwise(totals))]
    return times, steps


def _counts(record: Record, at: Sequence[float]) -> list[float]:
    """Samples of one rank since its start at each of the times ``at``, interpolated."""
    times = [record.start, *record.times]
    counts = [0.0]
    for samples in record.samples:
        counts.append(counts[-1] + samples)
    result = []
    for moment in at:
        i = min(max(bisect.bisect_left(times, moment), 1), len(times) - 1)
        span = times[i] - times[i - 1]
        share = (moment - times[i - 1]) / span if span > 0 else 1.0
        result.append(counts[i - 1] + (counts[i] - counts[i - 1]) * min(1.0, max(0.0, share)))
    return result


def window_event(window: Window, estimate: stats.RateEstimate | None) -> WindowEvent:
    """A window as an event, with the running estimate where there is one."""
    bounded = estimate is not None and math.isfinite(estimate.high)
    return WindowEvent(
        time=time.monotonic(),
        window=window,
        samples_per_second=estimate.rate if estimate is not None else None,
        low=estimate.low if estimate is not None and bounded else None,
        high=estimate.high if estimate is not None and bounded else None,
    )


def data_failure(
    failed: int, delivered: int, clips: Sequence[FailedClip], limit: float, final: bool
) -> Failure | None:
    """The failure of a measurement of which too many clips fail, or None.

    Before the end it must be beyond doubt: by Chernoff's bound the chance of ``failed`` of n
    where the true share is ``limit`` is at most exp(-n * KL(share, limit)).
    """
    processed = failed + delivered
    if failed == 0 or failed / processed <= limit:
        return None
    share = failed / processed
    if final:
        broken = processed >= MIN_PROCESSED or failed > delivered
    else:
        broken = processed >= MIN_PROCESSED and (
            processed * _divergence(share, limit) >= _EARLY_FAILURE_NATS
        )
    if not broken:
        return None
    named = "; ".join(f"{clip.name}: {clip.cause}" for clip in clips[:3])
    return Failure(
        kind="data",
        cause=f"{failed} of {processed} clips failed ({share:.0%}, limit {limit:.0%}): {named}",
        advice="Remove or repair the clips named, or raise limits.max_failed_share.",
    )


def _divergence(p: float, q: float) -> float:
    """Kullback-Leibler divergence of two coins, nats; infinite where q excludes p."""
    if q <= 0.0 or q >= 1.0:
        return math.inf if p != q else 0.0
    result = p * math.log(p / q) if p > 0 else 0.0
    return result + ((1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0)


def summarize(
    records: Sequence[Record],
    decision: Decision,
    failed: int,
    clips: Sequence[FailedClip],
    resources: Resources,
    first_batch_seconds: float,
) -> Measurement:
    """The figures over the steady part.

    Frames, decoded frames and consumer time come from the windows that lie in it as a whole,
    per sample, so they belong to the same samples as the rate.
    """
    estimate = decision.estimate
    chosen = [
        w
        for r in records
        for w in r.windows
        if w.start >= decision.start - 1e-9 and w.end <= decision.end + 1e-9
    ] or [w for r in records for w in r.windows]
    samples = sum(w.samples for w in chosen)
    frames = sum(w.frames for w in chosen)
    decoded = sum(w.decoded_frames for w in chosen)
    wall = sum(w.end - w.start for w in chosen)
    busy = sum(w.busy_seconds for w in chosen)
    per_sample = 1.0 / samples if samples else 0.0
    ranks = [_rank_figures(r, decision) for r in records]
    # an interval that is not known reads +-100 %: JSON has no infinity
    high = estimate.high if math.isfinite(estimate.high) else 2.0 * estimate.rate
    return Measurement(
        samples_per_second=estimate.rate,
        within_low=estimate.low,
        within_high=high,
        fps=estimate.rate * frames * per_sample,
        # a loader that delivers frames and decoded none has not counted them
        decoded_fps=estimate.rate * decoded * per_sample if decoded else None,
        unique_frames=sum(w.unique_frames for w in chosen) * per_sample or None,
        time_to_first_batch=first_batch_seconds,
        # one that never worked is none: the batches were dropped, or consumed in a command
        accelerator_utilization=min(1.0, busy / wall) if busy > 0 and wall > 0 else None,
        warmup_seconds=decision.start - min(r.start for r in records),
        seconds=estimate.seconds,
        steady=decision.steady,
        batches=sum(w.batches for w in chosen),
        samples=samples,
        frames=frames,
        decoded_frames=decoded,
        failed=failed,
        failed_clips=list(clips)[:20],
        stages=merge_stages(chosen),
        resources=resources,
        ranks=ranks,
        slowest_rank=min(r.samples_per_second for r in ranks),
    )


def _rank_figures(record: Record, decision: Decision) -> RankFigures:
    begin, end = _counts(record, [decision.start, decision.end])
    seconds = decision.end - decision.start
    return RankFigures(
        rank=record.rank,
        samples_per_second=(end - begin) / seconds if seconds > 0 else 0.0,
        time_to_first_batch=record.first_batch_seconds,
    )


def merge_stages(windows: Sequence[Window]) -> list[StageStats]:
    """The stage statistics of several windows as one: counts added, waits and fillings averaged
    by tasks and by time. Concurrency is the sum over the ranks."""
    names = list(dict.fromkeys(s.name for w in windows for s in w.stages))
    return [_merge_stage(name, windows) for name in names]


def _merge_stage(name: str, windows: Sequence[Window]) -> StageStats:
    seen = [(w, s) for w in windows for s in w.stages if s.name == name]
    concurrency = {w.rank: s.concurrency for w, s in seen}
    tasks = sum(s.tasks for _, s in seen)
    wall = sum(w.end - w.start for w, _ in seen)

    def by_task(value: Callable[[StageStats], float]) -> float:
        return sum(value(s) * s.tasks for _, s in seen) / tasks if tasks else 0.0

    return StageStats(
        name=name,
        concurrency=sum(concurrency.values()),
        tasks=tasks,
        failures=sum(s.failures for _, s in seen),
        busy_seconds=sum(s.busy_seconds for _, s in seen),
        queue_size=max(s.queue_size for _, s in seen),
        queue_occupancy=(
            sum(s.queue_occupancy * (w.end - w.start) for w, s in seen) / wall if wall else 0.0
        ),
        get_seconds=by_task(lambda s: s.get_seconds),
        put_seconds=by_task(lambda s: s.put_seconds),
    )

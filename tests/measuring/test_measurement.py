"""What makes a measurement of batches: the loop of one rank and the decisions, on planted rates."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.exceptions import MeasurementFailed
from autotune.measuring.figures import (
    Record,
    data_failure,
    decide,
    merge,
    merge_stages,
    summarize,
    window_event,
)
from autotune.measuring.measurement import Run, measure
from autotune.targets.base import Batch, Loader
from autotune.trial import (
    Event,
    FailedClip,
    Failure,
    FinishedEvent,
    FirstBatchEvent,
    MeasurementSettings,
    Params,
    Resources,
    StageStats,
    Window,
    WindowEvent,
    parse_event,
)

SETTINGS = MeasurementSettings(min_seconds=2, max_seconds=20, relative_half_width=0.02)


def record(
    gaps: list[float],
    *,
    rank: int = 0,
    start: float = 100.0,
    samples: int = 4,
    drained: int = 1,
    per_window: int = 5,
) -> Record:
    """One rank whose batches arrive after the given gaps."""
    result = Record(rank=rank, first_batch_seconds=1.5, drained=drained)
    arrivals = list(itertools.accumulate(gaps, initial=start))[1:]
    begin = start
    for index, i in enumerate(range(0, len(arrivals), per_window)):
        chunk = arrivals[i : i + per_window]
        result.add(
            Window(
                index=index,
                rank=rank,
                start=begin,
                end=chunk[-1],
                batches=len(chunk),
                samples=samples * len(chunk),
                frames=16 * samples * len(chunk),
                unique_frames=14 * samples * len(chunk),
                decoded_frames=20 * samples * len(chunk),
                busy_seconds=0.5 * (chunk[-1] - begin),
                arrivals=chunk,
                batch_samples=[samples] * len(chunk),
            )
        )
        begin = chunk[-1]
    return result


def noisy(count: int, mean: float, seed: int = 0) -> list[float]:
    source = random.Random(seed)
    return [mean * source.uniform(0.9, 1.1) for _ in range(count)]


def test_nothing_is_said_of_two_batches() -> None:
    assert decide([record([0.1, 0.1])], SETTINGS) is None


def test_a_steady_rate_is_found_and_is_enough() -> None:
    decision = decide([record(noisy(300, 0.01))], SETTINGS)
    assert decision is not None
    assert decision.steady
    assert decision.enough
    assert decision.estimate.rate == pytest.approx(400, rel=0.02)
    assert decision.estimate.low < 400 < decision.estimate.high


def test_what_waited_in_buffers_is_not_counted() -> None:
    full = [0.0001] * 60 + noisy(240, 0.01)
    decision = decide([record(full, drained=60)], SETTINGS)
    assert decision is not None
    assert decision.estimate.rate == pytest.approx(400, rel=0.02)


def test_a_slow_beginning_is_cut() -> None:
    decision = decide([record([0.1] * 10 + noisy(300, 0.01))], SETTINGS)
    assert decision is not None
    assert decision.estimate.rate == pytest.approx(400, rel=0.02)
    assert decision.start == pytest.approx(101.0)


def test_a_rate_that_keeps_changing_is_not_steady() -> None:
    slower = [0.01 * 1.01**i for i in range(300)]
    decision = decide([record(slower)], SETTINGS)
    assert decision is not None
    assert not decision.steady


def test_few_batches_are_not_steady_and_the_time_limit_ends_them() -> None:
    decision = decide([record([5.0] * 5, per_window=1)], SETTINGS)
    assert decision is not None
    assert not decision.steady
    assert decision.enough, "25 s are above max_seconds"
    assert decision.estimate.rate == pytest.approx(0.8)


def test_figures_belong_to_the_steady_part() -> None:
    one = record([0.1] * 10 + noisy(300, 0.01))
    decision = decide([one], SETTINGS)
    assert decision is not None
    figures = summarize([one], decision, 3, [FailedClip(name="a", cause="b")], Resources(), 1.5)
    assert figures.fps == pytest.approx(16 * figures.samples_per_second)
    assert figures.decoded_fps == pytest.approx(20 * figures.samples_per_second)
    assert figures.unique_frames == pytest.approx(14)
    assert figures.accelerator_utilization == pytest.approx(0.5)
    assert figures.samples == pytest.approx(figures.samples_per_second * figures.seconds)
    assert figures.warmup_seconds == pytest.approx(decision.start - 100.0)
    assert figures.failed == 3
    assert figures.slowest_rank == pytest.approx(figures.samples_per_second)


def test_an_unknown_interval_passes_through_json() -> None:
    one = record([1.0] * 4, per_window=1)
    decision = decide([one], SETTINGS)
    assert decision is not None
    assert math.isinf(decision.estimate.high)
    figures = summarize([one], decision, 0, [], Resources(), 1.5)
    event = parse_event(FinishedEvent(time=0, measurement=figures).model_dump_json())
    assert isinstance(event, FinishedEvent)
    assert event.measurement.within_high == 2 * figures.samples_per_second
    shown = window_event(one.windows[0], decision.estimate)
    assert (shown.low, shown.high) == (None, None)


# ------------------------------------------------------------------ ranks


def test_ranks_in_step_are_summed_without_bias() -> None:
    ranks = [record([0.1] * 60, rank=i, start=100.0) for i in range(8)]
    decision = decide(ranks, SETTINGS)
    assert decision is not None
    assert decision.estimate.rate == pytest.approx(8 * 40, rel=0.001)
    figures = summarize(ranks, decision, 0, [], Resources(), 1.0)
    assert sum(r.samples_per_second for r in figures.ranks) == pytest.approx(320, rel=0.001)


def test_only_the_common_time_counts() -> None:
    early = record([0.01] * 1000, rank=0, start=100.0)
    late = record([0.02] * 300, rank=1, start=102.0)
    decision = decide([early, late], SETTINGS)
    assert decision is not None
    assert decision.start >= 102.0
    assert decision.end == pytest.approx(108.0)
    assert decision.estimate.rate == pytest.approx(400 + 200, rel=0.01)
    figures = summarize([early, late], decision, 0, [], Resources(), 1.0)
    assert figures.slowest_rank == pytest.approx(200, rel=0.01)


def test_ranks_without_common_time_give_nothing() -> None:
    apart = [record([0.1] * 20), record([0.1] * 20, rank=1, start=500.0)]
    assert decide(apart, SETTINGS) is None


@given(st.lists(st.lists(st.floats(0.005, 0.2), min_size=20, max_size=60), min_size=1, max_size=5))
def test_merging_keeps_every_sample_of_the_common_time(gaps: list[list[float]]) -> None:
    ranks = [record(g, rank=i) for i, g in enumerate(gaps)]
    times, samples = merge(ranks)
    if not times:  # one rank has no batch before another's last
        assert any(r.times[0] > min(o.times[-1] for o in ranks) for r in ranks)
        return
    assert times[0] == 100.0
    assert times[-1] == pytest.approx(min(r.times[-1] for r in ranks))
    total = sum(samples)
    whole = sum(4 * sum(t <= times[-1] for t in r.times) for r in ranks)
    assert whole - 1e-6 <= total <= whole + 4 * len(ranks), "at most part of one batch a rank"
    assert all(b >= a for a, b in itertools.pairwise(times))
    assert min(samples) >= 0


def test_stage_statistics_of_windows_and_ranks_are_merged() -> None:
    def window(rank: int, seconds: float, **stage: Any) -> Window:
        return Window(
            index=0, rank=rank, start=0, end=seconds, stages=[StageStats(name="decode", **stage)]
        )

    (merged,) = merge_stages(
        [
            window(0, 1.0, concurrency=3, tasks=10, get_seconds=0.1, queue_occupancy=1.0),
            window(0, 3.0, concurrency=3, tasks=30, get_seconds=0.3, queue_occupancy=0.0),
            window(1, 1.0, concurrency=2, tasks=0, failures=1, queue_size=7),
        ]
    )
    assert (merged.concurrency, merged.tasks, merged.failures) == (5, 40, 1)
    assert merged.get_seconds == pytest.approx(0.25)
    assert merged.queue_occupancy == pytest.approx(0.2)
    assert merged.queue_size == 7


# ------------------------------------------------------------------ failed clips


@pytest.mark.parametrize(
    ("failed", "delivered", "final", "broken"),
    [
        (0, 0, True, False),
        (5, 95, True, False),
        (6, 94, True, True),
        (2, 18, False, False),  # 10 % of 20 may be luck
        (20, 0, False, True),
        (100, 900, False, True),
        (1, 9, True, False),  # ten clips say nothing
        (3, 0, True, True),
    ],
)
def test_too_many_failed_clips(failed: int, delivered: int, final: bool, broken: bool) -> None:
    clips = [FailedClip(name="x/y.mp4", cause="truncated")]
    failure = data_failure(failed, delivered, clips, 0.05, final)
    assert (failure is not None) == broken
    if failure is not None:
        assert failure.kind == "data"
        assert "x/y.mp4: truncated" in failure.cause


# ------------------------------------------------------------------ the loop


class PlantedLoader(Loader):
    """Batches at a planted pace, after ``prefetched_batches`` at once."""

    def __init__(self, pace: float = 0.004, waiting: int = 0, end_after: int = 10**9) -> None:
        self.pace = pace
        self.waiting = waiting
        self.end_after = end_after
        self.steps: list[int] = []
        self.failures = 0

    @property
    def prefetched_batches(self) -> int:
        return self.waiting

    def __iter__(self) -> Iterator[Batch]:
        for index in range(self.end_after):
            if index > self.waiting:
                time.sleep(self.pace)
            yield Batch(None, None, 2, 32, 28, 40)

    def readback(self) -> Params:
        return {}

    def stage_stats(self) -> list[StageStats]:
        return [StageStats(name="s", concurrency=1, tasks=1)]

    def failed(self) -> tuple[int, list[FailedClip]]:
        return self.failures, [FailedClip(name="c", cause="d")] * bool(self.failures)

    def close(self) -> None:
        pass

    def on_epoch_or_step(self, step: int) -> None:
        self.steps.append(step)


class PlantedConsumer:
    """Works for a planted time a batch."""

    details: dict[str, str] = {}  # noqa: RUF012 - as the protocol has it

    def __init__(self, seconds: float = 0.0) -> None:
        self.busy_seconds = 0.0
        self._seconds = seconds

    def consume(self, batch: Batch) -> None:
        began = time.perf_counter()
        time.sleep(self._seconds)
        self.busy_seconds += time.perf_counter() - began

    def close(self) -> None:
        pass


def run_with(events: list[Event], **changes: Any) -> Run:
    settings = MeasurementSettings(
        min_seconds=0.3, max_seconds=1.5, relative_half_width=0.3, window_seconds=0.05
    )
    return Run(settings=settings, max_failed_share=0.05, emit=events.append, **changes)


def test_the_loop_reports_windows_that_join_and_hold_every_batch() -> None:
    events: list[Event] = []
    loader = PlantedLoader(waiting=50)
    figures = measure(loader, PlantedConsumer(), run_with(events))
    assert isinstance(events[0], FirstBatchEvent)
    windows = [e.window for e in events if isinstance(e, WindowEvent)]
    assert all(a.end == b.start for a, b in itertools.pairwise(windows))
    assert all(w.arrivals[-1] == w.end and len(w.arrivals) == w.batches for w in windows)
    assert sum(w.batches for w in windows) == len(loader.steps) - 1, "all but the first batch"
    assert loader.steps == list(range(1, len(loader.steps) + 1))
    assert figures.samples_per_second < 1.05 * 2 / loader.pace, "50 batches at once do not count"
    assert figures.samples == pytest.approx(figures.samples_per_second * figures.seconds)


def test_the_consumers_work_is_the_utilization() -> None:
    figures = measure(PlantedLoader(pace=0.002), PlantedConsumer(0.006), run_with([]))
    assert 0.5 < figures.accelerator_utilization < 0.95


def test_a_rank_waits_for_go_and_ends_with_stop() -> None:
    events: list[Event] = []
    run = run_with(events, alone=False, rank=3)
    box: list[object] = []
    loader = PlantedLoader(waiting=10)
    thread = threading.Thread(target=lambda: box.append(measure(loader, PlantedConsumer(), run)))
    thread.start()
    assert run.had_batch.wait(5)
    time.sleep(0.2)
    assert [e.event for e in events] == ["first_batch"]
    run.go.set()
    time.sleep(0.4)
    run.stop.set()
    thread.join(5)
    assert box
    windows = [e.window for e in events if isinstance(e, WindowEvent)]
    assert {w.rank for w in windows} == {3}
    assert not windows[0].steady, "what waited in buffers is marked for the leader"
    assert windows[-1].steady


def test_a_loader_that_ends_is_a_failure() -> None:
    with pytest.raises(MeasurementFailed) as caught:
        measure(PlantedLoader(end_after=5), PlantedConsumer(), run_with([]))
    assert caught.value.failure.kind == "crash"
    with pytest.raises(MeasurementFailed) as caught:
        measure(PlantedLoader(end_after=0), PlantedConsumer(), run_with([]))
    assert caught.value.failure.kind == "start_up"


def test_clips_that_all_fail_are_noticed_although_no_batch_comes() -> None:
    given_up: list[Failure] = []
    told = threading.Event()

    def give_up(failure: Failure) -> None:
        given_up.append(failure)
        told.set()

    class Stuck(PlantedLoader):
        def __iter__(self) -> Iterator[Batch]:
            self.failures = 100
            told.wait(10)
            return iter(())

    with pytest.raises(MeasurementFailed):
        measure(Stuck(), PlantedConsumer(), run_with([], give_up=give_up))
    assert given_up[0].kind == "data"
    assert "c: d" in given_up[0].cause

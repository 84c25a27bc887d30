"""The measuring loop of one rank.

    first batch -> go -> windows -> decide -> ... -> summarize -> Measurement

A window ends with a batch, so that every count belongs to a known stretch of time: from the
arrival of the batch before its first one to the arrival of its last. The steady part is a run
of whole windows.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from autotune.exceptions import MeasurementFailed
from autotune.measuring.delivery import DeliveryCheck, check_accounts
from autotune.measuring.early_stopping import EarlyStopping
from autotune.measuring.figures import (
    Decision,
    Record,
    coarse,
    data_failure,
    decide,
    summarize,
    window_event,
)
from autotune.stats import MIN_STEADY_BATCHES
from autotune.system import processes
from autotune.trial import (
    Contamination,
    Delivered,
    Event,
    FailedClip,
    Failure,
    FirstBatchEvent,
    Incumbent,
    Measurement,
    MeasurementSettings,
    Resources,
    SampleEvent,
    Window,
)

if TYPE_CHECKING:
    from autotune.consumers import Consumer
    from autotune.measuring.telemetry import Sample
    from autotune.targets.base import Batch, CacheUse, Loader

LOOK_GROWTH = 1.1
"""Looks at the interval are spaced by 10 %: looking at every window would find, by luck, a
narrow interval sooner than there is one."""

_FIRST_LOOK_SECONDS = 1.0

_STALLED_SECONDS = 1.0


class ResourceSampler(Protocol):
    """What `telemetry.Telemetry` offers to a measurement."""

    def start(self) -> None:
        """Begin to sample."""

    def resources(self, start: float, end: float) -> Resources:
        """Means and peaks between two times of CLOCK_MONOTONIC."""

    def contamination(self, start: float, end: float) -> Contamination | None:
        """What others took between two times of CLOCK_MONOTONIC."""

    def latest(self) -> Sample | None:
        """The last sample taken."""


@dataclass
class Run:
    """What the loop of one rank is given besides loader and consumer."""

    settings: MeasurementSettings
    max_failed_share: float
    emit: Callable[[Event], object]
    rank: int = 0
    alone: bool = True
    """With one rank the loop starts and decides by itself; else the leader does."""
    go: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    had_batch: threading.Event = field(default_factory=threading.Event)
    give_up: Callable[[Failure], None] = lambda failure: None
    """Called from another thread when no batch comes because every clip fails."""
    soak: bool = False
    """Hours are measured: windows are told as samples, and kept in bounded memory."""
    incumbent: Incumbent | None = None
    """A run alone that is beyond doubt worse than this is stopped early."""
    expected: Delivered | None = None
    """What every batch must be; None where the target does not say."""
    unmeasured_seconds: float = 0.0
    """Time since the process began that belongs to no pipeline, e.g. for warming the page cache:
    it is left out of the time to the first batch."""


def measure(
    loader: Loader, consumer: Consumer, run: Run, telemetry: ResourceSampler | None = None
) -> Measurement:
    """Measure one rank: deliver batches to the consumer until the rate is known.

    Raises:
        MeasurementFailed: of kind ``data`` where too many clips fail, ``crash`` where the
            loader's batches end or samples are missing, ``start_up`` where the batches are not
            what was asked for (see `delivery`).
    """
    counter = _Counter(loader, consumer, run, telemetry)
    watch = _Watch(counter, run)
    watch.start()
    try:
        counter.first_batch()
        if not run.alone:
            run.go.wait()
        if telemetry is not None:
            telemetry.start()
        record = counter.count()
    finally:
        watch.stop()
    failed, clips = counter.check_failures(final=True)
    check_accounts(loader, counter.delivered)
    decision = decide([record], run.settings)
    if counter.ended and (decision is None or decision.estimate.batches < MIN_STEADY_BATCHES):
        raise MeasurementFailed(_too_short(len(record.times)))
    if decision is None:  # only a rank told to stop can have so few
        raise MeasurementFailed(
            Failure(kind="hang", cause=f"rank {run.rank} had {len(record.times)} batches in all")
        )
    resources = telemetry.resources(decision.start, decision.end) if telemetry else Resources()
    if counter.cache_use is not None:
        resources = with_cache(resources, counter.cache_use)
    figures = summarize([record], decision, failed, clips, resources, record.first_batch_seconds)
    disturbance = telemetry.contamination(decision.start, decision.end) if telemetry else None
    return figures.model_copy(
        update={
            "stopped_early": counter.looks.stopped_early,
            "contamination": disturbance,
            "delivered": counter.check.delivered(),
        }
    )


def with_cache(resources: Resources, use: CacheUse) -> Resources:
    """The resources with what the loader held ahead."""
    gib = float(2**30)
    held = {"cache_gib": use.peak / gib, "cache_mean_gib": use.mean / gib}
    return resources.model_copy(update=held)


def _too_short(batches: int) -> Failure:
    return Failure(
        kind="start_up",
        cause=f"it ended by itself after {batches} counted steps; a rate needs "
        f"{MIN_STEADY_BATCHES} steady ones",
        advice="Let it run longer: more steps, more epochs, or a larger data set.",
    )


class Looks:
    """When to look at a run that grows by windows, and whether to end it.

    Args:
        settings: how it is measured.
        early: asked whether to stop it although its rate is not known well yet.
    """

    def __init__(self, settings: MeasurementSettings, early: EarlyStopping) -> None:
        self._settings = settings
        self._early = early
        self._next = min(_FIRST_LOOK_SECONDS, settings.min_seconds)
        self.decision: Decision | None = None
        """What the last look said."""
        self.stopped_early = False

    def ended(self, record: Record) -> bool:
        """Whether the run is to end with the window that was just added."""
        elapsed = record.windows[-1].end - record.start
        if elapsed < min(self._next, self._settings.max_seconds):
            return False
        self._next = elapsed * LOOK_GROWTH
        self.decision = decide([record], self._settings)
        if self.decision is None or self.decision.enough:
            return self.decision is not None
        self.stopped_early = self._early.hopeless([record], self.decision)
        return self.stopped_early


def sample_event(window: Window, latest: Sample | None) -> SampleEvent:
    """A coarse window as an event, with what the processes used when it ended."""
    return SampleEvent(
        time=time.monotonic(),
        window=window,
        memory_gib=None if latest is None else latest.memory_gib,
        processes=None if latest is None else latest.processes,
    )


class _Counter:
    """Takes batches and makes windows of them."""

    def __init__(
        self, loader: Loader, consumer: Consumer, run: Run, telemetry: ResourceSampler | None
    ) -> None:
        self._loader = loader
        self._consumer = consumer
        self._run = run
        self._telemetry = telemetry
        self._batches: Iterator[Batch] = iter(())
        self._step = 0
        self._failed_before = 0
        self.looks = Looks(run.settings, EarlyStopping(run.incumbent, run.settings))
        self.delivered = 0
        self.check = DeliveryCheck(run.expected)
        self.ended = False
        """The batches ended by themselves."""
        self.cache_use: CacheUse | None = None
        """What the loader held ahead while it was counted."""
        self.last_arrival = time.monotonic()

    def _take(self) -> Batch | None:
        """The next batch, consumed; None where there is none and the loader may end."""
        batch = next(self._batches, None)
        if batch is None and self._loader.may_end:
            self.ended = True
            return None
        if batch is None:
            cause = f"the loader's batches ended after {self._step}; they must go on until close"
            raise MeasurementFailed(
                Failure(kind="crash" if self._step else "start_up", cause=cause)
            )
        self.check.check(batch)
        self._consumer.consume(batch)
        self.last_arrival = time.monotonic() if batch.arrived is None else batch.arrived
        self._step += 1
        self.delivered += batch.samples
        self._loader.on_epoch_or_step(self._step)
        return batch

    def first_batch(self) -> None:
        """Wait for the first batch, which is not counted, and report it."""
        self._batches = iter(self._loader)
        self._take()
        self._run.had_batch.set()
        self._seconds = processes.age() - self._run.unmeasured_seconds
        self._run.emit(
            FirstBatchEvent(time=time.monotonic(), rank=self._run.rank, seconds=self._seconds)
        )

    def count(self) -> Record:
        """Count windows until it is decided, or the leader says stop."""
        run, settings = self._run, self._run.settings
        record = Record(rank=run.rank, first_batch_seconds=self._seconds)
        waiting = 1 + self._loader.prefetched_batches
        record.drained = 0 if run.soak else waiting
        self._loader.stage_stats()  # what was before does not count
        self._loader.cache_use()
        self._failed_before = self._loader.failed()[0]
        start = time.monotonic()
        for index in itertools.count():
            if run.stop.is_set() or self.ended:
                break
            window = self._window(index, start, settings.window_seconds)
            if not window.batches:  # the end came first
                break
            start = window.end
            if run.soak:
                window = coarse(window)
                record.thin()
                record.drained += waiting > 0
                waiting -= window.batches
            record.add(window)
            ended = run.alone and self.looks.ended(record)
            self._report(record, self.looks.decision)
            if ended:
                break
            self.check_failures()
        self.cache_use = self._loader.cache_use()
        return record

    def _report(self, record: Record, decision: Decision | None) -> None:
        """Send the last window. It is marked steady as far as is known yet: a rank among
        several marks those that came out of full buffers, for the leader to cut them."""
        window = record.windows[-1]
        if self._run.alone:
            steady = decision is not None and window.start >= decision.start - 1e-9
        else:
            steady = record.bounds[-1] >= record.drained
        window = window.model_copy(update={"steady": steady})
        if self._run.soak:
            latest = None if self._telemetry is None else self._telemetry.latest()
            self._run.emit(sample_event(window, latest))
            return
        estimate = decision.estimate if decision is not None else None
        self._run.emit(window_event(window, estimate))

    def _window(self, index: int, start: float, seconds: float) -> Window:
        arrivals: list[float] = []
        samples: list[int] = []
        frames = unique = decoded = 0
        busy = self._consumer.busy_seconds
        now = start
        while now - start < seconds and not (arrivals and self._run.stop.is_set()):
            batch = self._take()
            if batch is None:
                break
            now = max(now, self.last_arrival)  # what was reported before counting began
            arrivals.append(now)
            samples.append(batch.samples)
            frames += batch.frames
            unique += batch.unique_frames
            decoded += batch.decoded_frames
            del batch  # its memory belongs to the loader again before the next wait
        failed = self._loader.failed()[0]
        newly, self._failed_before = failed - self._failed_before, failed
        return Window(
            index=index,
            rank=self._run.rank,
            start=start,
            end=now,
            batches=len(arrivals),
            samples=sum(samples),
            frames=frames,
            unique_frames=unique,
            decoded_frames=decoded,
            failed=max(0, newly),
            busy_seconds=self._consumer.busy_seconds - busy,
            arrivals=arrivals,
            batch_samples=samples,
            stages=self._loader.stage_stats(),
        )

    def check_failures(self, final: bool = False) -> tuple[int, list[FailedClip]]:
        """How many samples failed so far, and which.

        Raises:
            MeasurementFailed: where their share is above the limit: at the end as it stands,
                before that only where luck cannot explain it.
        """
        failed, clips = self._loader.failed()
        failure = data_failure(failed, self.delivered, clips, self._run.max_failed_share, final)
        if failure is not None:
            raise MeasurementFailed(failure)
        return failed, clips


class _Watch(threading.Thread):
    """Ends a measurement for which no batch comes because the clips fail: the loop itself waits
    for a batch and cannot look."""

    def __init__(self, counter: _Counter, run: Run) -> None:
        super().__init__(name="autotune-watch", daemon=True)
        self._counter = counter
        self._run = run
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.5):
            if time.monotonic() - self._counter.last_arrival < _STALLED_SECONDS:
                continue
            try:
                self._counter.check_failures()
            except MeasurementFailed as error:
                if not self._end.is_set():
                    self._run.give_up(error.failure)
                return

    def stop(self) -> None:
        """End the thread without waiting for it."""
        self._end.set()

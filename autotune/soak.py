"""One configuration for hours: does its rate hold, does its memory grow? Behind ``autotune soak``.

    worker --a sample a second--> Samples --an interval--> a line of the file, the view
                                     |
                                     '--> rate and memory over the whole run, in bounded memory

Nothing is stored in the database: the file is the record, and is written as it goes.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from autotune.executors.base import Executor
from autotune.executors.local import LocalExecutor
from autotune.measure import once_progress, wait_for
from autotune.memory import memory_trend
from autotune.sides import Side
from autotune.stats import MIN_GROWTH_SECONDS, Course, slope
from autotune.study.nodes import probe_nodes
from autotune.study.observer import StudyObserver
from autotune.study.run import StopSignal, specification
from autotune.system import machine
from autotune.trial import (
    Event,
    Failure,
    Growing,
    GrowthEvent,
    MemoryTrend,
    SampleEvent,
    TrialResult,
    TrialSpec,
    Value,
)

SHORTEST_SECONDS = 120.0
"""A soak that is shorter could not tell: the warm-up and a tenth are left out."""
FALL_SHARE = 0.05
"""A rate falls where it has lost this share over the run, and its trend's interval excludes 0."""

_WARM_UP_SHARE = 0.1
_WINDOW_SECONDS = 1.0
_MIB = float(2**20)
_GIB = float(2**30)
_HOUR = 3600.0


class SoakSample(Value):
    """One line of the file: what happened in one interval."""

    record: Literal["sample"] = "sample"
    seconds: float
    """Since the first batch, at the interval's end."""
    samples_per_second: float
    memory_mib: float | None
    processes: int | None
    failed: int
    """Samples that failed in the interval."""


class RateTrend(Value):
    """What the rate does over the run."""

    verdict: Literal["too_short", "holds", "falls"]
    percent_per_hour: float | None = None
    low: float | None = None
    high: float | None = None
    """Its 95 % interval."""


class SoakFigures(Value):
    """The JSON object of a soak, and the last line of its file."""

    record: Literal["verdict"] = "verdict"
    target: str
    flags: str
    study: str | None
    trial: int | None
    holds: bool | None
    """Whether rate and memory hold; null where the run is too short to tell."""
    seconds: float
    """From the first batch on."""
    seconds_asked: float
    samples: int
    samples_per_second: float | None
    """Over the whole run."""
    rate: RateTrend
    memory: MemoryTrend
    mib_per_1000_batches: float | None
    """Slope of the memory by batches."""
    memory_mib: float | None
    """At the end."""
    peak_memory_mib: float | None
    failed: int
    worst: SoakSample | None
    """The interval with the lowest rate."""
    growing: list[Growing]
    """With ``--locate``: what grows; told where memory grows."""
    interrupted: bool
    failure: Failure | None
    log_tail: str
    file: str | None


@dataclass(frozen=True)
class SoakSettings:
    """How long, and how closely."""

    seconds: float
    interval: float = 30.0
    """Seconds of a line in the file, and between two looks for what grows."""
    locate: bool = False
    file: Path | None = None


@dataclass
class Samples:
    """What the worker told, summed up in bounded memory."""

    interval: float
    on_sample: Callable[[SoakSample], None] = lambda sample: None
    begun: float | None = None
    """CLOCK_MONOTONIC at the first batch."""
    last: float = 0.0
    samples: int = 0
    batches: int = 0
    failed: int = 0
    memory_mib: float | None = None
    peak_mib: float | None = None
    processes: int | None = None
    worst: SoakSample | None = None
    rates: Course = field(default_factory=Course)
    memory: Course = field(default_factory=Course)
    _growing: dict[int, list[Growing]] = field(default_factory=dict)
    """By rank, as it told last."""
    _interval_begun: float = 0.0
    _interval_samples: int = 0
    _interval_failed: int = 0

    def take(self, event: Event) -> None:
        """Add what one event tells."""
        if isinstance(event, GrowthEvent):
            self._growing[event.rank] = event.growing
        elif isinstance(event, SampleEvent):
            self._take(event)

    @property
    def growing(self) -> list[Growing]:
        """What grows, the largest growth first."""
        found = [growing for told in self._growing.values() for growing in told]
        return sorted(found, key=lambda growing: -growing.grown_bytes)

    @property
    def seconds(self) -> float:
        """From the first batch to the last sample."""
        return 0.0 if self.begun is None else self.last - self.begun

    def _take(self, event: SampleEvent) -> None:
        window = event.window
        if self.begun is None:
            self.begun = self.last = self._interval_begun = window.start
        self.last = max(self.last, window.end)
        self.samples += window.samples
        self.batches += window.batches
        self.failed += window.failed
        self._interval_samples += window.samples
        self._interval_failed += window.failed
        if event.memory_gib is not None:
            self.memory_mib = event.memory_gib * _GIB / _MIB
            self.peak_mib = max(self.peak_mib or 0.0, self.memory_mib)
            self.processes = event.processes
            self.memory.add(window.end, self.memory_mib)
        seconds = window.end - window.start
        if seconds > 0:
            self.rates.add(window.end, window.samples / seconds)
        if self.last - self._interval_begun >= self.interval - _WINDOW_SECONDS / 2:
            self._end_interval()

    def _end_interval(self) -> None:
        assert self.begun is not None
        sample = SoakSample(
            seconds=self.last - self.begun,
            samples_per_second=self._interval_samples / (self.last - self._interval_begun),
            memory_mib=self.memory_mib,
            processes=self.processes,
            failed=self._interval_failed,
        )
        warm = self._interval_begun > self.begun  # not the first: buffers, start-up
        if warm and (
            self.worst is None or sample.samples_per_second < self.worst.samples_per_second
        ):
            self.worst = sample
        self._interval_begun = self.last
        self._interval_samples = self._interval_failed = 0
        self.on_sample(sample)

    def rate_trend(self) -> RateTrend:
        """Whether the rate holds, without the first tenth."""
        times, rates = self.rates.points(start=self.last - (1 - _WARM_UP_SHARE) * self.seconds)
        seconds = times[-1] - times[0] if times else 0.0
        mean = math.fsum(rates) / len(rates) if rates else 0.0
        found = slope(times, rates)
        if seconds < MIN_GROWTH_SECONDS or mean <= 0 or not math.isfinite(found.high - found.low):
            return RateTrend(verdict="too_short")
        falls = found.high < 0 and -found.mean * seconds >= FALL_SHARE * mean
        to_percent = 100 * _HOUR / mean
        return RateTrend(
            verdict="falls" if falls else "holds",
            percent_per_hour=found.mean * to_percent,
            low=found.low * to_percent,
            high=found.high * to_percent,
        )

    def memory_trend(self, limit_gib: float | None) -> MemoryTrend:
        """Whether memory holds, and if not, when it ends.

        Args:
            limit_gib: what all processes may hold; None: what is available now.
        """
        room = machine.available_bytes() / _MIB
        if limit_gib is not None and self.memory_mib is not None:
            room = min(room, limit_gib * _GIB / _MIB - self.memory_mib)
        return memory_trend(*self.memory.points(), room)


def soak(
    side: Side,
    settings: SoakSettings,
    *,
    observer: StudyObserver | None = None,
    signal: StopSignal | None = None,
    executor: Executor | None = None,
    on_sample: Callable[[SoakSample], None] = lambda sample: None,
) -> SoakFigures:
    """Run one configuration for ``settings.seconds`` in fresh processes on this machine.

    Where it is interrupted, or fails, what was seen until then is told all the same.

    Args:
        on_sample: called with every interval's figures, from another thread.

    Raises:
        InputError: if the configuration, the data or the file are wrong.
        UnsupportedError: if this machine lacks what the configuration needs.
    """
    observer = observer or StudyObserver()
    signal = signal or StopSignal()
    with _File(settings.file) as file:

        def told(sample: SoakSample) -> None:
            file.write(sample)
            on_sample(sample)

        samples = Samples(settings.interval, told)

        def seen(uuid: str, event: Event) -> None:
            samples.take(event)
            observer.measurement_event(uuid, event)

        executor = executor or LocalExecutor(on_event=seen)
        study = uuid.uuid4().hex
        try:
            node = probe_nodes(executor, side.plan, study)[0]
            for text in node.warnings:
                observer.note(text)
            spec = _specification(specification(side.plan, study, side.params, node), settings)
            file.begin(side, spec, settings)
            observer.study_started("soak", False, [node], [], "none")
            observer.measurement_started(
                spec.uuid, "soak", side.params, once_progress("soak", node)
            )
            result = wait_for(executor.submit(spec), lambda: signal.requested)
        finally:
            executor.close()
        figures = _figures(side, samples, result, spec, settings)
        file.write(figures)
    return figures


def _specification(spec: TrialSpec, settings: SoakSettings) -> TrialSpec:
    """A measurement that ends by the clock alone: the wall time a study allows its trials is
    shorter than most soaks. That it goes on is still watched."""
    measurement = spec.measurement.model_copy(
        update={
            "min_seconds": settings.seconds,
            "max_seconds": settings.seconds,
            "window_seconds": min(_WINDOW_SECONDS, settings.interval),
        }
    )
    return spec.in_mode("soak").model_copy(
        update={
            "measurement": measurement,
            "limits": spec.limits.model_copy(update={"wall_seconds": None}),
            "locate_seconds": settings.interval if settings.locate else None,
        }
    )


def _figures(
    side: Side, samples: Samples, result: TrialResult, spec: TrialSpec, settings: SoakSettings
) -> SoakFigures:
    memory = samples.memory_trend(spec.limits.host_memory_gib)
    rate = samples.rate_trend()
    per_minute, seconds = memory.mib_per_minute, samples.seconds
    failed = result.state == "failed"
    return SoakFigures(
        target=spec.target,
        flags=side.flags,
        study=side.study,
        trial=side.trial,
        holds=_holds(rate, memory, failed),
        seconds=seconds,
        seconds_asked=settings.seconds,
        samples=samples.samples,
        samples_per_second=samples.samples / seconds if seconds > 0 else None,
        rate=rate,
        memory=memory,
        mib_per_1000_batches=(
            None
            if per_minute is None or not samples.batches
            else 1000 * per_minute / 60 * seconds / samples.batches
        ),
        memory_mib=samples.memory_mib,
        peak_memory_mib=samples.peak_mib,
        # A measurement that ended counts also what failed before the first batch.
        failed=max(samples.failed, 0 if result.measurement is None else result.measurement.failed),
        worst=samples.worst,
        growing=samples.growing if memory.verdict == "grows" else [],
        interrupted=result.state == "stopped",
        failure=result.failure,
        log_tail=result.log_tail if failed else "",
        file=None if settings.file is None else str(settings.file),
    )


def _holds(rate: RateTrend, memory: MemoryTrend, failed: bool) -> bool | None:
    if failed or rate.verdict == "falls" or memory.verdict == "grows":
        return False
    return None if "too_short" in (rate.verdict, memory.verdict) else True


class _File:
    """The file of a soak: JSON lines, each written out at once."""

    def __init__(self, path: Path | None) -> None:
        """Open it.

        Raises:
            InputError: if it cannot be written, or exists.
        """
        self._file: IO[str] | None = None
        if path is None:
            return
        from autotune.exceptions import InputError

        try:
            self._file = open(path, "x", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        except FileExistsError:
            raise InputError(
                f"--output: {path} exists; choose another file, or move it away"
            ) from None
        except OSError as error:
            raise InputError(
                f"--output: {path}: {error.strerror}; choose a file in a folder that can be "
                "written to"
            ) from error

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def begin(self, side: Side, spec: TrialSpec, settings: SoakSettings) -> None:
        """The first line: what is run."""
        self._line(
            {
                "record": "start",
                "unix_time": time.time(),
                "target": spec.target,
                "flags": side.flags,
                "study": side.study,
                "trial": side.trial,
                "params": spec.params,
                "seconds": settings.seconds,
                "interval": settings.interval,
            }
        )

    def write(self, record: Value) -> None:
        """A sample, or the verdict."""
        self._line(record.model_dump(mode="json"))

    def _line(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()

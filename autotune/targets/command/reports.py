"""Lines on AUTOTUNE_EVENTS as reports; those of all ranks as one series of steps, those of all
processes as one sum of each stage."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from autotune.exceptions import MeasurementFailed
from autotune.targets.base import Batch
from autotune.trial import Failure, Params, StageStats

_ACCEPTED = (
    'accepted are {"event": "step", "samples": 16}, with "frames", "rank" and "time" if known, '
    '{"event": "start", "parameters": {...}} and {"event": "stage", "name": "augment", "tasks": 8, '
    '"busy_seconds": 0.4}; `python -m pydoc autotune.probe` has the whole of it'
)
_MAX_LINE = 65536

_RECENT_SECONDS = 5.0
"""A process that told nothing of a stage for so long has ended: workers start anew each epoch."""


@dataclass(frozen=True, slots=True)
class Report:
    """A step of one rank."""

    time: float
    """CLOCK_MONOTONIC, s."""
    samples: int
    frames: int = 0
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The parameters as the script says that it uses them."""

    parameters: Params
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Staged:
    """What a stage did in one process since that process told of it before."""

    name: str
    tasks: int
    busy_seconds: float
    process: int = 0


class EventLines:
    """Bytes from the pipe to reports."""

    def __init__(self, began: float) -> None:
        """Args:
        began: when the command was started; earlier times are of another clock.
        """
        self._began = began
        self._rest = b""

    def take(self, data: bytes, now: float) -> list[Report | Started | Staged]:
        """The reports whose lines end in ``data``.

        Raises:
            MeasurementFailed: if a line is none.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            raise _unreadable(self._rest)
        return [self._report(line, now) for line in lines if line.strip()]

    def _report(self, line: bytes, now: float) -> Report | Started | Staged:
        try:
            found: Any = json.loads(line)
            kind = found["event"]
            rank = _whole(found.get("rank", 0))
            if kind == "start":
                return Started(dict(found.get("parameters", {})), rank)
            if kind == "stage":
                return _staged(found)
            if kind == "step":
                moment = float(found.get("time", now))
                if not self._began <= moment <= now:
                    moment = now
                return Report(
                    moment, _whole(found["samples"]), _whole(found.get("frames", 0)), rank
                )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _unreadable(line) from None
        raise _unreadable(line)


def _staged(found: Any) -> Staged:
    name, busy = found["name"], float(found["busy_seconds"])
    if not isinstance(name, str) or not 0.0 <= busy < math.inf:
        raise ValueError(found)
    return Staged(name, _whole(found.get("tasks", 1)), busy, _whole(found.get("pid", 0)))


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def _unreadable(line: bytes) -> MeasurementFailed:
    quoted = line[:200].decode(errors="replace")
    cause = f"a line on AUTOTUNE_EVENTS is no report: {quoted!r}"
    return MeasurementFailed(Failure(kind="start_up", cause=cause, advice=_ACCEPTED.capitalize()))


class Stages:
    """What the stages of all processes did, added up."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[int, float]] = {}
        self._told: defaultdict[str, dict[int, float]] = defaultdict(dict)
        """Of each stage the processes that told of it, and when."""

    def add(self, staged: Staged, now: float) -> None:
        """Take what one process told of one stage."""
        tasks, busy = self._totals.get(staged.name, (0, 0.0))
        self._totals[staged.name] = (tasks + staged.tasks, busy + staged.busy_seconds)
        self._told[staged.name][staged.process] = now

    def take(self, now: float) -> list[StageStats]:
        """Since the last call. The concurrency is the number of processes that told of a stage of
        late; threads in one of them are not told apart."""
        found = [
            StageStats(
                name=name,
                concurrency=sum(now - told < _RECENT_SECONDS for told in self._told[name].values()),
                tasks=tasks,
                busy_seconds=busy,
            )
            for name, (tasks, busy) in self._totals.items()
        ]
        self._totals = dict.fromkeys(self._totals, (0, 0.0))
        return found


class Steps:
    """The reports of all ranks as one series.

    The rank that reports first is the clock: its step ends a batch, which holds what every rank
    has reported since its last one. Taking each rank's report as a batch would be biased: ranks
    in step report all at once, and the first such cluster would count without the time it took.
    """

    def __init__(self, frames_per_sample: int = 1) -> None:
        """Args:
        frames_per_sample: for reports that do not tell their frames.
        """
        self._frames_per_sample = frames_per_sample
        self._clock: int | None = None
        self._samples = self._frames = 0
        self._last = 0.0
        self.ranks: set[int] = set()
        self.reports = 0

    def add(self, report: Report) -> Batch | None:
        """Take a report; a batch, if it ends one."""
        self.ranks.add(report.rank)
        self.reports += 1
        if self._clock is None:
            self._clock = report.rank
        self._samples += report.samples
        self._frames += report.frames or report.samples * self._frames_per_sample
        if report.rank != self._clock:
            return None
        samples, self._samples = self._samples, 0
        frames, self._frames = self._frames, 0
        self._last = max(self._last, report.time)  # two writers may have swapped places
        return Batch(None, None, samples, frames, 0, 0, arrived=self._last)

"""Lines on AUTOTUNE_EVENTS as reports, and the reports of all ranks as one series of steps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from autotune.exceptions import MeasurementFailed
from autotune.targets.base import Batch
from autotune.trial import Failure, Params

_ACCEPTED = (
    'accepted are {"event": "step", "samples": 16}, with "frames", "rank" and "time" if known, and '
    '{"event": "start", "parameters": {...}}; `python -m pydoc autotune.probe` has the whole of it'
)
_MAX_LINE = 65536


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


class EventLines:
    """Bytes from the pipe to reports."""

    def __init__(self, began: float) -> None:
        """Args:
        began: when the command was started; earlier times are of another clock.
        """
        self._began = began
        self._rest = b""

    def take(self, data: bytes, now: float) -> list[Report | Started]:
        """The reports whose lines end in ``data``.

        Raises:
            MeasurementFailed: if a line is none.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            raise _unreadable(self._rest)
        return [self._report(line, now) for line in lines if line.strip()]

    def _report(self, line: bytes, now: float) -> Report | Started:
        try:
            found: Any = json.loads(line)
            kind = found["event"]
            rank = _whole(found.get("rank", 0))
            if kind == "start":
                return Started(dict(found.get("parameters", {})), rank)
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


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def _unreadable(line: bytes) -> MeasurementFailed:
    quoted = line[:200].decode(errors="replace")
    cause = f"a line on AUTOTUNE_EVENTS is no report: {quoted!r}"
    return MeasurementFailed(Failure(kind="start_up", cause=cause, advice=_ACCEPTED.capitalize()))


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

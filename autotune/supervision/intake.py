"""What a worker says: its events, line by line, and the tail of its log."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from pydantic import ValidationError

from autotune.trial import (
    Event,
    FailedEvent,
    FinishedEvent,
    FirstBatchEvent,
    Measurement,
    PreparedEvent,
    PreparingEvent,
    SampleEvent,
    Window,
    WindowEvent,
    parse_event,
)

_log = logging.getLogger(__name__)

LOG_TAIL_BYTES = 16 * 1024

_MAX_LINE_BYTES = 16 * 2**20


class Intake:
    """Takes what comes from one worker. Times are of the monotonic clock, seconds."""

    def __init__(self, ranks: int, on_event: Callable[[Event], None] | None) -> None:
        """Args:
        ranks: of the measurement; all must have had a batch before it counts as ready.
        on_event: called with every event; what it raises is logged.
        """
        self._ranks = ranks
        self._on_event = on_event
        self._pending = bytearray()
        self._log = bytearray()
        self.began = time.monotonic()
        self._heard: dict[int, tuple[float, str]] = {}
        """When each rank was last heard of, and by which event."""
        self.ranks_ready: set[int] = set()
        self.ready_time: float | None = None
        self.preparing_since: float | None = None
        """Since when the worker prepares its files; None where it does not."""
        self.preparation_seconds = 0.0
        """What preparing the files took."""
        self.measurement: Measurement | None = None
        self.failed: FailedEvent | None = None
        self.windows: list[Window] = []
        self.timeline: dict[str, float] = {}
        """Seconds from the beginning to the first event of each kind."""
        self.end_time: float | None = None
        """When the outcome was out; nothing that follows it counts."""
        self.closed_time: float | None = None
        """When the worker closed the event pipe, or ended."""
        self.garbage = b""
        """The first line that was no event."""

    def begin(self) -> None:
        """The worker is about to be started."""
        self.began = time.monotonic()

    @property
    def last_time(self) -> float:
        """When the rank that has been silent for longest was last heard of. Waiting for the others
        at the start is no silence: before all ranks are ready, when any of them was."""
        if self.ready_time is None:
            return max((moment for moment, _ in self._heard.values()), default=self.began)
        return max(self.ready_time, min(moment for moment, _ in self._heard.values()))

    @property
    def last_event(self) -> str | None:
        """The last event; of several ranks that measure, that of the one silent for longest."""
        if not self._heard:
            return None
        if self.ready_time is None or self._ranks == 1:
            return max(self._heard.values())[1]
        rank, (_, event) = min(self._heard.items(), key=lambda heard: heard[1])
        return f"{event} of rank {rank}"

    def take_log(self, data: bytes) -> None:
        """Keep the end of what the worker printed."""
        self._log += data
        del self._log[:-LOG_TAIL_BYTES]

    def take_events(self, data: bytes) -> None:
        """Take bytes of the event pipe; b"" is its end."""
        if not data:
            self.closed_time = time.monotonic()
        self._pending += data
        while not self.garbage and self.end_time is None:
            line, newline, rest = self._pending.partition(b"\n")
            if not newline:
                if len(line) > _MAX_LINE_BYTES:
                    self.garbage = bytes(line)
                return
            self._pending = rest
            try:
                event = parse_event(bytes(line))
            except ValidationError:
                self.garbage = bytes(line) or b"(an empty line)"
                return
            self._take(event)

    def drain(self, descriptor: int, take: Callable[[bytes], None]) -> None:
        """Take what is left in a pipe, without waiting for writers that should not be."""
        os.set_blocking(descriptor, False)
        while data := read(descriptor):
            take(data)

    def log_tail(self, notes: list[str]) -> str:
        """The end of the log, and what the supervisor has to add."""
        text = self._log.decode(errors="replace")
        if text and not text.endswith("\n"):
            text += "\n"
        return text + "".join(f"[supervisor] {note}\n" for note in notes)

    def note_exit(self) -> None:
        """The worker ended by itself: note when."""
        self.timeline["exited"] = time.monotonic() - self.began

    def _take(self, event: Event) -> None:
        now = time.monotonic()
        self._hear(event, now)
        self.timeline.setdefault(event.event, now - self.began)
        if isinstance(event, FirstBatchEvent):
            self.ranks_ready.add(event.rank)
            if len(self.ranks_ready) == self._ranks:
                self.ready_time = now
        elif isinstance(event, PreparingEvent):
            self.preparing_since = now
        elif isinstance(event, PreparedEvent) and self.preparing_since is not None:
            self.preparation_seconds += now - self.preparing_since
            self.preparing_since = None
        elif isinstance(event, WindowEvent):
            self.windows.append(event.window)
        elif isinstance(event, FinishedEvent):
            self.measurement, self.end_time = event.measurement, now
        elif isinstance(event, FailedEvent):
            self.failed, self.end_time = event, now
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:  # a display must not cost a measurement
                _log.exception("on_event failed for %s", event.event)

    def _hear(self, event: Event, now: float) -> None:
        """Note who spoke: one rank, or by its outcome the whole worker."""
        if isinstance(event, FinishedEvent):
            self._heard = dict.fromkeys(range(self._ranks), (now, event.event))
            return
        speaks = event.window if isinstance(event, WindowEvent | SampleEvent) else event
        self._heard[speaks.rank] = (now, event.event)


def read(descriptor: int) -> bytes | None:
    """What is there to read; b"" at the end, None if nothing is there yet."""
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return None

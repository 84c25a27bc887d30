"""The thread that publishes, and the form of a line.

    {"time": 1790000000.1, "pid": 41, "rank": 0, "seconds": 0.5, "samples": 64, "frames": 1024,
     "batches": 4, "rss_bytes": 912261120, "cost_seconds": 0.0004, "dropped": 0,
     "queues": [{"name": "decode", "size": 7, "capacity": 12, "filled": 0.61}],
     "stages": [{"name": "decode", "concurrency": 2, "tasks": 64, "busy_seconds": 0.91,
                 "failures": 0}]}

Counts are since the line before, ``seconds`` is the time since then. ``cost_seconds`` is the CPU
time that publishing has taken so far. The first line of a file or pipe also holds ``about``, what
is watched.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from autotune.publishing.sinks import Sink, open_sink

LIVE_VARIABLE = "AUTOTUNE_LIVE"
"""Names where to publish: a folder, a named pipe or a file. Not set: nothing is published."""

INTERVAL_SECONDS = 0.5

Told = Mapping[str, Any]
"""Part of a line. Of several sources, numbers are added up and lists joined."""


def live_folder(scratch: str) -> str:
    """Where the processes of a trial publish, in its own folder: whoever wants to watch makes it.

    Args:
        scratch: the trial's folder for temporary files.
    """
    return os.path.join(scratch, "live")


of_this_process: Publisher | None = None
"""The one that this process has, if any: two would write the same file."""


def begin(rank: int) -> Publisher:
    """The publisher of this process, made if there is none. A forked child has none."""
    global of_this_process
    if of_this_process is None:
        of_this_process = Publisher(rank)
        os.register_at_fork(after_in_child=_forked)
    return of_this_process


def _forked() -> None:
    global of_this_process
    if of_this_process is not None:
        of_this_process.abandon()
        of_this_process = None


def encoded(told: Mapping[str, Any], longest: int | None) -> bytes:
    """One line. Where it is too long, queues and stages are left out from the end, then all that
    is not needed to read it.

    Args:
        longest: bytes that may be written at once; None: any number.
    """
    line = dict(told)
    while True:
        text = json.dumps(line, separators=(",", ":"), default=str).encode() + b"\n"
        if longest is None or len(text) <= longest:
            return text
        lists = [name for name in ("queues", "stages") if line.get(name)]
        if lists:
            most = max(lists, key=lambda name: len(line[name]))
            line[most] = line[most][:-1]
        elif not (line.pop("about", None) or line.pop("error", None)):
            return text


class Publisher:
    """Publishes what its sources tell. Thread-safe; a source must be too."""

    def __init__(self, rank: int = 0, interval: float = INTERVAL_SECONDS) -> None:
        """Args:
        rank: of this process in a distributed job.
        interval: seconds between lines.
        """
        self.rank = rank
        self.about: dict[str, Any] = {}
        self._interval = interval
        self._sources: list[Callable[[], Told]] = []
        self._sinks: dict[str, Sink] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._last = time.monotonic()
        self._dropped = 0
        self._page = os.sysconf("SC_PAGE_SIZE")

    def add_source(self, source: Callable[[], Told]) -> None:
        """Ask this one too for every line."""
        with self._lock:
            if source not in self._sources:
                self._sources.append(source)

    def publish_to(self, path: str) -> None:
        """Begin to publish there; once for each path.

        Raises:
            OSError: if it cannot be written.
        """
        with self._lock:
            if path in self._sinks or self._end.is_set():
                return
            self._sinks[path] = open_sink(path)
            if self._thread is None:
                self._last = time.monotonic()
                self._thread = threading.Thread(
                    target=self._loop, name="autotune-live", daemon=True
                )
                self._thread.start()

    def stop(self) -> None:
        """Publish a last line, and no more. Idempotent."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def abandon(self) -> None:
        """In a forked child: the thread stayed in the parent, and so do the lines."""
        self._end.set()
        for sink in self._sinks.values():
            sink.close()

    def _loop(self) -> None:
        while not self._end.wait(self._interval):
            self._publish()
        self._publish()
        for sink in self._sinks.values():
            sink.close()

    def _publish(self) -> None:
        with self._lock:
            line = self._line()
            for sink in self._sinks.values():
                told = {"about": self.about, **line} if sink.wants_start else line
                if not sink.write(encoded(told, sink.longest)):
                    self._dropped += 1

    def _line(self) -> dict[str, Any]:
        now = time.monotonic()
        line: dict[str, Any] = {
            "time": round(time.time(), 3),
            "pid": os.getpid(),
            "rank": self.rank,
            "seconds": round(now - self._last, 4),
            "samples": 0,
            "frames": 0,
            "batches": 0,
            "rss_bytes": self._resident_bytes(),
            "cost_seconds": round(time.thread_time(), 5),
            "dropped": self._dropped,
            "queues": [],
            "stages": [],
        }
        self._last = now
        for source in self._sources:
            try:
                told = source()
            except Exception as error:  # whatever it is, it must not end what is watched
                line["error"] = f"{type(error).__name__}: {error}"[:200]
                continue
            for name, value in told.items():
                line[name] = line[name] + value
        return line

    def _resident_bytes(self) -> int:
        with contextlib.suppress(OSError), open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * self._page
        return 0

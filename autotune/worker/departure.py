"""How the worker ends: exit handlers run, threads are waited for, and nothing more.

Taking the interpreter apart with torch and a few hundred modules loaded costs half a second, in
which native libraries like to crash. The supervisor has the result by then, so the worker leaves
after its last exit handler.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
from typing import NoReturn

from autotune.system import processes
from autotune.system.shared_memory import SegmentWatch

_log = logging.getLogger("autotune.worker")

_GRACE_SECONDS = 2.0
_CHILDREN_SECONDS = 0.5


class Departure:
    """Make one before anything else is imported: exit handlers run last in, first out."""

    def __init__(self) -> None:
        self._status: int | None = None
        self._segments = SegmentWatch()
        atexit.register(self._last)

    def leave(self, status: int) -> NoReturn:
        """Exit; where a thread or an exit handler keeps the interpreter alive, say so and end."""
        self._status = status
        timer = threading.Timer(_GRACE_SECONDS, self._insist)
        timer.daemon = True
        timer.name = "autotune-leave"
        timer.start()
        sys.exit(status)

    def at_once(self, status: int) -> NoReturn:
        """End from any thread, without exit handlers."""
        flush()
        self._segments.leave_note([os.getpid(), *processes.descendants(os.getpid())])
        _end_children()
        os._exit(status)

    def _last(self) -> None:
        if self._status is not None:
            self.at_once(self._status)

    def _insist(self) -> None:
        names = {t.name for t in threading.enumerate() if t is not threading.main_thread()}
        _log.warning(
            "the interpreter did not end within %.0f s; threads left: %s; child processes: %d",
            _GRACE_SECONDS,
            ", ".join(sorted(names - {"autotune-control", "autotune-leave"})) or "none",
            len(processes.descendants(os.getpid())),
        )
        self.at_once(self._status or 0)


def _end_children() -> None:
    """End what the loader did not: once this process is gone, which adopts orphans, nothing says
    any more whose a process is that dropped our mark and left our session. The helpers of
    multiprocessing end by themselves, when they have tidied up."""

    def left() -> list[int]:
        return [
            pid
            for pid in processes.descendants(os.getpid())
            if processes.name_of(pid) != processes.GUARDIAN_NAME
            and "multiprocessing" not in processes.command_of(pid, 4096)
        ]

    # twice: a child that ends during the first look may just have left one of its own
    ended, _ = processes.end(lambda: left() or left(), grace=0.0, timeout=_CHILDREN_SECONDS)
    if ended:
        _log.warning("ended child processes that the loader left: %s", "; ".join(ended[:10]))
        flush()


def flush() -> None:
    """Write out what the standard streams hold."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()

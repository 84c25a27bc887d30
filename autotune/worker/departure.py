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

from autotune import processes

_log = logging.getLogger("autotune.worker")

_GRACE_SECONDS = 2.0


class Departure:
    """Make one before anything else is imported: exit handlers run last in, first out."""

    def __init__(self) -> None:
        self._status: int | None = None
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


def flush() -> None:
    """Write out what the standard streams hold."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()

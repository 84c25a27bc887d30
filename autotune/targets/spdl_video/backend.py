"""The demux subprocess: how it is started, guarded and ended."""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from autotune.system import processes

_PR_SET_PDEATHSIG = 1
_TERMINATE_SECONDS = 6.0
_WATCH_SECONDS = 0.5


def guard(worker: int) -> None:
    """Set a fresh subprocess up; runs in it, before anything else.

    It dies with the worker, leaves Ctrl-C to it, and leaves the log to it too: what goes wrong
    here is passed on and raised there.

    Its parent is multiprocessing's fork server, which does *not* end with the worker: each of
    its children holds the pipe whose end it waits for. So the worker itself is watched.

    Args:
        worker: pid of the process that asked for it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("spdl").setLevel(logging.CRITICAL)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        handle: int | None = os.pidfd_open(worker)
    except OSError:  # an old kernel, a sandbox, or a worker that is gone
        handle = None
    # Only now is it known that the pid, and so the handle, is still the worker's.
    if not _descends_from(worker):
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=_die_with, args=(worker, handle), daemon=True).start()
    if processes.CENSUS_MARK in os.environ:
        from autotune import heap

        heap.join()


def _die_with(worker: int, handle: int | None) -> None:
    """Wait for the worker's end, then end this process."""
    if handle is not None:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while not poll.poll():
            pass
    else:
        while _descends_from(worker):
            time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _descends_from(worker: int) -> bool:
    """Whether the worker is this process's parent, or the parent of its fork server."""
    parent = os.getppid()
    return worker in (parent, _parent_of(parent))


def _parent_of(pid: int) -> int:
    """The parent of ``pid``; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything: what follows the last one is fixed.
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


class Backend:
    """A pipeline that runs in a subprocess, as the source of another one.

    Args:
        start: starts the subprocess and returns SPDL's iterable over its results.
    """

    def __init__(self, start: Callable[[], Any]) -> None:
        self._results = start()
        # SPDL keeps the process to itself; its pid is needed to tell a dead one from a slow one.
        interface = self._results._interface
        self._process = interface.process
        self.pid: int = interface.process.pid
        self.arena: Any = interface.arena
        """The shared memory the packets cross in, or None: the one that SPDL uses."""
        self.queue_size: int = interface.data_q._maxsize
        """Capacity of the queue at the process boundary."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self._results)

    def alive(self) -> bool:
        """Whether the process runs.

        Asked of the kernel: multiprocessing's answer may be asked for by one thread at a time,
        and SPDL's asks too. The fork server reaps its children, so a dead one is soon gone.
        """
        return os.path.exists(f"/proc/{self.pid}")

    @property
    def exit_code(self) -> int | None:
        """Exit status; negative for a signal; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def hide_arena(self) -> None:
        """Take the names of the shared memory away, once the other process has mapped it."""
        if self.arena is not None:
            self.arena.unlink()

    def kill(self) -> None:
        """End the process at once."""
        if self.alive():
            self._process.kill()

    def close(self) -> None:
        """End the process and free what it shared. Idempotent.

        SPDL asks it to end, waits and only then terminates it; where even that gets stuck (on a
        lock that a killed process held), the process is killed from beside.
        """
        watchdog = threading.Timer(_TERMINATE_SECONDS, self.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            self._results._finalizer()
        finally:
            watchdog.cancel()
            self._process.join(1.0)

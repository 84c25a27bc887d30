"""The process that ends a trial when its supervisor dies.

A thread of the worker could not do it: the kernel's parent death signal kills the worker, that
thread included, at the very moment the control pipe closes, and a worker that hangs with the
GIL held runs no thread at all. So the worker forks this child before it imports anything. It
costs next to nothing (pages shared with a bare interpreter, one wake-up a second), survives the
worker's own death, and lives in a session of its own.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from autotune import processes

_WATCH_MILLISECONDS = 1000
_GRACE_SECONDS = 0.3
_PATIENCE_SECONDS = 5.0


def fork_guardian(control: int, variable: str, value: str) -> int:
    """Fork the guardian of this trial; returns its pid.

    Args:
        control: read end of the control pipe; it is only polled for its end, never read.
        variable: name of the trial's mark, `value` its value.
    """
    pid = os.fork()
    if pid:
        return pid
    with contextlib.suppress(BaseException):  # a guardian must never run the worker's code
        _guard(control, variable, value)
    os._exit(0)


def _guard(control: int, variable: str, value: str) -> None:
    os.setsid()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    pipe = _keep_only(control)
    processes.set_name(processes.GUARDIAN_NAME)

    me, began = os.getpid(), time.time()
    supervisor = os.environ.get(processes.SUPERVISOR_MARK, "")
    segments = _Segments(variable, value)
    poller = select.poll()
    poller.register(pipe, 0)  # POLLHUP is always reported
    while not poller.poll(_WATCH_MILLISECONDS):
        segments.update()
    # a supervisor that lives closed the pipe because the trial is over, and ends what is left
    patience = _PATIENCE_SECONDS if processes.exists(supervisor) else 0.0
    processes.end(
        lambda: processes.marked(variable, value, keep=(me,)),
        grace=_GRACE_SECONDS,
        patience=patience,
    )
    processes.remove_shared_memory(segments.seen, since=began)


def _keep_only(control: int) -> int:
    """Close every descriptor but the control pipe: an open event or log pipe would keep the
    supervisor waiting for its end. Returns the pipe's new number."""
    pipe = os.dup(control)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for entry in os.listdir("/proc/self/fd"):
        descriptor = int(entry)
        if descriptor > 2 and descriptor != pipe:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    return pipe


class _Segments:
    """Shared memory of the trial, seen while its processes live: once they were killed nothing
    says whose a segment was."""

    def __init__(self, variable: str, value: str) -> None:
        self.seen: set[str] = set()
        self._listing: set[str] = set()
        self._mark = (variable, value)

    def update(self) -> None:
        """Look again, in the processes only where something new appeared in /dev/shm."""
        try:
            listing = set(os.listdir("/dev/shm"))
        except OSError:
            return
        if listing - self._listing:
            self.seen |= processes.shared_memory_of(processes.marked(*self._mark))
        self._listing = listing

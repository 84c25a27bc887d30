"""The process that ends a trial when its supervisor dies.

A thread of the worker could not do it: the kernel's parent death signal kills the worker, that
thread included, at the very moment the control pipe closes, and a worker that hangs with the
GIL held runs no thread at all. So the worker forks this child before it imports anything. It
costs next to nothing (pages shared with a bare interpreter, one wake-up a second), survives the
worker's own death, and lives in a session of its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time

from autotune.system import processes
from autotune.system.process_tree import ProcessTree
from autotune.system.shared_memory import SegmentWatch, quiet

_WATCH_MILLISECONDS = 250
_TREE_SECONDS = 1.0
_MAX_SHARE = 0.002
"""Of one core, for looking at the trial's processes."""
_GRACE_SECONDS = 0.3
_PATIENCE_SECONDS = 5.0


def fork_guardian(control: int, variable: str, value: str) -> int:
    """Fork the guardian of this trial; returns its pid.

    Args:
        control: read end of the control pipe; it is only polled for its end, never read.
        variable: name of the trial's mark, `value` its value.
    """
    # Asked before the fork: of a worker that is gone by then, the guardian would get the process
    # that adopted it for a parent, and end all that runs under that.
    worker = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    with contextlib.suppress(BaseException):  # a guardian must never run the worker's code
        _guard(worker, control, variable, value)
    os._exit(0)


def _guard(worker: int, control: int, variable: str, value: str) -> None:
    os.setsid()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    pipe = _keep_only(control)
    processes.set_name(processes.GUARDIAN_NAME)

    supervisor = os.environ.get(processes.SUPERVISOR_MARK, "")
    folder = os.environ.get(processes.SCRATCH_MARK)
    tree, segments = ProcessTree(variable, value, worker, folder), SegmentWatch()
    looked, cost = -math.inf, 0.0
    poller = select.poll()
    poller.register(pipe, 0)  # POLLHUP is always reported
    alarm = segments.open_alarm()
    if alarm is not None:
        poller.register(alarm, select.POLLIN)
    while not any(descriptor == pipe for descriptor, _ in poller.poll(_WATCH_MILLISECONDS)):
        if alarm is not None:
            quiet(alarm)
        segments.update(tree.remaining)
        began = time.monotonic()
        if began - looked >= max(_TREE_SECONDS, cost / _MAX_SHARE):
            cpu = time.thread_time()
            tree.update()  # to know them for good, whatever they do to hide
            looked, cost = began, time.thread_time() - cpu
    # a supervisor that lives closed the pipe because the trial is over, and ends what is left
    if processes.exists(supervisor):
        processes.end(tree.remaining, grace=_GRACE_SECONDS, patience=_PATIENCE_SECONDS)
    else:
        # the worker first, at once: it would go on to report to nobody; then what may have
        # something to tidy up, multiprocessing's trackers among it
        processes.send([worker] if worker in tree.remaining() else [], signal.SIGKILL)
        processes.end(tree.remaining, grace=_GRACE_SECONDS)
        segments.read_note(folder)
        _remove(folder)
    segments.remove(tree.ever)


def _remove(folder: str | None) -> None:
    if folder:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


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

"""The threads that make samples.

`concurrent.futures` would let the interpreter, on its way out, wait for everything that is still
queued: with a cache of many slow batches for minutes. These threads finish the sample they are at,
and are not waited for where that hangs.
"""

from __future__ import annotations

import atexit
import threading
import time
import warnings
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Task = TypeVar("Task")

END_SECONDS = 10.0
"""The longest wait for all threads to finish what they are at: longer than a sample takes, and
short for a read that hangs on storage that is gone."""


class Threads(Generic[Task]):
    """Threads that work on a queue of tasks, first in, first out.

    They hold no reference to this object, nor to who uses it: whoever forgets to `end` them may
    do so in a finalizer.

    Args:
        count: how many.
        work: called with each task; must not raise.
        enter: called in each thread before its first task, with the thread's number; must not
            raise.
    """

    def __init__(
        self, count: int, work: Callable[[Task], None], enter: Callable[[int], None]
    ) -> None:
        self._queue: SimpleQueue[Task | None] = SimpleQueue()
        self._stop = threading.Event()
        # Daemons, so that one that hangs in a read does not keep the interpreter alive.
        self._threads = [
            threading.Thread(
                target=_loop,
                args=(self._queue, self._stop, work, enter, number),
                name=f"prefetch-{number}",
                daemon=True,
            )
            for number in range(count)
        ]

    def start(self) -> None:
        """Start them.

        Raises:
            RuntimeError: the system gives no more threads.
        """
        # A daemon inside a decoder's library must not meet an interpreter that is gone.
        atexit.register(self.end)
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.end()
            raise

    def submit(self, task: Task) -> None:
        """Queue a task."""
        self._queue.put(task)

    def end(self, wait: bool = True) -> None:
        """End the threads when they have finished what they are at; what is queued is forgotten.

        One that has not come back after `END_SECONDS` is left behind, with a RuntimeWarning: it
        ends with its task, or with the process.

        Args:
            wait: until they have. Not from a finalizer, which may run in one of them.
        """
        atexit.unregister(self.end)
        self._stop.set()
        for _ in self._threads:
            self._queue.put(None)  # SimpleQueue's is safe in a finalizer
        if wait:
            self._join()

    def _join(self) -> None:
        deadline = time.monotonic() + END_SECONDS
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        left = sum(thread.is_alive() for thread in self._threads)
        if left:
            warnings.warn(
                f"{left} of {len(self._threads)} threads of a PrefetchLoader are still at a sample "
                f"{END_SECONDS:g} s after its end; does its storage answer?",
                RuntimeWarning,
                stacklevel=3,
            )


def _loop(
    queue: SimpleQueue[Task | None],
    stop: threading.Event,
    work: Callable[[Task], None],
    enter: Callable[[int], None],
    number: int,
) -> None:
    enter(number)
    while True:
        task = queue.get()
        if task is None or stop.is_set():
            return
        work(task)
        del task  # or it would live until the next one comes

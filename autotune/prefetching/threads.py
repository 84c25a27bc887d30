"""The threads that make samples.

`concurrent.futures` would let the interpreter, on its way out, wait for everything that is still
queued: with a cache of many slow batches for minutes. These threads finish the sample they are at.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Task = TypeVar("Task")


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

        Args:
            wait: until they have. Not from a finalizer, which may run in one of them.
        """
        atexit.unregister(self.end)
        self._stop.set()
        for _ in self._threads:
            self._queue.put(None)  # SimpleQueue's is safe in a finalizer
        if wait:
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()


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

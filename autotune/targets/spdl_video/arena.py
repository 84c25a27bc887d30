"""Shared memory in which packets cross the process boundary, and which no crash leaves behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from multiprocessing import shared_memory
from typing import Any

from spdl.pipeline import SharedMemorySegmentPool

_POLL_SECONDS = 0.05


class Wakeup:
    """What SPDL's pool needs of a condition, without a lock that a killed process could hold.

    multiprocessing's Condition waits for its sleepers to confirm that they woke up: where one was
    killed in its sleep, whoever wakes it hangs. The pool's two counters have one writer each, so
    a semaphore that says "look again" is enough.
    """

    def __init__(self, context: Any) -> None:
        self._signal = context.Semaphore(0)

    def __enter__(self) -> Wakeup:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is held."""

    def notify_all(self) -> None:
        """Let the waiting process look again."""
        if self._signal.get_value() == 0:
            self._signal.release()

    def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Wait until ``predicate`` holds; whether it came to hold within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not predicate():
            if time.monotonic() > deadline:
                return False
            self._signal.acquire(timeout=_POLL_SECONDS)
        return True


class SegmentPool(SharedMemorySegmentPool):  # type: ignore[misc, unused-ignore]
    """SPDL's pool of segments, made safe for a fork server and for SIGKILL.

    - SPDL makes its condition in the default start method's context, and Python refuses to hand
      that to a process of another one. `Wakeup` takes its place.
    - SPDL takes a segment it attaches to off the books of multiprocessing's resource tracker. A
      fork server's processes share one tracker with their parent, so the parent's entry is lost:
      the tracker prints a stack trace when the parent frees the segment, and frees nothing when
      the parent is killed. Here an attached segment stays on the books.

    Args:
        segment_size: bytes of a segment; one item has to fit. Taken only where written to.
        count: items that can be under way at once.
        context: the multiprocessing context of the processes that share the pool.
    """

    def __init__(self, segment_size: int, count: int, context: Any) -> None:
        self._ctrl_buf: Any = None
        self._seg_bufs: Any = None
        super().__init__(segment_size, count)
        self._space_cv = Wakeup(context)

    def _ctrl_view(self) -> Any:
        if self._ctrl_buf is None:
            self._ctrl = shared_memory.SharedMemory(name=self._ctrl_name)
            self._ctrl_buf = self._ctrl.buf
        return self._ctrl_buf

    def _segment(self, index: int) -> Any:
        if self._seg_bufs is None:
            self._segs = [shared_memory.SharedMemory(name=name) for name in self._seg_names]
            self._seg_bufs = [segment.buf for segment in self._segs]
        return self._seg_bufs[index % self.count]

    def unlink(self) -> None:
        """Remove the segments' names; the memory lasts as long as a process maps it. Idempotent.

        Called as soon as both processes have mapped it, so that nothing is left behind
        however they end.
        """
        for name in (self._ctrl_name, *self._seg_names):
            with contextlib.suppress(FileNotFoundError):
                segment = shared_memory.SharedMemory(name=name)
                segment.close()
                segment.unlink()

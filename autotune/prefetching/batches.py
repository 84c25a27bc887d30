"""Samples to batches: what the threads of a `PrefetchLoader` do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from autotune.exceptions import BatchError
from autotune.prefetching.memory import Ledger
from autotune.prefetching.placement import Placement


class Job:
    """One batch on its way.

    Attributes:
        epoch, number: which one; both count from 0.
        indices: what the data set is asked for.
        result: the batch as its placement left it; `BatchError` where it could not be made.
    """

    def __init__(self, epoch: int, number: int, indices: Sequence[Any], ledger: Ledger) -> None:
        self.epoch = epoch
        self.number = number
        self.indices = indices
        self.result: Future[Any] = Future()
        self._ledger = ledger
        self._lock = threading.Lock()
        self._samples: list[Any] = [None] * len(indices)
        self._left = len(indices)
        self._bytes = 0
        self._over = False

    def __repr__(self) -> str:
        return f"batch {self.number} of epoch {self.epoch}"

    @property
    def over(self) -> bool:
        """Whether nobody needs its samples any more: it failed, or was dropped."""
        return self._over

    def keep(self, position: int, sample: Any, size: int) -> bool:
        """Keep a sample of ``size`` bytes. Whether it was the last one."""
        with self._lock:
            if self._over:
                return False
            self._samples[position] = sample
            self._count(size)
            self._left -= 1
            return self._left == 0

    def samples(self) -> list[Any]:
        """All of them, once."""
        with self._lock:
            samples, self._samples = self._samples, []
            return samples

    def grown(self, size: int) -> None:
        """Count the batch itself, which for a moment lies beside its samples."""
        with self._lock:
            if not self._over:
                self._count(size)

    def finish(self, batch: Any, size: int) -> None:
        """The batch is ready, and takes ``size`` bytes."""
        with self._lock:
            if not self._over:
                self._count(size - self._bytes)
                self.result.set_result(batch)

    def fail(self, error: BaseException) -> None:
        """The batch cannot be made; the first reason counts."""
        if self._end():
            self.result.set_exception(error)

    def drop(self) -> None:
        """Forget the batch: it was taken, or nobody will."""
        if self._end():
            self.result.cancel()

    def _end(self) -> bool:
        with self._lock:
            if self._over:
                return False
            self._over = True
            self._samples = []
            self._count(-self._bytes)
            return True

    def _count(self, size: int) -> None:
        self._bytes += size
        self._ledger.add(size)


class Task(NamedTuple):
    """One sample to make, or something else to ``call``."""

    job: Job | None = None
    position: int = 0
    call: Callable[[], None] | None = None


class Workshop:
    """Makes samples and batches; knows nothing of the loader that wants them.

    Args:
        dataset: asked by several threads at a time.
        collate: samples to a batch; called by the thread that made the last sample.
        placement: where the batch is put.
        size_of: bytes of a sample or a batch.
        thread_init: called with its number by each thread before its first sample.
    """

    def __init__(
        self,
        dataset: Any,
        collate: Callable[[list[Any]], Any],
        placement: Placement,
        size_of: Callable[[Any], int],
        thread_init: Callable[[int], None] | None,
    ) -> None:
        self._dataset = dataset
        self._collate = collate
        self._placement = placement
        self._size_of = size_of
        self._thread_init = thread_init
        self._broken: BaseException | None = None

    def enter(self, number: int) -> None:
        """Prepare a thread. An error fails every batch from then on."""
        if self._thread_init is None:
            return
        try:
            self._thread_init(number)
        except BaseException as error:  # reaches the consumer as the cause of a BatchError
            self._broken = error

    def work(self, task: Task) -> None:
        """Make one sample, and its batch where it was the last one. Never raises."""
        if task.call is not None:
            task.call()
        elif task.job is not None and not task.job.over:
            self._make(task.job, task.position)

    def _make(self, job: Job, position: int) -> None:
        if self._broken is not None:
            job.fail(_error(job, "thread_init failed", self._broken))
            return
        index = job.indices[position]
        try:
            sample = self._dataset[index]
            complete = job.keep(position, sample, self._size_of(sample))
        except BaseException as error:  # SystemExit of a data set too: the consumer waits
            job.fail(_error(job, f"dataset[{index!r}] failed", error, index))
            return
        del sample
        if complete:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        try:
            samples = job.samples()
            batch = self._collate(samples)
            size = self._size_of(batch)
            job.grown(size)
            del samples
            batch = self._placement.place(batch)
            job.finish(batch, size)
        except BaseException as error:
            job.fail(_error(job, f"collating samples {_named(job.indices)} failed", error))


def _error(job: Job, what: str, cause: BaseException, index: Any = None) -> BatchError:
    error = BatchError(
        f"{job}: {what}: {type(cause).__name__}: {cause}",
        epoch=job.epoch,
        batch=job.number,
        index=index,
    )
    error.__cause__ = cause
    return error


def _named(indices: Sequence[Any], shown: int = 8) -> str:
    names = ", ".join(repr(index) for index in indices[:shown])
    return f"[{names}, ...]" if len(indices) > shown else f"[{names}]"

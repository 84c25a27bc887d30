"""The loader: batches out of a pipeline that was built, and what can be asked about it."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator

from autotune.targets.base import Accounts, Batch, Loader, QueueLevel
from autotune.targets.spdl_video.failures import StageCrash, subprocess_died
from autotune.targets.spdl_video.pipeline import BACKEND_SINK, WAITING, Built
from autotune.targets.spdl_video.readback import read_back
from autotune.targets.spdl_video.stats import (
    CAPACITY,
    CHANGED,
    CONCURRENCY,
    FILLED,
    GET_WAIT,
    GETS,
    LEVEL,
    PUT_WAIT,
    PUTS,
    TASKS,
    difference,
    snapshot,
)
from autotune.trial import FailedClip, StageStats
from autotune.trial import Params as ParamValues

_POLL_SECONDS = 0.2
_DRAIN_SECONDS = 5.0
_GC_SECONDS = 60.0


class SpdlLoader(Loader):
    """Iterates over the batches of one rank.

    Args:
        built: the pipeline; started here.
        gc_policy: ``automatic``, or ``between_epochs`` as the published example has it.
        epoch: clips of one epoch of this rank.
        clips_per_fetch: files that one task of `fetch` reads.
    """

    def __init__(self, built: Built, gc_policy: str, epoch: int, clips_per_fetch: int = 1) -> None:
        self._built = built
        self._epoch = epoch
        self._clips_per_fetch = clips_per_fetch
        self._delivered = 0
        self._first: Batch | None = None
        self._seen: Batch | None = None
        self._closed = threading.Event()
        # SPDL's pipeline is read by one thread at a time: `close` may come from another one.
        self._reading = threading.Lock()
        self._since = time.monotonic()
        self._last: dict[str, list[float]] = {}
        self._collected = self._since
        self._collect = gc_policy == "between_epochs"
        self._gc_was_on = gc.isenabled()
        if self._collect:
            gc.disable()
        # The cause of every failure is raised by the iterator: SPDL's own report of it, with a
        # stack trace, would only repeat it.
        self._spdl_log = logging.getLogger("spdl")
        self._spdl_level = self._spdl_log.level
        self._spdl_log.setLevel(logging.CRITICAL)
        built.pipeline.start()

    @property
    def prefetched_batches(self) -> int:
        """Batches that may be ready when the first one is consumed: a burst to be left out.

        The sink's, one in the hands of the task that fills it, those between `collate` and the
        sink, the one being collated, and those between `aggregate` and `collate`, with one more
        being aggregated.
        """
        board = self._built.board
        queued = sum(int(board.row(name)[CAPACITY]) for name in ("sink", "collate", "aggregate"))
        return queued + 3

    def __iter__(self) -> Iterator[Batch]:
        while not self._closed.is_set():
            batch = self._first if self._first is not None else self._next()
            self._first = None
            if batch is None:
                return
            self._delivered += batch.samples
            yield batch
            del batch

    def _next(self) -> Batch | None:
        """The next batch; None once closed."""
        start = time.monotonic()
        while not self._closed.is_set():
            batch = self._take()
            # Outside the handlers of SPDL's exceptions: a cause stands for itself.
            if isinstance(batch, Batch):
                self._count(time.monotonic() - start)
                return batch
            if self._closed.is_set():
                break
            if isinstance(batch, StageCrash):
                raise batch.exception()
            self._raise_failure()
            if batch is not None:
                raise batch
        return None

    def _take(self) -> Batch | StageCrash | BaseException | None:
        """What the pipeline hands out next: None if nothing yet, an exception if it ended."""
        try:
            with self._reading:
                item: Batch | StageCrash = self._built.pipeline.get_item(timeout=_POLL_SECONDS)
                return item
        except TimeoutError:
            return None
        except EOFError:
            return RuntimeError("the pipeline ended, though its source has no end")
        except Exception as error:  # SPDL's PipelineFailure, a task's own
            return RuntimeError(f"the pipeline failed: {_innermost(error)}")

    def _count(self, waited: float) -> None:
        """Count a batch that was taken from the sink, on the sink's row."""
        row, sink = self._built.board.row("sink"), self._built.queues.sink
        left = float(sink.qsize()) if sink is not None else 0.0
        now = time.monotonic()
        # Its filling is seen only when a batch is taken: in between it grew about evenly.
        row[FILLED] += (row[LEVEL] + left + 1.0) / 2 * (now - row[CHANGED])
        row[LEVEL] = left
        row[CHANGED] = now
        row[TASKS] += 1.0
        row[GETS] += 1.0
        row[GET_WAIT] += waited
        if row[TASKS] == 1.0 and self._built.backend is not None:
            self._built.backend.hide_arena()
        puts, seconds = self._built.queues.put_waits()
        row[PUTS], row[PUT_WAIT] = float(puts), seconds

    def _raise_failure(self) -> None:
        """Raise what ended the pipeline, if anything did."""
        built = self._built
        if built.log.fatal is not None:
            raise built.log.fatal
        backend = built.backend
        if backend is not None and not self._closed.is_set() and not backend.alive():
            raise subprocess_died(backend.pid, backend.exit_code)

    def readback(self) -> ParamValues:
        """Every parameter as read from the pipeline. Waits for the first batch."""
        return read_back(self._built, self.first_batch())

    def first_batch(self) -> Batch:
        """The first batch, which is delivered all the same. Waits for it."""
        if self._seen is None:
            if self._first is None:
                self._first = self._next()
            self._seen = self._first
        if self._seen is None:
            raise RuntimeError("the loader was closed before its first batch")
        return self._seen

    def stage_stats(self) -> list[StageStats]:
        now = snapshot(self._built.board)
        stats = [
            difference(stage, self._last.get(stage), row, self._since)
            for stage, row in now.items()
            if stage != BACKEND_SINK
        ]
        self._last = now
        return stats

    def queues(self) -> list[QueueLevel]:
        built = self._built
        levels = []
        for name in built.board.stages:
            row, sink = built.board.row(name), built.queues.sink
            # the sink's level is counted only when a batch is taken from it
            size = sink.qsize() if name == "sink" and sink is not None else int(row[LEVEL])
            if name != BACKEND_SINK and row[CAPACITY]:
                levels.append(QueueLevel(name, size, int(row[CAPACITY])))
        return levels

    def failed(self) -> tuple[int, list[FailedClip]]:
        return self._built.log.report()

    def accounts(self) -> Accounts | None:
        """Clips that `fetch` was given, and the most that fits behind it. None before `readback`
        saw a batch."""
        if self._seen is None:
            return None
        board, backend = self._built.board, self._built.backend
        capacity = float(WAITING) if backend is None else float(WAITING + backend.queue_size)
        for stage in board.stages:
            row = board.row(stage)
            # what it works on, what its queue holds, and one item between the two
            room = row[CAPACITY] + max(1.0, row[CONCURRENCY]) + 1.0
            capacity += room * self._clips_per_item(stage, self._seen.samples)
        return Accounts(int(board.row("fetch")[TASKS]), int(capacity) + self._seen.samples)

    def _clips_per_item(self, stage: str, batch: int) -> int:
        if stage in ("aggregate", "collate", "sink"):
            return batch
        return self._clips_per_fetch if stage in ("source", "fetch", "disaggregate") else 1

    def on_epoch_or_step(self, step: int) -> None:
        """Collect garbage where an epoch ends, if that is the policy.

        At most once a minute: an epoch of a training takes minutes, and an epoch of a few
        sample clips must not charge a collection to every step.
        """
        now = time.monotonic()
        if (
            self._collect
            and self._delivered >= self._epoch
            and now - self._collected >= _GC_SECONDS
        ):
            self._delivered %= self._epoch
            self._collected = now
            gc.collect()

    def versions(self) -> dict[str, str]:
        from autotune.targets.spdl_video.versions import loaded_versions

        return loaded_versions()

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        built = self._built
        self._first = self._seen = None
        built.board.stop()
        with self._reading:
            drained = self._drain(_DRAIN_SECONDS)
            if not drained and built.backend is not None:
                built.backend.kill()
                drained = self._drain(_DRAIN_SECONDS)
            try:
                built.pipeline.stop(timeout=_DRAIN_SECONDS)
            except Exception as error:  # its failure was raised by the iterator, if it mattered
                logging.getLogger(__name__).debug("stopping the pipeline: %r", error)
        if built.backend is not None:
            built.backend.close()
        for pool in built.executors.values():
            # A thread that hangs in a decoder cannot be ended: then leave it to the process's end.
            pool.shutdown(wait=drained, cancel_futures=True)
        self._spdl_log.setLevel(self._spdl_level)
        if self._collect and self._gc_was_on:
            gc.enable()

    def _drain(self, seconds: float) -> bool:
        """Take what is left, until the stages have seen that the source ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self._built.pipeline.get_item(timeout=_POLL_SECONDS)
            except TimeoutError:
                continue
            except Exception:  # the end, or a failure that ended it
                return True
        return False


def _innermost(error: BaseException) -> str:
    """The cause of an exception, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"

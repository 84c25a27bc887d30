"""The loader: batches out of a DataLoader, and what can be asked about it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from autotune.targets.base import Accounts, Batch, Loader, QueueLevel
from autotune.targets.spdl_video.collate import BatchBuffers
from autotune.targets.spdl_video.failures import FailureLog
from autotune.targets.storage_latency import warnings
from autotune.targets.torch_dataloader.collate import SharedMemoryExhausted, WorkerBatch
from autotune.targets.torch_dataloader.counts import Counts
from autotune.targets.torch_dataloader.params import Params, Settings
from autotune.targets.torch_dataloader.sampler import EpochBatches
from autotune.targets.torch_dataloader.transforms import batch_on, channels_first
from autotune.targets.torch_dataloader.workers import (
    affinity_seen,
    death_of,
    shared_memory_failure,
    start_failure,
)
from autotune.targets.versions import loaded_versions
from autotune.trial import FailedClip, StageStats
from autotune.trial import Params as ParamValues

_CLOSE_SECONDS = 3.0


@dataclass
class Seen:
    """What the parameters are read back from: one batch, as it came and as it was handed over."""

    payload: WorkerBatch
    pinned: bool
    batch: Batch


class DataLoaderLoader(Loader):
    """Iterates over the batches of one rank.

    Args:
        loader: the DataLoader; its workers start here.
        done: shared counters of the batches each worker made; None without workers.
        params, settings: what it was built with.
        shard: samples of one epoch of this rank.
    """

    def __init__(
        self, loader: Any, done: Any, params: Params, settings: Settings, shard: int
    ) -> None:
        self._loader = loader
        self._params = params
        self._settings = settings
        self._log = FailureLog(shard)
        self._buffers = BatchBuffers()
        capacity = loader.num_workers * (loader.prefetch_factor or 0)
        self._prefetched_batches: int = capacity
        made = (lambda: sum(done)) if done is not None else (lambda: 0)
        self._counts = Counts(loader.num_workers, capacity, made)
        self._cores = tuple(sorted(os.sched_getaffinity(0)))
        self._workers: list[BaseProcess] = []
        self._failed = False
        self._closed = threading.Event()
        self._first: Batch | None = None
        self._seen: Seen | None = None
        self._iterator: Any = None
        try:
            self._start()
        except BaseException:
            self._failed = True
            self.close()
            raise

    def _start(self) -> None:
        """Begin a pass over the DataLoader: new workers, unless they persist."""
        before = set(multiprocessing.active_children())
        handler = signal.getsignal(signal.SIGCHLD)
        try:
            self._iterator = iter(self._loader)
        except OSError as error:
            raise start_failure(error, self._loader.num_workers) from error
        finally:
            # torch has SIGCHLD raise wherever the main thread happens to be, in the middle of a
            # training step too. Dead workers are noticed here all the same, where they are
            # waited for, and their exit status says why they died.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, handler)
            started = [p for p in multiprocessing.active_children() if p not in before]
            if started:
                self._workers = sorted(started, key=lambda p: p.pid or 0)

    @property
    def prefetched_batches(self) -> int:
        return self._prefetched_batches

    def __iter__(self) -> Iterator[Batch]:
        while not self._closed.is_set():
            batch = self._first if self._first is not None else self._next()
            self._first = None
            if batch is None:
                return
            yield batch
            del batch

    def _next(self) -> Batch | None:
        """The next batch; None once closed."""
        start = time.monotonic()
        while not self._closed.is_set():
            payload = self._take()
            for failure in payload.failures:
                self._log.failed(failure)
                if payload.video is not None:  # another clip took its place
                    self._log.delivered()
            if payload.crash is not None:
                self._failed = True
                error = payload.crash.exception()
                if payload.crash.kind == SharedMemoryExhausted.__name__:
                    raise shared_memory_failure(payload.crash.text)
                raise error
            if self._log.fatal is not None:
                raise self._log.fatal
            self._counts.batch(
                len(payload.labels),
                len(payload.failures),
                payload.seconds,
                time.monotonic() - start,
            )
            return self._finish(payload)
        return None

    def _take(self) -> WorkerBatch:
        """The next batch as a worker made it."""
        while True:
            try:
                payload: WorkerBatch = next(self._iterator)
            except StopIteration:
                self._iterator = None  # its workers end before others are started
                self._start()
            except (RuntimeError, OSError, EOFError) as error:
                self._failed = True
                # No name for it: a frame that holds its own exception would keep the iterator.
                raise death_of(self._workers, self._seen is not None) or error from None
            else:
                return payload

    def _finish(self, payload: WorkerBatch) -> Batch:
        """What is left to do in the training process."""
        import torch

        start = time.perf_counter()
        video = payload.video
        as_float = self._settings.dtype == "float32"
        label = torch.tensor(payload.labels, dtype=torch.int64)
        if isinstance(video, list):
            params, size = self._params, self._settings.frame_size
            pinned = bool(video[0].is_pinned())
            made = batch_on(
                params.transform_device,
                video,
                size,
                params.scale_algorithm,
                params.layout,
                as_float,
            )
            label = label.to(made.device)
        else:
            pinned = bool(video.is_pinned())
            made = channels_first(self._typed(video, as_float), self._params.layout)
        frames = int(made.shape[2])
        batch = Batch(
            video=made,
            label=label,
            samples=len(payload.labels),
            frames=len(payload.labels) * frames,
            unique_frames=payload.unique_frames,
            decoded_frames=payload.decoded_frames,
        )
        self._counts.transformed(time.perf_counter() - start)
        if self._seen is None:
            self._seen = Seen(payload, pinned, batch)
        return batch

    def _typed(self, video: Any, as_float: bool) -> Any:
        """The batch in the type that is handed over; NumPy converts, on this thread alone."""
        import numpy as np
        import torch

        if video.dtype == torch.float32 or not as_float:
            return video
        out = self._buffers.take(tuple(video.shape), np.float32)
        np.divide(video.numpy(), np.float32(255), out=out, dtype=np.float32)
        return torch.from_numpy(out)

    def readback(self) -> ParamValues:
        """Every parameter as read from the DataLoader and from a batch. Waits for the first."""
        if self._seen is None:
            self._first = self._next()
        if self._seen is None:
            raise RuntimeError("the loader was closed before its first batch")
        return self._read_back(self._seen)

    def _read_back(self, seen: Seen) -> ParamValues:
        loader, facts, video = self._loader, seen.payload.facts, seen.batch.video
        defaults = {name: field.default for name, field in Params.model_fields.items()}
        apart = facts.worker is not None and facts.pid != os.getpid()
        if apart != (loader.num_workers > 0) or len(self._workers) != loader.num_workers:
            raise RuntimeError(
                f"{len(self._workers)} worker processes run, num_workers is {loader.num_workers}, "
                f"and the first batch was made by process {facts.pid}"
            )
        values: dict[str, Any] = {
            **defaults,
            "num_workers": loader.num_workers,
            "pin_memory": seen.pinned,
            # The option that is given to each decoder.
            "decoder_threads": facts.decoding.threads,
            # What decoded did not scale: so what came after it did.
            "resize": "frame" if facts.decoding.size is not None else "batch",
            "transform_device": str(video.device.type),
            "layout": "copy" if video.is_contiguous() else "view",
            "decoder": facts.decoding.decoder,
            "subclip_duration": facts.decoding.duration,
            "subclip_start": "random" if facts.decoding.random_start else "first",
            "batch_size": int(video.shape[0]),
            "scale_algorithm": facts.decoding.scale_algorithm,
        }
        if apart:
            values |= {
                "prefetch_factor": loader.prefetch_factor,
                "persistent_workers": loader.persistent_workers,
                "multiprocessing_context": loader.multiprocessing_context.get_start_method(),
                "in_order": loader.in_order,
                # What the worker itself found when it made the batch.
                "torch_threads": facts.torch_threads,
                "worker_affinity": affinity_seen(
                    [(facts.worker or 0, facts.cores)], self._params.worker_affinity, self._cores
                ),
            }
        if apart and not isinstance(seen.payload.video, list):
            values["wire_dtype"] = str(seen.payload.video.dtype).removeprefix("torch.")
        return {name: values[name] for name in Params.model_fields}

    def stage_stats(self) -> list[StageStats]:
        return self._counts.take()

    def queues(self) -> list[QueueLevel]:
        return [self._counts.level()] if self._workers else []

    def failed(self) -> tuple[int, list[FailedClip]]:
        return self._log.report()

    def accounts(self) -> Accounts | None:
        """Samples asked for, with one more for each clip that failed in the place of another."""
        sampler: EpochBatches = self._loader.batch_sampler
        under_way = (self._prefetched_batches + 1) * sampler.batch_size
        return Accounts(sampler.handed_out + self._log.report()[0], under_way)

    def warnings(self) -> list[str]:
        return warnings(self._settings.emulated_latency_ms)

    def versions(self) -> dict[str, str]:
        return loaded_versions(self._params.decoder)

    def close(self) -> None:
        """Let DataLoader end its workers; where they do not within seconds, kill them.

        After a failure they are killed at once: a worker that died may have held a lock that
        the others wait for. Their shared memory has no names, so nothing stays behind.
        """
        if self._closed.is_set():
            return
        self._closed.set()
        workers, self._workers = self._workers, []
        self._first = self._seen = None

        def kill() -> None:
            for process in workers:
                if process.is_alive():
                    process.kill()

        if self._failed:
            kill()
        watchdog = threading.Timer(_CLOSE_SECONDS, kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            self._iterator = self._loader = None  # the last reference: DataLoader shuts down
            for process in workers:
                process.join(_CLOSE_SECONDS)
            kill()
            for process in workers:
                process.join(_CLOSE_SECONDS)
        finally:
            watchdog.cancel()

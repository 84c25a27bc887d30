"""The loader: batches out of a PrefetchLoader, and what can be asked about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from autotune.prefetching import PrefetchLoader
from autotune.targets.base import Accounts, Batch, CacheUse, Loader, QueueLevel
from autotune.targets.prefetch_cache.params import Params, Settings
from autotune.targets.spdl_video.collate import BatchBuffers
from autotune.targets.spdl_video.failures import FailureLog
from autotune.targets.storage_latency import warnings
from autotune.targets.torch_dataloader.collate import WorkerBatch
from autotune.targets.torch_dataloader.counts import Counts
from autotune.targets.torch_dataloader.transforms import batch_on, channels_first
from autotune.targets.versions import loaded_versions
from autotune.trial import FailedClip, StageStats
from autotune.trial import Params as ParamValues


@dataclass
class Seen:
    """What the parameters are read back from: one batch, as it waited and as it was handed over."""

    payload: WorkerBatch
    batch: Batch


class PrefetchCacheLoader(Loader):
    """Iterates over the batches of one rank.

    Args:
        prefetch: over the clips; its threads start here.
        params, settings: what it was built with.
        shard: samples of one epoch of this rank.
    """

    def __init__(
        self, prefetch: PrefetchLoader, params: Params, settings: Settings, shard: int
    ) -> None:
        self._prefetch = prefetch
        self._params = params
        self._settings = settings
        self._log = FailureLog(shard)
        self._buffers = BatchBuffers()
        self._taken = 0
        self._counts = Counts(
            prefetch.num_threads, prefetch.cache_batches, lambda: self._taken + prefetch.ready
        )
        self._closed = threading.Event()
        self._first: Batch | None = None
        self._seen: Seen | None = None
        self._iterator = iter(prefetch)

    @property
    def prefetched_batches(self) -> int:
        return self._prefetch.cache_batches

    def __iter__(self) -> Iterator[Batch]:
        while not self._closed.is_set():
            batch = self._first if self._first is not None else self._next()
            self._first = None
            yield batch
            del batch

    def _next(self) -> Batch:
        start = time.monotonic()
        payload = self._take()
        for failure in payload.failures:
            self._log.failed(failure)
            if payload.video is not None:  # another clip took its place
                self._log.delivered()
        if payload.crash is not None:
            raise payload.crash.exception()
        if self._log.fatal is not None:
            raise self._log.fatal
        self._taken += 1
        self._counts.batch(
            len(payload.labels), len(payload.failures), payload.seconds, time.monotonic() - start
        )
        return self._finish(payload)

    def _take(self) -> WorkerBatch:
        """The next batch as the threads made it."""
        while True:
            for payload in self._iterator:
                made: WorkerBatch = payload
                return made
            self._iterator = iter(self._prefetch)

    def _finish(self, payload: WorkerBatch) -> Batch:
        """What is left to do where the batch is used."""
        import torch

        start = time.perf_counter()
        params, video = self._params, payload.video
        as_float = self._settings.dtype == "float32"
        if isinstance(video, list):
            made = batch_on(
                params.transform_device,
                video,
                self._settings.frame_size,
                params.scale_algorithm,
                params.layout,
                as_float,
            )
        else:
            made = channels_first(self._typed(video, as_float), params.layout)
        batch = Batch(
            video=made,
            label=torch.tensor(payload.labels, dtype=torch.int64, device=made.device),
            samples=len(payload.labels),
            frames=len(payload.labels) * int(made.shape[2]),
            unique_frames=payload.unique_frames,
            decoded_frames=payload.decoded_frames,
        )
        self._counts.transformed(time.perf_counter() - start)
        if self._seen is None:
            self._seen = Seen(payload, batch)
        return batch

    def _typed(self, video: Any, as_float: bool) -> Any:
        """The batch in the type that is handed over, converted where it lies."""
        import numpy as np
        import torch

        if video.dtype == torch.float32 or not as_float:
            return video
        if video.device.type != "cpu":
            return video.float().div_(255.0)
        # NumPy converts on this thread alone; torch would start a team of them.
        out = self._buffers.take(tuple(video.shape), np.float32)
        np.divide(video.numpy(), np.float32(255), out=out, dtype=np.float32)
        return torch.from_numpy(out)

    def readback(self) -> ParamValues:
        """Every parameter as read from the PrefetchLoader and from a batch. Waits for the
        first."""
        if self._seen is None:
            self._first = self._next()
        if self._seen is None:
            raise RuntimeError("the loader has no batch to read its parameters from")
        return self._read_back(self._seen)

    def _read_back(self, seen: Seen) -> ParamValues:
        waited, video = seen.payload.video, seen.batch.video
        decoding = seen.payload.facts.decoding
        clips = isinstance(waited, list)
        cached = waited[0] if clips else waited
        on_host = cached.device.type == "cpu"
        values: dict[str, Any] = {
            "cache_batches": self._prefetch.cache_batches,
            "num_threads": self._prefetch.num_threads,
            # The option that is given to each decoder.
            "decoder_threads": decoding.threads,
            "cache_device": str(cached.device.type),
            "pin_memory": bool(cached.is_pinned()) if on_host else False,
            # What waits as clips becomes a batch where it is handed over.
            "transform_device": str(video.device.type) if clips else "cpu",
            "wire_dtype": "float32" if clips else str(cached.dtype).removeprefix("torch."),
            "layout": "copy" if video.is_contiguous() else "view",
            "decoder": decoding.decoder,
            # What decoded did not scale: so what came after it did.
            "resize": "frame" if decoding.size is not None else "batch",
            "subclip_duration": decoding.duration,
            "subclip_start": "random" if decoding.random_start else "first",
            "batch_size": int(video.shape[0]),
            "scale_algorithm": decoding.scale_algorithm,
        }
        return {name: values[name] for name in Params.model_fields}

    def stage_stats(self) -> list[StageStats]:
        return self._counts.take()

    def queues(self) -> list[QueueLevel]:
        prefetch = self._prefetch
        return [QueueLevel("sink", prefetch.ready, prefetch.cache_batches)]

    def cache_use(self) -> CacheUse:
        """Samples and batches that wait, in host memory or where ``cache_device`` puts them."""
        found = self._prefetch.cache_bytes
        self._prefetch.restart_cache_bytes()
        return CacheUse(found.peak, found.mean)

    def failed(self) -> tuple[int, list[FailedClip]]:
        return self._log.report()

    def accounts(self) -> Accounts:
        """Samples begun, with one more for each clip that failed in the place of another."""
        under_way = (self._prefetch.cache_batches + 1) * self._params.batch_size
        return Accounts(self._prefetch.handed_out + self._log.report()[0], under_way)

    def warnings(self) -> list[str]:
        return warnings(self._settings.emulated_latency_ms)

    def versions(self) -> dict[str, str]:
        return loaded_versions(self._params.decoder)

    def close(self) -> None:
        """Wait for the samples that the threads are at, and end them."""
        self._closed.set()
        self._first = self._seen = None
        self._prefetch.close()

"""Samples to what crosses from a worker to the training process. Runs in the workers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from autotune.targets.spdl_video.failures import ClipFailure, StageCrash
from autotune.targets.torch_dataloader.dataset import DecodeSettings, Sample
from autotune.targets.torch_dataloader.transforms import batch_shape, scale, write_sample


class SharedMemoryExhausted(MemoryError):
    """A worker could not get the shared memory for a batch."""


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a process that makes batches found itself to be."""

    pid: int
    worker: int | None
    """Its number among the workers; None in the training process."""
    torch_threads: int
    cores: tuple[int, ...]
    """The cores it may run on."""
    decoding: DecodeSettings
    scaled_batch: bool
    """Whether collate scaled."""


@dataclass
class WorkerBatch:
    """One batch on its way; DataLoader pins its tensors through `pin_memory`.

    Attributes:
        video: one tensor, laid out by `transforms.batch_shape`; or a list of uint8 tensors
            [T, H, W, C], one a sample, for the GPU; None where no sample could be decoded.
        seconds: time by part of the work, summed over the samples, ``collate`` included.
    """

    video: Any
    labels: list[int]
    unique_frames: int
    decoded_frames: int
    seconds: dict[str, float]
    facts: WorkerFacts
    failures: list[ClipFailure] = field(default_factory=list)
    crash: StageCrash | None = None

    def pin_memory(self) -> WorkerBatch:
        """The same in page-locked memory; called by DataLoader's thread."""
        video = self.video
        if isinstance(video, list):
            return replace(self, video=[clip.pin_memory() for clip in video])
        return self if video is None else replace(self, video=video.pin_memory())


class Collate:
    """Makes one `WorkerBatch` of samples; picklable, as spawned workers are sent it.

    Args:
        decoding: how samples are decoded, reported back.
        size: height and width to scale to here, where the decoder did not; None: nothing to do.
        scale_algorithm: how.
        wire: ``float32``, ``uint8``, or ``clips``: one uint8 tensor a sample, as decoded.
        layout: ``copy`` or ``view``.
        done: shared counters, one a worker, of the batches made.
    """

    def __init__(
        self,
        decoding: DecodeSettings,
        size: tuple[int, int] | None,
        scale_algorithm: str,
        wire: str,
        layout: str,
        done: Any,
    ) -> None:
        self._decoding = decoding
        self._size = size
        self._scale_algorithm = scale_algorithm
        self._wire = wire
        self._layout = layout
        self._done = done

    def __call__(self, samples: Sequence[Sample]) -> WorkerBatch:
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        number = None if info is None else info.id
        seconds = _sum(sample.seconds for sample in samples)
        batch = WorkerBatch(
            video=None,
            labels=[sample.label for sample in samples],
            unique_frames=sum(s.clip.unique_frames for s in samples if s.clip is not None),
            decoded_frames=sum(s.clip.decoded_frames for s in samples if s.clip is not None),
            seconds=seconds,
            facts=_facts(number, self._decoding, self._size is not None),
            failures=[failure for sample in samples for failure in sample.failures],
            crash=next((s.crash for s in samples if s.crash is not None), None),
        )
        if all(sample.clip is not None for sample in samples):
            try:
                batch.video = self._video(samples, shared=info is not None, seconds=seconds)
            except Exception as error:  # raised again by the loader
                batch.crash = StageCrash("collate", error)
        if number is not None:
            self._done[number] += 1
        return batch

    def _video(self, samples: Sequence[Sample], shared: bool, seconds: dict[str, float]) -> Any:
        import torch

        clips = [sample.clip.frames for sample in samples if sample.clip is not None]
        if self._size is not None:
            start = time.perf_counter()
            size, algorithm = self._size, self._scale_algorithm
            clips = [scale(torch.from_numpy(c), size, algorithm).numpy() for c in clips]
            seconds["scale"] = seconds.get("scale", 0.0) + time.perf_counter() - start
        start = time.perf_counter()
        if self._wire == "clips":
            video: Any = [self._copied(clip, shared) for clip in clips]
        else:
            shape = batch_shape(len(clips), clips[0].shape, self._layout)
            dtype = torch.float32 if self._wire == "float32" else torch.uint8
            video = new_tensor(shape, dtype, shared)
            for slot, clip in zip(video.numpy(), clips, strict=True):
                write_sample(slot, clip, self._layout)
        seconds["collate"] = time.perf_counter() - start
        return video

    def _copied(self, clip: Any, shared: bool) -> Any:
        import torch

        if not shared:
            return torch.from_numpy(clip)
        tensor = new_tensor(clip.shape, torch.uint8, shared)
        write_sample(tensor.numpy(), clip, "view")
        return tensor


def new_tensor(shape: tuple[int, ...], dtype: Any, shared: bool) -> Any:
    """A tensor whose content is undefined, in shared memory where it will cross a process.

    DataLoader would copy any other tensor there once more; torch's own collate does the same.

    Raises:
        SharedMemoryExhausted: there is no room in /dev/shm.
    """
    import torch

    if not shared:
        return torch.empty(shape, dtype=dtype)
    tensor = torch.empty(0, dtype=dtype)
    count = 1
    for side in shape:
        count *= side
    size = count * tensor.element_size()
    _check_room(size)
    try:
        storage = torch.UntypedStorage._new_shared(size)
    except RuntimeError as error:  # all it does is to ask the system for shared memory
        raise SharedMemoryExhausted(
            f"a batch takes {size / 2**20:.1f} MiB of shared memory, and another worker took the "
            f"room in /dev/shm meanwhile: {str(error).splitlines()[0]}"
        ) from error
    return tensor.set_(storage, 0, shape)


def _check_room(size: int) -> None:
    """Fail where /dev/shm has no room for ``size`` bytes: writing to it would be a bus error.

    Raises:
        SharedMemoryExhausted: so it is.
    """
    try:
        status = os.statvfs("/dev/shm")
    except OSError:  # elsewhere; then torch finds another way
        return
    free = status.f_bavail * status.f_frsize
    if free < size:
        total = status.f_blocks * status.f_frsize
        raise SharedMemoryExhausted(
            f"a batch takes {size / 2**20:.1f} MiB of shared memory, and {free / 2**20:.1f} of the "
            f"{total / 2**20:.1f} MiB of /dev/shm are free"
        )


def _facts(worker: int | None, decoding: DecodeSettings, scaled: bool) -> WorkerFacts:
    import torch

    return WorkerFacts(
        pid=os.getpid(),
        worker=worker,
        torch_threads=torch.get_num_threads(),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        decoding=decoding,
        scaled_batch=scaled,
    )


def _sum(parts: Any) -> dict[str, float]:
    total: dict[str, float] = {}
    for seconds in parts:
        for part, spent in seconds.items():
            total[part] = total.get(part, 0.0) + spent
    return total

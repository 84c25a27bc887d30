"""The parameters and settings of the target `torch_dataloader`.

A new parameter is one line in `Params` (and one in `search_spaces/torch_dataloader.yaml`), used
where the DataLoader is built and read back in `readback`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import ClassVar, Literal

from pydantic import Field

from autotune.targets.samples import Inactive, SampleParams, SampleSettings
from autotune.targets.storage_latency import EmulatedLatency

DecoderName = Literal[
    "pyav",
    "spdl",
    "opencv",
    "opencv_buffer",
    "decord",
    "torchcodec",
    "torchvision",
    "pytorchvideo",
]


OWN_THREADS: Inactive = MappingProxyType(
    {("decoder", name): ("decoder_threads",) for name in ("torchvision", "pytorchvideo")}
)
"""Decoders that offer no number of threads."""

NEEDS_WORKERS = (
    "prefetch_factor",
    "persistent_workers",
    "multiprocessing_context",
    "in_order",
    "torch_threads",
    "worker_affinity",
    "wire_dtype",
)


class DataLoaderParams(SampleParams):
    """What can be tuned in any DataLoader of samples of frames, whatever they are read from.
    Defaults are DataLoader's own where it has any to offer."""

    inactive: ClassVar[Inactive] = MappingProxyType(
        {("num_workers", 0): NEEDS_WORKERS, ("transform_device", "cuda"): ("wire_dtype",)}
    )

    num_workers: int = Field(2, ge=0, le=1024)
    prefetch_factor: int = Field(2, ge=1, le=1024)
    pin_memory: bool = False
    persistent_workers: bool = False
    multiprocessing_context: Literal["fork", "forkserver", "spawn"] = "fork"
    in_order: bool = True
    torch_threads: int = Field(1, ge=1, le=1024)
    worker_affinity: Literal["none", "spread", "reserve"] = "none"
    resize: Literal["frame", "batch"] = "frame"
    transform_device: Literal["cpu", "cuda"] = "cpu"
    wire_dtype: Literal["float32", "uint8"] = "float32"
    layout: Literal["copy", "view"] = "copy"


class Params(DataLoaderParams):
    """What can be tuned."""

    inactive: ClassVar[Inactive] = MappingProxyType({**DataLoaderParams.inactive, **OWN_THREADS})

    decoder_threads: int = Field(1, ge=1, le=64)
    decoder: DecoderName = "pyav"


class DataLoaderSettings(SampleSettings):
    """What is fixed for a study, whatever the samples are read from."""

    epoch_batches: int = Field(1000, ge=1)
    """Batches after which the DataLoader is iterated anew, which is where its workers persist or
    not. Its samples go on in the seeded order. The default lets a few sample clips stand for a
    data set whose epochs take minutes; set it to data set size / batch size to count what the
    ends of short epochs cost."""


class Settings(DataLoaderSettings):
    """What is fixed for a study."""

    ffmpeg: Literal["bundled", "system"] = "bundled"
    """FFmpeg of PyAV's wheel, or the system's, for the decoders that load one by its plain name
    (spdl, torchcodec). PyAV, OpenCV and decord carry their own."""
    emulated_latency_ms: EmulatedLatency = 0.0
    """Milliseconds that every clip takes longer to open, as on slow storage (see
    `targets.storage_latency`)."""

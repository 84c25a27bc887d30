"""The parameters and settings of the target `torch_dataloader`.

A new parameter is one line in `Params` (and one in `search_spaces/torch_dataloader.yaml`), used
where the DataLoader is built and read back in `readback`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from autotune.targets.storage_latency import EmulatedLatency

ScaleAlgorithm = Literal["bicubic", "bilinear", "fast_bilinear", "area", "lanczos"]
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


Inactive = Mapping[tuple[str, int | str], tuple[str, ...]]
"""(parameter, value) -> parameters without effect then. The search space gives them a `when`."""

NEEDS_WORKERS = (
    "prefetch_factor",
    "persistent_workers",
    "multiprocessing_context",
    "in_order",
    "torch_threads",
    "worker_affinity",
    "wire_dtype",
)


class DataLoaderParams(BaseModel):
    """What can be tuned in any DataLoader of samples of frames, whatever they are read from.
    Defaults are DataLoader's own where it has any to offer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    subclip_duration: float = Field(2.0, gt=0)
    subclip_start: Literal["first", "random"] = "first"
    batch_size: int = Field(16, ge=1, le=4096)
    scale_algorithm: ScaleAlgorithm = "bicubic"

    @model_validator(mode="after")
    def _effective(self) -> Self:
        """Refuse a value that would do nothing: it would be measured as if it had an effect."""
        for (key, value), names in self.inactive.items():
            for name in names:
                given, default = getattr(self, name), type(self).model_fields[name].default
                if getattr(self, key) == value and given != default:
                    raise ValueError(
                        f"{name}: {given} has no effect with {key}: {value}; leave it at its "
                        f"default {default}, or change {key}"
                    )
        return self


class Params(DataLoaderParams):
    """What can be tuned."""

    decoder_threads: int = Field(1, ge=1, le=64)
    decoder: DecoderName = "pyav"


class DataLoaderSettings(BaseModel):
    """What is fixed for a study, whatever the samples are read from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_frames: int = Field(16, ge=1, le=1024)
    """Frames of a sample, T."""
    frame_size: tuple[int, int] = (112, 112)
    """Height and width of a frame in pixels, both even, as in every target."""
    dtype: Literal["float32", "uint8"] = "float32"
    """Type of the video handed over: float32 in 0..1, or uint8 in 0..255."""
    epoch_batches: int = Field(1000, ge=1)
    """Batches after which the DataLoader is iterated anew, which is where its workers persist or
    not. Its samples go on in the seeded order. The default lets a few sample clips stand for a
    data set whose epochs take minutes; set it to data set size / batch size to count what the
    ends of short epochs cost."""

    @field_validator("frame_size")
    @classmethod
    def _even(cls, value: tuple[int, int]) -> tuple[int, int]:
        if any(side < 2 or side > 8192 or side % 2 for side in value):
            raise ValueError("accepted are two even numbers, height and width, from 2 to 8192")
        return value


class Settings(DataLoaderSettings):
    """What is fixed for a study."""

    ffmpeg: Literal["bundled", "system"] = "bundled"
    """FFmpeg of PyAV's wheel, or the system's, for the decoders that load one by its plain name
    (spdl, torchcodec). PyAV, OpenCV and decord carry their own."""
    emulated_latency_ms: EmulatedLatency = 0.0
    """Milliseconds that every clip takes longer to open, as on slow storage (see
    `targets.storage_latency`)."""

"""The parameters and settings of the target `spdl_video`.

A new parameter is one line in `Params` (and one in `search_spaces/spdl_video.yaml`), used where
the pipeline is built and read back in `readback`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ScaleAlgorithm = Literal["bicubic", "bilinear", "fast_bilinear", "area", "lanczos"]


class Params(BaseModel):
    """What can be tuned. Defaults are those of the published baseline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_fetch_threads: int = Field(8, ge=1, le=1024)
    num_demux_threads: int = Field(8, ge=1, le=1024)
    num_decode_threads: int = Field(16, ge=1, le=1024)
    decoder_threads: int = Field(1, ge=1, le=64)
    sink_buffer_size: int = Field(3, ge=1, le=1024)
    backend_buffer_size: int = Field(3, ge=1, le=1024)
    process_mode: Literal["in_process", "subprocess"] = "in_process"
    arena: Literal["off", "pool"] = "off"
    gc_policy: Literal["automatic", "between_epochs"] = "automatic"
    device: Literal["cpu", "nvdec"] = "cpu"
    subclip_duration: float = Field(2.0, gt=0)
    subclip_start: Literal["first", "random"] = "first"
    batch_size: int = Field(16, ge=1, le=4096)
    scale_algorithm: ScaleAlgorithm = "bicubic"

    @model_validator(mode="after")
    def _effective(self) -> Params:
        """Refuse a value that would do nothing: it would be measured as if it had an effect."""
        for (key, value), names in _INACTIVE.items():
            for name in names:
                given, default = getattr(self, name), type(self).model_fields[name].default
                if getattr(self, key) == value and given != default:
                    raise ValueError(
                        f"{name}: {given} has no effect with {key}: {value}; leave it at its "
                        f"default {default}, or change {key}"
                    )
        return self


# (parameter, value) -> parameters without effect then. The search space gives them a `when`.
_INACTIVE: dict[tuple[str, str], tuple[str, ...]] = {
    ("process_mode", "in_process"): ("arena", "backend_buffer_size"),
    ("device", "nvdec"): ("decoder_threads",),
}


class Settings(BaseModel):
    """What is fixed for a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_frames: int = Field(16, ge=1, le=1024)
    """Frames of a sample, T."""
    frame_size: tuple[int, int] = (112, 112)
    """Height and width of a frame in pixels, both even (NVDEC scales to even sizes only)."""
    ffmpeg: Literal["bundled", "system"] = "bundled"
    """FFmpeg of PyAV's wheel, or the system's."""
    clips_per_fetch: int = Field(1, ge=1, le=256)
    """Files that one fetch reads, one after the other. The published example's local data set
    reads one, its bulk data sets several; several spare the event loop a quarter of its work."""
    dtype: Literal["float32", "uint8"] = "float32"
    """Type of the video handed over: float32 in 0..1 as the published example's, or uint8 in
    0..255, for trainings that convert on the accelerator."""

    @field_validator("frame_size")
    @classmethod
    def _even(cls, value: tuple[int, int]) -> tuple[int, int]:
        if any(side < 2 or side > 8192 or side % 2 for side in value):
            raise ValueError("accepted are two even numbers, height and width, from 2 to 8192")
        return value

    @property
    def height(self) -> int:
        return self.frame_size[0]

    @property
    def width(self) -> int:
        return self.frame_size[1]

"""The parameters and settings of the target `spdl_video`.

A new parameter is one line in `Params` (and one in `search_spaces/spdl_video.yaml`), used where
the pipeline is built and read back in `readback`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import ClassVar, Literal

from pydantic import Field

from autotune.targets.samples import Inactive, SampleParams, SampleSettings


class Params(SampleParams):
    """What can be tuned. Defaults are those of the published baseline."""

    inactive: ClassVar[Inactive] = MappingProxyType(
        {
            ("process_mode", "in_process"): ("arena", "backend_buffer_size"),
            ("device", "nvdec"): ("decoder_threads",),
        }
    )

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


class Settings(SampleSettings):
    """What is fixed for a study."""

    ffmpeg: Literal["bundled", "system"] = "bundled"
    """FFmpeg of PyAV's wheel, or the system's."""
    clips_per_fetch: int = Field(1, ge=1, le=256)
    """Files that one fetch reads, one after the other. The published example's local data set
    reads one, its bulk data sets several; several spare the event loop a quarter of its work."""

"""The parameters and settings of the target `prefetch_cache`.

A new parameter is one line in `Params` (and one in `search_spaces/prefetch_cache.yaml`), used in
`build` and read back in `loader`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from autotune.targets.torch_dataloader.params import DecoderName, ScaleAlgorithm
from autotune.targets.torch_dataloader.params import Settings as DataLoaderSettings


class Params(BaseModel):
    """What can be tuned. A name that `torch_dataloader` has too means the same here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache_batches: int = Field(8, ge=1, le=65536)
    num_threads: int = Field(8, ge=1, le=1024)
    decoder_threads: int = Field(1, ge=1, le=64)
    cache_device: Literal["cpu", "cuda"] = "cpu"
    pin_memory: bool = False
    transform_device: Literal["cpu", "cuda"] = "cpu"
    wire_dtype: Literal["float32", "uint8"] = "float32"
    layout: Literal["copy", "view"] = "copy"
    decoder: DecoderName = "pyav"
    resize: Literal["frame", "batch"] = "frame"
    subclip_duration: float = Field(2.0, gt=0)
    subclip_start: Literal["first", "random"] = "first"
    batch_size: int = Field(16, ge=1, le=4096)
    scale_algorithm: ScaleAlgorithm = "bicubic"

    @model_validator(mode="after")
    def _effective(self) -> Params:
        """Refuse a value that would do nothing: it would be measured as if it had an effect."""
        for name, key, value in _INACTIVE:
            given, default = getattr(self, name), type(self).model_fields[name].default
            if getattr(self, key) == value and given != default:
                raise ValueError(
                    f"{name}: {given} has no effect with {key}: {value}; leave it at its default "
                    f"{default}, or change {key}"
                )
        return self


_INACTIVE = (
    ("pin_memory", "cache_device", "cuda"),
    ("wire_dtype", "transform_device", "cuda"),
)
"""A parameter that has no effect where another one has a value. The search space has a `when`."""


class Settings(DataLoaderSettings):
    """What is fixed for a study: as for `torch_dataloader`."""

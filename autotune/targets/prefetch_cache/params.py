"""The parameters and settings of the target `prefetch_cache`.

A new parameter is one line in `Params` (and one in `search_spaces/prefetch_cache.yaml`), used in
`build` and read back in `loader`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import ClassVar, Literal

from pydantic import Field

from autotune.targets.samples import Inactive, SampleParams
from autotune.targets.torch_dataloader.params import OWN_THREADS, DecoderName
from autotune.targets.torch_dataloader.params import Settings as DataLoaderSettings


class Params(SampleParams):
    """What can be tuned. A name that `torch_dataloader` has too means the same here."""

    inactive: ClassVar[Inactive] = MappingProxyType(
        {
            ("cache_device", "cuda"): ("pin_memory",),
            ("transform_device", "cuda"): ("wire_dtype",),
            **OWN_THREADS,
        }
    )

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


class Settings(DataLoaderSettings):
    """What is fixed for a study: as for `torch_dataloader`."""

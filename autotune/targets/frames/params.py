"""The parameters and settings of the target `frames`.

Those of a DataLoader are `torch_dataloader`'s, those of SPDL's threads `spdl_video`'s.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field

from autotune.targets.samples import Inactive, SampleParams
from autotune.targets.torch_dataloader.params import DataLoaderParams, DataLoaderSettings
from autotune.targets.torch_dataloader.params import Params as TorchParams
from autotune.targets.torch_dataloader.params import Settings as TorchSettings

WORKLOAD = tuple(SampleParams.model_fields)
"""Parameters that both readers have."""

SPDL_ONLY = ("num_fetch_threads", "num_decode_threads", "sink_buffer_size", "gc_policy")

DATALOADER_ONLY = tuple(name for name in DataLoaderParams.model_fields if name not in WORKLOAD)


class Params(DataLoaderParams):
    """What can be tuned. The defaults are those of the targets the parameters come from."""

    inactive: ClassVar[Inactive] = MappingProxyType(
        {
            ("reader", "spdl_threads"): DATALOADER_ONLY,
            ("reader", "dataloader"): SPDL_ONLY,
            **DataLoaderParams.inactive,
        }
    )

    reader: Literal["dataloader", "spdl_threads"] = "dataloader"
    num_fetch_threads: int = Field(8, ge=1, le=1024)
    num_decode_threads: int = Field(16, ge=1, le=1024)
    sink_buffer_size: int = Field(3, ge=1, le=1024)
    gc_policy: Literal["automatic", "between_epochs"] = "automatic"

    def for_torch(self) -> TorchParams:
        """The same for `torch_dataloader`; PyAV decodes the JPEG files."""
        shared = {name: getattr(self, name) for name in DataLoaderParams.model_fields}
        return TorchParams.model_validate({**shared, "decoder": "pyav"})


class Settings(DataLoaderSettings):
    """What is fixed for a study."""

    def for_torch(self) -> TorchSettings:
        """The same for `torch_dataloader`."""
        return TorchSettings.model_validate(self.model_dump())


def complete(active: dict[str, Any]) -> dict[str, Any]:
    """Every parameter: those read back, and the others at the defaults that they have to have."""
    return {name: active.get(name, field.default) for name, field in Params.model_fields.items()}

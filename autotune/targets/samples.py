"""What the built-in targets share: the sample that each of them delivers, however it is made."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from autotune.trial import Delivered

ScaleAlgorithm = Literal["bicubic", "bilinear", "fast_bilinear", "area", "lanczos"]

Inactive = Mapping[tuple[str, str | int], tuple[str, ...]]
"""(parameter, value) -> parameters without effect then. The search space gives them a `when`."""


class SampleParams(BaseModel):
    """The workload parameters, and the rule that no value may be without effect."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inactive: ClassVar[Inactive] = MappingProxyType({})

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


class SampleSettings(BaseModel):
    """What a sample is, fixed for a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_frames: int = Field(16, ge=1, le=1024)
    """Frames of a sample, T."""
    frame_size: tuple[int, int] = (112, 112)
    """Height and width of a frame in pixels, both even: NVDEC scales to even sizes only, and
    every target makes the same samples."""
    dtype: Literal["float32", "uint8"] = "float32"
    """Type of the video handed over: float32 in 0..1 as the published example's, or uint8 in
    0..255, for trainings that convert on the accelerator."""

    @field_validator("frame_size")
    @classmethod
    def _even(cls, value: tuple[int, int]) -> tuple[int, int]:
        if any(side < 2 or side > 8192 or side % 2 for side in value):
            raise ValueError("accepted are two even numbers, height and width, from 2 to 8192")
        return value

    def delivered(self, on_gpu: bool) -> Delivered:
        """What has to reach the consumer.

        Args:
            on_gpu: whether the configuration hands its batches over there.
        """
        return Delivered(
            shape=[3, self.num_frames, *self.frame_size],
            dtype=self.dtype,
            device="cuda" if on_gpu else "cpu",
            frames_per_sample=self.num_frames,
        )

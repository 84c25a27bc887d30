"""The target `spdl_video`: the pipeline of SPDL's video classification example, rebuilt."""

from __future__ import annotations

from autotune.targets.spdl_video.target import SpdlVideo

__all__ = ["SpdlVideo"]

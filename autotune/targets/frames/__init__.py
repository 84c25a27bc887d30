"""The target `frames`: clips extracted to JPEG files, read by a DataLoader or by SPDL's threads."""

from __future__ import annotations

from autotune.targets.frames.target import Frames

__all__ = ["Frames"]

"""How near decoded frames are to the reference."""

from __future__ import annotations

import math
from typing import Any

GOAL_DB = 35.0
IDENTICAL_DB = 99.0
"""Stands for the infinite PSNR of equal pictures, which JSON cannot say."""


def psnr(a: Any, b: Any) -> float:
    """Peak signal-to-noise ratio of two uint8 arrays of one shape, in dB: 10 log10(255^2 / MSE);
    infinite where they are equal.

    Raises:
        ValueError: if the shapes differ or there is nothing to compare.
    """
    import numpy as np

    left, right = np.asarray(a), np.asarray(b)
    if left.shape != right.shape or left.size == 0:
        raise ValueError(f"shape {left.shape} cannot be compared with shape {right.shape}")
    error = float(np.mean((left.astype(np.float64) - right.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def frame_psnr(a: Any, b: Any) -> list[float]:
    """PSNR of every frame of two arrays [T, H, W, C].

    Raises:
        ValueError: if they have not the same shape.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} frames against {len(b)}")
    return [psnr(x, y) for x, y in zip(a, b, strict=True)]

"""From bytes as decoded to the batch that is handed over: scaling, type, memory order.

Frames are decoded as uint8 [T, H, W, C]; a batch is [N, C, T, H, W], as float32 in 0..1 or as
uint8. ``copy`` lays it out in that order, ``view`` permutes the axes of memory that stays in the
decoder's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from autotune.media.resampling import axis_matrix

CHANNELS_FIRST = (0, 4, 1, 2, 3)
"""[N, T, H, W, C] -> [N, C, T, H, W]."""


def batch_shape(samples: int, frames: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Shape in memory of a batch of samples [T, H, W, C]."""
    count, height, width, channels = frames
    if layout == "copy":
        return (samples, channels, count, height, width)
    return (samples, count, height, width, channels)


def write_sample(slot: Any, frames: Any, layout: str) -> None:
    """Write one sample into its place in a batch, in one pass.

    Args:
        slot: array [C, T, H, W] (``copy``) or [T, H, W, C] (``view``), uint8 or float32.
        frames: uint8 array [T, H, W, C].
        layout: ``copy`` or ``view``.
    """
    import numpy as np

    source = frames.transpose(3, 0, 1, 2) if layout == "copy" else frames
    if slot.dtype == np.uint8:
        np.copyto(slot, source)
    else:
        np.divide(source, np.float32(255), out=slot, dtype=np.float32)


def channels_first(batch: Any, layout: str) -> Any:
    """A batch tensor as laid out by `batch_shape`, seen as [N, C, T, H, W]."""
    return batch if layout == "copy" else batch.permute(*CHANNELS_FIRST)


def scale(frames: Any, size: tuple[int, int], algorithm: str) -> Any:
    """Scale a clip by FFmpeg's filters as two matrix products, where the clip lies.

    Args:
        frames: uint8 tensor [T, H, W, C] on any device.
        size: height and width of the result.
        algorithm: a scale algorithm's name.

    Returns:
        uint8 tensor [T, height, width, C]. Scaled after the conversion to RGB, where the
        decoder's own scaler works before it: colours at edges differ.
    """
    height, width = size
    if tuple(frames.shape[1:3]) == size:
        return frames
    device = str(frames.device)
    rows = _matrix(frames.shape[1], height, algorithm, False, device)
    columns = _matrix(frames.shape[2], width, algorithm, True, device)
    planes = frames.permute(0, 3, 1, 2).float()  # [T, C, H, W]
    scaled = rows @ (planes @ columns.T)
    return scaled.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)


@lru_cache(maxsize=256)
def _matrix(source: int, target: int, algorithm: str, horizontal: bool, device: str) -> Any:
    import torch

    weights = axis_matrix(source, target, algorithm, horizontal=horizontal)
    return torch.tensor(weights, dtype=torch.float32, device=device)


def batch_on(
    device: str,
    clips: Sequence[Any],
    size: tuple[int, int],
    algorithm: str,
    layout: str,
    as_float: bool,
) -> Any:
    """A batch [N, C, T, H, W] on ``device`` from uint8 clips [T, H, W, C] in host memory.

    Copied without waiting where the memory is pinned; scaled, converted and laid out there.
    """
    import torch

    scaled = [scale(clip.to(device, non_blocking=True), size, algorithm) for clip in clips]
    batch = torch.stack(scaled)
    if as_float:
        batch = batch.float().div_(255.0)
    batch = batch.permute(*CHANNELS_FIRST)
    return batch.contiguous() if layout == "copy" else batch

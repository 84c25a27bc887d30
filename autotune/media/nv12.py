"""NV12 frames to scaled RGB with torch, on whatever device they are: NVDEC's frames stay there.

The same steps as the CPU's scaler: each plane is scaled by itself, then the small result is
converted. NVDEC's own scaler is cheaper still, but does not filter as the reference does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from autotune.media.h264 import VideoSignal
from autotune.media.resampling import axis_matrix

_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
"""ISO 23091-2 matrix number -> weights of red and blue in luma."""

UNSUPPORTED = (0, 8)
"""RGB and YCgCo: not luma with two colour differences."""

_UNSPECIFIED = _WEIGHTS[6]
"""FFmpeg's scaler reads an unspecified matrix as BT.601, whatever the size; so must we."""


def conversion(signal: VideoSignal) -> tuple[tuple[tuple[float, float, float], ...], float]:
    """The 3x3 matrix from (Y - offset, Cb - 128, Cr - 128) to RGB, and the offset of luma.

    The matrix must not be one of `UNSUPPORTED`.
    """
    red, blue = _WEIGHTS.get(signal.matrix, _UNSPECIFIED)
    green = 1 - red - blue
    luma, chroma, offset = (1.0, 1.0, 0.0) if signal.full_range else (255 / 219, 255 / 224, 16.0)
    return (
        (luma, 0.0, 2 * (1 - red) * chroma),
        (luma, -2 * (1 - blue) * blue / green * chroma, -2 * (1 - red) * red / green * chroma),
        (luma, 2 * (1 - blue) * chroma, 0.0),
    ), offset


def to_rgb(nv12: Any, *, width: int, height: int, scale_algorithm: str, signal: VideoSignal) -> Any:
    """Scale and convert a batch of NV12 frames.

    Args:
        nv12: uint8 tensor [N, H * 3 / 2, W]: H rows of luma, then H / 2 of interleaved chroma.
        width, height: of the result, in pixels.
        scale_algorithm: as the CPU's.
        signal: how the samples are to be read.

    Returns:
        uint8 tensor [N, 3, height, width] on the same device.
    """
    import torch

    rows, columns = nv12.shape[1] // 3 * 2, nv12.shape[2]
    chroma_columns = (width + 1) // 2
    # Chroma samples lie on the left luma sample of each pair: a quarter of their own distance
    # left of the middle of the pair. Into packed RGB, FFmpeg makes one for two pixels of a row.
    across = _matrix(columns, width, scale_algorithm, 0.0, True, nv12.device)
    chroma_across = _matrix(columns // 2, chroma_columns, scale_algorithm, 0.25, True, nv12.device)
    down = _matrix(rows, height, scale_algorithm, 0.0, False, nv12.device)
    chroma_down = _matrix(rows // 2, height, scale_algorithm, 0.0, False, nv12.device)

    luma = nv12[:, None, :rows, :].to(torch.float32)
    chroma = nv12[:, rows:, :].unflatten(2, (-1, 2)).permute(0, 3, 1, 2).to(torch.float32)
    y = down @ (luma @ across.T)
    uv = chroma_down @ (chroma @ chroma_across.T)
    uv = uv.repeat_interleave(2, dim=3)[..., :width]

    weights, offset = _weights(signal, nv12.device)
    rgb = torch.einsum("oc,nchw->nohw", weights, torch.cat((y, uv), dim=1) - offset)
    return rgb.round_().clamp_(0, 255).to(torch.uint8)


def _matrix(
    source: int, destination: int, algorithm: str, offset: float, horizontal: bool, device: Any
) -> Any:
    """`resampling.axis_matrix` as float32 tensor [destination, source] on ``device``."""
    return _read_here(_matrix_on(source, destination, algorithm, offset, horizontal, device))


def _weights(signal: VideoSignal, device: Any) -> tuple[Any, Any]:
    """The matrix [3, 3] to RGB and what is taken from Y, Cb and Cr before [1, 3, 1, 1]."""
    matrix, before = _weights_on(signal, device)
    return _read_here(matrix), _read_here(before)


def _read_here(shared: Any) -> Any:
    """Tell torch's allocator that the current stream reads a tensor which threads share.

    Each thread has a stream of its own. Without this, the memory of a matrix that the cache lets
    go is used again as soon as the stream that made it allows, while another still reads it.
    """
    if shared.is_cuda:
        import torch

        shared.record_stream(torch.cuda.current_stream(shared.device))
    return shared


@lru_cache(maxsize=256)
def _matrix_on(
    source: int, destination: int, algorithm: str, offset: float, horizontal: bool, device: Any
) -> Any:
    return _matrix_on_cpu(source, destination, algorithm, offset, horizontal).to(device)


@lru_cache(maxsize=1024)
def _matrix_on_cpu(
    source: int, destination: int, algorithm: str, offset: float, horizontal: bool
) -> Any:
    """Kept for longer than the device's copy: its making takes milliseconds, under the GIL."""
    import torch

    rows = axis_matrix(source, destination, algorithm, offset, horizontal)
    return torch.tensor(rows, dtype=torch.float32)


@lru_cache(maxsize=64)
def _weights_on(signal: VideoSignal, device: Any) -> tuple[Any, Any]:
    import torch

    matrix, offset = conversion(signal)
    before = torch.tensor((offset, 128.0, 128.0), device=device).reshape(1, 3, 1, 1)
    return torch.tensor(matrix, dtype=torch.float32, device=device), before

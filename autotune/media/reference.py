"""The slow reference: PyAV, frame by frame. What the fast path delivers must equal this.

The best video stream; frames with ``start <= pts - first < start + duration``; the indices of
`windows.sample_indices`; each frame stretched to the size with the same scaler.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from autotune.exceptions import DataError
from autotune.media.windows import pts_window, sample_indices


@dataclass(frozen=True, slots=True)
class ReferenceClip:
    """Frames as uint8 array [T, H, W, 3] in RGB, and their pts in ticks."""

    frames: Any
    pts: tuple[int, ...]
    time_base: Fraction


def reference_frames(
    data: bytes, name: str, start: float, duration: float
) -> tuple[list[Any], Fraction]:
    """The ``av.VideoFrame`` objects of a window, in order, and their time base.

    Raises:
        DataError: the clip cannot be decoded, or no frame lies in the window.
    """
    import av

    inside: list[Any] = []
    try:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.best("video")
            if stream is None or stream.time_base is None:
                raise DataError(name, "no video stream")
            time_base = Fraction(stream.time_base)
            window = None
            for frame in container.decode(stream):
                if frame.pts is None:
                    continue
                if window is None:
                    window = pts_window(frame.pts, time_base, start, duration)
                if frame.pts in window:
                    inside.append(frame)
                elif frame.pts >= window.hi:
                    break  # frames come out in presentation order
    except av.FFmpegError as error:
        raise DataError(name, str(error)) from error
    if not inside:
        raise DataError(name, f"no frame in [{start}, {start + duration}) s")
    return inside, time_base


def stretched(frame: Any, *, width: int, height: int, scale_algorithm: str) -> Any:
    """One frame as uint8 array [height, width, 3] in RGB, by PyAV's scaler."""
    return frame.reformat(
        width=width, height=height, format="rgb24", interpolation=scale_algorithm.upper()
    ).to_ndarray()


def decode_reference(
    data: bytes,
    name: str,
    start: float,
    duration: float,
    *,
    num_frames: int,
    width: int,
    height: int,
    scale_algorithm: str = "bicubic",
) -> ReferenceClip:
    """Decode a window the slow, obvious way; arguments as `demux_window` and `decode_cpu`.

    Raises:
        DataError: as `reference_frames`.
    """
    import numpy as np

    inside, time_base = reference_frames(data, name, start, duration)
    taken = [inside[i] for i in sample_indices(len(inside), num_frames)]
    pictures = [
        stretched(frame, width=width, height=height, scale_algorithm=scale_algorithm)
        for frame in taken
    ]
    return ReferenceClip(np.stack(pictures), tuple(frame.pts for frame in taken), time_base)

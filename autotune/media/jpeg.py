"""JPEG frames, by the FFmpeg of PyAV's wheel: a codec context that is kept, and no container.

Opening each picture as a file of its own, as `av.open` and `spdl.io.load_image` do, takes three to
five times as long as decoding it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

_TICK = Fraction(1, 25)
_START, _END = b"\xff\xd8", b"\xff\xd9"


class JpegEncoder:
    """Frames of one size to JPEG; one thread at a time.

    Args:
        width, height: pixels.
        quality: 1 (best) to 31, as FFmpeg's ``-q:v``.
        pixel_format: see `pixel_format`.
    """

    def __init__(
        self, width: int, height: int, quality: int, pixel_format: str = "yuvj420p"
    ) -> None:
        import av
        from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

        self._reformatter = VideoReformatter()
        self._picture: dict[str, Any] = {
            "width": width,
            "height": height,
            "format": pixel_format,
            "interpolation": "BICUBIC",
            "dst_colorspace": Colorspace.ITU601,  # JPEG's one matrix, over the full range
            "dst_color_range": ColorRange.JPEG,
        }
        self._context: Any = av.CodecContext.create("mjpeg", "w")
        self._context.width, self._context.height = width, height
        self._context.pix_fmt = pixel_format
        self._context.time_base = _TICK
        self._context.thread_count = 1
        self._context.qmin = self._context.qmax = quality
        self._number = 0

    def __call__(self, frame: Any) -> bytes:
        """An ``av.VideoFrame`` of any size and format, stretched to the encoder's size.

        Raises:
            av.FFmpegError: it cannot be converted.
        """
        picture: Any = self._reformatter.reformat(frame, **self._picture)
        picture.pts, picture.time_base = self._number, _TICK
        self._number += 1
        return b"".join(bytes(packet) for packet in self._context.encode(picture))


def pixel_format(frame: Any) -> str:
    """The format in which JPEG loses no colour that an ``av.VideoFrame`` has: its chroma planes
    are as large as the frame's own, but never smaller than a quarter of the picture."""
    of = frame.format
    if len(of.components) < 3 or of.chroma_height(frame.height) < frame.height:
        return "yuvj420p"
    return "yuvj422p" if of.chroma_width(frame.width) < frame.width else "yuvj444p"


class JpegDecoder:
    """JPEG to frames; one thread at a time."""

    def __init__(self) -> None:
        import av

        self._av = av
        self._context: Any = av.CodecContext.create("mjpeg", "r")
        self._context.thread_count = 1

    def __call__(self, data: bytes) -> Any:
        """The ``av.VideoFrame`` of one JPEG file.

        Raises:
            ValueError: it is none, or one that was cut off.
        """
        if not (data.startswith(_START) and data.endswith(_END)):
            raise ValueError("is no JPEG, or was cut off")
        try:
            frames = self._context.decode(self._av.Packet(data))
        except self._av.FFmpegError as error:
            raise ValueError(f"is no JPEG: {error.strerror}") from error
        if len(frames) != 1:
            raise ValueError(f"holds {len(frames)} pictures, not one")
        return frames[0]

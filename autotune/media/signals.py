"""How a clip's samples are to be read: from its parameter sets, else by asking a decoder."""

from __future__ import annotations

import io
from typing import Any

from autotune.exceptions import DataError
from autotune.media import iso_media
from autotune.media.h264 import VideoSignal, signal_from_movie


def read_signal(data: bytes, name: str) -> VideoSignal:
    """Chroma format, bit depth, range and colour matrix of the best video stream.

    H.264 in a plain MP4 says so in its parameter set, which costs microseconds. Anything else is
    opened with PyAV, which takes as long as demuxing again and more.

    Raises:
        DataError: no video stream, or one whose format cannot be told.
    """
    if iso_media.opens_without_decoder(data):
        try:
            signal = signal_from_movie(iso_media.movie_box(data))
        except ValueError:
            signal = None
        if signal is not None:
            return signal
    import av

    try:
        with av.open(io.BytesIO(data)) as container:
            stream: Any = container.streams.best("video")
            if stream is None or stream.codec_context.format is None:
                raise DataError(name, "no video stream, or one of unknown pixel format")
            context = stream.codec_context
            pixel = context.format
            luma, chroma = pixel.components[0], pixel.components[-1]
            subsampling = (
                pixel.chroma_width(1 << 10) < 1 << 10, pixel.chroma_height(1 << 10) < 1 << 10
            )  # fmt: skip
            formats = {(True, True): 1, (True, False): 2, (False, False): 3}
            return VideoSignal(
                chroma_format=0 if luma is chroma else formats.get(subsampling, 2),
                bit_depth=luma.bits,
                full_range=pixel.name.startswith("yuvj") or int(context.color_range or 0) == 2,
                matrix=int(context.colorspace or 2),
            )
    except av.FFmpegError as error:
        raise DataError(name, str(error)) from error

"""pytorchvideo's `EncodedVideo`: reads the file, seeks, decodes by PyAV to float tensors.

`get_clip` gives the frames of a window in seconds since the stream's first timestamp, float32 in
0..255, [C, T, H, W]. It takes the first video stream, and its threads are its own business.
"""

from __future__ import annotations

from typing import Any, ClassVar

from autotune.exceptions import DataError
from autotune.media.decoders.base import (
    DecodedWindow,
    Decoder,
    Stopwatch,
    Window,
    assemble,
    check_readable,
    chosen,
    no_frame,
    require,
)
from autotune.media.decoders.containers import with_best_stream_first
from autotune.media.decoders.scaling import Scaler
from autotune.media.packets import one_line

_SHORTER = 5e-4
"""Seconds by which a window is asked for shorter: older versions count a frame in that begins
exactly at its end. Far below the distance of two frames."""


class PyTorchVideo(Decoder):
    """``EncodedVideo.from_path`` and ``get_clip``."""

    name: ClassVar[str] = "pytorchvideo"
    package: ClassVar[str] = "pytorchvideo"
    module: ClassVar[str] = "pytorchvideo.data.encoded_video"

    def __init__(self) -> None:
        self._module = require(self.module, self.package, self.name)
        self._scaler = Scaler()

    def decode(self, path: str, name: str, window: Window) -> DecodedWindow:
        check_readable(path, name)
        watch = Stopwatch()
        try:
            with watch("demux"), with_best_stream_first(path, name) as opened:
                video = self._module.EncodedVideo.from_path(opened, decode_audio=False)
            try:
                with watch("decode"):
                    frames = _frames(video, window)
            finally:
                video.close()
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise DataError(name, one_line(error)) from error
        if frames is None or len(frames) == 0:
            raise no_frame(name, window)
        wanted, places = chosen(len(frames), window)
        with watch("scale"):
            pictures = [self._scaler.rgb(frames[index], window) for index in wanted]
            stacked = assemble(pictures, places)
        return DecodedWindow(stacked, len(wanted), len(frames), watch.seconds)


def _frames(video: Any, window: Window) -> Any:
    """uint8 array [T, H, W, 3] of the window; None where it holds none."""
    import numpy as np

    clip = video.get_clip(window.start, window.start + window.duration - _SHORTER)
    if clip is None or clip["video"] is None:
        return None
    return np.ascontiguousarray(clip["video"].numpy().transpose(1, 2, 3, 0).astype(np.uint8))

"""torchcodec: PyTorch's own decoder, on the CPU."""

from __future__ import annotations

from typing import Any, ClassVar

from autotune.exceptions import DataError
from autotune.media.decoders.base import (
    DecodedWindow,
    Decoder,
    Inside,
    Stopwatch,
    Window,
    assemble,
    check_readable,
    chosen,
    no_frame,
    require,
)
from autotune.media.decoders.scaling import Scaler
from autotune.media.packets import one_line


class TorchCodec(Decoder):
    """``VideoDecoder``; its best stream is FFmpeg's."""

    name: ClassVar[str] = "torchcodec"
    package: ClassVar[str] = "torchcodec"
    module: ClassVar[str] = "torchcodec.decoders"

    def __init__(self) -> None:
        self._decoders = require(self.module, self.package, self.name)
        self._scaler = Scaler()

    def decode(self, path: str, name: str, window: Window) -> DecodedWindow:
        check_readable(path, name)
        watch = Stopwatch()
        try:
            with watch("demux"):
                decoder = self._decoders.VideoDecoder(
                    path, dimension_order="NHWC", num_ffmpeg_threads=window.threads
                )
            with watch("decode"):
                batch = _in_window(decoder, window)
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(name, one_line(error)) from error
        first = float(decoder.metadata.begin_stream_seconds)
        bounds = Inside(window)
        times = [float(time) - first for time in batch.pts_seconds]
        # "Played in" the window is also the frame that began before it and is still shown.
        inside = [i for i, t in enumerate(times) if not bounds.before(t) and not bounds.behind(t)]
        if not inside:
            raise no_frame(name, window)
        wanted, places = chosen(len(inside), window)
        with watch("scale"):
            pictures = [
                self._scaler.rgb(batch.data[inside[index]].numpy(), window) for index in wanted
            ]
            stacked = assemble(pictures, places)
        return DecodedWindow(stacked, len(wanted), len(times), watch.seconds)


def _in_window(decoder: Any, window: Window) -> Any:
    """torchcodec's batch of the frames that are played in the window."""
    about = decoder.metadata
    start = float(about.begin_stream_seconds) + window.start
    end = min(start + window.duration, float(about.end_stream_seconds))
    return decoder.get_frames_played_in_range(start, end)

"""SPDL: the route of the target `spdl_video`, one clip after the other."""

from __future__ import annotations

from typing import ClassVar

from autotune.exceptions import UnsupportedError
from autotune.media.decode import decode_cpu
from autotune.media.decoders.base import (
    DecodedWindow,
    Decoder,
    Stopwatch,
    Window,
    read_file,
    require,
)
from autotune.media.demux import demux_window


class Spdl(Decoder):
    """Packets by SPDL's demuxer, frames chosen and scaled in FFmpeg's filter graph."""

    name: ClassVar[str] = "spdl"
    package: ClassVar[str] = "spdl"
    module: ClassVar[str] = "spdl.io"

    def __init__(self) -> None:
        from autotune.media.native import loaded_ffmpeg

        require(self.module, self.package, self.name)
        try:
            loaded_ffmpeg()
        except UnsupportedError as error:
            raise UnsupportedError(f"decoder: {self.name}: {error}") from error

    def decode(self, path: str, name: str, window: Window) -> DecodedWindow:
        watch = Stopwatch()
        with watch("fetch"):
            data = read_file(path, name)
        with watch("demux"):
            packets = demux_window(data, name, window.start, window.duration)
        height, width = window.size or (packets.height, packets.width)
        with watch("decode"):
            clip = decode_cpu(
                packets,
                num_frames=window.num_frames,
                width=width,
                height=height,
                scale_algorithm=window.scale_algorithm,
                decoder_threads=window.threads,
            )
        return DecodedWindow(
            clip.frames.numpy(), clip.unique_frames, clip.decoded_frames, watch.seconds
        )

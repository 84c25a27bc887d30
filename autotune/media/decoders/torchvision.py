"""torchvision's `read_video`, of the versions that still have it: it is gone from 0.28 on.

Written against its documentation: frames with ``start_pts <= pts <= end_pts``, both in the
stream's own time, and before them the frame that is shown when the window begins. Threads are
its own business.
"""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any, ClassVar

from autotune.exceptions import DataError, UnsupportedError
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
from autotune.media.decoders.pyav import window_pts
from autotune.media.decoders.scaling import Scaler
from autotune.media.packets import one_line


class TorchVision(Decoder):
    """``torchvision.io.read_video``."""

    name: ClassVar[str] = "torchvision"
    package: ClassVar[str] = "torchvision"

    def __init__(self) -> None:
        module = require("torchvision.io", self.package, self.name)
        self._read = getattr(module, "read_video", None)
        if self._read is None:
            raise UnsupportedError(
                f"decoder: {self.name}: this version of torchvision has no read_video any more "
                "(its release 0.28 removed it); use the decoder torchcodec, which replaces it"
            )
        self._av = require("av", "av", self.name)
        self._scaler = Scaler()

    def decode(self, path: str, name: str, window: Window) -> DecodedWindow:
        check_readable(path, name)
        watch = Stopwatch()
        try:
            with watch("demux"), self._av.open(path) as container:
                stream = container.streams.best("video")
                pts, time_base = window_pts(container, stream, window)
            if not pts:
                raise no_frame(name, window)
            with watch("decode"):
                frames = self._between(path, pts[0] * time_base, pts[-1] * time_base)
        except (self._av.FFmpegError, RuntimeError, ValueError) as error:
            raise DataError(name, one_line(error)) from error
        if len(frames) == 0:
            raise no_frame(name, window)
        wanted, places = chosen(len(frames), window)
        with watch("scale"):
            pictures = [self._scaler.rgb(frames[index].numpy(), window) for index in wanted]
            stacked = assemble(pictures, places)
        return DecodedWindow(stacked, len(wanted), len(frames), watch.seconds)

    def _between(self, path: str, first: Fraction, last: Fraction) -> Any:
        """uint8 [T, H, W, 3], the frames from ``first`` to ``last``, both of them included."""
        with warnings.catch_warnings():  # that it is deprecated is known here
            warnings.simplefilter("ignore")
            assert self._read is not None
            frames, _, _ = self._read(
                path, start_pts=first, end_pts=last, pts_unit="sec", output_format="THWC"
            )
        return frames

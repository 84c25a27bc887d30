"""torchvision's `read_video`, of the versions that still have it: it is gone from 0.26 on.

It gives the frames with ``start_pts <= pts <= end_pts`` of the first video stream, both in the
stream's own time, and before them the frame that is shown when the window begins; but no pts. So
they are asked for by the times of the first and the last frame wanted. Threads are its own
business.
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
from autotune.media.decoders.containers import Timestamps, timestamps, with_best_stream_first
from autotune.media.decoders.scaling import Scaler
from autotune.media.packets import one_line
from autotune.media.windows import pts_window


class TorchVision(Decoder):
    """``torchvision.io.read_video``."""

    name: ClassVar[str] = "torchvision"
    package: ClassVar[str] = "torchvision"
    module: ClassVar[str] = "torchvision.io"

    def __init__(self) -> None:
        module = require(self.module, self.package, self.name)
        self._read = getattr(module, "read_video", None)
        if self._read is None:
            raise UnsupportedError(
                f"decoder: {self.name}: this version of torchvision has no read_video any more "
                "(its release 0.26 removed it); use the decoder torchcodec, which replaces it"
            )
        self._scaler = Scaler()

    def decode(self, path: str, name: str, window: Window) -> DecodedWindow:
        check_readable(path, name)
        first, last = _first_and_last(timestamps(path, name), name, window)
        watch = Stopwatch()
        try:
            with watch("decode"), with_best_stream_first(path, name) as opened:
                frames = self._between(opened, first, last)
        except (RuntimeError, ValueError) as error:
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


def _first_and_last(shown: Timestamps, name: str, window: Window) -> tuple[Fraction, Fraction]:
    """Times of a window's first and last frame, seconds in the stream's own time.

    Raises:
        DataError: it holds none.
    """
    if not shown.pts:
        raise no_frame(name, window)
    bounds = pts_window(shown.pts[0], shown.time_base, window.start, window.duration)
    inside = [pts for pts in shown.pts if pts in bounds]
    if not inside:
        raise no_frame(name, window)
    return inside[0] * shown.time_base, inside[-1] * shown.time_base

"""decord: reads a clip's whole index when it opens it, then decodes by frame number."""

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
from autotune.media.decoders.containers import picture
from autotune.media.decoders.scaling import Scaler
from autotune.media.packets import one_line


class Decord(Decoder):
    """``VideoReader`` and ``get_batch``."""

    name: ClassVar[str] = "decord"
    package: ClassVar[str] = "decord"
    module: ClassVar[str] = "decord"

    def __init__(self) -> None:
        self._decord = require(self.module, self.package, self.name)
        self._decord.logging.set_level(self._decord.logging.FATAL)
        self._scaler = Scaler()

    def decode(self, path: str, name: str, window: Window) -> DecodedWindow:
        check_readable(path, name)
        _check_shown_as_coded(path, name)
        watch = Stopwatch()
        try:
            with watch("demux"):
                reader = self._decord.VideoReader(
                    path, ctx=self._decord.cpu(0), num_threads=window.threads
                )
                inside = _frames_inside(reader, name, window)
            if not inside:
                raise no_frame(name, window)
            wanted, places = chosen(len(inside), window)
            numbers = [inside[index] for index in wanted]
            with watch("decode"):
                full = reader.get_batch(numbers).asnumpy()
            decoded = numbers[-1] - _keyframe_before(reader, numbers[0]) + 1
        except (self._decord.DECORDError, RuntimeError, IndexError) as error:
            raise DataError(name, one_line(error)) from error
        with watch("scale"):
            stacked = assemble([self._scaler.rgb(f, window) for f in full], places)
        return DecodedWindow(stacked, len(wanted), decoded, watch.seconds)


def _check_shown_as_coded(path: str, name: str) -> None:
    """Refuse what decord would deliver as other pictures than every other decoder.

    Raises:
        DataError: with the reason; or PyAV cannot read the clip either.
    """
    seen = picture(path, name)
    if seen.rotation:
        raise DataError(
            name,
            f"it is marked to be turned by {seen.rotation} degrees: decord turns its frames, and "
            "cannot be told to deliver them as coded",
        )
    if seen.bits > 8:
        raise DataError(
            name, f"it has {seen.bits} bits a sample, which decord converts to other colours"
        )


def _frames_inside(reader: Any, name: str, window: Window) -> list[int]:
    """Numbers of the frames in the window. Times are float32: a clip's length limits them.

    Raises:
        DataError: an edit list hides frames. decord counts them, its decoder does not show them:
            each number would name another frame.
    """
    times = [float(time) for time in reader.get_frame_timestamp(range(len(reader)))[:, 0]]
    hidden = sum(time < 0 for time in times)
    if hidden:
        raise DataError(name, f"an edit list hides {hidden} of its frames, which decord counts")
    bounds = Inside(window, tolerance=1e-3)
    first = times[0] if times else 0.0
    return [
        number
        for number, time in enumerate(times)
        if not bounds.before(time - first) and not bounds.behind(time - first)
    ]


def _keyframe_before(reader: Any, number: int) -> int:
    """The keyframe that decoding of a frame begins with."""
    return int(max((key for key in reader.get_key_indices() if key <= number), default=0))

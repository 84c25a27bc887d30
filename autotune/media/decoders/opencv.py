"""OpenCV: VideoCapture, frame after frame; only the frames that are kept are converted."""

from __future__ import annotations

from math import ceil
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
from autotune.media.decoders.containers import with_best_stream_first
from autotune.media.decoders.scaling import Scaler

_EVEN = 1e-6
"""A product this little above a whole number is that number."""

_SEEK_FRAMES = 3
"""A seek aims so many frames before the window: the first frame must be seen to lie before it."""


class OpenCV(Decoder):
    """A fresh picture for every frame that is kept."""

    name: ClassVar[str] = "opencv"
    package: ClassVar[str] = "opencv-python-headless"
    module: ClassVar[str] = "cv2"

    def __init__(self) -> None:
        self._cv2 = require(self.module, self.package, self.name)
        # What it has to say of a clip it cannot open is said by the DataError.
        logging = self._cv2.utils.logging
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
        self._scaler = Scaler()

    def decode(self, path: str, name: str, window: Window) -> DecodedWindow:
        watch = Stopwatch()
        capture = self._open(path, name, window, watch)
        try:
            expected = self._expected(capture, window)
            pictures, seen, grabbed = self._read(capture, expected, window, watch)
            if seen != expected:
                # The frame rate in the header did not say how many frames there are.
                if seen == 0:
                    raise no_frame(name, window)
                capture.release()
                capture = self._open(path, name, window, watch)
                expected = seen
                pictures, seen, again = self._read(capture, expected, window, watch)
                grabbed += again
        finally:
            capture.release()
        _, places = chosen(expected, window)
        if seen != expected or len(pictures) != len(set(places)):
            raise DataError(name, f"OpenCV gave {seen} frames, then {expected}, of one window")
        return DecodedWindow(assemble(pictures, places), len(pictures), grabbed, watch.seconds)

    def _open(self, path: str, name: str, window: Window, watch: Stopwatch) -> Any:
        """A capture in front of the window's first frame, or of a frame before it."""
        cv2 = self._cv2
        with watch("demux"):
            capture = self._capture(path, name, window)
        if window.start <= 0:
            return capture
        rate = capture.get(cv2.CAP_PROP_FPS)
        aim = window.start - _SEEK_FRAMES / rate if rate > 0 else 0.0
        with watch("decode"):
            # It seeks to a keyframe and decodes from there.
            sought = aim > 0 and capture.set(cv2.CAP_PROP_POS_MSEC, 1000.0 * aim)
            placed = sought and capture.grab() and Inside(window).before(self._seconds(capture))
        if not placed:  # where the header's frame rate is wrong it lands behind: from the start
            capture.release()
            capture = self._capture(path, name, window)
        return capture

    def _capture(self, path: str, name: str, window: Window) -> Any:
        cv2 = self._cv2
        check_readable(path, name)
        options = [cv2.CAP_PROP_N_THREADS, window.threads]
        with with_best_stream_first(path, name) as opened:
            capture = cv2.VideoCapture(opened, cv2.CAP_FFMPEG, options)
        if not capture.isOpened():
            raise DataError(name, "OpenCV cannot open it as a video")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # as coded: the reference does not rotate
        return capture

    def _expected(self, capture: Any, window: Window) -> int:
        """How many frames the window should hold, by the header's frame rate and count."""
        rate = capture.get(self._cv2.CAP_PROP_FPS)
        available = capture.get(self._cv2.CAP_PROP_FRAME_COUNT) - ceil(window.start * rate - _EVEN)
        frames = ceil(window.duration * rate - _EVEN)
        return max(1, int(min(frames, available) if available > 0 else frames))

    def _seconds(self, capture: Any) -> float:
        """Time of the frame grabbed last, from the clip's first timestamp."""
        return float(capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1000.0

    def _read(
        self, capture: Any, expected: int, window: Window, watch: Stopwatch
    ) -> tuple[list[Any], int, int]:
        """Grab through the window, and convert the frames to keep if it holds ``expected``.

        Returns the pictures, how many frames the window really holds, and how many were grabbed.
        """
        inside = Inside(window)
        wanted = set(chosen(expected, window)[0])
        pictures: list[Any] = []
        seen = grabbed = 0
        while True:
            with watch("decode"):
                if not capture.grab():
                    break
            grabbed += 1
            at = self._seconds(capture)
            if inside.behind(at):
                break
            if inside.before(at):
                continue
            if seen in wanted:
                with watch("scale"):
                    pictures.append(self._scaler.bgr(self._retrieve(capture), window))
            seen += 1
        return pictures, seen, grabbed

    def _retrieve(self, capture: Any) -> Any:
        """The frame grabbed last, uint8 [H, W, 3] in BGR order."""
        return capture.retrieve()[1]


class OpenCVBuffer(OpenCV):
    """The same into one picture's memory, used again and again."""

    name: ClassVar[str] = "opencv_buffer"

    def __init__(self) -> None:
        super().__init__()
        self._buffer: Any = None

    def _retrieve(self, capture: Any) -> Any:
        import numpy as np

        cv2 = self._cv2
        size = (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
        shape = (*(int(capture.get(side)) for side in size), 3)
        if self._buffer is None or self._buffer.shape != shape:
            self._buffer = np.empty(shape, np.uint8)
        return capture.retrieve(self._buffer)[1]

"""The frames of a window, from a clip's folder of JPEG files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from autotune.exceptions import DataError
from autotune.frame_folders import REPAIR, FrameIndex, frame_path, read_index
from autotune.media.decoders.base import (
    DecodedWindow,
    Decoder,
    Stopwatch,
    Window,
    assemble,
    chosen,
    no_frame,
)
from autotune.media.decoders.scaling import Scaler
from autotune.media.jpeg import JpegDecoder
from autotune.media.windows import pts_window


@dataclass(frozen=True, slots=True)
class WindowFiles:
    """The files of a window.

    Attributes:
        name: the clip.
        numbers, data: each frame that is wanted, once: its number in the clip and its file.
        places: for each frame to deliver its place among them.
    """

    name: str
    numbers: tuple[int, ...]
    data: tuple[bytes, ...]
    places: tuple[int, ...]


def read_window(folder: str, name: str, index: FrameIndex, window: Window) -> WindowFiles:
    """Read the files of the frames that the reference would decode.

    Raises:
        DataError: no frame lies in the window, or one is missing or cut off.
    """
    inside = frames_in(index, window)
    if not inside:
        raise no_frame(name, window)
    wanted, places = chosen(len(inside), window)
    numbers = tuple(inside[place] for place in wanted)
    data = tuple(_read(folder, name, number, index.sizes[number]) for number in numbers)
    return WindowFiles(name, numbers, data, tuple(places))


def frames_in(index: FrameIndex, window: Window) -> Sequence[int]:
    """Numbers of the frames in a window, by the very rule of `media.reference`: in the order in
    which they are shown, up to the first one behind it."""
    numerator, denominator = index.time_base
    bounds = pts_window(0, Fraction(numerator, denominator), window.start, window.duration)
    numbers = []
    for number, pts in enumerate(index.pts):
        if bounds.lo <= pts < bounds.hi:
            numbers.append(number)
        elif pts >= bounds.hi:
            break
    return numbers


def _read(folder: str, name: str, number: int, size: int) -> bytes:
    path = frame_path(folder, number)
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.readall()
    except OSError as error:
        raise DataError(
            name, f"{_frame(number)} cannot be read: {error.strerror}; {REPAIR}"
        ) from error
    if len(data) != size:
        cause = f"{_frame(number)} is {len(data):,} bytes long, its index says {size:,}"
        raise DataError(name, f"{cause}; {REPAIR}")
    return data


def _frame(number: int) -> str:
    return f"frame {number:06d}.jpg"


def clip_length(index: FrameIndex, name: str) -> float:
    """Seconds of video in a clip, as `spdl_video.duration.clip_duration` told them.

    Raises:
        DataError: its container does not say.
    """
    if index.duration is None:
        raise DataError(name, "its container did not say how long it is; use subclip_start: first")
    return index.duration


class FrameDecoder(Decoder):
    """Reads and decodes a clip's JPEG files; one thread at a time."""

    name: ClassVar[str] = "pyav"
    package: ClassVar[str] = "av"

    def __init__(self) -> None:
        self._jpeg = JpegDecoder()
        self._scaler = Scaler()

    def decode(self, path: str, name: str, window: Window) -> DecodedWindow:
        watch = Stopwatch()
        with watch("fetch"):
            files = read_window(path, name, read_index(path, name), window)
        return self.pictures(files, window, watch)

    def pictures(self, files: WindowFiles, window: Window, watch: Stopwatch) -> DecodedWindow:
        """The frames of files that were read.

        Raises:
            DataError: a file is no JPEG.
        """
        scaled: list[Any] = []
        for number, data in zip(files.numbers, files.data, strict=True):
            with watch("decode"):
                frame = self._frame(files.name, number, data)
            with watch("scale"):
                scaled.append(self._scaler.video_frame(frame, window))
        with watch("scale"):
            stacked = assemble(scaled, files.places)
        return DecodedWindow(stacked, len(scaled), len(scaled), watch.seconds)

    def _frame(self, name: str, number: int, data: bytes) -> Any:
        try:
            return self._jpeg(data)
        except ValueError as error:
            raise DataError(name, f"{_frame(number)} {error}; {REPAIR}") from error

"""What a decoder's library does not tell of a file, asked of PyAV.

Each answer is kept: a file is asked about once in a process, ahead of the decoding that is timed.
"""

from __future__ import annotations

import io
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from autotune.exceptions import DataError
from autotune.media.packets import one_line


@lru_cache(maxsize=1 << 16)
def best_stream(path: str) -> int:
    """Which of a file's video streams is FFmpeg's best one; 0 where PyAV cannot open it either.

    OpenCV, torchvision and pytorchvideo take the first.
    """
    import av

    try:
        with av.open(path) as container:
            best = container.streams.best("video")
            return 0 if best is None else list(container.streams.video).index(best)
    except (av.FFmpegError, OSError):
        return 0


@contextmanager
def with_best_stream_first(path: str, name: str) -> Iterator[str]:
    """A path of which the first video stream is the best one of the clip.

    That is the clip itself, or where another one comes first a copy in memory that holds nothing
    but the best stream, made anew each time. OpenCV cannot be told which stream to take (and its
    captures of Python's file objects crash in 5.0), no more can torchvision and pytorchvideo.

    Raises:
        DataError: the stream cannot be copied.
    """
    if best_stream(path) == 0:
        yield path
        return
    descriptor = os.memfd_create("autotune-stream")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(_best_stream_alone(path, name))
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)  # who has opened the path keeps what it opened


def _best_stream_alone(path: str, name: str) -> memoryview:
    """The best stream's packets, in a container that keeps their times whatever the codec."""
    import av

    memory = io.BytesIO()
    as_they_are = {"avoid_negative_ts": "disabled"}
    try:
        with (
            av.open(path) as source,
            av.open(memory, "w", format="nut", options=as_they_are) as alone,
        ):
            stream = source.streams.best("video")
            copy = alone.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = copy
                    alone.mux(packet)
    except av.FFmpegError as error:
        raise _unreadable(name, error) from error
    return memory.getbuffer()


def _unreadable(name: str, error: Any) -> DataError:
    """The error of a clip that PyAV cannot read; without its folder, which FFmpeg's text has."""
    return DataError(name, error.strerror or one_line(error))


@dataclass(frozen=True, slots=True)
class Timestamps:
    """When the frames of a clip's best stream are shown.

    Attributes:
        pts: ascending, in ticks, without what an edit list hides.
        time_base: seconds of a tick.
    """

    pts: array[int]
    time_base: Fraction


@lru_cache(maxsize=1 << 12)
def timestamps(path: str, name: str) -> Timestamps:
    """The times of all frames, as the packets say; nothing is decoded.

    Raises:
        DataError: there is no video, or it cannot be read.
    """
    import av

    try:
        with av.open(path) as container:
            stream = container.streams.best("video")
            if stream is None or stream.time_base is None:
                raise DataError(name, "no video stream")
            packets = container.demux(stream)
            shown = sorted(p.pts for p in packets if p.pts is not None and not p.is_discard)
            return Timestamps(array("q", shown), Fraction(stream.time_base))
    except av.FFmpegError as error:
        raise _unreadable(name, error) from error


@dataclass(frozen=True, slots=True)
class Picture:
    """What the first frame of a clip's best stream is like.

    Attributes:
        bits: of a sample.
        rotation: degrees, counter-clockwise, by which a player turns it.
    """

    bits: int
    rotation: int


@lru_cache(maxsize=1 << 16)
def picture(path: str, name: str) -> Picture:
    """Look at the first frame.

    Raises:
        DataError: it cannot be decoded.
    """
    import av

    try:
        with av.open(path) as container:
            stream = container.streams.best("video")
            frame = None if stream is None else next(container.decode(stream), None)
    except av.FFmpegError as error:
        raise _unreadable(name, error) from error
    if frame is None:
        raise DataError(name, "no video stream, or no frame in it")
    return Picture(max(part.bits for part in frame.format.components), frame.rotation)

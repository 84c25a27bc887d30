"""One clip to a folder of JPEG frames. Runs in a worker process."""

from __future__ import annotations

import errno
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from autotune.exceptions import DataError
from autotune.extraction.sizes import frame_size
from autotune.frame_folders import (
    FAILED,
    INDEX,
    ExtractionSettings,
    FailedExtraction,
    FrameIndex,
    frame_path,
    index_bytes,
    read_index,
    write_document,
)
from autotune.media.decoders.base import read_file
from autotune.media.jpeg import JpegDecoder, JpegEncoder, pixel_format
from autotune.targets.spdl_video.duration import clip_duration

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Task:
    """One clip to extract.

    Attributes:
        name: relative to both folders. source: the clip's file. folder: of its frames.
    """

    name: str
    source: str
    folder: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a clip: frames, or why there are none.

    Attributes:
        kept: whether the frames were there already.
        cause: why the clip cannot be extracted.
        blocked: why nothing can be written, which is no clip's fault.
    """

    name: str
    frames: int = 0
    bytes: int = 0
    source_bytes: int = 0
    kept: bool = False
    cause: str | None = None
    blocked: str | None = None


class Stopped(Exception):
    """The run is to end: the clip is left for the next one."""


def extract(
    task: Task, settings: ExtractionSettings, check: bool, stopped: Callable[[], bool]
) -> Outcome:
    """Extract one clip into a hidden folder beside its place, and rename that when it is whole.

    A clip that is complete, and whose file is as large as it was then, is kept.

    Args:
        check: decode every frame of a complete clip before it is kept; else its index is believed.
        stopped: asked before every frame, whether to give up.

    Raises:
        Stopped: it did.
    """
    there = _complete(task, check)
    if there is not None:
        return _outcome(task, task.folder, there, kept=True)
    folder = Path(task.folder)
    draft = folder.with_name(f".{folder.name}.part")
    try:
        _make_empty(draft)
        try:
            index = _write_frames(task, settings, draft, stopped)
            write_document(draft / INDEX, index)
            outcome = _outcome(task, draft, index, kept=False)
        except DataError as error:
            _make_empty(draft)
            write_document(draft / FAILED, FailedExtraction(source=task.name, cause=error.cause))
            outcome = Outcome(task.name, cause=error.cause)
        if folder.is_dir():
            shutil.rmtree(folder)
        draft.rename(folder)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        return Outcome(task.name, blocked=_why_blocked(error))
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return outcome


def _outcome(task: Task, folder: str | Path, index: FrameIndex, kept: bool) -> Outcome:
    size = index_bytes(folder, index)
    return Outcome(task.name, len(index.pts), size, index.source_bytes, kept)


def _complete(task: Task, check: bool) -> FrameIndex | None:
    """The index of a clip that need not be extracted again."""
    try:
        index = read_index(task.folder, task.name)
        if os.path.getsize(task.source) != index.source_bytes:
            return None
        if check and not _frames_are_whole(task.folder, index):
            return None
    except (DataError, OSError):
        return None
    return index


def _frames_are_whole(folder: str, index: FrameIndex) -> bool:
    """Whether each frame's file is as long as the index says, and can be decoded.

    Raises:
        OSError: one cannot be read.
    """
    decoder = JpegDecoder()
    for number, size in enumerate(index.sizes):
        with open(frame_path(folder, number), "rb", buffering=0) as file:
            data = file.readall()
        try:
            decoder(data)
        except ValueError:
            return False
        if len(data) != size:
            return False
    return True


def _make_empty(folder: Path) -> None:
    if folder.is_dir():  # of a run that was killed
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _why_blocked(error: OSError) -> str:
    if error.errno in _FULL:
        return "there is no room left on the device; make room there"
    return f"cannot be written: {error.strerror} ({error.filename})"


def _write_frames(
    task: Task, settings: ExtractionSettings, draft: Path, stopped: Callable[[], bool]
) -> FrameIndex:
    """Write the frames, and say what they are.

    Raises:
        DataError: the clip cannot be decoded as a whole.
        OSError: a frame cannot be written.
        Stopped: so it was asked.
    """
    began = time.monotonic()
    data = read_file(task.source, task.name)
    encoder: JpegEncoder | None = None
    pts: list[int] = []
    sizes: list[int] = []
    height = width = 0
    clip = Decoding(data, task.name)
    for frame, ticks in _chosen(clip, settings):
        if stopped():
            raise Stopped
        if encoder is None:
            height, width = frame_size(settings.size, frame.height, frame.width)
            encoder = JpegEncoder(width, height, settings.quality, pixel_format(frame))
        picture = _encoded(encoder, frame, task.name)
        with open(frame_path(draft, len(pts)), "wb", buffering=0) as file:
            file.write(picture)
        pts.append(ticks)
        sizes.append(len(picture))
    if not pts:
        raise DataError(task.name, "no frame can be decoded")
    return FrameIndex(
        source=task.name,
        source_bytes=len(data),
        codec=clip.codec,
        width=width,
        height=height,
        time_base=clip.time_base.as_integer_ratio(),
        pts=pts,
        sizes=sizes,
        duration=_duration(data, task.name),
        seconds=round(time.monotonic() - began, 3),
    )


class Decoding:
    """The frames of a clip, as the reference sees them: the best video stream, in the order in
    which they are shown, timed from the first one.

    Attributes:
        codec, time_base: of the stream; known once the first frame came.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self.codec = ""
        self.time_base = Fraction(1)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Yield (``av.VideoFrame``, ticks since the first one).

        Raises:
            DataError: the clip cannot be decoded.
        """
        import av

        try:
            with av.open(io.BytesIO(self._data)) as container:
                stream: Any = container.streams.best("video")
                if stream is None or stream.time_base is None:
                    raise DataError(self._name, "no video stream")
                stream.codec_context.thread_count = 1  # the clips share the cores
                self.codec = stream.codec_context.codec.canonical_name
                self.time_base = Fraction(stream.time_base)
                first = None
                for frame in container.decode(stream):
                    if frame.pts is None:
                        continue
                    first = frame.pts if first is None else first
                    yield frame, frame.pts - first
        except av.FFmpegError as error:
            raise DataError(self._name, error.strerror or str(error)) from error


def _chosen(clip: Decoding, settings: ExtractionSettings) -> Iterator[tuple[Any, int]]:
    """Leave out what ``every`` and ``fps`` say: of each ``1 / fps`` seconds the first frame is
    kept."""
    last = -1
    rate = None if settings.fps is None else Fraction(repr(settings.fps))
    for number, (frame, ticks) in enumerate(clip):
        if number % settings.every:
            continue
        if rate is not None:
            turn = int(ticks * clip.time_base * rate)
            if turn <= last:
                continue
            last = turn
        yield frame, ticks


def _encoded(encoder: JpegEncoder, frame: Any, name: str) -> bytes:
    import av

    try:
        return encoder(frame)
    except (av.FFmpegError, ValueError) as error:
        raise DataError(name, f"a frame cannot be converted to JPEG: {error}") from error


def _duration(data: bytes, name: str) -> float | None:
    try:
        return clip_duration(data, name)
    except DataError:
        return None

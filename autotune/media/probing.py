"""Reads what a data folder holds: codec, size, rate and length of each clip, and the mix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from autotune.exceptions import DataError
from autotune.frame_folders import index_bytes, read_index

_PLAUSIBLE_START = 1e6


class ClipInfo(BaseModel):
    """One file. For a bad one ``cause`` says why, and the other figures are None.

    Attributes:
        name: path as given. size: bytes. codec: FFmpeg's name. width, height: pixels.
        fps: frames a second. duration, start_time: seconds. num_streams: of all kinds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int
    codec: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    duration: float | None = None
    pix_fmt: str | None = None
    num_streams: int | None = None
    has_audio: bool | None = None
    start_time: float | None = None
    cause: str | None = None


def probe_file(path: str | Path) -> ClipInfo:
    """What one file, or folder of extracted frames, is. Never raises for a bad one: it says so in
    ``cause``."""
    import av

    file = Path(path)
    if file.is_dir():
        return _extracted(file)
    try:
        size = file.stat().st_size
    except OSError as error:
        return ClipInfo(name=str(path), size=0, cause=error.strerror or str(error))
    try:
        with av.open(str(file)) as container:
            stream: Any = container.streams.best("video")
            if stream is None:
                return ClipInfo(name=str(path), size=size, cause="no video stream")
            duration = None
            if stream.duration is not None:
                duration = float(stream.duration * stream.time_base)
            elif container.duration is not None:
                duration = container.duration / av.time_base
            start = float((stream.start_time or 0) * stream.time_base)
            return ClipInfo(
                name=str(path),
                size=size,
                codec=stream.codec_context.codec.canonical_name,
                width=stream.width,
                height=stream.height,
                fps=float(stream.average_rate) if stream.average_rate else None,
                duration=duration,
                pix_fmt=stream.pix_fmt,
                num_streams=len(container.streams),
                has_audio=bool(container.streams.audio),
                start_time=start if abs(start) < _PLAUSIBLE_START else None,
            )
    except (av.FFmpegError, OSError, ValueError) as error:
        return ClipInfo(name=str(path), size=size, cause=str(error))


def _extracted(folder: Path) -> ClipInfo:
    """A clip that was extracted to JPEG frames."""
    try:
        index = read_index(folder, str(folder))
    except DataError as error:
        return ClipInfo(name=str(folder), size=0, cause=error.cause)
    times = index.times
    length = max(times) - min(times)
    return ClipInfo(
        name=str(folder),
        size=index_bytes(folder, index),
        codec="mjpeg",
        width=index.width,
        height=index.height,
        fps=(len(times) - 1) / length if length > 0 else None,
        duration=index.duration,
        pix_fmt="yuvj420p",
        num_streams=1,
        has_audio=False,
        start_time=0.0,
    )


def summarize(infos: Iterable[ClipInfo]) -> dict[str, Any]:
    """Counts by codec, resolution and rate, with totals; the part of a data fingerprint that
    says what there is to decode.

    Returns:
        ``clips``, ``bytes``, ``seconds`` (of good clips), ``codecs``, ``resolutions`` and
        ``rates`` (value -> count, most frequent first), ``pixel_formats``, and ``bad``
        (name -> cause).
    """
    every = list(infos)
    good = [info for info in every if info.cause is None]

    def mix(values: Iterable[str | None]) -> dict[str, int]:
        counts = Counter(value for value in values if value is not None)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    return {
        "clips": len(every),
        "bytes": sum(info.size for info in every),
        "seconds": round(sum(info.duration or 0 for info in good), 3),
        "codecs": mix(info.codec for info in good),
        "resolutions": mix(f"{info.width}x{info.height}" for info in good),
        "rates": mix(f"{info.fps:.3g}" if info.fps else None for info in good),
        "pixel_formats": mix(info.pix_fmt for info in good),
        "bad": {info.name: info.cause for info in every if info.cause is not None},
    }

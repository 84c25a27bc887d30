"""How long a clip is, read from its header: what a random window may start in."""

from __future__ import annotations

import io
from struct import unpack_from

from autotune.exceptions import DataError
from autotune.media.iso_media import movie_box


def clip_duration(data: bytes, name: str) -> float:
    """Seconds of video in a clip.

    An MP4 says it in its boxes (microseconds to read); of other containers FFmpeg is asked.

    Args:
        data: the whole file.
        name: for messages, relative to the data folder.

    Raises:
        DataError: if the clip cannot be opened or does not say how long it is.
    """
    seconds = _iso_duration(movie_box(data)) if data[4:8] == b"ftyp" else 0.0
    return seconds if seconds > 0 else _ffmpeg_duration(data, name)


def _ffmpeg_duration(data: bytes, name: str) -> float:
    import av

    try:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise DataError(name, "no video stream")
            if stream.duration and stream.time_base:
                return float(stream.duration * stream.time_base)
            if container.duration:
                return float(container.duration / av.time_base)
    except av.error.FFmpegError as error:
        raise DataError(name, f"cannot be opened: {error}") from error
    raise DataError(name, "its container does not say how long it is; use subclip_start: first")


def _iso_duration(movie: bytes) -> float:
    """Seconds of the video track of a ``moov`` box; 0 where it is not to be told for sure."""
    movie_scale = _scaled(movie, b"mvhd")[1]
    tracks = [track for track in _children(movie, b"trak") if b"vide" in track]
    if len(tracks) != 1 or not movie_scale:
        return 0.0
    media = b"".join(_children(tracks[0], b"mdia"))
    ticks, scale = _scaled(media, b"mdhd")
    if not ticks or not scale:
        return 0.0
    # The track's header counts what its edit list leaves of the media, if anything less.
    shown = _track_ticks(tracks[0])
    return min(ticks / scale, shown / movie_scale) if shown else ticks / scale


def _children(content: bytes, kind: bytes) -> list[bytes]:
    """Contents of the child boxes of one kind (ISO 14496-12, 4.2)."""
    found = []
    offset = 0
    while offset + 8 <= len(content):
        size, name = unpack_from(">I4s", content, offset)
        if size < 8 or offset + size > len(content):
            break
        if name == kind:
            found.append(content[offset + 8 : offset + size])
        offset += size
    return found


def _scaled(content: bytes, kind: bytes) -> tuple[int, int]:
    """Duration and ticks a second of an ``mvhd`` or ``mdhd`` box; zeros where there is none."""
    for box in _children(content, kind):
        wide = box[:1] == b"\x01"
        if len(box) >= (32 if wide else 20):
            scale, ticks = unpack_from(">IQ" if wide else ">II", box, 20 if wide else 12)
            return ticks, scale
    return 0, 0


def _track_ticks(track: bytes) -> int:
    """Duration of a ``tkhd`` box, in ticks of the movie; 0 where there is none."""
    for box in _children(track, b"tkhd"):
        wide = box[:1] == b"\x01"
        if len(box) >= (36 if wide else 24):
            return int(unpack_from(">Q" if wide else ">I", box, 28 if wide else 20)[0])
    return 0

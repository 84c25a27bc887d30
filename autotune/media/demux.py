"""Opens a clip and demuxes what one window needs, and nothing behind it.

SPDL's own window reads on until a packet lies 0.3 s past the end: it hands over packets that are
not needed, and *loses* frames where the clip reorders over more than that. Here:

1. The clip is opened without opening a decoder where that is safe (`_quick_options`).
2. Packets are read up to a small margin past the end. Decode timestamps (dts) prove that nothing
   is missing: dts never decrease and no frame has pts < dts, so once a packet with dts >= end was
   read, every frame of the window was. Without that proof the rest of the clip is read.
3. Packets behind the last one that the window needs are dropped, in decoding order.

Timestamps are integers in the stream's time base. Imports spdl when called: worker process only.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, NamedTuple

from autotune.exceptions import DataError, InputError
from autotune.media import iso_media
from autotune.media.h264 import only_frames
from autotune.media.packets import ClipPackets, How, one_line
from autotune.media.signals import read_signal
from autotune.media.windows import pts_window, seconds

__all__ = ["AFTER_ALL", "ClipPackets", "demux_window"]

_EBML = b"\x1aE\xdf\xa3"
"""What a Matroska or WebM file starts with."""

_SPDL_MARGIN = Fraction(3, 10)
"""SPDL adds this to the end of a video window before it compares."""

_LEAST_MARGIN = Fraction(1, 3)
_MARGIN_FRAMES = 8
"""Frames read past the end: enough for the proof with up to 5 B frames in a row."""

_BEFORE_ALL = Fraction(-10_000)
AFTER_ALL = Fraction(100_000)
"""Seconds that are before and after every timestamp, and exact in 32-bit rationals."""


def demux_window(
    data: bytes, name: str, start: float, duration: float, *, for_nvdec: bool = False
) -> ClipPackets:
    """Demux the best video stream's packets for ``[start, start + duration)`` seconds.

    Args:
        data: the whole file.
        name: for messages, relative to the data folder.
        start: seconds from the clip's own first timestamp.
        duration: seconds.
        for_nvdec: also read how the samples are to be understood (`ClipPackets.signal`).

    Raises:
        DataError: not a video, damaged, or no frame in the window; with the clip's name.
        InputError: a window that is none.
    """
    try:
        signal = read_signal(data, name) if for_nvdec else None
        plain = iso_media.opens_without_decoder(data)
        demuxer = _open(data, name, plain)
        codec = demuxer.video_codec
        time_base = Fraction(*codec.time_base)
        try:
            found = _read_window(demuxer, time_base, start, duration, seek=seeks_to_keyframes(data))
        except RuntimeError:  # no seeking in this container, or not to there
            found = _read_whole(_open(data, name, plain), time_base)
        window = pts_window(found.first, time_base, start, duration)
        inside = sorted(pts for pts in found.pts if pts in window)
        if not inside:
            raise DataError(name, _nothing_inside(start, duration, found, time_base))
        needed = 1 + max(i for i, pts in enumerate(found.pts) if pts in window)
        return ClipPackets(
            name=name,
            packets=_cut(found.packets, needed, len(found.pts)),
            time_base=time_base,
            first_pts=found.first,
            lo=window.lo,
            hi=window.hi,
            window_pts=tuple(inside),
            packet_pts=tuple(found.pts[:needed]),
            codec=codec.name,
            width=codec.width,
            height=codec.height,
            pix_fmt=_pix_fmt(codec),
            num_read=len(found.pts),
            how=found.how,
            signal=signal,
            frames_only=plain and codec.name == "h264" and only_frames(iso_media.movie_box(data)),
        )
    except (DataError, InputError):
        raise
    except Exception as error:  # SPDL raises RuntimeError, ValueError and nanobind's own
        raise DataError(name, one_line(error)) from error


def _open(data: bytes, name: str, plain: bool) -> Any:
    """A demuxer for ``data``, without probing where it is ``plain``: where that is safe."""
    import spdl.io

    if plain:
        try:
            demuxer = spdl.io.Demuxer(data, demux_config=_quick_options(), name=name)
            if demuxer.video_codec.width > 0 and demuxer.video_codec.time_base[0] > 0:
                return demuxer
        except RuntimeError:
            pass  # full probing decides whether this is a video, and words the error
    return spdl.io.Demuxer(data, name=name)


@cache
def _quick_options() -> Any:
    """Options that keep avformat_find_stream_info from opening decoders and reading ahead."""
    import spdl.io

    return spdl.io.demux_config(
        format="mov", format_options={"codec_whitelist": "none", "probesize": "32"}
    )


def _pix_fmt(codec: Any) -> str | None:
    """The codec's pixel format; SPDL raises where nobody has decoded a frame yet."""
    try:
        return str(codec.pix_fmt)
    except (RuntimeError, ValueError):
        return None


def _ticks(timestamps: Sequence[float], time_base: Fraction) -> list[int]:
    """SPDL hands out seconds as floats; back to ticks."""
    factor = time_base.denominator / time_base.numerator
    return [round(t * factor) for t in timestamps]


class _Found(NamedTuple):
    """Packets as they were read: the clip's first pts, the packets, their pts in decoding order."""

    first: int
    packets: Any
    pts: list[int]
    how: How


def _read(
    demuxer: Any, start: Fraction, end: Fraction, time_base: Fraction
) -> tuple[Any, list[int]]:
    """Packets from the keyframe at or before ``start`` to the first one at or after ``end``.

    Returns the packets and their pts, in decoding order. Seconds on the stream's own clock.
    """
    packets = demuxer.demux_video((start, end - _SPDL_MARGIN))
    return packets, _ticks(packets.get_timestamps(raw=True), time_base)


@lru_cache(maxsize=256)
def _margin(frame_rate: tuple[int, int]) -> Fraction:
    """Seconds to read past the end of a window.

    More than SPDL's own, since it also drops decoded frames that lie behind the window's end.
    """
    frames, per_seconds = frame_rate
    if frames <= 0 or per_seconds <= 0:
        return Fraction(1)
    return max(_LEAST_MARGIN, Fraction(_MARGIN_FRAMES * per_seconds, frames))


def _earliest(pts: Sequence[int]) -> int | None:
    """The clip's first timestamp, from its first packets in decoding order.

    Packets before 0 are what an edit list cuts away: they are decoded and not shown.
    """
    if not pts:
        return None
    return pts[0] if pts[0] >= 0 else min((p for p in pts if p >= 0), default=pts[0])


def _first_pts(demuxer: Any, time_base: Fraction) -> int:
    """The clip's own first timestamp, from as few packets as possible: usually two."""
    for end in (time_base, Fraction(1), AFTER_ALL):
        _, pts = _read(demuxer, _BEFORE_ALL, end, time_base)
        first = _earliest(pts)
        if first is not None and (first >= 0 or end == AFTER_ALL):
            return first
    raise ValueError("the best video stream has no packets")


def seeks_to_keyframes(data: bytes) -> bool:
    """Whether the container has an index of keyframes: MP4 and Matroska.

    In others FFmpeg may seek to the middle of a group of pictures, which cannot be decoded.
    """
    return data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") or data[:4] == _EBML


def _read_window(
    demuxer: Any, time_base: Fraction, start: float, duration: float, *, seek: bool
) -> _Found:
    """Packets that hold the whole window.

    A window at the start of a clip that starts at 0, the usual case, takes one pass. Without
    ``seek`` they are read from the clip's start on.
    """
    begin = _BEFORE_ALL
    margin = _margin(demuxer.video_codec.frame_rate)
    if start == 0:
        packets, pts = _read(demuxer, begin, seconds(duration) + margin, time_base)
        first = _earliest(pts)
        if first == 0 and _complete(packets, time_base, pts_window(0, time_base, 0, duration).hi):
            return _Found(0, packets, pts, "window")
    first = _first_pts(demuxer, time_base)
    window = pts_window(first, time_base, start, duration)
    if start != 0 and seek:
        # SPDL seeks to one tick *before* the start it is given: a window that begins on a keyframe
        # would drag in the group of pictures before it. So the start given is one tick later.
        begin = (window.lo + 1) * time_base
    packets, pts = _read(demuxer, begin, window.hi * time_base + margin, time_base)
    if _complete(packets, time_base, window.hi):
        return _Found(first, packets, pts, "window")
    packets, pts = _read(demuxer, begin, AFTER_ALL, time_base)
    return _Found(first, packets, pts, "to_end")


def _read_whole(demuxer: Any, time_base: Fraction) -> _Found:
    """Every packet, without seeking."""
    packets = demuxer.demux_video()
    pts = _ticks(packets.get_timestamps(raw=True), time_base)
    first = _earliest(pts)
    if first is None:
        raise ValueError("the best video stream has no packets")
    return _Found(first, packets, pts, "whole")


def _complete(packets: Any, time_base: Fraction, hi: int) -> bool:
    """Whether no packet with pts < ``hi`` can follow: one with dts >= ``hi`` has been read."""
    import spdl.io

    if not packets.get_timestamps(raw=True):
        return False
    decode_order = spdl.io.apply_bsf(packets.clone(), "setts=pts=DTS")
    last = _ticks(decode_order.get_timestamps(raw=True)[-1:], time_base)
    return bool(last) and last[0] >= hi


def _cut(packets: Any, needed: int, available: int) -> Any:
    """The first ``needed`` of ``available`` packets."""
    import spdl.io

    if needed == available:
        return packets
    return spdl.io.apply_bsf(packets, f"noise=drop='gte(n,{needed})'")


def _nothing_inside(start: float, duration: float, found: _Found, time_base: Fraction) -> str:
    """Why a window is empty, with where the frames that were read do lie."""
    text = f"no frame in [{start}, {start + duration}) s"
    if not found.pts:
        return f"{text}: nothing could be read there; the clip ends before it"
    last = float((max(found.pts) - found.first) * time_base)
    return f"{text}: the frames read end at {last:.3f} s"

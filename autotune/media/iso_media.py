"""A look into an MP4's boxes: may this clip be opened without opening a decoder?

FFmpeg's opening of a clip decodes its first frames to learn what MP4 has already said: 85 % of
the time that opening takes, and under a lock that all threads of a process share. What MP4 does
say: size, codec with its parameter sets, time base, both timestamps of every packet, and through
them how far frames are reordered.
"""

from __future__ import annotations

import re
from struct import unpack_from

_TRUSTED_ENTRIES = (b"avc1", b"hvc1", b"hev1", b"vp09")
"""Sample entries of codecs whose decoder needs nothing that FFmpeg would have to guess."""

_VIDEO_TRACK = re.compile(rb"hdlr.{8}vide", re.DOTALL)
"""A track's handler box that says: video."""

_MAX_BOXES = 64


def movie_box(data: bytes) -> bytes:
    """The content of the top-level ``moov`` box; empty where there is none."""
    offset = 0
    for _ in range(_MAX_BOXES):
        if offset + 8 > len(data):
            return b""
        size, kind = unpack_from(">I4s", data, offset)
        header = 8
        if size == 1 and offset + 16 <= len(data):
            size = unpack_from(">Q", data, offset + 8)[0]
            header = 16
        elif size == 0:
            size = len(data) - offset
        if size < header:
            return b""
        if kind == b"moov":
            return data[offset + header : offset + size]
        offset += size
    return b""


def opens_without_decoder(data: bytes) -> bool:
    """Whether skipping FFmpeg's probing cannot change what is read from this file.

    True only for a plain MP4 with one video track of a codec of `_TRUSTED_ENTRIES`: with several
    tracks or a cover picture the *best* stream is chosen by what probing saw.
    """
    if data[4:8] != b"ftyp":
        return False
    movie = movie_box(data)
    if len(_VIDEO_TRACK.findall(movie)) != 1 or b"covr" in movie or b"mvex" in movie:
        return False
    return sum(movie.count(entry) for entry in _TRUSTED_ENTRIES) == 1

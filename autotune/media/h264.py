"""Reads what a decoder would learn from an H.264 sequence parameter set (ITU-T H.264, 7.3.2.1).

NVDEC hands out frames without their colour description, so it has to come from here: pixel
format, bit depth, range and colour matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_EXTENDED_SAR = 255


@dataclass(frozen=True, slots=True)
class VideoSignal:
    """How decoded samples are to be read.

    Attributes:
        chroma_format: 0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4.
        bit_depth: bits a sample.
        full_range: luma 0 to 255, not 16 to 235.
        matrix: colour matrix, numbered as in ISO 23091-2 (1 BT.709, 2 unspecified, 6 BT.601).
    """

    chroma_format: int = 1
    bit_depth: int = 8
    full_range: bool = False
    matrix: int = 2

    @property
    def fits_nv12(self) -> bool:
        """Whether NVDEC decodes this to NV12, the only format SPDL takes from it."""
        return self.chroma_format == 1 and self.bit_depth == 8


def signal_from_movie(movie: bytes) -> VideoSignal | None:
    """The signal that the ``avcC`` box inside a ``moov`` box describes; None where there is none.

    Raises:
        ValueError: a damaged parameter set.
    """
    count, sps = _parameter_sets(movie)
    return parse_sps(sps) if count else None


def only_frames(movie: bytes) -> bool:
    """Whether the ``avcC`` box inside a ``moov`` box says that no picture is a single field."""
    count, sps = _parameter_sets(movie)
    try:
        return count == 1 and _parse(sps)[1]
    except ValueError:  # damaged: the decoder will say so
        return False


def _parameter_sets(movie: bytes) -> tuple[int, bytes]:
    """How many parameter sets the ``avcC`` box inside a ``moov`` box has, and the first one."""
    at = movie.find(b"avcC")
    if at < 0 or len(movie) < at + 12:
        return 0, b""
    size = int.from_bytes(movie[at + 10 : at + 12], "big")
    return movie[at + 9] & 31, movie[at + 12 : at + 12 + size]


class _Bits:
    """Reads bits and Exp-Golomb codes, most significant first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = len(data) * 8

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("H.264 parameter set ends too early")
        return (self._value >> self._left) & ((1 << count) - 1)

    def flag(self) -> bool:
        return self.read(1) == 1

    def golomb(self) -> int:
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("H.264 parameter set is damaged")
        return (1 << zeros) - 1 + (self.read(zeros) if zeros else 0)

    def signed(self) -> int:
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def parse_sps(sps: bytes) -> VideoSignal:
    """The signal of one parameter set (with its one-byte header, with emulation prevention).

    Raises:
        ValueError: it is damaged.
    """
    return _parse(sps)[0]


@lru_cache(maxsize=256)
def _parse(sps: bytes) -> tuple[VideoSignal, bool]:
    """The signal of a parameter set, and whether it excludes fields."""
    bits = _Bits(sps[1:].replace(b"\x00\x00\x03", b"\x00\x00"))
    profile = bits.read(8)
    bits.read(16)  # constraints, level
    bits.golomb()  # id
    chroma_format, depth = 1, 8
    if profile in _HIGH_PROFILES:
        chroma_format = bits.golomb()
        if chroma_format == 3:
            bits.read(1)  # separate colour planes
        depth = 8 + bits.golomb()
        bits.golomb()  # depth of chroma
        bits.read(1)  # transform bypass
        if bits.flag():
            _skip_scaling_lists(bits, 12 if chroma_format == 3 else 8)
    bits.golomb()  # log2 of the largest frame number
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.read(1)
        bits.signed()
        bits.signed()
        for _ in range(min(bits.golomb(), 255)):
            bits.signed()
    bits.golomb()  # reference frames
    bits.read(1)  # gaps allowed
    bits.golomb()  # width
    bits.golomb()  # height
    frames_only = bits.flag()
    if not frames_only:
        bits.read(1)  # frames and fields mixed
    bits.read(1)  # direct inference
    if bits.flag():
        for _ in range(4):
            bits.golomb()  # cropping
    full_range, matrix = _usability(bits) if bits.flag() else (False, 2)
    return VideoSignal(chroma_format, depth, full_range, matrix), frames_only


def _skip_scaling_lists(bits: _Bits, count: int) -> None:
    for i in range(count):
        if not bits.flag():
            continue
        last = following = 8
        for _ in range(16 if i < 6 else 64):
            if following:
                following = (last + bits.signed()) % 256
            last = following or last


def _usability(bits: _Bits) -> tuple[bool, int]:
    """Full range and matrix, from the start of the video usability information (annex E)."""
    if bits.flag() and bits.read(8) == _EXTENDED_SAR:
        bits.read(32)
    if bits.flag():
        bits.read(1)  # overscan
    if not bits.flag():
        return False, 2
    bits.read(3)  # video format
    full_range = bits.flag()
    if not bits.flag():
        return full_range, 2
    bits.read(16)  # primaries, transfer
    return full_range, bits.read(8)

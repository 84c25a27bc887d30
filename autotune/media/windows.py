"""Which frames a sample takes: exact integer arithmetic on presentation timestamps (pts).

A window ``(start, duration)`` in seconds is relative to the clip's own first timestamp and
half-open. Seconds are read as the decimal that was written (1.3 is 13/10, not the binary float
next to it), so that the same window selects the same frames in every container's time base.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil

from autotune.exceptions import InputError


def seconds(value: float | Fraction) -> Fraction:
    """The exact decimal value of a number of seconds as the user wrote it."""
    return value if isinstance(value, Fraction) else Fraction(repr(float(value)))


@dataclass(frozen=True, slots=True)
class PtsWindow:
    """A half-open interval of pts.

    Attributes:
        lo: first pts inside, in ticks of the stream's time base.
        hi: first pts outside.
    """

    lo: int
    hi: int

    def __contains__(self, pts: object) -> bool:
        return isinstance(pts, int) and self.lo <= pts < self.hi


@lru_cache(maxsize=4096)
def pts_window(
    first_pts: int, time_base: Fraction, start: float | Fraction, duration: float | Fraction
) -> PtsWindow:
    """The pts with ``start <= (pts - first_pts) * time_base < start + duration``.

    Args:
        first_pts: the clip's first timestamp, in ticks.
        time_base: seconds a tick.
        start: seconds from the clip's first timestamp, >= 0.
        duration: seconds, > 0.

    Raises:
        InputError: a negative start, a duration that is not positive, or a broken time base.
    """
    begin, length = seconds(start), seconds(duration)
    if begin < 0 or length <= 0:
        raise InputError(
            f"window ({start}, {duration}) s: the start must be >= 0 and the duration > 0"
        )
    if time_base <= 0:
        raise InputError(f"time base {time_base}: must be positive")
    return PtsWindow(
        lo=first_pts + ceil(begin / time_base), hi=first_pts + ceil((begin + length) / time_base)
    )


def _float32(value: float) -> float:
    """``value`` rounded to single precision."""
    result: float = struct.unpack("f", struct.pack("f", value))[0]
    return result


@lru_cache(maxsize=4096)
def _indices(available: int, wanted: int) -> tuple[int, ...]:
    if available < wanted:
        return (*range(available), *([available - 1] * (wanted - available)))
    if wanted == 1:
        return (0,)
    # torch fills a float32 linspace from both ends, with one rounding an element (a fused
    # multiply-add); a float64 or integer formula differs in about one case of a hundred.
    end = float(available - 1)
    step = _float32(end / (wanted - 1))
    half = wanted // 2
    return tuple(
        int(_float32(step * i if i < half else end - step * (wanted - 1 - i)))
        for i in range(wanted)
    )


def sample_indices(available: int, wanted: int) -> list[int]:
    """Indices of the ``wanted`` frames to take out of ``available`` ones, ascending.

    Evenly spaced with both ends, bit for bit ``torch.linspace(0, available - 1, wanted).long()``
    as in SPDL's example; with too few frames all of them, then the last one repeated.

    Raises:
        InputError: either number is not positive.
    """
    if available < 1 or wanted < 1:
        raise InputError(f"cannot take {wanted} frames out of {available}: both must be positive")
    return list(_indices(available, wanted))


def unique_count(indices: Sequence[int]) -> int:
    """How many different frames ``indices`` name: without the padding and the repeats."""
    return len(set(indices))

"""What the memory of a measurement's processes does over time, and how long it lasts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from autotune.stats import Interval, growth
from autotune.trial import MemoryTrend

LEAST_MIB = 8.0
LEAST_SHARE = 0.01
"""Growth over the whole stretch below either (MiB, share of what is held) is not spoken of."""

_MINUTE = 60.0
_HOUR = 3600.0


def memory_trend(
    times: Sequence[float], mib: Sequence[float], room_mib: float | None = None
) -> MemoryTrend:
    """Whether memory holds or grows, its slope, and when it ends.

    Args:
        times: seconds, ascending, from the end of the warm-up on.
        mib: memory of all processes, shared pages counted once.
        room_mib: what can be had besides; None where it is not known.
    """
    held = statistics.median(mib) if mib else 0.0
    found = growth(times, mib, max(LEAST_MIB, LEAST_SHARE * held))
    slope = found.slope
    if not math.isfinite(slope.high - slope.low):
        return MemoryTrend(verdict="too_short", seconds=found.seconds)
    grows = found.verdict == "grows"
    return MemoryTrend(
        verdict=found.verdict,
        mib_per_minute=slope.mean * _MINUTE,
        low=slope.low * _MINUTE,
        high=slope.high * _MINUTE,
        seconds=found.seconds,
        **(_hours_left(slope, room_mib) if grows and room_mib is not None else {}),
    )


def _hours_left(slope: Interval, room_mib: float) -> dict[str, float | None]:
    """Until ``room_mib`` is used up, with the ends of the slope's interval."""

    def hours(pace: float) -> float | None:
        return max(0.0, room_mib) / pace / _HOUR if pace > 0 else None

    return {
        "hours_left": hours(slope.mean),
        "hours_left_low": hours(slope.high),
        "hours_left_high": hours(slope.low),
    }

"""How figures read: rates, times, intervals, gains, and configurations as what they change."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from autotune.trial import Scalar

UNKNOWN = "-"


def number(value: float | None) -> str:
    """Three or more significant digits and thousands separated: ``1,294``, ``43.2``, ``0.51``."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def memory(gib: float | None) -> str:
    """``2.50 GiB``, or ``312 MiB`` for less than one."""
    if gib is None:
        return UNKNOWN
    return f"{number(gib)} GiB" if gib >= 1 else f"{number(1024 * gib)} MiB"


def interval(low: float | None, high: float | None) -> str:
    """``1,250 to 1,340``, or ``-`` while nothing is known."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return UNKNOWN
    return f"{number(low)} to {number(high)}"


def rate(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """``1,294 samples/s (1,250 to 1,340)``."""
    if value is None:
        return UNKNOWN
    span = interval(low, high)
    return f"{number(value)} samples/s" + ("" if span == UNKNOWN else f" ({span})")


def duration(seconds: float | None) -> str:
    """``4 h 05 min``, ``31 min``, ``3 min 20 s``, ``45 s``, ``4.2 s``."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02d} h"


def epoch_change(before: float | None, after: float | None) -> str:
    """``4 h 05 min -> 31 min``: what people feel of a gain."""
    return f"{duration(before)} -> {duration(after)}"


def gain(ratio: float | None, low: float | None = None, high: float | None = None) -> str:
    """``6.64x (6.41 to 6.88)``."""
    if ratio is None or not math.isfinite(ratio):
        return UNKNOWN
    if low is None or high is None:
        return f"{ratio:.2f}x"
    return f"{ratio:.2f}x ({low:.2f} to {high:.2f})"


def scalar(value: Scalar) -> str:
    """A parameter's value as a person writes it: ``true``, ``0.5``, ``pool``."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def changes(params: Mapping[str, Scalar], baseline: Mapping[str, Scalar] | None) -> str:
    """Only what differs from the baseline: ``num_demux_threads=3 gc_policy=between_epochs``."""
    if baseline is None:
        shown: Mapping[str, Scalar] = params
    else:
        shown = {k: v for k, v in params.items() if baseline.get(k) != v}
        if not shown:
            return "as the baseline"
    return " ".join(f"{name}={scalar(value)}" for name, value in shown.items())


def machine_text(value: Any) -> str:
    """A value for CSV and plain values: full precision, lists and mappings as JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def size(count: int) -> str:
    """Bytes: ``3.7 MiB``, ``132 GiB``."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"


def state(name: str, reason: str) -> str:
    """``interrupted (by the user)``, or ``running``."""
    return f"{name} ({reason.removeprefix(f'{name} ')})" if reason else name


def counted(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def memory_trend(trend: Mapping[str, Any] | None) -> str:
    """``grows: +12.1 MiB/min (+11.8 to +12.4), memory ends in 3.2 h (3.1 to 3.3)``; of a
    `trial.MemoryTrend` as JSON."""
    if trend is None:
        return ""
    if trend["verdict"] == "too_short":
        return "too short to tell"
    pace, low, high = (trend[name] for name in ("mib_per_minute", "low", "high"))
    text = f"{trend['verdict']}: {pace:+.2f} MiB/min ({low:+.2f} to {high:+.2f})"
    if trend["hours_left"] is None:
        return text
    low, high = trend["hours_left_low"], trend["hours_left_high"]
    span = f" ({low:.1f} to {high:.1f})" if low is not None and high is not None else ""
    return f"{text}, memory ends in {trend['hours_left']:.1f} h{span}"


def growing(found: Mapping[str, Any]) -> str:
    """One kind of object that grows, of a `trial.Growing` as JSON: what, how much, who holds it."""
    text = f"{found['kind']}: {found['grown_count']:+,} ({size(found['grown_bytes'])}) in "
    text += f"{duration(found['seconds'])}, now {size(found['bytes'])}"
    if found["age_seconds"] is not None:
        text += f", half of them older than {duration(found['age_seconds'])}"
    holders = "; ".join(found["holders"][:2]) or "unknown"
    where = ", ".join(found["where"][:4])
    return f"{text}; in {where}; held by {holders}"

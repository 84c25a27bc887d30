"""Slow storage, emulated: each clip is opened so much later.

Network storage answers after tens of milliseconds, and how a loader takes that is worth knowing
before a study runs there. What is measured with it is marked: the latency is part of the machine's
fingerprint, so that it never ranks beside figures without it, and a warning of the measurement.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from pydantic import Field

EmulatedLatency = Annotated[float, Field(ge=0, le=60_000)]
"""Milliseconds that every clip takes longer to open; 0: nothing is emulated."""


def wait(milliseconds: float) -> float:
    """Wait as long as the storage would, and return the seconds it took."""
    if milliseconds <= 0:
        return 0.0
    start = time.perf_counter()
    time.sleep(milliseconds / 1e3)
    return time.perf_counter() - start


def fingerprint(milliseconds: float) -> dict[str, Any]:
    """A target's part of the machine's fingerprint; empty without emulation."""
    return {"emulated_latency_ms": milliseconds} if milliseconds > 0 else {}


def warnings(milliseconds: float) -> list[str]:
    """What is to be said of figures that were measured with it."""
    if milliseconds <= 0:
        return []
    return [
        f"storage latency is emulated: every clip is opened {milliseconds:g} ms later "
        "(target.emulated_latency_ms), so the figures are not those of this machine's storage"
    ]

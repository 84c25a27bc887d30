"""Series of batch arrivals whose truth is known."""

from __future__ import annotations

import itertools
import math
import random

BATCH = 16


def ar1_gaps(seed: int, count: int, gap: float, noise: float, rho: float = 0.0) -> list[float]:
    """Gaps between batches: AR(1) around ``gap`` (s), relative standard deviation ``noise``."""
    rng = random.Random(seed)
    deviation = rng.gauss(0, noise)
    gaps = []
    for _ in range(count):
        gaps.append(max(gap * 0.05, gap * (1 + deviation)))
        deviation = rho * deviation + rng.gauss(0, noise * math.sqrt(1 - rho * rho))
    return gaps


def arrivals(gaps: list[float]) -> tuple[list[float], list[int]]:
    """Arrival times (s) from 0 on, and the samples of each batch."""
    times = list(itertools.accumulate(gaps, initial=0.0))
    return times, [BATCH] * len(times)

"""Two configurations: the ratio of their rates over interleaved blocks, and how many it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autotune.stats.estimates import RatioEstimate, mean_interval

FIRST_BLOCKS = 6
"""Blocks that decide how many are needed; also the fewest."""

MAX_BLOCKS = 18
"""The most blocks by default: 36 runs of 6 s stay below 4 minutes."""

MIN_RATIO_HALF_WIDTH = 0.02
"""A ratio need not be known better than to 2 %, nor better than the noise floor."""


def ratio_interval(
    candidate: Sequence[float], baseline: Sequence[float], confidence: float = 0.95
) -> RatioEstimate:
    """candidate / baseline over a number of paired blocks that was fixed beforehand: a t interval
    on the logarithm of the ratio.

    Raises:
        ValueError: if the sequences differ in length, hold fewer than two blocks or a rate
            that is not positive.
    """
    interval = mean_interval(_log_ratios(candidate, baseline), confidence)
    return RatioEstimate(
        math.exp(interval.mean), math.exp(interval.low), math.exp(interval.high), len(candidate)
    )


def sequential_ratio(
    candidate: Sequence[float],
    baseline: Sequence[float],
    first: int = FIRST_BLOCKS,
    confidence: float = 0.95,
) -> RatioEstimate:
    """candidate / baseline over blocks whose number was decided by `blocks_needed`.

    Stein's two-stage procedure (Annals of Mathematical Statistics, 1945): the variance comes
    from the ``first`` blocks alone, the mean from all. Since the number of blocks depends on the
    data only through that variance, and the mean of normal data does not depend on it, mean and
    variance give an exact t interval with ``first - 1`` degrees of freedom, however many blocks
    followed and wherever a budget cut them short. Re-estimating the variance at every block and
    ending when it is small would call more than 5 % of equal pairs different.

    Raises:
        ValueError: as `ratio_interval`.
    """
    logs = _log_ratios(candidate, baseline)
    start = mean_interval(logs[:first], confidence)
    half = (start.high - start.mean) * math.sqrt(min(first, len(logs)) / len(logs))
    mean = math.fsum(logs) / len(logs)
    return RatioEstimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs))


def blocks_needed(
    candidate: Sequence[float],
    baseline: Sequence[float],
    half_width: float,
    max_blocks: int = MAX_BLOCKS,
    first: int = FIRST_BLOCKS,
) -> int:
    """How many blocks give a ratio to ``half_width`` (relative): at least ``first``, at most
    ``max_blocks``. It is decided once, by the first ``first`` blocks; see `sequential_ratio`.

    Raises:
        ValueError: as `ratio_interval`; if ``half_width`` is not above 0 or ``first`` below 2.
    """
    if half_width <= 0:
        raise ValueError(f"half_width {half_width}: a ratio is never known exactly; above 0")
    if first < 2:
        raise ValueError(f"first {first}: a variance needs at least two blocks")
    if len(candidate) < first:
        return min(first, max_blocks)
    start = mean_interval(_log_ratios(candidate, baseline)[:first])
    # the interval of the ratio is exp(mean -+ half): relative to the ratio sinh(half) wide
    relative = math.sqrt(first) * (start.high - start.mean) / math.asinh(half_width)
    needed = max_blocks if relative > max_blocks else math.ceil(relative**2 - 1e-9)
    return min(max_blocks, max(first, needed))


def enough_blocks(
    candidate: Sequence[float],
    baseline: Sequence[float],
    floor: float,
    max_blocks: int = MAX_BLOCKS,
    first: int = FIRST_BLOCKS,
) -> bool:
    """Whether to end: the ratio is known to max(2 %, the noise floor), or ``max_blocks`` are done.

    Ask after every block; the rates are those of the blocks in which both sides were measured.

    Raises:
        ValueError: as `blocks_needed`.
    """
    half_width = max(MIN_RATIO_HALF_WIDTH, floor)
    return len(candidate) >= blocks_needed(candidate, baseline, half_width, max_blocks, first)


def _log_ratios(candidate: Sequence[float], baseline: Sequence[float]) -> list[float]:
    if len(candidate) != len(baseline):
        raise ValueError(f"{len(candidate)} candidate blocks, {len(baseline)} baseline blocks")
    if len(candidate) < 2:
        raise ValueError("a ratio needs at least two blocks")
    if min(*candidate, *baseline) <= 0:
        raise ValueError("a ratio needs rates above 0")
    return [math.log(c / b) for c, b in zip(candidate, baseline, strict=True)]

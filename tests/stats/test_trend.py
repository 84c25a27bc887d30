"""Growth over time: false accusations on clean series, and planted slopes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.stats import Course, growth, slope

Shape = Callable[[random.Random, int], list[float]]

POINTS, SECONDS = 300, 600.0
LEAST = 8.0  # MiB

RUNS = 500


def times(points: int = POINTS, seconds: float = SECONDS) -> list[float]:
    return [seconds * i / points for i in range(points)]


def white(rng: random.Random, n: int) -> list[float]:
    return [1000 + rng.gauss(0, 10) for _ in range(n)]


def correlated(rng: random.Random, n: int, rho: float = 0.97, sd: float = 15.0) -> list[float]:
    """Wanders for a ninth of the run before it has forgotten where it was."""
    value, found = rng.gauss(0, sd), []
    for _ in range(n):
        found.append(1000 + value)
        value = rho * value + rng.gauss(0, sd * math.sqrt(1 - rho * rho))
    return found


def saw_tooth(rng: random.Random, n: int) -> list[float]:
    """Garbage that is collected: from teeth of a few points to one that fills most of the run."""
    period, phase = rng.uniform(5, 0.7 * n), rng.random()
    return [1000 + 80 * ((i / period + phase) % 1) + rng.gauss(0, 2) for i in range(n)]


def ramp(rng: random.Random, n: int) -> list[float]:
    """Start-up, or a cache: fills within 0.02 to 0.8 of the run, then holds."""
    end = rng.uniform(0.02, 0.8) * n
    return [600 + 400 * min(1.0, i / end) + rng.gauss(0, 4) for i in range(n)]


def saturating(rng: random.Random, n: int) -> list[float]:
    """A cache that hits ever more often; its time constant is at most half of the run."""
    scale = rng.uniform(0.02, 0.5) * n
    return [600 + 400 * (1 - math.exp(-i / scale)) + rng.gauss(0, 4) for i in range(n)]


def steps(rng: random.Random, n: int) -> list[float]:
    """Two moments at which something grows for good."""
    at = sorted(rng.uniform(0, n) for _ in range(2))
    return [800 + 50 * sum(i > a for a in at) + rng.gauss(0, 4) for i in range(n)]


def spikes(rng: random.Random, n: int) -> list[float]:
    return [1000 + rng.gauss(0, 4) + (400 if rng.random() < 0.03 else 0) for _ in range(n)]


def walk(rng: random.Random, n: int) -> list[float]:
    value, found = 1000.0, []
    for _ in range(n):
        found.append(value)
        value += rng.gauss(0, 3)
    return found


CLEAN: list[Shape] = [white, correlated, saw_tooth, ramp, saturating, steps, spikes]


def accused(shape: Shape, leak: float = 0.0, runs: int = RUNS) -> float:
    """Share of runs that are said to grow, with ``leak`` MiB a minute planted."""
    found = 0
    clock = times()
    for seed in range(runs):
        values = shape(random.Random(f"{shape.__name__}{seed}"), POINTS)
        planted = [v + leak * t / 60 for v, t in zip(values, clock, strict=True)]
        found += growth(clock, planted, LEAST).verdict == "grows"
    return found / runs


@pytest.mark.parametrize("shape", CLEAN)
def test_a_clean_series_is_accused_in_one_of_a_hundred_runs_at_most(shape: Shape) -> None:
    assert accused(shape) <= 0.01


def test_even_a_random_walk_is_seldom_accused() -> None:
    """It has no level to come back to, so some of its runs do grow: 3 % in 1,000 runs."""
    assert accused(walk) <= 0.05


@pytest.mark.parametrize("shape", [*CLEAN, walk])
def test_a_planted_leak_is_found_in_any_of_them(shape: Shape) -> None:
    """60 MiB a minute for ten minutes, on what moves by 80 to 400 MiB by itself."""
    assert accused(shape, leak=60, runs=100) >= 0.97


def test_a_slow_leak_is_found_where_memory_is_otherwise_quiet() -> None:
    """6 MiB a minute beside a standard deviation of 10 MiB."""
    assert accused(white, leak=6, runs=200) >= 0.9


def test_a_leak_behind_a_cache_that_filled_has_its_own_slope() -> None:
    rng = random.Random(1)
    clock = times()
    values = [600 + 400 * min(1.0, t / 120) + 30 * t / 60 + rng.gauss(0, 2) for t in clock]
    found = growth(clock, values, LEAST)
    assert found.verdict == "grows"
    assert found.slope.mean * 60 == pytest.approx(30, rel=0.1)
    assert found.seconds < 450


def test_a_short_series_is_never_accused() -> None:
    clock = [0.5 * i for i in range(130)]
    assert growth(clock, [10.0 * t for t in clock], LEAST).verdict == "too_short"
    clock = [2.0 * i for i in range(50)]  # long, but of too few points
    assert growth(clock, [10.0 * t for t in clock], LEAST).verdict == "too_short"
    assert growth([], [], LEAST).verdict == "too_short"


@pytest.mark.parametrize(("shape", "least"), [(white, 0.92), (correlated, 0.9)])
def test_the_interval_of_a_slope_covers_it(shape: Shape, least: float) -> None:
    inside, runs, clock = 0, 400, times()
    for seed in range(runs):
        values = shape(random.Random(f"covers{seed}"), POINTS)
        found = slope(clock, [v + 0.05 * t for v, t in zip(values, clock, strict=True)])
        inside += found.low <= 0.05 <= found.high
    assert inside / runs >= least


@given(
    pace=st.floats(-100, 100),
    level=st.floats(-1e4, 1e4),
    points=st.integers(12, 200),
    seconds=st.floats(1, 1e5),
)
def test_a_straight_line_has_its_slope(
    pace: float, level: float, points: int, seconds: float
) -> None:
    clock = times(points, seconds)
    found = slope(clock, [level + pace * t for t in clock])
    tolerance = 1e-6 * (1 + abs(pace) + abs(level) / seconds)
    assert found.mean == pytest.approx(pace, abs=tolerance)
    assert found.low <= found.mean <= found.high


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300),
    limit=st.integers(2, 40),
)
def test_a_course_is_bounded_and_keeps_the_mean(values: list[float], limit: int) -> None:
    course = Course(width=1.0, limit=limit)
    for time, value in enumerate(values):
        course.add(100.0 + time, value)
        assert len(course) <= limit
    clock, means = course.points()
    assert clock == sorted(clock)
    assert len(clock) <= limit
    assert min(values) - 1e-6 <= min(means)
    assert max(means) <= max(values) + 1e-6


def test_a_course_of_a_night_keeps_its_slope() -> None:
    course = Course(width=0.5, limit=960)
    for i in range(2 * 3600 * 8):
        course.add(50 + i / 2, 1000 + i / 2 / 60)
    clock, values = course.points()
    assert 400 <= len(course) <= 960
    assert slope(clock, values).mean * 60 == pytest.approx(1.0)
    later, _ = course.points(start=50 + 4 * 3600)
    assert min(later) >= 50 + 4 * 3600

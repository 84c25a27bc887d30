"""One run: warm-up is cut, a stall is not, a trend is seen, the interval covers."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import stats
from tests.stats.series import ar1_gaps, arrivals

GAPS = st.lists(st.floats(min_value=0.01, max_value=10.0), min_size=1, max_size=80)


# ------------------------------------------------------------------ rate and interval


@pytest.mark.parametrize(("rho", "batches"), [(0.0, 60), (0.5, 60), (0.5, 300), (0.9, 300)])
def test_the_interval_covers_the_true_rate_however_correlated(rho: float, batches: int) -> None:
    runs = 500
    covered = 0
    for seed in range(runs):
        estimate = stats.rate_interval(*arrivals(ar1_gaps(seed, batches, 0.1, 0.1, rho)))
        covered += estimate.low <= 160.0 <= estimate.high
    assert 0.92 < covered / runs <= 0.995


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_it_covers_although_a_run_ends_as_soon_as_it_is_narrow(rho: float) -> None:
    runs, covered, lengths = 300, 0, []
    for seed in range(runs):
        times, samples = arrivals(ar1_gaps(seed, 1200, 0.1, 0.1, rho))
        n = 25
        while True:
            estimate = stats.rate_interval(times[: n + 1], samples[: n + 1])
            if estimate.relative_half_width <= 0.02 or n == 1200:
                break
            n = min(1200, int(n * 1.1))
        covered += estimate.low <= 160.0 <= estimate.high
        lengths.append(n)
    # without LOOKS_INFLATION it is 0.94 and 0.92
    assert covered / runs > 0.945
    assert statistics.median(lengths) < 600, "the rule did end them"


def test_a_rate_counts_no_sample_that_arrived_before_the_clock_started() -> None:
    estimate = stats.rate_interval([10.0, 11.0, 12.0], [100, 16, 16])
    assert estimate.rate == pytest.approx(16.0)


def test_few_batches_give_no_finite_interval() -> None:
    estimate = stats.rate_interval([0.0, 1.0, 2.0, 3.0], [16] * 4)
    assert estimate.rate == pytest.approx(16.0)
    assert math.isinf(estimate.high)
    assert math.isinf(estimate.relative_half_width)


def test_batches_that_all_arrive_at_once_have_no_rate() -> None:
    assert stats.rate_interval([1.0, 1.0, 1.0], [16] * 3).rate == 0.0


@given(GAPS, st.sampled_from([1e-3, 0.5, 1e3]))
def test_the_unit_of_time_does_not_matter(gaps: list[float], unit: float) -> None:
    times, samples = arrivals(gaps)
    here = stats.rate_interval(times, samples)
    there = stats.rate_interval([t * unit for t in times], samples)
    assert there.rate * unit == pytest.approx(here.rate)
    assert there.low * unit == pytest.approx(here.low, rel=1e-6, abs=1e-12)
    assert here.low <= here.rate <= here.high


# ------------------------------------------------------------------ warm-up


def test_a_full_sink_buffer_does_not_make_a_short_run_look_fast() -> None:
    # Sixteen batches wait in the buffer and arrive at once; then one comes every 0.1 s.
    times = [0.001 * i for i in range(16)] + [0.1 * i for i in range(1, 41)]
    samples = [16] * len(times)
    start = stats.warmup_end(times, samples, drained=16)
    assert start is not None
    assert start >= 16
    estimate = stats.rate_interval(times[start:], samples[start:])
    assert estimate.rate == pytest.approx(160.0, rel=0.02)


def test_a_slow_start_is_cut() -> None:
    times, samples = arrivals([0.5] * 20 + ar1_gaps(1, 100, 0.1, 0.05))
    start = stats.warmup_end(times, samples)
    assert start is not None
    assert 20 <= start <= 30


def test_a_warm_up_that_fills_most_of_the_series_is_not_believed_to_have_ended() -> None:
    times, samples = arrivals([0.5 * 0.98**i for i in range(80)] + ar1_gaps(1, 20, 0.1, 0.02))
    assert stats.warmup_end(times, samples) is None


def test_a_stall_is_part_of_the_rate_and_not_of_the_warm_up() -> None:
    gaps = ar1_gaps(5, 200, 0.1, 0.05)
    gaps[80] += 5.0
    start = stats.warmup_end(*arrivals(gaps))
    assert start is not None
    assert start <= 80


@given(GAPS, st.integers(0, 90))
def test_the_warm_up_ends_within_the_series_and_after_the_buffers(
    gaps: list[float], drained: int
) -> None:
    times, samples = arrivals(gaps)
    start = stats.warmup_end(times, samples, drained)
    if start is not None:
        assert min(drained, len(times)) <= start <= len(times)


@given(st.lists(st.floats(min_value=0.01, max_value=10.0), max_size=60))
def test_mser_never_cuts_to_less_than_it_can_judge(values: list[float]) -> None:
    cut = stats.mser(values)
    assert cut == 0 or len(values) - cut > 5


def test_mser_without_noise_finds_the_step_itself() -> None:
    assert stats.mser([3.0] * 7 + [1.0] * 33) == 7
    assert stats.mser([1.0] * 40) == 0


# ------------------------------------------------------------------ steadiness


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_a_steady_series_is_seldom_called_drifting(rho: float) -> None:
    series, called = 400, 0
    for seed in range(series):
        trend = stats.relative_trend(*arrivals(ar1_gaps(seed, 100, 0.1, 0.1, rho)))
        called += trend.low > 0 or trend.high < 0
    assert called / series < 0.075  # 5 % and the binomial slack of 400


def test_a_drift_of_twice_the_noise_is_seen() -> None:
    series, called = 100, 0
    for seed in range(series):
        gaps = ar1_gaps(seed, 100, 0.1, 0.1)
        called += (
            stats.relative_trend(
                *arrivals([g * (1 + 0.2 * (i / 100 - 0.5)) for i, g in enumerate(gaps)])
            ).low
            > 0
        )
    assert called / series > 0.95


def test_the_trend_is_the_relative_change_from_beginning_to_end() -> None:
    trend = stats.relative_trend(*arrivals([0.1 * (1 + 0.3 * (i / 299 - 0.5)) for i in range(300)]))
    assert trend.mean == pytest.approx(0.3, rel=0.02)
    assert math.isinf(stats.relative_trend([0.0, 1.0, 2.0], [16] * 3).high)

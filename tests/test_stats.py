"""Intervals cover what they claim; warm-up is cut; what is not measured is not claimed."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import stats

RATES = st.floats(min_value=1e-3, max_value=1e6)


def steady_run(
    seed: int, batches: int, gap: float, noise: float, phi: float = 0.0
) -> tuple[list[float], list[int]]:
    """Arrivals of batches of 16 whose gaps are AR(1) around ``gap``."""
    rng = random.Random(seed)
    now, deviation = 0.0, 0.0
    arrivals = [now]
    for _ in range(batches):
        deviation = phi * deviation + rng.gauss(0, noise * math.sqrt(1 - phi * phi))
        now += max(gap * 0.05, gap * (1 + deviation))
        arrivals.append(now)
    return arrivals, [16] * (batches + 1)


@pytest.mark.parametrize(("phi", "batches"), [(0.0, 60), (0.0, 200), (0.5, 200)])
def test_the_within_run_interval_covers_the_true_rate(phi: float, batches: int) -> None:
    runs = 400
    covered = 0
    for seed in range(runs):
        estimate = stats.rate_interval(*steady_run(seed, batches, 0.1, 0.2, phi))
        covered += estimate.low <= 160.0 <= estimate.high
    # The rate of a noisy run is biased by less than the noise; 95 % nominal, binomial slack.
    assert covered / runs > 0.90


@given(st.floats(min_value=3, max_value=10_000), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_the_t_quantile_is_scipys(dof: float, confidence: float) -> None:
    from scipy.special import stdtrit

    expected = float(stdtrit(dof, 0.5 + confidence / 2))
    assert stats.t_quantile(dof, confidence) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("dof", "expected"), [(0, math.inf), (1, 12.7062), (2, 4.30265)])
def test_the_t_quantile_of_next_to_nothing(dof: int, expected: float) -> None:
    assert stats.t_quantile(dof) == pytest.approx(expected, rel=1e-5)


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


def test_a_full_sink_buffer_does_not_make_a_short_run_look_fast() -> None:
    # Sixteen batches wait in the buffer and arrive at once; then one comes every 0.1 s.
    arrivals = [0.001 * i for i in range(16)] + [0.1 * i for i in range(1, 41)]
    samples = [16] * len(arrivals)
    start = stats.warmup_end(arrivals, samples, drained=16)
    estimate = stats.rate_interval(arrivals[start:], samples[start:])
    assert start >= 16
    assert estimate.rate == pytest.approx(160.0, rel=0.02)


def test_a_slow_start_is_cut() -> None:
    arrivals, now = [], 0.0
    for i in range(120):
        now += 0.5 if i < 20 else 0.1
        arrivals.append(now)
    start = stats.warmup_end(arrivals, [16] * len(arrivals))
    assert 15 <= start <= 30


def test_a_steady_run_is_not_cut_away() -> None:
    arrivals, samples = steady_run(3, 100, 0.1, 0.05)
    assert stats.warmup_end(arrivals, samples) <= 50


@given(st.lists(st.floats(min_value=0.01, max_value=10.0), max_size=60))
def test_mser_never_cuts_more_than_half(values: list[float]) -> None:
    assert 0 <= stats.mser(values) <= len(values) / 2 + 5


def test_the_between_run_part_is_measured_where_repeats_exist() -> None:
    prior, dof = stats.between_run_sd([])
    assert (prior, dof) == (stats.PRIOR_BETWEEN_SD, stats.PRIOR_BETWEEN_DOF)
    rng = random.Random(0)
    noisy = [[100 * math.exp(rng.gauss(0, 0.10)) for _ in range(6)] for _ in range(20)]
    sd, dof = stats.between_run_sd(noisy)
    assert sd == pytest.approx(0.10, rel=0.15)
    assert dof == stats.PRIOR_BETWEEN_DOF + 100


def test_the_published_interval_covers_the_mean_of_the_configuration() -> None:
    rng = random.Random(1)
    covered = 0
    for _ in range(2000):
        rate = 100 * math.exp(rng.gauss(0, 0.031))
        low, high = stats.published_interval([rate], [rate * 0.01], 0.031, 8)
        covered += low <= 100 <= high
    assert covered / 2000 > 0.93


@given(RATES, st.floats(min_value=0, max_value=0.5))
def test_the_published_interval_is_never_narrower_than_the_within_run_one(
    rate: float, within: float
) -> None:
    low, high = stats.published_interval([rate], [rate * within], 0.03, 8)
    assert low <= rate * math.exp(-within) * (1 + 1e-9)
    assert high >= rate * math.exp(within) * (1 - 1e-9)


def test_a_run_that_says_nothing_gives_an_interval_that_says_nothing() -> None:
    assert stats.published_interval([1.0], [5000.0], 0.03, 8) == (0.0, math.inf)


@given(st.lists(st.tuples(RATES, RATES), min_size=2, max_size=12))
def test_swapping_the_arms_inverts_the_ratio(pairs: list[tuple[float, float]]) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    forward, backward = stats.ratio_interval(a, b), stats.ratio_interval(b, a)
    assert forward.ratio * backward.ratio == pytest.approx(1.0)
    assert forward.low <= forward.ratio * (1 + 1e-12)
    assert forward.significant == backward.significant


def test_the_false_gain_rate_of_a_ratio_is_what_it_claims() -> None:
    rng = random.Random(7)
    false_gains = 0
    for _ in range(2000):
        runs = [100 * math.exp(rng.gauss(0, 0.03)) for _ in range(8)]
        false_gains += stats.ratio_interval(runs[:4], runs[4:]).low > 1
    assert 0.015 < false_gains / 2000 < 0.035


@pytest.mark.parametrize(
    ("candidate", "baseline", "message"),
    [
        ([1.0, 2.0], [1.0], "2 candidate blocks, 1 baseline"),
        ([1.0], [1.0], "at least two"),
        ([1.0, 0.0], [1.0, 1.0], "above 0"),
    ],
)
def test_a_ratio_of_nothing_is_refused(
    candidate: list[float], baseline: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stats.ratio_interval(candidate, baseline)

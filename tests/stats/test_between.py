"""Runs: the published interval covers, whatever this machine's spread; the floor is a floor."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import stats

RATES = st.floats(min_value=1e-3, max_value=1e6)


def lognormal(rng: random.Random, sd: float, count: int) -> list[float]:
    return [100 * math.exp(rng.gauss(0, sd)) for _ in range(count)]


def test_the_prior_counts_until_there_are_five_repeats() -> None:
    alone = stats.between_run_sd([])
    assert alone == (stats.PRIOR_BETWEEN_SD, stats.PRIOR_BETWEEN_DOF)
    rng = random.Random(0)
    four, five = lognormal(rng, 0.10, 4), lognormal(rng, 0.10, 5)
    assert stats.between_run_sd([four])[1] == stats.PRIOR_BETWEEN_DOF + 3
    sd, dof = stats.between_run_sd([five])
    mean = math.fsum(map(math.log, five)) / 5
    assert dof == stats.MIN_BETWEEN_DOF == 4
    assert sd == pytest.approx(math.sqrt(sum((math.log(x) - mean) ** 2 for x in five) / 4))
    assert stats.repeat_dof([five, [1.0], [], [0.0, 3.0, 4.0]]) == 5


def test_groups_are_pooled_around_their_own_means() -> None:
    rng = random.Random(0)
    groups = [[x * 2**g for x in lognormal(rng, 0.10, 6)] for g in range(20)]
    sd, dof = stats.between_run_sd(groups)
    assert sd == pytest.approx(0.10, rel=0.15)
    assert dof == 100


@pytest.mark.parametrize("sd", [0.01, 0.03, 0.08])
@pytest.mark.parametrize("repeats", [5, 10])
def test_the_published_interval_covers_the_mean_of_the_configuration(
    sd: float, repeats: int
) -> None:
    rng = random.Random(repeats)
    studies = 2000
    covered = 0
    for _ in range(studies):
        spread = stats.between_run_sd([lognormal(rng, sd, repeats)])
        (rate,) = lognormal(rng, sd, 1)
        low, high = stats.published_interval([rate], [rate * sd / 2], *spread, usual_within=sd / 2)
        covered += low <= 100 <= high
    assert 0.935 < covered / studies < 0.965


def test_the_noise_of_the_runs_behind_the_spread_is_replaced_by_the_runs_own() -> None:
    usual = stats.published_interval([100.0], [2.0], 0.03, 9, usual_within=0.02)
    noisier = stats.published_interval([100.0], [6.0], 0.03, 9, usual_within=0.02)
    quieter = stats.published_interval([100.0], [0.5], 0.03, 9, usual_within=0.02)
    assert usual[1] == pytest.approx(100 * math.exp(stats.t_quantile(9) * 0.03))
    assert quieter[1] < usual[1] < noisier[1]
    only_within = stats.published_interval([100.0], [6.0], 0.001, 9, usual_within=0.02)
    assert only_within[1] == pytest.approx(100 * math.exp(0.06))


def test_more_runs_narrow_it() -> None:
    one = stats.published_interval([100.0], [2.0], 0.03, 9, usual_within=0.02)
    four = stats.published_interval([100.0] * 4, [2.0] * 4, 0.03, 9, usual_within=0.02)
    assert math.log(four[1] / 100) == pytest.approx(math.log(one[1] / 100) / 2)


def test_the_spread_of_repeats_over_a_study_holds_its_drift() -> None:
    rng = random.Random(3)
    covered = 0
    for _ in range(1000):
        drift = 0.05
        repeats = [
            x * math.exp(drift * (i / 9 - 0.5)) for i, x in enumerate(lognormal(rng, 0.02, 10))
        ]
        (rate,) = lognormal(rng, 0.02, 1)
        rate *= math.exp(drift * (rng.random() - 0.5))
        low, high = stats.published_interval([rate], [], *stats.between_run_sd([repeats]))
        covered += low <= 100 <= high
    assert covered / 1000 > 0.94


@given(RATES, st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.1))
def test_the_published_interval_is_never_narrower_than_the_within_run_one(
    rate: float, within: float, usual: float, sd: float
) -> None:
    low, high = stats.published_interval([rate], [rate * within], sd, 8, usual)
    assert low <= rate * math.exp(-within) * (1 + 1e-9)
    assert high >= rate * math.exp(within) * (1 - 1e-9)


def test_a_run_that_says_nothing_gives_an_interval_that_says_nothing() -> None:
    assert stats.published_interval([1.0], [5000.0], 0.03, 8) == (0.0, math.inf)
    assert stats.published_interval([0.0], [1.0], 0.03, 8) == (0.0, math.inf)
    for unknown in (math.inf, math.nan):
        assert stats.published_interval([1.0], [unknown], 0.03, 8) == (0.0, math.inf)
        assert stats.published_interval([1.0, 1.0], [0.1, unknown], 0.03, 8) == (0.0, math.inf)
    with pytest.raises(ValueError, match="at least one run"):
        stats.published_interval([], [], 0.03, 8)


def test_the_usual_within_is_the_middle_of_what_is_known() -> None:
    assert stats.usual_within([0.03, 0.04, 0.05, math.inf]) == pytest.approx(0.04)
    assert stats.usual_within([]) == stats.PRIOR_WITHIN


def test_one_run_that_knows_little_of_itself_does_not_narrow_every_interval() -> None:
    usual = stats.usual_within([0.02, 0.02, 0.03, 0.03, 0.9])
    low, high = stats.published_interval([100.0], [2.0], 0.03, 4, usual)
    assert math.log(high / low) / 2 > 0.9 * 0.03 * stats.t_quantile(4)


# ------------------------------------------------------------------ noise floor


@pytest.mark.parametrize("sd", [0.01, 0.08])
def test_two_runs_of_one_configuration_differ_by_more_than_the_floor_in_5_per_cent(
    sd: float,
) -> None:
    rng = random.Random(11)
    pairs = 3000
    false = told_apart = 0
    for _ in range(pairs):
        floor = stats.noise_floor(*stats.between_run_sd([lognormal(rng, sd, 5)]))
        a, b = lognormal(rng, sd, 2)
        false += not stats.rates_tie(a, b, floor)
        told_apart += a * (1 + 2 * floor) > b and not stats.rates_tie(a * (1 + 2 * floor), b, floor)
    assert 0.038 < false / pairs < 0.062
    assert told_apart / pairs > 0.95


@given(RATES, RATES, st.floats(0, 1))
def test_a_tie_has_no_sides(a: float, b: float, floor: float) -> None:
    assert stats.rates_tie(a, b, floor) == stats.rates_tie(b, a, floor)
    assert stats.rates_tie(a, a, floor)


def test_without_degrees_of_freedom_everything_ties() -> None:
    assert stats.noise_floor(0.03, 0) == math.inf
    assert stats.rates_tie(1.0, 1000.0, math.inf)
    assert stats.noise_floor(0.031, 8) == pytest.approx(
        math.exp(2.306 * math.sqrt(2) * 0.031) - 1, rel=1e-3
    )

"""Two configurations: the ratio's interval holds at every number of blocks the rule can end at."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import stats

RATES = st.floats(min_value=1e-3, max_value=1e6)
PAIRS = st.lists(st.tuples(RATES, RATES), min_size=6, max_size=18)


def blocks(rng: random.Random, sd: float, ratio: float = 1.0) -> tuple[list[float], list[float]]:
    a = [100 * ratio * math.exp(rng.gauss(0, sd)) for _ in range(stats.MAX_BLOCKS)]
    b = [100 * math.exp(rng.gauss(0, sd)) for _ in range(stats.MAX_BLOCKS)]
    return a, b


def until_known(a: list[float], b: list[float], floor: float) -> stats.RatioEstimate:
    done = 2
    while not stats.enough_blocks(a[:done], b[:done], floor):
        done += 1
    return stats.sequential_ratio(a[:done], b[:done])


@given(st.lists(st.tuples(RATES, RATES), min_size=2, max_size=12))
def test_swapping_the_arms_inverts_the_ratio(pairs: list[tuple[float, float]]) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    for estimate in (stats.ratio_interval, stats.sequential_ratio):
        forward, backward = estimate(a, b), estimate(b, a)
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


@pytest.mark.parametrize("sd", [0.008, 0.015, 0.03])
def test_ending_when_it_is_known_well_enough_calls_no_more_than_5_per_cent_different(
    sd: float,
) -> None:
    rng = random.Random(9)
    comparisons, called, numbers = 2000, 0, set()
    for _ in range(comparisons):
        ratio = until_known(*blocks(rng, sd), floor=0.0)
        called += ratio.significant
        numbers.add(ratio.blocks)
    assert 0.035 < called / comparisons < 0.065
    assert len(numbers) > 3, "the rule did end them at different times"


@pytest.mark.parametrize("sd", [0.01, 0.03, 0.08])
def test_a_difference_of_twice_the_noise_floor_is_called(sd: float) -> None:
    rng = random.Random(13)
    called = 0
    for _ in range(300):
        repeats = [100 * math.exp(rng.gauss(0, sd)) for _ in range(5)]
        floor = stats.noise_floor(*stats.between_run_sd([repeats]))
        called += until_known(*blocks(rng, sd, 1 + 2 * floor), floor).low > 1
    assert called / 300 > 0.95


@given(PAIRS, st.floats(0.001, 0.5))
def test_the_number_of_blocks_is_decided_once(
    pairs: list[tuple[float, float]], half_width: float
) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    first = stats.blocks_needed(a[:6], b[:6], half_width)
    assert 6 <= first <= stats.MAX_BLOCKS
    assert stats.blocks_needed(a, b, half_width) == first
    assert stats.blocks_needed(a, b, half_width * 2) <= first


@given(PAIRS)
def test_the_interval_is_as_narrow_as_was_asked_for(pairs: list[tuple[float, float]]) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    needed = stats.blocks_needed(a, b, 0.05, max_blocks=1000)
    if needed <= len(a):
        ratio = stats.sequential_ratio(a[:needed], b[:needed])
        assert (ratio.high - ratio.low) / 2 <= 0.05 * ratio.ratio * (1 + 1e-6)


def test_up_to_the_first_blocks_it_is_the_plain_interval() -> None:
    rng = random.Random(5)
    a, b = blocks(rng, 0.03)
    for n in (2, 4, 6):
        plain, sequential = stats.ratio_interval(a[:n], b[:n]), stats.sequential_ratio(a[:n], b[:n])
        assert (sequential.low, sequential.high) == pytest.approx((plain.low, plain.high))
    assert not stats.enough_blocks(a[:5], b[:5], floor=10.0)
    assert stats.enough_blocks(a[:6], b[:6], floor=10.0)
    assert stats.enough_blocks(a[:4], b[:4], floor=0.0, max_blocks=4)


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
    for estimate in (stats.ratio_interval, stats.sequential_ratio):
        with pytest.raises(ValueError, match=message):
            estimate(candidate, baseline)


def test_a_width_or_a_beginning_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="half_width 0"):
        stats.blocks_needed([1.0] * 6, [1.0] * 6, 0)
    with pytest.raises(ValueError, match="first 1"):
        stats.blocks_needed([1.0] * 6, [1.0] * 6, 0.1, first=1)

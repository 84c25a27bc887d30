"""When a measurement is steady and when it may end, on planted arrivals."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.measuring.figures import Decision, Record, decide
from autotune.trial import MeasurementSettings, Window
from tests.stats.series import ar1_gaps

SETTINGS = MeasurementSettings(min_seconds=2, max_seconds=60, relative_half_width=0.02)
BATCH = 4


def record(gaps: list[float], *, drained: int = 1, per_window: int = 5) -> Record:
    """One rank whose batches arrive after the given gaps (s)."""
    result = Record(drained=drained)
    times = list(itertools.accumulate(gaps, initial=100.0))
    for index, i in enumerate(range(0, len(gaps), per_window)):
        chunk = times[i + 1 : i + 1 + per_window]
        result.add(
            Window(
                index=index,
                start=times[i],
                end=chunk[-1],
                batches=len(chunk),
                samples=BATCH * len(chunk),
                arrivals=chunk,
                batch_samples=[BATCH] * len(chunk),
            )
        )
    return result


def decided(gaps: list[float], **how: int) -> Decision:
    decision = decide([record(gaps, **how)], SETTINGS)
    assert decision is not None
    return decision


def test_a_warm_up_longer_than_the_rest_is_not_steady_and_the_later_half_is_shown() -> None:
    decision = decided([0.2 * 0.985**i for i in range(150)] + ar1_gaps(1, 20, 0.02, 0.01))
    assert not decision.steady
    assert not decision.enough
    assert decision.start > 105, "the slow first half is left out"


def test_the_same_run_is_steady_once_the_rest_is_long_enough() -> None:
    decision = decided([0.2 * 0.985**i for i in range(150)] + ar1_gaps(1, 900, 0.02, 0.01))
    assert decision.steady
    assert decision.enough
    assert decision.estimate.rate == pytest.approx(BATCH / 0.02, rel=0.02)


def test_a_stall_counts_and_does_not_make_the_run_unsteady() -> None:
    gaps = ar1_gaps(3, 300, 0.02, 0.05)
    gaps[100] += 0.3
    decision = decided(gaps)
    assert decision.steady
    assert decision.estimate.rate == pytest.approx(BATCH * 300 / sum(gaps), rel=0.03)


def test_a_drift_that_matters_is_not_steady_and_one_that_does_not_is() -> None:
    def drifting(change: float) -> Decision:
        gaps = ar1_gaps(5, 400, 0.02, 0.02)
        return decided([g * (1 + change * i / 400) for i, g in enumerate(gaps)])

    assert not drifting(0.10).steady
    assert drifting(0.01).steady, "significant, but below the precision asked for"


def test_an_interval_of_a_handful_of_batches_ends_nothing() -> None:
    assert not decided([0.5] * 18, per_window=1).enough
    assert decided([0.5] * 30, per_window=1).enough


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_a_steady_run_is_called_steady(rho: float) -> None:
    runs = 200
    steady = sum(decided(ar1_gaps(seed, 300, 0.02, 0.1, rho)).steady for seed in range(runs))
    assert steady / runs > 0.92


@given(
    st.lists(st.floats(0.001, 2.0), min_size=3, max_size=80),
    st.integers(0, 100),
    st.integers(1, 12),
)
def test_whatever_arrives_the_steady_part_lies_in_it(
    gaps: list[float], drained: int, per_window: int
) -> None:
    one = record(gaps, drained=drained, per_window=per_window)
    decision = decide([one], SETTINGS)
    assert decision is not None
    assert one.start < decision.start < decision.end == one.times[-1]
    assert decision.estimate.batches >= 1
    if decision.steady:
        assert decision.start >= one.times[max(0, min(drained, len(gaps)) - 1)] - 1e-9
        assert decision.estimate.batches >= 10

"""A budget is a total over all launches, and keeps back what verification needs."""

from __future__ import annotations

from autotune.study.budget import BudgetClock


class Time:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_trials_of_earlier_launches_count() -> None:
    clock = BudgetClock(trials=3, seconds=None, patience=None)
    for _ in range(2):
        clock.count(1.0)
    assert clock.exhausted() is None
    assert clock.exhausted(in_flight=1) is not None
    clock.count(None)
    assert "3 trials" in (clock.exhausted() or "")


def test_no_trial_starts_that_would_leave_no_time_to_verify() -> None:
    time = Time()
    clock = BudgetClock(trials=None, seconds=100.0, patience=None, used_seconds=20.0, now=time)
    time.seconds = 10.0
    clock.count(1.0, duration=5.0)
    assert clock.exhausted(reserved_runs=8) is None
    time.seconds = 40.0
    assert "budget" in (clock.exhausted(reserved_runs=8) or "")
    assert clock.exhausted(reserved_runs=1) is None


def test_patience_ends_a_search_that_finds_nothing_better() -> None:
    clock = BudgetClock(trials=None, seconds=None, patience=2)
    clock.count(5.0)
    clock.count(4.0)
    assert clock.exhausted() is None
    clock.count(None)
    assert "2 trials" in (clock.exhausted() or "")
    clock.count(6.0)
    assert clock.exhausted() is None


def test_patience_counts_what_is_better_by_more_than_noise() -> None:
    clock = BudgetClock(trials=None, seconds=None, patience=3)
    for rate in (100.0, 104.0, 108.0, 109.0):
        clock.count(rate, floor=0.1)
    assert "3 trials was better by more than noise" in (clock.exhausted() or "")
    clock = BudgetClock(trials=None, seconds=None, patience=3)
    for rate in (100.0, 104.0, 108.0, 112.0):  # small gains add up
        clock.count(rate, floor=0.1)
    assert clock.exhausted() is None


def test_time_left_holds_the_verification() -> None:
    time = Time()
    clock = BudgetClock(trials=10, seconds=None, patience=None, now=time)
    assert clock.time_left(8) is None
    clock.count(1.0, duration=6.0)
    assert clock.time_left(8) == (9 + 8) * 6.0
    assert clock.time_left(3, searching=False) == 3 * 6.0


def test_at_most_half_of_a_short_budget_is_kept_back() -> None:
    time = Time()
    clock = BudgetClock(trials=None, seconds=60.0, patience=None, now=time)
    assert clock.kept_back(24) == 0.0  # nothing is known of what a run takes
    clock.took(5.0)
    assert clock.kept_back(4) == 20.0
    assert clock.kept_back(24) == 30.0
    assert clock.exhausted(reserved_runs=24) is None
    time.seconds = 26.0
    assert clock.exhausted(reserved_runs=24) is not None


def test_runs_fit_that_are_expected_to_end_in_time() -> None:
    time = Time()
    clock = BudgetClock(trials=1, seconds=60.0, patience=None, now=time)
    clock.took(4.0)
    clock.took(6.0)  # 5 s on average
    time.seconds = 40.0
    assert clock.fits(4)
    assert not clock.fits(5)
    assert clock.fits(1, reserved_runs=3)
    assert not clock.fits(1, reserved_runs=4)
    assert BudgetClock(trials=1, seconds=None, patience=None).fits(10**6)

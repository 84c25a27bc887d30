"""A budget is a total over all launches, and keeps back what verification needs."""

from __future__ import annotations

from autotune.budget import BudgetClock


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


def test_time_left_holds_the_verification() -> None:
    time = Time()
    clock = BudgetClock(trials=10, seconds=None, patience=None, now=time)
    assert clock.time_left(8) is None
    clock.count(1.0, duration=6.0)
    assert clock.time_left(8) == (9 + 8) * 6.0
    assert clock.time_left(3, searching=False) == 3 * 6.0

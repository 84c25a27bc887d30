"""Durations, figures, and configurations as text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.cli import figures
from autotune.cli.options import seconds
from autotune.exceptions import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 90.0),
        ("30m", 1800.0),
        ("30min", 1800.0),
        ("8h", 28_800.0),
        ("1d", 86_400.0),
        ("1h30m", 5400.0),
        ("1 h 30 min", 5400.0),
        ("0.5h", 1800.0),
        ("8H", 28_800.0),
    ],
)
def test_durations_are_read(text: str, expected: float) -> None:
    assert seconds(text, "--timeout") == expected


@pytest.mark.parametrize("text", ["", "8", "h", "-8h", "8 hours", "1e3s", "8h!", "0s", "nan s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--timeout"):
        seconds(text, "--timeout")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.04, "0.0 s"),
        (4.2, "4.2 s"),
        (9.97, "10 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (599.8, "10 min"),
        (31 * 60, "31 min"),
        (3599, "1 h 00 min"),
        (4 * 3600 + 5 * 60, "4 h 05 min"),
        (50 * 3600, "2 d 02 h"),
        (None, "-"),
        (math.inf, "-"),
    ],
)
def test_durations_are_shown(value: float | None, expected: str) -> None:
    assert figures.duration(value) == expected


@given(st.floats(min_value=1, max_value=1e6))
def test_what_is_shown_reads_back_within_its_last_digit(value: float) -> None:
    shown = seconds(figures.duration(value), "shown")
    coarse = 0.05 if value < 9.95 else 0.5 if value < 600 else 30 if value < 172_800 else 3600
    assert abs(shown - value) <= coarse + 1e-6


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1294.4, "1,294"), (43.24, "43.2"), (9.876, "9.88"), (0.0, "0.00"), (None, "-")],
)
def test_rates_are_shown(value: float | None, expected: str) -> None:
    assert figures.number(value) == expected


def test_only_what_differs_from_the_baseline_is_shown() -> None:
    baseline = {"a": 1, "b": "x", "c": True}
    assert figures.changes({"a": 2, "b": "x", "c": False}, baseline) == "a=2 c=false"
    assert figures.changes(baseline, baseline) == "as the baseline"
    assert figures.changes({"a": 0.5}, None) == "a=0.5"


def test_bytes_are_shown() -> None:
    assert [figures.size(n) for n in (12, 2048, 3_900_000, 142 * 2**30)] == [
        "12 B",
        "2.0 KiB",
        "3.7 MiB",
        "142 GiB",
    ]

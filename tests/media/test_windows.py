from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.exceptions import InputError
from autotune.media.windows import PtsWindow, pts_window, sample_indices, unique_count


@settings(deadline=None)  # the first example imports torch
@given(st.integers(1, 2000), st.integers(1, 64))
def test_indices_are_torchs_linspace_to_the_bit(available: int, wanted: int) -> None:
    torch = pytest.importorskip("torch")
    expected = list(range(available)) + [available - 1] * (wanted - available)
    if available >= wanted:
        expected = torch.linspace(0, available - 1, wanted).long().tolist()
    assert sample_indices(available, wanted) == expected


def test_indices_for_the_windows_of_the_published_run() -> None:
    assert sample_indices(60, 16) == [0, 3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47, 51, 55, 59]
    assert sample_indices(14, 16) == [*range(14), 13, 13]
    assert sample_indices(5, 1) == [0]
    assert unique_count(sample_indices(14, 16)) == 14


@pytest.mark.parametrize(("available", "wanted"), [(0, 4), (4, 0)])
def test_no_frames_are_an_error_and_not_an_empty_list(available: int, wanted: int) -> None:
    with pytest.raises(InputError, match="positive"):
        sample_indices(available, wanted)


def test_the_window_is_half_open_and_counts_from_the_clips_first_timestamp() -> None:
    window = pts_window(127995, Fraction(1, 15360), 0, 0.5)
    assert window == PtsWindow(127995, 135675)
    assert 127995 in window
    assert 135674 in window
    assert 135675 not in window
    assert 127994 not in window


def test_seconds_are_the_decimal_that_was_written() -> None:
    # 1.3 as a binary float lies above 13/10: taken as such, the frame at 1.3 s would be lost.
    assert pts_window(0, Fraction(1, 1000), 1.3, 0.1) == PtsWindow(1300, 1400)
    assert pts_window(0, Fraction(1, 30), 0.1, 0.2) == PtsWindow(3, 9)


@given(
    st.integers(-(10**9), 10**9),
    st.fractions(Fraction(1, 10**6), Fraction(1, 5)),
    st.decimals(0, 100, places=3),
    st.decimals("0.001", 60, places=3),
    st.integers(0, 10**6),
)
def test_membership_is_the_definition(first, base, start, duration, offset) -> None:  # type: ignore[no-untyped-def]
    window = pts_window(first, base, float(start), float(duration))
    seconds = offset * base
    inside = Fraction(start) <= seconds < Fraction(start) + Fraction(duration)
    assert ((first + offset) in window) == inside


@pytest.mark.parametrize(("start", "duration"), [(-0.1, 1), (0, 0), (0, -1)])
def test_a_window_that_is_none_is_refused(start: float, duration: float) -> None:
    with pytest.raises(InputError, match="window"):
        pts_window(0, Fraction(1, 1000), start, duration)

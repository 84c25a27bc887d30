"""Student's t is scipy's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import stats


@given(st.floats(min_value=3, max_value=10_000), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_the_t_quantile_is_scipys(dof: float, confidence: float) -> None:
    from scipy.special import stdtrit

    expected = float(stdtrit(dof, 0.5 + confidence / 2))
    assert stats.t_quantile(dof, confidence) == pytest.approx(expected, rel=1e-4)


@given(st.floats(min_value=1, max_value=3))
def test_with_next_to_no_freedom_it_errs_on_the_wide_side(dof: float) -> None:
    from scipy.special import stdtrit

    ratio = stats.t_quantile(dof) / float(stdtrit(dof, 0.975))
    assert 1 - 1e-3 < ratio < 1.2


@pytest.mark.parametrize(("dof", "expected"), [(0, math.inf), (1, 12.7062), (2, 4.30265)])
def test_the_t_quantile_of_next_to_nothing(dof: int, expected: float) -> None:
    assert stats.t_quantile(dof) == pytest.approx(expected, rel=1e-5)


def test_a_mean_of_one_value_has_no_finite_interval() -> None:
    assert stats.mean_interval([3.0]).relative_half_width == math.inf
    with pytest.raises(ValueError, match="at least one value"):
        stats.mean_interval([])

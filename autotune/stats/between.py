"""Many runs: what differs between fresh runs of one configuration, and what follows from it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from autotune.stats.estimates import t_quantile

PRIOR_BETWEEN_SD = 0.031
"""Relative standard deviation between fresh runs of one configuration, before a study has
repeats of its own: measured over nine fresh runs of an SPDL pipeline on two CPU cores."""

PRIOR_BETWEEN_DOF = 8.0
"""Degrees of freedom behind `PRIOR_BETWEEN_SD`."""

PRIOR_WITHIN = 0.028
"""Usual relative half-width within the runs behind `PRIOR_BETWEEN_SD`."""

MIN_BETWEEN_DOF = 4
"""Degrees of freedom (5 fresh runs of one configuration) from which a machine's own repeats
speak for themselves. The prior was measured elsewhere: kept, it would make every interval of a
quieter machine too wide and of a noisier one too narrow."""

_UNKNOWN = 10.0
"""A half-width of the logarithm (a factor of 22,000) from which on nothing is known."""


def repeat_dof(groups: Sequence[Sequence[float]]) -> int:
    """Degrees of freedom in repeats: fresh runs above 0 beyond the first of each configuration.

    Below `MIN_BETWEEN_DOF` an interval rests on the prior, and is to be shown as such.
    """
    return sum(max(0, sum(v > 0 for v in group) - 1) for group in groups)


def between_run_sd(
    groups: Sequence[Sequence[float]],
    prior_sd: float = PRIOR_BETWEEN_SD,
    prior_dof: float = PRIOR_BETWEEN_DOF,
) -> tuple[float, float]:
    """Relative standard deviation between fresh runs of one configuration, and its freedom.

    ``groups`` holds, for each configuration that was measured more than once, the rate of every
    run. The variances of the logarithms are pooled over the groups. They are plain variances
    around each configuration's mean, not of successive differences: repeats spread through a
    study then hold its slow drift, which is part of what a single run misses the mean by.

    Below `MIN_BETWEEN_DOF` a prior of ``prior_dof`` degrees of freedom is pooled in (a scaled
    inverse chi-square update), so that two lucky repeats do not make every interval narrow. From
    there on it is left out, and a t interval with the returned freedom is exact.
    """
    total, dof = 0.0, float(repeat_dof(groups))
    for group in groups:
        logs = [math.log(v) for v in group if v > 0]
        if len(logs) < 2:
            continue
        mean = math.fsum(logs) / len(logs)
        total += math.fsum((x - mean) ** 2 for x in logs)
    if dof < MIN_BETWEEN_DOF:
        total += prior_sd**2 * prior_dof
        dof += prior_dof
    return (math.sqrt(total / dof) if dof > 0 else math.inf), dof


def usual_within(relative_half_widths: Sequence[float]) -> float:
    """Median of the within-run relative half-widths of the runs behind a `between_run_sd`: the
    noise *within* runs that is already counted in it. Without any, `PRIOR_WITHIN`.

    Not their root mean square: the half-width of a short run rests on few batch means and now
    and then comes out many times too wide. One such run would take more out of the spread than
    is in it, and every interval would be too narrow.
    """
    known = [h for h in relative_half_widths if math.isfinite(h)]
    return statistics.median(known) if known else PRIOR_WITHIN


def published_interval(
    means: Sequence[float],
    within_half_widths: Sequence[float],
    between_sd: float,
    dof: float,
    usual_within: float = 0.0,
) -> tuple[float, float]:
    """The 95 % interval of a configuration's mean over its ``len(means)`` fresh runs.

    ``between_sd`` (relative, ``dof`` degrees of freedom) is the spread of whole runs, so it
    holds what differs between runs *and* the noise within the runs it comes from, whose relative
    half-width was ``usual_within``. Their noise is taken out and that of this configuration's
    own runs put in: the half-width of one run is sqrt((t * between_sd)^2 - usual_within^2 +
    within^2), and never below ``within``. With ``usual_within`` 0, not known, nothing is taken
    out, which is too wide rather than too narrow. A run whose own half-width is not finite knows
    nothing of itself, and then nothing is known of the configuration: (0, infinity).

    Args:
        means: rate of each run, samples/s.
        within_half_widths: half-width of each run's own interval, samples/s.
        between_sd: relative standard deviation between fresh runs, from `between_run_sd`.
        dof: its degrees of freedom.
        usual_within: relative half-width within the runs behind ``between_sd``.

    Raises:
        ValueError: if there are no runs.
    """
    k = len(means)
    if k == 0:
        raise ValueError("published_interval needs at least one run")
    mean = math.fsum(means) / k
    if mean <= 0 or not all(math.isfinite(w) for w in within_half_widths):
        return 0.0, math.inf
    own = math.fsum((w / mean) ** 2 for w in within_half_widths) / k
    between = (t_quantile(dof) * between_sd) ** 2 - usual_within**2
    half = math.sqrt((max(0.0, between) + own) / k)
    if half > _UNKNOWN:
        return 0.0, math.inf
    return mean * math.exp(-half), mean * math.exp(half)


def noise_floor(between_sd: float, dof: float) -> float:
    """The smallest relative difference that two single runs can show at 95 %.

    The logarithm of the ratio of two single runs has the standard deviation sqrt(2) *
    between_sd, so two runs of one configuration differ by more than t * sqrt(2) * between_sd in
    5 % of pairs, exactly, whatever the degrees of freedom behind the estimate. (This is the
    repeatability limit of ISO 5725-6, which has 1.96 for t.) Returned as a ratio less 1; infinite
    where nothing is known.
    """
    half = t_quantile(dof) * math.sqrt(2.0) * between_sd
    return math.expm1(half) if half <= _UNKNOWN else math.inf


def rates_tie(a: float, b: float, floor: float) -> bool:
    """Whether the rates of two single runs differ by no more than the noise floor."""
    low, high = min(a, b), max(a, b)
    return high <= low * (1.0 + floor)

"""An experiment's constraints on recorded figures: which are met, and by how much not."""

from __future__ import annotations

from collections.abc import Mapping

from autotune.config import Plan
from autotune.storage.records import MeasurementRecord, TrialRecord
from autotune.trial import Measurement


def figure_limits(plan: Plan) -> dict[str, tuple[str, float, int]]:
    """The experiment's constraints on recorded figures.

    Returns:
        by readable text (``cpu_percent <= 40``): the figure, its limit, and 1 for an upper
        limit or -1 for a lower one.
    """
    limits: dict[str, tuple[str, float, int]] = {}
    for name, limit in plan.experiment.constraints.items():
        if limit.max is not None:
            limits[f"{name} <= {limit.max:g}"] = (name, limit.max, 1)
        if limit.min is not None:
            limits[f"{name} >= {limit.min:g}"] = (name, limit.min, -1)
    return limits


def excesses(plan: Plan, figures: Mapping[str, float | None]) -> dict[str, float]:
    """For each constraint on a figure by how much it is exceeded, relative to its limit.

    Negative where it is met; 0 for a figure that this machine does not record.
    """
    found: dict[str, float] = {}
    for text, (name, limit, sign) in figure_limits(plan).items():
        value = figures[name]
        found[text] = 0.0 if value is None else sign * (value - limit) / max(abs(limit), 1e-9)
    return found


def measured_excesses(plan: Plan, measurement: Measurement) -> dict[str, float]:
    """`excesses` of a measurement's own figures."""
    return excesses(
        plan,
        {
            "cpu_percent": measurement.resources.cpu_percent,
            "host_memory_gib": measurement.resources.rss_gib,
            "gpu_memory_gib": measurement.resources.gpu_memory_gib,
            "cache_gib": measurement.resources.cache_gib,
            "time_to_first_batch": measurement.time_to_first_batch,
        },
    )


def recorded_excesses(plan: Plan, recorded: MeasurementRecord | TrialRecord) -> dict[str, float]:
    """`excesses` of the figures of a recorded measurement, or of a trial."""
    return excesses(
        plan,
        {
            "cpu_percent": recorded.cpu_percent,
            "host_memory_gib": recorded.rss_gib,
            "gpu_memory_gib": recorded.gpu_memory_gib,
            "cache_gib": recorded.cache_gib,
            "time_to_first_batch": recorded.time_to_first_batch,
        },
    )


def broken_limits(plan: Plan, measurement: MeasurementRecord) -> list[str]:
    """The constraints on figures that a recorded measurement breaks, as readable text."""
    return [text for text, excess in recorded_excesses(plan, measurement).items() if excess > 0]

"""Configurations that noise cannot tell from the best one, and the cheapest of them."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

from autotune.exceptions import InputError
from autotune.stats import rates_tie
from autotune.storage import BestGroup, StudyRecord, TrialRecord
from autotune.study.noise import NoiseFloor


def ties(group: BestGroup, record: StudyRecord) -> list[int]:
    """The trials of a group whose search figure lies within the noise floor of the best one's.

    ``group`` must hold all that are ranked with each other. Without a noise floor none is a tie.
    """
    noise = NoiseFloor.of(record)
    if noise is None or not group.trials:
        return []
    best, *others = group.trials
    return [
        trial.number
        for trial in others
        if rates_tie(best.samples_per_second or 0.0, trial.samples_per_second or 0.0, noise.floor)
    ]


def least_of_ties(
    group: BestGroup, record: StudyRecord, name: str, figures_of: Callable[[TrialRecord], object]
) -> BestGroup:
    """The group's best trial and those that tie with it, the one with the least of a figure first.

    Args:
        group: all that are ranked with each other.
        name: a numeric parameter, or a numeric figure, e.g. ``cache_gib``.
        figures_of: a trial's figures, as attributes (`results.trial_figures`).

    Raises:
        InputError: without a noise floor, which ties are told by; or no tied trial has a number
            of this name.
    """
    if record.noise is None:
        raise InputError(
            f"--smallest {name}: study {record.name!r} has no noise floor, so no trial ties with "
            "its best one: fewer than two runs of its baseline could be used; launch it with a "
            "larger noise.runs, while nothing else runs on the machine, or use --where"
        )
    tied = set(ties(group, record))
    among = group.trials[:1] + [trial for trial in group.trials if trial.number in tied]
    values = [t.params.get(name, getattr(figures_of(t), name, None)) for t in among]
    found = [
        (value, trial)
        for value, trial in zip(values, among, strict=True)
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if group.trials and not found:
        raise InputError(
            f"--smallest {name}: no such number of the trials; accepted: a figure such as "
            "cache_gib, host_memory_gib or cpu_percent, or a parameter that is a number"
        )
    return group.model_copy(update={"trials": [t for _, t in sorted(found, key=itemgetter(0))]})

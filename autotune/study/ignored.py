"""Parameters that the measured program may ignore.

Two things together are worth a warning, neither alone: the program shows no sign of the parameter
(`Target.suspects`), or none can be looked for, and no difference between its values can be told
from chance.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from autotune.trial import NodeInfo, Params, Scalar

MIN_TRIALS = 6
"""Fewer measured trials say nothing about a parameter."""

CHANCE = 0.05
"""A difference at least as large as the one seen comes about by chance this often at most, where
the values are said to differ."""

_GROUPS = 3
"""A number with more values than this is looked at in so many ranges."""


def ignored_warnings(
    nodes: Sequence[NodeInfo], searched: Collection[str], trials: Sequence[tuple[Params, float]]
) -> list[str]:
    """One line for each searched parameter that is suspect and made no difference; one for all
    without a difference where nobody could look for their names.

    Args:
        nodes: as they answered the probe.
        searched: names of the parameters that the study varies.
        trials: configuration and samples/s of each measured trial.
    """
    suspects = [n for n in searched if any(n in (node.suspects or ()) for node in nodes)]
    warnings = [
        f"{name} may be ignored: {len(trials)} trials show no difference between its values, and "
        "neither its name nor its flag occurs in the script. Look whether the script reads it"
        for name in suspects
        if makes_no_difference(name, trials)
    ]
    if all(node.suspects is not None for node in nodes):
        return warnings
    alike = [n for n in searched if n not in suspects and makes_no_difference(n, trials)]
    if alike:
        warnings.append(
            f"{', '.join(alike)}: {len(trials)} trials show no difference between the values, and "
            "the command names no source in which to look for the name or the flag. Look whether "
            "the script reads it"
        )
    return warnings


def makes_no_difference(name: str, trials: Sequence[tuple[Params, float]]) -> bool:
    """Whether the rates at different values of a parameter look like draws from one lot.

    Kruskal and Wallis's rank test (Use of ranks in one-criterion variance analysis, 1952): it
    asks nothing of the rates' distribution, and other parameters that vary at the same time are
    noise to it. False where there are too few trials to tell.
    """
    if len(trials) < MIN_TRIALS:
        return False
    groups = [rates for rates in _grouped(name, trials).values() if len(rates) > 1]
    if len(groups) < 2:
        return False
    if len({rate for rates in groups for rate in rates}) == 1:
        return True
    from scipy.stats import kruskal

    return float(kruskal(*groups).pvalue) > CHANCE


def _grouped(name: str, trials: Sequence[tuple[Params, float]]) -> Mapping[Scalar, list[float]]:
    values = sorted({params[name] for params, _ in trials}, key=lambda v: (str(type(v)), v))
    merges = len(values) > _GROUPS and not isinstance(values[0], str | bool)
    groups: dict[Scalar, list[float]] = {}
    for params, rate in trials:
        position = values.index(params[name])
        key: Scalar = position * _GROUPS // len(values) if merges else params[name]
        groups.setdefault(key, []).append(rate)
    return groups

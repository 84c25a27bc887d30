"""Workload parameters change the work per sample, so figures compare within one value only.

Every combination of the values of the workload parameters that an experiment varies is a
workload: it has its own baseline, its own best and its own verification.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from autotune.search_space import SearchSpace
from autotune.trial import Params, Scalar

Workload = tuple[tuple[str, Scalar], ...]
"""The values of the workload parameters, by name: `SearchSpace.workload_key`."""

MAX_BASELINES = 16
"""So many workloads get their baseline measured up front; others when they are verified."""


def baseline_for(space: SearchSpace, baseline: Params, params: Mapping[str, Scalar]) -> Params:
    """The baseline of the workload that ``params`` belongs to."""
    changed = dict(baseline)
    for name, parameter in space.parameters.items():
        if parameter.workload and name in params:
            changed[name] = params[name]
    return space.complete(changed)


def workload_baselines(space: SearchSpace, baseline: Params) -> list[Params]:
    """The baseline, then the baseline of every other workload that is searched.

    ``space`` is the searched space: what it pins is not varied. Continuous workload parameters
    have no list of values; their baselines are measured when they are verified.
    """
    varied = [n for n in space.searched if space.parameters[n].workload]
    choices: list[Iterable[Scalar]] = []
    for name in varied:
        parameter = space.parameters[name]
        if parameter.kind == "categorical":
            choices.append(parameter.values or ())
        elif parameter.kind == "int":
            low, high = int(parameter.min or 0), int(parameter.max or 0)
            choices.append(range(low, high + 1, int(parameter.step or 1)))
        else:
            choices.append([baseline[name]])
    found = [baseline]
    keys = {space.canonical(baseline)}
    for values in itertools.product(*choices):
        params = space.complete({**baseline, **dict(zip(varied, values, strict=True))})
        key = space.canonical(params)
        if key not in keys:
            keys.add(key)
            found.append(params)
        if len(found) >= MAX_BASELINES:
            break
    return found


def describe(workload: Workload, varied: Iterable[str]) -> str:
    """``subclip_duration=0.5, batch_size=16`` for the parameters that vary; empty if none."""
    names = set(varied)
    return ", ".join(f"{name}={value}" for name, value in workload if name in names)

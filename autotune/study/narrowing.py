"""What the measuring nodes cannot run is left out of the search, with a line that says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from autotune.config import Plan
from autotune.exceptions import UnsupportedError
from autotune.search_space import SearchSpace
from autotune.search_space.parameter import Parameter
from autotune.trial import NodeInfo, Params, Scalar, UnavailableValue


def narrowed(
    plan: Plan, nodes: Iterable[NodeInfo], begun_with: SearchSpace | None = None
) -> tuple[Plan, list[str]]:
    """The plan without the values that any of the nodes cannot run, and a note on each.

    Values left out are those of parameters with a list of choices; only what the study would
    have tried is noted.

    Args:
        plan: as resolved.
        nodes: where the study is measured.
        begun_with: the space of the study that is resumed. It stays what it is, since a sampler
            learns over a space that does not change: what was installed later is not added, and
            what is missing now is an error.

    Raises:
        UnsupportedError: the baseline, an enqueued configuration or what the experiment fixes
            needs one of them, no value of a parameter is left, or the study was begun with it.
    """
    missing = {(u.parameter, u.value): u for node in nodes for u in node.unavailable}
    _refuse_needed(plan, missing)
    if begun_with is not None:
        _refuse_lost(plan, begun_with, missing)
        return replace(plan, searched=begun_with), []
    parameters = dict(plan.searched.parameters)
    notes = []
    for (name, value), entry in missing.items():
        parameter = parameters.get(name)
        if parameter is None or value not in parameter.values:
            continue
        parameters[name] = _without(parameter, entry, plan.baseline[name])
        if name in plan.searched.searched:
            notes.append(f"{name}: {_text(value)} is left out of the search: {entry.reason}")
    searched = SearchSpace(
        plan.searched.target, parameters, plan.searched.constraints, plan.searched.pinned
    )
    return replace(plan, searched=searched), notes


def _refuse_needed(plan: Plan, missing: Mapping[tuple[str, Scalar], UnavailableValue]) -> None:
    wanted: list[tuple[str, Params]] = [("baseline", plan.baseline)]
    wanted += [(f"enqueue[{index}]", params) for index, params in enumerate(plan.enqueued)]
    for where, params in wanted:
        active = plan.space.active(params)
        for (name, value), entry in missing.items():
            if name in active and params[name] == value:
                raise UnsupportedError(
                    f"{plan.experiment.source}: {where}: {name}: {_text(value)} cannot be "
                    f"measured here: {entry.reason}"
                )


def _refuse_lost(
    plan: Plan, begun_with: SearchSpace, missing: Mapping[tuple[str, Scalar], UnavailableValue]
) -> None:
    for (name, value), entry in missing.items():
        if name in begun_with.searched and value in begun_with.parameters[name].values:
            raise UnsupportedError(
                f"{plan.experiment.source}: the study was begun where {name}: {_text(value)} could "
                f"be measured, and now it cannot: {entry.reason}. Or use another --study-name"
            )


def _without(parameter: Parameter, entry: UnavailableValue, preferred: Scalar) -> Parameter:
    """The parameter without one value; ``preferred`` becomes the default where that was it."""
    values = tuple(v for v in parameter.values if v != entry.value)
    if not values:
        raise UnsupportedError(
            f"{parameter.name}: none of its values can be measured here; {_text(entry.value)}: "
            f"{entry.reason}"
        )
    kept = [v for v in (parameter.default, preferred) if v in values]
    return replace(parameter, values=values, default=kept[0] if kept else values[0])


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

"""What a search space must satisfy: distinct flags, conditions and constraints that make sense."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from itertools import product
from types import MappingProxyType

from autotune.exceptions import InputError
from autotune.expressions import Expression
from autotune.search_space.document import did_you_mean, listed
from autotune.search_space.parameter import Parameter
from autotune.trial import Scalar

NODE_NAMES: Mapping[str, Scalar] = MappingProxyType(
    {"cpu_count": 8, "gpu_count": 1, "memory_gib": 64.0}
)
"""What a constraint may use besides parameters: facts of the measuring node, here with sample
values to check the constraint with before a node is known."""

_MOST_COMBINATIONS = 4096
"""Combinations of values tried to find out whether a condition can hold."""


def check_flags(parameters: Mapping[str, Parameter], where: str) -> None:
    owners: dict[str, str] = {}
    for name, parameter in parameters.items():
        if name in NODE_NAMES:
            raise InputError(
                f"{where}: parameters.{name}: the name stands for a fact of the measuring node "
                f"in constraints ({listed(NODE_NAMES)}). Choose another"
            )
        owner = owners.setdefault(parameter.flag, name)
        if owner != name:
            raise InputError(
                f"{where}: parameters.{name}.flag: {parameter.flag} is already the flag of "
                f"{owner}. Give each parameter its own"
            )


def sorted_by_condition(parameters: Mapping[str, Parameter]) -> tuple[str, ...]:
    """Names in file order, but what a condition needs before what it switches."""
    order: dict[str, None] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            raise InputError(f"parameters.{name}.when: conditions form a circle: {circle}")
        when = parameters[name].when
        for other in parameters:
            if when is not None and other in when.names and name not in order:
                visit(other, (*path, name))
        order.setdefault(name)

    for name in parameters:
        visit(name, ())
    return tuple(order)


def check_conditions(parameters: Mapping[str, Parameter], where: str) -> None:
    for name, parameter in parameters.items():
        place = f"{where}: parameters.{name}.when"
        for other in sorted(parameter.when.names if parameter.when else ()):
            if other == name:
                raise InputError(f"{place}: refers to {name} itself. Remove the condition")
            if other not in parameters:
                others = [n for n in parameters if n != name]
                raise InputError(
                    f"{place}: {other!r} is no parameter. {did_you_mean(other, others)}"
                    f"Accepted: {listed(others)}"
                )
    try:
        sorted_by_condition(parameters)
    except InputError as error:
        raise InputError(f"{where}: {error}. Remove one of the conditions") from error
    for parameter in parameters.values():
        can_hold(parameter, parameters, {})


def can_hold(
    parameter: Parameter, parameters: Mapping[str, Parameter], pinned: Mapping[str, Scalar]
) -> bool:
    """Whether the condition holds for some values; True where there are too many to try.

    Raises:
        ExpressionError: if the condition cannot be evaluated for one of them.
    """
    if parameter.when is None:
        return True
    choices: dict[str, Collection[Scalar]] = {}
    for name in sorted(parameter.when.names):
        other = parameters[name]
        if name in pinned:
            # A condition of its own may switch it off, and then its default counts.
            choices[name] = {pinned[name], other.default if other.when else pinned[name]}
        elif other.cardinality() is None:
            choices[name] = [v for v in (other.min, other.max, other.default) if v is not None]
        else:
            choices[name] = other.domain()
    exact = all(n in pinned or parameters[n].cardinality() is not None for n in choices)
    if math.prod(len(values) for values in choices.values()) > _MOST_COMBINATIONS:
        parameter.when.holds({name: parameters[name].default for name in choices})
        return True
    results = [
        parameter.when.holds(dict(zip(choices, values, strict=True)))
        for values in product(*choices.values())
    ]
    return any(results) or not exact


def domains(expression: Expression, parameters: Mapping[str, Parameter]) -> str:
    return ". ".join(f"Values of {n}: {parameters[n].accepted()}" for n in sorted(expression.names))


def read_constraints(
    data: object, parameters: Mapping[str, Parameter], where: str
) -> tuple[Expression, ...]:
    if data is None:
        return ()
    if not isinstance(data, list | tuple):
        raise InputError(f"{where}: constraints: a list of expressions is needed")
    constraints = []
    sample = {**NODE_NAMES, **{name: p.default for name, p in parameters.items()}}
    for index, text in enumerate(data):
        constraint = Expression.parse(text, f"{where}: constraints[{index}]")
        # With sample values: an unknown name or text compared with a number shows now, not in
        # the middle of a night's study.
        for name in sorted(constraint.names - set(sample)):
            raise InputError(
                f"{where}: constraints[{index}]: unknown name {name!r} in {text!r}. "
                f"{did_you_mean(name, sample)}Accepted: {listed(sample)}"
            )
        constraint.holds(sample)
        constraints.append(constraint)
    return tuple(constraints)

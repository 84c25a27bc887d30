"""The parameters of a target, their conditions and their constraints."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

from autotune.exceptions import InputError
from autotune.expressions import Expression
from autotune.search_space import flags
from autotune.search_space.conditions import (
    can_hold,
    check_conditions,
    check_flags,
    domains,
    read_constraints,
    sorted_by_condition,
)
from autotune.search_space.document import did_you_mean, listed, read_yaml
from autotune.search_space.parameter import Parameter, type_name
from autotune.trial import Params, Scalar

KEYS = ("target", "parameters", "constraints", "pinned")

_MOST_CONTROLLED = 1_000_000
"""Combinations of condition-bearing values that `SearchSpace.size` walks through."""


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """A target's search space, or the part of it that a study searches (see `subset`).

    Make one with `load` or `from_dict`: they validate.
    """

    target: str
    parameters: Mapping[str, Parameter]
    """In the order of the file."""
    constraints: tuple[Expression, ...] = ()
    pinned: Params = field(default_factory=dict)
    """Parameters that are not searched, with the value each is held at."""
    searched: list[str] = field(init=False)
    """Parameters that are searched; one that a condition needs stands before it."""
    _order: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_order", sorted_by_condition(self.parameters))
        pinned = dict(self.pinned)
        for name in self._order:
            parameter = self.parameters[name]
            if not can_hold(parameter, self.parameters, pinned):
                pinned[name] = parameter.default
            elif parameter.cardinality() == 1:
                pinned.setdefault(name, parameter.default)
        object.__setattr__(self, "pinned", pinned)
        object.__setattr__(self, "searched", [n for n in self._order if n not in pinned])

    # ------------------------------------------------------------------ reading and writing

    @classmethod
    def load(cls, path: str | Path) -> SearchSpace:
        """Read a search-space file.

        Raises:
            InputError: naming the file, the key, the value, what is accepted and the remedy.
        """
        path = Path(path)
        space = cls.from_dict(read_yaml(path), str(path))
        for parameter in space.parameters.values():
            # A mistyped value in a condition would silently switch the parameter off.
            if parameter.when and not can_hold(parameter, space.parameters, {}):
                raise InputError(
                    f"{path}: parameters.{parameter.name}.when: {parameter.when.text!r} can never "
                    f"be true. {domains(parameter.when, space.parameters)}"
                )
        return space

    @classmethod
    def from_dict(cls, data: object, where: str = "search space") -> SearchSpace:
        """Read what `to_dict` or a YAML file gave.

        Raises:
            InputError: naming ``where``, the key, the value, what is accepted and the remedy.
        """
        if not isinstance(data, Mapping):
            raise InputError(f"{where}: a mapping is needed, not {type_name(data)}")
        for key in data:
            if key not in KEYS:
                raise InputError(
                    f"{where}: {key}: unknown key. {did_you_mean(str(key), KEYS)}"
                    f"Accepted: {listed(KEYS)}"
                )
        target = data.get("target")
        if not isinstance(target, str) or not target:
            raise InputError(f"{where}: target: the target's name is needed, not {target!r}")
        entries = data.get("parameters")
        if not isinstance(entries, Mapping) or not entries:
            raise InputError(
                f"{where}: parameters: a mapping of parameters is needed, at least one of them"
            )
        parameters = {
            name: Parameter.from_dict(name, entry, f"{where}: parameters.{name}")
            for name, entry in entries.items()
        }
        check_flags(parameters, where)
        check_conditions(parameters, where)
        constraints = read_constraints(data.get("constraints"), parameters, where)
        space = cls(target, parameters, constraints)
        pinned = data.get("pinned") or {}
        if not isinstance(pinned, Mapping):
            raise InputError(f"{where}: pinned: a mapping is needed, not {type_name(pinned)}")
        return cls(target, parameters, constraints, space.check(pinned, f"{where}: pinned"))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form that `from_dict` reads back."""
        data: dict[str, Any] = {
            "target": self.target,
            "parameters": {name: p.to_dict() for name, p in self.parameters.items()},
            "constraints": [constraint.text for constraint in self.constraints],
        }
        if self.pinned:
            data["pinned"] = dict(self.pinned)
        return data

    # ------------------------------------------------------------------ configurations

    def defaults(self) -> Params:
        """Every parameter at its default."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def check(self, params: Mapping[str, object], where: str = "configuration") -> Params:
        """The given values, each in its parameter's type; nothing is added.

        Raises:
            InputError: for an unknown name, a value out of range, or one that contradicts what
                the study holds fixed.
        """
        checked: Params = {}
        for name, value in params.items():
            if name not in self.parameters:
                raise InputError(
                    f"{where}.{name}: unknown parameter. {did_you_mean(name, self.parameters)}"
                    f"Accepted: {listed(self.parameters)}"
                )
            checked[name] = self.parameters[name].check(value, f"{where}.{name}")
        clash = {n for n in checked if n in self.pinned and checked[n] != self.pinned[n]}
        for name in sorted(clash & self._resolve(checked)[1] if clash else ()):
            held = self.pinned[name]
            remedy = "Remove it, or do not fix the parameter"
            if self.parameters[name].workload:
                remedy = f"Remove it, or list {name} under vary_workload"
            raise InputError(
                f"{where}.{name}: {checked[name]} is not accepted: this study holds {name} at "
                f"{held}. {remedy}"
            )
        return checked

    def complete(self, params: Mapping[str, object], where: str = "configuration") -> Params:
        """The full configuration: what is missing takes its pinned value or its default, and so
        does a parameter whose condition does not hold.

        Raises:
            InputError: as `check`.
        """
        return self._resolve(self.check(params, where))[0]

    def active(self, params: Mapping[str, Scalar]) -> set[str]:
        """The parameters whose condition holds, pinned ones included."""
        return self._resolve(params)[1]

    def canonical(self, params: Mapping[str, Scalar]) -> tuple[tuple[str, Scalar], ...]:
        """A key that two configurations share if they differ only in what has no effect."""
        full, active = self._resolve(params)
        return tuple((name, full[name]) for name in self.parameters if name in active)

    @property
    def workload_names(self) -> list[str]:
        """The parameters that change the work per sample or what the model sees."""
        return [name for name, parameter in self.parameters.items() if parameter.workload]

    def workload_key(self, params: Mapping[str, Scalar]) -> tuple[tuple[str, Scalar], ...]:
        """A key of the work per sample: figures compare only within one such key."""
        workload = set(self.workload_names)
        return tuple(pair for pair in self.canonical(params) if pair[0] in workload)

    def violations(self, params: Mapping[str, Scalar], names: Mapping[str, Scalar]) -> list[str]:
        """The constraints a configuration breaks, each with the evaluated numbers.

        Args:
            names: facts of the measuring node, see `NODE_NAMES`.

        Raises:
            ExpressionError: if a constraint uses a name that ``names`` lacks.
        """
        known = {**names, **self._resolve(params)[0]}
        return [
            f"{constraint.text}: not so for {constraint.explain(known)}"
            for constraint in self.constraints
            if not constraint.holds(known)
        ]

    def _resolve(self, params: Mapping[str, Scalar]) -> tuple[Params, set[str]]:
        full: Params = {}
        active: set[str] = set()
        for name in self._order:
            parameter = self.parameters[name]
            if parameter.when is None or parameter.when.holds(full):
                active.add(name)
                full[name] = params.get(name, self.pinned.get(name, parameter.default))
            else:
                full[name] = parameter.default
        return {name: full[name] for name in self.parameters}, active

    # ------------------------------------------------------------------ what is searched

    def subset(
        self,
        fixed: Mapping[str, object],
        vary_workload: Collection[str] = (),
        baseline: Mapping[str, object] | None = None,
        where: str = "experiment",
    ) -> SearchSpace:
        """The space a study searches: the same parameters, some of them pinned.

        Args:
            fixed: parameters the experiment fixes.
            vary_workload: workload parameters that are searched; the others are held at their
                value in the baseline, for figures of different work do not compare.
            baseline: the configuration in use today.

        Raises:
            InputError: if a name is unknown, no workload parameter, or both fixed and varied.
        """
        pinned = self.check(fixed, f"{where}: target")
        for name in vary_workload:
            place = f"{where}: vary_workload: {name}"
            if name not in self.workload_names:
                problem = "is no workload parameter" if name in self.parameters else "is unknown"
                raise InputError(
                    f"{place} {problem}. {did_you_mean(name, self.workload_names)}"
                    f"Accepted: {listed(self.workload_names)}"
                )
            if name in pinned:
                raise InputError(f"{place} is fixed at {pinned[name]} in target. Remove one")
        today = self.complete({**pinned, **(baseline or {})}, f"{where}: baseline")
        for name in self.workload_names:
            if name not in vary_workload and name not in pinned:
                pinned[name] = today[name]
        return SearchSpace(self.target, self.parameters, self.constraints, pinned)

    def merged(self, changes: object, where: str) -> SearchSpace:
        """This space with some keys of some parameters replaced (``{max: 8, default: 4}``).

        Raises:
            InputError: as `from_dict`, and for a parameter this space does not have.
        """
        if not isinstance(changes, Mapping):
            raise InputError(f"{where}: a mapping is needed, not {type_name(changes)}")
        data = self.to_dict()
        for name, change in changes.items():
            if name not in self.parameters:
                raise InputError(
                    f"{where}.{name}: unknown parameter. {did_you_mean(name, self.parameters)}"
                    f"Accepted: {listed(self.parameters)}"
                )
            if not isinstance(change, Mapping):
                raise InputError(f"{where}.{name}: a mapping is needed, not {type_name(change)}")
            entry = data["parameters"][name]
            if "values" in change:
                entry = {k: v for k, v in entry.items() if k not in ("min", "max", "step", "log")}
            elif {"min", "max", "step", "log"} & set(change):
                entry = {k: v for k, v in entry.items() if k != "values"}
            merged = {**entry, **change}
            # Alone first: its message then names the experiment, not the base file.
            try:
                Parameter.from_dict(name, merged, f"{where}.{name}")
            except InputError as error:
                if "default" in change or ".default:" not in str(error):
                    raise
                raise InputError(
                    f"{error}. The default comes from the base: give one here too"
                ) from error
            data["parameters"][name] = merged
        data.pop("pinned", None)
        return SearchSpace.from_dict(data, where)

    def size(self) -> int | None:
        """How many different configurations there are, conditions respected, constraints not.

        None if a searched range is continuous, or if more than a million combinations of values
        that conditions depend on had to be told apart.
        """
        total = 1
        for controllers, others in self._groups():
            cards = {name: self.parameters[name].cardinality() for name in controllers | others}
            bounded = [cards[name] for name in controllers]
            if None in bounded or math.prod(c or 0 for c in bounded) > _MOST_CONTROLLED:
                return None
            count = 0
            for full in self._walk(controllers):
                ways = 1
                for name in others:
                    when = self.parameters[name].when
                    if when is None or when.holds(full):
                        card = cards[name]
                        if card is None:
                            return None
                        ways *= card
                count += ways
            total *= count
        return total

    def enumerate(self) -> Iterator[Params]:
        """Every different full configuration once; parameters that are off do not multiply.

        Raises:
            InputError: if a searched range is continuous.
        """
        for name in self.searched:
            if self.parameters[name].cardinality() is None:
                self.parameters[name].domain()
        for full in self._walk(set(self.searched)):
            yield {name: full[name] for name in self.parameters}

    def _walk(self, varied: Collection[str], index: int = 0, *before: Params) -> Iterator[Params]:
        """Every combination of ``varied``; the rest at its pinned value or default."""
        full: Params = dict(*before)
        for position in range(index, len(self._order)):
            name = self._order[position]
            parameter = self.parameters[name]
            if parameter.when is not None and not parameter.when.holds(full):
                full[name] = parameter.default
            elif name not in varied:
                full[name] = self.pinned.get(name, parameter.default)
            else:
                for value in parameter.domain():
                    full[name] = value
                    yield from self._walk(varied, position + 1, full)
                return
        yield full

    def _groups(self) -> list[tuple[set[str], set[str]]]:
        """Searched parameters in groups that conditions do not connect: (those that conditions
        depend on, the others). The sizes of the groups multiply."""
        searched = set(self.searched)
        groups: list[tuple[set[str], set[str]]] = []
        for name in self.searched:
            controllers = self._needs(name) & searched
            others = {name}
            apart = []
            for group in groups:
                if (group[0] | group[1]) & (controllers | others):
                    controllers, others = controllers | group[0], others | group[1]
                else:
                    apart.append(group)
            groups = [*apart, (controllers, others - controllers)]
        return groups

    def _needs(self, name: str) -> set[str]:
        """The parameters that decide whether ``name`` is active, directly or through others."""
        when = self.parameters[name].when
        direct = when.names if when else frozenset()
        return set(direct).union(*(self._needs(other) for other in direct))

    # ------------------------------------------------------------------ command-line flags

    def format_flags(self, params: Mapping[str, Scalar]) -> list[str]:
        """The configuration as flags, parameters without effect left out."""
        return flags.format_flags(self.parameters.values(), self.canonical(params))

    @overload
    def parse_flags(self, text: str | list[str], where: str = "flags") -> Params: ...

    @overload
    def parse_flags(
        self, text: str | list[str], where: str = "flags", *, ignore_unknown: Literal[True]
    ) -> tuple[Params, list[str]]: ...

    def parse_flags(
        self, text: str | list[str], where: str = "flags", *, ignore_unknown: bool = False
    ) -> Params | tuple[Params, list[str]]:
        """Read ``--num-demux-threads 3 --arena=pool``; of a repeated flag the last counts.

        Args:
            ignore_unknown: take a whole production command line; words that are no flag of this
                space come back as the second item.

        Raises:
            InputError: for an unknown flag, a missing value or one that is not accepted.
        """
        params, ignored = flags.parse_flags(
            list(self.parameters.values()), text, where, ignore_unknown=ignore_unknown
        )
        return (params, ignored) if ignore_unknown else params


def value_from_text(parameter: Parameter, text: str) -> Scalar:
    """The value that ``text`` stands for.

    Raises:
        InputError: naming the parameter, the text and what is accepted.
    """
    return parameter.from_text(text, parameter.name)

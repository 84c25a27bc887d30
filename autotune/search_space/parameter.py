"""One thing that can be varied: its type, range, default, unit and command-line flag."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, TypeGuard

from autotune.exceptions import InputError
from autotune.expressions import Expression
from autotune.search_space.document import did_you_mean, listed
from autotune.trial import Scalar

Kind = Literal["int", "float", "categorical"]

KEYS = (
    "values",
    "min",
    "max",
    "step",
    "log",
    "default",
    "unit",
    "flag",
    "workload",
    "when",
    "help",
)
"""What a parameter may say in a search-space file."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FLAG = re.compile(r"--[a-z0-9][a-z0-9-]*")
_RESERVED = frozenset({"or", "and", "not", "in", "true", "false"})
_TRAPS = {True: ("on", "yes"), False: ("off", "no")}


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def type_name(value: object) -> str:
    """What a person calls the type of a YAML value."""
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if value is None:
        return "empty"
    return "a list" if isinstance(value, list) else "a mapping"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter; `from_dict` validates, and everything else relies on that."""

    name: str
    kind: Kind
    default: Scalar
    values: tuple[Scalar, ...] = ()
    """The choices of a categorical parameter, all of one type."""
    min: int | float | None = None
    max: int | float | None = None
    step: int | float | None = None
    """Distance of neighbouring values; 1 for an int, None for a continuous float."""
    log: bool = False
    """Searched on a logarithmic scale."""
    unit: str = ""
    flag: str = ""
    workload: bool = False
    """Changes the work per sample or what the model sees."""
    when: Expression | None = None
    """The parameter has an effect only while this holds."""
    help: str = ""

    @classmethod
    def from_dict(cls, name: str, data: object, where: str) -> Parameter:
        """Read one entry of ``parameters:``.

        Args:
            where: the file and key for messages, e.g. ``x.yaml: parameters.num_threads``.

        Raises:
            InputError: naming the key, the value, what is accepted and the remedy.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED:
            raise InputError(
                f"{where}: {name!r} is not a parameter name. Accepted: lower-case letters, digits "
                "and _, starting with a letter, and no word of the expression language"
            )
        if not isinstance(data, Mapping):
            raise InputError(
                f"{where}: a mapping such as {{min: 1, max: 8, default: 4}} is needed, "
                f"not {type_name(data)} ({data!r})"
            )
        for key in data:
            if key not in KEYS:
                raise InputError(
                    f"{where}.{key}: unknown key. {did_you_mean(str(key), KEYS)}"
                    f"Accepted: {listed(KEYS)}"
                )
        return _read(name, data, where)

    def cardinality(self) -> int | None:
        """How many values there are; None if the range is continuous."""
        if self.kind == "categorical":
            return len(self.values)
        low, high = self._range()
        if low == high:
            return 1
        if self.step is None:
            return None
        return _steps(low, high, self.step) + 1

    def domain(self) -> Sequence[Scalar]:
        """Every value, in order.

        Raises:
            InputError: if the range is continuous.
        """
        if self.kind == "categorical":
            return self.values
        low, high = self._range()
        if self.kind == "int":
            return range(int(low), int(high) + 1, int(self.step or 1))
        count = self.cardinality()
        if count is None:
            raise InputError(
                f"{self.name}: the range {self.accepted()} is continuous and cannot be enumerated. "
                "Give it a step"
            )
        return [self._at(low, index) for index in range(count)]

    def accepted(self) -> str:
        """What `check` accepts, for messages and tables."""
        if self.kind == "categorical":
            return listed(_plain(value) for value in self.values)
        low, high = self._range()
        kind = "whole numbers" if self.kind == "int" else "numbers"
        stepped = self.step is not None and not (self.kind == "int" and self.step == 1)
        step = f" in steps of {self.step}" if stepped else ""
        return f"{kind} {low} to {high}{step}{f' ({self.unit})' if self.unit else ''}"

    def check(self, value: object, where: str) -> Scalar:
        """The value in this parameter's own type (``2`` becomes ``2.0`` for a float).

        Raises:
            InputError: naming ``where``, the value and what is accepted.
        """
        if self.kind == "categorical":
            for choice in self.values:
                same_type = isinstance(value, bool) == isinstance(choice, bool)
                if same_type and value == choice:
                    return choice
        elif _is_number(value) and math.isfinite(value):
            found = self._nearest(value)
            if found is not None:
                return found
        raise InputError(
            f"{where}: {_plain(value)} is not accepted. {self._hint(value)}"
            f"Accepted: {self.accepted()}"
        )

    def from_text(self, text: str, where: str) -> Scalar:
        """The value that ``text`` (from a command line) stands for.

        Raises:
            InputError: naming ``where``, the text and what is accepted.
        """
        sample = self.values[0] if self.kind == "categorical" else self.min
        value: object = text
        if isinstance(sample, bool):
            value = {"true": True, "false": False}.get(text.lower(), text)
        elif not isinstance(sample, str):
            # int() and float() alone would take "1_000", " 1" and "nan".
            if re.fullmatch(r"[+-]?[0-9]{1,100}", text):
                value = int(text)
            elif re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", text):
                value = float(text)
        return self.check(value, where)

    def to_dict(self) -> dict[str, Any]:
        """The entry of a search-space file that reads back as this parameter; JSON-able."""
        data: dict[str, Any] = {}
        if self.kind == "categorical":
            data["values"] = list(self.values)
        else:
            data |= {"min": self.min, "max": self.max}
            if self.step is not None and not (self.kind == "int" and self.step == 1):
                data["step"] = self.step
            if self.log:
                data["log"] = True
        data["default"] = self.default
        if self.unit:
            data["unit"] = self.unit
        data["flag"] = self.flag
        if self.workload:
            data["workload"] = True
        if self.when is not None:
            data["when"] = self.when.text
        if self.help:
            data["help"] = self.help
        return data

    def _range(self) -> tuple[int | float, int | float]:
        if self.min is None or self.max is None:
            raise TypeError(f"{self.name} is categorical and has no range")
        return self.min, self.max

    def _at(self, low: int | float, index: int) -> int | float:
        value = _exact(low) + index * _exact(self.step or 0)
        return int(value) if self.kind == "int" else float(value)

    def _nearest(self, value: int | float) -> int | float | None:
        """The value of the range that ``value`` stands for, or None."""
        low, high = self._range()
        if not low <= value <= high:
            # 0.1 + 0.2 is a hair above 0.3: a sampler's arithmetic is not the user's mistake.
            if self.kind == "int" or not any(math.isclose(value, end) for end in (low, high)):
                return None
            value = min(max(value, low), high)
        if self.kind == "int" and value != int(value):
            return None
        if self.step is None:
            return float(value)
        index = round((_exact(value) - _exact(low)) / _exact(self.step))
        found = self._at(low, index)
        return found if math.isclose(found, value, rel_tol=1e-9, abs_tol=1e-12) else None

    def _hint(self, value: object) -> str:
        words = [choice for choice in self.values if isinstance(choice, str)]
        if isinstance(value, bool):
            for trap in _TRAPS[value]:
                if trap in words:
                    return f'An unquoted {trap} is {str(value).lower()} in YAML: write "{trap}". '
        return did_you_mean(value, words) if isinstance(value, str) and words else ""


def _plain(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if text.isprintable() else repr(text)


def _exact(value: int | float) -> Fraction:
    """The decimal number a person wrote: 0.1 is a tenth, not the float nearest to it."""
    return Fraction(repr(float(value)) if isinstance(value, float) else value)


def _steps(low: int | float, high: int | float, step: int | float) -> int:
    return int((_exact(high) - _exact(low)) / _exact(step))


def _read(name: str, data: Mapping[str, Any], where: str) -> Parameter:
    def fail(key: str, problem: str) -> InputError:
        return InputError(f"{where}.{key}: {problem}")

    def text(key: str) -> str:
        value = data.get(key, "")
        if not isinstance(value, str):
            raise fail(key, f"text is needed, not {type_name(value)} ({_plain(value)})")
        return value

    def truth(key: str) -> bool:
        value = data.get(key, False)
        if not isinstance(value, bool):
            raise fail(key, f"{value!r} is not accepted. Accepted: true, false")
        return value

    if "default" not in data:
        raise fail("default", "is missing. Give the value in use when nothing is said")
    flag = text("flag") or f"--{name.replace('_', '-')}"
    if not _FLAG.fullmatch(flag):
        raise fail("flag", f"{flag!r} is not a flag. Accepted: --lower-case-words")
    if "values" in data:
        clash = [key for key in ("min", "max", "step", "log") if key in data]
        if clash:
            raise fail(clash[0], "cannot stand beside `values`. Remove one of the two")
        parameter = Parameter(
            name, "categorical", data["default"], _choices(data["values"], f"{where}.values")
        )
    else:
        parameter = _numeric(name, data, where, truth("log"))
    default = parameter.check(data["default"], f"{where}.default")
    when = data.get("when")
    return replace(
        parameter,
        default=default,
        unit=text("unit"),
        flag=flag,
        workload=truth("workload"),
        when=None if when is None else Expression.parse(when, f"{where}.when"),
        help=text("help"),
    )


def _choices(values: object, where: str) -> tuple[Scalar, ...]:
    if not isinstance(values, list | tuple):
        raise InputError(f"{where}: a list such as [8, 16] is needed, not {type_name(values)}")
    if not values:
        raise InputError(f"{where}: the list is empty. Give at least one value")
    for value in values:
        if not isinstance(value, bool | int | float | str):
            raise InputError(f"{where}: {value!r} is {type_name(value)}. Accepted: numbers or text")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{where}: {value} is not a finite number")
        if value == "":
            raise InputError(f"{where}: empty text is not accepted as a value")
    kinds = {type_name(value) for value in values}
    if len(kinds) > 1:
        trapped = [trap for v in values if isinstance(v, bool) for trap in _TRAPS[v]]
        remedy = (
            f"Was {' or '.join(trapped)} meant? YAML reads it as true/false without quotes: quote "
            f'it ("{trapped[0]}")'
            if trapped
            else "Write all of them as text, in quotes, or all as numbers"
        )
        raise InputError(f"{where}: the values mix {' and '.join(sorted(kinds))}. {remedy}")
    if any(isinstance(value, float) for value in values):
        values = [float(value) for value in values]
    for index, value in enumerate(values):
        if value in values[:index]:
            raise InputError(f"{where}: {_plain(value)} is listed twice. Remove one")
    return tuple(values)


def _numeric(name: str, data: Mapping[str, Any], where: str, log: bool) -> Parameter:
    missing = [key for key in ("min", "max") if key not in data]
    if missing:
        raise InputError(
            f"{where}.{missing[0]}: is missing. Give `min` and `max`, or a list of `values`"
        )
    for key in ("min", "max", "step"):
        value = data.get(key)
        if key in data and (not _is_number(value) or not math.isfinite(value)):
            raise InputError(f"{where}.{key}: a number is needed, not {type_name(value)} ({value})")
    low, high, step = data["min"], data["max"], data.get("step")
    given = [value for value in (low, high, step, data["default"]) if _is_number(value)]
    # 0..1 with a default of 0.5 is a float range, and so is 0..1 in steps of 0.1.
    kind: Kind = "float" if any(isinstance(value, float) for value in given) else "int"
    if kind == "float":
        low, high, step = float(low), float(high), None if step is None else float(step)
    if low > high:
        raise InputError(f"{where}: the range is empty: min {low} is above max {high}. Swap them")
    if step is not None and step <= 0:
        raise InputError(f"{where}.step: {step} is not accepted. Accepted: numbers above 0")
    if log and low <= 0:
        raise InputError(f"{where}.log: needs min above 0; min is {low}")
    if log and step is not None:
        raise InputError(f"{where}.log: cannot stand beside `step`. Remove one of the two")
    if kind == "int" and step is None:
        step = 1
    if step is not None:
        reached = _exact(low) + _steps(low, high, step) * _exact(step)
        if reached != _exact(high):
            last = int(reached) if kind == "int" else float(reached)
            raise InputError(
                f"{where}.max: {high} is not reached from min {low} in steps of {step}. "
                f"The last value below it is {last}"
            )
    return Parameter(name, kind, data["default"], (), low, high, step, log)

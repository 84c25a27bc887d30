"""pydantic's findings as one message in the user's words."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from autotune.exceptions import InputError
from autotune.search_space.document import did_you_mean, listed
from autotune.search_space.parameter import type_name

M = TypeVar("M", bound=BaseModel)

_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def validated(
    model: type[M],
    data: Mapping[str, Any],
    where: str,
    *,
    prefix: str = "",
    origins: Mapping[str, str] | None = None,
    also: Sequence[str] = (),
) -> M:
    """``data`` as ``model``.

    Args:
        where: the file, for the message.
        prefix: dotted key that ``data`` stands under.
        origins: dotted key -> where its value came from, if not from the file.
        also: further accepted keys of the top level, for the list in the message.

    Raises:
        InputError: one message for all mistakes.
    """
    try:
        # By way of JSON: strict, so that true is no 1 and "3" no 3, but a list may be a tuple.
        return model.model_validate_json(json.dumps(data, default=os.fspath), strict=True)
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise InputError(f"{where}: not what YAML can hold: {error}") from error
        lines = list(dict.fromkeys(_lines(error, model, where, prefix, origins or {}, also)))
    if len(lines) == 1:
        raise InputError(lines[0])
    raise InputError("\n".join(lines))


def _lines(
    error: ValidationError,
    model: type[BaseModel],
    where: str,
    prefix: str,
    origins: Mapping[str, str],
    also: Sequence[str],
) -> Iterator[str]:
    for finding in error.errors(include_url=False):
        location = [str(part) for part in finding["loc"] if part != "[key]"]
        indexed = [f"[{p}]" if isinstance(p, int) else f".{p}" for p in finding["loc"]]
        key = f"{prefix}{''.join(i for i in indexed if i != '.[key]')}".lstrip(".")
        key = key if key.isprintable() else repr(key)
        if key == "storage":
            finding["input"] = "***"
        origin = _origin(key, origins)
        place = f"{origin}: {key}" if origin else f"{where}: {key}" if key else where
        yield f"{place}: {_problem(finding, location, model, also)}"


def _origin(key: str, origins: Mapping[str, str]) -> str | None:
    for given, origin in origins.items():
        if (
            key == given
            or key.startswith((f"{given}.", f"{given}["))
            or given.startswith(f"{key}.")
        ):
            return origin
    return None


def _problem(
    finding: Any, location: Sequence[str], model: type[BaseModel], also: Sequence[str]
) -> str:
    kind, value, context = finding["type"], finding["input"], finding.get("ctx", {})
    if kind == "extra_forbidden":
        keys = [*_keys(model, location[:-1]), *(also if len(location) == 1 else ())]
        return f"unknown key. {did_you_mean(location[-1], keys)}Accepted: {listed(keys)}"
    if kind == "missing":
        return "is missing. Add it"
    if kind == "literal_error":
        accepted = re.findall(r"'([^']*)'", context["expected"])
        hint = did_you_mean(value, accepted) if isinstance(value, str) else ""
        what = "unknown key." if "[key]" in finding["loc"] else f"{shown(value)} is not accepted."
        return f"{what} {hint}Accepted: {listed(accepted)}"
    if kind in _BOUNDS:
        name, word = _BOUNDS[kind]
        return f"{shown(value)} is not accepted. Accepted: {word} {context[name]}"
    if kind == "string_too_short":
        return "empty text is not accepted. Give a value, or remove the key"
    if kind == "wanted":
        return str(finding["msg"])
    if kind == "value_error":
        return str(context.get("error", finding["msg"]))
    if kind in _WANTED:
        return f"{_WANTED[kind]} is needed, not {type_name(value)} ({shown(value)})"
    return f"{shown(value)} is not accepted: {finding['msg']}"


def shown(value: object) -> str:
    """A value for a message, cut short."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _keys(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """The keys of the section that ``location`` leads to."""
    annotation: Any = model
    for part in location:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            annotation = annotation.model_fields[part].annotation
        else:  # dict[key, section] or list[section]
            annotation = get_args(annotation)[-1]
        if get_origin(annotation) in (Union, UnionType):
            annotation = next(m for m in get_args(annotation) if m is not type(None))
    return [name for name, field in annotation.model_fields.items() if not field.exclude]

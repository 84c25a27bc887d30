"""Checks what a user gave against the parameters and settings of a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from autotune.exceptions import InputError

_M = TypeVar("_M", bound=BaseModel)


def validated(model: type[_M], values: Mapping[str, Any], where: str) -> _M:
    """``values`` as a ``model``.

    Args:
        model: `Params` or `Settings`.
        values: what the user gave.
        where: how a message calls them, e.g. ``params``.

    Raises:
        InputError: naming the key, the value and what is accepted.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = []
        for detail in error.errors(include_url=False):
            key = ".".join(str(part) for part in detail["loc"])
            if detail["type"] == "extra_forbidden":
                accepted = ", ".join(model.model_fields)
                problems.append(f"{where}.{key}: no such key; accepted are {accepted}")
            elif key:
                problems.append(f"{where}.{key}: {detail['input']!r}: {detail['msg']}")
            else:
                problems.append(f"{where}: {detail['msg'].removeprefix('Value error, ')}")
        raise InputError("; ".join(problems)) from error

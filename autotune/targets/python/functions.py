"""Finds the user's functions by import path, and calls them with what they can take."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from autotune.exceptions import InputError
from autotune.expressions import Expression
from autotune.search_space.document import did_you_mean, listed
from autotune.trial import Params


def enter(working_dir: str | None) -> None:
    """Make a folder the working directory and the first place for imports, for good.

    Raises:
        InputError: if there is no such folder on this machine.
    """
    if working_dir is None:
        return
    try:
        os.chdir(working_dir)
    except OSError as error:
        raise InputError(
            f"target.working_dir: {working_dir}: {error.strerror} on this machine. Give a folder "
            "that every measuring machine has, or remove the key: then it is the experiment's own"
        ) from error
    if working_dir not in sys.path:
        sys.path.insert(0, working_dir)


def find_function(path: str, key: str) -> Callable[..., Any]:
    """What ``path`` (``module:function``) names, imported.

    Args:
        key: where it was written, for messages.

    Raises:
        InputError: if it names nothing that can be called, or its module fails when imported.
    """
    module_name, _, name = path.partition(":")
    if not (module_name and name):
        raise InputError(
            f"{key}: {path!r} is no import path. Accepted: module:function, e.g. my_loader:build "
            "for the function build of my_loader.py"
        )
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(_not_imported(path, module_name, key, error)) from error
    for part in name.split("."):
        if not hasattr(found, part):
            functions = [n for n, v in vars(found).items() if callable(v) and n[0] != "_"]
            raise InputError(
                f"{key}: {path}: {module_name} ({getattr(found, '__file__', 'built in')}) has no "
                f"{part!r}. {did_you_mean(part, functions)}Name a function that it defines"
            )
        found = getattr(found, part)
    if not callable(found):
        raise InputError(
            f"{key}: {path} is a {type(found).__name__} and cannot be called. Name a function"
        )
    function: Callable[..., Any] = found
    return function


def _not_imported(path: str, module_name: str, key: str, error: Exception) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and (missing + ".").startswith(module_name.partition(".")[0] + "."):
        return (
            f"{key}: {path}: there is no module {missing!r}. Put it beside the experiment file, "
            "name its folder in target.working_dir, or put that on PYTHONPATH; looked in "
            f"{listed(p for p in sys.path[:4] if p)}"
        )
    cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    remedy = (
        "Install it" if missing else f"`python -c 'import {module_name}'` shows the whole of it"
    )
    return f"{key}: {path}: importing {module_name} fails ({cause}). {remedy}"


def conditions_met(conditions: Mapping[str, str], params: Params) -> dict[str, bool]:
    """Of each parameter that has a condition, whether it holds in a configuration."""
    return {name: Expression.parse(text).holds(params) for name, text in conditions.items()}


def arguments_for(
    function: Callable[..., Any],
    given: Mapping[str, Any],
    offered: Mapping[str, Any],
    path: str,
    conditional: Mapping[str, bool] | None = None,
) -> dict[str, Any]:
    """The keyword arguments to call ``function`` with.

    Args:
        given: parameters and fixed arguments; it must take every one.
        offered: passed only where its signature names them.
        conditional: of each parameter with a condition whether it holds; where it does not, the
            parameter is not passed.

    Raises:
        InputError: if it does not take one that is given, or needs one that is not, now or
            where a condition does not hold.
    """
    conditional = conditional or {}
    passed = {name: value for name, value in given.items() if conditional.get(name, True)}
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: the call will tell
        return passed
    named = _keywords(signature)
    arguments = {**passed, **{n: v for n, v in offered.items() if n in named and n not in given}}
    for name in conditional:
        if name in named and signature.parameters[name].default is inspect.Parameter.empty:
            raise InputError(
                f"target.function: {path}{signature}: {name} is not passed where the condition "
                "(when) of that parameter does not hold, so the argument needs a default. Write "
                f"{name}=None, or remove the condition from the search space"
            )
    if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        unknown = [name for name in given if name not in named]
        if unknown:
            raise InputError(
                f"target.function: {path}{signature} takes no {unknown[0]!r}. "
                f"{did_you_mean(unknown[0], named)}Give it that keyword argument, or rename the "
                "parameter in the search space (or the key of target.arguments)"
            )
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InputError(
            f"target.function: {path}{signature} cannot be called with {listed(arguments)}: "
            f"{error}. Give the argument a default, a value in target.arguments, or make it a "
            "parameter of the search space"
        ) from error
    return arguments


def _keywords(signature: inspect.Signature) -> Collection[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, p in signature.parameters.items() if p.kind in kinds]

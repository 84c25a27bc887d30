"""Names what holds an object: the shortest way up to an attribute, a module or a function."""

from __future__ import annotations

import gc
import os
import sys
import types
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any

_OWN = os.path.dirname(__file__)

_DEPTH = 6
"""Containers in containers that are followed at most."""

UNSEEN = "nothing that Python sees (a running function, or native code)"

_CONTAINERS = (list, tuple, dict, set, frozenset, deque)


def holders_of(
    objects: Iterable[Any], ours: Collection[int] = (), via: Mapping[int, Any] | None = None
) -> list[str]:
    """Names of what holds the objects, the most frequent first.

    Each step up walks over the whole heap (`gc.get_referrers`): tens of milliseconds.

    Args:
        objects: those asked about.
        ours: ids of what is held by whoever asks.
        via: by id of an object, what holds it where the garbage collector does not track that.
    """
    found: Counter[str] = Counter()
    for one in objects:
        found[_holder(one, ours, via or {})] += 1
    return [name for name, _ in found.most_common()]


def _holder(one: Any, ours: Collection[int], via: Mapping[int, Any]) -> str:
    inside = ""
    for _ in range(_DEPTH):
        up = via.get(id(one)) or _best(one, ours)
        if up is None:
            return f"{inside} held by {UNSEEN}" if inside else UNSEEN
        name = _name(up, one, ours)
        if name is not None:
            return f"{name} ({inside})" if inside else name
        what = type(up).__qualname__
        if isinstance(up, _CONTAINERS):
            what = f"{what} of {len(up):,}"
        inside = f"{inside} in a {what}" if inside else what
        one = up
    return inside


def _best(one: Any, ours: Collection[int]) -> Any:
    """The referrer that says most: one that lives long, rather than a frame or a loop's tuple."""
    best, rank = None, 99
    # no comprehension: its closure would be a referrer as well
    for up in gc.get_referrers(one):
        if id(up) not in ours and up is not one and not _is_own(up) and _rank(up) < rank:
            best, rank = up, _rank(up)
    return best


def _is_own(up: Any) -> bool:
    """Whether it is a frame or a generator of this package."""
    if isinstance(up, types.FrameType):
        return up.f_code.co_filename.startswith(_OWN)
    return isinstance(up, types.GeneratorType) and up.gi_code.co_filename.startswith(_OWN)


def _rank(up: Any) -> int:
    if isinstance(up, (types.FrameType, types.GeneratorType, types.CoroutineType)):
        return 4
    if isinstance(up, types.CellType):
        return 2
    if isinstance(up, tuple):
        return 3
    return 0 if isinstance(up, (list, dict, set, deque, types.ModuleType)) else 1


def _name(up: Any, one: Any, ours: Collection[int]) -> str | None:
    """``up`` by name, as what holds ``one``; None where only what holds ``up`` has a name."""
    if isinstance(up, types.FrameType):
        return f"a variable of {up.f_code.co_qualname}" + _variable(up.f_locals, one)
    if isinstance(up, types.GeneratorType):
        frame = up.gi_frame
        return f"a variable of {up.__qualname__}" + _variable(frame.f_locals if frame else {}, one)
    if isinstance(up, type):
        return f"{_of(up)}.{_key(vars(up), one)}"
    if isinstance(up, types.FunctionType):
        return f"a default argument of {_of(up)}"
    if isinstance(up, types.CellType):
        return _closure(up, ours)
    if isinstance(up, dict):
        return _namespace(up, one, ours)
    if isinstance(up, _CONTAINERS):
        return None
    wrapped = getattr(type(up), "__name__", "") == "_lru_cache_wrapper" and up.__wrapped__
    if wrapped:
        return f"the lru_cache of {_of(wrapped)}"
    return f"{_of(type(up))}.{_attribute(up, one)}"


def _namespace(up: dict[Any, Any], one: Any, ours: Collection[int]) -> str | None:
    """A dict that is a module's or an object's, with the name in it; None for any other."""
    module = sys.modules.get(str(up.get("__name__")))
    if module is not None and vars(module) is up:
        return f"{module.__name__}.{_key(up, one)}"
    name = _key(up, one)
    for owner in gc.get_referrers(up):
        if id(owner) in ours:
            continue
        if isinstance(owner, type) and vars(owner).get(name) is one:
            return f"{_of(owner)}.{name}"
        if _dict_of(owner) is up:
            return f"{_of(type(owner))}.{name}"
    return None


def _closure(cell: Any, ours: Collection[int]) -> str | None:
    """The function that closes over a cell, and the variable."""
    for cells in gc.get_referrers(cell):
        if not isinstance(cells, tuple) or id(cells) in ours:
            continue
        for function in gc.get_referrers(cells):
            if isinstance(function, types.FunctionType) and function.__closure__ is cells:
                index = next(i for i, c in enumerate(cells) if c is cell)
                return f"{_of(function)}.{function.__code__.co_freevars[index]}"
    return None


def _attribute(up: Any, one: Any) -> str:
    found = _dict_of(up)
    if found is not None and (name := _key(found, one)) != "?":
        return name
    for base in type(up).__mro__:
        for name, slot in vars(base).items():
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    if slot.__get__(up) is one:
                        return name
                except AttributeError:  # not set
                    continue
    return "?"


def _dict_of(one: Any) -> dict[Any, Any] | None:
    """An object's own dict, without running any code of its class."""
    try:
        found = object.__getattribute__(one, "__dict__")
    except (AttributeError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _key(names: Any, one: Any) -> str:
    return next((str(name) for name, value in list(names.items()) if value is one), "?")


def _variable(names: Any, one: Any) -> str:
    name = _key(names, one)
    return "" if name == "?" else f": {name}"


def _of(named: Any) -> str:
    return f"{named.__module__}.{named.__qualname__}".removeprefix("builtins.")

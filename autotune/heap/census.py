"""One process's objects by kind, look after look, and which kinds keep growing."""

from __future__ import annotations

import gc
import itertools
import statistics
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from autotune.heap.holders import holders_of
from autotune.trial import Growing

LEAST_BYTES = 256 * 1024
"""A kind that has grown by less is not told."""

_MOST_TOLD = 8
_MOST_LOOKS = 48
"""Where there are more, every second one is forgotten."""
_FEWEST_LOOKS = 5
_PART_SHARE = 0.15
"""Of all that a kind has grown, each third of the time must have brought this share for good."""
_BIG = 1024
"""Bytes from which on an object is looked at by itself, where it is no plain instance."""
_MOST_SHAPES = 64
"""Of one type; tensors of any further shape are one kind."""
_CHUNK = 2000
_NAMED = 3
"""So many objects of a growing kind have their holders looked for."""

_BOUNDED = ("_frozen_importlib_external.FileFinder.",)
"""Holders that stop growing by themselves: the names of the files in the folders on the import
system's path, which it lists anew wherever a folder changed."""

_CONTAINERS = (list, dict, set, deque)
_LEAVES = (bytes, bytearray, str)


@dataclass
class _Kind:
    """What one look found of one kind."""

    count: int = 0
    bytes: int = 0
    members: list[Any] = field(default_factory=list)
    """Those that are looked at one by one: arrays, tensors, text, large containers."""


@dataclass(frozen=True)
class _Look:
    objects: list[Any]
    kinds: dict[str, _Kind]
    via: dict[int, Any]
    """By id, what holds an object that `gc.get_referrers` does not know of."""
    now: float


class HeapCensus:
    """Looks at the objects of this process; what is told is what grew since the first look."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._sizes: dict[str, list[tuple[int, int]]] = {}
        """By kind, one (count, bytes) for each of ``_times``."""
        self._first_seen: dict[int, tuple[float, int]] = {}
        """By id, when a large object was first seen, and its size then."""
        self._shapes: dict[type, set[str]] = {}
        self._holders: dict[str, tuple[int, list[str]]] = {}
        """By kind, the count when its holders were looked for, and their names."""

    def look(self, now: float) -> list[Growing]:
        """Count everything, and tell what keeps growing, the largest growth first.

        Args:
            now: CLOCK_MONOTONIC.
        """
        objects = gc.get_objects()
        via: dict[int, Any] = {}
        kinds = self._counted(objects, via)
        try:
            self._note(kinds, now)
            return self._growing(_Look(objects, kinds, via, now))
        finally:  # else what was looked at lives on in it, until garbage is collected
            objects.clear()
            kinds.clear()
            via.clear()

    def _growing(self, look: _Look) -> list[Growing]:
        growing = [n for n in look.kinds if _keeps_growing([b for _, b in self._sizes[n]])]
        growing.sort(key=lambda name: self._sizes[name][0][1] - look.kinds[name].bytes)
        told = [self._told(name, look) for name in growing[:_MOST_TOLD]]
        self._holders = {found.kind: self._holders[found.kind] for found in told}
        return [found for found in told if not _is_bounded(found.holders)]

    # ------------------------------------------------------------------ counting

    def _counted(self, objects: list[Any], via: dict[int, Any]) -> dict[str, _Kind]:
        kinds: dict[str, _Kind] = {}
        tensor, array = _loaded("torch", "Tensor"), _loaded("numpy", "ndarray")
        types = Counter(map(type, objects))
        apart: dict[type, Callable[[Any], tuple[str, int] | None]]
        apart = dict.fromkeys(_CONTAINERS, _container)
        storages: set[int] = set()
        parts = _parts_of_models(objects, types)
        for found, count in types.items():
            if tensor is not None and issubclass(found, tensor):
                apart[found] = lambda o: self._tensor(o, storages)
            elif found not in apart:
                size = found.__basicsize__ * count
                _add(kinds, _type_name(found), size, count)
        for one in objects:
            look = apart.get(type(one))
            if look is None or id(one) in parts:
                continue
            if (described := look(one)) is not None:
                _add(kinds, *described, member=one)
        for leaf in _leaves(objects, array, via):
            if type(leaf) is array:
                _add(kinds, self._shaped(type(leaf), leaf.shape, leaf.dtype), leaf.nbytes, 1, leaf)
            else:
                _add(kinds, type(leaf).__name__, sys.getsizeof(leaf), 1, leaf)
        return kinds

    def _tensor(self, tensor: Any, storages: set[int]) -> tuple[str, int] | None:
        """Kind and bytes of a tensor; None where another one shares its storage."""
        try:
            storage = tensor.untyped_storage()
            address, size = storage.data_ptr(), storage.nbytes()
        except (RuntimeError, NotImplementedError):  # sparse, or of no device
            return None
        if address in storages or size == 0:
            return None
        storages.add(address)
        dtype = f"{str(tensor.dtype).removeprefix('torch.')} {tensor.device}"
        return self._shaped(type(tensor), tensor.shape, dtype), size

    def _shaped(self, found: type, shape: Sequence[int], dtype: object) -> str:
        shapes = self._shapes.setdefault(found, set())
        text = str(list(shape))
        if text not in shapes:
            if len(shapes) >= _MOST_SHAPES:
                text = "of other shapes"
            shapes.add(text)
        return f"{_type_name(found)} {text} {dtype}"

    def _note(self, kinds: dict[str, _Kind], now: float) -> None:
        """Append to the history; forget kinds that are gone, and old looks where there are many."""
        before = [(0, 0)] * len(self._times)
        self._times.append(now)
        self._sizes = {
            name: [*self._sizes.get(name, before), (kind.count, kind.bytes)]
            for name, kind in kinds.items()
        }
        if len(self._times) > _MOST_LOOKS:
            self._times = self._times[::2]
            self._sizes = {name: sizes[::2] for name, sizes in self._sizes.items()}
        known = self._first_seen
        self._first_seen = {
            id(one): known.get(id(one)) or (now, sys.getsizeof(one))
            for kind in kinds.values()
            for one in kind.members
        }

    # ------------------------------------------------------------------ telling

    def _told(self, name: str, look: _Look) -> Growing:
        kind = look.kinds[name]
        first_count, first_bytes = self._sizes[name][0]
        ages = [look.now - self._first_seen[id(one)][0] for one in kind.members]
        return Growing(
            kind=name,
            holders=self._named(name, look),
            count=kind.count,
            bytes=kind.bytes,
            grown_count=kind.count - first_count,
            grown_bytes=kind.bytes - first_bytes,
            seconds=look.now - self._times[0],
            age_seconds=statistics.median(ages) if ages else None,
        )

    def _named(self, name: str, look: _Look) -> list[str]:
        """The holders of some objects of a kind. Looked for anew only where there are half as
        many objects again: each costs a walk over the heap."""
        kind = look.kinds[name]
        count, names = self._holders.get(name, (0, []))
        if names and kind.count < 1.5 * count:
            return names
        picked = self._picked(name, look)
        ours = {id(picked), id(look.objects), id(look.via)}
        ours |= {id(known.members) for known in look.kinds.values()}
        names = holders_of(picked, ours, look.via)
        self._holders[name] = (kind.count, names)
        return names

    def _picked(self, name: str, look: _Look) -> list[Any]:
        """Some of those that came since the first look and stayed."""
        members, since = look.kinds[name].members, self._times[0]
        if name in (container.__name__ for container in _CONTAINERS):
            # more often one that is filled than many of them
            stayed = sorted(members, key=self._filled)[:_NAMED]
        else:
            stayed = [one for one in members if since < self._first_seen[id(one)][0] < look.now]
        if not stayed:
            stayed = [one for one in look.objects if _type_name(type(one)) == name]
        return stayed[:: max(1, len(stayed) // _NAMED)][-_NAMED:]

    def _filled(self, container: Any) -> int:
        """Bytes that a container has become smaller by since it was first seen."""
        return self._first_seen[id(container)][1] - sys.getsizeof(container)


def _keeps_growing(sizes: Sequence[int]) -> bool:
    """Whether each third of the looks brought something that was never given back."""
    n = len(sizes)
    if n < _FEWEST_LOOKS:
        return False
    floor = list(itertools.accumulate(reversed(sizes), min))[::-1]
    marks = [floor[0], floor[n // 3], floor[2 * n // 3], floor[-1]]
    total = marks[-1] - marks[0]
    return total >= LEAST_BYTES and all(
        b - a >= _PART_SHARE * total for a, b in itertools.pairwise(marks)
    )


def _parts_of_models(objects: Iterable[Any], types: Iterable[type]) -> set[int]:
    """Ids of the sets in which pydantic's models name the fields they were given: one belongs to
    each model, which is counted by its own type and has a holder with a name."""
    model = _loaded("pydantic", "BaseModel")
    if model is None:
        return set()
    models = {found for found in types if issubclass(found, model)}
    return {
        id(getattr(one, "__pydantic_fields_set__", None)) for one in objects if type(one) in models
    }


def _is_bounded(holders: Sequence[str]) -> bool:
    return bool(holders) and all(holder.startswith(_BOUNDED) for holder in holders)


def _add(kinds: dict[str, _Kind], name: str, size: int, count: int = 1, member: Any = None) -> None:
    kind = kinds.setdefault(name, _Kind())
    kind.count += count
    kind.bytes += size
    if member is not None and size >= _BIG:
        kind.members.append(member)


def _container(one: Any) -> tuple[str, int]:
    return type(one).__name__, sys.getsizeof(one)


def _leaves(objects: list[Any], array: Any, via: dict[int, Any]) -> Iterator[Any]:
    """What tracked objects refer to of types that are not tracked, each once.

    A dict or a tuple of nothing but such is not tracked itself, and so nobody's referrer: it is
    noted in ``via``, by the id of what it holds.
    """
    types = _LEAVES if array is None else (*_LEAVES, array)
    seen: set[int] = set()
    for start in range(0, len(objects), _CHUNK):
        for one in gc.get_referents(*objects[start : start + _CHUNK]):
            if type(one) in types:
                found: Iterable[Any] = (one,)
            elif type(one) in (dict, tuple) and not gc.is_tracked(one):
                found = [leaf for leaf in gc.get_referents(one) if type(leaf) in types]
            else:
                continue
            for leaf in found:
                owner = _owner(leaf, array)
                if owner is None or id(owner) in seen:
                    continue
                seen.add(id(owner))
                if leaf is not one:
                    via[id(owner)] = one
                yield owner


def _owner(leaf: Any, array: Any) -> Any:
    """A large leaf, or the array that it is a view of; None for a small one, or for a view of
    what is counted elsewhere: a tensor, a file."""
    if type(leaf) is not array:
        return leaf if sys.getsizeof(leaf) >= _BIG else None
    while type(leaf.base) is array:
        leaf = leaf.base
    return leaf if leaf.base is None and leaf.nbytes >= _BIG else None


def _type_name(found: type) -> str:
    if found.__module__ in ("builtins", "torch", "numpy"):
        return f"{found.__module__}.{found.__name__}".removeprefix("builtins.")
    return f"{found.__module__}.{found.__qualname__}"


def _loaded(module: str, name: str) -> Any:
    """A type of a module, if that is imported already; else None."""
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None

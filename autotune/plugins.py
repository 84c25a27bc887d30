"""Targets, executors and samplers, found by name.

A plug-in package announces itself through an entry point of the group ``autotune.targets``,
``autotune.executors`` or ``autotune.samplers``. What comes with autotune is also listed here, so
that a source checkout works without installed metadata. Nothing is imported before it is asked
for: the layers above know these classes by name only.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from autotune.exceptions import InputError, UnsupportedError
from autotune.search_space.document import did_you_mean, listed

if TYPE_CHECKING:
    from autotune.executors.base import Executor
    from autotune.targets.base import Target

Group = Literal["targets", "executors", "samplers"]

_BUILT_IN: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "targets": {
            "spdl_video": "autotune.targets.spdl_video:SpdlVideo",
            "torch_dataloader": "autotune.targets.torch_dataloader:TorchDataLoader",
            "frames": "autotune.targets.frames:Frames",
            "prefetch_cache": "autotune.targets.prefetch_cache:PrefetchCache",
            "python": "autotune.targets.python:PythonTarget",
            "command": "autotune.targets.command:CommandTarget",
        },
        "executors": {
            "local": "autotune.executors.local:LocalExecutor",
            "ray": "autotune.executors.ray:RayExecutor",
        },
        "samplers": {},
    }
)


def available(group: Group) -> list[str]:
    """The names that can be loaded, those that come with autotune first."""
    return list(_locations(group))


def load(group: Group, name: str) -> Any:
    """The object a plug-in's entry point names.

    Raises:
        InputError: if there is no such name, listing those there are.
        UnsupportedError: if it cannot be imported, with the cause.
    """
    # What comes with autotune cannot be replaced, so it is found without reading the metadata of
    # every installed package.
    built_in = _BUILT_IN[group].get(name)
    if built_in is not None:
        return _import(group, name, built_in)
    locations = _locations(group)
    if name not in locations:
        kind = group.removesuffix("s")
        raise InputError(
            f"there is no {kind} {name!r}. {did_you_mean(name, locations)}"
            f"Accepted: {listed(locations)}. A plug-in announces its own in the entry point group "
            f"autotune.{group}"
        )
    return _import(group, name, locations[name])


def load_target(name: str) -> Target:
    """A target, ready to use; loading it imports no decoder and no torch.

    Raises:
        InputError, UnsupportedError: as `load`.
    """
    target: Target = load("targets", name)()
    return target


def load_executor(kind: str) -> type[Executor]:
    """An executor's class; its `create` makes one.

    Raises:
        InputError, UnsupportedError: as `load`.
    """
    executor: type[Executor] = load("executors", kind)
    return executor


def _locations(group: Group) -> dict[str, str]:
    locations = dict(_BUILT_IN[group])
    for entry in entry_points(group=f"autotune.{group}"):
        # What comes with autotune cannot be replaced: a study would mean something else.
        locations.setdefault(entry.name, entry.value)
    return locations


def _import(group: Group, name: str, location: str) -> Any:
    module, _, attribute = location.partition(":")
    try:
        found: Any = importlib.import_module(module.strip())
        for part in attribute.split("[")[0].strip().split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, OSError) as error:
        # OSError: a native library that a plug-in loads on import is missing.
        raise UnsupportedError(
            f"the {group.removesuffix('s')} {name!r} ({location}) cannot be loaded: "
            f"{type(error).__name__}: {error}. Reinstall the package it comes from"
        ) from error
    return found

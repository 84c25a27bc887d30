"""A function for each target that comes with autotune, documented by its parameters."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from typing import Any, Protocol

from autotune.exceptions import InputError
from autotune.loaders.opening import open_loader, split
from autotune.loaders.video import VideoLoader
from autotune.plugins import load_target
from autotune.search_space import Parameter, SearchSpace, find_space
from autotune.targets.base import Target

_DOC_WIDTH = 96

_FOLDERS = {"videos": "folder of videos", "frames": "folder of clips that were extracted to frames"}

_END = """
Returns:
    a `VideoLoader`: iterate over it once an epoch, then close it.

Raises:
    InputError: an option or the data are wrong; says what is accepted.
    UnsupportedError: this machine lacks what is asked for; names the remedy.
"""


class LoaderFunction(Protocol):
    """Opens the pipeline of one target."""

    __name__: str

    def __call__(
        self,
        data_dir: str | os.PathLike[str],
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        **options: Any,
    ) -> VideoLoader: ...


def loader_function(name: str) -> LoaderFunction:
    """The function that opens the pipeline of the target ``name``; imports no torch.

    Raises:
        InputError, UnsupportedError: there is no such target, or it cannot be imported.
    """
    target = load_target(name)

    def loader(
        data_dir: str | os.PathLike[str],
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        **options: Any,
    ) -> VideoLoader:
        params, settings = split(target, options, f"loaders.{name}")
        opened = open_loader(
            target,
            data_dir,
            params=params,
            settings=settings,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        if not isinstance(opened, VideoLoader):
            raise InputError(f"loaders.{name}: call the function of your own that {name} tunes")
        return opened

    loader.__name__ = loader.__qualname__ = name
    loader.__module__ = "autotune.loaders"
    loader.__doc__ = "\n".join(_documentation(target))
    return loader


def _documentation(target: Target) -> Iterator[str]:
    """A docstring: what the target says of itself, and its parameters with their defaults."""
    summary = (type(target).__doc__ or target.name).strip().splitlines()[0]
    yield from (f"Batches of video by the pipeline of the target `{target.name}`: {summary}", "")
    folder = _FOLDERS[target.reads]
    yield from ("Args:", f"    data_dir: {folder}, or of class folders with them.")
    yield "    seed: of the order of the clips, which is that of a measurement with this seed."
    yield "    rank, world_size: the part of the clips that this process reads."
    yield from ("    **options: parameters and settings:", "")
    described = SearchSpace.load(find_space(target.name)).parameters
    for name, field in target.Params.model_fields.items():
        text = f"{name} = {field.default!r}: {_explained(described.get(name))}"
        yield from textwrap.wrap(
            text.removesuffix(": "), _DOC_WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 12
        )
    for name, field in target.Settings.model_fields.items():
        yield f"        {name} = {field.default!r} (setting)"
    yield from _END.splitlines()


def _explained(parameter: Parameter | None) -> str:
    if parameter is None:
        return ""
    unit = f" ({parameter.unit})" if parameter.unit else ""
    condition = f"; only with {parameter.when.text}" if parameter.when else ""
    return f"{parameter.help}{unit}{condition}"

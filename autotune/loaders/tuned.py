"""The loader of a trial: what `study.best().build()` returns."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.loaders.opening import open_loader, split
from autotune.loaders.video import VideoLoader
from autotune.metadata import fingerprint_difference
from autotune.plugins import load_target
from autotune.system import machine
from autotune.targets.base import OpenParams, Target
from autotune.trial import Params

_NAMED = 3
"""Differences between two machines that a warning names."""


@dataclass(frozen=True)
class Recipe:
    """All that it takes to build a trial's loader, as the study's database holds it."""

    name: str
    """``trial 7 of study 'kinetics'``, for messages."""
    target: str
    params: Params
    """The full configuration."""
    active: frozenset[str]
    """The parameters that have an effect in it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    data_dir: str | None = None
    seed: int = 0
    machine: Mapping[str, Any] | None = None
    """Fingerprint of the machine that measured it."""
    reservation: str = ""
    """Why its figures are no promise; empty for a verified winner."""


def build_tuned(
    recipe: Recipe,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    **overrides: Any,
) -> VideoLoader | Iterable[Any]:
    """Build the loader of a recipe in this process.

    Warns (`UserWarning`) of a configuration that was not verified, and of another machine.

    Args:
        data_dir: default: the study's.
        rank, world_size: which of how many parts of the data set this process reads.
        overrides: parameters and settings in place of the recipe's; ``seed`` too.

    Raises:
        InputError, UnsupportedError: as `open_loader`.
    """
    target = load_target(recipe.target)
    seed = overrides.pop("seed", recipe.seed)
    params, settings = split(target, overrides, f"build: {recipe.name}")
    if recipe.reservation:
        warnings.warn(f"{recipe.name} {recipe.reservation}", UserWarning, stacklevel=3)
    if differences := _of_this_machine(recipe):
        shown = "; ".join(differences[:_NAMED])
        warnings.warn(
            f"{recipe.name} was measured on another machine ({shown}): another configuration may "
            "be faster here. Launch a study on this machine to know",
            UserWarning,
            stacklevel=3,
        )
    return open_loader(
        target,
        recipe.data_dir if data_dir is None else data_dir,
        params={**_measured(recipe, target), **params},
        settings={**recipe.settings, **settings},
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


def _measured(recipe: Recipe, target: Target) -> Params:
    """The parameters to give. One that has no effect is left out, so that an override which gives
    it one finds it at the target's default. Where the parameters are the user's own, the target
    leaves them out itself, as in the trial."""
    if issubclass(target.Params, OpenParams):
        return recipe.params
    return {name: value for name, value in recipe.params.items() if name in recipe.active}


def _of_this_machine(recipe: Recipe) -> list[str]:
    """What differs between the machine that measured and this one; its target's own part, which
    only a worker process knows, left out."""
    if recipe.machine is None:
        return []
    here = machine.fingerprint(machine.find_gpus())
    there = {key: value for key, value in recipe.machine.items() if key in here}
    return fingerprint_difference("machine", there, {key: here[key] for key in there})

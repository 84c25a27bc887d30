"""Opens a target's pipeline in the process that trains."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autotune.exceptions import InputError, UnsupportedError
from autotune.loaders.video import VideoLoader
from autotune.manifest import Manifest, scan
from autotune.media.native import cache_folder
from autotune.search_space.document import did_you_mean, listed
from autotune.targets.base import BuildContext, OpenParams, Target
from autotune.targets.validation import validated
from autotune.trial import Params, TrialSpec

_PATH = "LD_LIBRARY_PATH"


def open_loader(
    target: Target,
    data_dir: str | os.PathLike[str] | None,
    *,
    params: Mapping[str, Any],
    settings: Mapping[str, Any],
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> VideoLoader | Iterable[Any]:
    """What a training iterates over: a `VideoLoader`, or what the user's own function returned.

    Args:
        target: whose pipeline it is.
        data_dir: folder of clips; None where the target needs none.
        params, settings: of the target; those not given are at its defaults.
        seed: of the order in which clips are read.
        rank, world_size: which of how many parts of the data set this process reads.

    Raises:
        InputError: a parameter, a setting or the data are wrong, or the target has no loader to
            train with.
        UnsupportedError: this machine, or this process, cannot do what was asked for.
    """
    if not 0 <= rank < world_size:
        raise InputError(
            f"rank: {rank} is not one of the {world_size} ranks (0 to {world_size - 1}); give "
            "rank and world_size of the process that trains"
        )
    spec = TrialSpec(
        uuid=uuid.uuid4().hex,
        study=uuid.uuid4().hex,
        target=target.name,
        params=dict(params),
        settings=validated(target.Settings, settings, "settings").model_dump(mode="json"),
        data_dir=None if data_dir is None else os.fspath(data_dir),
        seed=seed,
    )
    own = target.train_with(BuildContext(spec, rank, world_size))
    if own is not None:
        return own
    if data_dir is None:
        raise InputError("data_dir: missing; give the folder of clips to train on")
    return _open_pipeline(target, spec, scan(data_dir, target.reads), rank, world_size)


def split(target: Target, options: Mapping[str, Any], where: str) -> tuple[Params, dict[str, Any]]:
    """Options of a call as (parameters, settings) of the target.

    Raises:
        InputError: an option is neither; names those there are.
    """
    names, fixed = list(target.Params.model_fields), list(target.Settings.model_fields)
    if issubclass(target.Params, OpenParams):
        return {n: v for n, v in options.items() if n not in fixed}, {
            n: v for n, v in options.items() if n in fixed
        }
    for name in options:
        if name not in names and name not in fixed:
            raise InputError(
                f"{where}: {name}: there is no such option. "
                f"{did_you_mean(name, [*names, *fixed])}Accepted: data_dir, seed, rank, "
                f"world_size; parameters: {listed(names)}; settings: {listed(fixed)}"
            )
    return (
        {name: value for name, value in options.items() if name in names},
        {name: value for name, value in options.items() if name in fixed},
    )


def _open_pipeline(
    target: Target, spec: TrialSpec, manifest: Manifest, rank: int, world_size: int
) -> VideoLoader:
    batch_size = getattr(validated(target.Params, spec.params, "params"), "batch_size", None)
    if batch_size is None:
        raise UnsupportedError(
            f"the target {target.name} has no parameter batch_size, so that nobody knows how many "
            "batches an epoch has; iterate over its own loader (`Target.build`)"
        )
    problem = _enter_environment(target, spec)
    # Worker processes read the file, instead of being sent the names of all clips.
    spec = spec.model_copy(update={"manifest": str(manifest.write(cache_folder().parent))})
    try:
        loader = target.build(BuildContext(spec, rank, world_size))
    except UnsupportedError as error:
        raise (UnsupportedError(f"{error}. {problem}") if problem else error) from error
    return VideoLoader(
        loader,
        # The same on every rank: data-parallel training waits for the slowest one.
        batches=max(1, len(manifest) // world_size // batch_size),
        classes=manifest.classes,
        asked=spec.params,
    )


def _enter_environment(target: Target, spec: TrialSpec) -> str:
    """Do for this process what can still be done of `Target.environment`.

    Returns:
        what to do if its libraries are not found all the same; empty where it was started right.
    """
    wanted = target.environment(spec.params, spec.settings)
    path = wanted.get(_PATH, "")
    remedy = "" if path == os.environ.get(_PATH, "") else f"Start this process with {_PATH}={path}"
    os.environ.update(wanted)  # for the processes that the loader starts
    if not remedy:
        return ""
    from autotune.media.preload import preload

    try:
        preload(Path(path.partition(":")[0]))
    except UnsupportedError as error:
        return f"{remedy} in its environment ({error})"
    return f"{remedy} in its environment"

"""Loaders to train with: the pipelines that autotune measures, as iterables with epochs.

    from autotune import loaders

    with loaders.spdl_video("/data/train", num_demux_threads=3, batch_size=16) as loader:
        for video, label in loader:  # one epoch
            ...

    loader = autotune.load_study("kinetics").best().build()  # the tuned one
    loader = loaders.PrefetchLoader(my_dataset, cache_batches=32)  # of a data set of your own

`help(loaders.spdl_video)` lists its parameters; they are those of the target with that name.
Importing this loads neither torch nor spdl.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.loaders.functions import LoaderFunction
    from autotune.loaders.video import VideoBatch, VideoLoader
    from autotune.prefetching import PrefetchLoader

    spdl_video: LoaderFunction
    torch_dataloader: LoaderFunction
    frames: LoaderFunction
    prefetch_cache: LoaderFunction

TARGETS = ("spdl_video", "torch_dataloader", "frames", "prefetch_cache")
"""Targets with a function here: one name, and one line above."""

_ELSEWHERE = {
    "PrefetchLoader": "autotune.prefetching",
    "VideoBatch": "autotune.loaders.video",
    "VideoLoader": "autotune.loaders.video",
}

__all__ = [
    "TARGETS",
    "PrefetchLoader",
    "VideoBatch",
    "VideoLoader",
    "frames",
    "prefetch_cache",
    "spdl_video",
    "torch_dataloader",
]


def __getattr__(name: str) -> Any:
    """Load what was asked for, and nothing before (PEP 562)."""
    if name in TARGETS:
        from autotune.loaders.functions import loader_function

        found: Any = loader_function(name)
    elif name in _ELSEWHERE:
        import importlib

        found = getattr(importlib.import_module(_ELSEWHERE[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)

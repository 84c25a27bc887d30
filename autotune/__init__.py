"""autotune finds the fastest configuration of a video data loader for GPU training.

    import autotune

    study = autotune.launch("experiments/quickstart.yaml", data_dir="clips")
    print(study.best().params, study.export(format="flags"))

    study = autotune.load_study("quickstart", storage="sqlite:///autotune.db")
    study.trials_dataframe()
    loader = study.best().build()    # to train with; see `autotune.loaders`

Importing this loads neither torch, ray, spdl nor pandas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune import loaders
    from autotune.api import Study, launch, load_study
    from autotune.exceptions import (
        AutotuneError,
        DataError,
        ExpressionError,
        InputError,
        MeasurementFailed,
        StorageError,
        StudyConflict,
        UnsupportedError,
    )

    __version__: str

__all__ = [
    "AutotuneError",
    "DataError",
    "ExpressionError",
    "InputError",
    "MeasurementFailed",
    "StorageError",
    "Study",
    "StudyConflict",
    "UnsupportedError",
    "__version__",
    "launch",
    "load_study",
    "loaders",
]


def __getattr__(name: str) -> Any:
    """Load what was asked for, and nothing before (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("autotune")
        except PackageNotFoundError:  # a source tree that is not installed
            return "unknown"
    if name == "loaders":
        import importlib

        return importlib.import_module("autotune.loaders")
    if name in ("Study", "launch", "load_study"):
        from autotune import api

        return getattr(api, name)
    if name in __all__:
        from autotune import exceptions

        return getattr(exceptions, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

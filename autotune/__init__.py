"""autotune finds the fastest configuration of a video data loader for GPU training.

    import autotune

    study = autotune.launch("experiments/quickstart.yaml", data_dir="clips")
    print(study.best().params, study.export(format="flags"))

    study = autotune.load_study("quickstart", storage="sqlite:///autotune.db")
    study.trials_dataframe()

Importing this loads neither torch, ray, spdl nor pandas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
]


def __getattr__(name: str) -> Any:
    """Load what was asked for, and nothing before (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("autotune")
        except PackageNotFoundError:  # a source tree that is not installed
            return "unknown"
    if name in ("Study", "launch", "load_study"):
        from autotune import api

        return getattr(api, name)
    if name in __all__:
        from autotune import exceptions

        return getattr(exceptions, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Which kind of failure an exception in the worker is: by its type, never by its text."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from autotune.exceptions import DataError, InputError, MeasurementFailed, UnsupportedError
from autotune.trial import Failure, FailureKind

_MAX_CAUSE = 500


def failure_of(error: BaseException, had_batch: bool) -> Failure:
    """The failure to report for an exception that ended a measurement.

    An exception raised ``from`` another (a pipeline's wrapper) is what its cause is.

    Args:
        error: the exception.
        had_batch: whether the first batch had been delivered.
    """
    for link in _chain(error):
        if isinstance(link, MeasurementFailed):
            return link.failure
        kind = _kind_of(link)
        if kind is not None:
            return Failure(kind=kind, cause=_cause(link))
    return Failure(kind="crash" if had_batch else "start_up", cause=_cause(error))


def _kind_of(error: BaseException) -> FailureKind | None:
    if isinstance(error, DataError):
        return "data"
    if isinstance(error, UnsupportedError):
        return "unsupported"
    if isinstance(error, InputError):
        return "start_up"
    if isinstance(error, MemoryError):
        return "host_out_of_memory"
    torch = sys.modules.get("torch")  # not imported: then it cannot have raised
    if torch is not None and isinstance(error, torch.cuda.OutOfMemoryError):
        return "gpu_out_of_memory"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _cause(error: BaseException) -> str:
    """One line: our own messages as they are, others with their type."""
    text = " ".join(str(error).split())
    if isinstance(error, DataError | InputError | UnsupportedError):
        return text[:_MAX_CAUSE]
    name = type(error).__qualname__
    return (f"{name}: {text}" if text else name)[:_MAX_CAUSE]

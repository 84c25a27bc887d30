"""Which kind of failure an exception in the worker is: by its type and its error code.

A message is read for one thing alone: the name of CUDA's error code, where a native library
gives it in no other form.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from autotune.exceptions import DataError, InputError, MeasurementFailed, UnsupportedError
from autotune.trial import Failure, FailureKind

_MAX_CAUSE = 500

_CUDA_OUT_OF_MEMORY = 2
"""``CUDA_ERROR_OUT_OF_MEMORY`` and ``cudaErrorMemoryAllocation``: cuda.h, driver_types.h."""

_CUDA_NAMES = ("CUDA_ERROR_OUT_OF_MEMORY", "cudaErrorMemoryAllocation")
"""The same, as a native library spells its error code where it raises a bare RuntimeError."""


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
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return "gpu_out_of_memory"
    if _is_cuda_out_of_memory(error):
        return "gpu_out_of_memory"
    return None


def _is_cuda_out_of_memory(error: BaseException) -> bool:
    """By the code that CUDA gave: an attribute (``torch.AcceleratorError.error_code``,
    ``cupy``'s ``status``), else its name in the message of a RuntimeError."""
    if type(error).__module__.partition(".")[0] in ("torch", "cupy", "cupy_backends"):
        codes = (getattr(error, "error_code", None), getattr(error, "status", None))
        if _CUDA_OUT_OF_MEMORY in codes:
            return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in _CUDA_NAMES)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, what it was raised from, and the members of exception groups."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting.append(link.__cause__)
        if isinstance(link, BaseExceptionGroup):
            waiting += link.exceptions


def _cause(error: BaseException) -> str:
    """One line: our own messages as they are, others with their type."""
    text = " ".join(str(error).split())
    if isinstance(error, DataError | InputError | UnsupportedError):
        return text[:_MAX_CAUSE]
    name = type(error).__qualname__
    return (f"{name}: {text}" if text else name)[:_MAX_CAUSE]

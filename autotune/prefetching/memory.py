"""How much memory batches take that wait to be used."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


def nbytes(value: Any) -> int:
    """Bytes of a sample or a batch.

    Tensors and arrays say it themselves (``nbytes``); mappings, lists, tuples and dataclasses are
    walked. Anything else, such as a number or an image of PIL's, counts as nothing.
    """
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        return size
    if isinstance(value, bytes | bytearray):
        return len(value)
    if isinstance(value, Mapping):
        return sum(nbytes(part) for part in value.values())
    if isinstance(value, list | tuple):
        return sum(nbytes(part) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return sum(nbytes(getattr(value, field.name)) for field in dataclasses.fields(value))
    return 0


class CacheBytes(NamedTuple):
    """Bytes of the batches that a loader holds: in the making, and ready to be taken."""

    held: int
    """Now."""
    peak: int
    mean: float
    """Over time."""


class Ledger:
    """Adds up bytes over time. Safe to use from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held = self._peak = 0
        self.restart()

    def add(self, size: int) -> None:
        """Count ``size`` bytes more; fewer where it is negative."""
        with self._lock:
            self._settle()
            self._held += size
            self._peak = max(self._peak, self._held)

    def read(self) -> CacheBytes:
        """What is held now, and the peak and the mean since the start or the last `restart`."""
        with self._lock:
            self._settle()
            seconds = self._changed - self._since
            mean = self._area / seconds if seconds > 0 else float(self._held)
            return CacheBytes(self._held, self._peak, mean)

    def restart(self) -> None:
        """Count peak and mean from now on. What is held stays held."""
        with self._lock:
            self._peak = self._held
            self._area = 0.0
            self._since = self._changed = self._clock()

    def _settle(self) -> None:
        now = self._clock()
        self._area += self._held * (now - self._changed)
        self._changed = now

"""A loader of the user's own, wrapped so that its batches, waits and queue are published.

Public names of `torch.utils.data.DataLoader` alone are used: how many batches its workers have
made is counted by its ``collate_fn``, which this replaces before the workers start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol


class Reports(Protocol):
    """Where a wrapper reports to (`autotune.publishing.teller.Teller`)."""

    def took(self, name: str, seconds: float) -> None:
        """A task of a stage is done."""

    def add_queue(self, name: str, size: Callable[[], int], capacity: int) -> None:
        """There is a queue."""


class CountingCollate:
    """Makes a batch as before, and counts it; picklable for workers that are spawned."""

    def __init__(self, collate: Callable[[Any], Any], made: Any) -> None:
        self._collate = collate
        self._made = made

    def __call__(self, items: Any) -> Any:
        batch = self._collate(items)
        with self._made.get_lock():
            self._made.value += 1
        return batch


class Watched:
    """Iterates as the loader does; everything else is the loader's own.

    Args:
        loader: any iterable of batches that can be iterated again and again.
        teller: where to report to.
        name: of the stage that waiting for a batch counts as.
    """

    def __init__(self, loader: Any, teller: Reports, name: str) -> None:
        self._loader = loader
        self._teller = teller
        self._name = name
        self._made: Any = None
        self._taken = 0
        workers = getattr(loader, "num_workers", 0)
        if (
            isinstance(workers, int)
            and workers > 0
            and callable(getattr(loader, "collate_fn", None))
        ):
            self._count_batches(workers)

    def _count_batches(self, workers: int) -> None:
        import multiprocessing

        context = self._loader.multiprocessing_context or multiprocessing
        self._made = context.Value("q", 0)
        self._loader.collate_fn = CountingCollate(self._loader.collate_fn, self._made)
        capacity = workers * (self._loader.prefetch_factor or 2)
        self._teller.add_queue(f"{self._name} ready", self._ready, capacity)

    def _ready(self) -> int:
        """Batches that workers have made and nobody has taken yet."""
        return max(0, int(self._made.value) - self._taken)

    def __iter__(self) -> Iterator[Any]:
        # what an epoch that was broken off left behind is not ready any more
        self._taken = int(self._made.value) if self._made is not None else 0
        batches = iter(self._loader)
        while True:
            asked = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._taken += 1
            self._teller.took(self._name, time.monotonic() - asked)
            yield batch
            del batch

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # a copy that is being made has none yet
            raise AttributeError(name)
        return getattr(self._loader, name)

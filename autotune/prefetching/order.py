"""Which samples each batch of an epoch holds, known before the epoch begins."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

from autotune.exceptions import InputError


class Order(Protocol):
    """The batches of every epoch, as lists of indices."""

    def __len__(self) -> int:
        """Batches of an epoch."""

    def batches(self, epoch: int) -> Iterator[list[Any]]:
        """The batches of one epoch, first to last."""

    def prepare(self, epoch: int) -> None:
        """Do what can be done ahead of `batches`; called by another thread."""


class SeededOrder:
    """The order of torch's ``DistributedSampler``, drawn by that class itself.

    Epoch ``e`` of the only rank is ``torch.randperm(samples)`` of a generator seeded with
    ``seed + e``, which is what ``RandomSampler`` draws from that generator. Several ranks take
    every ``world_size``-th index each; the shards are made equally long by repeating the first
    indices, or with ``drop_last`` by leaving out the last ones.

    Args:
        samples: of the data set.
        batch_size: samples in a batch.
        shuffle: permuted, else ascending.
        drop_last: leave out the last batch of an epoch where it is not full.

    Raises:
        InputError: a value that makes no sense, or leaves no batch in an epoch.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        drop_last: bool,
        rank: int,
        world_size: int,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size: {batch_size} is not accepted; accepted is 1 or more")
        if not 0 <= rank < world_size:
            raise InputError(
                f"rank: {rank} is not one of the {world_size} ranks (0 to {world_size - 1})"
            )
        if samples < 1:
            raise InputError("dataset: it has no samples, so there is nothing to load")
        self.batch_size = batch_size
        self._samples = samples
        self._options: dict[str, Any] = {
            "num_replicas": world_size,
            "rank": rank,
            "shuffle": shuffle,
            "seed": seed,
            "drop_last": drop_last,
        }
        shard = len(self._sampler())
        self._length = shard // batch_size if drop_last else -(-shard // batch_size)
        if self._length == 0:
            raise InputError(
                f"batch_size: a rank has {shard} samples, fewer than the {batch_size} of a batch, "
                "and drop_last leaves none; use a smaller batch_size or drop_last=False"
            )
        self._lock = threading.Lock()
        self._drawn: tuple[int, array[int]] | None = None

    def _sampler(self) -> Any:
        from torch.utils.data import DistributedSampler

        return DistributedSampler(range(self._samples), **self._options)

    def __len__(self) -> int:
        return self._length

    def prepare(self, epoch: int) -> None:
        """Draw the order of an epoch, unless it is drawn."""
        self._indices(epoch)

    def _indices(self, epoch: int) -> array[int]:
        with self._lock:
            if self._drawn is None or self._drawn[0] != epoch:
                sampler = self._sampler()
                sampler.set_epoch(epoch)
                self._drawn = (epoch, array("q", sampler))
            return self._drawn[1]

    def batches(self, epoch: int) -> Iterator[list[int]]:
        """Lists of indices into the data set."""
        indices = self._indices(epoch)
        for number in range(self._length):
            first = number * self.batch_size
            yield indices[first : first + self.batch_size].tolist()


class GivenOrder:
    """The order of a batch sampler of the user's.

    Its ``set_epoch`` (or that of its ``sampler``) is called before an epoch is drawn where there
    is one. Without one an epoch that is drawn again may differ: then do not resume in mid-epoch.

    Args:
        batch_sampler: an iterable of lists of indices, iterated anew for each epoch.
    """

    def __init__(self, batch_sampler: Iterable[list[Any]]) -> None:
        self._batch_sampler = batch_sampler

    def __len__(self) -> int:
        return len(self._batch_sampler)  # type: ignore[arg-type]

    def prepare(self, epoch: int) -> None:
        """Nothing: it is drawn as it is used, since it may have no end."""

    def batches(self, epoch: int) -> Iterator[list[Any]]:
        """Lists of whatever the data set is indexed by."""
        for sampler in (self._batch_sampler, getattr(self._batch_sampler, "sampler", None)):
            if callable(set_epoch := getattr(sampler, "set_epoch", None)):
                set_epoch(epoch)
                break
        yield from map(list, self._batch_sampler)


def plan(
    order: Order, epoch: int, first: int, epochs: int | None
) -> Iterator[tuple[int, int, list[Any]]]:
    """Epoch, number and indices of every batch from one on, epoch after epoch.

    Ends before the epoch ``epochs``, but not before the one it begins with is through; and after
    an epoch without a batch, as another one would hold none either.
    """
    last = max(epoch, epochs - 1) if epochs is not None else None
    while last is None or epoch <= last:
        seen = first
        for number, indices in enumerate(islice(order.batches(epoch), first, None), start=first):
            seen = number + 1
            yield epoch, number, indices
        if seen == 0:
            return
        epoch, first = epoch + 1, 0

"""Which samples a batch holds: the seeded epochs of the manifest, without an end."""

from __future__ import annotations

from collections.abc import Iterator

Place = tuple[int, int]
"""An epoch, and a place in its order: enough for a worker to find the clip and its window."""


class EpochBatches:
    """A batch sampler for DataLoader.

    Each iteration yields ``batches`` batches and the next one goes on where it ended, so that
    every target reads the same clips in the same order, however often its loader starts anew.

    Args:
        shard: samples of one epoch of this rank.
        batch_size: samples in a batch; a batch may span epochs.
        batches: of one iteration.
    """

    def __init__(self, shard: int, batch_size: int, batches: int) -> None:
        self._shard = shard
        self.batch_size = batch_size
        self._batches = batches
        self._next = 0

    @property
    def handed_out(self) -> int:
        """Samples asked for so far, over all iterations."""
        return self._next

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[Place]]:
        for _ in range(self._batches):
            first, self._next = self._next, self._next + self.batch_size
            yield [divmod(number, self._shard) for number in range(first, self._next)]

"""Which clip comes next: seeded epochs over the manifest, without an end."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from autotune.manifest import Manifest
from autotune.targets.spdl_video.stats import StatsBoard


@dataclass(frozen=True, slots=True)
class ClipRef:
    """One clip to read."""

    index: int
    """Its place in the manifest."""
    path: str
    name: str
    """Relative to the data folder; for messages."""
    label: int
    start: float | None
    """Where the window starts, as a share of where it may start, 0 to 1; None: at 0."""


class EpochSource:
    """Yields the clips of one rank in their seeded order, epoch after epoch.

    It ends when the board says so, and not before: SPDL's source thread is no daemon, so a
    source that never ended would keep the process alive. It takes the manifest's path where it
    can, so that a subprocess reads the file instead of being sent 240,000 names. Clips come in
    lists of ``group``, each of which one fetch reads.
    """

    def __init__(
        self,
        manifest: Manifest | str,
        board: StatsBoard,
        *,
        seed: int,
        rank: int,
        world_size: int,
        random_start: bool,
        group: int = 1,
    ) -> None:
        self._manifest = manifest
        self._board = board
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._random_start = random_start
        self._group = group

    def __iter__(self) -> Iterator[list[ClipRef]]:
        clips = self._clips()
        while group := list(itertools.islice(clips, self._group)):
            yield group

    def _clips(self) -> Iterator[ClipRef]:
        source = self._manifest
        manifest = Manifest.load(source) if isinstance(source, str) else source
        for epoch in itertools.count():
            for index in manifest.order(self._seed, epoch, self._rank, self._world_size):
                if self._board.stopped:
                    return
                yield ClipRef(
                    index=index,
                    path=manifest.path(index),
                    name=manifest.paths[index],
                    label=manifest.labels[index],
                    start=random_share(self._seed, epoch, index) if self._random_start else None,
                )


def random_share(seed: int, epoch: int, index: int) -> float:
    """A number in [0, 1), the same for the same clip, epoch and seed in every process."""
    digest = hashlib.blake2b(f"{seed}:{epoch}:{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / float(1 << 53)

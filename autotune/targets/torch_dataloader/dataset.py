"""The data set: a place in the seeded order to a decoded sample. Runs in the workers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from autotune.exceptions import DataError
from autotune.manifest import Manifest
from autotune.media.decoders import DecodedWindow, Decoder, Window, load
from autotune.media.decoders.base import Stopwatch, read_file
from autotune.targets.spdl_video.duration import clip_duration
from autotune.targets.spdl_video.failures import ClipFailure, StageCrash
from autotune.targets.spdl_video.source import random_share
from autotune.targets.storage_latency import wait
from autotune.targets.torch_dataloader.sampler import Place

# After as many failures in a row `FailureLog` gives up, so it always learns of them all.
_FEWEST_TRIES = 20
_MOST_TRIES = 1000


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """How samples are decoded: what `Clips` is told, and what it reports to be read back."""

    decoder: str
    duration: float
    random_start: bool
    num_frames: int
    size: tuple[int, int] | None
    scale_algorithm: str
    threads: int
    emulated_latency_ms: float = 0.0


@dataclass(slots=True)
class Sample:
    """One sample, and what it took.

    Attributes:
        clip: None where nothing could be decoded: ``failures`` or ``crash`` says why.
        failures: clips that failed before this one took their place.
        crash: an error that is no clip's fault.
    """

    label: int
    clip: DecodedWindow | None
    seconds: dict[str, float]
    failures: list[ClipFailure] = field(default_factory=list)
    crash: StageCrash | None = None


class Clips:
    """A map-style data set of one rank's shard.

    A clip that cannot be decoded is replaced by the next one of the epoch that can, so that
    batches are full and every sample in them was decoded; both are counted.

    Args:
        manifest: the clips, or the path of their manifest: then workers that are spawned read
            the file instead of being sent 240,000 names.
        settings: how to decode.
        seed, rank, world_size: which order, and which part of it.
    """

    def __init__(
        self,
        manifest: Manifest | str,
        settings: DecodeSettings,
        *,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._source = manifest
        self.settings = settings
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._forget()

    def _forget(self) -> None:
        """What each process makes for itself."""
        self._manifest: Manifest | None = None
        self._decoder: Decoder | None = None
        self._pid = 0
        self._orders: dict[int, list[int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.update(_manifest=None, _decoder=None, _pid=0, _orders={})
        return state

    @property
    def manifest(self) -> Manifest:
        """The clips."""
        if self._manifest is None:
            source = self._source
            self._manifest = Manifest.load(source) if isinstance(source, str) else source
        return self._manifest

    @property
    def decoder(self) -> Decoder:
        """This process's decoder. One that was made before a fork is not used after it."""
        if self._decoder is None or self._pid != os.getpid():
            self._decoder, self._pid = self.open_decoder(), os.getpid()
        return self._decoder

    def open_decoder(self) -> Decoder:
        """A decoder of this process's own; another kind of data set overrides it."""
        return load(self.settings.decoder)

    def clip_seconds(self, path: str, name: str, watch: Stopwatch) -> float:
        """Length of a clip, in which a random window starts; so does another kind this.

        Raises:
            DataError: it cannot be told.
        """
        with watch("fetch"):
            data = read_file(path, name)
        with watch("demux"):
            return clip_duration(data, name)

    def order(self, epoch: int) -> list[int]:
        """Indices into the manifest of this rank's clips in one epoch."""
        if epoch not in self._orders:
            # Two are in use where batches span epochs, or one worker lags behind.
            while len(self._orders) > 2:
                self._orders.pop(min(self._orders))
            self._orders[epoch] = self.manifest.order(
                self._seed, epoch, self._rank, self._world_size
            )
        return self._orders[epoch]

    def __len__(self) -> int:
        return len(self.order(0))

    def __getitem__(self, place: Place) -> Sample:
        epoch, position = place
        sample = Sample(label=-1, clip=None, seconds={})
        try:
            order = self.order(epoch)
            for offset in range(min(_MOST_TRIES, max(_FEWEST_TRIES, len(order)))):
                index = order[(position + offset) % len(order)]
                try:
                    sample.clip = self._decode(index, epoch, sample.seconds)
                except DataError as error:
                    sample.failures.append(ClipFailure(error.name, error.cause))
                    continue
                sample.label = self.manifest.labels[index]
                break
        except Exception as error:  # raised again by the loader, in the process that measures
            sample.crash = StageCrash("decode", error)
        return sample

    def _decode(self, index: int, epoch: int, seconds: dict[str, float]) -> DecodedWindow:
        manifest, wanted = self.manifest, self.settings
        path, name = manifest.path(index), manifest.paths[index]
        start = 0.0
        if wanted.emulated_latency_ms > 0:
            _add(seconds, {"fetch": wait(wanted.emulated_latency_ms)})
        if wanted.random_start:
            watch = Stopwatch()
            spare = self.clip_seconds(path, name, watch) - wanted.duration
            # Whole milliseconds: a start that can be written down and asked for again.
            start = round(max(0.0, spare) * random_share(self._seed, epoch, index), 3)
            _add(seconds, watch.seconds)
        clip = self.decoder.decode(
            path,
            name,
            Window(
                start=start,
                duration=wanted.duration,
                num_frames=wanted.num_frames,
                size=wanted.size,
                scale_algorithm=wanted.scale_algorithm,
                threads=wanted.threads,
            ),
        )
        _add(seconds, clip.seconds)
        return clip


def _add(total: dict[str, float], more: dict[str, float]) -> None:
    for part, spent in more.items():
        total[part] = total.get(part, 0.0) + spent

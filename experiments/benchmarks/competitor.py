"""What the competitors have in common: they are targets, so that the product's own worker runs
and counts them exactly as it does `spdl_video`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from autotune.exceptions import DataError, InputError
from autotune.manifest import Manifest
from autotune.media.native import library_environment
from autotune.media.windows import pts_window, sample_indices
from autotune.targets.base import Batch, BuildContext, Loader, Target
from autotune.trial import FailedClip, Params, StageStats


class CompetitorSettings(BaseModel):
    """The fixed part of the workload."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_frames: int = Field(16, ge=1)
    frame_size: tuple[int, int] = (112, 112)
    """Height and width."""


class CompetitorTarget(Target):
    """Base of the competitors."""

    Settings: ClassVar[type[BaseModel]] = CompetitorSettings

    def environment(self, params: Params, settings: Mapping[str, Any]) -> dict[str, str]:
        """All decode with the same FFmpeg: the one in PyAV's wheel."""
        return library_environment("bundled", "cpu")


class CompetitorLoader(Loader):
    """Keeps what every competitor reports."""

    def __init__(self, params: BaseModel, prefetched_batches: int) -> None:
        self._params = params
        self._prefetched_batches = prefetched_batches
        self._failed = 0
        self._failures: dict[str, str] = {}

    @property
    def prefetched_batches(self) -> int:
        return self._prefetched_batches

    def note_failure(self, name: str, cause: str) -> None:
        """Count a clip that was not delivered."""
        self._failed += 1
        if len(self._failures) < 20:
            self._failures.setdefault(name, cause)

    def readback(self) -> Params:
        """The configuration as built; a competitor has no second place to read it from."""
        values: Params = self._params.model_dump()
        return values

    def stage_stats(self) -> list[StageStats]:
        """Competitors are not explained, only timed."""
        return []

    def failed(self) -> tuple[int, list[FailedClip]]:
        """How many clips failed, and which."""
        return self._failed, [FailedClip(name=n, cause=c) for n, c in self._failures.items()]


def manifest_of(context: BuildContext) -> Manifest:
    """The clips to read.

    Raises:
        InputError: if the specification names no manifest.
    """
    if context.spec.manifest is None:
        raise InputError("a competitor needs the manifest that the benchmark wrote")
    return Manifest.load(context.spec.manifest)


def endless_order(manifest: Manifest, seed: int, rank: int = 0, world: int = 1) -> Iterator[int]:
    """The clips in the order in which `spdl_video` reads them, without an end."""
    for epoch in itertools.count():
        yield from manifest.order(seed, epoch, rank, world)


def float_batch(video: Any, label: Any, settings: CompetitorSettings, decoded: int) -> Batch:
    """A batch, after a check that every sample has the frames asked for.

    Raises:
        ValueError: if the shape is not [N, 3, T, H, W].
    """
    samples = len(label)
    wanted = (samples, 3, settings.num_frames, *settings.frame_size)
    if tuple(video.shape) != wanted or not video.is_floating_point():
        raise ValueError(f"delivered {tuple(video.shape)} {video.dtype}, wanted {wanted} of floats")
    frames = samples * settings.num_frames
    return Batch(video, label, samples, frames, unique_frames=frames, decoded_frames=decoded)


def window_packets(path: str, duration: float, num_frames: int) -> tuple[Any, list[Any], list[int]]:
    """Demux with PyAV exactly the packets that a window at the clip's start needs.

    Packets are read until one has dts at or behind the end (no frame has pts < dts, so none of
    the window can follow), and cut behind the last frame wanted.

    Returns:
        the open container's stream, the packets in decoding order, the pts of the frames wanted
        in order, repeats included.

    Raises:
        DataError: if no frame lies in the window.
    """
    import av

    container = av.open(path)
    stream = container.streams.best("video")
    if stream is None or stream.time_base is None:
        raise DataError(path, "no video stream")
    packets: list[Any] = []
    first: int | None = None
    for packet in container.demux(stream):
        if packet.pts is None or packet.dts is None:
            continue
        packets.append(packet)
        first = packet.pts if first is None else min(first, packet.pts)
        if packet.dts >= pts_window(first, stream.time_base, 0, duration).hi:
            break
    if first is None:
        raise DataError(path, "no packets")
    window = pts_window(first, stream.time_base, 0, duration)
    inside = sorted(p.pts for p in packets if p.pts in window)
    if not inside:
        raise DataError(path, "no frame in the window")
    wanted = [inside[i] for i in sample_indices(len(inside), num_frames)]
    needed = 1 + max(i for i, p in enumerate(packets) if p.pts in set(wanted))
    return stream, packets[:needed], wanted

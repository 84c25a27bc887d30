"""The ceiling: libavcodec and nothing else.

One process a core, one thread a decoder, the packets of every window in memory before counting
begins: exactly those that the wanted frames need. No demuxing, no conversion, no batch is made.
A codec context is opened for every clip, as any loader must: clips differ in their parameters.

The engine ``pyav_open`` opens every clip as well (file, demuxer and decoder, through PyAV) and
stops at the last wanted frame: what a script measures that only decodes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from autotune.manifest import Manifest
from autotune.targets.base import Batch, BuildContext, Loader
from experiments.benchmarks.competitor import (
    CompetitorLoader,
    CompetitorSettings,
    CompetitorTarget,
    endless_order,
    manifest_of,
    window_packets,
)

Decode = Callable[[], int]
"""Decodes one clip's window and returns how many frames came out."""


class DecodeParams(BaseModel):
    """How the ceiling is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["pyav", "spdl", "pyav_open"] = "pyav"
    """Which binding calls libavcodec."""
    num_processes: int = Field(1, ge=1)
    subclip_duration: float = Field(0.5, gt=0)
    batch_size: int = Field(16, ge=1)


class DecodeAlone(CompetitorTarget):
    """Decode without anything around it."""

    name: ClassVar[str] = "decode_alone"
    Params: ClassVar[type[BaseModel]] = DecodeParams

    def build(self, context: BuildContext) -> Loader:
        """Start the processes."""
        params = DecodeParams.model_validate(context.spec.params)
        settings = CompetitorSettings.model_validate(context.spec.settings)
        return _DecodeLoader(params, settings, manifest_of(context), context)


class _DecodeLoader(CompetitorLoader):
    def __init__(
        self,
        params: DecodeParams,
        settings: CompetitorSettings,
        manifest: Manifest,
        context: BuildContext,
    ) -> None:
        super().__init__(params, prefetched_batches=params.num_processes)
        self._decode = params
        self._num_frames = settings.num_frames
        spawn = multiprocessing.get_context("spawn")
        self._done = spawn.SimpleQueue()
        self._processes = [
            spawn.Process(
                target=_decode_forever,
                args=(self._done, params, settings.num_frames, manifest, context.spec.seed, rank),
                daemon=True,
            )
            for rank in range(params.num_processes)
        ]
        for process in self._processes:
            process.start()

    def __iter__(self) -> Iterator[Batch]:
        """One batch for each ``batch_size`` clips that a process has decoded."""
        size = self._decode.batch_size
        frames = size * self._num_frames
        while True:
            decoded = self._done.get()
            if isinstance(decoded, str):
                raise RuntimeError(f"decode alone: {decoded}")  # noqa: TRY004 (a message of a child)
            yield Batch(None, None, size, frames, unique_frames=frames, decoded_frames=decoded)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join(5.0)


def _decode_forever(
    done: Any, params: DecodeParams, num_frames: int, manifest: Manifest, seed: int, rank: int
) -> None:
    """Body of one process: demux everything first, then decode in the seeded order."""
    try:
        make = {"pyav": _pyav, "spdl": _spdl, "pyav_open": _pyav_open}[params.engine]
        by_file: dict[tuple[int, int], Decode] = {}
        clips: list[Decode] = []
        for index in range(len(manifest)):
            status = os.stat(manifest.path(index))
            key = (status.st_dev, status.st_ino)  # links to one file need one set of packets
            if key not in by_file:
                by_file[key] = make(manifest.path(index), params.subclip_duration, num_frames)
                by_file[key]()
            clips.append(by_file[key])
        decoded, count = 0, 0
        for index in endless_order(manifest, seed, rank, params.num_processes):
            decoded += clips[index]()
            count += 1
            if count == params.batch_size:
                done.put(decoded)
                decoded, count = 0, 0
    except (KeyboardInterrupt, BrokenPipeError):
        return
    except Exception as error:
        done.put(f"{type(error).__name__}: {error}")


def _pyav(path: str, duration: float, num_frames: int) -> Decode:
    import av

    stream, demuxed, wanted = window_packets(path, duration, num_frames)
    name, extradata = stream.codec_context.name, stream.codec_context.extradata
    packets = []
    for source in demuxed:
        packet = av.Packet(bytes(source))  # of its own: the container can go
        packet.pts, packet.dts, packet.time_base = source.pts, source.dts, source.time_base
        packets.append(packet)
    stream.container.close()

    def decode() -> int:
        context = av.CodecContext.create(name, "r")
        context.extradata = extradata
        context.thread_count = 1
        frames = 0
        for packet in packets:
            frames += len(context.decode(packet))
        return frames + len(context.decode(None))

    if decode() < len(set(wanted)):
        raise RuntimeError(f"{path}: PyAV gives fewer frames than the window wants")
    return decode


def _pyav_open(path: str, duration: float, num_frames: int) -> Decode:
    import av

    stream, _, wanted = window_packets(path, duration, num_frames)
    stream.container.close()
    last = max(wanted)

    def decode() -> int:
        frames = 0
        with av.open(path) as container:
            stream = container.streams.best("video")
            stream.thread_count = 1
            stream.thread_type = "NONE"
            for frame in container.decode(stream):
                frames += 1
                if frame.pts is not None and frame.pts >= last:
                    break
        return frames

    return decode


def _spdl(path: str, duration: float, num_frames: int) -> Decode:
    import spdl.io

    from autotune.media.demux import demux_window

    with open(path, "rb") as file:
        data = file.read()
    clip = demux_window(data, path, 0.0, duration)
    config = spdl.io.decode_config(decoder_options={"threads": "1"})
    # No scaling and no conversion: the filter graph passes the decoder's frames on.
    graph = spdl.io.get_video_filter_desc(scale_mode=None, pix_fmt=None)

    def decode() -> int:
        return len(
            spdl.io.decode_packets(clip.packets.clone(), filter_desc=graph, decode_config=config)
        )

    if decode() < min(num_frames, len(clip.window_pts)):
        raise RuntimeError(f"{path}: SPDL gives fewer frames than the window wants")
    return decode

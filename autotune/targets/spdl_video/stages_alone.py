"""What each stage reaches alone, fed from memory: the pipeline's own stages, one at a time.

A stage alone meets no other stage on the cores, so the pipeline reaches less than the slowest of
them; how much less is what tuning is about.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.exceptions import DataError
from autotune.manifest import Manifest
from autotune.targets.base import Batch
from autotune.targets.spdl_video.collate import Collate
from autotune.targets.spdl_video.failures import ClipFailure, FailureLog, StageCrash
from autotune.targets.spdl_video.params import Params, Settings
from autotune.targets.spdl_video.source import ClipRef, EpochSource
from autotune.targets.spdl_video.stages import (
    Decode,
    Decoded,
    Demux,
    Demuxed,
    Fetch,
    Fetched,
    FrameFormat,
)
from autotune.targets.spdl_video.stats import StatsBoard
from autotune.targets.spdl_video.threads import single_threaded_pool
from autotune.trial import StageCeiling

_SECONDS = {"fetch": 0.25, "demux": 0.25, "decode": 0.5, "collate": 0.3}
_MOST_CLIPS = 64
_MOST_BYTES = 256 << 20
_MOST_SAMPLES = 16
"""Decoded to make batches of: larger batches hold some of them twice."""
_PREPARING_SECONDS = 1.0


@dataclass
class Inputs:
    """What each stage works on, in memory. Clips that fail are left out."""

    refs: list[ClipRef]
    fetched: list[Fetched]
    demuxed: list[Demuxed]
    decoded: list[Decoded]


class Alone:
    """The stages of one configuration, outside any pipeline.

    Args:
        params: the configuration.
        settings: of the study.
        manifest: its clips.
        seed: of its order; the first clips are those that a loader reads first.
    """

    def __init__(self, params: Params, settings: Settings, manifest: Manifest, seed: int) -> None:
        self._params = params
        board = StatsBoard(("fetch", "demux", "decode", "collate"))
        nvdec = params.device == "nvdec"
        self._log = FailureLog(len(manifest))
        self._fetch = Fetch(board)
        self._demux = Demux(board, params.subclip_duration, for_nvdec=nvdec)
        frames = FrameFormat(
            num_frames=settings.num_frames,
            height=settings.frame_size[0],
            width=settings.frame_size[1],
            scale_algorithm=params.scale_algorithm,
            decoder_threads=params.decoder_threads,
            nvdec=nvdec,
        )
        self._decode = Decode(board, frames, self._log)
        self._collate = Collate(board, settings.dtype == "float32")
        source = EpochSource(
            manifest,
            board,
            seed=seed,
            rank=0,
            world_size=1,
            random_start=params.subclip_start == "random",
        )
        self._inputs = self._prepare(itertools.chain.from_iterable(source), len(manifest))

    def _prepare(self, clips: Iterator[ClipRef], available: int) -> Inputs:
        """What the stages work on: at least one clip, and as many as time and memory allow."""
        inputs = Inputs([], [], [], [])
        size, began = 0, time.monotonic()
        for ref in itertools.islice(clips, min(_MOST_CLIPS, available)):
            fetched = self._kept(self._fetch([ref])[0], Fetched)
            demuxed = None if fetched is None else self._kept(self._demux(fetched), Demuxed)
            if fetched is None or demuxed is None:
                continue
            inputs.refs.append(ref)
            inputs.fetched.append(fetched)
            inputs.demuxed.append(demuxed)
            size += len(fetched.data)
            if size > _MOST_BYTES or time.monotonic() - began > _PREPARING_SECONDS / 2:
                break
        for demuxed in inputs.demuxed:
            decoded = self._kept(self._decode(demuxed), Decoded)
            if decoded is not None:
                inputs.decoded.append(decoded)
            enough = len(inputs.decoded) >= min(_MOST_SAMPLES, self._params.batch_size)
            late = time.monotonic() - began > _PREPARING_SECONDS
            if enough or (late and inputs.decoded):
                break
        if self._log.fatal is not None:
            raise self._log.fatal
        if not inputs.decoded:
            raise DataError("the first clips", "none can be decoded, so no stage can run alone")
        return inputs

    @staticmethod
    def _kept(item: Any, kind: type[Any]) -> Any:
        """The item; None for a clip that failed.

        Raises:
            the error that ended the stage, if it was no clip's fault.
        """
        if isinstance(item, StageCrash):
            raise item.exception()
        return item if isinstance(item, kind) else None

    def measure(self, transfer_to: str | None) -> list[StageCeiling]:
        """Each stage at its own concurrency and, where that differs, with a thread a core.

        ``collate`` is run by one thread, as in the pipeline.

        Args:
            transfer_to: where the consumer trains, if batches have to be sent there: that is
                part of ``collate`` then.
        """
        params, inputs = self._params, self._inputs
        batch = list(itertools.islice(itertools.cycle(inputs.decoded), params.batch_size))

        def collate(decoded: Sequence[Decoded]) -> Batch:
            return _transfer(self._collate(decoded), transfer_to)

        stages: list[tuple[str, Callable[[Any], object], Sequence[Any], list[int], int]] = [
            ("fetch", self._fetch, [[r] for r in inputs.refs], _of(params.num_fetch_threads), 1),
            ("demux", self._demux, inputs.fetched, _of(params.num_demux_threads), 1),
            ("decode", self._decode, inputs.demuxed, _of(params.num_decode_threads), 1),
            ("collate", collate, [batch], [1], len(batch)),
        ]
        return [
            StageCeiling(
                name=name,
                concurrency=threads,
                samples_per_second=samples * tasks_per_second(work, items, threads, _SECONDS[name]),
            )
            for name, work, items, concurrencies, samples in stages
            for threads in concurrencies
        ]


def _of(threads: int) -> list[int]:
    """The numbers of threads to try: its own, and one a core."""
    return sorted({threads, len(os.sched_getaffinity(0))})


def transfer_target(device: str, consumer: str) -> str | None:
    """Where batches are sent to be consumed; None where they lie there already.

    Args:
        device: that decodes, ``cpu`` or ``nvdec``.
        consumer: kind of the consumer; a model trains on the GPU where there is one.
    """
    if device == "nvdec" or consumer != "train_step":
        return None
    import torch

    return "cuda:0" if torch.cuda.is_available() else None


def _transfer(batch: Batch, device: str | None) -> Batch:
    if device is None:
        return batch
    import torch

    batch.video.to(device, non_blocking=True)
    torch.cuda.synchronize()
    return batch


def _delivered(result: object) -> bool:
    """Whether a stage passed its item on: what a failed clip took counts, and delivers nothing."""
    return result is not None and not isinstance(result, ClipFailure | StageCrash)


def tasks_per_second(
    work: Callable[[Any], object], items: Sequence[Any], threads: int, seconds: float
) -> float:
    """Tasks a second that ``threads`` threads get done, each going round through ``items``.

    Every thread does one task first, which counts for nothing: it makes the decoders. Each
    thread's rate is counted over whole tasks, up to the end of its own last one, so the time
    that the last tasks take beyond ``seconds`` is not lost.
    """
    together = threading.Barrier(threads)
    turn = itertools.cycle(items)
    lock = threading.Lock()

    def take() -> Any:
        with lock:
            return next(turn)

    def loop() -> float:
        work(take())
        together.wait()
        began = now = time.monotonic()
        done = 0
        while now - began < seconds:
            done += _delivered(work(take()))
            now = time.monotonic()
        return done / (now - began)

    with single_threaded_pool(threads, "autotune_alone") as pool:
        return sum(future.result() for future in [pool.submit(loop) for _ in range(threads)])

"""Builds the pipeline of SPDL's threads: source -> fetch -> decode -> batch -> sink."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from spdl.pipeline import PipelineBuilder

from autotune.frame_folders import read_index
from autotune.manifest import Manifest
from autotune.media.decode import DecodedClip
from autotune.media.decoders.base import Stopwatch, Window
from autotune.targets.frames.params import Params, Settings
from autotune.targets.frames.reading import FrameDecoder, WindowFiles, clip_length, read_window
from autotune.targets.spdl_video.collate import Collate
from autotune.targets.spdl_video.failures import FailureLog
from autotune.targets.spdl_video.pipeline import WAITING, Built
from autotune.targets.spdl_video.queues import QueueFactory
from autotune.targets.spdl_video.source import ClipRef, EpochSource
from autotune.targets.spdl_video.stages import Decode, Decoded, Fetch, FrameFormat
from autotune.targets.spdl_video.stats import StatsBoard
from autotune.targets.spdl_video.threads import single_threaded_pool

_STAGES = ("source", "fetch", "disaggregate", "decode", "aggregate", "collate", "sink")
_ROWS = {"src": "source", **{name: name for name in _STAGES[1:]}}


@dataclass(frozen=True, slots=True)
class FetchedFrames:
    """A window's files, with what the fetch stage was set to: it is read back from here."""

    label: int
    files: WindowFiles
    window: Window
    random_start: bool


class FetchFrames(Fetch):
    """Reads a clip's index, and the files of a window.

    Args:
        board: where to count.
        window: what is wanted; its start stands for clips whose start is not drawn.
    """

    def __init__(self, board: StatsBoard, window: Window) -> None:
        super().__init__(board)
        self._window = window

    def work(self, item: ClipRef) -> FetchedFrames:  # type: ignore[override]
        index = read_index(item.path, item.name)
        window = self._window
        if item.start is not None:
            spare = clip_length(index, item.name) - window.duration
            # Whole milliseconds: a start that can be written down and asked for again.
            window = replace(window, start=round(max(0.0, spare) * item.start, 3))
        files = read_window(item.path, item.name, index, window)
        return FetchedFrames(item.label, files, window, item.start is not None)


class DecodeFrames(Decode):
    """Decodes and scales the files of a window, each thread with a decoder of its own."""

    def __init__(self, board: StatsBoard, format: FrameFormat, log: FailureLog) -> None:
        super().__init__(board, format, log)
        self._own = threading.local()

    def work(self, item: FetchedFrames) -> Decoded:  # type: ignore[override]
        import torch

        if not hasattr(self._own, "decoder"):
            self._own.decoder = FrameDecoder()
        clip = self._own.decoder.pictures(item.files, item.window, Stopwatch())
        self.seen = (item.window.duration, item.random_start)
        frames = torch.from_numpy(clip.frames)
        return Decoded(item.label, DecodedClip(frames, clip.unique_frames, clip.decoded_frames))


def build(
    params: Params,
    settings: Settings,
    manifest: Manifest,
    *,
    seed: int,
    rank: int,
    world_size: int,
) -> Built:
    """Build the pipeline that ``params`` describes; nothing of it runs yet."""
    board = StatsBoard(_STAGES)
    log = FailureLog(len(manifest.order(seed, 0, rank, world_size)))
    height, width = settings.frame_size
    source = EpochSource(
        manifest,
        board,
        seed=seed,
        rank=rank,
        world_size=world_size,
        random_start=params.subclip_start == "random",
    )
    window = Window(
        start=0.0,
        duration=params.subclip_duration,
        num_frames=settings.num_frames,
        size=(height, width),
        scale_algorithm=params.scale_algorithm,
    )
    format = FrameFormat(
        num_frames=settings.num_frames,
        height=height,
        width=width,
        scale_algorithm=params.scale_algorithm,
        decoder_threads=1,
        nvdec=False,
    )
    decode = DecodeFrames(board, format, log)
    pools = {
        "fetch": ThreadPoolExecutor(params.num_fetch_threads, "autotune_fetch"),
        "decode": single_threaded_pool(params.num_decode_threads, "autotune_decode"),
    }
    queues = QueueFactory(board, _ROWS, count_sink=True, waiting={"decode": WAITING})
    pipeline = (
        PipelineBuilder()
        .add_source(source)
        .pipe(
            FetchFrames(board, window),
            name="fetch",
            concurrency=params.num_fetch_threads,
            executor=pools["fetch"],
        )
        .disaggregate()
        .pipe(
            decode,
            name="decode",
            concurrency=params.num_decode_threads + WAITING,
            executor=pools["decode"],
        )
        .aggregate(params.batch_size, drop_last=True)
        .pipe(Collate(board, settings.dtype == "float32"), name="collate")
        .add_sink(params.sink_buffer_size)
        .build(
            num_threads=1,
            max_failures=0,
            queue_class=queues,
            task_hook_factory=_no_hooks,
        )
    )
    return Built(pipeline, queues, board, log, decode, pools, None)


def _no_hooks(info: Any) -> list[Any]:
    """No task hooks: the stages count for themselves."""
    return []

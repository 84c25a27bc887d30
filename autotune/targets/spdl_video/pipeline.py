"""Builds the pipeline of one rank, in one process or with demux in a subprocess."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from spdl.pipeline import PipelineBuilder, run_pipeline_in_subprocess

from autotune.manifest import Manifest
from autotune.targets.spdl_video.arena import SegmentPool
from autotune.targets.spdl_video.backend import Backend, guard
from autotune.targets.spdl_video.collate import Collate
from autotune.targets.spdl_video.failures import FailureLog
from autotune.targets.spdl_video.params import Params, Settings
from autotune.targets.spdl_video.queues import QueueFactory
from autotune.targets.spdl_video.source import EpochSource
from autotune.targets.spdl_video.stages import Decode, Demux, Fetch, FrameFormat
from autotune.targets.spdl_video.stats import StatsBoard
from autotune.targets.spdl_video.threads import single_threaded_pool
from autotune.targets.spdl_video.versions import require_gpu

BACKEND_SINK = "backend_sink"
"""Row of the demux pipeline's own sink in the subprocess: only its capacity is noted."""

_FRONT = ("decode", "aggregate", "collate", "sink")
_BACK = ("source", "fetch", "disaggregate", "demux")

# SPDL's names of stages, or how they begin, to rows of the board.
_BACK_ROWS = {"src": "source", "fetch": "fetch", "disaggregate": "disaggregate", "demux": "demux"}
_FRONT_ROWS = {"decode": "decode", "aggregate": "aggregate", "collate": "collate", "sink": "sink"}

WAITING = 2
"""Clips that wait in front of the decode threads, beside those under way. SPDL's event loop hands
a clip over in a fraction of a millisecond, but it has to get a core first, which the decoders hold;
until then a thread that has finished a clip would do nothing."""

_START_METHOD = "forkserver"
_SEGMENT_SLACK = 1 << 20


@dataclass
class Built:
    """A pipeline that stands, not yet started, and what it is made of."""

    pipeline: Any
    """SPDL's pipeline of this process."""
    queues: QueueFactory
    """What made the pipeline's queues; it knows the sink's."""
    board: StatsBoard
    log: FailureLog
    decode: Decode
    executors: dict[str, ThreadPoolExecutor]
    """Thread pools of this process, by stage."""
    backend: Backend | None


def build(
    params: Params,
    settings: Settings,
    manifest: Manifest,
    manifest_path: str | None,
    *,
    seed: int,
    rank: int,
    world_size: int,
) -> Built:
    """Build the pipeline that ``params`` describes; nothing of it in this process runs yet.

    Each of the three stages that work on clips has a thread pool of its own, as large as its
    parameter says, so that a parameter is one thing that can be read back. (The published
    example lets fetch and demux share one of the larger of their two sizes.)
    """
    split = params.process_mode == "subprocess"
    context = multiprocessing.get_context(_START_METHOD) if split else None
    stages = (*_BACK, BACKEND_SINK, "transfer", *_FRONT) if split else (*_BACK, *_FRONT)
    board = StatsBoard(stages, context)
    log = FailureLog(len(manifest.order(seed, 0, rank, world_size)))
    source = EpochSource(
        manifest_path if split and manifest_path else manifest,
        board,
        seed=seed,
        rank=rank,
        world_size=world_size,
        random_start=params.subclip_start == "random",
        group=settings.clips_per_fetch,
    )
    pools = {
        "fetch": ThreadPoolExecutor(params.num_fetch_threads, "autotune_fetch"),
        "demux": ThreadPoolExecutor(params.num_demux_threads, "autotune_demux"),
    }
    clips = (
        PipelineBuilder()
        .add_source(source)
        .pipe(
            Fetch(board),
            name="fetch",
            concurrency=params.num_fetch_threads,
            executor=pools["fetch"],
        )
        .disaggregate()
        .pipe(
            Demux(board, params.subclip_duration, for_nvdec=params.device == "nvdec"),
            name="demux",
            concurrency=params.num_demux_threads,
            executor=pools["demux"],
        )
    )
    if not split:
        return _front(params, settings, clips, board, log, pools, None)
    backend = Backend(
        partial(
            run_pipeline_in_subprocess,
            clips.add_sink(params.backend_buffer_size).get_config(),
            num_threads=1,
            max_failures=0,
            mp_context=_START_METHOD,
            buffer_size=params.backend_buffer_size,
            queue_class=QueueFactory(board, {**_BACK_ROWS, "sink": BACKEND_SINK}),
            task_hook_factory=_no_hooks,
            initializer=partial(guard, os.getpid()),
            arena=_arena(params, manifest, context) if params.arena == "pool" else None,
        )
    )
    try:
        return _front(
            params, settings, PipelineBuilder().add_source(backend), board, log, {}, backend
        )
    except BaseException:
        board.stop()
        backend.close()
        raise


def _front(
    params: Params,
    settings: Settings,
    clips: Any,
    board: StatsBoard,
    log: FailureLog,
    pools: dict[str, ThreadPoolExecutor],
    backend: Backend | None,
) -> Built:
    """Put decode and what follows behind ``clips``, the stages before them."""
    nvdec = params.device == "nvdec"
    if nvdec:
        require_gpu()
    # NVDEC's decoders are kept per thread: decode threads have to live as long as the pipeline.
    pool = single_threaded_pool(params.num_decode_threads, "autotune_decode")
    decode = Decode(
        board,
        FrameFormat(
            num_frames=settings.num_frames,
            height=settings.frame_size[0],
            width=settings.frame_size[1],
            scale_algorithm=params.scale_algorithm,
            decoder_threads=params.decoder_threads,
            nvdec=nvdec,
        ),
        log,
    )
    rows = {**_FRONT_ROWS, **(_BACK_ROWS if backend is None else {"src": "transfer"})}
    queues = QueueFactory(board, rows, count_sink=True, waiting={"decode": WAITING})
    under_way = params.num_decode_threads + WAITING
    pipeline = (
        clips.pipe(decode, name="decode", concurrency=under_way, executor=pool)
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
    return Built(pipeline, queues, board, log, decode, {**pools, "decode": pool}, backend)


def _arena(params: Params, manifest: Manifest, context: Any) -> SegmentPool:
    """Shared memory for every item that can be between the two processes at once.

    A segment holds one clip's packets, which are no more than its file. Memory is taken only
    where it is written to. An item keeps its segment until it is decoded, and SPDL gives segments
    back in order: twice as many as are in use let one slow clip be overtaken.
    """
    items = 2 * (params.backend_buffer_size + 2 + params.num_decode_threads + WAITING)
    return SegmentPool(max(manifest.sizes) + _SEGMENT_SLACK, items + 2, context)


def _no_hooks(info: Any) -> list[Any]:
    """No task hooks: the stages count for themselves (see `stats`)."""
    return []

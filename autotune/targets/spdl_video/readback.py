"""Every parameter, read from the pipeline that was built and from what came out of it."""

from __future__ import annotations

import gc
import os
from typing import Any

from autotune.targets.base import Batch
from autotune.targets.spdl_video.params import Params
from autotune.targets.spdl_video.pipeline import BACKEND_SINK, Built
from autotune.targets.spdl_video.stats import CAPACITY, CONCURRENCY, PID
from autotune.trial import Params as ParamValues


def read_back(built: Built, batch: Batch) -> ParamValues:
    """The parameters of a running pipeline.

    Args:
        built: the pipeline.
        batch: one that it delivered.

    Raises:
        RuntimeError: if a thread pool and the stage that uses it differ in size.
    """
    board, seen = built.board, built.decode.seen
    if seen is None:
        raise RuntimeError("nothing was decoded yet")
    duration, random_start = seen
    # Which process demuxed: the stage itself noted its pid when it worked.
    demux_pid = int(board.row("demux")[PID])
    apart = demux_pid != os.getpid() and built.backend is not None and built.backend.alive()
    form = built.decode.format
    values: dict[str, Any] = {
        "num_fetch_threads": stage_threads(built, "fetch"),
        "num_demux_threads": stage_threads(built, "demux"),
        "num_decode_threads": stage_threads(built, "decode"),
        # What the decode stage gives to each decoder and scaler; FFmpeg's contexts are SPDL's.
        "decoder_threads": form.decoder_threads,
        "scale_algorithm": form.scale_algorithm,
        # Capacities, noted by SPDL's queues when SPDL made them.
        "sink_buffer_size": int(board.row("sink")[CAPACITY]),
        "backend_buffer_size": _backend_buffer(built),
        "process_mode": "subprocess" if apart else "in_process",
        "arena": "pool" if _arena_used(built) else "off",
        "gc_policy": "automatic" if gc.isenabled() else "between_epochs",
        # Where the frames lie that were delivered.
        "device": "nvdec" if batch.video.device.type == "cuda" else "cpu",
        # What the demux stage, in whichever process, sent along with the packets.
        "subclip_duration": duration,
        "subclip_start": "random" if random_start else "first",
        "batch_size": int(batch.video.shape[0]),
    }
    return {name: values[name] for name in Params.model_fields}


def stage_threads(built: Built, stage: str) -> int:
    """Concurrency of a stage as SPDL runs it, without the tasks that wait, which its thread pool
    has to match."""
    concurrency = int(built.board.row(stage)[CONCURRENCY])
    pool = built.executors.get(stage)
    # The pools of a subprocess are SPDL's to make, from the stage's own; here they can be asked.
    if pool is not None and pool._max_workers != concurrency:
        raise RuntimeError(f"stage {stage} runs {concurrency} tasks on {pool._max_workers} threads")
    return concurrency


def _backend_buffer(built: Built) -> int:
    """Capacity of the two queues between the processes: the demux pipeline's own sink, and the
    multiprocessing queue behind it. One parameter sets both. In one process there is neither,
    and the parameter stands at its default."""
    if built.backend is None:
        return int(Params.model_fields["backend_buffer_size"].default)
    sink = int(built.board.row(BACKEND_SINK)[CAPACITY])
    if built.backend.queue_size != sink:
        raise RuntimeError(
            f"the demux subprocess's sink holds {sink} items, the queue behind it "
            f"{built.backend.queue_size}: backend_buffer_size was to set both"
        )
    return sink


def _arena_used(built: Built) -> bool:
    """Whether packets crossed in shared memory: its own count of items says so."""
    return (
        built.backend is not None
        and built.backend.arena is not None
        and built.backend.arena.published > 0
    )

"""Who is compared by `every_loader`: what each is held to, and the ranges it is tuned over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotune.media.decoders import DECODERS
from autotune.trial import Params
from experiments.benchmarks.tuning import Searched

FRAMES_TARGET = "frames"
"""The target whose data are the extracted frames."""
USUAL = "torch_dataloader, pyav"
"""What the others are set beside."""

Ranges = dict[str, dict[str, Any]]

_TWO_DECODER_THREADS: Ranges = {"decoder_threads": {"min": 1, "max": 2}}
_SINK: Ranges = {"sink_buffer_size": {"min": 1, "max": 8}}


def contenders(duration: float, cores: int, missing: Mapping[str, str]) -> list[Searched]:
    """Every target, those that decode video with every decoder that is not missing.

    All hand over the same: float32 in 0..1, channels first as a view of memory that has them last,
    which is how the targets built on SPDL hand it over. How it gets there is each one's own.

    Args:
        duration: of a window, seconds.
        cores: that the ranges are drawn around.
        missing: why a decoder cannot be used, by name.
    """
    work: Params = {"subclip_duration": duration, "batch_size": 16}
    work |= {"scale_algorithm": "fast_bilinear"}
    view: Params = {"layout": "view", "transform_device": "cpu", "pin_memory": False}
    decoders = [decoder for decoder in DECODERS if decoder not in missing]
    decoded = [decoder for decoder in ("pyav", "spdl") if decoder in decoders]
    cached: Params = {**work, **view, "cache_device": "cpu"}
    return [
        Searched(
            "spdl_video", "spdl_video", {**work, "device": "cpu"}, *_spdl_stages(cores),
            settings={"clips_per_fetch": 8},
        ),
        *(
            Searched(
                f"torch_dataloader, {decoder}", "torch_dataloader",
                {**work, **view, "decoder": decoder}, _worker_ranges(cores) | _TWO_DECODER_THREADS,
                _worker_starts(cores),
            )
            for decoder in decoders
        ),
        *(
            Searched(
                f"prefetch_cache, {decoder}", "prefetch_cache",
                {**cached, "decoder": decoder}, *_cache(cores),
            )
            for decoder in decoded
        ),
        Searched(
            "frames, dataloader", FRAMES_TARGET, {**work, **view, "reader": "dataloader"},
            _worker_ranges(cores), _worker_starts(cores),
        ),
        Searched(
            "frames, spdl_threads", FRAMES_TARGET, {**work, "reader": "spdl_threads"},
            *_spdl_readers(cores),
        ),
    ]  # fmt: skip


def _worker_ranges(cores: int) -> Ranges:
    """Of a DataLoader; what is not named here is searched over all its values."""
    return {
        "num_workers": {"min": 0, "max": 2 * cores, "default": cores},
        "prefetch_factor": {"min": 1, "max": 4},
        "torch_threads": {"min": 1, "max": 2},
    }


def _worker_starts(cores: int) -> list[Params]:
    return [{"num_workers": cores + 1, "prefetch_factor": 4}, {"wire_dtype": "uint8"}]


def _spdl_stages(cores: int) -> tuple[Ranges, list[Params]]:
    """Of the target that fetches, demuxes and decodes in threads."""
    few = {"min": 1, "max": 2 * cores, "default": 2}
    ranges: Ranges = {
        "num_fetch_threads": few,
        "num_demux_threads": few,
        "num_decode_threads": {"min": 1, "max": 3 * cores, "default": 2 * cores},
        "backend_buffer_size": {"min": 1, "max": 8},
    }
    starts: list[Params] = [
        {"gc_policy": "between_epochs", "sink_buffer_size": 5},
        {"num_fetch_threads": 1, "num_demux_threads": 1, "num_decode_threads": cores + 1},
    ]
    return ranges | _SINK | _TWO_DECODER_THREADS, starts


def _spdl_readers(cores: int) -> tuple[Ranges, list[Params]]:
    """Of SPDL's threads over frames on disk."""
    ranges: Ranges = {
        "num_fetch_threads": {"min": 1, "max": 2 * cores, "default": 2},
        "num_decode_threads": {"min": 1, "max": 3 * cores, "default": cores + 1},
    }
    starts: list[Params] = [
        {"num_fetch_threads": 2 * cores},
        {"num_decode_threads": 2 * cores, "gc_policy": "between_epochs"},
    ]
    return ranges | _SINK, starts


def _cache(cores: int) -> tuple[Ranges, list[Params]]:
    """Of the prefetching cache."""
    ranges: Ranges = {
        "num_threads": {"min": 1, "max": 4 * cores, "default": cores + 1},
        "cache_batches": {"min": 1, "max": 16},
    }
    starts: list[Params] = [
        {"num_threads": 2 * cores, "cache_batches": 16},
        {"wire_dtype": "uint8"},
    ]
    return ranges | _TWO_DECODER_THREADS, starts

"""Builds the DataLoader of one rank. Imports torch."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

from torch.utils.data import DataLoader

from autotune.manifest import Manifest
from autotune.media.decoders import load
from autotune.targets.torch_dataloader.collate import Collate
from autotune.targets.torch_dataloader.dataset import Clips, DecodeSettings
from autotune.targets.torch_dataloader.loader import DataLoaderLoader
from autotune.targets.torch_dataloader.params import Params, Settings
from autotune.targets.torch_dataloader.sampler import EpochBatches
from autotune.targets.torch_dataloader.workers import SetUp


def build(
    params: Params,
    settings: Settings,
    manifest: Manifest,
    manifest_path: str | None,
    *,
    seed: int,
    rank: int,
    world_size: int,
    dataset: type[Clips] = Clips,
    made: type[DataLoaderLoader] = DataLoaderLoader,
) -> DataLoaderLoader:
    """Build the loader that ``params`` describes and start its workers.

    Args:
        dataset: what the samples come from.
        made: the loader to make; another one reads other parameters back.

    Raises:
        UnsupportedError: the decoder cannot be used here.
        MeasurementFailed: there is no memory for the workers.
    """
    load(params.decoder)  # told here, once, and not by every worker
    size = settings.frame_size
    decoding = DecodeSettings(
        decoder=params.decoder,
        duration=params.subclip_duration,
        random_start=params.subclip_start == "random",
        num_frames=settings.num_frames,
        size=size if params.resize == "frame" else None,
        scale_algorithm=params.scale_algorithm,
        threads=params.decoder_threads,
        emulated_latency_ms=settings.emulated_latency_ms,
    )
    forked = params.multiprocessing_context == "fork"
    clips = dataset(
        manifest if forked or manifest_path is None else manifest_path,
        decoding,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    shard = len(manifest.order(seed, 0, rank, world_size))
    workers: dict[str, Any] = {}
    done: Any = None
    if params.num_workers > 0:
        context = multiprocessing.get_context(params.multiprocessing_context)
        done = context.RawArray("q", params.num_workers)
        cores = sorted(os.sched_getaffinity(0))
        workers = {
            "prefetch_factor": params.prefetch_factor,
            "persistent_workers": params.persistent_workers,
            "multiprocessing_context": context,
            "in_order": params.in_order,
            "worker_init_fn": SetUp(params.torch_threads, params.worker_affinity, cores),
        }
    collate = Collate(
        decoding,
        size if params.resize == "batch" and params.transform_device == "cpu" else None,
        params.scale_algorithm,
        _wire(params, settings),
        params.layout,
        done,
    )
    loader: Any = DataLoader(
        clips,
        batch_sampler=EpochBatches(shard, params.batch_size, settings.epoch_batches),
        num_workers=params.num_workers,
        collate_fn=collate,
        pin_memory=params.pin_memory,
        **workers,
    )
    return made(loader, done, params, settings, shard)


def _wire(params: Params, settings: Settings) -> str:
    """What a batch is made of where it is collated, see `Collate`."""
    if params.transform_device == "cuda":
        return "clips"
    if params.num_workers == 0:
        return settings.dtype
    return params.wire_dtype

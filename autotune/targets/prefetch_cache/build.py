"""Builds the PrefetchLoader of one rank. Imports torch."""

from __future__ import annotations

from autotune.manifest import Manifest
from autotune.media.decoders import load
from autotune.prefetching import PrefetchLoader
from autotune.targets.prefetch_cache.dataset import ThreadedClips
from autotune.targets.prefetch_cache.loader import PrefetchCacheLoader
from autotune.targets.prefetch_cache.params import Params, Settings
from autotune.targets.torch_dataloader.collate import Collate
from autotune.targets.torch_dataloader.dataset import DecodeSettings
from autotune.targets.torch_dataloader.sampler import EpochBatches


def build(
    params: Params, settings: Settings, manifest: Manifest, *, seed: int, rank: int, world_size: int
) -> PrefetchCacheLoader:
    """Build the loader that ``params`` describes and start its threads.

    Raises:
        UnsupportedError: the decoder cannot be used here.
    """
    load(params.decoder)  # told here, once, and not by every thread
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
    clips = ThreadedClips(manifest, decoding, seed=seed, rank=rank, world_size=world_size)
    scaled_here = params.resize == "batch" and params.transform_device == "cpu"
    shard = len(manifest.order(seed, 0, rank, world_size))
    prefetch = PrefetchLoader(
        clips,
        batch_sampler=EpochBatches(shard, params.batch_size, settings.epoch_batches),
        cache_batches=params.cache_batches,
        num_threads=params.num_threads,
        collate_fn=Collate(
            decoding,
            size if scaled_here else None,
            params.scale_algorithm,
            "clips" if params.transform_device == "cuda" else params.wire_dtype,
            params.layout,
            None,
        ),
        device=params.cache_device if params.cache_device == "cuda" else None,
        pin_memory=params.pin_memory,
    )
    return PrefetchCacheLoader(prefetch, params, settings, shard)

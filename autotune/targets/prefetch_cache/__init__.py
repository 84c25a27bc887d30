"""The target `prefetch_cache`: a video data set in `autotune.prefetching.PrefetchLoader`."""

from __future__ import annotations

from autotune.targets.prefetch_cache.target import PrefetchCache

__all__ = ["PrefetchCache"]

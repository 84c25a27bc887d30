"""A loader that knows the order of an epoch ahead of time, and so makes its batches ahead of time.

    order.py      which samples each batch holds, this epoch and the next one
    threads.py    the threads
    batches.py    samples to batches: what the threads do
    memory.py     how many bytes the batches made ahead take
    placement.py  where a batch is put: host memory, page-locked memory, a GPU
    loader.py     PrefetchLoader: keeps so many batches ahead and hands them out in order

Nothing here knows of targets or clips: any map-style data set will do. Importing it loads no torch.
"""

from __future__ import annotations

from autotune.prefetching.loader import PrefetchLoader
from autotune.prefetching.memory import CacheBytes, nbytes

__all__ = ["CacheBytes", "PrefetchLoader", "nbytes"]

"""Thread pools whose threads do torch's work themselves."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor


def single_threaded_pool(size: int, name: str) -> ThreadPoolExecutor:
    """A pool of ``size`` threads, all started, in which torch uses no further threads.

    Else every decode thread gets a team of OpenMP threads for the little copying that torch does
    there, and those spin for their next piece of work on the cores that decode.

    torch keeps the number of threads per thread, and takes a new thread's from a value that
    `torch.set_num_threads` sets as well: it is put back once the pool's threads have theirs.
    """
    import torch

    usual = torch.get_num_threads()
    together = threading.Barrier(size)

    def prepare() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # torch fixes a thread's number at its first question
        together.wait()  # so that no thread takes the preparation of two

    pool = ThreadPoolExecutor(size, name)
    try:
        for prepared in [pool.submit(prepare) for _ in range(size)]:
            prepared.result()
    finally:
        torch.set_num_threads(usual)
    return pool

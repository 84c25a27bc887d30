"""DataLoader's worker processes: how they are set up, where they run, why one died."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from autotune.exceptions import MeasurementFailed
from autotune.targets.spdl_video.backend import guard
from autotune.trial import Failure

_STATUS_SECONDS = 2.0

AFFINITIES = ("none", "spread", "reserve")

SHARED_MEMORY_ADVICE = (
    "Enlarge /dev/shm (docker run --shm-size=8g, a memory-backed emptyDir in Kubernetes), or use "
    "fewer workers, a smaller prefetch_factor or batch_size, or wire_dtype: uint8."
)
_WORKER_ADVICE = (
    "Use fewer workers, or another multiprocessing_context or decoder; the log says more."
)


def cores_of(worker: int, affinity: str, cores: Sequence[int]) -> tuple[int, ...]:
    """The cores that a worker may run on.

    Args:
        worker: its number.
        affinity: ``none``: all; ``spread``: one each, in turn; ``reserve``: all but the first,
            which is left to the training process.
        cores: those that the training process may run on, ascending.
    """
    if affinity == "spread":
        return (cores[worker % len(cores)],)
    if affinity == "reserve":
        return tuple(cores[1:])
    return tuple(cores)


def affinity_seen(
    seen: Sequence[tuple[int, tuple[int, ...]]], asked: str, cores: Sequence[int]
) -> str:
    """Which affinity explains the cores that workers reported.

    Args:
        seen: (worker, its cores).
        asked: preferred where several explain them.
        cores: those that the training process may run on, ascending.

    Raises:
        RuntimeError: none of `AFFINITIES` does.
    """
    fits = [
        name
        for name in AFFINITIES
        if all(set(cores_of(worker, name, cores)) == set(found) for worker, found in seen)
    ]
    if not fits:
        raise RuntimeError(f"workers run on cores {list(seen)}, which no worker_affinity explains")
    return asked if asked in fits else fits[0]


class SetUp:
    """DataLoader's ``worker_init_fn``; picklable, as spawned workers are sent it.

    Args:
        torch_threads: threads torch may use in a worker; DataLoader itself sets one.
        affinity, cores: as for `cores_of`.
    """

    def __init__(self, torch_threads: int, affinity: str, cores: Sequence[int]) -> None:
        self._torch_threads = torch_threads
        self._affinity = affinity
        self._cores = tuple(cores)
        self._parent = os.getpid()

    def __call__(self, worker: int) -> None:
        import torch

        guard(self._parent)  # no worker outlives the training process, however that ends
        if self._affinity != "none":
            # Before torch makes its threads, which inherit it.
            os.sched_setaffinity(0, cores_of(worker, self._affinity, self._cores))
        torch.set_num_threads(self._torch_threads)


def shared_memory_failure(cause: str) -> MeasurementFailed:
    """The error of a loader that ran out of shared memory."""
    failure = Failure(kind="host_out_of_memory", cause=cause, advice=SHARED_MEMORY_ADVICE)
    return MeasurementFailed(failure)


def start_failure(error: OSError, workers: int) -> BaseException:
    """What to raise where the workers could not be started."""
    if error.errno == errno.ENOSPC:
        return shared_memory_failure(f"no room in /dev/shm for the queues of {workers} workers")
    if error.errno == errno.ENOMEM:
        cause = f"no memory to start {workers} workers: {error.strerror}"
        return MeasurementFailed(Failure(kind="host_out_of_memory", cause=cause))
    return error


def death_of(workers: Sequence[BaseProcess], had_batch: bool) -> MeasurementFailed | None:
    """The error to raise if a worker is gone that should be there; by its exit status.

    A bus error is what Linux answers where shared memory was promised and /dev/shm is full.
    A worker's connections break before its status is known: it is waited for a moment.
    """
    ending = wait([process.sentinel for process in workers], timeout=_STATUS_SECONDS)
    for process in workers:
        if process.sentinel in ending:
            process.join(_STATUS_SECONDS)
    for number, process in enumerate(workers):
        code = process.exitcode
        if code is None:
            continue
        who = f"DataLoader worker {number} of {len(workers)} (pid {process.pid})"
        if code == -signal.SIGBUS:
            return shared_memory_failure(
                f"{who} was killed by SIGBUS: /dev/shm ({_shm_size()}) has no room for its batch"
            )
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with status {code}"
        return MeasurementFailed(
            Failure(
                kind="crash" if had_batch else "start_up",
                cause=f"{who} {how}",
                advice=_WORKER_ADVICE,
            )
        )
    return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _shm_size() -> str:
    try:
        status = os.statvfs("/dev/shm")
    except OSError as error:
        return str(error.strerror)
    return f"{status.f_blocks * status.f_frsize / 2**20:.0f} MiB in all"

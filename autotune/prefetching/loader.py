"""`PrefetchLoader`: batches of a data set, made ahead of time by threads, within a bound."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from typing import Any

from autotune.exceptions import BatchError, InputError
from autotune.prefetching.batches import Job, Task, Workshop
from autotune.prefetching.memory import CacheBytes, Ledger, nbytes
from autotune.prefetching.order import GivenOrder, Order, SeededOrder, plan
from autotune.prefetching.placement import placement
from autotune.prefetching.threads import Threads


class PrefetchLoader:
    """Loads batches of a map-style data set with threads, ahead of the training loop.

    ::

        with PrefetchLoader(dataset, 16, cache_batches=32, num_threads=64) as loader:
            for epoch in range(10):
                for batch in loader:
                    ...

    The order of an epoch is known before it begins, so the next ``cache_batches`` batches are
    always in the making or ready, those of the next epoch included while one ends. Where a sample
    waits for storage, many threads wait at a time, at the price of one batch of memory each
    instead of one process. Python code in the data set runs in one thread at a time: this pays
    where samples wait (network storage) or are made by libraries that let other threads run
    meanwhile, as FFmpeg's, NumPy's and torch's do.

    Each ``iter()`` is one epoch; a new one begins the next epoch and ends the one before. For one
    consuming thread. Threads end with `close`, the ``with`` block, or the last reference.

    Args:
        dataset: ``dataset[index]`` is a sample; called by several threads at a time.
        batch_size: samples in a batch.
        cache_batches: at most so many batches are held, in the making and ready together; the
            one that the consumer has is its own.
        num_threads: threads that make samples.
        shuffle, seed, drop_last, rank, world_size: the order, that of torch's
            ``DistributedSampler`` (see `order.SeededOrder`); with one rank that of its
            ``RandomSampler`` with a generator seeded with ``seed + epoch``.
        sampler: indices in an order of your own, instead of ``shuffle``.
        batch_sampler: lists of indices, instead of ``batch_size``, ``shuffle``, ``sampler`` and
            ``drop_last``. ``set_epoch`` of either is called where there is one. It is iterated
            up to ``cache_batches`` batches ahead, into the next epoch.
        collate_fn: a list of samples to a batch, in a thread; None: torch's ``default_collate``.
        device: where batches are put, ahead of time too: ``"cuda"`` copies from page-locked
            memory beside the computation. None: they stay in host memory.
        pin_memory: page-locked host memory, where no device is given.
        thread_init: called with its number in each thread before its first sample.
        epochs: how many there will be: nothing is made ahead for more. None: without an end.
        size_of: bytes of a sample or a batch, for `cache_bytes`.

    Raises:
        InputError: arguments that make no sense together.
        RuntimeError: torch has no such device here.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        *,
        cache_batches: int = 8,
        num_threads: int = 8,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[list[Any]] | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        device: Any = None,
        pin_memory: bool = False,
        thread_init: Callable[[int], None] | None = None,
        epochs: int | None = None,
        size_of: Callable[[Any], int] = nbytes,
    ) -> None:
        for name, value in (("cache_batches", cache_batches), ("num_threads", num_threads)):
            if value < 1:
                raise InputError(f"{name}: {value} is not accepted; accepted is 1 or more")
        self.dataset = dataset
        self.cache_batches = cache_batches
        self.num_threads = num_threads
        self._epochs = epochs
        self._order: Order
        if batch_sampler is None and sampler is None:
            self._order = SeededOrder(
                len(dataset),
                batch_size,
                shuffle=shuffle,
                seed=seed,
                drop_last=drop_last,
                rank=rank,
                world_size=world_size,
            )
        else:
            self._order = _given(sampler, batch_sampler, batch_size, drop_last, world_size)
        self._identity = {"seed": seed, "batch_size": batch_size, "world_size": world_size}
        self._placement = placement(device, pin_memory)
        self._ledger = Ledger()
        collate = _default_collate if collate_fn is None else collate_fn
        self._workshop = Workshop(dataset, collate, self._placement, size_of, thread_init)
        self._threads = Threads[Task](num_threads, self._workshop.work, self._workshop.enter)
        self._started = self._closed = False
        self._held: deque[Job] = deque()
        self._plan: Iterator[tuple[int, int, list[Any]]] = iter(())
        self._begin = (0, 0)
        """Epoch and batch that the next `iter` begins with."""
        self._done = (0, 0)
        """Epoch, and how many of its batches were handed over."""
        self._prepared = -1
        self._passes = 0
        self._handed_out = 0
        # Threads hold no reference to this object, so dropping the last one gets here.
        self._finalizer = weakref.finalize(self, self._threads.end, wait=False)
        self._finalizer.atexit = False  # `Threads` sees to that

    # ------------------------------------------------------------------ iterating

    @property
    def prefetched_batches(self) -> int:
        """Batches that may be ready when the first one is consumed."""
        return self.cache_batches

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._order)

    def __iter__(self) -> Iterator[Any]:
        """The next epoch, or what is left of it after `load_state_dict`."""
        self._check_open()
        epoch, first = self._begin
        while self._held and (self._held[0].epoch, self._held[0].number) != (epoch, first):
            self._held.popleft().drop()
        if not self._held:
            self._plan = plan(self._order, epoch, first, self._epochs)
        if not self._started:
            self._threads.start()
            self._started = True
        self._begin, self._done = (epoch + 1, 0), (epoch, first)
        self._passes += 1
        self._fill()
        return _Epoch(self, epoch, self._passes)

    def _next(self, epoch: int, which: int) -> Any:
        """The next batch of an epoch for the pass ``which``.

        Raises:
            StopIteration: there is none.
            BatchError: it could not be made; the one after it can still be asked for.
        """
        self._check_open()
        if which != self._passes:
            raise RuntimeError(
                "this epoch of a PrefetchLoader was ended by a later iter(); make one loader for "
                "each of several loops that run at a time"
            )
        if not self._held or self._held[0].epoch != epoch:
            raise StopIteration
        job = self._held[0]
        try:
            placed = job.result.result()
        except CancelledError:
            self._check_open()
            raise
        except BatchError:
            self._pass_on(job)
            raise
        self._pass_on(job)
        return self._placement.receive(placed)

    def _pass_on(self, job: Job) -> None:
        """The consumer has a batch, or its error: its place is free for the next one."""
        self._held.popleft()
        job.drop()
        self._done = (job.epoch, job.number + 1)
        self._fill()

    def _fill(self) -> None:
        """Begin batches until as many are held as may be."""
        while len(self._held) < self.cache_batches:
            job = self._next_job()
            if job is None:
                return
            self._held.append(job)
            if self._prepared != job.epoch:  # the first batch of an epoch: draw the one after it
                self._prepared = job.epoch
                self._threads.submit(Task(call=partial(_prepare, self._order, job.epoch + 1)))

    def _next_job(self) -> Job | None:
        try:
            planned = next(self._plan, None)
        except Exception as error:  # of a sampler: told in its turn, as the last batch
            self._plan = iter(())
            last = self._held[-1] if self._held else None
            epoch, number = (last.epoch, last.number + 1) if last else self._done
            job = Job(epoch, number, [], self._ledger)
            told = BatchError(
                f"{job}: the sampler failed: {type(error).__name__}: {error}",
                epoch=epoch,
                batch=number,
            )
            told.__cause__ = error
            job.fail(told)
            return job
        if planned is None:
            return None
        epoch, number, indices = planned
        job = Job(epoch, number, indices, self._ledger)
        self._handed_out += len(indices)
        for position in range(len(indices)):
            self._threads.submit(Task(job, position))
        return job

    # ------------------------------------------------------------------ where it is

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter` be this epoch, as for torch's samplers. Batches that were made
        ahead for it are used. Needed only to leave the count from 0."""
        if epoch < 0:
            raise InputError(f"epoch: {epoch} is not accepted; accepted is 0 or more")
        if self._begin[0] != epoch:
            self._begin = (epoch, 0)

    def state_dict(self) -> dict[str, int]:
        """Where the consumer is: to be stored with a checkpoint."""
        epoch, batch = self._done if self._passes else self._begin
        return {"epoch": epoch, "batch": batch, **self._identity}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state_dict` was called: the next `iter` is the rest of that epoch.

        Raises:
            InputError: it is the state of a loader with another order.
        """
        missing = {"epoch", "batch"} - state.keys()
        if missing:
            raise InputError(f"state: {', '.join(sorted(missing))} missing; pass a state_dict()")
        for name, value in self._identity.items():
            if name in state and state[name] != value:
                raise InputError(
                    f"state: it was made with {name} {state[name]}, and this loader has {value}, "
                    "so its batches differ; make the loader as it was"
                )
        self._begin = self._done = (int(state["epoch"]), int(state["batch"]))

    @property
    def cache_bytes(self) -> CacheBytes:
        """Bytes of the batches held, as ``size_of`` counts them: now, at most, and on average.

        Samples that are still being made are in it once they are made. They lie in host memory,
        or on the device if one is given.
        """
        return self._ledger.read()

    def restart_cache_bytes(self) -> None:
        """Let peak and mean of `cache_bytes` count from now on."""
        self._ledger.restart()

    @property
    def held(self) -> int:
        """Batches in the making and ready; never above ``cache_batches``."""
        return len(self._held)

    @property
    def ready(self) -> int:
        """Batches that can be taken without waiting for them or for one before them. Safe from any
        thread."""
        count = 0
        for job in tuple(self._held):  # another thread may ask
            if not job.result.done():
                break
            count += 1
        return count

    @property
    def handed_out(self) -> int:
        """Samples that were begun so far."""
        return self._handed_out

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """Forget all batches and end the threads, after the samples that they are at; one that
        hangs there is left behind after some seconds, with a RuntimeWarning. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._finalizer.detach()
        while self._held:
            self._held.popleft().drop()
        self._threads.end()

    def __enter__(self) -> PrefetchLoader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this PrefetchLoader is closed; make another one")


class _Epoch:
    """One epoch of a loader, to be iterated once."""

    def __init__(self, loader: PrefetchLoader, epoch: int, which: int) -> None:
        self._loader: PrefetchLoader | None = loader
        self._epoch = epoch
        self._which = which

    def __iter__(self) -> _Epoch:
        return self

    def __next__(self) -> Any:
        if self._loader is None:
            raise StopIteration
        try:
            return self._loader._next(self._epoch, self._which)
        except StopIteration:
            self._loader = None
            raise


def _given(
    sampler: Iterable[Any] | None,
    batch_sampler: Iterable[list[Any]] | None,
    batch_size: int,
    drop_last: bool,
    world_size: int,
) -> Order:
    """The order of a sampler of the user's.

    Raises:
        InputError: both are given, or one with ranks, of which it knows nothing.
    """
    if sampler is not None and batch_sampler is not None:
        raise InputError("sampler, batch_sampler: both are given; a batch_sampler needs no sampler")
    if world_size != 1:
        raise InputError(
            f"world_size: {world_size} has no effect on a sampler of your own; let the sampler "
            "yield the indices of one rank, as torch's DistributedSampler does"
        )
    if batch_sampler is not None:
        return GivenOrder(batch_sampler)
    from torch.utils.data import BatchSampler

    return GivenOrder(BatchSampler(sampler, batch_size, drop_last))


def _default_collate(samples: list[Any]) -> Any:
    from torch.utils.data import default_collate

    return default_collate(samples)


def _prepare(order: Order, epoch: int) -> None:
    """Draw an epoch ahead. What goes wrong shows again when it is used."""
    with suppress(Exception):
        order.prepare(epoch)

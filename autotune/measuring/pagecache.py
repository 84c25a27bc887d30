"""Whether the files that a measurement reads are in memory, and how to bring that about.

A measurement that finds its files in memory and one that does not are two different
measurements. So the state is chosen (``warm`` or ``cold``), made before every measurement,
proved by the kernel's own count of cached pages, and recorded with the figure.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, TypeVar

from autotune.exceptions import InputError, MeasurementFailed
from autotune.manifest import Manifest
from autotune.system import machine
from autotune.trial import Event, Failure, PreparedEvent, PreparingEvent, TrialSpec

PageCache = Literal["warm", "cold"]

T = TypeVar("T")

MAX_SHARE_OF_MEMORY = 0.5
"""More of the available memory is not filled with clips: they would push one another out."""

MAX_RATE_PER_CORE = 1000.0
"""Samples a second that one core may read at most: twice what opening and demuxing alone do on
one (945 to 1,065 a second on two cores, with nothing decoded)."""

START_UP_SECONDS = 10.0
"""Reading goes on while the pipeline starts and its buffers fill."""

COLD_LIMIT = 0.02
"""A larger share of the pages still in memory after eviction: the files are not cold."""

WARM_LIMIT = 0.98
"""A smaller share of the pages in memory after reading: the files are not warm."""

CHECKED_FILES = 1000
"""Files looked at before a measurement: those it reads first, and as many spread over the others.
Only where one of them is not as it should be are all of them looked at."""

WARM_SECONDS = 60.0
"""Reading back what was evicted may take so long before a measurement."""

_READERS = 8
_GROUP = 16
"""Files that a thread looks at in a row: a task a file would cost more than looking."""
_TASKS = 1024
"""Tasks that wait for a thread at most: a data set may have 240,000 files."""
_CHUNK_BYTES = 2**20
_GIB = float(2**30)
_SYS_CACHESTAT = 451  # the same number on every architecture; Linux 6.5


# --------------------------------------------------------------------------- which files, and how


@dataclass(frozen=True)
class Reach:
    """The clips that a measurement can read, in the order in which it reads them, and their files:
    one each, or a clip's frames."""

    manifest: Manifest
    indices: Sequence[int]
    bytes: int

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def whole(self) -> bool:
        """Whether these are all files of the data set."""
        return len(self) == len(self.manifest)

    def paths(self) -> Iterator[str]:
        """Where they lie. Made as they are asked for: a data set may have 240,000 clips."""
        return chain.from_iterable(map(self.manifest.files, self.indices))

    def first_and_spread(self) -> Reach:
        """The first `CHECKED_FILES`, and about as many spread evenly over the others."""
        first, others = self.split()
        return self._of([*first.indices, *others.spread().indices])

    def split(self) -> tuple[Reach, Reach]:
        """The clips of the first `CHECKED_FILES` files, and the others."""
        count = self._clips_checked
        return self._of(self.indices[:count]), self._of(self.indices[count:])

    def spread(self) -> Reach:
        """The clips of about `CHECKED_FILES` files, spread evenly."""
        return self._of(self.indices[:: max(1, len(self) // self._clips_checked)])

    @property
    def _clips_checked(self) -> int:
        files_per_clip = max((len(self.manifest.files(i)) for i in self.indices[:1]), default=1)
        return max(1, CHECKED_FILES // max(1, files_per_clip))

    def _of(self, indices: Sequence[int]) -> Reach:
        return Reach(self.manifest, indices, sum(self.manifest.sizes[i] for i in indices))


def reach(manifest: Manifest, seed: int, max_seconds: float, cores: int | None = None) -> Reach:
    """The files that a measurement of at most ``max_seconds`` can touch, over all its ranks.

    The ranks' shards are dealt out of one permutation, so that the first files of all ranks are
    the first files of it. No pipeline reads more than `MAX_RATE_PER_CORE` on each of ``cores``.
    """
    cores = machine.cores() if cores is None else cores
    count = math.ceil(MAX_RATE_PER_CORE * cores * (max_seconds + START_UP_SECONDS))
    order = manifest.order(seed, epoch=0)[:count]
    return Reach(manifest, order, sum(manifest.sizes[index] for index in order))


def choose(asked: Literal["auto", "warm", "cold"], files: Reach, available: int) -> PageCache:
    """The state to measure in.

    Args:
        asked: the experiment's ``measurement.page_cache``.
        files: what a measurement can touch.
        available: bytes of memory to be had without swapping.

    Raises:
        InputError: for ``warm`` where the files exceed half of the available memory.
    """
    limit = MAX_SHARE_OF_MEMORY * available
    if asked == "warm" and files.bytes > limit:
        raise InputError(
            f"measurement.page_cache: warm: the {len(files):,} files that a measurement can "
            f"read are {files.bytes / _GIB:.1f} GiB, more than half of the available memory "
            f"({limit / _GIB:.1f} of {available / _GIB:.1f} GiB); use page_cache: cold or auto, "
            "a shorter measurement.max_seconds, or a machine with more memory"
        )
    if asked == "auto":
        return "warm" if files.bytes <= limit else "cold"
    return asked


def prepare(state: PageCache, files: Reach, first: bool = False) -> float | None:
    """Bring the files of a measurement into ``state``, and prove it.

    Args:
        first: nothing is known of the files. Later on, those that are cold are so up to where the
            measurement before this one has read, and need not all be opened again.

    Returns:
        the share of the pages looked at that is in memory; None where the file system does not
        tell and ``state`` is warm: then the files were read once, when the study began.

    Raises:
        MeasurementFailed: of kind ``unsupported`` where ``cold`` cannot be brought about or
            proved; of kind ``contaminated`` where files do not stay in memory.
    """
    if state == "warm":
        return _keep_warm(files)
    return _make_cold(files) if first else _keep_cold(files)


def prepare_for(spec: TrialSpec, emit: Callable[[Event], object]) -> PageCache | None:
    """Bring the files that a measurement can read into the state that it asks for.

    Called once a measurement, before its pipeline is built.

    Args:
        emit: told when that begins and ends, as its time is no part of the start-up.

    Returns:
        the state; None where the measurement reads no files, or they are not known.

    Raises:
        InputError: see `choose`; `executors` ask a node first, when a study begins.
        MeasurementFailed: see `prepare`.
    """
    if spec.manifest is None or spec.mode != "loader":
        return None
    emit(PreparingEvent(time=time.monotonic()))
    files = reach(Manifest.load(spec.manifest), spec.seed, spec.measurement.max_seconds)
    asked = spec.measurement.page_cache
    state = choose(asked, files, machine.available_bytes()) if asked == "auto" else asked
    prepare(state, files)
    emit(PreparedEvent(time=time.monotonic()))
    return state


def _keep_cold(files: Reach) -> float:
    """Evict what the measurement before has read: the first files, as all read in one order. Where
    one of the others is in memory too, somebody else has read them: then all are evicted."""
    others, share = files, 0.0
    while len(others):
        first, others = others.split()
        if residency(first.paths()) == 0.0:
            break
        share = max(share, _make_cold(first))
    if len(others) and residency(others.spread().paths()) != 0.0:
        return _make_cold(files)
    return share


def _make_cold(files: Reach) -> float:
    share = _evict(files.paths(), flush=False)
    if share is not None and share > COLD_LIMIT:  # pages not yet written back cannot be dropped
        share = _evict(files.paths(), flush=True)
    if share is not None and share <= COLD_LIMIT:
        return share
    folder = files.manifest.root
    if share is None:
        cause = f"the file system of {folder} does not tell what is in memory"
    else:
        cause = (
            f"{share:.0%} of the clips stay in memory after eviction: {folder} lies in memory "
            "itself (tmpfs), or another process holds the files"
        )
    raise MeasurementFailed(
        Failure(
            kind="unsupported",
            cause=f"measurement.page_cache: cold: {cause}",
            advice="Use page_cache: warm, or put the data on a disk.",
        )
    )


def _keep_warm(files: Reach) -> float | None:
    share = residency(files.first_and_spread().paths())
    if share is None or share >= 1.0:
        return share
    looked_at = zip(files.paths(), _threaded(_file_share, files.paths()), strict=True)
    missing = [path for path, (found, _) in looked_at if found < 1.0]
    read_all(missing, time.monotonic() + WARM_SECONDS)
    share = residency(files.paths())
    if share is not None and share < WARM_LIMIT:
        cause = (
            f"measurement.page_cache: warm: only {share:.0%} of the clips stayed in memory "
            f"({files.bytes / _GIB:.1f} GiB): something else needs it"
        )
        advice = "Keep other programs off the machine, or use page_cache: cold."
        raise MeasurementFailed(Failure(kind="contaminated", cause=cause, advice=advice))
    return share


# --------------------------------------------------------------------------- reading and evicting


def read_all(paths: Iterable[str], deadline: float) -> int:
    """Read files into memory; returns bytes read. None is begun after ``deadline``
    (CLOCK_MONOTONIC)."""

    def read(path: str) -> int:
        if time.monotonic() > deadline:
            return 0
        done = 0
        buffer = bytearray(_CHUNK_BYTES)
        try:
            with open(path, "rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    done += count
        except OSError:  # the measurement counts it as failed, by name
            return done
        return done

    return sum(_threaded(read, paths, group=1))


def _threaded(look: Callable[[str], T], paths: Iterable[str], group: int = _GROUP) -> Iterator[T]:
    """``look`` at each file, several at a time: opening one takes milliseconds where it is on the
    network. In the order of ``paths``."""
    left = iter(paths)
    groups = iter(lambda: list(islice(left, group)), [])
    with ThreadPoolExecutor(_READERS) as pool:
        while tasks := list(islice(groups, _TASKS)):
            for found in pool.map(lambda names: [look(name) for name in names], tasks):
                yield from found


def _evict(paths: Iterable[str], flush: bool) -> float | None:
    """Drop files from memory; the share of their pages that is still there."""

    def evict(path: str) -> tuple[float, int]:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return 0.0, 0
        try:
            if flush:
                os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            return _resident(descriptor)
        finally:
            os.close(descriptor)

    return _mean_share(_threaded(evict, paths))


def residency(paths: Iterable[str]) -> float | None:
    """Share of the files' pages that is in memory; None where it cannot be told."""
    return _mean_share(_threaded(_file_share, paths))


def _mean_share(shares: Iterable[tuple[float, int]]) -> float | None:
    resident = pages = 0.0
    for share, size in shares:
        if math.isnan(share):
            return None
        resident += share * size
        pages += size
    return resident / pages if pages else 1.0


def _file_share(path: str) -> tuple[float, int]:
    """Share of a file's pages in memory, and its pages; a file that is gone has none."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return 1.0, 0
    try:
        return _resident(descriptor)
    finally:
        os.close(descriptor)


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Statistics(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


_LIBC = ctypes.CDLL(None, use_errno=True)
_WHOLE = _Range(0, 0)


def _resident(descriptor: int) -> tuple[float, int]:
    """Share of an open file's pages in memory (NaN where it cannot be told), and its pages."""
    page = os.sysconf("SC_PAGE_SIZE")
    pages = -(-os.fstat(descriptor).st_size // page)
    if pages == 0:
        return 1.0, 0
    counted = _Statistics()
    arguments = (descriptor, ctypes.byref(_WHOLE), ctypes.byref(counted), 0)
    if _LIBC.syscall(_SYS_CACHESTAT, *arguments) == 0:
        return min(1.0, counted.cached / pages), pages
    return _mapped(descriptor, pages, page), pages


def _mapped(descriptor: int, pages: int, page: int) -> float:
    """The share by mincore, for kernels without cachestat.

    Not by reading with RWF_NOWAIT: that starts reading the file. For a file that is neither ours
    nor writable the kernel says that all of it is there, whatever is: then it is not asked.
    """
    owner = os.geteuid() in (0, os.fstat(descriptor).st_uid)
    if not owner and not os.access(f"/proc/self/fd/{descriptor}", os.W_OK):
        return math.nan
    present = (ctypes.c_ubyte * pages)()
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY) as view:
        first = ctypes.c_char.from_buffer(view)
        asked = _LIBC.mincore(
            ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(pages * page), present
        )
        del first  # a view that is exported cannot be closed
    return sum(flag & 1 for flag in present) / pages if asked == 0 else math.nan

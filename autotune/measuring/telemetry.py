"""What a measurement's processes use, and what others take from them, sampled by one thread.

CPU time, resident memory, processes and threads come from ``/proc``; GPU figures from NVML
where there is one. The tree of processes is walked, and proportional memory is read, at a pace
that adapts to what it costs: at most a third of a per cent of one core.
"""

from __future__ import annotations

import bisect
import contextlib
import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.measuring.census import Census, Others, entry, others, waits
from autotune.measuring.contamination import Stretch, judge
from autotune.measuring.counters import Counters, Reader
from autotune.measuring.gpu import Gpus, GpuSample
from autotune.memory import memory_trend
from autotune.stats import Course
from autotune.system import machine, processes
from autotune.trial import Contamination, MemoryTrend, Resources

_GIB = float(2**30)
_MIB = float(2**20)
_MAX_SAMPLES = 4096
"""Where there are more, every second one of the older half goes: hours fit into bounded memory."""
_MAX_SHARE = 0.003
_MIN_SECONDS = 0.2
"""Too short a stretch for counters that tick every hundredth of a second."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the processes had used at one moment."""

    time: float
    cpu_seconds: float
    """Since each process began, ended children included."""
    supervision_seconds: float
    """CPU time of the processes that supervise: ours, but no part of the pipeline."""
    memory_gib: float
    processes: int
    threads: int
    counters: Counters
    clock_share: float
    gpu: GpuSample | None = None


@dataclass(frozen=True, slots=True)
class _Look:
    """What a walk over all processes gave."""

    census: Census
    waits: dict[int, float]
    """Of our threads; see `census.waits`."""


@dataclass(slots=True)
class _Process:
    """Last reading of one process."""

    parent: int = 0
    cpu_seconds: float = 0.0
    """Its own and that of the children it waited for."""
    rss_gib: float = 0.0
    threads: int = 0
    running: bool = True
    """False for a zombie, which still has its CPU time."""
    there: bool = True


class Telemetry:
    """Samples the process tree below ``root``, itself included."""

    def __init__(
        self,
        root: int,
        interval: float = 0.5,
        supervisor: int | None = None,
        limit_gib: float | None = None,
    ) -> None:
        """Args:
        root: pid of the worker.
        interval: seconds between samples.
        supervisor: pid of the process that supervises it; its work is not foreign.
        limit_gib: memory that all processes may hold; None: what the machine has.
        """
        self._root = root
        self._interval = interval
        self._ticks = float(os.sysconf("SC_CLK_TCK"))
        self._page_gib = os.sysconf("SC_PAGE_SIZE") / _GIB
        cpus = os.sched_getaffinity(0)
        self._cores = len(cpus)
        self._reader = Reader(cpus)
        self._known: dict[int, _Process] = {}
        self._supervision = {supervisor} if supervisor else set()
        self._cpu_seconds = self._supervision_seconds = 0.0
        self._gone_seconds = 0.0
        self._shared_gib = 0.0
        self._limit_gib = limit_gib
        self._memory = Course(interval)
        self._next_walk = 0.0
        self._looks: list[_Look] = []
        self._samples: list[Sample] = []
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._gpus = Gpus.open()

    @classmethod
    def of_this_process(cls, limit_gib: float | None = None) -> Telemetry:
        """For a worker: what its supervisor does is its own, not foreign."""
        supervisor = os.environ.get(processes.SUPERVISOR_MARK, "").partition(":")[0]
        known = int(supervisor) if supervisor.isdigit() else None
        return cls(os.getpid(), supervisor=known, limit_gib=limit_gib)

    def start(self) -> None:
        """Begin to sample in a daemon thread."""
        self._thread = threading.Thread(target=self._loop, name="autotune-telemetry", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Idempotent; what was sampled stays."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
        with self._lock:
            if self._gpus is not None:
                self._gpus.close()
                self._gpus = None

    def sample(self, walk: bool = False) -> Sample:
        """Take one sample now and keep it.

        Args:
            walk: look for new processes even if it is not yet time to.
        """
        with self._lock:
            return self._sample(walk)

    def latest(self) -> Sample | None:
        """The last sample taken; None before the first one."""
        with self._lock:
            return self._samples[-1] if self._samples else None

    def resources(self, start: float, end: float) -> Resources:
        """Means and peaks between two times of CLOCK_MONOTONIC (all samples if none fall in)."""
        samples = self._until(end)
        inside = [s for s in samples if start <= s.time <= end]
        if len(inside) < 2:
            inside = samples
        if not inside:
            return Resources()
        seconds = inside[-1].time - inside[0].time
        used = inside[-1].cpu_seconds - inside[0].cpu_seconds
        gpus = [s.gpu for s in inside if s.gpu is not None]
        return Resources(
            cpu_percent=max(0.0, 100.0 * used / seconds / self._cores) if seconds > 0 else 0.0,
            rss_gib=max(s.memory_gib for s in inside),
            processes=max(s.processes for s in inside),
            threads=max(s.threads for s in inside),
            gpu_memory_gib=max(
                (g.memory_gib for g in gpus if g.memory_gib is not None), default=None
            ),
            sm_percent=_mean([g.sm_percent for g in gpus]),
            nvdec_percent=_mean([g.nvdec_percent for g in gpus]),
            memory=self._memory_trend(start, end),
        )

    def _memory_trend(self, start: float, end: float) -> MemoryTrend:
        times, mib = self._memory.points(start, end)
        room = machine.available_bytes() / _MIB
        if self._limit_gib is not None and mib:
            room = min(room, self._limit_gib * _GIB / _MIB - mib[-1])
        return memory_trend(times, mib, room)

    def contamination(self, start: float, end: float) -> Contamination | None:
        """What others took between two times of CLOCK_MONOTONIC; None where the samples do not
        tell. Between samples the counters are taken to grow evenly."""
        samples = self._until(end)
        if len(samples) < 2:
            return None
        start, end = max(start, samples[0].time), min(end, samples[-1].time)
        if end - start < _MIN_SECONDS:
            return None
        before, after = _at(samples, start), _at(samples, end)
        inside = [s for s in samples if start <= s.time <= end] or samples
        found, waiting = self._between_looks()
        return judge(
            Stretch(
                seconds=end - start,
                cpus=self._cores,
                before=Counters(*before[1:]),
                after=Counters(*after[1:]),
                own_seconds=after[0] - before[0],
                own_waiting=waiting,
                others=found,
                clocks=[s.clock_share for s in inside],
                gpus=[s.gpu for s in inside if s.gpu is not None],
            )
        )

    def _between_looks(self) -> tuple[Others, float]:
        """Who else used the CPU, and for how many seconds a second our threads waited for one,
        from the first look to the last."""
        first, last = self._looks[0], self._looks[-1]
        seconds = last.census.time - first.census.time
        if seconds <= 0 or not last.waits:
            return Others(0.0, []), math.inf
        waited = sum(now - first.waits.get(thread, 0.0) for thread, now in last.waits.items())
        ours = {*self._known, *self._supervision}
        return others(first.census, last.census, ours), max(0.0, waited) / seconds

    def _loop(self) -> None:
        self.sample(walk=True)
        while not self._end.wait(self._interval):
            self.sample()

    def _until(self, end: float) -> list[Sample]:
        """The samples, with one more where the last one is before ``end``."""
        with self._lock:
            running = self._thread is not None and not self._end.is_set()
            if running and self._samples and self._samples[-1].time < end:
                self._sample(walk=True)
            return list(self._samples)

    def _sample(self, walk: bool) -> Sample:
        if walk or time.monotonic() >= self._next_walk:
            self._walk()
        now = time.monotonic()
        counters = self._reader.read()
        for pid, process in self._known.items():
            self._read(pid, process)
        self._forget_the_gone()
        running = [p for p in self._known.values() if p.running]
        # a process may end between the readings of it and of its parent, which takes its time over
        used = self._gone_seconds + sum(p.cpu_seconds for p in self._known.values())
        self._cpu_seconds = max(self._cpu_seconds, used)
        looked_after = [seen for pid in self._supervision if (seen := entry(pid, self._ticks))]
        watched = sum(seen.cpu_seconds for seen in looked_after)
        self._supervision_seconds = max(self._supervision_seconds, watched)
        sample = Sample(
            time=now,
            cpu_seconds=self._cpu_seconds,
            supervision_seconds=self._supervision_seconds,
            memory_gib=max(0.0, sum(p.rss_gib for p in running) - self._shared_gib),
            processes=len(running),
            threads=sum(p.threads for p in running),
            counters=counters,
            clock_share=self._reader.clock_share(),
            gpu=self._gpus.read(self._known) if self._gpus is not None else None,
        )
        self._samples.append(sample)
        self._memory.add(now, sample.memory_gib * _GIB / _MIB)
        if len(self._samples) > _MAX_SAMPLES:
            half = _MAX_SAMPLES // 2
            self._samples[:half] = _thinned(self._samples[:half])
        return sample

    def _forget_the_gone(self) -> None:
        """Keep the CPU time of processes that ended, not the processes: a loader that starts new
        workers every epoch has thousands of them in a night."""
        for pid in [pid for pid, process in self._known.items() if not process.there]:
            self._gone_seconds += self._known.pop(pid).cpu_seconds

    def _walk(self) -> None:
        """Find the processes, and how much of their summed memory is counted twice."""
        began = time.monotonic()
        census = Census.take()
        tree = census.tree(self._root)
        guardians = {pid for pid in tree if processes.name_of(pid) == processes.GUARDIAN_NAME}
        self._supervision |= guardians
        found = [pid for pid in tree if pid not in guardians]
        for pid in found:
            self._known.setdefault(pid, _Process())
        self._looks[1:] = [_Look(census, waits(found))]
        if len(found) > 1:
            sizes = [_proportional(pid) for pid in found]
            self._shared_gib = sum(rss - pss for rss, pss in sizes)
        else:
            self._shared_gib = 0.0
        cost = time.monotonic() - began
        self._next_walk = began + max(4 * self._interval, cost / _MAX_SHARE)

    def _read(self, pid: int, process: _Process) -> None:
        seen = entry(pid, self._ticks)
        if seen is None:
            process.running = process.there = False
            parent = self._known.get(process.parent)
            if parent is not None and parent.there:
                process.cpu_seconds = 0.0  # its parent waited for it and has its time now
            return
        process.running = seen.state not in ("Z", "X")
        process.parent = seen.parent
        process.cpu_seconds = seen.cpu_seconds + seen.children_seconds
        process.threads = seen.threads
        process.rss_gib = seen.rss_pages * self._page_gib


def _thinned(samples: Sequence[Sample]) -> list[Sample]:
    """The first one, and of each two others the one with more memory: peaks survive, and all the
    rest only grows or is a mean."""
    pairs = zip(samples[1::2], samples[2::2], strict=False)
    return [samples[0], *(max(pair, key=lambda s: s.memory_gib) for pair in pairs)]


def _at(samples: Sequence[Sample], moment: float) -> list[float]:
    """Own CPU seconds (supervision included) and every counter at a time between samples."""
    after = min(max(1, bisect.bisect_left(samples, moment, key=lambda s: s.time)), len(samples) - 1)
    low, high = samples[after - 1], samples[after]
    share = (moment - low.time) / (high.time - low.time)
    return [a + (b - a) * share for a, b in zip(_grown(low), _grown(high), strict=True)]


def _grown(sample: Sample) -> list[float]:
    return [sample.cpu_seconds + sample.supervision_seconds, *sample.counters]


def _proportional(pid: int) -> tuple[float, float]:
    """Resident and proportional size of a process, GiB; zeros where they cannot be read."""
    sizes = {"Rss:": 0.0, "Pss:": 0.0}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            name = line[:4].decode()
            if name in sizes:
                sizes[name] = int(line.split()[1]) * 1024 / _GIB
    return sizes["Rss:"], sizes["Pss:"]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None

"""What a measurement's processes use, sampled cheaply by one thread.

CPU time, resident memory, processes and threads come from ``/proc``; GPU figures from NVML
where there is one. The tree of processes is walked, and proportional memory is read, at a pace
that adapts to what it costs: at most half a per cent of one core.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from autotune import processes
from autotune.machine import visible_gpus
from autotune.trial import Resources

_GIB = float(2**30)
_MAX_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class Sample:
    """What the processes had used at one moment."""

    time: float
    cpu_seconds: float
    """Since each process began, ended children included."""
    memory_gib: float
    processes: int
    threads: int
    gpu_memory_gib: float | None = None
    sm_percent: float | None = None
    nvdec_percent: float | None = None


@dataclass(slots=True)
class _Process:
    """Last reading of one process, kept after its end so that CPU time never runs back."""

    cpu_seconds: float = 0.0
    rss_gib: float = 0.0
    threads: int = 0
    alive: bool = True


class Telemetry:
    """Samples the process tree below ``root``, itself included."""

    def __init__(self, root: int, interval: float = 0.5) -> None:
        """Args:
        root: pid of the worker.
        interval: seconds between samples.
        """
        self._root = root
        self._interval = interval
        self._ticks = float(os.sysconf("SC_CLK_TCK"))
        self._page_gib = os.sysconf("SC_PAGE_SIZE") / _GIB
        self._cores = len(os.sched_getaffinity(0))
        self._known: dict[int, _Process] = {}
        self._shared_gib = 0.0
        self._next_walk = 0.0
        self._samples: list[Sample] = []
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._gpu = _Gpu.open()

    def start(self) -> None:
        """Begin to sample in a daemon thread."""
        self._thread = threading.Thread(target=self._loop, name="autotune-telemetry", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Idempotent; what was sampled stays."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
        if self._gpu is not None:
            self._gpu.close()
            self._gpu = None

    def sample(self) -> Sample:
        """Take one sample now and keep it."""
        now = time.monotonic()
        if now >= self._next_walk:
            self._walk(now)
        for pid, process in self._known.items():
            if process.alive:
                self._read(pid, process)
        alive = [p for p in self._known.values() if p.alive]
        gpu = self._gpu.read(self._known) if self._gpu is not None else (None, None, None)
        sample = Sample(
            time=now,
            cpu_seconds=sum(p.cpu_seconds for p in self._known.values()),
            memory_gib=max(0.0, sum(p.rss_gib for p in alive) - self._shared_gib),
            processes=len(alive),
            threads=sum(p.threads for p in alive),
            gpu_memory_gib=gpu[0],
            sm_percent=gpu[1],
            nvdec_percent=gpu[2],
        )
        with self._lock:
            self._samples.append(sample)
        return sample

    def resources(self, start: float, end: float) -> Resources:
        """Means and peaks between two times of CLOCK_MONOTONIC (all samples if none fall in)."""
        with self._lock:
            samples = list(self._samples)
        inside = [s for s in samples if start <= s.time <= end]
        if len(inside) < 2:
            inside = samples
        if not inside:
            return Resources()
        seconds = inside[-1].time - inside[0].time
        used = inside[-1].cpu_seconds - inside[0].cpu_seconds
        return Resources(
            cpu_percent=max(0.0, 100.0 * used / seconds / self._cores) if seconds > 0 else 0.0,
            rss_gib=max(s.memory_gib for s in inside),
            processes=max(s.processes for s in inside),
            threads=max(s.threads for s in inside),
            gpu_memory_gib=_peak([s.gpu_memory_gib for s in inside]),
            sm_percent=_mean([s.sm_percent for s in inside]),
            nvdec_percent=_mean([s.nvdec_percent for s in inside]),
        )

    def _loop(self) -> None:
        while not self._end.wait(self._interval):
            self.sample()

    def _walk(self, began: float) -> None:
        """Find the processes, and how much of their summed memory is counted twice."""
        tree = [self._root, *processes.descendants(self._root)]
        found = [pid for pid in tree if processes.name_of(pid) != processes.GUARDIAN_NAME]
        for pid in found:
            self._known.setdefault(pid, _Process())
        if len(found) > 1:
            sizes = [_proportional(pid) for pid in found]
            self._shared_gib = sum(rss - pss for rss, pss in sizes)
        else:
            self._shared_gib = 0.0
        cost = time.monotonic() - began
        self._next_walk = began + max(4 * self._interval, cost / _MAX_SHARE)

    def _read(self, pid: int, process: _Process) -> None:
        fields = processes.stat_fields(pid)
        if fields is None or fields[0] in ("Z", "X"):
            process.alive = False
            return
        # utime, stime and those of waited-for children we never saw; a child that we did see
        # would be counted twice, so only this process's own time is taken
        process.cpu_seconds = (int(fields[11]) + int(fields[12])) / self._ticks
        process.threads = int(fields[17])
        process.rss_gib = int(fields[21]) * self._page_gib


def _proportional(pid: int) -> tuple[float, float]:
    """Resident and proportional size of a process, GiB; zeros where they cannot be read."""
    sizes = {"Rss:": 0.0, "Pss:": 0.0}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            name = line[:4].decode()
            if name in sizes:
                sizes[name] = int(line.split()[1]) * 1024 / _GIB
    return sizes["Rss:"], sizes["Pss:"]


def _peak(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return max(known) if known else None


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


class _Gpu:
    """The visible GPUs through NVML."""

    def __init__(self, nvml: Any, handles: list[Any]) -> None:
        self._nvml = nvml
        self._handles = handles
        self._before = [nvml.nvmlDeviceGetMemoryInfo(h).used for h in handles]

    @classmethod
    def open(cls) -> _Gpu | None:
        """None where there is no NVML, no driver or no visible GPU."""
        try:
            import pynvml as nvml
        except ImportError:
            return None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return None
        handles = visible_gpus(nvml)
        return cls(nvml, handles) if handles else None

    def read(self, known: dict[int, _Process]) -> tuple[float | None, float | None, float | None]:
        """Memory of our processes (GiB), SM % and decoder %, over the visible GPUs."""
        nvml = self._nvml
        used = 0.0
        sm: list[float] = []
        decoder: list[float] = []
        for handle, before in zip(self._handles, self._before, strict=True):
            with contextlib.suppress(nvml.NVMLError):
                ours = [
                    p.usedGpuMemory or 0
                    for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
                    if p.pid in known
                ]
                # in a container NVML knows other pids: then what came on top since the start
                total = nvml.nvmlDeviceGetMemoryInfo(handle).used
                used += sum(ours) if any(ours) else max(0, total - before)
            with contextlib.suppress(nvml.NVMLError):
                sm.append(float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
            with contextlib.suppress(nvml.NVMLError):
                decoder.append(float(nvml.nvmlDeviceGetDecoderUtilization(handle)[0]))
        return used / _GIB, _mean(list(sm)), _mean(list(decoder))

    def close(self) -> None:
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

"""The visible GPUs through NVML: what we use of them, and what others do to them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from autotune.system.machine import visible_gpus

_GIB = float(2**30)

# Reasons for a lower clock that heat or the board's power supply give (nvml.h,
# nvmlClocksEventReason*): HW slowdown, SW thermal, HW thermal, HW power brake. Not the software
# power cap: a GPU under full load reaches it by its own work.
_SLOWDOWNS = 0x8 | 0x20 | 0x40 | 0x80


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One look at the visible GPUs; what NVML does not tell is None."""

    memory_gib: float | None = None
    """Of our processes."""
    sm_percent: float | None = None
    nvdec_percent: float | None = None
    foreign_processes: int = 0
    foreign_memory_gib: float = 0.0
    foreign_percent: float | None = None
    """SM or decoder time that foreign processes took, the larger of both; mean of the GPUs."""
    clock_lost: float | None = None
    """Share of the maximal SM clock that heat or power supply cost, 0 to 1; mean of the GPUs."""


class Gpus:
    """A session with NVML."""

    def __init__(self, nvml: Any, handles: list[Any]) -> None:
        self._nvml = nvml
        self._handles = handles
        self._before = [nvml.nvmlDeviceGetMemoryInfo(h).used for h in handles]
        self._there = [set(self._clients(h)) for h in handles]
        self._seen = [0] * len(handles)

    @classmethod
    def open(cls) -> Gpus | None:
        """None where there is no NVML, no driver or no visible GPU."""
        try:
            import pynvml as nvml
        except ImportError:
            return None
        try:
            nvml.nvmlInit()
            handles = visible_gpus(nvml)
            return cls(nvml, handles) if handles else None
        except nvml.NVMLError:
            return None

    def read(self, ours: Collection[int]) -> GpuSample:
        """What the GPUs do now; ``ours`` are the pids of the measurement's processes."""
        nvml = self._nvml
        used, strange_memory = 0.0, 0.0
        strangers: set[int] = set()
        sm: list[float] = []
        decoder: list[float] = []
        taken: list[float] = []
        clocks: list[float] = []
        for index, handle in enumerate(self._handles):
            with contextlib.suppress(nvml.NVMLError):
                clients = self._clients(handle)
                mine, foreign = self._divide(index, clients, ours)
                # in a container NVML knows other pids: then what came on top since the start
                total = nvml.nvmlDeviceGetMemoryInfo(handle).used
                own = sum(clients[pid] for pid in mine)
                used += own if own else max(0, total - self._before[index])
                strange_memory += sum(clients[pid] for pid in foreign)
                strangers |= foreign
                if foreign:
                    taken.append(self._taken_by(index, handle, foreign))
            with contextlib.suppress(nvml.NVMLError):
                sm.append(float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
            with contextlib.suppress(nvml.NVMLError):
                decoder.append(float(nvml.nvmlDeviceGetDecoderUtilization(handle)[0]))
            with contextlib.suppress(nvml.NVMLError):
                clocks.append(self._clock_lost(handle))
        return GpuSample(
            memory_gib=used / _GIB,
            sm_percent=_mean(sm),
            nvdec_percent=_mean(decoder),
            foreign_processes=len(strangers),
            foreign_memory_gib=strange_memory / _GIB,
            foreign_percent=sum(taken) / len(self._handles) if taken else None,
            clock_lost=_mean(clocks),
        )

    def foreign_memory_gib(self, ours: Collection[int]) -> float:
        """Memory that others hold on the GPUs on which ``ours`` are known to compute."""
        nvml = self._nvml
        total = 0
        for handle in self._handles:
            with contextlib.suppress(nvml.NVMLError):
                clients = self._clients(handle)
                if set(clients) & set(ours):
                    total += sum(size for pid, size in clients.items() if pid not in ours)
        return total / _GIB

    def _clients(self, handle: Any) -> dict[int, int]:
        """Bytes on the GPU by pid of the process that computes on it."""
        found = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return {process.pid: process.usedGpuMemory or 0 for process in found}

    def _divide(
        self, index: int, clients: Collection[int], ours: Collection[int]
    ) -> tuple[set[int], set[int]]:
        """Our clients and foreign ones.

        Where NVML shows pids of another namespace none is known to be ours: then those are
        foreign that were there before our pipeline was built.
        """
        present = set(clients)
        mine = present & set(ours)
        if mine:
            return mine, present - mine
        return set(), present & self._there[index]

    def _taken_by(self, index: int, handle: Any, foreign: Collection[int]) -> float:
        """Per cent of SM or decoder time that ``foreign`` processes took since the last look.

        Raises:
            NVMLError: where the driver does not tell it by process.
        """
        nvml = self._nvml
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(handle, self._seen[index])
        except nvml.NVMLError as error:
            if getattr(error, "value", None) != nvml.NVML_ERROR_NOT_FOUND:
                raise
            return 0.0  # no process did anything
        self._seen[index] = max((s.timeStamp for s in samples), default=self._seen[index])
        theirs = [s for s in samples if s.pid in foreign]
        busy = max(sum(s.smUtil for s in theirs), sum(s.decUtil for s in theirs))
        return min(100.0, float(busy))

    def _clock_lost(self, handle: Any) -> float:
        nvml = self._nvml
        if not nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) & _SLOWDOWNS:
            return 0.0
        now = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
        full = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
        return max(0.0, 1.0 - now / full) if full else 0.0

    def close(self) -> None:
        """End the session."""
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None

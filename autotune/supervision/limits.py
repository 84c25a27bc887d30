"""What a measurement may use: memory, GPU memory, processes and wall time, watched from outside.

    as soon as memory could be short     memory left, threads, what the known processes hold
    when one of them moved, or now and then     which processes there are, and what they hold

A trial over a limit is ended by its supervisor, with the figure in the failure's cause, before
the kernel or Ray's memory monitor picks a process to kill: that might be the driver.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autotune.system import control_groups
from autotune.system.machine import memory_bytes, visible_gpus
from autotune.system.process_tree import ProcessTree
from autotune.trial import Failure, Limits

PROCESSES = 512
"""Default of ``limits.processes``, or `PROCESSES_PER_RANK` a rank where that is more."""
PROCESSES_PER_RANK = 128

MACHINE_SHARE = 0.9
"""By default a trial may hold at most this share of the memory that the machine, or its control
group, has."""
RESERVE_SHARE = 0.07
"""By default this share of all memory stays free of the trial: Ray's monitor kills at 5 %."""
FLOOR_SHARE = 0.06
"""A trial is ended when less than this share of all memory is left, whoever uses the rest."""
_SMALLEST_DEFAULT = 2**30

GIB = float(2**30)
_FASTEST_GIB = 8.0
"""Assumed: a core cannot write to more memory for the first time in a second."""
_SHORTEST_SECONDS = 0.1
_LONGEST_SECONDS = 0.3
"""Between two looks at figures that are cheap to read, however far off every limit is."""
_SLOW_SECONDS = 1.0
_MAX_SHARE = 0.002
"""Of one core, for looking without a reason."""
_MAX_SHARE_NEW = 0.002
"""The same, where a process or a thread was made on the machine since."""
_MAX_SHARE_ALARMED = 0.1
_GRAIN = 64 * 2**20
_GPU_SECONDS = 0.5


class HostMemory:
    """Memory of the machine, or of its control groups where that is less. Bytes."""

    def __init__(self) -> None:
        self.total = memory_bytes()
        self._groups = control_groups.Memory()

    def available(self) -> int:
        """What can be had without swapping; costs some 50 us."""
        free, room = _machine_free(), self._groups.room()
        return free if room is None else min(free, room)

    def scarcest_group(self) -> control_groups.Limited | None:
        """The control group that leaves least, if that is less than the machine does."""
        group = self._groups.scarcest()
        return group if group is not None and group.room() <= _machine_free() else None


def default_host_limit(total: int, available: int) -> int:
    """Bytes that a trial may hold where ``limits.host_memory_gib`` is not given.

    At most `MACHINE_SHARE` of all memory, and `RESERVE_SHARE` of it less than what is available
    when the trial begins; but always 1 GiB, or half of what is available, as a trial must start.
    """
    wanted = min(MACHINE_SHARE * total, available - RESERVE_SHARE * total)
    return int(max(wanted, min(_SMALLEST_DEFAULT, available / 2)))


@dataclass(frozen=True)
class _Bounds:
    """The limits in force, bytes and numbers."""

    memory: int
    floor: int
    processes: int
    wall_seconds: float | None

    @classmethod
    def of(cls, limits: Limits, ranks: int, memory: HostMemory, available: int) -> _Bounds:
        given = limits.host_memory_gib
        return cls(
            memory=default_host_limit(memory.total, available)
            if given is None
            else int(given * GIB),
            floor=int(min(FLOOR_SHARE * memory.total, available / 2)),
            processes=limits.processes or max(PROCESSES, PROCESSES_PER_RANK * ranks),
            wall_seconds=limits.wall_seconds,
        )


class LimitWatch:
    """Looks after one trial. Make it before the trial begins."""

    def __init__(
        self, limits: Limits, ranks: int = 1, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._memory = HostMemory()
        self._before = self._memory.available()
        self._bounds = _Bounds.of(limits, ranks, self._memory, self._before)
        self._gpu = _GpuMemory.open(limits.gpu_memory_gib)
        self._now = now
        self._began = now()
        self._fastest = _FASTEST_GIB * GIB * len(os.sched_getaffinity(0))
        self._next = -1e9
        self._looked = -1e9
        self._cost = self._resident_cost = 0.0
        self._next_resident = 0.0
        self._available_then = self._before
        self._threads_then = self._newest = 0
        self._held = 0
        self._next_gpu = 0.0

    @property
    def due_seconds(self) -> float:
        """How soon `exceeded` is to be asked again; negative where it should have been."""
        return self._next - self._now()

    def exceeded(self, tree: ProcessTree) -> Failure | None:
        """The failure to record if the trial has to be ended now; before `due_seconds` it costs
        nothing to ask, and nothing is looked at."""
        now = self._now()
        if now < self._next:
            return None
        self._next = now + _SHORTEST_SECONDS
        bounds = self._bounds
        if bounds.wall_seconds is not None and now - self._began > bounds.wall_seconds:
            cause = f"still running {bounds.wall_seconds:g} s after its start (limits.wall_seconds)"
            return Failure(kind="deadline", cause=cause)
        if self._gpu is not None and now >= self._next_gpu:
            self._next_gpu = now + _GPU_SECONDS
            failure = self._gpu.exceeded({member.pid for member in tree.update()})
            if failure is not None:
                return failure
        available = self._memory.available()
        self._next = now + self._patience(available)
        threads, newest = _threads()
        if not (
            self._grew_too_big(now, tree) or self._worth_a_look(now, available, threads, newest)
        ):
            return None
        began = time.thread_time()
        members = tree.update()
        self._looked, self._available_then = now, available
        self._threads_then, self._newest = threads, newest
        # what is resident counts shared pages twice; only where that is too much the exact,
        # slower figure is read
        self._held = sum(member.resident_bytes for member in members)
        if self._held > bounds.memory or available < bounds.floor:
            self._held = sum(proportional(member.pid) for member in members)
        self._cost = time.thread_time() - began
        self._next = now + self._patience(available)
        if len(members) > bounds.processes:
            return _too_many(len(members), bounds.processes)
        if self._held > bounds.memory:
            return _too_much(self._held, bounds.memory, available)
        if available < bounds.floor:
            return self._nothing_left(available)
        return None

    def close(self) -> None:
        """Let go of NVML."""
        if self._gpu is not None:
            self._gpu.close()

    def _patience(self, available: int) -> float:
        """Seconds in which no limit of memory can be reached, within reason."""
        room = min(self._bounds.memory - self._held, available - self._bounds.floor)
        return max(_SHORTEST_SECONDS, min(_LONGEST_SECONDS, room / self._fastest))

    def _grew_too_big(self, now: float, tree: ProcessTree) -> bool:
        """Whether the processes known may be over the limit, as others give memory back."""
        if now < self._next_resident:
            return False
        began = time.thread_time()
        held = tree.resident_bytes()
        self._next_resident = now + (time.thread_time() - began) / _MAX_SHARE
        return held > self._bounds.memory and now - self._looked >= self._cost / _MAX_SHARE_ALARMED

    def _worth_a_look(self, now: float, available: int, threads: int, newest: int) -> bool:
        since = now - self._looked
        headroom = max(0, self._bounds.memory - self._held)
        alarmed = (
            self._available_then - available > max(_GRAIN, headroom / 4)
            or available < self._bounds.floor
            or threads - self._threads_then > self._bounds.processes / 4
        )
        if alarmed:
            return since >= self._cost / _MAX_SHARE_ALARMED
        if newest != self._newest:
            return since >= self._cost / _MAX_SHARE_NEW
        return since >= max(_SLOW_SECONDS, self._cost / _MAX_SHARE)

    def _nothing_left(self, available: int) -> Failure:
        """Whose fault it is: the trial's if it holds at least half of what has gone since."""
        gone = self._before - available
        group = self._memory.scarcest_group()
        total = self._memory.total if group is None else group.limit
        whose = "machine's" if group is None else f"control group's ({group.folder})"
        left = f"{_gib(available)} of the {whose} {_gib(total)} are left"
        if 2 * self._held >= gone:
            return Failure(
                kind="host_out_of_memory",
                cause=f"the trial held {_gib(self._held)} when only {left}",
            )
        return Failure(
            kind="infrastructure",
            cause=f"other programs took the memory: {left}, the trial held {_gib(self._held)}",
            advice="Keep other programs off the machine while it measures.",
        )


def _too_much(held: int, limit: int, available: int) -> Failure:
    return Failure(
        kind="host_out_of_memory",
        cause=f"the trial held {_gib(held)} of memory, more than its limit of {_gib(limit)} "
        f"(limits.host_memory_gib); {_gib(available)} were left",
    )


def _too_many(count: int, limit: int) -> Failure:
    return Failure(
        kind="crash",
        cause=f"the trial had {count} processes, more than its limit of {limit} (limits.processes)",
        advice="Use fewer worker processes, or raise limits.processes.",
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def proportional(pid: int) -> int:
    """Proportional set size of a process, bytes; 0 where it cannot be read."""
    return _field(f"/proc/{pid}/smaps_rollup", b"Pss:") * 1024


def _machine_free() -> int:
    return _field("/proc/meminfo", b"MemAvailable:") * 1024


def _field(path: str, name: bytes) -> int:
    """The number behind ``name`` at the start of a line; 0 where there is none."""
    with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
        for line in file:
            if line.startswith(name):
                return int(line[len(name) :].split()[0])
    return 0


def _threads() -> tuple[int, int]:
    """Threads on the machine, and the newest one's id; see proc_loadavg(5)."""
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        open("/proc/loadavg", "rb", buffering=0) as file,
    ):
        fields = file.read().split()
        return int(fields[3].partition(b"/")[2]), int(fields[4])
    return 0, 0


class _GpuMemory:
    """Memory of a trial's processes on each visible GPU, through NVML."""

    def __init__(self, nvml: Any, handles: list[Any], limit_gib: float) -> None:
        self._nvml = nvml
        self._handles = handles
        self._limit_gib = limit_gib
        self._before = [nvml.nvmlDeviceGetMemoryInfo(handle).used for handle in handles]

    @classmethod
    def open(cls, limit_gib: float | None) -> _GpuMemory | None:
        """None without a limit, NVML, a driver or a visible GPU."""
        if limit_gib is None:
            return None
        try:
            import pynvml as nvml
        except ImportError:
            return None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return None
        handles = visible_gpus(nvml)
        return cls(nvml, handles, limit_gib) if handles else None

    def exceeded(self, pids: set[int]) -> Failure | None:
        """The failure if the trial holds more than the limit on any one GPU."""
        for index, (handle, before) in enumerate(zip(self._handles, self._before, strict=True)):
            with contextlib.suppress(self._nvml.NVMLError):
                held = self._held(handle, before, pids)
                if held > self._limit_gib * GIB:
                    return Failure(
                        kind="gpu_out_of_memory",
                        cause=f"the trial held {_gib(held)} on GPU {index}, more than its limit "
                        f"of {self._limit_gib:g} GiB (limits.gpu_memory_gib)",
                    )
        return None

    def _held(self, handle: Any, before: int, pids: set[int]) -> int:
        found = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        ours = sum(p.usedGpuMemory or 0 for p in found if p.pid in pids)
        if ours:
            return int(ours)
        # in a container NVML knows other pids: then what came on top since the trial began
        return max(0, int(self._nvml.nvmlDeviceGetMemoryInfo(handle).used) - before)

    def close(self) -> None:
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

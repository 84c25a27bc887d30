"""Every process of the machine at one moment: which are ours, and who else used the CPU."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from autotune.system import processes

_KERNEL_THREAD = 0x00200000  # PF_KTHREAD (include/linux/sched.h)
_NANOSECOND = 1e-9


class Entry(NamedTuple):
    """One process as ``/proc/<pid>/stat`` shows it."""

    parent: int
    state: str
    kernel: bool
    """A thread of the kernel."""
    cpu_seconds: float
    """Its own, since it began."""
    children_seconds: float
    """Of its ended children that it waited for, and theirs."""
    threads: int
    rss_pages: int


def entry(pid: int, ticks: float) -> Entry | None:
    """The entry of one process; None where there is no such process.

    Args:
        pid: the process.
        ticks: clock ticks a second (``SC_CLK_TCK``).
    """
    fields = processes.stat_fields(pid)
    if fields is None:
        return None
    return Entry(
        parent=int(fields[1]),
        state=fields[0],
        kernel=bool(int(fields[6]) & _KERNEL_THREAD),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / ticks,
        children_seconds=(int(fields[13]) + int(fields[14])) / ticks,
        threads=int(fields[17]),
        rss_pages=int(fields[21]),
    )


@dataclass(frozen=True)
class Census:
    """All processes that can be seen from here."""

    time: float
    """CLOCK_MONOTONIC."""
    entries: dict[int, Entry]

    @classmethod
    def take(cls) -> Census:
        """Look at every process now."""
        ticks = float(os.sysconf("SC_CLK_TCK"))
        now = time.monotonic()
        found = {pid: entry(pid, ticks) for pid in processes.pids()}
        return cls(now, {pid: seen for pid, seen in found.items() if seen is not None})

    def tree(self, root: int) -> list[int]:
        """``root`` and everything below it, zombies left out."""
        children: dict[int, list[int]] = {}
        for pid, seen in self.entries.items():
            if seen.state not in ("Z", "X"):
                children.setdefault(seen.parent, []).append(pid)
        found, frontier = [root], [root]
        while frontier:
            frontier = [child for pid in frontier for child in children.get(pid, [])]
            found.extend(frontier)
        return found


def waits(pids: Iterable[int]) -> dict[int, float]:
    """Seconds that each thread of these processes was ready to run and had no CPU, by thread id;
    empty where the kernel does not count it."""
    found: dict[int, float] = {}
    for pid in pids:
        folder = f"/proc/{pid}/task"
        with contextlib.suppress(OSError, ValueError, IndexError):
            for thread in os.listdir(folder):
                with open(f"{folder}/{thread}/schedstat", "rb") as file:
                    found[int(thread)] = int(file.read().split()[1]) * _NANOSECOND
    return found


@dataclass(frozen=True)
class Others:
    """Who else used the CPU between two censuses, in cores (seconds a second)."""

    kernel: float
    """Threads of the kernel: they work for whoever reads, writes or swaps, us included."""
    programs: list[tuple[str, float]]
    """Name and cores of foreign programs that ran, the busiest first."""


def others(before: Census, after: Census, ours: Collection[int]) -> Others:
    """What processes that are not ``ours`` used between two censuses."""
    seconds = after.time - before.time
    if seconds <= 0:
        return Others(0.0, [])
    kernel = 0.0
    used: list[tuple[float, int]] = []
    for pid, seen in after.entries.items():
        if pid in ours:
            continue
        earlier = before.entries.get(pid)
        cores = max(0.0, seen.cpu_seconds - (earlier.cpu_seconds if earlier else 0.0)) / seconds
        if seen.kernel:
            kernel += cores
        elif cores > 0:
            used.append((cores, pid))
    used.sort(reverse=True)
    return Others(kernel, [(processes.name_of(pid) or "?", cores) for cores, pid in used[:5]])

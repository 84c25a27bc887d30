"""The kernel's counters of what others do on this machine, read at one moment.

All of them only grow; what happened in a stretch of time is the difference of two readings.
A counter that this machine does not keep is NaN.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from autotune.system import control_groups

_PROC = Path("/proc")
_SYS = Path("/sys")
_MICROSECOND = 1e-6
_MIB = float(2**20)
_CLOCKS_READ = 8
"""So many CPUs' clocks are read: a reading costs tens of microseconds a CPU."""


class Counters(NamedTuple):
    """One reading. Seconds are summed over the CPUs asked for, unless told otherwise."""

    idle: float
    """Seconds without work, waits for the disk included."""
    steal: float
    """Seconds that the hypervisor ran somebody else while there was work."""
    interrupts: float
    """Seconds in interrupt handlers, hard and soft."""
    cpu_waiting: float
    """Seconds in which work waited for a CPU, weighted by busy CPUs (PSI ``cpu some``)."""
    memory_waiting: float
    """Seconds in which a task waited for memory (PSI ``memory some``)."""
    swapped_mib: float
    """Pages swapped in and out, MiB."""
    throttle_events: float
    """Times that a CPU lowered its clock for heat or current."""
    quota_periods: float
    quota_throttled: float
    """Periods of the control group's CPU quota, and those in which it was used up."""


class Reader:
    """Reads `Counters`, and the clocks, of some CPUs.

    Args:
        cpus: numbers of the CPUs that this process may use.
        proc, sys: where the kernel's files are.
    """

    def __init__(self, cpus: Collection[int], proc: Path = _PROC, sys: Path = _SYS) -> None:
        self._names = {f"cpu{cpu}".encode() for cpu in cpus}
        self._proc = proc
        self._ticks = float(os.sysconf("SC_CLK_TCK"))
        self._page_mib = os.sysconf("SC_PAGE_SIZE") / _MIB
        self._quota = _quota_file(proc, sys)
        folders = [sys / "devices/system/cpu" / f"cpu{cpu}" for cpu in sorted(cpus)]
        self._throttle = [
            path
            for folder in folders
            for path in (folder / "thermal_throttle/core_throttle_count",)
            if path.exists()
        ]
        step = max(1, len(folders) // _CLOCKS_READ)
        self._clocks = [
            folder / "cpufreq/scaling_cur_freq"
            for folder in folders[::step]
            if (folder / "cpufreq/scaling_cur_freq").exists()
        ]
        self.full_clock = _full_clock(folders[0]) if folders else math.nan
        """The clock that the CPU keeps under load (base, else maximal), kHz."""

    def read(self) -> Counters:
        """The counters now."""
        idle, steal, interrupts = self._cpu_times()
        periods, throttled = self._quota_counters()
        return Counters(
            idle=idle,
            steal=steal,
            interrupts=interrupts,
            cpu_waiting=self._pressure("cpu"),
            memory_waiting=self._pressure("memory"),
            swapped_mib=self._swapped(),
            throttle_events=(
                sum(_number(path) for path in self._throttle) if self._throttle else math.nan
            ),
            quota_periods=periods,
            quota_throttled=throttled,
        )

    def clock_share(self) -> float:
        """Mean clock of the CPUs now, as a share of the full one; NaN where it is not known."""
        values = [value for path in self._clocks if not math.isnan(value := _number(path))]
        return sum(values) / len(values) / self.full_clock if values else math.nan

    def _cpu_times(self) -> tuple[float, float, float]:
        idle = steal = interrupts = 0.0
        for name, values in _lines(self._proc / "stat"):
            if name in self._names:
                # user nice system idle iowait irq softirq steal guest guest_nice
                idle += int(values[3]) + int(values[4])
                interrupts += int(values[5]) + int(values[6])
                steal += int(values[7])
        return idle / self._ticks, steal / self._ticks, interrupts / self._ticks

    def _pressure(self, what: str) -> float:
        for name, values in _lines(self._proc / "pressure" / what):
            if name == b"some":
                return int(values[-1].partition(b"=")[2]) * _MICROSECOND
        return math.nan

    def _swapped(self) -> float:
        pages, found = 0, False
        for name, values in _lines(self._proc / "vmstat"):
            if name in (b"pswpin", b"pswpout"):
                pages += int(values[0])
                found = True
        return pages * self._page_mib if found else math.nan

    def _quota_counters(self) -> tuple[float, float]:
        if self._quota is None:
            return math.nan, math.nan
        values = {name: int(rest[0]) for name, rest in _lines(self._quota) if rest}
        if b"nr_periods" not in values or b"nr_throttled" not in values:
            return math.nan, math.nan
        return float(values[b"nr_periods"]), float(values[b"nr_throttled"])


def _lines(path: Path) -> Iterator[tuple[bytes, list[bytes]]]:
    """First word and the others of each line; nothing where the file cannot be read."""
    try:
        content = path.read_bytes()
    except OSError:  # absent, or PSI switched off (EOPNOTSUPP)
        return
    for line in content.splitlines():
        words = line.split()
        if words:
            yield words[0], words[1:]


def _number(path: Path) -> float:
    try:
        return float(path.read_bytes())
    except (OSError, ValueError):
        return math.nan


def _full_clock(folder: Path) -> float:
    base = _number(folder / "cpufreq/base_frequency")
    return base if not math.isnan(base) else _number(folder / "cpufreq/cpuinfo_max_freq")


def _quota_file(proc: Path, sys: Path) -> Path | None:
    """``cpu.stat`` of this process's control group, version 2 or 1; None without a quota."""
    for folder in control_groups.folders("cpu", proc, sys):
        if any(name == b"nr_periods" for name, _ in _lines(folder / "cpu.stat")):
            return folder / "cpu.stat"
    return None

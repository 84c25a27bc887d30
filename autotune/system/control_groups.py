"""The control groups that this process is in, and what they leave it: memory and CPU time.

A limit holds for all groups below it, so the groups are followed from the process's own up to the
root of the hierarchy. Version 2 has one hierarchy, version 1 one for each controller.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

Controller = Literal["cpu", "memory"]

_UNLIMITED = 2**60
"""Version 1 names the largest multiple of a page where there is no limit."""


def folders(
    controller: Controller, proc: Path = Path("/proc"), sys: Path = Path("/sys")
) -> list[Path]:
    """The folders of the process's group and of those above it, the innermost first; those that
    are not there are left out, as in a container, where the path may be the host's."""
    found = _hierarchy(controller, proc, sys)
    if found is None:
        return []
    root, path = found
    inner = PurePosixPath(path.lstrip("/"))
    if ".." in inner.parts:  # outside of what this namespace shows
        inner = PurePosixPath()
    every = [root / level for level in (inner, *inner.parents)]
    return [folder for folder in dict.fromkeys(every) if folder.is_dir()]


def _hierarchy(controller: Controller, proc: Path, sys: Path) -> tuple[Path, str] | None:
    """Root of the controller's hierarchy, and the path of the process's group in it."""
    root = sys / "fs/cgroup"
    try:
        entries = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    unified = None
    for entry in entries:
        _, controllers, path = entry.split(":", 2)
        if controller in controllers.split(","):
            return root / controller, path
        if controllers == "":
            unified = root, path
    return unified


class Limited(NamedTuple):
    """One group with a limit of memory; bytes."""

    folder: Path
    limit: int

    def room(self) -> int:
        """What can be had before the limit is reached. Page cache that can be dropped at once
        counts as room."""
        return max(0, self.limit - _used(self.folder))


class Memory:
    """The limits of memory on the way up; those that are set later are not seen."""

    def __init__(self, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> None:
        self._limited = [
            Limited(folder, limit)
            for folder in folders("memory", proc, sys)
            if (limit := _memory_limit(folder)) is not None
        ]

    @property
    def limit(self) -> int | None:
        """The least, bytes; None without one."""
        return min((group.limit for group in self._limited), default=None)

    def room(self) -> int | None:
        """Bytes that can be had before the first of the limits is reached; None without one."""
        return min((group.room() for group in self._limited), default=None)

    def scarcest(self) -> Limited | None:
        """The group whose limit is reached first; None without one."""
        return min(self._limited, key=Limited.room, default=None)


@dataclass(frozen=True)
class MemoryEvents:
    """What the kernel has counted so far in the process's group and in those above it."""

    kills: int
    """Processes of the innermost group that were killed for memory, whoever's limit it was."""
    times_full: Mapping[Path, int]
    """How often each group was at its own limit as memory was asked for; the innermost first."""

    @classmethod
    def read(cls, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> MemoryEvents:
        """The counts now; what cannot be read is 0."""
        groups = folders("memory", proc, sys)
        kills = next((_kills(folder) for folder in groups if _counts_kills(folder)), 0)
        return cls(kills, {folder: _times_full(folder) for folder in groups})

    def filled_since(self, before: MemoryEvents) -> Limited | None:
        """The innermost group that was at its limit in between; None where none was, or where it
        has no limit any more."""
        for folder, times in self.times_full.items():
            if times > before.times_full.get(folder, 0):
                limit = _memory_limit(folder)
                if limit is not None:
                    return Limited(folder, limit)
        return None


def cpu_quota(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> float | None:
    """Cores' worth of CPU time that the tightest group allows; None without a limit."""
    quotas = [_quota(folder) for folder in folders("cpu", proc, sys)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _memory_limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        limit = _number(folder / name)
        if limit is not None and limit < _UNLIMITED:
            return limit
    return None


def _used(folder: Path) -> int:
    for usage, inactive in (
        ("memory.current", b"inactive_file "),
        ("memory.usage_in_bytes", b"total_inactive_file "),
    ):
        used = _number(folder / usage)
        if used is not None:
            return used - _field(folder / "memory.stat", inactive)
    return 0


_KILL_COUNTERS = ("memory.events", "memory.oom_control")
"""Where version 2, and version 1, count the processes killed for memory."""


def _counts_kills(folder: Path) -> bool:
    """Version 2 does so in every group but the root."""
    return any((folder / name).exists() for name in _KILL_COUNTERS)


def _kills(folder: Path) -> int:
    return max(_field(folder / name, b"oom_kill ") for name in _KILL_COUNTERS)


def _times_full(folder: Path) -> int:
    """Version 2 adds the groups below in all but the ``local`` file (since Linux 5.2)."""
    for name in ("memory.events.local", "memory.events"):
        if (folder / name).exists():
            return _field(folder / name, b"oom ")
    return _number(folder / "memory.failcnt") or 0


def _quota(folder: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        limit, period = (folder / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    limit_us = _number(folder / "cpu.cfs_quota_us")
    period_us = _number(folder / "cpu.cfs_period_us")
    return limit_us / period_us if limit_us and period_us and limit_us > 0 else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):  # absent, or "max"
        return None


def _field(path: Path, name: bytes) -> int:
    """The number behind ``name`` at the start of a line; 0 where there is none."""
    with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
        for line in file:
            if line.startswith(name):
                return int(line[len(name) :])
    return 0

"""Memory and CPU time of the processes that are watched, from /proc."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from autotune.system import processes
from autotune.system.process_tree import ProcessTree

_GIB = float(2**30)
_USER, _SYSTEM, _START = 11, 12, 19
"""Fields of /proc/<pid>/stat from the state on; see proc_pid_stat(5)."""


class Used(NamedTuple):
    """What they use now."""

    memory_gib: float
    """Resident memory; pages that several share count in each, so it is an upper bound."""
    processes: int
    cpu_cores: float | None
    """Mean since the last look; None at the first one."""


class Usage:
    """Looks at the processes that carry a mark, and their children."""

    def __init__(self, variable: str, value: str, root: int, scratch: str | None = None) -> None:
        """Args:
        variable: name of the mark in their environment, ``value`` its value.
        root: pid of the first of them.
        scratch: folder of the trial that they belong to.
        """
        self._tree = ProcessTree(variable, value, root, scratch)
        self._ticks = float(os.sysconf("SC_CLK_TCK"))
        self._looked = 0.0
        self._spent: dict[str, float] = {}

    def look(self) -> Used | None:
        """What they use; None where none is left."""
        # the guardian of a trial may have been taken in before it had its name
        members = [
            member
            for member in self._tree.update()
            if processes.name_of(member.pid) != processes.GUARDIAN_NAME
        ]
        if not members:
            return None
        now = time.monotonic()
        before, self._spent = self._spent, self._cpu_seconds([member.pid for member in members])
        # one that is new has used all of its time since the last look
        used = sum(seconds - before.get(who, 0.0) for who, seconds in self._spent.items())
        elapsed, self._looked = now - self._looked, now
        return Used(
            memory_gib=sum(member.resident_bytes for member in members) / _GIB,
            processes=len(members),
            cpu_cores=max(0.0, used / elapsed) if before and elapsed > 0 else None,
        )

    def _cpu_seconds(self, pids: list[int]) -> dict[str, float]:
        spent = {}
        for pid in pids:
            fields = processes.stat_fields(pid)
            if fields is not None:
                ticks = int(fields[_USER]) + int(fields[_SYSTEM])
                spent[f"{pid}:{fields[_START]}"] = ticks / self._ticks
        return spent

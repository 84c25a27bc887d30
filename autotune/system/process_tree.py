"""The processes of one trial, wherever they have hidden.

A process belongs to a trial if it carries the trial's mark, is a child of one that belongs, or is
in the worker's session. Once seen it is known by its pid and its start, so that one which drops
its environment, changes its session and outlives its parent is found all the same. Standard
library only: the guardian uses it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from autotune.system import processes

_PARENT, _SESSION, _START, _RESIDENT = 1, 3, 19, 21
"""Fields of /proc/<pid>/stat from the state on; see proc_pid_stat(5)."""


@dataclass(frozen=True, slots=True)
class Member:
    """One living process of a trial."""

    pid: int
    resident_bytes: int
    """Shared pages included, so the sum over a trial is an upper bound."""


class ProcessTree:
    """Finds and remembers the processes of one trial, the guardian left out."""

    def __init__(self, variable: str, value: str, root: int, folder: str | None) -> None:
        """Args:
        variable: name of the trial's mark, ``value`` its value.
        root: pid of the worker, which leads a session of its own. Where it is gone by now, no
            process of that pid is taken for it.
        folder: the trial's own, where its forks are noted.
        """
        self._needle = f"{variable}={value}".encode()
        self._root = root
        fields = processes.stat_fields(root)
        self._root_start = None if fields is None else fields[_START]
        self._folder = folder
        self._noted: dict[int, str] = {}
        self._read = 0
        self._known: dict[int, str] = {}
        self._strangers: set[int] = set()
        self._page = os.sysconf("SC_PAGE_SIZE")
        self.ever: set[int] = set()
        """Every pid that was ever seen in the trial."""

    def update(self) -> list[Member]:
        """The living processes. Looks closely only at those that are new: cheap to call often."""
        self._read_notes()
        pids = sorted(processes.pids())
        self._strangers.intersection_update(pids)
        return self._look([pid for pid in pids if pid not in self._strangers])

    def resident_bytes(self) -> int:
        """Resident memory of the processes that the last look found; cheaper than a look."""
        total = 0
        for pid, start in self._known.items():
            fields = processes.stat_fields(pid)
            if fields is not None and fields[_START] == start:
                total += int(fields[_RESIDENT]) * self._page
        return total

    def remaining(self) -> list[int]:
        """The pids of the living processes, after a close look at every process there is."""
        self._read_notes()
        self._strangers.clear()
        found = [member.pid for member in self._look(sorted(processes.pids()))]
        # the guardian may have been taken in before it had its name
        return [pid for pid in found if processes.name_of(pid) != processes.GUARDIAN_NAME]

    def guardians(self) -> list[int]:
        """The pids of the trial's guardian, if it lives."""
        return [
            pid
            for pid in processes.pids()
            if processes.name_of(pid) == processes.GUARDIAN_NAME and self._is_marked(pid)
        ]

    def _read_notes(self) -> None:
        noted, self._read = processes.forks_noted(self._folder, self._read)
        for who in noted:
            pid, _, start = who.partition(":")
            self._noted[int(pid)] = start
            self._strangers.discard(int(pid))

    def _look(self, pids: list[int]) -> list[Member]:
        living = []
        known = self._known
        self._known = {}
        for pid in pids:
            fields = processes.stat_fields(pid)
            if fields is None or fields[0] in ("Z", "X"):
                continue
            same = fields[_START] in (known.get(pid), self._noted.get(pid))
            if not same and not self._belongs(pid, fields, int(fields[_PARENT]) in known):
                self._strangers.add(pid)
                continue
            self._known[pid] = fields[_START]
            living.append(Member(pid, int(fields[_RESIDENT]) * self._page))
        self.ever.update(self._known)
        return living

    def _belongs(self, pid: int, fields: list[str], has_known_parent: bool) -> bool:
        if pid == os.getpid():
            return False
        related = (
            has_known_parent
            or (pid == self._root and fields[_START] == self._root_start)
            or int(fields[_SESSION]) == self._root
            or int(fields[_PARENT]) in self._known
        )
        if not related and not self._is_marked(pid):
            return False
        return processes.name_of(pid) != processes.GUARDIAN_NAME

    def _is_marked(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environ = file.read()
        except OSError:  # gone, or somebody else's
            return False
        return self._needle in environ and self._needle in environ.split(b"\0")

"""System V shared memory and semaphores: they outlive their processes, and carry no name.

Of a segment the kernel knows who made it, of semaphores only who operated on them last. Standard
library only: the guardian uses it.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Collection
from typing import Literal, NamedTuple

_FILES = {"segment": "/proc/sysvipc/shm", "semaphores": "/proc/sysvipc/sem"}
# columns of the creation time: see proc_sysvipc(5)
_CREATED = {"segment": 13, "semaphores": 9}
_MAKER, _ATTACHED = 4, 6
_COUNT = 3

# <linux/ipc.h>, <linux/sem.h>
_IPC_RMID = 0
_GETPID, _GETNCNT, _GETZCNT = 11, 14, 15


class Item(NamedTuple):
    """One segment, or one set of semaphores."""

    kind: Literal["segment", "semaphores"]
    id: int
    created: int
    """Unix time; an id alone is used again."""


def items() -> set[Item]:
    """All that this process can see; nothing where the kernel has no System V IPC."""
    return {
        Item(kind, int(fields[1]), int(fields[_CREATED[kind]]))
        for kind in ("segment", "semaphores")
        for fields in _lines(kind)
    }


def remove(makers: Collection[int], before: Collection[Item], since: float = 0.0) -> list[Item]:
    """Remove what these processes made and nobody uses any more.

    Semaphores count as theirs if all operations on them were theirs.

    Args:
        makers: pids, of a trial for one.
        before: what was there before them.
        since: Unix time; what is older is not theirs, whatever the pid.

    Returns:
        What was removed.
    """
    libc = ctypes.CDLL(None)
    removed = []
    for item in sorted(items() - set(before)):
        if item.created < int(since) or not _is_left_by(libc, item, makers):
            continue
        if item.kind == "segment":
            failed = libc.shmctl(item.id, _IPC_RMID, None)
        else:
            failed = libc.semctl(item.id, 0, _IPC_RMID)
        if not failed:
            removed.append(item)
    return removed


def _is_left_by(libc: ctypes.CDLL, item: Item, makers: Collection[int]) -> bool:
    for fields in _lines(item.kind):
        if int(fields[1]) != item.id:
            continue
        if item.kind == "segment":
            return int(fields[_MAKER]) in makers and int(fields[_ATTACHED]) == 0
        every = range(int(fields[_COUNT]))
        users = {libc.semctl(item.id, number, _GETPID) for number in every} - {0}
        waiting = (_GETNCNT, _GETZCNT)
        return (
            bool(users)
            and users <= set(makers)
            and all(libc.semctl(item.id, number, what) == 0 for number in every for what in waiting)
        )
    return False


def _lines(kind: Literal["segment", "semaphores"]) -> list[list[str]]:
    with contextlib.suppress(OSError), open(_FILES[kind], encoding="ascii") as file:
        return [line.split() for line in file.readlines()[1:]]
    return []

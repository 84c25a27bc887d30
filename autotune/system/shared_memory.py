"""Shared memory that processes leave behind: files in /dev/shm; for System V see `system_v`.

Files in /dev/shm are POSIX shared memory and POSIX semaphores (``sem.*``). Nothing in them says
who made them, so a file counts as a trial's only if one of its processes was seen with it mapped
or open, and only if it was not there when the trial began. Decided by name and inode, never by
the clock, which can be set back. Standard library only: the guardian uses it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from autotune.system import processes, system_v

_FOLDER = "/dev/shm"
_PREFIX = f"{_FOLDER}/"
_MAX_SHARE = 0.03
"""Of one core, for looking at what a trial has mapped, where new files come all the time."""
_NOTE = "shared-memory"
_IN_CREATE, _IN_MOVED_TO = 0x100, 0x80


def listing(older_than: float = 0.0) -> dict[str, int]:
    """Path and inode of every plain file of this user directly in /dev/shm.

    Args:
        older_than: only files that were not changed for so many seconds.
    """
    found: dict[str, int] = {}
    with contextlib.suppress(OSError), os.scandir(_FOLDER) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                mine = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
                # a file from the future was made before the clock was set back: it is young
                if mine and time.time() - status.st_ctime >= older_than:
                    found[entry.path] = status.st_ino
    return found


def used_by(pids: Iterable[int]) -> set[str]:
    """Paths below /dev/shm that any of these processes has mapped or open."""
    found: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", errors="replace") as file:
            found.update(
                line[line.index(_PREFIX) :].rstrip("\n") for line in file if _PREFIX in line
            )
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    path = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                    if path.startswith(_PREFIX):
                        found.add(path)
    return {path for path in found if not path.endswith(" (deleted)")}


def remove(paths: Iterable[str], before: Mapping[str, int]) -> list[str]:
    """Unlink files that no process uses any more; returns those that were removed.

    Only plain files of this user directly in /dev/shm that are not in ``before``, a `listing`:
    whatever was there, data kept in memory for one, is not ours to remove.
    """
    now = listing()
    present = {path for path in paths if path in now and before.get(path) != now[path]}
    if not present:
        return []
    removed = []
    for path in sorted(present - used_by(processes.pids())):
        with contextlib.suppress(OSError):
            os.unlink(path)
            removed.append(path)
    return removed


class SegmentWatch:
    """Shared memory of a trial, seen while its processes live: once they were killed nothing says
    whose a segment was. Make it before the trial begins."""

    def __init__(self) -> None:
        self._before = listing()
        self._sysv_before = system_v.items()
        self._names = set(self._before)
        """Those that need no further look."""
        self._unclaimed: set[str] = set()
        """New at the last look, and nobody of the trial had them."""
        self._seen: set[str] = set()
        self._next = 0.0

    def open_alarm(self) -> int | None:
        """A descriptor that is readable as soon as something is made in /dev/shm; None where the
        kernel has no more of them. The caller closes it; see `quiet`."""
        import ctypes

        libc = ctypes.CDLL(None)
        descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            return None
        watched = libc.inotify_add_watch(descriptor, _FOLDER.encode(), _IN_CREATE | _IN_MOVED_TO)
        if watched < 0:
            os.close(descriptor)
            return None
        return descriptor

    @property
    def undecided(self) -> bool:
        """Whether something new may be there that was not looked at yet, or was nobody's when it
        was, which may have been too early."""
        return time.monotonic() < self._next or not self._unclaimed <= self._names

    def update(self, members: Callable[[], Iterable[int]], now_or_never: bool = False) -> None:
        """Look for something new in /dev/shm, and only then at the trial's processes.

        A file can be seen there, and an alarm goes off, a moment before its maker has it open. So
        what is new and nobody's is looked at once more before it counts as another program's.

        Args:
            members: their pids.
            now_or_never: whether they are about to end; else looks are spaced by their cost.
        """
        began = time.monotonic()
        if began < self._next and not now_or_never:
            return
        names = set(_names())
        if names <= self._names:
            return
        cpu = time.thread_time()
        used = used_by(members())
        self._seen |= used
        unclaimed = names - self._names - used
        self._names = names - (unclaimed - self._unclaimed)
        self._unclaimed = unclaimed
        self._next = began + (time.thread_time() - cpu) / _MAX_SHARE

    def leave_note(self, pids: Iterable[int]) -> None:
        """In a process of the trial, just before it ends: tell who cleans up what these have
        mapped or open. The note lies in the trial's folder."""
        folder = os.environ.get(processes.SCRATCH_MARK)
        if folder and not set(_names()) <= self._names:
            with contextlib.suppress(OSError), open(os.path.join(folder, _NOTE), "w") as file:
                file.writelines(f"{path}\n" for path in used_by(pids))

    def read_note(self, folder: str | None) -> None:
        """Take over what the trial's last process told."""
        if folder is not None:
            with contextlib.suppress(OSError), open(os.path.join(folder, _NOTE)) as file:
                self._seen.update(file.read().splitlines())

    def remove(self, ever: Collection[int]) -> None:
        """Remove what the trial left and nobody uses any more.

        Args:
            ever: the pids of all processes of the trial; names and makers are held against them.
        """
        left = [path for path in listing() if _maker(path) in ever]
        remove({*self._seen, *left}, self._before)
        system_v.remove(ever, self._sysv_before)


def quiet(alarm: int) -> None:
    """Take what an alarm has to say, so that it can go off again."""
    with contextlib.suppress(BlockingIOError):
        while os.read(alarm, 65536):
            pass


def _names() -> list[str]:
    with contextlib.suppress(OSError):
        return [f"{_PREFIX}{name}" for name in os.listdir(_FOLDER)]
    return []


def _maker(path: str) -> int | None:
    """The pid in the name of a segment that torch made: ``torch_<pid>_<random>_<count>``."""
    kind, _, rest = os.path.basename(path).partition("_")
    pid = rest.partition("_")[0]
    return int(pid) if kind == "torch" and pid.isdigit() else None

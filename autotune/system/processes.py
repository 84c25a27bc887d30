"""Linux processes at a low level: who they are, which ones carry a mark, how to end them.

Standard library only and quick to import: the worker uses this before anything else, and the
driver uses it to clean up. A *mark* is an environment variable that every process of a trial
inherits; it is found in ``/proc/<pid>/environ``, whatever parent, group or session a process
has given itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable

SUPERVISOR_MARK = "AUTOTUNE_SUPERVISOR"
"""Environment variable of every process of a trial: `identity` of the supervising process."""

ENVIRONMENT_MARK = "AUTOTUNE_ENVIRONMENT"
"""JSON object: each variable that the supervisor set ahead for the target, with its value before
(or null)."""

GUARDIAN_NAME = "autotune-guard"
"""The kernel's short name of the guardian of a trial (see `autotune.worker.guardian`)."""

SCRATCH_MARK = "AUTOTUNE_SCRATCH"
"""Environment variable of every process of a trial: its folder for temporary files."""

CENSUS_MARK = "AUTOTUNE_CENSUS"
"""Environment variable of the processes that are to look for what grows in them: seconds between
two looks and the folder to write to, with a colon between (see `autotune.heap`)."""

_FORKED = "forked"
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_FIRST_PAUSE = 0.005
_SESSION_FIELD = 3
_START_TICKS_FIELD = 19  # counted from the process state, the first field after the name


def stat_fields(pid: int) -> list[str] | None:
    """Fields of ``/proc/<pid>/stat`` from the state on; None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def pids() -> list[int]:
    """Every process that this one can see."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def name_of(pid: int) -> str:
    """The kernel's short name of a process; empty where it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def command_of(pid: int, limit: int = 120) -> str:
    """The command line of a process, at most ``limit`` characters."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        words = ""
    return (words or name_of(pid))[:limit]


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    fields = stat_fields(pid)
    return fields is not None and fields[0] not in ("Z", "X")


def identity(pid: int | None = None) -> str:
    """``pid:start time``: names a process for good, where a pid alone is used again.

    Raises:
        ProcessLookupError: if there is no such process.
    """
    pid = os.getpid() if pid is None else pid
    fields = stat_fields(pid)
    if fields is None:
        raise ProcessLookupError(pid)
    return f"{pid}:{fields[_START_TICKS_FIELD]}"


def exists(who: str) -> bool:
    """Whether the process that `identity` named is still there and no zombie."""
    pid, _, _ = who.partition(":")
    if not pid.isdigit() or not is_running(int(pid)):
        return False
    with contextlib.suppress(ProcessLookupError):
        return identity(int(pid)) == who
    return False


def age(pid: int | None = None) -> float:
    """Seconds since a process (this one) was created; an ``execve`` does not start it anew.

    0 where there is no such process.
    """
    fields = stat_fields(os.getpid() if pid is None else pid)
    if fields is None:
        return 0.0
    started = int(fields[_START_TICKS_FIELD]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def descendants(root: int) -> list[int]:
    """The children of a process, their children and so on, zombies left out."""
    children: dict[int, list[int]] = {}
    for pid in pids():
        fields = stat_fields(pid)
        if fields is not None and fields[0] not in ("Z", "X"):
            children.setdefault(int(fields[1]), []).append(pid)
    found: list[int] = []
    frontier = [root]
    while frontier:
        frontier = [child for pid in frontier for child in children.get(pid, [])]
        found.extend(frontier)
    return found


def environment_of(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty where it cannot be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            raw = file.read()
    except OSError:
        return {}
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if b"=" in entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def marked(variable: str, value: str, keep: Collection[int] = ()) -> list[int]:
    """Processes started with ``variable=value`` in their environment, except those in ``keep``.

    A zombie has no environment any more and is not found.
    """
    needle = f"{variable}={value}".encode()
    found = []
    for pid in pids():
        if pid in keep:
            continue
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environ = file.read()
        except OSError:  # gone, or somebody else's
            continue
        if needle in environ and needle in environ.split(b"\0"):
            found.append(pid)
    return found


def in_session(session: int) -> list[int]:
    """Processes of a session, zombies left out."""
    found = []
    for pid in pids():
        fields = stat_fields(pid)
        if fields and int(fields[_SESSION_FIELD]) == session and fields[0] not in ("Z", "X"):
            found.append(pid)
    return found


def send(processes: Iterable[int], signum: int) -> None:
    """Signal processes; those that are gone meanwhile do not matter."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)


def end(
    find: Callable[[], list[int]],
    grace: float = 1.0,
    timeout: float = 10.0,
    patience: float = 0.0,
) -> tuple[list[str], list[int]]:
    """End every process that ``find`` returns, until it returns none.

    Args:
        find: called again and again, as a dying process may still fork.
        grace: seconds between SIGTERM and SIGKILL.
        timeout: seconds after which to give up (a process in the kernel cannot be ended).
        patience: seconds to wait for them to end by themselves before the first signal.

    Returns:
        The command lines of those that were signalled, and the pids that would not end.
    """
    began = time.monotonic()
    signalled: dict[int, str] = {}
    pause = _FIRST_PAUSE
    while True:
        alive = find()
        now = time.monotonic() - began
        if not alive or now > timeout + patience:
            return list(signalled.values()), alive
        if now >= patience:
            fresh = [pid for pid in alive if pid not in signalled]
            signalled.update((pid, command_of(pid)) for pid in fresh)
            if now >= patience + grace:
                send(alive, signal.SIGKILL)
                if fresh:  # they may fork as fast as they are found: no rest
                    pause = 0.0
            else:
                send(fresh, signal.SIGTERM)
        time.sleep(pause)
        pause = min(0.1, max(_FIRST_PAUSE, pause * 1.5))


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel send SIGKILL to this process when the *thread* that forked it ends.

    The setting survives ``execve`` and is not inherited by children.

    Args:
        parent: pid of the parent as it was; where it is gone already this process ends at once,
            as no signal would come any more.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def note_forks() -> None:
    """Have every process that this one forks from Python, and those that they fork, write its
    identity into the trial's folder, first of all: it is known then, whatever it does to hide."""
    folder = os.environ.get(SCRATCH_MARK)
    if folder:
        os.register_at_fork(after_in_child=lambda: _note_fork(folder))


def _note_fork(folder: str) -> None:
    with contextlib.suppress(OSError, ProcessLookupError):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(os.path.join(folder, _FORKED), flags, 0o600)
        os.write(descriptor, f"{identity()}\n".encode())  # one write: lines do not mix
        os.close(descriptor)


def forks_noted(folder: str | None, offset: int = 0) -> tuple[list[str], int]:
    """Identities that `note_forks` wrote from an offset of its file on, and where it ends."""
    if folder is None:
        return [], 0
    try:
        with open(os.path.join(folder, _FORKED), "rb") as file:
            file.seek(offset)
            text = file.read()
    except OSError:
        return [], offset
    whole = text[: text.rfind(b"\n") + 1]
    return whole.decode(errors="replace").split(), offset + len(whole)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends: they stay in this process's tree.

    The setting survives ``execve`` and is not inherited by children.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def offer_to_the_kernel(score: int, pid: int | None = None) -> None:
    """Set how early the kernel kills a process, and what it starts, when memory runs out.

    Args:
        score: 0 is the default, 1000 the first to go; anybody may raise it.
        pid: this process if None; one that is gone, or somebody else's, is left alone.
    """
    path = f"/proc/{'self' if pid is None else pid}/oom_score_adj"
    with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:
        file.write(str(score))


def set_name(name: str) -> None:
    """Set the kernel's short name of this process (15 characters)."""
    import ctypes

    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def _prctl(option: int, argument: object) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"prctl({option}): {os.strerror(errno)}")

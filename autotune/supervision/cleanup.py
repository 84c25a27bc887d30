"""What a trial leaves behind, and its removal: processes, shared memory, files, GPU memory.

The supervisor's half. Where the supervisor dies, the trial's guardian does the same
(`autotune.worker.guardian`); where that dies too, `end_leftovers` does at the next launch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from autotune.system import processes, shared_memory, system_v
from autotune.system.machine import nvml, visible_gpus
from autotune.system.process_tree import ProcessTree
from autotune.system.shared_memory import SegmentWatch
from autotune.trial import STUDY_MARK

_STRAGGLER_SECONDS = 2.0
"""Helper processes of multiprocessing end by themselves shortly after the worker."""
_GUARDIAN_SECONDS = 5.0
_GPU_SECONDS = 2.0
_GPU_SLACK = 64 * 2**20

_LONGEST_FOLDER = 60
"""Characters: multiprocessing adds 32 to it for a socket, whose path may have 107."""
_KEY = 8
_OWNER = "owner"


@dataclass
class Before:
    """What was there before the trial, and so is not its."""

    segments: SegmentWatch = field(default_factory=SegmentWatch)
    gpu_bytes: int | None = field(default_factory=lambda: _gpu_bytes())


def make_scratch(study: str, trial: str) -> str | None:
    """A new folder for the trial's temporary files; None where none can be made.

    Its name carries the study and the trial, so that `end_leftovers` knows it again; a file in it
    says whose it is. Its path is short, since sockets are made in it.
    """
    for place in (tempfile.gettempdir(), "/tmp"):
        if len(place) <= _LONGEST_FOLDER:
            folder = Path(place) / f"{_scratch_prefix(study)}{trial[:_KEY]}"
            with contextlib.suppress(OSError):
                folder.mkdir(mode=0o700, exist_ok=True)
                (folder / _OWNER).write_text(_owner())
                return str(folder)
    return None


def remove_scratch(folder: str | None) -> bool:
    """Remove a trial's folder; whether it is gone."""
    if folder is None:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return not os.path.lexists(folder)


@dataclass
class Cleaned:
    """How the end of a trial's processes went."""

    exit_code: int | None = None
    outlived: list[str] = field(default_factory=list)
    """Command lines of what was still there after the worker."""
    notes: list[str] = field(default_factory=list)
    """For the log."""


def end_trial(
    worker: subprocess.Popen[bytes],
    tree: ProcessTree,
    before: Before,
    scratch: str | None,
    at_once: bool,
) -> Cleaned:
    """End all that is left of a trial; returns when it is gone, or cannot be ended.

    Args:
        worker: its main process; its standard input tells the guardian to go.
        tree: its processes, as seen while it ran.
        before: what was there before it began.
        scratch: its folder for temporary files.
        at_once: whether to end a worker that still runs, or to let it end by itself.
    """
    cleaned = Cleaned()
    if at_once and worker.poll() is None:
        before.segments.update(tree.remaining, now_or_never=True)
        # no SIGTERM first: native libraries answer it by printing their stacks. The trackers
        # of multiprocessing go last, as they unlink what the others leave.
        processes.end(lambda: [p for p in tree.remaining() if not is_tracker(p)], grace=0.0)
    with contextlib.suppress(BrokenPipeError):
        cast("IO[bytes]", worker.stdin).close()
    try:
        cleaned.exit_code = worker.wait(timeout=10.0)
    except subprocess.TimeoutExpired:
        cleaned.notes.append(f"the worker (pid {worker.pid}) cannot be ended by SIGKILL")
    before.segments.update(tree.remaining, now_or_never=True)
    cleaned.outlived, stuck = processes.end(tree.remaining, patience=_STRAGGLER_SECONDS)
    # it removes the shared memory that the trial leaked, once all others are gone
    processes.end(tree.guardians, patience=_GUARDIAN_SECONDS)
    before.segments.read_note(scratch)
    before.segments.remove(tree.ever)
    if cleaned.outlived:
        names = "; ".join(cleaned.outlived[:10])
        more = f" and {len(cleaned.outlived) - 10} more" if len(cleaned.outlived) > 10 else ""
        cleaned.notes.append(f"ended after the worker, as they outlived it: {names}{more}")
    if stuck:
        cleaned.notes.append(f"processes that cannot be ended: {stuck}")
    if not remove_scratch(scratch):
        cleaned.notes.append(f"{scratch} cannot be removed")
    if (held := _gpu_memory_not_returned(before.gpu_bytes)) is not None:
        cleaned.notes.append(
            f"{held / 2**20:.0f} MiB of GPU memory are in use that were free before the trial, "
            "though none of its processes is left"
        )
    return cleaned


def end_leftovers(study: str, keep: Collection[int] = ()) -> list[str]:
    """End processes of a study whose supervisor is gone, and remove what they left.

    Processes whose supervisor lives are somebody's running measurement and stay.

    Args:
        study: the study's uuid.
        keep: pids to leave alone.

    Returns:
        The command lines of what was ended.
    """

    def orphans(guardians: bool = False) -> list[int]:
        return [
            pid
            for pid in processes.marked(STUDY_MARK, study, keep=(*keep, os.getpid()))
            if (guardians or processes.name_of(pid) != processes.GUARDIAN_NAME)
            and not processes.exists(
                processes.environment_of(pid).get(processes.SUPERVISOR_MARK, "")
            )
        ]

    ended: list[str] = []
    found = orphans(guardians=True)
    if found:
        segments = shared_memory.used_by(found)
        age = max(processes.age(pid) for pid in found)
        before = shared_memory.listing(older_than=age)
        began = time.time() - age
        ended, _ = processes.end(orphans, grace=0.5)
        # guardians remember the segments of processes that are gone already: they end by
        # themselves
        processes.end(lambda: orphans(guardians=True), patience=_GUARDIAN_SECONDS)
        shared_memory.remove(segments, before)
        system_v.remove(found, before=(), since=began)
    _remove_old_scratch(study)
    return ended


def is_tracker(pid: int) -> bool:
    """Whether a process is multiprocessing's, that unlinks shared memory others leave."""
    return "multiprocessing.resource_tracker" in processes.command_of(pid, 4096)


def _scratch_prefix(study: str) -> str:
    return f"autotune-{study[:_KEY]}-"


def _remove_old_scratch(study: str) -> None:
    """Remove the folders of trials that no process uses: of this study, and of any whose supervisor
    is gone, as `autotune measure` never comes back to a study. End processes noted there that carry
    no mark any more."""
    used = {processes.environment_of(pid).get(processes.SCRATCH_MARK) for pid in processes.pids()}
    for place in {tempfile.gettempdir(), "/tmp"}:
        for folder in Path(place).glob("autotune-*-*"):
            of_study = folder.name.startswith(_scratch_prefix(study))
            if (
                str(folder) in used
                or not _is_mine(folder)
                or not (of_study or _is_orphaned(folder))
            ):
                continue
            noted, _ = processes.forks_noted(str(folder))
            hidden = [int(who.partition(":")[0]) for who in noted if processes.exists(who)]
            processes.send(hidden, signal.SIGKILL)
            remove_scratch(str(folder))


def _is_mine(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        status = folder.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return False


def _owner() -> str:
    """This process, told apart from those of other containers and of an earlier boot, whose pids
    mean nothing here."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')} {processes.identity()}"


def _is_orphaned(folder: Path) -> bool:
    """Whether the supervisor that made a trial's folder is gone for certain."""
    try:
        here, _, owner = (folder / _OWNER).read_text().rpartition(" ")
        return here == _owner().rpartition(" ")[0] and not processes.exists(owner)
    except (OSError, UnicodeDecodeError):
        return False


def _gpu_bytes() -> int | None:
    """Memory in use on the visible GPUs; None without NVML, a driver or a GPU."""
    with nvml() as lib:
        if lib is None:
            return None
        try:
            handles = visible_gpus(lib)
            return sum(lib.nvmlDeviceGetMemoryInfo(h).used for h in handles) if handles else None
        except lib.NVMLError:
            return None


def _gpu_memory_not_returned(before: int | None) -> int | None:
    """Bytes in use that were free before, after waiting for the driver to free them; else None."""
    if before is None:
        return None
    deadline = time.monotonic() + _GPU_SECONDS
    while (now := _gpu_bytes()) is not None and now > before + _GPU_SLACK:
        if time.monotonic() > deadline:
            return now - before
        time.sleep(0.1)
    return None

"""The thread that looks in each process of a loader, and where it writes what it found.

    measured process: locate() --AUTOTUNE_CENSUS, at fork--> every process: join() -> PID.json
                      gather() <---------------------------------------------------------'

A process that is forked joins by itself; one that is spawned does where it calls `join`, which
the built-in targets' workers do.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from autotune.heap.census import HeapCensus
from autotune.system import processes
from autotune.trial import Growing

_log = logging.getLogger("autotune.heap")

_MAX_SHARE = 0.2
"""Of one core a process, for looking, however often it is asked for."""
_SUFFIX = ".json"


def locate(folder: str, seconds: float) -> None:
    """Have this process, and all that it starts from now on, look for what grows.

    Args:
        folder: where each of them keeps its file; made if it is not there.
        seconds: between two looks; longer where a look is costly.
    """
    global _forks_join
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.environ[processes.CENSUS_MARK] = f"{seconds:g}:{folder}"
    if not _forks_join:  # it cannot be taken back, but does nothing after `leave`
        _forks_join = True
        os.register_at_fork(after_in_child=join)
    join()


def join(worker: int | None = None) -> None:
    """Begin to look in this process, if it was asked for: see `locate`.

    For worker processes that are spawned. Does nothing where the process looks already.

    Args:
        worker: without a meaning, so that this can be DataLoader's ``worker_init_fn``.
    """
    global _agent
    seconds, _, folder = os.environ.get(processes.CENSUS_MARK, "").partition(":")
    if not folder or (_agent is not None and _agent.looks_here()):
        return
    _agent = _Agent(Path(folder), float(seconds))
    _agent.start()


def leave() -> None:
    """Look no more in this process, and have none that it starts do so."""
    os.environ.pop(processes.CENSUS_MARK, None)
    if _agent is not None:
        _agent.end.set()


class _Agent(threading.Thread):
    """Looks now and then. A fork has none until it joins."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(name="autotune-heap", daemon=True)
        self.end = threading.Event()
        self._pid = os.getpid()
        self._folder = folder
        self._seconds = seconds

    def looks_here(self) -> bool:
        """Whether it runs, in this very process."""
        return self._pid == os.getpid() and not self.end.is_set()

    def run(self) -> None:
        census, pause = HeapCensus(), self._seconds
        while not self.end.wait(pause):
            cpu = time.thread_time()
            try:
                _write(self._folder, census.look(time.monotonic()))
            except OSError as error:  # the folder went with the trial
                _log.debug("%s: %s", self._folder, error.strerror)
                return
            pause = max(self._seconds, (time.thread_time() - cpu) / _MAX_SHARE)


_agent: _Agent | None = None
"""Of this process, or of the one that it was forked from."""
_forks_join = False


def _write(folder: Path, growing: Sequence[Growing]) -> None:
    """Replace this process's file as a whole."""
    found = [g.model_copy(update={"where": [_process_name()]}).model_dump() for g in growing]
    part = folder / f"{os.getpid()}.part"
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(folder / f"{os.getpid()}{_SUFFIX}")


def _process_name() -> str:
    torch_data = sys.modules.get("torch.utils.data")
    info = torch_data.get_worker_info() if torch_data is not None else None
    if info is not None:
        return f"DataLoader worker {info.id}"
    name = multiprocessing.current_process().name
    return "main process" if name == "MainProcess" else name


def gather(folder: str) -> list[Growing]:
    """What grows in all living processes, the largest growth first; of one kind in several of
    them the sums."""
    found: dict[str, list[Growing]] = {}
    for file in Path(folder).glob(f"*{_SUFFIX}"):
        if not processes.is_running(int(file.stem)):
            file.unlink(missing_ok=True)
            continue
        with contextlib.suppress(OSError, ValueError):  # gone, or not written to its end
            for entry in json.loads(file.read_text(encoding="utf-8")):
                growing = Growing.model_validate(entry)
                found.setdefault(growing.kind, []).append(growing)
    return sorted(map(_summed, found.values()), key=lambda g: -g.grown_bytes)


def _summed(parts: Sequence[Growing]) -> Growing:
    largest = max(parts, key=lambda g: g.grown_bytes)
    holders = Counter(holder for part in parts for holder in part.holders)
    return largest.model_copy(
        update={
            "holders": [name for name, _ in holders.most_common()],
            "where": sorted({name for part in parts for name in part.where}),
            "count": sum(part.count for part in parts),
            "bytes": sum(part.bytes for part in parts),
            "grown_count": sum(part.grown_count for part in parts),
            "grown_bytes": sum(part.grown_bytes for part in parts),
        }
    )

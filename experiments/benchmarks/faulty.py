"""A target that does, when it is told to, everything that a loader must never do.

Its one parameter is a number: 0 behaves, every other one draws what goes wrong and when, so
that the same number is the same fault in the worker, in the study that runs it and in the chaos
run that knows what must come of it. A setting can name a fault and its moment instead.
"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from autotune.exceptions import DataError, UnsupportedError
from autotune.targets.base import Batch, BuildContext, Loader, Target
from autotune.trial import STUDY_MARK, FailedClip, Params, StageStats
from autotune.worker.channel import EventWriter

When = Literal["start", "build", "first_batch", "middle", "close"]
MOMENTS: tuple[When, ...] = ("start", "build", "first_batch", "middle", "close")
MIDDLE = 20
"""Batches before the middle."""

LEFT = "autotune-faulty"
"""What is left behind has this in its name, and the beginning of the study's uuid."""


class Fault(NamedTuple):
    """What goes wrong, when, and what has to come of it."""

    name: str
    when: When

    @property
    def outcome(self) -> str:
        """The kind of failure, or ``finished``."""
        kind = KINDS[self.name]
        if self.when == "close":  # the result is out by then
            return "finished"
        early = self.when != "middle"
        return "start_up" if kind == "crash" and early and self.name in BY_ITSELF else kind


def drawn(number: int) -> Fault | None:
    """The fault of a number: none for 0, and for one in five others."""
    rng = random.Random(number)
    if number == 0 or rng.random() < 0.2:
        return None
    name = rng.choice(sorted(KINDS.keys() - NOT_DRAWN))
    # a hang before the first batch takes as long to notice as a slow start may last
    late = KINDS[name] == "hang"
    weights = [0, 0, 0, 2, 1] if late else [3, 3, 3, 3, 1]
    return Fault(name, rng.choices(MOMENTS, weights)[0])


class FaultyLoader(Loader):
    """Four samples every 5 ms, until something happens."""

    def __init__(self, context: BuildContext, fault: Fault | None) -> None:
        self._context = context
        self._fault = fault
        self._closed = threading.Event()
        self._delivered = 0
        method = multiprocessing.get_context("fork")
        self._child = method.Process(target=_helper, daemon=True)
        self._child.start()

    def __iter__(self) -> Iterator[Batch]:
        misbehave(self._fault, "first_batch")
        while not self._closed.is_set():
            time.sleep(0.005)
            self._delivered += 1
            if self._delivered == MIDDLE:
                misbehave(self._fault, "middle")
            if not self._child.is_alive():
                raise RuntimeError("a child process of the loader is gone")
            yield Batch(None, None, 4, 64, 56, 80)

    def readback(self) -> Params:
        return dict(self._context.spec.params)

    def stage_stats(self) -> list[StageStats]:
        return []

    def failed(self) -> tuple[int, list[FailedClip]]:
        return 0, []

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            misbehave(self._fault, "close")
        self._child.kill()
        self._child.join()


class Faulty(Target):
    """See the module."""

    name = "faulty"
    needs_data = False

    class Params(BaseModel):
        """0 behaves."""

        number: int = 0

    class Settings(BaseModel):
        """``fault`` and ``when`` instead of a number's draw, ``once`` where this file is not there
        yet; ``completed`` logs finished runs."""

        fault: str = ""
        when: str = "middle"
        once: str = ""
        completed: str = ""

    def environment(self, params: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
        misbehave(fault_of(params, settings), "start")
        return {}

    def build(self, context: BuildContext) -> Loader:
        settings = context.spec.settings
        if settings.get("completed"):
            log_completed(Path(settings["completed"]), context.spec.uuid)
        fault = fault_of(context.spec.params, settings)
        misbehave(fault, "build")
        return FaultyLoader(context, fault)


def fault_of(params: Mapping[str, Any], settings: Mapping[str, Any]) -> Fault | None:
    """What is to go wrong with this configuration."""
    if settings.get("once"):
        try:
            Path(settings["once"]).touch(exist_ok=False)
        except FileExistsError:
            return None
    if settings.get("fault"):
        return Fault(settings["fault"], settings.get("when", "middle"))
    return drawn(int(params.get("number", 0)))


def misbehave(fault: Fault | None, now: When) -> None:
    """Do what goes wrong, if this is its moment."""
    if fault is not None and fault.when == now:
        FAULTS[fault.name]()


def log_completed(path: Path, uuid: str) -> None:
    """Append a line to a file as soon as a ``finished`` event is out, with no help of the product:
    what is in it was measured, and may not be lost."""
    write = EventWriter.__call__

    def logged(self: EventWriter, event: Any) -> bool:
        written = write(self, event)
        if written and event.event == "finished":
            line = f"{uuid} {time.monotonic():.3f}\n".encode()
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(descriptor, line)
            os.close(descriptor)
        return written

    EventWriter.__call__ = logged  # type: ignore[method-assign]


# --------------------------------------------------------------------------- what goes wrong


def _sleep() -> None:
    while True:
        time.sleep(1)


def _helper() -> None:
    """A child process of the loader. A fork, it holds the event pipe too unless it closes it."""
    os.close(_events())
    _sleep()


def _events() -> int:
    return int(sys.argv[sys.argv.index("--events-fd") + 1])


def _raise(error: BaseException) -> None:
    raise error


def _segfault() -> None:
    ctypes.string_at(0)


def _hang_with_the_gil() -> None:
    ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the GIL: no other thread runs


def _spin() -> None:
    while True:  # the GIL is handed on every few milliseconds
        pass


def _spin_with_the_gil() -> None:
    re.match("(a+)+$", "a" * 64 + "b")  # backtracks for ever, in C: no other thread runs


def _allocate() -> None:
    held = []
    while True:  # about 1 GiB/s, every page touched
        block = mmap.mmap(-1, 8 * 2**20)
        block.write(b"x" * len(block))
        held.append(block)


def _half_a_line() -> None:
    os.write(_events(), b'{"event": "window", "ti')
    _sleep()


def _garbage() -> None:
    os.write(_events(), b"Segmentation fault (no event)\n")
    _sleep()


def _close_the_pipe() -> None:
    os.close(_events())
    _sleep()


def _orphan() -> None:
    """Leave a grandchild with a session of its own, no descriptors and no environment."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, 256)
    os.execve("/bin/sleep", [_name(), "600"], {})


def _stubborn_child() -> None:
    """Leave a child that ignores what can be ignored."""
    if os.fork():
        return
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    _sleep()


def _fork_bomb() -> None:
    for _ in range(7):  # 127 processes
        os.fork()
    _sleep()


def left_by(study: str) -> str:
    """What the names of all that is left by trials of a study begin with."""
    return f"{LEFT}-{study[:8]}"


def _name() -> str:
    return left_by(os.environ[STUDY_MARK])


def _leak() -> None:
    """Leave shared memory, a semaphore, both of System V too, and a temporary file."""
    for name in (f"{_name()}-{os.getpid()}", f"sem.{_name()}-{os.getpid()}"):
        with open(f"/dev/shm/{name}", "wb+") as file:
            file.truncate(4096)
            _KEPT.append(mmap.mmap(file.fileno(), 4096))
    libc = ctypes.CDLL(None)
    libc.shmget(0, 4096, 0o1600)  # IPC_PRIVATE, IPC_CREAT
    libc.semctl(libc.semget(0, 2, 0o1600), 0, 16, 1)  # SETVAL: the last to operate on it is known
    Path(tempfile.mkdtemp(prefix=_name()), "left").write_bytes(b"x")


_KEPT: list[mmap.mmap] = []

FAULTS: dict[str, Callable[[], None]] = {
    "segfault": _segfault,
    "abort": os.abort,
    "exit": lambda: os._exit(7),
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sigterm": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "error": lambda: _raise(RuntimeError("the decoder is broken")),
    "child_dies": lambda: _raise(RuntimeError("a child process of the loader is gone")),
    "hang": _sleep,
    "hang_with_the_gil": _hang_with_the_gil,
    "spin": _spin,
    "spin_with_the_gil": _spin_with_the_gil,
    "half_a_line": _half_a_line,
    "closed_pipe": _close_the_pipe,
    "garbage": _garbage,
    "allocate": _allocate,
    "memory_error": lambda: _raise(MemoryError()),
    "gpu_memory": lambda: _raise(RuntimeError("failed: CUDA_ERROR_OUT_OF_MEMORY (2)")),
    "data_error": lambda: _raise(DataError("b/odd.mp4", "no video stream")),
    "unsupported": lambda: _raise(UnsupportedError("no GPU; use device: cpu")),
    "fork_bomb": _fork_bomb,
    "orphan": _orphan,
    "stubborn_child": _stubborn_child,
    "leak": _leak,
}

KINDS: dict[str, str] = {
    "segfault": "crash",
    "abort": "crash",
    "exit": "crash",
    "sigkill": "crash",
    "sigterm": "crash",
    "error": "crash",
    "child_dies": "crash",
    "hang": "hang",
    "hang_with_the_gil": "hang",
    "spin": "hang",
    "spin_with_the_gil": "hang",
    "half_a_line": "hang",
    "closed_pipe": "crash",
    "garbage": "crash",
    "allocate": "host_out_of_memory",
    "memory_error": "host_out_of_memory",
    "gpu_memory": "gpu_out_of_memory",
    "data_error": "data",
    "unsupported": "unsupported",
    "fork_bomb": "crash",
    "orphan": "finished",
    "stubborn_child": "finished",
    "leak": "finished",
}
"""What has to come of each fault, before the result is out."""

NOT_DRAWN = frozenset({"spin", "spin_with_the_gil"})
"""Never a number's fault: they hang as others do, and take a core away from what runs beside."""

BY_ITSELF = frozenset({"exit", "error", "child_dies"})
"""The worker ends by itself and not by a signal: before the first batch, a failed start."""

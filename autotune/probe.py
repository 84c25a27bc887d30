"""Two calls for a training script that `autotune` measures through the target ``command``.

    from autotune import probe

    probe.start(num_workers=args.num_workers, batch_size=args.batch_size)  # once, may be left out
    for video, label in loader:
        train(video, label)
        probe.step(samples=len(video), frames=video.shape[2] * len(video))

Standard library only, and nothing of the rest of `autotune` is loaded, so the script can keep the
calls for good: outside a measurement they return at once, and they never raise because of one.
Every process of a distributed job calls them; the samples of all ranks are added up.

A program in another language writes the same lines itself. ``AUTOTUNE_EVENTS`` is the number of
an open descriptor; ``AUTOTUNE_EVENTS_PATH`` names the same pipe for processes that did not
inherit it (`torchrun` closes descriptors). One JSON object a line, in one write of at most 4096
bytes:

    {"event": "step", "samples": 16}
    {"event": "step", "samples": 16, "frames": 256, "rank": 3, "time": 81723.25}
    {"event": "start", "rank": 0, "parameters": {"num_workers": 4}}
    {"event": "stage", "name": "augment", "tasks": 8, "busy_seconds": 0.41, "pid": 4711}

``time`` is seconds of CLOCK_MONOTONIC (default: when the line is read), ``rank`` tells processes
apart (default 0). ``tasks`` and ``busy_seconds`` of a stage are since the line before of that
process, ``pid``.

Three more calls let `autotune watch` look into a loader while it runs; what the first and the last
time is also among the stages of a measurement. They too may stay: where nobody watches or measures
they return at once.

    loader = probe.watch(DataLoader(...))       # waits for batches, batches that are ready
    probe.queue("frames", my_queue)             # anything with qsize() or a length, or a function
    with probe.stage("augment"):                # how long it takes, and how often
        ...
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from autotune.publishing.teller import Teller

DESCRIPTOR_VARIABLE = "AUTOTUNE_EVENTS"
PATH_VARIABLE = "AUTOTUNE_EVENTS_PATH"

MAX_LINE_BYTES = 4096
"""PIPE_BUF: the lines of several processes cannot mix up to this length."""

_LONGEST_TEXT = 200
_TELL_SECONDS = 0.5

_WATCHING_VARIABLES = ("AUTOTUNE_LIVE", "AUTOTUNE_SCRATCH")
"""Where to publish; and set in a trial, which somebody may begin to watch at any time."""

_AnyLoader = TypeVar("_AnyLoader")

_RANK_VARIABLES = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
"""Of torchrun and what works like it, Open MPI, MPICH, Slurm."""


class _Reporter:
    """The pipe of this process, looked for by the first call."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self.active: bool | None = None
        """Whether somebody reads; None before the first call."""
        self._warned = False

    def open(self) -> bool:
        """Look for the pipe; returns whether there is one."""
        with contextlib.suppress(OSError, ValueError):
            self._descriptor = _open()
        self.active = self._descriptor is not None
        return self.active

    def send(self, event: dict[str, object]) -> None:
        """Write one line; a measurement that is over is no fault of the script."""
        import json  # not at the top: a script that is not measured need not load it

        if self._descriptor is None:
            return
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            self._warn_of_length(event, len(line))
            return
        try:
            os.write(self._descriptor, line)
        except OSError:  # nobody reads any more
            self._descriptor, self.active = None, False

    def _warn_of_length(self, event: dict[str, object], length: int) -> None:
        """Once; an exception would end a training because of its measurement."""
        if not self._warned:
            self._warned = True
            print(
                f"autotune.probe: {event['event']} is left out: its line of {length} bytes is "
                f"longer than the {MAX_LINE_BYTES} that are written whole. Report less in a call",
                file=sys.stderr,
            )


def _open() -> int | None:
    path = os.environ.get(PATH_VARIABLE)
    if path:
        # without O_NONBLOCK, opening a pipe that nobody reads would wait for ever
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(descriptor, True)
        return descriptor
    number = os.environ.get(DESCRIPTOR_VARIABLE)
    if number is None:
        return None
    descriptor = int(number)
    # a process that did not inherit it may have another file under that number
    return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None


_reporter = _Reporter()


class _Stages:
    """What this process's stages did, told to the measurement now and then. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[str, tuple[int, float]] = {}
        self._told = time.monotonic()

    def took(self, name: str, seconds: float) -> None:
        """A task of a stage is done."""
        with self._lock:
            tasks, busy = self._totals.get(name, (0, 0.0))
            self._totals[name] = (tasks + 1, busy + seconds)
            now = time.monotonic()
            if now - self._told < _TELL_SECONDS:
                return
            self._told, due, self._totals = now, self._totals, {}
        for told, (tasks, busy) in due.items():
            _reporter.send(
                {
                    "event": "stage",
                    "name": str(told)[:_LONGEST_TEXT],
                    "tasks": tasks,
                    "busy_seconds": round(busy, 6),
                    "pid": os.getpid(),
                }
            )


_stages = _Stages()


class _Watching:
    """Whoever watches this process, looked for by the first call."""

    def __init__(self) -> None:
        self.teller: Teller | None = None
        self.active: bool | None = None
        """Whether somebody watches, or may begin to; None before the first call."""

    def look(self) -> Teller | None:
        """Begin to tell where the environment says so; None where nobody watches."""
        if self.active is None:
            self.active = any(name in os.environ for name in _WATCHING_VARIABLES)
            if self.active:
                from autotune.publishing.teller import connected

                self.teller = connected(_rank())
        return self.teller


_watching = _Watching()


def _forked() -> None:
    """A worker of the loader tells for itself, from its first call on."""
    global _watching, _stages
    _watching, _stages = _Watching(), _Stages()


os.register_at_fork(after_in_child=_forked)


class _Listeners:
    """Whoever wants to know of stages and queues: who watches, and who measures."""

    def __init__(self, teller: Teller | None) -> None:
        self._teller = teller

    def took(self, name: str, seconds: float) -> None:
        """A task of a stage is done."""
        if self._teller is not None:
            self._teller.took(name, seconds)
        if active():
            _stages.took(name, seconds)

    def add_queue(self, name: str, size: Callable[[], int], capacity: int) -> None:
        """There is a queue; a measurement has no use for it."""
        if self._teller is not None:
            self._teller.add_queue(name, size, capacity)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """What is done inside is a task of a stage."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.took(name, time.monotonic() - began)


def _listeners() -> _Listeners | None:
    """None where nobody watches or measures."""
    teller = None if _watching.active is False else _watching.look()
    return _Listeners(teller) if teller is not None or active() else None


def active() -> bool:
    """Whether this process runs in a measurement of the target ``command``."""
    return _reporter.open() if _reporter.active is None else _reporter.active


def start(**parameters: bool | int | float | str) -> None:
    """Tell the parameters as this script really uses them.

    `autotune` compares those it asked for: a difference fails the trial, so that a flag that is
    ignored or overruled cannot pass for one that makes no difference. Others do not matter.
    """
    if active():
        plain = {name: _plain(value) for name, value in parameters.items()}
        _reporter.send({"event": "start", "rank": _rank(), "parameters": plain})


def step(samples: int, frames: int = 0) -> None:
    """Tell that a training step is done.

    Args:
        samples: samples of this process in the step.
        frames: their video frames, padding included; 0 if not known: then
            ``target.frames_per_sample`` counts.
    """
    if active():
        _reporter.send(
            {
                "event": "step",
                "time": time.monotonic(),
                "rank": _rank(),
                "samples": int(samples),
                "frames": int(frames),
            }
        )
    if _watching.active is not False and (teller := _watching.look()):
        teller.stepped(int(samples), int(frames))


def queue(name: str, queue: Any, capacity: int = 0) -> None:
    """Have it published how full a queue is.

    It is asked twice a second, from a thread of its own, and kept alive until another one is
    given under the same name.

    Args:
        name: as shown.
        queue: with ``qsize()`` or a length, or a function that returns how many items wait.
        capacity: the most it holds; 0: its ``maxsize`` or ``maxlen`` if it has one, else unknown.
    """
    if _watching.active is not False and (teller := _watching.look()):
        size = getattr(queue, "qsize", None) or (queue if callable(queue) else lambda: len(queue))
        limit = capacity or getattr(queue, "maxsize", None) or getattr(queue, "maxlen", None) or 0
        teller.add_queue(name, size, int(limit))


def stage(name: str) -> AbstractContextManager[None]:
    """Have it told how long what is done inside takes, and how often it is done."""
    listeners = _listeners()
    return _NOTHING if listeners is None else listeners.timed(name)


_NOTHING = contextlib.nullcontext()


def watch(loader: _AnyLoader, name: str = "next") -> _AnyLoader:
    """The same loader; while somebody watches or measures, one that tells how long each batch is
    waited for and, of a `torch.utils.data.DataLoader` with workers, how many batches are ready.

    Args:
        loader: any iterable of batches, before its first epoch.
        name: of the stage that waiting for a batch is shown as.
    """
    listeners = _listeners()
    if listeners is None:
        return loader
    from autotune.publishing.watched import Watched

    return Watched(loader, listeners, name)  # type: ignore[return-value]


def _rank() -> int:
    """Of this process in a distributed job, as its launcher says it."""
    for name in _RANK_VARIABLES:
        text = os.environ.get(name, "")
        if text.isdigit():
            return int(text)
    return 0


def _plain(value: object) -> bool | int | float | str:
    if isinstance(value, bool | int | float):
        return value
    return str(value)[:_LONGEST_TEXT]

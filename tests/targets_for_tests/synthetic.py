"""Targets without video, for tests of workers, supervisors and executors.

Given by import path (`synthetic:Steady`), with this folder on PYTHONPATH. What they do wrong is
in ``settings``, so that one class serves most tests.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing import shared_memory
from typing import Any

from pydantic import BaseModel

from autotune.exceptions import DataError, UnsupportedError
from autotune.targets.base import Batch, BuildContext, Loader, Target
from autotune.trial import FailedClip, Params, StageStats


def sleep_for_ever() -> None:
    """Body of a child process that outlives its parent, if nobody ends it."""
    while True:
        time.sleep(0.1)


class SyntheticLoader(Loader):
    """Delivers batches at a fixed pace."""

    def __init__(self, context: BuildContext) -> None:
        settings = context.spec.settings
        self._settings = settings
        self._context = context
        self._pace = float(settings.get("seconds_per_batch", 0.01))
        self._closed = threading.Event()
        self._delivered = 0
        self._failed = 0
        self._segment: shared_memory.SharedMemory | None = None
        if settings.get("forkserver"):
            method = multiprocessing.get_context("forkserver")
            method.Process(target=sleep_for_ever, daemon=True).start()
        if settings.get("segment"):
            self._segment = shared_memory.SharedMemory(settings["segment"], create=True, size=4096)

    @property
    def prefetched_batches(self) -> int:
        return int(self._settings.get("prefetched", 0))

    def __iter__(self) -> Iterator[Batch]:
        if self._settings.get("slow_rank", self._context.rank) == self._context.rank:
            time.sleep(float(self._settings.get("slow_start", 0.0)))
        for _ in range(self.prefetched_batches):
            yield self._batch()
        while not self._closed.is_set():
            time.sleep(self._pace)
            share = float(self._settings.get("failed_share", 0.0))
            size = int(self._context.spec.params["batch_size"])
            if share >= 1.0:
                self._failed += size
                continue
            self._failed = round(self._delivered * share / (1 - share))
            self._misbehave()
            yield self._batch()

    def _batch(self) -> Batch:
        size = int(self._context.spec.params["batch_size"])
        self._delivered += size
        return Batch(None, None, size, 16 * size, 14 * size, 20 * size)

    def _misbehave(self) -> None:
        after, fault = self._settings.get("fault", (0, ""))
        if (
            fault
            and self._delivered > after
            and self._context.rank in (self._settings.get("fault_rank", 0),)
        ):
            FAULTS[fault](self._context)

    def readback(self) -> Params:
        read = dict(self._context.spec.params)
        read.update(self._settings.get("built", {}))
        for name in self._settings.get("not_read_back", []):
            del read[name]
        return read

    def stage_stats(self) -> list[StageStats]:
        return [StageStats(name="make", concurrency=2, tasks=10, busy_seconds=0.1, queue_size=3)]

    def failed(self) -> tuple[int, list[FailedClip]]:
        clips = [FailedClip(name="a/bad.mp4", cause="no frame")] if self._failed else []
        return self._failed, clips

    def close(self) -> None:
        self._closed.set()
        if self._segment is not None:
            self._segment.close()
            self._segment.unlink()
        if self._settings.get("hang_in_close"):
            time.sleep(3600)
        if self._settings.get("thread_stays"):
            threading.Thread(target=sleep_for_ever, name="stays").start()

    def versions(self) -> dict[str, str]:
        return {"synthetic": "1", "given": os.environ.get("SYNTHETIC_LIBRARY", "")}


def _segfault(context: BuildContext) -> None:
    ctypes.string_at(0)


def _hang(context: BuildContext) -> None:
    while True:
        time.sleep(0.05)


def _hang_with_the_gil(context: BuildContext) -> None:
    ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the GIL: no other thread runs


def _exit(context: BuildContext) -> None:
    os._exit(7)


def _error(context: BuildContext) -> None:
    raise RuntimeError("the decoder\nis broken")


def _data_error(context: BuildContext) -> None:
    raise RuntimeError("pipeline failed") from DataError("b/odd.mp4", "no video stream")


def _memory_error(context: BuildContext) -> None:
    raise MemoryError


def _garbage(context: BuildContext) -> None:
    descriptor = int(sys.argv[sys.argv.index("--events-fd") + 1])
    os.write(descriptor, b"Segmentation fault (no event)\n")


def _kill_itself(context: BuildContext) -> None:
    os.kill(os.getpid(), 9)


FAULTS = {
    "segfault": _segfault,
    "hang": _hang,
    "hang_with_the_gil": _hang_with_the_gil,
    "exit": _exit,
    "error": _error,
    "data_error": _data_error,
    "memory_error": _memory_error,
    "garbage": _garbage,
    "sigkill": _kill_itself,
}


class Steady(Target):
    """A loader with a known rate: batch_size / seconds_per_batch."""

    name = "steady"

    class Params(BaseModel):
        batch_size: int = 4
        num_threads: int = 1

    class Settings(BaseModel):
        seconds_per_batch: float = 0.01

    def environment(self, params: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
        if settings.get("unsupported"):
            raise UnsupportedError("no GPU; use device: cpu")
        return {"SYNTHETIC_LIBRARY": settings["library"]} if "library" in settings else {}

    def build(self, context: BuildContext) -> Loader:
        if "error_in_build" in context.spec.settings:
            raise ValueError(context.spec.settings["error_in_build"])
        return SyntheticLoader(context)

    def machine(self, params: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"synthetic": os.environ.get("SYNTHETIC_LIBRARY", "none")}

"""A target without video, as a plug-in announces one: more threads are faster, three crash."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from autotune.targets.base import Batch, BuildContext, Loader, Target
from autotune.trial import FailedClip, Params, StageStats


class PacedLoader(Loader):
    """One batch of 4 samples every 40 ms / threads."""

    def __init__(self, context: BuildContext) -> None:
        self._params = dict(context.spec.params)
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Batch]:
        threads = int(self._params["threads"])
        while not self._closed.is_set():
            time.sleep(0.04 / threads)
            if threads == 3:
                os._exit(9)
            yield Batch(None, None, 4, 64, 56, 80)

    def readback(self) -> Params:
        return self._params

    def stage_stats(self) -> list[StageStats]:
        return []

    def failed(self) -> tuple[int, list[FailedClip]]:
        return 0, []

    def close(self) -> None:
        self._closed.set()


class Paced(Target):
    name = "paced"
    needs_data = False

    class Params(BaseModel):
        threads: int = 1

    class Settings(BaseModel):
        label: str = ""

    def environment(self, params: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
        return {}

    def build(self, context: BuildContext) -> Loader:
        return PacedLoader(context)

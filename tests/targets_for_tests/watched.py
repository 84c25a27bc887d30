"""A loader that is watched: two queues, and what it knows of this process's own threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from synthetic import Steady, SyntheticLoader

from autotune.targets.base import BuildContext, Loader, QueueLevel


class WatchedLoader(SyntheticLoader):
    """Says how full its queues are, and which threads run when it is built."""

    def queues(self) -> list[QueueLevel]:
        return [QueueLevel("make", 2, 3), QueueLevel("sink", self._delivered % 4, 4)]

    def versions(self) -> dict[str, str]:
        names = sorted(thread.name for thread in threading.enumerate())
        return {"threads": " ".join(names)}


class Watched(Steady):
    name = "watched"

    def build(self, context: BuildContext) -> Loader:
        return WatchedLoader(context)

    def environment(self, params: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
        return {}

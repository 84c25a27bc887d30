"""The worker's side of watching: what the loader that is measured publishes.

Rates and stage times are those of the windows that the measuring loop makes anyway; what is asked
besides, twice a second, is how full the queues are. Nothing of it runs before somebody watches.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autotune.publishing import publisher
from autotune.publishing.publisher import LIVE_VARIABLE, live_folder
from autotune.system import processes
from autotune.trial import Event, SampleEvent, StageStats, TrialSpec, Window, WindowEvent

if TYPE_CHECKING:
    from autotune.targets.base import Loader

_log = logging.getLogger("autotune.live")

_MOST_WINDOWS = 64
"""Between two lines there are two; more only if the publishing thread was held up."""


class Live:
    """Publishes what one rank does from `begin` on."""

    def __init__(self, rank: int) -> None:
        self._publisher = publisher.begin(rank)
        self._publisher.add_source(self._told)
        self._on = False
        self._loader: Loader | None = None
        self._windows: deque[Window] = deque(maxlen=_MOST_WINDOWS)

    def describe(self, spec: TrialSpec) -> None:
        """Tell what is measured; publish from now on where the environment says so."""
        self._publisher.about = {
            "trial": spec.uuid,
            "target": spec.target,
            "mode": spec.mode,
            "params": spec.params,
            "ranks": spec.ranks,
        }
        if path := os.environ.get(LIVE_VARIABLE):
            self._publish_to(path)

    def watch(self, loader: Loader) -> None:
        """Tell of this loader."""
        self._loader = loader

    def begin(self) -> None:
        """Somebody watches the trial: publish in its folder. From any thread."""
        if scratch := os.environ.get(processes.SCRATCH_MARK):
            self._publish_to(live_folder(scratch))

    def _publish_to(self, path: str) -> None:
        try:
            self._publisher.publish_to(path)
        except OSError as error:
            _log.warning("%s: %s; nothing is published there", path, error.strerror)
            return
        self._on = True

    def tap(self, emit: Callable[[Event], object]) -> Callable[[Event], object]:
        """Events pass as before, and their windows are published."""

        def seen(event: Event) -> object:
            if self._on and isinstance(event, WindowEvent | SampleEvent):
                self._windows.append(event.window)
            return emit(event)

        return seen

    def stop(self) -> None:
        """Publish no more, before the loader is closed."""
        self._publisher.stop()
        self._loader = None

    def _told(self) -> dict[str, Any]:
        from autotune.measuring.figures import merge_stages

        windows = [self._windows.popleft() for _ in range(len(self._windows))]
        stages = merge_stages(windows)
        return {
            "samples": sum(window.samples for window in windows),
            "frames": sum(window.frames for window in windows),
            "batches": sum(window.batches for window in windows),
            "queues": self._queues(stages),
            "stages": [_stage(stage) for stage in stages],
        }

    def _queues(self, stages: list[StageStats]) -> list[dict[str, Any]]:
        """Levels now, each with the mean filling over the windows where those tell it."""
        filled = {s.name: s.queue_occupancy for s in stages if s.queue_size}
        levels = [] if self._loader is None else self._loader.queues()
        queues: list[dict[str, Any]] = [
            {"name": level.name, "size": level.size, "capacity": level.capacity}
            | ({"filled": round(filled[level.name], 4)} if level.name in filled else {})
            for level in levels
        ]
        if queues:
            return queues
        return [  # a target that does not tell levels
            {
                "name": stage.name,
                "size": round(stage.queue_size * stage.queue_occupancy),
                "capacity": stage.queue_size,
                "filled": round(stage.queue_occupancy, 4),
            }
            for stage in stages
            if stage.queue_size
        ]


def _stage(stage: StageStats) -> dict[str, Any]:
    return {
        "name": stage.name,
        "concurrency": stage.concurrency,
        "tasks": stage.tasks,
        "busy_seconds": round(stage.busy_seconds, 5),
        "failures": stage.failures,
    }

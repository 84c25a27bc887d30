"""Targets with video, which deliver something else than they were asked for, or burn CPU time.

`lying:Lying` delivers 4 frames of 8 x 8 pixels; ``settings["lie"]`` says what is wrong with it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from autotune.targets.base import Accounts, Batch, BuildContext, Loader, Target
from autotune.trial import Delivered, FailedClip, Params, StageStats, TrialSpec

FRAMES = 4
SIZE = 8
CAPACITY = 8

SPIN = "while True: pass"


class LyingLoader(Loader):
    """Batches of noise every 10 ms."""

    def __init__(self, context: BuildContext) -> None:
        settings = context.spec.settings
        self._lie = str(settings.get("lie", ""))
        self._size = int(context.spec.params["batch_size"])
        self._closed = threading.Event()
        self._handed_out = 0
        self._burners = [
            subprocess.Popen([sys.executable, "-c", SPIN])
            for _ in range(int(settings.get("burners", 0)))
        ]

    def __iter__(self) -> Iterator[Batch]:
        step = 0
        while not self._closed.wait(0.01):
            step += 1
            self._handed_out += self._size
            if self._lie == "dropped_samples" and step % 2:
                continue
            yield self._batch(step)

    def _batch(self, step: int) -> Batch:
        if self._lie == "counts_only":  # no lie, and quick to start: torch is not imported
            size = self._size
            return Batch(None, None, size, FRAMES * size, FRAMES * size, FRAMES * size)
        import torch

        lie = self._lie if not self._lie.startswith("late_") else ""
        if self._lie.startswith("late_") and step > 20:
            lie = self._lie.removeprefix("late_")
        frames = 3 if lie == "fewer_frames" else FRAMES
        width = SIZE // 2 if lie == "smaller" else SIZE
        video: Any = torch.rand(self._size, 3, frames, SIZE, width)
        if lie == "nan":
            video[-1, 0, 0, 0, 0] = float("nan")
        elif lie == "black":
            video = torch.zeros_like(video)
        elif lie == "still":
            video[:] = video[:, :, :1]
        elif lie == "uint8":
            video = (video * 255).to(torch.uint8)
        counted = self._size * (FRAMES - 1 if lie == "miscounted_frames" else frames)
        samples = self._size + (1 if lie == "miscounted_samples" else 0)
        label = torch.zeros(self._size, dtype=torch.int64)
        return Batch(video, label, samples, counted, FRAMES * self._size, counted)

    def accounts(self) -> Accounts | None:
        return Accounts(self._handed_out, CAPACITY)

    def readback(self) -> Params:
        return {"batch_size": self._size, "device": "cpu"}

    def stage_stats(self) -> list[StageStats]:
        return []

    def failed(self) -> tuple[int, list[FailedClip]]:
        return 0, []

    def close(self) -> None:
        self._closed.set()
        for burner in self._burners:
            burner.kill()
            burner.wait()


class Lying(Target):
    """See the module."""

    name = "lying"

    class Params(BaseModel):
        batch_size: int = 4
        device: str = "cpu"

    class Settings(BaseModel):
        lie: str = ""

    def environment(self, params: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
        return {}

    def build(self, context: BuildContext) -> Loader:
        return LyingLoader(context)

    def expected(self, spec: TrialSpec) -> Delivered | None:
        if spec.settings.get("unknown"):
            return None
        device = "cuda" if spec.settings.get("wants_cuda") else "cpu"
        return Delivered(
            shape=[3, FRAMES, SIZE, SIZE],
            dtype="float32",
            device=device,
            frames_per_sample=FRAMES,
        )

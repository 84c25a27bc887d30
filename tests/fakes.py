"""An executor without processes: figures come from a function. For the study loop's own logic."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

from autotune.executors.base import Executor, Job, OnEvent
from autotune.trial import (
    Contamination,
    Failure,
    Fingerprint,
    Measurement,
    NodeInfo,
    Params,
    ProbeRequest,
    TrialResult,
    TrialSpec,
)

Surface = Callable[[Params], "float | Failure"]


def measurement(rate: float) -> Measurement:
    return Measurement(
        samples_per_second=rate,
        within_low=rate * 0.98,
        within_high=rate * 1.02,
        fps=rate * 16,
        decoded_fps=rate * 15,
        unique_frames=14.0,
        time_to_first_batch=1.0,
        accelerator_utilization=0.0,
        warmup_seconds=0.5,
        seconds=2.0,
        steady=True,
        batches=20,
        samples=320,
        frames=5120,
        decoded_frames=4800,
        failed=0,
        slowest_rank=rate,
    )


def disturbed(result: TrialResult, lost: float = 0.5) -> TrialResult:
    """The same run with another program beside it that took a share of its capacity."""
    made = result.measurement
    assert made is not None
    slower = made.samples_per_second * (1 - lost)
    found = Contamination(lost=lost, marked=True, causes=["foreign load"])
    changed = {"samples_per_second": slower, "contamination": found}
    return result.model_copy(update={"measurement": made.model_copy(update=changed)})


class FakeJob(Job):
    def __init__(self, spec: TrialSpec, result: TrialResult) -> None:
        self.uuid = spec.uuid
        self.node = "fake"
        self._result = result

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> TrialResult:
        return self._result

    def stop(self) -> None:
        pass


class FakeExecutor(Executor):
    """Answers at once. ``noise`` is the relative standard deviation between runs."""

    slots = 1

    def __init__(self, surface: Surface, noise: float = 0.0, seed: int = 0) -> None:
        self._surface = surface
        self._noise = noise
        self._random = random.Random(seed)
        self.specs: list[TrialSpec] = []
        """Those that measure a loader."""
        self.closed = False
        self.machine = {"cpu": "fake", "cores": 2}
        self.before: Callable[[TrialSpec], None] = lambda spec: None
        self.disturbs: Callable[[TrialSpec], bool] = lambda spec: False
        """Whether another program takes half of the machine during this measurement."""

    @classmethod
    def create(
        cls, *, address: str | None, slots_per_node: int, on_event: OnEvent | None = None
    ) -> FakeExecutor:
        return cls(lambda params: 1.0)

    def start(self, probe: ProbeRequest) -> list[NodeInfo]:
        return [
            NodeInfo(
                node="fake",
                fingerprint=Fingerprint(machine=self.machine, data={"hash": "d"}),
                names={"cpu_count": 2, "gpu_count": 0, "memory_gib": 16.0},
                manifest_hash="d",
                num_samples=240,
            )
        ]

    def submit(self, spec: TrialSpec, node: str | None = None) -> FakeJob:
        common = {"uuid": spec.uuid, "node": "fake", "started_at": time.time(), "wall_seconds": 5.0}
        if spec.mode != "loader":
            none = Failure(kind="unsupported", cause="a made-up surface has no ceiling")
            return FakeJob(spec, TrialResult(state="failed", failure=none, **common))
        self.before(spec)
        self.specs.append(spec)
        answer = self._surface(spec.params)
        if isinstance(answer, Failure):
            return FakeJob(spec, TrialResult(state="failed", failure=answer, **common))
        rate = answer * math.exp(self._random.gauss(0, self._noise))
        made = TrialResult(state="finished", measurement=measurement(rate), **common)
        return FakeJob(spec, disturbed(made) if self.disturbs(spec) else made)

    def close(self) -> None:
        self.closed = True

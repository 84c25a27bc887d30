"""How a measurement ended: its figures or its failure, as the driver gets them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autotune.trial.figures import Measurement, Window
from autotune.trial.values import Value

FailureKind = Literal[
    "start_up",
    "crash",
    "host_out_of_memory",
    "gpu_out_of_memory",
    "hang",
    "deadline",
    "data",
    "unsupported",
    "contaminated",
    "infrastructure",
]
"""A closed list. ``contaminated`` is a measurement that others kept from being judged at all: files
that do not stay in the page cache, a GPU whose memory foreign processes hold. One that was slowed
has a figure, and is marked (`Contamination`)."""


class Failure(Value):
    """Why a measurement has no figure."""

    kind: FailureKind
    cause: str
    advice: str = ""


class TrialResult(Value):
    """One measurement's outcome, as the driver gets it from an executor."""

    uuid: str
    state: Literal["finished", "failed", "stopped"]
    measurement: Measurement | None = None
    failure: Failure | None = None
    windows: list[Window] = Field(default_factory=list)
    log_tail: str = ""
    command_line: str = ""
    exit_code: int | None = None
    """Exit status of the worker; negative for a signal."""
    node: str = ""
    started_at: float = 0.0
    """Unix time."""
    wall_seconds: float = 0.0
    """From spawning the worker until nothing of it was left."""
    timeline: dict[str, float] = Field(default_factory=dict)
    """Seconds since the spawn at which each kind of event came first, and at which the worker
    ended by itself (``exited``)."""

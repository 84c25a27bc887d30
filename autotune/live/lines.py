"""What is read and what is shown: a line of a loader's process, a point of what is watched."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from autotune.trial import Value


class _Read(BaseModel):
    """What another version may have written: keys that are not known do not matter."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class QueueLine(_Read):
    """A queue, as published."""

    name: str
    size: int
    capacity: int = 0
    filled: float | None = None
    """Mean filling since the last line, 0 to 1; None where only the level now is known."""


class StageLine(_Read):
    """What a stage did since the last line."""

    name: str
    concurrency: int = 0
    tasks: int = 0
    busy_seconds: float = 0.0
    failures: int = 0


class Line(_Read):
    """One line of one process; counts are since its last one. See `publishing.publisher`."""

    time: float
    """Unix time."""
    pid: int
    rank: int = 0
    seconds: float = Field(ge=0)
    samples: int = 0
    frames: int = 0
    batches: int = 0
    rss_bytes: int = 0
    cost_seconds: float = 0.0
    dropped: int = 0
    queues: list[QueueLine] = Field(default_factory=list)
    stages: list[StageLine] = Field(default_factory=list)
    about: dict[str, Any] | None = None
    error: str | None = None
    """A queue that could not be asked."""


class QueuePoint(Value):
    """A queue over one interval, added up over the processes that have one of that name."""

    name: str
    size: int
    capacity: int
    filled: float | None
    """0 to 1; None where the capacity is not known."""


class StagePoint(Value):
    """A stage over one interval, added up over processes."""

    name: str
    concurrency: int
    tasks_per_second: float
    milliseconds: float | None
    """Mean time of a task; None without one, and where it only hands over."""
    busy: float | None
    """Share of its threads at work, 0 to 1; None where their number is not known."""
    failures: int


class Point(Value):
    """What is watched, over one interval."""

    time: float
    """Unix time of its end."""
    seconds: float
    samples_per_second: float
    fps: float
    batches_per_second: float
    reporting: int
    """Processes that published."""
    queues: list[QueuePoint]
    stages: list[StagePoint]
    memory_gib: float | None = None
    """Resident memory of all processes; pages that several share count in each."""
    processes: int | None = None
    cpu_cores: float | None = None
    """Cores that they keep busy."""

"""What a worker reports while it measures, one JSON line an event."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from autotune.trial.figures import Growing, Measurement, Window
from autotune.trial.results import Failure
from autotune.trial.values import Params, Value


class StartedEvent(Value):
    event: Literal["started"] = "started"
    time: float
    pid: int
    rank: int = 0
    environment: dict[str, str] = Field(default_factory=dict)
    """What the target asked of the environment; the next worker can be started with it."""


class PreparingEvent(Value):
    """The files that the measurement can read are being read into memory, or evicted."""

    event: Literal["preparing"] = "preparing"
    time: float
    rank: int = 0


class PreparedEvent(Value):
    """The files are as the measurement asks for them: the pipeline starts up."""

    event: Literal["prepared"] = "prepared"
    time: float
    rank: int = 0


class BuiltEvent(Value):
    """The pipeline stands; ``readback`` was compared with the specification."""

    event: Literal["built"] = "built"
    time: float
    rank: int = 0
    readback: Params
    versions: dict[str, str] = Field(default_factory=dict)


class FirstBatchEvent(Value):
    event: Literal["first_batch"] = "first_batch"
    time: float
    rank: int = 0
    seconds: float


class WindowEvent(Value):
    event: Literal["window"] = "window"
    time: float
    window: Window
    samples_per_second: float | None = None
    """Running estimate over the steady part, with its within-run interval."""
    low: float | None = None
    high: float | None = None


class SampleEvent(Value):
    """In place of `WindowEvent` where hours are measured: a window without its batches."""

    event: Literal["sample"] = "sample"
    time: float
    window: Window
    """Its only arrival is its end."""
    memory_gib: float | None = None
    """Of all processes; None from a rank among several."""
    processes: int | None = None


class GrowthEvent(Value):
    """What grows in the processes of the loader, as far as is known."""

    event: Literal["growth"] = "growth"
    time: float
    rank: int = 0
    growing: list[Growing]


class FinishedEvent(Value):
    event: Literal["finished"] = "finished"
    time: float
    measurement: Measurement


class FailedEvent(Value):
    event: Literal["failed"] = "failed"
    time: float
    rank: int = 0
    failure: Failure


Event = Annotated[
    StartedEvent
    | PreparingEvent
    | PreparedEvent
    | BuiltEvent
    | FirstBatchEvent
    | WindowEvent
    | SampleEvent
    | GrowthEvent
    | FinishedEvent
    | FailedEvent,
    Field(discriminator="event"),
]

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(line: str | bytes) -> Event:
    """Parse one JSON line of a worker.

    Raises:
        pydantic.ValidationError: if the line is no event.
    """
    return _EVENT.validate_json(line)

"""What a target is: a loader pipeline that the worker can start with a configuration.

A target is found by name through the entry point group ``autotune.targets`` (see
`autotune.plugins`). It lives in the worker process only: it never sees Optuna, Ray or the
database.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel

from autotune.trial import FailedClip, StageStats, TrialSpec
from autotune.trial import Params as Configuration


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as handed to the consumer.

    ``video`` is float32 in 0..1, shape [N, C, T, H, W]; ``label`` int64, shape [N]; both on the
    device that the configuration names.
    """

    video: Any
    label: Any
    samples: int
    frames: int
    """Frames handed over, padding included."""
    unique_frames: int
    decoded_frames: int


@dataclass(frozen=True)
class BuildContext:
    """What a target gets to build its loader from."""

    spec: TrialSpec
    rank: int = 0
    world_size: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)


class Loader(ABC):
    """A pipeline that was built. Iterating never ends until `close` is called."""

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Yield batches in the seeded order, epoch after epoch, without an end."""

    @abstractmethod
    def readback(self) -> Configuration:
        """Every parameter as read from the pipeline that was built, never from the request."""

    @abstractmethod
    def stage_stats(self) -> list[StageStats]:
        """Stage statistics since the last call."""

    @abstractmethod
    def failed(self) -> tuple[int, list[FailedClip]]:
        """How many samples failed so far, and up to 20 of them by name and cause."""

    @abstractmethod
    def close(self) -> None:
        """End every thread and process of the pipeline. Idempotent."""

    def on_epoch_or_step(self, step: int) -> None:  # noqa: B027 (most loaders need nothing here)
        """Called after every consumed batch, for policies such as ``gc_policy``."""

    def versions(self) -> dict[str, str]:
        """The libraries that do the work, as loaded (e.g. the FFmpeg that was really mapped)."""
        return {}


class Target(ABC):
    """A kind of loader. Stateless: everything is in the specification."""

    name: ClassVar[str]
    needs_data: ClassVar[bool] = True
    """Whether an experiment must name a data folder."""
    Params: ClassVar[type[BaseModel]]
    """One field a parameter, with type and default: the parameters this target understands."""
    Settings: ClassVar[type[BaseModel]]
    """Fixed settings that are not parameters, e.g. num_frames, frame_size."""

    @abstractmethod
    def environment(self, params: Configuration, settings: Mapping[str, Any]) -> dict[str, str]:
        """Environment variables the worker must be *started* with (e.g. LD_LIBRARY_PATH).

        Raises:
            UnsupportedError: if this machine lacks what the configuration needs.
        """

    @abstractmethod
    def build(self, context: BuildContext) -> Loader:
        """Build and start the pipeline of one rank.

        Raises:
            UnsupportedError: if this machine cannot do what the configuration asks.
            DataError, InputError: if the data cannot be read.
        """

    def machine(self, params: Configuration, settings: Mapping[str, Any]) -> dict[str, Any]:
        """This target's part of the machine fingerprint (e.g. FFmpeg and SPDL versions).

        Runs in a process started with `environment`.
        """
        return {}

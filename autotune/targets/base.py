"""What a target is: a loader pipeline that the worker can start with a configuration.

A target is found by name through the entry point group ``autotune.targets`` (see
`autotune.plugins`). It lives in the worker process only: it never sees Optuna, Ray or the
database.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from autotune.trial import (
    Delivered,
    FailedClip,
    StageCeiling,
    StageStats,
    TrialSpec,
    UnavailableValue,
)
from autotune.trial import Params as Configuration

if TYPE_CHECKING:
    from autotune.config import Experiment
    from autotune.manifest import ClipKind
    from autotune.search_space import SearchSpace


class OpenParams(BaseModel):
    """For `Target.Params` of a target whose parameters are the user's own: any name will do."""

    model_config = ConfigDict(extra="allow")


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
    """0 where the loader cannot tell; likewise ``decoded_frames``."""
    decoded_frames: int
    arrived: float | None = None
    """When it was ready (CLOCK_MONOTONIC), where another process consumed it; None: when it is
    consumed here."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """What a loader knows of the whereabouts of its samples."""

    handed_out: int
    """Samples that its source handed out, over all epochs."""
    capacity: int
    """Most samples that can be under way: in stages, queues and half-made batches."""


@dataclass(frozen=True, slots=True)
class QueueLevel:
    """How full a queue is at one moment."""

    name: str
    """Of the stage before it, as in `StageStats`."""
    size: int
    capacity: int
    """0 where it has no limit."""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Bytes of the batches that a loader held ahead, over a stretch of time."""

    peak: int
    mean: float


@dataclass(frozen=True)
class BuildContext:
    """What a target gets to build its loader from."""

    spec: TrialSpec
    rank: int = 0
    world_size: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)


class Loader(ABC):
    """A pipeline that was built. Iterating never ends until `close` is called."""

    may_end: ClassVar[bool] = False
    """Whether batches may end for good before that, as those of a command do. What was delivered
    then makes the figure, if it is enough."""

    @property
    def prefetched_batches(self) -> int:
        """Batches that may be ready when the first one is consumed: a burst to be left out."""
        return 0

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Yield batches in the seeded order, epoch after epoch, without an end."""

    @abstractmethod
    def readback(self) -> Configuration:
        """Every parameter as read from the pipeline that was built, never from the request."""

    @abstractmethod
    def stage_stats(self) -> list[StageStats]:
        """Stage statistics since the last call."""

    def queues(self) -> list[QueueLevel]:
        """How full each queue is now, for whoever watches. Called by another thread than the one
        that iterates, about twice a second: it only reads, and waits for nothing. Where it is
        empty, the mean filling in `stage_stats` is shown."""
        return []

    @abstractmethod
    def failed(self) -> tuple[int, list[FailedClip]]:
        """How many samples failed so far, and up to 20 of them by name and cause."""

    @abstractmethod
    def close(self) -> None:
        """End every thread and process of the pipeline. Idempotent."""

    def on_epoch_or_step(self, step: int) -> None:  # noqa: B027 (most loaders need nothing here)
        """Called after every consumed batch, for policies such as ``gc_policy``."""

    def accounts(self) -> Accounts | None:
        """How many samples were handed out so far, so that dropped ones are noticed; None where
        the loader cannot tell."""
        return None

    def cache_use(self) -> CacheUse | None:
        """Memory of the batches held ahead since the last call; None where the loader keeps none
        that it can weigh."""
        return None

    def warnings(self) -> list[str]:
        """What a user should know of what was delivered so far; stored with the figures."""
        return []

    def versions(self) -> dict[str, str]:
        """The libraries that do the work, as loaded (e.g. the FFmpeg that was really mapped)."""
        return {}


class Target(ABC):
    """A kind of loader. Stateless: everything is in the specification."""

    name: ClassVar[str]
    needs_data: ClassVar[bool] = True
    """Whether an experiment must name a data folder."""
    reads: ClassVar[ClipKind] = "videos"
    """What the clips of that folder have to be."""
    takes_ranks: ClassVar[bool] = True
    """Whether several copies can run side by side; False where it starts ranks of its own."""
    Params: ClassVar[type[BaseModel]]
    """One field a parameter, with type and default: the parameters this target understands."""
    Settings: ClassVar[type[BaseModel]]
    """Fixed settings that are not parameters, e.g. num_frames, frame_size."""
    folders: ClassVar[tuple[str, ...]] = ()
    """Settings that are folders: relative to the experiment file, by default its own folder."""

    def prepare(
        self, experiment: Experiment, space: SearchSpace, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """The settings that the workers get, in the driver, when an experiment is read.

        Args:
            experiment: as the user wrote it; ``space`` all its parameters.
            settings: of the experiment, defaults filled in; JSON-able.

        Raises:
            InputError: if this target cannot run such an experiment.
        """
        return settings

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

    def train_with(self, context: BuildContext) -> Iterable[Any] | None:
        """What a training iterates over, where that is not `build`'s loader: see
        `autotune.loaders`. None: it is.

        Raises:
            InputError: if this target has no loader to train with; with the remedy.
        """
        return None

    def expected(self, spec: TrialSpec) -> Delivered | None:
        """What the batches of a configuration must be, from the specification alone.

        Every batch is held to its shape, type and kind of device (``cpu``, ``cuda``). None where
        the target does not know it: then batches are held to the first one.
        """
        return None

    def machine(self, params: Configuration, settings: Mapping[str, Any]) -> dict[str, Any]:
        """This target's part of the machine fingerprint (e.g. FFmpeg and SPDL versions).

        Runs in a process started with `environment`.
        """
        return {}

    @classmethod
    def runs_stages_alone(cls) -> bool:
        """Whether it can say what each of its stages reaches alone."""
        return cls.stages_alone is not Target.stages_alone

    def stages_alone(self, context: BuildContext) -> list[StageCeiling]:
        """What each stage of this configuration reaches alone, fed from memory: at its own
        concurrency and at all cores. Empty where the target does not run its stages alone.

        Takes a few seconds at most. Runs in a process of its own, which builds no loader.

        Raises:
            UnsupportedError, DataError, InputError: as `build`.
        """
        return []

    def unavailable(
        self, params: Configuration, settings: Mapping[str, Any]
    ) -> list[UnavailableValue]:
        """Values that this machine cannot run, e.g. of a decoder that is not installed.

        Runs in a process started with `environment`, once before a node's first measurement.
        """
        return []

    def suspects(self, params: Configuration, settings: Mapping[str, Any]) -> list[str] | None:
        """Parameters of which what is measured shows no sign: it may ignore them. The user is
        told if they make no difference either. None where the target cannot look."""
        return []

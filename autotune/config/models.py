"""The experiment file as frozen models: every key, its type, its default and its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from autotune.config.messages import validated
from autotune.search_space.parameter import type_name
from autotune.trial import ConsumerSpec, Limits, MeasurementSettings

DEFAULT_TRIALS = 50

Figure = Literal[
    "cpu_percent", "host_memory_gib", "gpu_memory_gib", "cache_gib", "time_to_first_batch"
]
"""What ``constraints`` can bound: recorded figures of a measurement."""


def _configuration(value: object) -> object:
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        text = (
            "a mapping such as {num_demux_threads: 3}, or flags such as '--num-demux-threads 3', "
            f"is needed, not {type_name(value)} ({value})"
        )
        raise PydanticCustomError("wanted", "{text}", {"text": text})
    return dict(value)


Configuration = Annotated[Any, BeforeValidator(_configuration)]
"""A mapping of parameters, or the flags in use: ``--num-demux-threads 3``."""


class Section(BaseModel):
    """Base of every part of an experiment: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TargetSection(Section):
    """What is measured.

    Besides the keys below it takes the target's own settings (``num_frames``) and any parameter of
    the search space, which is then fixed; `resolve` tells them apart.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    name: str = Field(min_length=1)
    data_dir: str | None = None
    consumer: ConsumerSpec = ConsumerSpec()
    ranks: int | None = Field(None, ge=1)
    """Copies that run together; None: the GPUs of the slot, 1 on a CPU."""

    @property
    def extra(self) -> dict[str, Any]:
        """The target's settings and the fixed parameters."""
        return dict(self.model_extra or {})


class SpaceSection(Section):
    """A search space made from another by changing keys of its parameters."""

    base: str | None = None
    """Path of a file, or the name of a target; default: the space of this target."""
    parameters: dict[str, dict[str, Any]] = Field(default_factory=dict)


class Bound(Section):
    """The accepted range of a figure; at least one end."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Bound:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"the range is empty: min {self.min} is above max {self.max}")
        return self


class Budget(Section):
    """How much a study may use, over all its launches."""

    hours: float | None = Field(None, gt=0)
    """Verification included."""
    trials: int | None = Field(None, ge=1)
    """The baseline included."""
    patience: int | None = Field(None, ge=1)
    """Trials without a better one after which the search ends."""
    stop_at_ceiling: float | None = Field(0.03, ge=0, lt=1)
    """The search ends within this share of what the consumer takes when fed from memory; None: it
    goes on."""
    target_rate: float | None = Field(None, gt=0)
    """The search ends at so many samples/s."""

    @model_validator(mode="before")
    @classmethod
    def _limited(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        if "hours" not in data and "trials" not in data:
            return {**data, "trials": DEFAULT_TRIALS}
        if data.get("hours") is None and data.get("trials") is None:
            raise ValueError("a study without hours and without trials never ends: give one")
        return data


class Verification(Section):
    """How a winner is measured again before anything is claimed."""

    finalists: int = Field(1, ge=0)
    """Best trials measured again; 0: nothing is verified."""
    blocks: int = Field(12, ge=4)
    """The most blocks: interleaved runs of baseline and winner. Below 4 an interval says little."""
    min_blocks: int = Field(6, ge=4)
    """So many blocks always; they decide how many more are needed. Above ``blocks``: ``blocks``."""
    half_width: float = Field(0.02, gt=0, lt=1)
    """Blocks are added until the gain is known to this (relative), or to the noise floor where
    that is wider."""

    @property
    def first_blocks(self) -> int:
        """Blocks that are measured in any case."""
        return min(self.min_blocks, self.blocks)


class Noise(Section):
    """Repeats of the baseline: what fresh runs differ by, and whether the machine changes."""

    runs: int = Field(5, ge=0)
    """Fresh runs of the baseline at the start, its trial among them; 0: no noise floor. Below 5 a
    prior is pooled in."""
    drift_every: int = Field(10, ge=0)
    """The baseline is run again after so many trials; 0: never."""


class ExecutorSection(Section):
    """Where measurements run."""

    kind: str = "local"
    address: str | None = None
    """Of a running Ray cluster, or ``auto``; None starts Ray on this machine."""
    slots_per_node: int = Field(1, ge=1)
    """More than 1 lets measurements disturb each other."""


class Experiment(Section):
    """An experiment file; see `autotune.config.load_experiment`."""

    target: TargetSection
    search_space: SpaceSection | None = None
    vary_workload: list[str] = Field(default_factory=list)
    baseline: Configuration = Field(default_factory=dict)
    enqueue: list[Configuration] = Field(default_factory=list)
    enqueue_from: str | None = None
    """A study in the same database whose best configurations are measured first."""
    objective: Literal["samples_per_second"] = "samples_per_second"
    constraints: dict[Figure, Bound] = Field(default_factory=dict)
    budget: Budget = Field(default_factory=lambda: Budget(trials=DEFAULT_TRIALS))
    measurement: MeasurementSettings = MeasurementSettings()
    limits: Limits = Limits()
    noise: Noise = Noise()
    verification: Verification = Verification()
    sampler: Literal["auto", "tpe", "gp", "random", "qmc", "grid"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    executor: ExecutorSection = ExecutorSection()
    storage: str | None = Field(None, repr=False)
    """SQLAlchemy URL; may hold a password, so it is in no `to_dict` and no message."""
    study_name: str | None = None
    _source: str = PrivateAttr("experiment")

    @property
    def source(self) -> str:
        """The file, for messages."""
        return self._source

    @field_validator("search_space", mode="before")
    @classmethod
    def _path_alone(cls, value: object) -> object:
        return {"base": value} if isinstance(value, str) else value

    @field_validator("study_name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        return None if name is None else checked_study_name(name)

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        times = self.measurement
        if times.min_seconds > times.max_seconds:
            raise ValueError(
                f"measurement.min_seconds {times.min_seconds} is above max_seconds "
                f"{times.max_seconds}. Lower one or raise the other"
            )
        if len(set(self.vary_workload)) < len(self.vary_workload):
            raise ValueError("vary_workload lists a parameter twice. Remove one")
        return self

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "experiment") -> Experiment:
        """Read what `to_dict` or a YAML file gave; paths are taken as they are.

        Raises:
            InputError: one message naming ``where`` and, for each mistake, the key, the value,
                what is accepted and the remedy.
        """
        return cls.read(data, where)

    @classmethod
    def read(
        cls, data: Mapping[str, Any], where: str, origins: Mapping[str, str] | None = None
    ) -> Experiment:
        """Like `from_dict`; ``origins`` says which keys' values did not come from ``where``."""
        experiment = validated(cls, data, where, origins=origins)
        experiment._source = where
        return experiment

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form for the database, without the storage URL."""
        return self.model_dump(mode="json", exclude={"storage"})


def checked_study_name(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: if it is empty, or holds a colon (``STUDY:TRIAL`` names a trial) or a control
            character.
    """
    if not name.strip() or name != name.strip():
        raise ValueError(f"{name!r} is empty or has spaces around it. Choose another study name")
    if ":" in name or not name.isprintable():
        raise ValueError(
            f"{name!r} is not accepted: a study name holds no colon (STUDY:TRIAL names a trial) "
            "and no control characters. Choose another"
        )
    return name

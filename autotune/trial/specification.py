"""What to measure: one configuration, how long, and when to give up on it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from autotune.trial.values import Params, Value


class ConsumerSpec(Value):
    """What takes the batches.

    ``none`` drops them. ``paced`` sleeps ``ms_per_step + samples * ms_per_sample`` (an emulated
    accelerator). ``train_step`` trains ``model`` (an import path ``module:factory``).
    """

    kind: Literal["none", "paced", "train_step"] = "none"
    ms_per_step: float = Field(0.0, ge=0)
    ms_per_sample: float = Field(0.0, ge=0)
    model: str = "autotune.models:small_r3d"
    num_classes: int = Field(400, gt=0)
    model_args: dict[str, Any] = Field(default_factory=dict)


class MeasurementSettings(Value):
    """How long to measure.

    A measurement ends when the half-width of the within-run 95 % interval is at most
    ``relative_half_width`` of the mean and ``min_seconds`` have passed, or at ``max_seconds``.
    """

    min_seconds: float = Field(3.0, gt=0)
    max_seconds: float = Field(30.0, gt=0)
    relative_half_width: float = Field(0.02, gt=0, lt=1)
    window_seconds: float = Field(0.25, gt=0)
    page_cache: Literal["auto", "warm", "cold"] = "auto"
    """Whether the files a measurement reads are in memory before it begins: ``warm`` reads them,
    ``cold`` evicts them, ``auto`` is warm where they fit into half of the available memory."""
    repeats: int = Field(2, ge=0, le=2)
    """How often a measurement that others disturbed is made again; the least disturbed counts."""
    early_stopping: bool = True
    """Whether a search ends a run that is beyond doubt worse than the best one so far."""


class Limits(Value):
    """When the supervisor gives up on a measurement."""

    startup_seconds: float = Field(180.0, gt=0)
    """From the start of the worker to the first batch, without the preparation of the files."""
    preparation_seconds: float = Field(600.0, gt=0)
    """For bringing the files into the state that ``measurement.page_cache`` asks for."""
    silence_seconds: float = Field(30.0, gt=0)
    """No event for so long after the first batch means that the trial hangs."""
    shutdown_seconds: float = Field(20.0, gt=0)
    max_failed_share: float = Field(0.05, ge=0, le=1)
    """More clips than this share failing makes the measurement fail (kind ``data``)."""
    wall_seconds: float | None = Field(None, gt=0)
    """From the start of the worker to its end; None: the other limits alone."""
    host_memory_gib: float | None = Field(None, gt=0)
    """Resident memory of all processes; None: what leaves the driver and Ray alive."""
    gpu_memory_gib: float | None = Field(None, gt=0)
    """Memory on one GPU, over all processes of the trial; None: no limit but the card's."""
    processes: int | None = Field(None, ge=1)
    """Processes of the trial at one time; None: what stops a fork bomb early."""


class Incumbent(Value):
    """What a search has to beat: a trial that cannot is stopped early."""

    samples_per_second: float
    """The best figure of this workload so far."""
    spread: float
    """Relative standard deviation between fresh runs of one configuration."""
    dof: float
    """Degrees of freedom behind ``spread``."""


Mode = Literal["loader", "ceiling", "stages", "soak"]
"""``loader`` measures the pipeline; ``ceiling`` the consumer fed from memory with batches that
the pipeline made; ``stages`` each stage alone, in one process; ``soak`` the pipeline for the whole
of ``max_seconds``, however long that is, in bounded memory."""


class TrialSpec(Value):
    """One measurement to make: one configuration, in fresh processes."""

    uuid: str
    study: str
    """The study's uuid, or a fresh one for `autotune measure`."""
    target: str
    params: Params
    """The full configuration: every parameter of the search space, searched or fixed."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The target's fixed settings, e.g. num_frames, frame_size, ffmpeg."""
    data_dir: str | None = None
    manifest: str | None = None
    """Path of the manifest file on the measuring node; set by the executor of that node."""
    consumer: ConsumerSpec = ConsumerSpec()
    ranks: int = Field(1, ge=1)
    seed: int = 0
    measurement: MeasurementSettings = MeasurementSettings()
    limits: Limits = Limits()
    mode: Mode = "loader"
    incumbent: Incumbent | None = None
    """Set where the trial may be stopped early."""
    locate_seconds: float | None = None
    """Each process looks so often for what grows in it (`autotune.heap`); None: it does not."""

    def in_mode(self, mode: Mode) -> TrialSpec:
        """The same configuration measured for another purpose."""
        ranks = 1 if mode == "stages" else self.ranks
        return self.model_copy(update={"mode": mode, "ranks": ranks})

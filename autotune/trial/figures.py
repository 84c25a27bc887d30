"""What was seen: the windows of a measurement and its figures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autotune.trial.values import Params, Value


class StageStats(Value):
    """One stage of the pipeline over one window, or over the whole steady part."""

    name: str
    concurrency: int = 0
    tasks: int = 0
    failures: int = 0
    busy_seconds: float = 0.0
    """Sum of the task durations; divided by concurrency and wall time it is the stage's load."""
    queue_size: int = 0
    """Capacity of the queue behind the stage."""
    queue_occupancy: float = 0.0
    """Mean filling of that queue, 0 to 1."""
    get_seconds: float = 0.0
    """Mean wait of the next stage for an item of that queue."""
    put_seconds: float = 0.0
    """Mean wait of this stage for room in that queue."""


class MemoryTrend(Value):
    """What the memory of all processes does over a measurement (`stats.growth`)."""

    verdict: Literal["too_short", "holds", "grows"]
    mib_per_minute: float | None = None
    """Slope over ``seconds``; None where there is too little to fit a line."""
    low: float | None = None
    high: float | None = None
    """Its 95 % interval."""
    seconds: float = 0.0
    """Length of the stretch that the slope is of."""
    hours_left: float | None = None
    """Only where memory grows: until what is available, or the limit, is used up at that slope."""
    hours_left_low: float | None = None
    hours_left_high: float | None = None
    """At the ends of the slope's interval; None for never."""


class Growing(Value):
    """Objects of one kind that have become more and more in some processes (`autotune.heap`)."""

    kind: str
    """Type, and of tensors and arrays shape, data type and device."""
    holders: list[str] = Field(default_factory=list)
    """What holds them: ``my_transform.Retain.kept (list of 812)``; the most frequent first."""
    where: list[str] = Field(default_factory=list)
    """Names of the processes."""
    count: int
    bytes: int
    """Of all objects of the kind now."""
    grown_count: int
    grown_bytes: int
    """Since the first census, summed over the processes."""
    seconds: float
    """Since the first census."""
    age_seconds: float | None = None
    """Median time since an object of the kind was first seen; None for small ones."""


class Resources(Value):
    """Peaks and means over all processes of a measurement, during the steady part."""

    cpu_percent: float = 0.0
    """Mean, 100 = all cores of the machine busy."""
    rss_gib: float = 0.0
    """Peak of the summed resident memory (proportional set size where readable)."""
    processes: int = 0
    threads: int = 0
    gpu_memory_gib: float | None = None
    sm_percent: float | None = None
    nvdec_percent: float | None = None
    cache_gib: float | None = None
    """Peak of the batches that the loader held ahead, the ranks' added; None where it keeps none
    that it can weigh."""
    cache_mean_gib: float | None = None
    """The mean of the same."""
    memory: MemoryTrend | None = None


class Contamination(Value):
    """What disturbed a measurement from outside, over its steady part."""

    lost: float
    """Estimated share of the machine's capacity that others took, 0 to 1."""
    marked: bool
    """Whether ``lost`` is above the calibrated threshold."""
    causes: list[str] = Field(default_factory=list)
    """What was seen, for people: ``foreign load: 0.9 of 2 cores``."""
    figures: dict[str, float] = Field(default_factory=dict)
    """Each indicator by name, e.g. ``foreign_cpu``, ``steal``, ``throttled``, ``swap_mib``."""


class Delivered(Value):
    """What really reached the consumer, read from the batches themselves."""

    shape: list[int]
    """[C, T, H, W] of one sample."""
    dtype: str
    device: str
    frames_per_sample: float


class StageCeiling(Value):
    """What one stage does alone, fed from memory."""

    name: str
    concurrency: int
    samples_per_second: float


class Window(Value):
    """One stretch of a measurement, about ``window_seconds`` long."""

    index: int
    rank: int = 0
    start: float
    end: float
    batches: int = 0
    samples: int = 0
    frames: int = 0
    """Frames handed to the consumer, padding included."""
    unique_frames: int = 0
    decoded_frames: int = 0
    failed: int = 0
    """Samples (clips) that failed to be fetched, demuxed or decoded."""
    busy_seconds: float = 0.0
    """Time the consumer worked (not waited)."""
    arrivals: list[float] = Field(default_factory=list)
    """Time at which each batch was consumed, CLOCK_MONOTONIC."""
    batch_samples: list[int] = Field(default_factory=list)
    stages: list[StageStats] = Field(default_factory=list)
    steady: bool = True
    """False while the pipeline warms up."""


class FailedClip(Value):
    """A clip that could not be delivered."""

    name: str
    cause: str


class RankFigures(Value):
    """One rank's part of a measurement."""

    rank: int
    samples_per_second: float
    time_to_first_batch: float


class Measurement(Value):
    """The figures of one finished measurement. Every one was measured."""

    samples_per_second: float
    within_low: float
    within_high: float
    """95 % interval of the mean within this run (batch means); `stats.between_run_sd` widens it."""
    fps: float
    decoded_fps: float | None
    """None where the target cannot count what it decodes."""
    unique_frames: float | None
    """Mean number of different frames per sample; None where the target cannot tell."""
    time_to_first_batch: float
    """From the start of the worker process to the first batch, seconds."""
    accelerator_utilization: float | None
    """Consumer busy time / wall time in the steady window, 0 to 1; None without a consumer of
    autotune's."""
    warmup_seconds: float
    seconds: float
    """Length of the steady window."""
    steady: bool
    batches: int
    samples: int
    frames: int
    decoded_frames: int
    failed: int
    failed_clips: list[FailedClip] = Field(default_factory=list)
    stages: list[StageStats] = Field(default_factory=list)
    resources: Resources = Resources()
    ranks: list[RankFigures] = Field(default_factory=list)
    slowest_rank: float
    """samples/s of the slowest rank."""
    stopped_early: bool = False
    """Beyond doubt worse than the incumbent: the figures are an estimate, never ranked."""
    contamination: Contamination | None = None
    """None where it was not looked for."""
    page_cache: Literal["warm", "cold"] | None = None
    """How the files were when the measurement began; None without files."""
    delivered: Delivered | None = None
    stage_ceilings: list[StageCeiling] = Field(default_factory=list)
    """Only of a measurement in mode ``stages``."""
    readback: Params = Field(default_factory=dict)
    """Every parameter, as read from the pipeline that was built."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Libraries that did the work, e.g. ffmpeg, spdl, torch, as loaded."""
    warnings: list[str] = Field(default_factory=list)
    """What the loader says of itself that its figures do not show (see `Loader.warnings`)."""

"""Every value that crosses a process boundary, as frozen pydantic models with JSON forms.

    driver --TrialSpec--> worker --Event, ...--> supervisor --TrialResult--> driver --> storage

Units: seconds, bytes only where a name says so, GiB for memory, per cent for utilization.
Times inside events are seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Scalar = bool | int | float | str
"""A parameter's value. bool stands first, so that pydantic does not turn it into an int."""

Params = dict[str, Scalar]

TRIAL_MARK = "AUTOTUNE_TRIAL"
"""Environment variable that every process of a trial carries: the measurement's uuid."""

STUDY_MARK = "AUTOTUNE_STUDY"
"""Environment variable that every process of a trial carries: the study's uuid."""


class Value(BaseModel):
    """Base of all values: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --------------------------------------------------------------------------- what to measure


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


# --------------------------------------------------------------------------- what was seen


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


class Fingerprint(Value):
    """What a figure depends on besides the configuration; hashed without volatile parts."""

    machine: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)


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
    accelerator_utilization: float
    """Consumer busy time / wall time in the steady window, 0 to 1."""
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


# --------------------------------------------------------------------------- how it ended

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


# --------------------------------------------------------------------------- events of a worker


class StartedEvent(Value):
    event: Literal["started"] = "started"
    time: float
    pid: int
    rank: int = 0
    environment: dict[str, str] = Field(default_factory=dict)
    """What the target asked of the environment; the next worker can be started with it."""


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


# --------------------------------------------------------------------------- probing a node


class ProbeRequest(Value):
    """What a node is asked before its first measurement (`worker --probe`)."""

    study: str
    target: str
    params: Params
    """The baseline configuration: what it needs must be there (e.g. a GPU for nvdec)."""
    settings: dict[str, Any] = Field(default_factory=dict)
    data_dir: str | None = None
    cache_dir: str
    """Where the manifest is written."""
    page_cache: Literal["auto", "warm", "cold"] = "auto"
    """``measurement.page_cache`` of the experiment: the files that a measurement can touch are
    read into memory or evicted, and where that is not possible the study is refused."""
    max_seconds: float = 30.0
    """``measurement.max_seconds``: how much a measurement can touch."""
    seed: int = 0


class UnavailableValue(Value):
    """A parameter's value that a node cannot run, whatever the other parameters are."""

    parameter: str
    value: Scalar
    reason: str
    """Why, with the remedy."""


class NodeInfo(Value):
    """What a node answered: its fingerprint, its data and the names expressions can use."""

    node: str
    fingerprint: Fingerprint
    names: dict[str, Scalar]
    """``cpu_count``, ``gpu_count``, ``memory_gib``: of the measuring node."""
    manifest: str | None = None
    """Path of the manifest file on that node."""
    page_cache: Literal["warm", "cold"] | None = None
    """The state of the files that every measurement on that node begins with; None without."""
    manifest_hash: str | None = None
    num_samples: int = 0
    """Data set size, for the epoch time."""
    warnings: list[str] = Field(default_factory=list)
    unavailable: list[UnavailableValue] = Field(default_factory=list)
    """Values that this node cannot run: they are left out of the search."""
    suspects: list[str] = Field(default_factory=list)
    """Parameters of which what is measured shows no sign (see `Target.suspects`)."""
    error: str | None = None
    """Set when the node cannot measure this; ``error_kind`` says whose fault it is."""
    error_kind: Literal["input", "unsupported"] | None = None

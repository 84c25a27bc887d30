"""What the storage hands out: frozen values, detached from the database, with JSON forms."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from autotune.trial import Failure, MemoryTrend, Params, RankFigures, StageStats, Value

StudyState = Literal["running", "finished", "stopped", "interrupted", "failed"]
Source = Literal["measured", "replay"]
TrialState = Literal["RUNNING", "COMPLETE", "FAIL", "WAITING", "PRUNED"]
Origin = Literal["baseline", "enqueued", "sampler", "random"]
Role = Literal[
    "search", "baseline", "noise", "drift", "selection", "verification", "ceiling", "measure"
]
"""Why a run was made. A trial's figures are those of ``search`` and ``baseline`` alone; ``noise``
and ``drift`` repeat the baseline, ``ceiling`` measures no loader."""
Arm = Literal["candidate", "baseline"]


class StudyRecord(Value):
    """One study."""

    id: int
    uuid: str
    name: str
    optuna_study_name: str
    target: str
    source: Source
    experiment: dict[str, Any]
    identity: dict[str, Any]
    space: dict[str, Any]
    baseline: Params
    state: StudyState
    state_reason: str
    created_at: datetime
    updated_at: datetime
    elapsed_seconds: float
    dataset_samples: int | None
    machine_hash: str | None
    dataset_hash: str | None
    autotune_version: str
    noise: dict[str, Any] | None = None
    """The noise floor as measured: see `autotune.study.noise`."""
    ceilings: dict[str, Any] | None = None
    """By workload: the consumer's ceiling and what each stage does alone."""
    warnings: list[str] = Field(default_factory=list)
    """What a user should know of the search, e.g. a parameter that may be ignored."""


class LeaseRecord(Value):
    """Who drives a study."""

    study_id: int
    owner: str
    host: str
    host_key: str = ""
    """Names the boot and the process-id namespace of ``pid``."""
    pid: int
    process_started: str = ""
    """Start of that process in clock ticks since boot."""
    acquired_at: float
    renewed_at: float
    ttl: float


class MachineRecord(Value):
    """A machine's fingerprint."""

    hash: str
    fingerprint: dict[str, Any]
    gpu: str | None
    cpu: str | None
    first_seen: datetime


class DatasetRecord(Value):
    """A data set's fingerprint."""

    hash: str
    fingerprint: dict[str, Any]
    num_samples: int | None
    first_seen: datetime


class VerificationRecord(Value):
    """A finalist against its baseline; every figure comes from its fresh blocks alone."""

    study_id: int
    trial_number: int
    baseline_number: int | None
    baseline_params: Params
    workload: str
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    blocks: int
    significant: bool
    verified: bool
    candidate_mean: float | None
    baseline_mean: float | None
    details: dict[str, Any]
    created_at: datetime


class TrialRecord(Value):
    """One trial with its figures: means over its finished search runs (peaks for memory).

    A trial that failed, or that has no finished run, has ``samples_per_second`` None.
    """

    study: str
    number: int
    state: TrialState
    origin: Origin
    params: Params
    workload_key: str
    samples_per_second: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    """95 % interval of the configuration's mean: within and between runs."""
    within_low: float | None = None
    within_high: float | None = None
    """The within-run part alone."""
    fps: float | None = None
    decoded_fps: float | None = None
    unique_frames: float | None = None
    time_to_first_batch: float | None = None
    accelerator_utilization: float | None = None
    cpu_percent: float | None = None
    rss_gib: float | None = None
    gpu_memory_gib: float | None = None
    cache_gib: float | None = None
    cache_mean_gib: float | None = None
    sm_percent: float | None = None
    nvdec_percent: float | None = None
    slowest_rank: float | None = None
    failed_share: float | None = None
    """Share of the samples that failed, 0 to 1."""
    epoch_seconds: float | None = None
    steady: bool | None = None
    measurements: int = 0
    """Finished runs of the search that the figures are means of."""
    verified: bool = False
    verification: VerificationRecord | None = None
    """The latest comparison with the baseline, whether or not it showed a gain."""
    feasible: bool = True
    violated: list[Any] = Field(default_factory=list)
    penalty: bool = False
    stopped_early: bool = False
    failure: Failure | None = None
    warnings: list[str] = Field(default_factory=list)
    page_cache: str | None = None
    """``warm`` or ``cold``: how the files of its runs were; ``mixed`` if they differed."""
    machine: str | None = None
    dataset: str | None = None
    """Hashes of the fingerprints that the figures belong to."""
    created_at: datetime
    finished_at: datetime | None = None

    @property
    def rankable(self) -> bool:
        """Whether its figure may be compared: complete, feasible, measured to the end."""
        return (
            self.state == "COMPLETE"
            and self.feasible
            and not self.penalty
            and not self.stopped_early
            and self.failure is None
            and self.samples_per_second is not None
        )


class MeasurementRecord(Value):
    """One run. Figures are None when it did not finish."""

    id: int
    uuid: str
    study_id: int | None
    trial_number: int | None
    role: Role
    block: int | None
    arm: Arm | None
    state: Literal["finished", "failed", "stopped"]
    samples_per_second: float | None
    within_low: float | None
    within_high: float | None
    fps: float | None
    decoded_fps: float | None
    unique_frames: float | None
    time_to_first_batch: float | None
    accelerator_utilization: float | None
    warmup_seconds: float | None
    seconds: float | None
    steady: bool | None
    batches: int | None
    samples: int | None
    frames: int | None
    decoded_frames: int | None
    failed: int | None
    slowest_rank: float | None
    cpu_percent: float | None
    rss_gib: float | None
    processes: int | None
    threads: int | None
    gpu_memory_gib: float | None
    cache_gib: float | None
    cache_mean_gib: float | None
    memory: MemoryTrend | None = None
    """Whether memory grew; None of runs made before it was looked for."""
    sm_percent: float | None
    nvdec_percent: float | None
    stopped_early: bool = False
    contaminated: bool | None = None
    contamination: dict[str, Any] | None = None
    page_cache: str | None = None
    delivered: dict[str, Any] | None = None
    stage_ceilings: list[dict[str, Any]] = Field(default_factory=list)
    attempt: int | None = None
    """Counts the repeats of one measurement that was disturbed; 0 is the first."""
    superseded: bool = False
    """A less disturbed repeat stands in its place; its figures count nowhere."""
    ranks: list[RankFigures]
    readback: Params
    versions: dict[str, str]
    failed_clips: list[dict[str, Any]]
    warnings: list[str] = Field(default_factory=list)
    timeline: dict[str, float | None]
    failure: Failure | None
    log_tail: str
    command_line: str
    exit_code: int | None
    node: str
    machine: str | None
    dataset: str | None
    started_at: datetime
    wall_seconds: float


class BestGroup(Value):
    """The best trials among those that may be compared with each other.

    One group holds one workload value on one machine and one data set, and, with ``per``, one
    value of that parameter.
    """

    target: str
    workload_key: str
    machine: str | None
    dataset: str | None
    gpu: str | None = None
    cpu: str | None = None
    per: str | None = None
    per_value: bool | int | float | str | None = None
    baseline: TrialRecord | None
    """The baseline of this workload value; None across studies, which have one each."""
    trials: list[TrialRecord]
    """Best first; verified ones before the others."""


__all__ = [
    "Arm",
    "BestGroup",
    "DatasetRecord",
    "LeaseRecord",
    "MachineRecord",
    "MeasurementRecord",
    "Origin",
    "Role",
    "Source",
    "StageStats",
    "StudyRecord",
    "StudyState",
    "TrialRecord",
    "TrialState",
    "VerificationRecord",
]

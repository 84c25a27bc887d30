"""The tables of autotune, beside Optuna's own in the same database.

    autotune_studies 1--n autotune_trials 1--n autotune_measurements 1--n autotune_windows
          |                     |                      |          \\--n autotune_stages
          |                     1--n autotune_verifications
          1--1 autotune_leases, 1--n autotune_requests
    autotune_machines, autotune_datasets: fingerprints, 1--n studies and measurements

Figures are columns, so that any SQL tool can plot them; what is nested and only ever read whole
(experiment, versions, arrival times of a window) is JSON. Types are portable between SQLite and
PostgreSQL. Every change of this file needs a migration in ``migrations/versions``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PREFIX = "autotune_"
"""Every table of ours starts so; Optuna's start otherwise."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, kept as naive UTC: SQLite drops time zones, PostgreSQL converts them."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Base of our tables only. Constraints are named, so that later migrations can alter them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it from the class)
        datetime: UtcDateTime,
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        float: Float(precision=53),
    }


class StudyRow(Base):
    """One search. ``identity`` is what must not change when it is resumed."""

    __tablename__ = "autotune_studies"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    uuid: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(512), unique=True)
    optuna_study_name: Mapped[str] = mapped_column(String(512))
    target: Mapped[str] = mapped_column(String(256), index=True)
    source: Mapped[str] = mapped_column(String(16))
    experiment: Mapped[dict[str, Any]]
    identity: Mapped[dict[str, Any]]
    space: Mapped[dict[str, Any]]
    baseline: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    state_reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    elapsed_seconds: Mapped[float]
    dataset_samples: Mapped[int | None] = mapped_column(BigInteger)
    machine_hash: Mapped[str | None] = mapped_column(ForeignKey("autotune_machines.hash"))
    dataset_hash: Mapped[str | None] = mapped_column(ForeignKey("autotune_datasets.hash"))
    autotune_version: Mapped[str] = mapped_column(String(64))
    noise: Mapped[dict[str, Any] | None]
    ceilings: Mapped[dict[str, Any] | None]
    warnings: Mapped[list[Any] | None]


class LeaseRow(Base):
    """Who drives a study. Times are seconds of the database's clock."""

    __tablename__ = "autotune_leases"

    study_id: Mapped[int] = mapped_column(
        ForeignKey("autotune_studies.id", ondelete="CASCADE"), primary_key=True
    )
    owner: Mapped[str] = mapped_column(String(64))
    host: Mapped[str] = mapped_column(String(256))
    host_key: Mapped[str] = mapped_column(String(128))
    """Boot and process-id namespace: a pid means something only within it."""
    pid: Mapped[int] = mapped_column(BigInteger)
    process_started: Mapped[str] = mapped_column(String(32))
    """Start of that process in clock ticks since boot: tells a reused pid."""
    acquired_at: Mapped[float]
    renewed_at: Mapped[float]
    ttl: Mapped[float]


class RequestRow(Base):
    """What a user asks of a running study; the driver reads it and marks it handled."""

    __tablename__ = "autotune_requests"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    study_id: Mapped[int] = mapped_column(
        ForeignKey("autotune_studies.id", ondelete="CASCADE"), index=True
    )
    kind: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime]
    handled_at: Mapped[datetime | None]


class MachineRow(Base):
    """A machine's fingerprint."""

    __tablename__ = "autotune_machines"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    fingerprint: Mapped[dict[str, Any]]
    gpu: Mapped[str | None] = mapped_column(String(256))
    cpu: Mapped[str | None] = mapped_column(String(256))
    first_seen: Mapped[datetime]


class DatasetRow(Base):
    """A data set's fingerprint."""

    __tablename__ = "autotune_datasets"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    fingerprint: Mapped[dict[str, Any]]
    num_samples: Mapped[int | None] = mapped_column(BigInteger)
    first_seen: Mapped[datetime]


class TrialRow(Base):
    """One configuration of a study; its figures are in its measurements."""

    __tablename__ = "autotune_trials"
    __table_args__ = (UniqueConstraint("study_id", "number"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("autotune_studies.id", ondelete="CASCADE"))
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    origin: Mapped[str] = mapped_column(String(16))
    params: Mapped[dict[str, Any]]
    workload_key: Mapped[str] = mapped_column(Text)
    failure_kind: Mapped[str | None] = mapped_column(String(32))
    failure_cause: Mapped[str | None] = mapped_column(Text)
    failure_advice: Mapped[str | None] = mapped_column(Text)
    warnings: Mapped[list[Any]]
    violated: Mapped[list[Any]]
    """Constraints on recorded figures that the trial broke: measured, but not feasible."""
    penalty: Mapped[bool] = mapped_column(Boolean)
    """Optuna was told a penalty in place of a figure; it is in Optuna's value alone."""
    stopped_early: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class MeasurementRow(Base):
    """One run of one configuration in fresh processes, with every figure of `trial.Measurement`."""

    __tablename__ = "autotune_measurements"
    __table_args__ = (
        ForeignKeyConstraint(
            ["study_id", "trial_number"],
            ["autotune_trials.study_id", "autotune_trials.number"],
            ondelete="CASCADE",
        ),
        Index("ix_autotune_measurements_study_id_trial_number", "study_id", "trial_number"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    uuid: Mapped[str] = mapped_column(String(64), unique=True)
    study_id: Mapped[int | None] = mapped_column(
        ForeignKey("autotune_studies.id", ondelete="CASCADE")
    )
    trial_number: Mapped[int | None]
    role: Mapped[str] = mapped_column(String(16))
    block: Mapped[int | None]
    arm: Mapped[str | None] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))

    samples_per_second: Mapped[float | None]
    within_low: Mapped[float | None]
    within_high: Mapped[float | None]
    fps: Mapped[float | None]
    decoded_fps: Mapped[float | None]
    unique_frames: Mapped[float | None]
    time_to_first_batch: Mapped[float | None]
    accelerator_utilization: Mapped[float | None]
    warmup_seconds: Mapped[float | None]
    seconds: Mapped[float | None]
    steady: Mapped[bool | None] = mapped_column(Boolean)
    batches: Mapped[int | None] = mapped_column(BigInteger)
    samples: Mapped[int | None] = mapped_column(BigInteger)
    frames: Mapped[int | None] = mapped_column(BigInteger)
    decoded_frames: Mapped[int | None] = mapped_column(BigInteger)
    failed: Mapped[int | None] = mapped_column(BigInteger)
    slowest_rank: Mapped[float | None]
    cpu_percent: Mapped[float | None]
    rss_gib: Mapped[float | None]
    processes: Mapped[int | None]
    threads: Mapped[int | None]
    gpu_memory_gib: Mapped[float | None]
    sm_percent: Mapped[float | None]
    nvdec_percent: Mapped[float | None]
    stopped_early: Mapped[bool] = mapped_column(Boolean, server_default=false())
    contaminated: Mapped[bool | None] = mapped_column(Boolean)
    contamination: Mapped[dict[str, Any] | None]
    page_cache: Mapped[str | None] = mapped_column(String(8))
    delivered: Mapped[dict[str, Any] | None]
    stage_ceilings: Mapped[list[Any] | None]
    attempt: Mapped[int | None]
    superseded: Mapped[bool] = mapped_column(Boolean, server_default=false())
    """A repeat that was disturbed less stands in its place."""

    ranks: Mapped[list[Any] | None]
    readback: Mapped[dict[str, Any] | None]
    versions: Mapped[dict[str, Any] | None]
    failed_clips: Mapped[list[Any] | None]
    warnings: Mapped[list[Any] | None]
    resources: Mapped[dict[str, Any] | None]
    """The whole `trial.Resources`, so that one added there is kept before it has a column."""
    timeline: Mapped[dict[str, Any]]

    failure_kind: Mapped[str | None] = mapped_column(String(32))
    failure_cause: Mapped[str | None] = mapped_column(Text)
    failure_advice: Mapped[str | None] = mapped_column(Text)
    log_tail: Mapped[str] = mapped_column(Text)
    command_line: Mapped[str] = mapped_column(Text)
    exit_code: Mapped[int | None] = mapped_column(BigInteger)
    node: Mapped[str] = mapped_column(String(256))
    machine_hash: Mapped[str | None] = mapped_column(ForeignKey("autotune_machines.hash"))
    dataset_hash: Mapped[str | None] = mapped_column(ForeignKey("autotune_datasets.hash"))
    started_at: Mapped[datetime]
    wall_seconds: Mapped[float]


class WindowRow(Base):
    """One stretch of a measurement; times are CLOCK_MONOTONIC seconds of the node.

    A figure that was not finite is NULL here and NaN when read.
    """

    __tablename__ = "autotune_windows"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    measurement_id: Mapped[int] = mapped_column(
        ForeignKey("autotune_measurements.id", ondelete="CASCADE"), index=True
    )
    window_index: Mapped[int]
    rank: Mapped[int]
    start_time: Mapped[float | None]
    end_time: Mapped[float | None]
    batches: Mapped[int] = mapped_column(BigInteger)
    samples: Mapped[int] = mapped_column(BigInteger)
    frames: Mapped[int] = mapped_column(BigInteger)
    unique_frames: Mapped[int] = mapped_column(BigInteger)
    decoded_frames: Mapped[int] = mapped_column(BigInteger)
    failed: Mapped[int] = mapped_column(BigInteger)
    busy_seconds: Mapped[float | None]
    steady: Mapped[bool] = mapped_column(Boolean)
    arrivals: Mapped[list[Any]]
    batch_samples: Mapped[list[Any]]
    stages: Mapped[list[Any]]
    """Stage statistics of this window, whole: thousands of rows a measurement otherwise."""


class StageRow(Base):
    """One stage over the steady part of a measurement, in the order of the pipeline."""

    __tablename__ = "autotune_stages"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    measurement_id: Mapped[int] = mapped_column(
        ForeignKey("autotune_measurements.id", ondelete="CASCADE"), index=True
    )
    position: Mapped[int]
    name: Mapped[str] = mapped_column(String(256))
    concurrency: Mapped[int]
    tasks: Mapped[int] = mapped_column(BigInteger)
    failures: Mapped[int] = mapped_column(BigInteger)
    busy_seconds: Mapped[float | None]
    queue_size: Mapped[int]
    queue_occupancy: Mapped[float | None]
    get_seconds: Mapped[float | None]
    put_seconds: Mapped[float | None]


class VerificationRow(Base):
    """A finalist measured again against its baseline, in fresh interleaved blocks."""

    __tablename__ = "autotune_verifications"
    __table_args__ = (
        ForeignKeyConstraint(
            ["study_id", "trial_number"],
            ["autotune_trials.study_id", "autotune_trials.number"],
            ondelete="CASCADE",
        ),
        Index("ix_autotune_verifications_study_id_trial_number", "study_id", "trial_number"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("autotune_studies.id", ondelete="CASCADE"))
    trial_number: Mapped[int]
    baseline_number: Mapped[int | None]
    """The trial that measured this baseline during the search, if one did."""
    baseline_params: Mapped[dict[str, Any]]
    workload: Mapped[str] = mapped_column(Text)
    """The values of the workload parameters that vary, for people; empty if none does."""
    ratio: Mapped[float | None]
    ratio_low: Mapped[float | None]
    ratio_high: Mapped[float | None]
    blocks: Mapped[int]
    significant: Mapped[bool] = mapped_column(Boolean)
    verified: Mapped[bool] = mapped_column(Boolean)
    candidate_mean: Mapped[float | None]
    baseline_mean: Mapped[float | None]
    details: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]

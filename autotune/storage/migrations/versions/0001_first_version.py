"""The first version of the tables.

Version 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this version."""
    op.create_table(
        "autotune_datasets",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("num_samples", sa.BigInteger(), nullable=True),
        sa.Column("first_seen", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_autotune_datasets")),
    )
    op.create_table(
        "autotune_machines",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("gpu", sa.String(length=256), nullable=True),
        sa.Column("cpu", sa.String(length=256), nullable=True),
        sa.Column("first_seen", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_autotune_machines")),
    )
    op.create_table(
        "autotune_studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uuid", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=512), nullable=False),
        sa.Column("optuna_study_name", sa.String(length=512), nullable=False),
        sa.Column("target", sa.String(length=256), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("experiment", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("identity", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("space", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("baseline", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.Column("elapsed_seconds", sa.Float(precision=53), nullable=False),
        sa.Column("dataset_samples", sa.BigInteger(), nullable=True),
        sa.Column("machine_hash", sa.String(length=64), nullable=True),
        sa.Column("dataset_hash", sa.String(length=64), nullable=True),
        sa.Column("autotune_version", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_hash"],
            ["autotune_datasets.hash"],
            name=op.f("fk_autotune_studies_dataset_hash"),
        ),
        sa.ForeignKeyConstraint(
            ["machine_hash"],
            ["autotune_machines.hash"],
            name=op.f("fk_autotune_studies_machine_hash"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_autotune_studies")),
        sa.UniqueConstraint("name", name=op.f("uq_autotune_studies_name")),
        sa.UniqueConstraint("uuid", name=op.f("uq_autotune_studies_uuid")),
    )
    with op.batch_alter_table("autotune_studies", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_autotune_studies_target"), ["target"], unique=False)

    op.create_table(
        "autotune_leases",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("host", sa.String(length=256), nullable=False),
        sa.Column("host_key", sa.String(length=128), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("process_started", sa.String(length=32), nullable=False),
        sa.Column("acquired_at", sa.Float(precision=53), nullable=False),
        sa.Column("renewed_at", sa.Float(precision=53), nullable=False),
        sa.Column("ttl", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["autotune_studies.id"],
            name=op.f("fk_autotune_leases_study_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("study_id", name=op.f("pk_autotune_leases")),
    )
    op.create_table(
        "autotune_requests",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("handled_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["autotune_studies.id"],
            name=op.f("fk_autotune_requests_study_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_autotune_requests")),
    )
    with op.batch_alter_table("autotune_requests", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_autotune_requests_study_id"), ["study_id"], unique=False
        )

    op.create_table(
        "autotune_trials",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("params", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("workload_key", sa.Text(), nullable=False),
        sa.Column("failure_kind", sa.String(length=32), nullable=True),
        sa.Column("failure_cause", sa.Text(), nullable=True),
        sa.Column("failure_advice", sa.Text(), nullable=True),
        sa.Column("warnings", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("violated", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("penalty", sa.Boolean(), nullable=False),
        sa.Column("stopped_early", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("finished_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["autotune_studies.id"],
            name=op.f("fk_autotune_trials_study_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_autotune_trials")),
        sa.UniqueConstraint("study_id", "number", name=op.f("uq_autotune_trials_study_id_number")),
    )
    op.create_table(
        "autotune_measurements",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uuid", sa.String(length=64), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=True),
        sa.Column("trial_number", sa.Integer(), nullable=True),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("block", sa.Integer(), nullable=True),
        sa.Column("arm", sa.String(length=16), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("samples_per_second", sa.Float(precision=53), nullable=True),
        sa.Column("within_low", sa.Float(precision=53), nullable=True),
        sa.Column("within_high", sa.Float(precision=53), nullable=True),
        sa.Column("fps", sa.Float(precision=53), nullable=True),
        sa.Column("decoded_fps", sa.Float(precision=53), nullable=True),
        sa.Column("unique_frames", sa.Float(precision=53), nullable=True),
        sa.Column("time_to_first_batch", sa.Float(precision=53), nullable=True),
        sa.Column("accelerator_utilization", sa.Float(precision=53), nullable=True),
        sa.Column("warmup_seconds", sa.Float(precision=53), nullable=True),
        sa.Column("seconds", sa.Float(precision=53), nullable=True),
        sa.Column("steady", sa.Boolean(), nullable=True),
        sa.Column("batches", sa.BigInteger(), nullable=True),
        sa.Column("samples", sa.BigInteger(), nullable=True),
        sa.Column("frames", sa.BigInteger(), nullable=True),
        sa.Column("decoded_frames", sa.BigInteger(), nullable=True),
        sa.Column("failed", sa.BigInteger(), nullable=True),
        sa.Column("slowest_rank", sa.Float(precision=53), nullable=True),
        sa.Column("cpu_percent", sa.Float(precision=53), nullable=True),
        sa.Column("rss_gib", sa.Float(precision=53), nullable=True),
        sa.Column("processes", sa.Integer(), nullable=True),
        sa.Column("threads", sa.Integer(), nullable=True),
        sa.Column("gpu_memory_gib", sa.Float(precision=53), nullable=True),
        sa.Column("sm_percent", sa.Float(precision=53), nullable=True),
        sa.Column("nvdec_percent", sa.Float(precision=53), nullable=True),
        sa.Column("ranks", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("readback", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("versions", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("failed_clips", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("resources", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("timeline", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("failure_kind", sa.String(length=32), nullable=True),
        sa.Column("failure_cause", sa.Text(), nullable=True),
        sa.Column("failure_advice", sa.Text(), nullable=True),
        sa.Column("log_tail", sa.Text(), nullable=False),
        sa.Column("command_line", sa.Text(), nullable=False),
        sa.Column("exit_code", sa.BigInteger(), nullable=True),
        sa.Column("node", sa.String(length=256), nullable=False),
        sa.Column("machine_hash", sa.String(length=64), nullable=True),
        sa.Column("dataset_hash", sa.String(length=64), nullable=True),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("wall_seconds", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_hash"],
            ["autotune_datasets.hash"],
            name=op.f("fk_autotune_measurements_dataset_hash"),
        ),
        sa.ForeignKeyConstraint(
            ["machine_hash"],
            ["autotune_machines.hash"],
            name=op.f("fk_autotune_measurements_machine_hash"),
        ),
        sa.ForeignKeyConstraint(
            ["study_id", "trial_number"],
            ["autotune_trials.study_id", "autotune_trials.number"],
            name=op.f("fk_autotune_measurements_study_id_trial_number"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["autotune_studies.id"],
            name=op.f("fk_autotune_measurements_study_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_autotune_measurements")),
        sa.UniqueConstraint("uuid", name=op.f("uq_autotune_measurements_uuid")),
    )
    with op.batch_alter_table("autotune_measurements", schema=None) as batch_op:
        batch_op.create_index(
            "ix_autotune_measurements_study_id_trial_number",
            ["study_id", "trial_number"],
            unique=False,
        )

    op.create_table(
        "autotune_verifications",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("trial_number", sa.Integer(), nullable=False),
        sa.Column("baseline_number", sa.Integer(), nullable=True),
        sa.Column("baseline_params", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("workload", sa.Text(), nullable=False),
        sa.Column("ratio", sa.Float(precision=53), nullable=True),
        sa.Column("ratio_low", sa.Float(precision=53), nullable=True),
        sa.Column("ratio_high", sa.Float(precision=53), nullable=True),
        sa.Column("blocks", sa.Integer(), nullable=False),
        sa.Column("significant", sa.Boolean(), nullable=False),
        sa.Column("verified", sa.Boolean(), nullable=False),
        sa.Column("candidate_mean", sa.Float(precision=53), nullable=True),
        sa.Column("baseline_mean", sa.Float(precision=53), nullable=True),
        sa.Column("details", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id", "trial_number"],
            ["autotune_trials.study_id", "autotune_trials.number"],
            name=op.f("fk_autotune_verifications_study_id_trial_number"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["autotune_studies.id"],
            name=op.f("fk_autotune_verifications_study_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_autotune_verifications")),
    )
    with op.batch_alter_table("autotune_verifications", schema=None) as batch_op:
        batch_op.create_index(
            "ix_autotune_verifications_study_id_trial_number",
            ["study_id", "trial_number"],
            unique=False,
        )

    op.create_table(
        "autotune_stages",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("measurement_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("tasks", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("busy_seconds", sa.Float(precision=53), nullable=True),
        sa.Column("queue_size", sa.Integer(), nullable=False),
        sa.Column("queue_occupancy", sa.Float(precision=53), nullable=True),
        sa.Column("get_seconds", sa.Float(precision=53), nullable=True),
        sa.Column("put_seconds", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(
            ["measurement_id"],
            ["autotune_measurements.id"],
            name=op.f("fk_autotune_stages_measurement_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_autotune_stages")),
    )
    with op.batch_alter_table("autotune_stages", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_autotune_stages_measurement_id"), ["measurement_id"], unique=False
        )

    op.create_table(
        "autotune_windows",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("measurement_id", sa.Integer(), nullable=False),
        sa.Column("window_index", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("start_time", sa.Float(precision=53), nullable=True),
        sa.Column("end_time", sa.Float(precision=53), nullable=True),
        sa.Column("batches", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("frames", sa.BigInteger(), nullable=False),
        sa.Column("unique_frames", sa.BigInteger(), nullable=False),
        sa.Column("decoded_frames", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("busy_seconds", sa.Float(precision=53), nullable=True),
        sa.Column("steady", sa.Boolean(), nullable=False),
        sa.Column("arrivals", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("batch_samples", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("stages", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["measurement_id"],
            ["autotune_measurements.id"],
            name=op.f("fk_autotune_windows_measurement_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_autotune_windows")),
    )
    with op.batch_alter_table("autotune_windows", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_autotune_windows_measurement_id"), ["measurement_id"], unique=False
        )

"""Recording measurements: one transaction each, never twice, never lost."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from autotune.exceptions import StorageError
from autotune.storage.address import Address
from autotune.storage.connection import Retry, Store, explain
from autotune.storage.fingerprints import add_dataset, add_machine
from autotune.storage.models import (
    DatasetRow,
    MachineRow,
    MeasurementRow,
    StageRow,
    StudyRow,
    WindowRow,
)
from autotune.storage.records import Arm, MeasurementRecord, Role
from autotune.storage.redaction import clean_json, clean_number, clean_text
from autotune.storage.spool import Fate, Spool
from autotune.trial import (
    Failure,
    Measurement,
    RankFigures,
    StageStats,
    TrialResult,
    Value,
    Window,
)

_log = logging.getLogger(__name__)

FIGURES = (
    "samples_per_second",
    "within_low",
    "within_high",
    "fps",
    "decoded_fps",
    "unique_frames",
    "time_to_first_batch",
    "accelerator_utilization",
    "warmup_seconds",
    "seconds",
    "steady",
    "batches",
    "samples",
    "frames",
    "decoded_frames",
    "failed",
    "slowest_rank",
    "stopped_early",
)
"""Figures of `trial.Measurement` that are columns of the same name."""

RESOURCES = (
    "cpu_percent",
    "rss_gib",
    "processes",
    "threads",
    "gpu_memory_gib",
    "sm_percent",
    "nvdec_percent",
)
"""Figures of `trial.Resources` that are columns of the same name."""

CACHE = ("cache_gib", "cache_mean_gib")
"""Figures of `trial.Resources` that stand in the column ``resources`` alone."""

_DOCUMENTS = (
    "ranks",
    "readback",
    "versions",
    "failed_clips",
    "resources",
    "contamination",
    "delivered",
    "stage_ceilings",
    "warnings",
)


def _figures(measurement: Measurement | None) -> dict[str, Any]:
    if measurement is None:
        return {}
    values: dict[str, Any] = {n: clean_number(getattr(measurement, n)) for n in FIGURES}
    values |= {name: clean_number(getattr(measurement.resources, name)) for name in RESOURCES}
    dumped = measurement.model_dump(mode="python", include=set(_DOCUMENTS))
    values["page_cache"] = measurement.page_cache
    if measurement.contamination is not None:
        values["contaminated"] = measurement.contamination.marked
    return values | {name: clean_json(dumped[name]) for name in _DOCUMENTS}


def _window_values(window: Window, measurement_id: int) -> dict[str, Any]:
    values = window.model_dump(mode="python")
    values["window_index"] = values.pop("index")
    values["start_time"] = values.pop("start")
    values["end_time"] = values.pop("end")
    for name in ("arrivals", "batch_samples", "stages"):
        values[name] = clean_json(values[name])
    for name in ("start_time", "end_time", "busy_seconds"):
        values[name] = clean_number(values[name])
    return values | {"measurement_id": measurement_id}


def _restored(model: type[Value], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a model with NaN for numbers that were not finite when stored."""
    fields = model.model_fields
    return {
        name: math.nan if value is None and fields[name].annotation is float else value
        for name, value in values.items()
    }


def measurement_record(row: MeasurementRow) -> MeasurementRecord:
    """The detached value of a row."""
    renamed = {
        "machine": row.machine_hash,
        "dataset": row.dataset_hash,
        "failure": failure_of(row.failure_kind, row.failure_cause, row.failure_advice),
        "ranks": [_restored(RankFigures, rank) for rank in row.ranks or []],
        "readback": row.readback or {},
        "versions": row.versions or {},
        "failed_clips": row.failed_clips or [],
        **{name: (row.resources or {}).get(name) for name in (*CACHE, "memory")},
        "stage_ceilings": row.stage_ceilings or [],
        "warnings": row.warnings or [],
    }
    return MeasurementRecord.model_validate(
        {n: getattr(row, n) for n in MeasurementRecord.model_fields if n not in renamed} | renamed
    )


def failure_of(kind: str | None, cause: str | None, advice: str | None) -> Failure | None:
    """A failure from its columns."""
    if kind is None:
        return None
    return Failure.model_validate({"kind": kind, "cause": cause or "", "advice": advice or ""})


def _document(
    study_id: int | None,
    trial_number: int | None,
    role: str,
    block: int | None,
    arm: str | None,
    attempt: int | None,
    machine: Mapping[str, Any] | None,
    data: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What a measurement belongs to, as the spool keeps it."""
    if role not in get_args(Role):
        raise ValueError(f"role {role!r} is none of {', '.join(get_args(Role))}")
    if arm is not None and arm not in get_args(Arm):
        raise ValueError(f"arm {arm!r} is none of {', '.join(get_args(Arm))}")
    return {
        "study_id": study_id,
        "trial_number": trial_number,
        "role": role,
        "block": block,
        "arm": arm,
        "attempt": attempt,
        "machine": None if machine is None else clean_json(dict(machine)),
        "data": None if data is None else clean_json(dict(data)),
    }


class Results(Store):
    """Operations on measurements."""

    def __init__(self, address: Address, engine: Engine, retry: Retry) -> None:
        super().__init__(address, engine, retry)
        self.spool = Spool(address)
        self._uuids: dict[int, str] = {}

    def record(
        self,
        study_id: int | None,
        trial_number: int | None,
        role: str,
        result: TrialResult,
        *,
        block: int | None = None,
        arm: str | None = None,
        attempt: int | None = None,
        machine: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> bool:
        """Store one measurement with its windows and stages, in one transaction.

        A uuid that is in the database already is not written again. What the database does not
        take after retries waits in the spool until `flush_spool`.

        Args:
            role: one of `Role`; ``arm``: one of `Arm`, for a verification.
            attempt: counts the repeats of one measurement that was disturbed.
            machine, data: the fingerprints that the figures belong to.

        Returns:
            True if it is in the database, False if it waits in the spool.

        Raises:
            StorageError: if neither the database nor the spool takes it, or if the database
                refuses it for good (its study or trial does not exist); then the spool has it.
        """
        document = _document(study_id, trial_number, role, block, arm, attempt, machine, data)
        doing = f"recording measurement {result.uuid}"
        try:
            self._write_raw(lambda session: self._insert(session, document, result), durable=True)
        except SQLAlchemyError as error:
            told = explain(error, self.address, doing)
            try:
                path = self._spool(document, result)
            except StorageError as spool_error:
                raise StorageError(f"{told}. {spool_error}") from error
            if isinstance(error, IntegrityError):
                raise StorageError(f"{told}. The result is kept in {path}") from error
            _log.warning("%s. The result waits in %s", told, path)
            return False
        if self.spool.waiting:
            self.flush_spool()
        return True

    def spool_result(
        self,
        study_id: int | None,
        trial_number: int | None,
        role: str,
        result: TrialResult,
        *,
        block: int | None = None,
        arm: str | None = None,
        attempt: int | None = None,
        machine: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep one measurement in the spool without asking the database: it is out, or the driver
        has no time to wait for it. Arguments as for `record`.

        Raises:
            StorageError: if the spool does not take it.
        """
        document = _document(study_id, trial_number, role, block, arm, attempt, machine, data)
        path = self._spool(document, result)
        _log.warning("the result of measurement %s waits in %s", result.uuid, path)

    def _spool(self, document: dict[str, Any], result: TrialResult) -> Path:
        study_id = document["study_id"]
        waiting = document | {
            "study_uuid": None if study_id is None else self._uuids.get(study_id),
            "result": clean_json(result.model_dump(mode="python"), finite=False),
        }
        try:
            return self.spool.append(waiting)
        except OSError as error:
            raise StorageError(f"The result could not be kept on disk either ({error})") from error

    def flush_spool(self) -> int:
        """Write the results that wait on disk; returns how many. Those that fail go on waiting."""
        if not self.spool.waiting:
            return 0
        broken: list[SQLAlchemyError] = []

        def write(document: dict[str, Any]) -> Fate:
            if broken:  # the database does not take anything now: do not retry for each line
                return Fate.WAITS
            try:
                return self._write_raw(
                    lambda session: self._insert_waiting(session, document), durable=True
                )
            except (ValidationError, IntegrityError, KeyError):
                return Fate.UNFIT
            except SQLAlchemyError as error:
                broken.append(error)
                return Fate.WAITS

        try:
            drained = self.spool.drain(write)
        except OSError as error:  # they wait on; a full disk must not end the study here
            _log.warning("the waiting results cannot be read now: %s", error)
            return 0
        if broken:
            _log.warning("%s", explain(broken[0], self.address, "writing waiting results"))
        if drained.waiting:
            places = ", ".join(map(str, self.spool.waiting))
            _log.warning("%d result(s) still wait in %s", drained.waiting, places)
        for path in drained.unfit:
            _log.warning(
                "storage %s: waiting results that cannot be read, or belong to no study of this "
                "database, were set aside in %s",
                self.shown,
                path,
            )
        return drained.written

    def _insert_waiting(self, session: Session, document: Mapping[str, Any]) -> Fate:
        """Write what a line of the spool holds."""
        result = TrialResult.model_validate(document.get("result"))
        study_id, uuid = document["study_id"], document.get("study_uuid")
        if study_id is not None and uuid is not None:
            found = session.scalar(select(StudyRow.uuid).where(StudyRow.id == study_id))
            if found != uuid:  # e.g. of a database made anew
                return Fate.UNFIT
        self._insert(session, document, result)
        return Fate.WRITTEN

    def _insert(self, session: Session, document: Mapping[str, Any], result: TrialResult) -> None:
        study_id: int | None = document["study_id"]
        if study_id is not None and study_id not in self._uuids:
            uuid = session.scalar(select(StudyRow.uuid).where(StudyRow.id == study_id))
            if uuid is not None:
                self._uuids[study_id] = uuid
        known = select(MeasurementRow.id).where(MeasurementRow.uuid == result.uuid)
        if session.scalar(known) is not None:
            return
        failure = result.failure
        row = MeasurementRow(
            uuid=result.uuid,
            study_id=study_id,
            trial_number=document["trial_number"],
            role=document["role"],
            block=document["block"],
            arm=document["arm"],
            attempt=document.get("attempt"),
            superseded=document.get("superseded", False),
            state=result.state,
            timeline=clean_json(result.timeline),
            failure_kind=None if failure is None else failure.kind,
            failure_cause=None if failure is None else clean_text(failure.cause),
            failure_advice=None if failure is None else clean_text(failure.advice),
            log_tail=clean_text(result.log_tail),
            command_line=clean_text(result.command_line),
            exit_code=result.exit_code,
            node=clean_text(result.node)[:256],
            machine_hash=add_machine(session, document["machine"]),
            dataset_hash=add_dataset(session, document["data"]),
            started_at=datetime.fromtimestamp(result.started_at, UTC),
            wall_seconds=result.wall_seconds,
            **_figures(result.measurement),
        )
        session.add(row)
        session.flush()
        if result.windows:
            values = [_window_values(window, row.id) for window in result.windows]
            session.execute(insert(WindowRow), values)
        stages = result.measurement.stages if result.measurement is not None else []
        if stages:
            session.execute(
                insert(StageRow),
                [
                    {"measurement_id": row.id, "position": i, **clean_json(stage.model_dump())}
                    for i, stage in enumerate(stages)
                ],
            )

    def measurements(
        self, study_id: int, trial_number: int | None = None
    ) -> list[MeasurementRecord]:
        """The measurements of a study, or of one of its trials, in the order they were recorded."""
        query = select(MeasurementRow).where(MeasurementRow.study_id == study_id)
        if trial_number is not None:
            query = query.where(MeasurementRow.trial_number == trial_number)
        query = query.order_by(MeasurementRow.id)
        return self._read(
            lambda session: [measurement_record(row) for row in session.scalars(query)],
            "reading measurements",
        )

    def windows(self, measurement_id: int) -> list[Window]:
        """The windows of a measurement, by time, each with its stage statistics."""
        query = (
            select(WindowRow)
            .where(WindowRow.measurement_id == measurement_id)
            .order_by(WindowRow.window_index, WindowRow.rank, WindowRow.id)
        )
        renamed = {"index": "window_index", "start": "start_time", "end": "end_time"}

        def window(row: WindowRow) -> Window:
            values = {n: getattr(row, renamed.get(n, n)) for n in Window.model_fields}
            values["stages"] = [_restored(StageStats, stage) for stage in row.stages]
            return Window.model_validate(_restored(Window, values))

        return self._read(
            lambda session: [window(row) for row in session.scalars(query)], "reading windows"
        )

    def stages(self, measurement_id: int) -> list[StageStats]:
        """Each stage over the steady part of a measurement, in the order of the pipeline."""
        query = (
            select(StageRow)
            .where(StageRow.measurement_id == measurement_id)
            .order_by(StageRow.position)
        )
        return self._read(
            lambda session: [
                StageStats.model_validate(
                    _restored(StageStats, {n: getattr(row, n) for n in StageStats.model_fields})
                )
                for row in session.scalars(query)
            ],
            "reading stages",
        )

    def supersede(self, uuids: Collection[str]) -> None:
        """Mark measurements in whose place a less disturbed repeat stands.

        Those that wait in the spool are marked there.

        Raises:
            StorageError: if the database or the spool fails.
        """
        if not uuids:
            return

        def change(session: Session) -> None:
            session.execute(
                update(MeasurementRow).where(MeasurementRow.uuid.in_(uuids)).values(superseded=True)
            )

        try:
            self.spool.amend(lambda d: d.get("result", {}).get("uuid") in uuids, superseded=True)
        except OSError as error:
            raise StorageError(f"the waiting results cannot be changed: {error}") from error
        self._write(change, "marking repeated measurements")

    def machine_fingerprint(self, key: str) -> dict[str, Any] | None:
        """A machine's fingerprint by its hash."""

        def find(session: Session) -> dict[str, Any] | None:
            row = session.get(MachineRow, key)
            return None if row is None else row.fingerprint

        return self._read(find, "reading a machine")

    def dataset_fingerprint(self, key: str) -> dict[str, Any] | None:
        """A data set's fingerprint by its hash."""

        def find(session: Session) -> dict[str, Any] | None:
            row = session.get(DatasetRow, key)
            return None if row is None else row.fingerprint

        return self._read(find, "reading a data set")

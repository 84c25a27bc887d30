"""Studies, and what users ask of a running one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from uuid import uuid4

from sqlalchemy import Update, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from autotune.exceptions import InputError, StorageError, StudyConflict
from autotune.storage.connection import Store, explain
from autotune.storage.fingerprints import add_dataset, add_machine
from autotune.storage.models import DatasetRow, MachineRow, MeasurementRow, RequestRow, StudyRow
from autotune.storage.records import Source, StudyRecord, StudyState
from autotune.storage.redaction import clean_json, clean_text


def _autotune_version() -> str:
    try:
        return version("autotune")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def study_record(row: StudyRow) -> StudyRecord:
    """The detached value of a row."""
    values = {name: getattr(row, name) for name in StudyRecord.model_fields}
    return StudyRecord.model_validate(values | {"warnings": row.warnings or []})


def study_row(session: Session, study_id: int) -> StudyRow:
    """The row of a study.

    Raises:
        StorageError: if it is gone.
    """
    row = session.get(StudyRow, study_id)
    if row is None:
        raise StorageError(f"study {study_id} is no longer in the database; launch it again")
    return row


def handle_requests(study_id: int) -> Update:
    """The statement that marks all requests of a study as handled."""
    return (
        update(RequestRow)
        .where(RequestRow.study_id == study_id, RequestRow.handled_at.is_(None))
        .values(handled_at=datetime.now(UTC))
    )


class Studies(Store):
    """Operations on studies."""

    def create_study(
        self,
        name: str,
        *,
        target: str,
        experiment: Mapping[str, Any],
        identity: Mapping[str, Any],
        space: Mapping[str, Any],
        baseline: Mapping[str, Any],
        source: Source = "measured",
        optuna_study_name: str | None = None,
        dataset_samples: int | None = None,
        uuid: str | None = None,
        machine: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> StudyRecord:
        """Create a study in the state ``running``.

        Args:
            name: unique in the database.
            identity: what must not change when the study is resumed.
            optuna_study_name: default: ``name``.
            uuid: default: a fresh one.
            machine, data: fingerprints of the node that the study is measured on.

        Passwords in ``experiment`` and the other documents are replaced by ``***``.

        Raises:
            StudyConflict: if a study of this name exists.
        """
        now = datetime.now(UTC)

        def insert(session: Session) -> StudyRecord:
            row = StudyRow(
                uuid=uuid or uuid4().hex,
                name=name,
                optuna_study_name=optuna_study_name or name,
                target=target,
                source=source,
                experiment=clean_json(dict(experiment)),
                identity=clean_json(dict(identity)),
                space=clean_json(dict(space)),
                baseline=clean_json(dict(baseline)),
                state="running",
                state_reason="",
                created_at=now,
                updated_at=now,
                elapsed_seconds=0.0,
                dataset_samples=dataset_samples,
                machine_hash=add_machine(session, machine),
                dataset_hash=add_dataset(session, data),
                autotune_version=_autotune_version(),
            )
            session.add(row)
            session.flush()
            return study_record(row)

        try:
            return self._write_raw(insert)
        except IntegrityError:
            raise StudyConflict(
                f"study {name!r} exists already in {self.address.shown}; "
                "choose another name with --study-name"
            ) from None
        except SQLAlchemyError as error:
            raise explain(error, self.address, f"creating the study {name!r}") from error

    def find_study(self, name: str) -> StudyRecord | None:
        """The study of this name, or None."""

        def find(session: Session) -> StudyRecord | None:
            row = session.scalar(select(StudyRow).where(StudyRow.name == name))
            return None if row is None else study_record(row)

        return self._read(find, f"reading the study {name!r}")

    def get_study(self, name: str) -> StudyRecord:
        """The study of this name.

        Raises:
            InputError: if there is none, with close names and the list of those there are.
        """
        found = self.find_study(name)
        if found is not None:
            return found
        newest_first = select(StudyRow.name).order_by(StudyRow.id.desc())
        names = self._read(lambda s: list(s.scalars(newest_first)), "listing the studies")
        where = f"no study {name!r} in {self.address.shown}"
        if not names:
            raise InputError(f"{where}: it holds none; launch one first or pass --storage")
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        raise InputError(f"{where}{hint} It holds: {', '.join(names[:20])}{more}")

    def study_by_id(self, study_id: int) -> StudyRecord:
        """The study with this key, with its state of now.

        Raises:
            StorageError: if it is gone.
        """
        return self._read(lambda s: study_record(study_row(s, study_id)), "reading a study")

    def studies(self) -> list[StudyRecord]:
        """All studies, the oldest first."""
        query = select(StudyRow).order_by(StudyRow.id)
        return self._read(
            lambda session: [study_record(row) for row in session.scalars(query)],
            "listing the studies",
        )

    def set_state(self, study_id: int, state: StudyState, reason: str = "") -> None:
        """Record how the study stands and why."""

        def change(session: Session) -> None:
            row = study_row(session, study_id)
            row.state = state
            row.state_reason = clean_text(reason)
            row.updated_at = datetime.now(UTC)

        self._write(change, f"setting the study's state to {state}")

    def add_elapsed(self, study_id: int, seconds: float) -> float:
        """Add budget time that was used; returns the sum over all launches, in seconds."""

        def change(session: Session) -> float:
            row = study_row(session, study_id)
            # Added by the database: a lost update would give budget back.
            session.execute(
                update(StudyRow)
                .where(StudyRow.id == study_id)
                .values(
                    elapsed_seconds=StudyRow.elapsed_seconds + seconds,
                    updated_at=datetime.now(UTC),
                )
            )
            session.refresh(row)
            return row.elapsed_seconds

        return self._write(change, "recording the time used")

    def set_dataset_samples(self, study_id: int, samples: int) -> None:
        """Record the data set's size, known once a node was probed."""

        def change(session: Session) -> None:
            study_row(session, study_id).dataset_samples = samples

        self._write(change, "recording the size of the data set")

    def set_noise(self, study_id: int, noise: Mapping[str, Any]) -> None:
        """Record the noise floor."""

        def change(session: Session) -> None:
            study_row(session, study_id).noise = clean_json(dict(noise))

        self._write(change, "recording the noise floor")

    def set_ceilings(self, study_id: int, ceilings: Mapping[str, Any]) -> None:
        """Record what no loader can exceed."""

        def change(session: Session) -> None:
            study_row(session, study_id).ceilings = clean_json(dict(ceilings))

        self._write(change, "recording the ceilings")

    def set_study_warnings(self, study_id: int, warnings: Iterable[str]) -> None:
        """Record what a user should know of the search, in place of what was recorded before."""
        texts = [clean_text(text) for text in warnings]

        def change(session: Session) -> None:
            study_row(session, study_id).warnings = texts

        self._write(change, "recording the study's warnings")

    def update_experiment(self, study_id: int, experiment: Mapping[str, Any]) -> None:
        """Record the experiment of a resumed launch: budget and the like may have changed."""

        def change(session: Session) -> None:
            row = study_row(session, study_id)
            row.experiment = clean_json(dict(experiment))
            row.updated_at = datetime.now(UTC)

        self._write(change, "recording the experiment")

    def study_fingerprints(
        self, study_id: int
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """The machine and the data of a study: those it was created with, else those of its
        first measurement; None where not known yet."""
        first = (
            select(MeasurementRow.machine_hash, MeasurementRow.dataset_hash)
            .where(MeasurementRow.study_id == study_id)
            .order_by(MeasurementRow.id)
            .limit(1)
        )

        def find(session: Session) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
            study = study_row(session, study_id)
            measured = session.execute(first).first() or (None, None)
            machine_hash = study.machine_hash or measured[0]
            dataset_hash = study.dataset_hash or measured[1]
            machine = session.get(MachineRow, machine_hash) if machine_hash else None
            data = session.get(DatasetRow, dataset_hash) if dataset_hash else None
            return (
                None if machine is None else machine.fingerprint,
                None if data is None else data.fingerprint,
            )

        return self._read(find, "reading the study's fingerprints")

    def request_stop(self, name: str) -> bool:
        """Ask the study's driver to stop after the trial in flight.

        Returns:
            False if the study is not running, so that nothing is asked.

        Raises:
            InputError: if there is no such study.
        """
        study = self.get_study(name)
        if study.state != "running":
            return False

        def insert(session: Session) -> None:
            session.add(RequestRow(study_id=study.id, kind="stop", created_at=datetime.now(UTC)))

        self._write(insert, f"asking the study {name!r} to stop")
        return True

    def stop_requested(self, study_id: int) -> bool:
        """Whether a stop was asked for and not yet handled."""
        open_request = (
            select(RequestRow.id)
            .where(
                RequestRow.study_id == study_id,
                RequestRow.kind == "stop",
                RequestRow.handled_at.is_(None),
            )
            .limit(1)
        )
        found = self._read(lambda session: session.scalar(open_request), "looking for requests")
        return found is not None

    def clear_requests(self, study_id: int) -> None:
        """Mark all requests as handled: at the start of a launch, and once one was obeyed."""

        def change(session: Session) -> None:
            session.execute(handle_requests(study_id))

        self._write(change, "clearing requests")

"""Trials as the study loop writes them, and verifications."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.orm import Session

from autotune.exceptions import InputError, StorageError
from autotune.search_space import SearchSpace
from autotune.stats import RatioEstimate
from autotune.storage.connection import Store
from autotune.storage.models import MeasurementRow, TrialRow, VerificationRow
from autotune.storage.records import (
    MeasurementRecord,
    Origin,
    TrialState,
    VerificationRecord,
)
from autotune.storage.redaction import clean_json, clean_number, clean_text
from autotune.storage.results import measurement_record
from autotune.storage.studies import study_row
from autotune.trial import Failure, Scalar

DRIVER_ENDED = Failure(
    kind="infrastructure",
    cause="the driver ended while this trial ran",
    advice="launch the study again: it goes on with the next trial",
)


def _value_text(value: Scalar) -> str:
    """One text for equal values: 2 and 2.0 are one workload, and so are files of them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def workload_key(space: SearchSpace, params: Mapping[str, Scalar]) -> str:
    """The values of a configuration's workload parameters: what its figures compare within.

    ``batch_size=16, subclip_duration=0.5``; parameters whose condition does not hold are left
    out. Empty if the space has no workload parameter.
    """
    pairs = sorted(space.workload_key(params))
    return ", ".join(f"{name}={_value_text(value)}" for name, value in pairs)


def verification_record(row: VerificationRow) -> VerificationRecord:
    """The detached value of a row."""
    return VerificationRecord.model_validate(
        {name: getattr(row, name) for name in VerificationRecord.model_fields}
    )


def set_failure(row: TrialRow | MeasurementRow, failure: Failure | None) -> None:
    """Write a failure's parts into their columns."""
    row.failure_kind = None if failure is None else failure.kind
    row.failure_cause = None if failure is None else clean_text(failure.cause)
    row.failure_advice = None if failure is None else clean_text(failure.advice)


def _trial_row(session: Session, study_id: int, number: int) -> TrialRow:
    row = session.scalar(
        select(TrialRow).where(TrialRow.study_id == study_id, TrialRow.number == number)
    )
    if row is None:
        raise StorageError(f"trial {number} of study {study_id} is not in the database")
    return row


def _supersede_repeats(session: Session, study_id: int) -> None:
    """Settle what a driver that was killed measured again and did not settle itself.

    A run without an attempt, or with attempt 0, is the first for its figure; repeats follow it.
    """
    rows = session.execute(
        select(
            MeasurementRow.id,
            MeasurementRow.trial_number,
            MeasurementRow.role,
            MeasurementRow.block,
            MeasurementRow.arm,
            MeasurementRow.attempt,
            MeasurementRow.superseded,
            MeasurementRow.state,
            MeasurementRow.stopped_early,
            MeasurementRow.contamination,
        )
        .where(MeasurementRow.study_id == study_id)
        .order_by(MeasurementRow.id)
    ).all()
    figures: dict[tuple[Any, ...], list[list[Row[Any]]]] = defaultdict(list)
    for row in rows:
        runs = figures[row.trial_number, row.role, row.block, row.arm]
        if row.attempt and runs:
            runs[-1].append(row)
        else:
            runs.append([row])
    left = [
        row.id
        for runs in figures.values()
        for repeats in runs
        if not any(row.superseded for row in repeats)
        for row in _all_but_kept(repeats)
    ]
    if left:
        session.execute(
            update(MeasurementRow).where(MeasurementRow.id.in_(left)).values(superseded=True)
        )


def _all_but_kept(repeats: Sequence[Row[Any]]) -> list[Row[Any]]:
    """The runs in whose place another stands, by the rule of `repeats.Attempts.kept`."""
    finished = [row for row in repeats if row.state == "finished"]
    kept = min(
        finished,
        key=lambda row: (row.stopped_early, (row.contamination or {}).get("lost", 0.0)),
        default=repeats[-1],
    )
    return [row for row in repeats if row is not kept]


class Trials(Store):
    """Operations on trials."""

    def start_trial(
        self,
        study_id: int,
        number: int,
        params: Mapping[str, Scalar],
        origin: Origin = "sampler",
        warnings: Iterable[str] = (),
        *,
        key: str | None = None,
    ) -> None:
        """Record that a trial runs. Starting the same number again starts it over.

        Args:
            number: Optuna's trial number.
            params: the full configuration.
            key: the workload it belongs to; default: from the study's search space.
        """

        def insert(session: Session) -> None:
            study = study_row(session, study_id)
            row = session.scalar(
                select(TrialRow).where(TrialRow.study_id == study_id, TrialRow.number == number)
            )
            if row is None:
                row = TrialRow(study_id=study_id, number=number)
                session.add(row)
            row.state = "RUNNING"
            row.origin = origin
            row.params = clean_json(dict(params))
            row.workload_key = (
                workload_key(SearchSpace.from_dict(study.space), params) if key is None else key
            )
            row.warnings = [clean_text(text) for text in warnings]
            row.violated = []
            row.penalty = False
            row.stopped_early = False
            row.created_at = datetime.now(UTC)
            row.finished_at = None
            set_failure(row, None)

        self._write(insert, f"starting trial {number}")

    def finish_trial(
        self,
        study_id: int,
        number: int,
        state: TrialState,
        failure: Failure | None = None,
        violated: Iterable[str] = (),
        *,
        penalty: bool = False,
        stopped_early: bool = False,
    ) -> None:
        """Record how a trial ended.

        Args:
            state: Optuna's.
            violated: constraints on recorded figures that it broke: it is not feasible.
            penalty: Optuna was told a penalty, as the trial has no figure.
            stopped_early: it was ended as hopeless; its figure is never ranked.
        """

        def change(session: Session) -> None:
            row = _trial_row(session, study_id, number)
            row.state = state
            row.violated = [clean_text(text) for text in violated]
            row.penalty = penalty
            row.stopped_early = stopped_early
            row.finished_at = datetime.now(UTC)
            set_failure(row, failure)

        self._write(change, f"finishing trial {number}")

    def clear_running(
        self,
        study_id: int,
        violations: Callable[[MeasurementRecord], Iterable[str]] | None = None,
    ) -> list[int]:
        """End the trials that a dead driver left RUNNING, and of measurements that it made again
        keep one, as it would have; call it with the lease held.

        One whose measurement was recorded before the driver died is COMPLETE: nothing measured is
        lost. ``violations`` then gives the constraints on figures that it breaks; where the
        experiment has such constraints and ``violations`` is not given, and for trials without a
        figure, the state is FAIL, kind ``infrastructure``.

        Returns:
            the numbers of the trials that were ended.
        """

        def change(session: Session) -> list[int]:
            unchecked = violations is None and bool(
                study_row(session, study_id).experiment.get("constraints")
            )
            rows = session.scalars(
                select(TrialRow)
                .where(TrialRow.study_id == study_id, TrialRow.state == "RUNNING")
                .order_by(TrialRow.number)
            ).all()
            _supersede_repeats(session, study_id)
            for row in rows:
                measured = session.scalar(
                    select(MeasurementRow)
                    .where(
                        MeasurementRow.study_id == study_id,
                        MeasurementRow.trial_number == row.number,
                        MeasurementRow.role.in_(("search", "baseline")),
                        MeasurementRow.state == "finished",
                        MeasurementRow.superseded.is_(False),
                    )
                    .order_by(MeasurementRow.id.desc())
                    .limit(1)
                )
                row.finished_at = datetime.now(UTC)
                if measured is None or unchecked:
                    row.state = "FAIL"
                    set_failure(row, DRIVER_ENDED)
                    continue
                row.state = "COMPLETE"
                row.stopped_early = measured.stopped_early
                if violations is not None:
                    broken = violations(measurement_record(measured))
                    row.violated = [clean_text(text) for text in broken]
            return [row.number for row in rows]

        return self._write(change, "clearing the trials of an ended driver")

    def add_verification(
        self,
        study_id: int,
        trial_number: int,
        *,
        workload: str,
        outcome: RatioEstimate | None,
        candidate_rates: Sequence[float],
        baseline_rates: Sequence[float],
        baseline_params: Mapping[str, Scalar],
        details: Mapping[str, Any] | None = None,
    ) -> VerificationRecord:
        """Record a comparison of a trial with its baseline over fresh interleaved blocks.

        It is *verified* when the ratio's interval lies above 1. ``outcome`` None means that too
        few blocks could be measured.

        Raises:
            InputError: if the study is a replay, which is never verified.
        """

        def insert(session: Session) -> VerificationRecord:
            study = study_row(session, study_id)
            if study.source != "measured":
                raise InputError(
                    f"study {study.name!r} is a replay of a recorded table; only a study that "
                    "measured the real target can be verified"
                )
            trial = _trial_row(session, study_id, trial_number)
            baselines = session.scalars(
                select(TrialRow)
                .where(TrialRow.study_id == study_id, TrialRow.origin == "baseline")
                .order_by(TrialRow.number)
            ).all()
            wanted = dict(baseline_params)
            same = [b.number for b in baselines if b.params == wanted]
            close = [b.number for b in baselines if b.workload_key == trial.workload_key]
            row = VerificationRow(
                study_id=study_id,
                trial_number=trial_number,
                baseline_number=next(iter(same + close), None),
                baseline_params=clean_json(wanted),
                workload=clean_text(workload),
                ratio=None if outcome is None else clean_number(outcome.ratio),
                ratio_low=None if outcome is None else clean_number(outcome.low),
                ratio_high=None if outcome is None else clean_number(outcome.high),
                blocks=min(len(candidate_rates), len(baseline_rates)),
                significant=outcome is not None and outcome.significant,
                verified=outcome is not None and outcome.low > 1.0,
                candidate_mean=_mean(candidate_rates),
                baseline_mean=_mean(baseline_rates),
                details=clean_json(
                    {
                        **(details or {}),
                        "candidate_rates": list(candidate_rates),
                        "baseline_rates": list(baseline_rates),
                    }
                ),
                created_at=datetime.now(UTC),
            )
            session.add(row)
            session.flush()
            return verification_record(row)

        return self._write(insert, f"recording the verification of trial {trial_number}")

    def verifications(self, study_id: int) -> list[VerificationRecord]:
        """All verifications of a study, the oldest first."""
        query = (
            select(VerificationRow)
            .where(VerificationRow.study_id == study_id)
            .order_by(VerificationRow.id)
        )
        return self._read(
            lambda session: [verification_record(row) for row in session.scalars(query)],
            "reading the verifications",
        )


def _mean(rates: Sequence[float]) -> float | None:
    return sum(rates) / len(rates) if rates else None

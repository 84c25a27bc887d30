"""Questions to the database: the trials of a study, the best of them, the best of all studies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from autotune.exceptions import InputError
from autotune.expressions import Expression
from autotune.storage.connection import Store
from autotune.storage.figures import (
    REPEAT_COLUMNS,
    SEARCH_ROLES,
    Run,
    Spread,
    between_runs,
    finished_runs,
    spread_of,
    trial_record,
)
from autotune.storage.models import DatasetRow, MachineRow, StudyRow, TrialRow, VerificationRow
from autotune.storage.records import (
    BestGroup,
    DatasetRecord,
    MachineRecord,
    TrialRecord,
    VerificationRecord,
)
from autotune.storage.studies import study_row
from autotune.storage.trials import verification_record

# Figures that --where may name beside the parameters.
WHERE_FIGURES = (
    "number",
    "samples_per_second",
    "ci_low",
    "ci_high",
    "fps",
    "decoded_fps",
    "unique_frames",
    "time_to_first_batch",
    "accelerator_utilization",
    "cpu_percent",
    "rss_gib",
    "host_memory_gib",
    "gpu_memory_gib",
    "cache_gib",
    "cache_mean_gib",
    "sm_percent",
    "nvdec_percent",
    "slowest_rank",
    "failed_share",
    "epoch_seconds",
    "verified",
    "origin",
)

_ALIASES = {"host_memory_gib": "rss_gib"}
"""Names that constraints and tables use for a figure."""


def _rank(trial: TrialRecord) -> tuple[bool, float]:
    return not trial.verified, -(trial.samples_per_second or 0.0)


def matches(trial: TrialRecord, where: Expression) -> bool:
    """Whether the expression holds; a trial without a value for one of its names does not match.

    Raises:
        ExpressionError: if it names what no trial has, or compares what cannot be compared.
    """
    names: dict[str, object] = {
        name: getattr(trial, _ALIASES.get(name, name)) for name in WHERE_FIGURES
    }
    names |= trial.params
    return all(names.get(n, "") is not None for n in where.names) and where.holds(names)


def _filtered(trials: Sequence[TrialRecord], where: Expression | str | None) -> list[TrialRecord]:
    if where is None:
        return list(trials)
    expression = Expression.parse(where, "--where") if isinstance(where, str) else where
    # A parameter that some trials lack, because its condition does not hold there, is no error;
    # one that none has is left to the expression to complain of.
    known = set().union(*(trial.params for trial in trials)) & expression.names
    return [t for t in trials if known <= t.params.keys() and matches(t, expression)]


def _with_parameter(trials: Sequence[TrialRecord], per: str | None) -> list[TrialRecord]:
    """The trials that have the parameter; all of them without one.

    Raises:
        InputError: if no trial has it.
    """
    if per is None:
        return list(trials)
    found = [trial for trial in trials if per in trial.params]
    if trials and not found:
        known = ", ".join(sorted({name for trial in trials for name in trial.params}))
        raise InputError(f"--per {per}: no such parameter; accepted: {known}")
    return found


class Queries(Store):
    """Reading trials and the best of them."""

    def trials(self, study_id: int) -> list[TrialRecord]:
        """All trials of a study by number, each with its figures and its interval.

        Raises:
            StorageError: if the study is gone.
        """
        return self._read(
            lambda session: self._trials(session, study_row(session, study_id)),
            "reading the trials",
        )

    def trial(self, study_id: int, number: int) -> TrialRecord:
        """One trial of a study.

        Raises:
            InputError: if there is no such trial.
        """
        trials = self.trials(study_id)
        for trial in trials:
            if trial.number == number:
                return trial
        last = f"it has 0 to {trials[-1].number}" if trials else "it has none yet"
        raise InputError(f"no trial {number} in this study; {last}")

    def _trials(self, session: Session, study: StudyRow) -> list[TrialRecord]:
        rows = session.scalars(
            select(TrialRow).where(TrialRow.study_id == study.id).order_by(TrialRow.number)
        ).all()
        runs: list[Run] = list(session.execute(finished_runs(study.id)))
        verifications = self._verifications(session, study.id)
        latest = {v.trial_number: v for v in verifications}
        between = between_runs({row.number: row.params for row in rows}, runs, verifications)
        searched: dict[int, list[Run]] = defaultdict(list)
        for run in runs:
            if run.role in SEARCH_ROLES and run.trial_number is not None:
                searched[run.trial_number].append(run)
        return [
            trial_record(study, row, searched[row.number], between, latest.get(row.number))
            for row in rows
        ]

    def _verifications(self, session: Session, study_id: int) -> list[VerificationRecord]:
        rows = session.scalars(
            select(VerificationRow)
            .where(VerificationRow.study_id == study_id)
            .order_by(VerificationRow.id)
        )
        return [verification_record(row) for row in rows]

    def between_run_sd(self, study_id: int) -> tuple[float, float]:
        """Relative standard deviation between fresh runs of one configuration, pooled over all
        that were measured more than once, and its degrees of freedom; the prior without any."""
        sd, dof, _ = self.run_spread(study_id)
        return sd, dof

    def run_spread(self, study_id: int) -> Spread:
        """What runs of one configuration differ by at the place of the study's last run."""

        def estimate(session: Session) -> Spread:
            study = study_row(session, study_id)
            runs: list[Run] = list(session.execute(finished_runs(study.id, REPEAT_COLUMNS)))
            if not runs:
                return spread_of([])
            rows = session.execute(
                select(TrialRow.number, TrialRow.params).where(TrialRow.study_id == study.id)
            )
            between = between_runs(
                {row.number: row.params for row in rows},
                runs,
                self._verifications(session, study.id),
            )
            last = runs[-1]
            return between[last.machine_hash, last.dataset_hash]

        return self._read(estimate, "reading the runs")

    def best(
        self,
        study_id: int,
        top: int = 1,
        where: Expression | str | None = None,
        per: str | None = None,
    ) -> list[BestGroup]:
        """The best trials of a study, verified ones first, the fastest group first.

        Only trials that are complete, feasible and were measured to their end are ranked, and only
        against trials of the same workload value, machine and data; with ``per``, also of the
        same value of that parameter (a trial without that parameter is left out). The baseline
        of a workload is ranked like any other trial.

        Raises:
            InputError: if ``top`` is below 1, or no trial has a parameter ``per``.
            ExpressionError: see `matches`.
        """

        def find(session: Session) -> tuple[str, list[TrialRecord]]:
            study = study_row(session, study_id)
            return study.target, self._trials(session, study)

        target, trials = self._read(find, "reading the best trials")
        return self._grouped(target, trials, top, where, per, with_baseline=True)

    def best_across(
        self,
        target: str,
        gpu: str | None = None,
        top: int = 1,
        where: Expression | str | None = None,
        per: str | None = None,
    ) -> list[BestGroup]:
        """The best trials of a target over all studies that measured it.

        Groups by machine, data and workload value; they are never mixed. Replayed studies are left
        out. ``gpu`` filters by a part of the GPU's name, whatever its case.

        Raises:
            InputError: if no study measured the target, or none on such a GPU; see also `best`.
            ExpressionError: see `matches`.
        """

        def find(session: Session) -> list[TrialRecord]:
            studies = session.scalars(
                select(StudyRow)
                .where(StudyRow.target == target, StudyRow.source == "measured")
                .order_by(StudyRow.id)
            ).all()
            if not studies:
                targets = set(session.scalars(select(StudyRow.target).distinct()))
                known = ", ".join(sorted(targets)) or "none"
                raise InputError(
                    f"no study in {self.shown} measured the target {target!r}; "
                    f"targets it holds: {known}"
                )
            return [trial for study in studies for trial in self._trials(session, study)]

        trials = self._read(find, "reading the best trials of all studies")
        found = self._grouped(target, trials, top, where, per, with_baseline=False)
        if gpu is None:
            return found
        there = sorted({group.gpu for group in found if group.gpu})
        chosen = [g for g in found if g.gpu and gpu.casefold() in g.gpu.casefold()]
        if found and not chosen:
            raise InputError(
                f"--gpu {gpu}: no figure of {target!r} was measured on such a GPU; "
                f"there are: {', '.join(there) or 'none with a GPU'}"
            )
        return chosen

    def _grouped(
        self,
        target: str,
        trials: Sequence[TrialRecord],
        top: int,
        where: Expression | str | None,
        per: str | None,
        *,
        with_baseline: bool,
    ) -> list[BestGroup]:
        """The best of each group of trials that compare, the fastest group first."""
        if top < 1:
            raise InputError(f"--top {top}: accepted are 1 and more")
        groups: dict[tuple[Any, ...], list[TrialRecord]] = defaultdict(list)
        ranked = [trial for trial in _with_parameter(trials, per) if trial.rankable]
        for trial in _filtered(ranked, where):
            value = None if per is None else trial.params[per]
            groups[trial.workload_key, trial.machine, trial.dataset, value].append(trial)
        names = self._processors({machine for _, machine, _, _ in groups})
        found = [
            BestGroup(
                target=target,
                workload_key=workload,
                machine=machine,
                dataset=dataset,
                gpu=names.get(machine, (None, None))[0],
                cpu=names.get(machine, (None, None))[1],
                per=per,
                per_value=value,
                baseline=_baseline(trials, workload, machine, dataset) if with_baseline else None,
                trials=sorted(members, key=_rank)[:top],
            )
            for (workload, machine, dataset, value), members in groups.items()
        ]
        return sorted(found, key=lambda group: _rank(group.trials[0]))

    def _processors(
        self, machines: set[str | None]
    ) -> dict[str | None, tuple[str | None, str | None]]:
        """GPU and CPU of machines by their hash."""
        hashes = [machine for machine in machines if machine is not None]
        query = select(MachineRow).where(MachineRow.hash.in_(hashes))
        return self._read(
            lambda session: {row.hash: (row.gpu, row.cpu) for row in session.scalars(query)},
            "reading machines",
        )

    def machines(self) -> list[MachineRecord]:
        """Every machine that figures were measured on, the first seen first."""
        query = select(MachineRow).order_by(MachineRow.first_seen)
        return self._read(
            lambda session: [
                MachineRecord.model_validate(
                    {name: getattr(row, name) for name in MachineRecord.model_fields}
                )
                for row in session.scalars(query)
            ],
            "reading the machines",
        )

    def datasets(self) -> list[DatasetRecord]:
        """Every data set that figures were measured on, the first seen first."""
        query = select(DatasetRow).order_by(DatasetRow.first_seen)
        return self._read(
            lambda session: [
                DatasetRecord.model_validate(
                    {name: getattr(row, name) for name in DatasetRecord.model_fields}
                )
                for row in session.scalars(query)
            ],
            "reading the data sets",
        )


def _baseline(
    trials: Iterable[TrialRecord], workload: str, machine: str | None, dataset: str | None
) -> TrialRecord | None:
    """The baseline of a workload value with a figure of that machine and data."""
    for trial in trials:
        there = (trial.workload_key, trial.machine, trial.dataset) == (workload, machine, dataset)
        if trial.origin == "baseline" and there and trial.samples_per_second is not None:
            return trial
    return None

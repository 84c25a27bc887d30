"""The Python API: launch a study, load one, ask it, export its winner.

    study = autotune.launch("experiment.yaml", data_dir="/data/train")
    study = autotune.load_study("experiment", storage="sqlite:///autotune.db")
    study.best()                    the best trial: .params, .samples_per_second, .verified, .flags
    study.best().build()            its loader, to train with
    study.trials_dataframe()        pandas, one row a trial
    study.export(format="flags")    the winning flags

A `Study` holds no open connection: every question reads the database as it is then, also while
the study runs in another process.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from autotune.exceptions import InputError
from autotune.results import (
    ALL,
    StudySummary,
    TrialFigures,
    Winner,
    all_trials,
    export_study,
    state_now,
    summary,
    trial_figures,
    winners,
)
from autotune.storage import Database, MeasurementRecord, StudyRecord, TrialRecord
from autotune.ties import ties

if TYPE_CHECKING:
    import pandas as pd

    from autotune.config import Experiment
    from autotune.loaders import VideoLoader
    from autotune.loaders.tuned import Recipe
    from autotune.search_space import SearchSpace
    from autotune.study.observer import StudyObserver
    from autotune.study.run import StopSignal
    from autotune.trial import Value


class Trial(TrialFigures):
    """One configuration with its figures."""

    flags: str
    """The configuration as command-line flags, on one line."""
    _recipe: Recipe = PrivateAttr()

    def build(
        self,
        data_dir: str | Path | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
        **overrides: Any,
    ) -> VideoLoader | Iterable[Any]:
        """This configuration's loader, in this process, to train with.

        A `loaders.VideoLoader`; of the target ``python``, what the function that was tuned
        returns. Warns if the configuration is not verified, or was measured on another machine.

        Args:
            data_dir: folder of clips; default: the study's.
            rank, world_size: which of how many parts of the data set this process reads.
            overrides: parameters and settings in place of those measured, e.g. ``num_frames``;
                ``seed`` too.

        Raises:
            InputError: an override or the data are wrong, or the target has no loader to train
                with (``command``).
            UnsupportedError: this machine cannot do what was measured.
        """
        from autotune.loaders.tuned import build_tuned

        return build_tuned(self._recipe, data_dir, rank=rank, world_size=world_size, **overrides)


def launch(
    experiment: str | Path | Mapping[str, Any],
    *,
    storage: str | None = None,
    study_name: str | None = None,
    data_dir: str | Path | None = None,
    overrides: Iterable[str] = (),
    observer: StudyObserver | None = None,
    signal: StopSignal | None = None,
) -> Study:
    """Run a study, or resume it, until its budget is used and its winner was verified.

    Blocks. A study that is finished is only loaded.

    Args:
        experiment: path of an experiment file, or what such a file holds.
        storage: SQLAlchemy URL; default: ``AUTOTUNE_STORAGE``, the experiment's, or
            ``sqlite:///autotune.db``.
        study_name: default: the experiment's, or the stem of its file.
        data_dir: folder of videos, in place of the experiment's.
        overrides: ``key.path=value`` as given to ``--set``.
        observer: told what happens.
        signal: asks the launch to end.

    Raises:
        InputError, UnsupportedError, StorageError: if the experiment, the machine, the data
            or the database are not fit for it. A study that fails is no exception: its
            `Study.status` says so.
    """
    from autotune.config import storage_url
    from autotune.study.launching import launch_experiment

    read = _read(experiment, study_name, data_dir, overrides)
    name = read.study_name
    if name is None:
        if isinstance(experiment, Mapping):
            raise InputError(
                "study_name: is missing. Give one: an experiment that is no file has no name"
            )
        name = Path(experiment).stem
    url = storage_url(storage, read)
    launch_experiment(read, storage=url, study_name=name, observer=observer, signal=signal)
    return Study(name, url)


def _read(
    experiment: str | Path | Mapping[str, Any],
    study_name: str | None,
    data_dir: str | Path | None,
    overrides: Iterable[str],
) -> Experiment:
    from autotune.config import experiment_from, load_experiment

    values: dict[str, Any] = {}
    if study_name is not None:
        values["study_name"] = study_name
    if data_dir is not None:
        values["target.data_dir"] = str(data_dir)
    if isinstance(experiment, Mapping):
        return experiment_from(experiment, overrides, values)
    return load_experiment(experiment, overrides, values)


def load_study(name: str, storage: str | None = None) -> Study:
    """A study that exists.

    Args:
        storage: SQLAlchemy URL; default: ``AUTOTUNE_STORAGE``, or ``sqlite:///autotune.db``.

    Raises:
        InputError: if there is no such database or study.
    """
    from autotune.config import storage_url

    study = Study(name, storage_url(storage))
    study.record  # noqa: B018 - a wrong name is told here, not at the first question
    return study


class Study:
    """A study in a database; see `launch` and `load_study`."""

    def __init__(self, name: str, storage: str) -> None:
        self.name = name
        self._storage = storage

    def __repr__(self) -> str:
        return f"<autotune.Study {self.name!r}>"  # no URL: it may hold a password

    @contextmanager
    def _database(self) -> Iterator[tuple[Database, StudyRecord]]:
        with Database.open(self._storage, create=False) as database:
            yield database, database.get_study(self.name)

    @property
    def record(self) -> StudyRecord:
        """The study as it is stored now."""
        with self._database() as (_, record):
            return record

    def status(self) -> StudySummary:
        """State, trials done, best so far, time left."""
        with self._database() as (database, record):
            return summary(database, record)

    def stop(self) -> bool:
        """Ask its driver, wherever that runs, to end after the measurement in flight.

        Does not wait for it; `launch` goes on with the study.

        Returns:
            False if the study does not run, so that nothing is asked.
        """
        with self._database() as (database, record):
            running = state_now(database, record)[0] == "running"
            return running and database.request_stop(record.name)

    def best(self, top: int = 1, where: str | None = None) -> Trial | list[Trial]:
        """The best trial, a verified one first; a list of at most ``top`` where it is above 1.

        Figures compare within one value of the workload parameters, so the list is of the
        workload of the best one; `winners` has the best of each.

        Args:
            where: only trials for which this expression over parameters and figures holds.

        Raises:
            InputError: if no trial has a figure, ``where`` is malformed, or ``top`` below 1.
        """
        from autotune.expressions import Expression

        if top < 1:
            raise InputError(f"top: {top} is not accepted; accepted: 1 or more")
        condition = None if where is None else Expression.parse(where, "where")
        with self._database() as (database, record):
            groups = database.best(record.id, top=ALL, where=condition)
            if not groups:
                raise InputError(
                    f"study {self.name!r} has no trial with a figure"
                    + ("" if where is None else f" for which {where} holds")
                )
            first = groups[0]
            tied = ties(first, record)
            machines = {machine.hash: machine.fingerprint for machine in database.machines()}
            found = [
                _trial(record, t, first.baseline, t.number in tied, machines.get(t.machine or ""))
                for t in first.trials[:top]
            ]
        return found[0] if top == 1 else found

    def winners(self) -> list[Winner]:
        """The best trial of every workload with its flags and gain, verified ones first."""
        with self._database() as (database, record):
            return winners(database, record)

    def trials(self) -> list[TrialFigures]:
        """Every trial, by number."""
        with self._database() as (database, record):
            return all_trials(database, record)

    def trials_dataframe(self) -> pd.DataFrame:
        """One row a trial; the parameters are columns ``params_<name>``, as Optuna names them.

        A failed trial has no figure, and ``failure_kind`` and ``failure_cause``.
        """
        return _frame([_flat_trial(trial) for trial in self.trials()], TrialFigures)

    def measurements_dataframe(self) -> pd.DataFrame:
        """One row a measurement: search runs, and those of the verification."""
        with self._database() as (database, record):
            runs = database.measurements(record.id)
        return _frame([_flat_measurement(run) for run in runs], MeasurementRecord)

    def windows_dataframe(self) -> pd.DataFrame:
        """One row a window of a measurement, about a quarter of a second long each."""
        rows = []
        with self._database() as (database, record):
            for run in database.measurements(record.id):
                where = {"measurement": run.uuid, "trial_number": run.trial_number}
                for window in database.windows(run.id):
                    values = window.model_dump(exclude={"arrivals", "batch_samples", "stages"})
                    seconds = window.end - window.start
                    rate = window.samples / seconds if seconds > 0 else None
                    rows.append({**where, "role": run.role, **values, "samples_per_second": rate})
        return _frame(rows)

    def export(
        self, format: str = "flags", trial: int | None = None, unverified: bool = False
    ) -> str:
        """The winner, or a trial, as ``flags``, ``json``, ``yaml``, ``env`` or ``argfile``.

        Raises:
            InputError: for what is not verified (unless ``unverified``), or an unknown format.
        """
        with self._database() as (database, record):
            return export_study(database, record, format, trial=trial, unverified=unverified)


def _trial(
    record: StudyRecord,
    trial: TrialRecord,
    baseline: TrialRecord | None,
    tied: bool,
    machine: Mapping[str, Any] | None,
) -> Trial:
    from autotune.search_space import SearchSpace
    from autotune.study.ceilings import Ceilings

    space = SearchSpace.from_dict(record.space, f"study {record.name!r}")
    found = dict(trial_figures(trial, baseline, tied=tied, ceilings=Ceilings.of(record)))
    made = Trial(**found, flags=shlex.join(space.format_flags(trial.params)))
    made._recipe = _recipe(record, space, trial, machine)
    return made


def _recipe(
    record: StudyRecord, space: SearchSpace, trial: TrialRecord, machine: Mapping[str, Any] | None
) -> Recipe:
    from autotune.loaders.tuned import Recipe

    measured = record.identity.get("target") or {}
    reservation = ""
    if record.source != "measured":
        reservation = "was replayed from a recorded table, not measured"
    elif not trial.verified:
        reservation = "is not verified: its figures are those of the search"
    return Recipe(
        name=f"trial {trial.number} of study {record.name!r}",
        target=record.target,
        params=trial.params,
        active=frozenset(space.active(trial.params)),
        settings=measured.get("settings") or {},
        data_dir=record.identity.get("data_dir"),
        seed=record.identity.get("seed", 0),
        machine=machine,
        reservation=reservation,
    )


_RATIOS = {
    "verified_ratio": "ratio",
    "verified_ratio_low": "ratio_low",
    "verified_ratio_high": "ratio_high",
}
"""Columns of trials that come from their verification, and its figures."""


def _flat_trial(trial: TrialFigures) -> dict[str, Any]:
    row = trial.model_dump(exclude={"params", "verification", "failure"})
    verification, failure = trial.verification, trial.failure
    for column, figure in _RATIOS.items():
        row[column] = getattr(verification, figure) if verification else None
    row["failure_kind"] = failure.kind if failure else None
    row["failure_cause"] = failure.cause if failure else None
    return row | {f"params_{name}": value for name, value in trial.params.items()}


def _flat_measurement(run: MeasurementRecord) -> dict[str, Any]:
    nested = {"ranks", "readback", "versions", "failed_clips", "timeline", "failure"}
    row = run.model_dump(exclude=nested | {"study_id", "id"})
    row["failure_kind"] = run.failure.kind if run.failure else None
    row["failure_cause"] = run.failure.cause if run.failure else None
    row |= {f"seconds_to_{event}": at for event, at in run.timeline.items()}
    return row | {f"params_{name}": value for name, value in run.readback.items()}


def _frame(rows: list[dict[str, Any]], model: type[Value] | None = None) -> pd.DataFrame:
    """One row each; a figure of ``model`` that no row has is NaN in all, a number like the others.

    Args:
        model: what the rows were made of; without rows its fields are the columns.
    """
    import pandas as pd

    fields = {} if model is None else model.model_fields
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(fields))
    figures = {name for name, field in fields.items() if field.annotation == float | None}
    missing = [
        name for name in frame if (name in figures or name in _RATIOS) and frame[name].isna().all()
    ]
    return frame.astype(dict.fromkeys(missing, "float64"))

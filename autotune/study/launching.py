"""Launches a study: opens the database, brings the executor up, runs, verifies, closes."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.config import Experiment, Plan, difference, identity, resolve
from autotune.exceptions import (
    AutotuneError,
    StorageError,
    StudyConflict,
)
from autotune.executors.base import Executor
from autotune.plugins import load_executor
from autotune.samplers import Proposer, choose, quiet_optuna, warming_up
from autotune.samplers.proposer import ORIGIN
from autotune.search_space import SearchSpace
from autotune.storage import Database, StudyRecord, TrialRecord
from autotune.storage.connection import PATIENT
from autotune.storage.leases import LEASE_SECONDS, Heartbeat
from autotune.storage.trials import DRIVER_ENDED
from autotune.study.budget import BudgetClock
from autotune.study.ceilings import measure_ceilings
from autotune.study.constraints import broken_limits, figure_limits, recorded_excesses
from autotune.study.ignored import ignored_warnings
from autotune.study.narrowing import narrowed
from autotune.study.nodes import probe_nodes, refuse_other, refuse_unlike
from autotune.study.noise import NoiseFloor, measure_noise_floor
from autotune.study.observer import StudyObserver
from autotune.study.run import Ending, State, StopSignal, StudyRun
from autotune.study.search import Search
from autotune.study.verification import verify_study
from autotune.study.warm_start import configurations_from
from autotune.study.workloads import workload_baselines
from autotune.trial import NodeInfo

if TYPE_CHECKING:
    import optuna


METRIC = "samples/s"
"""What Optuna's tools call the value of a trial."""


@dataclass(frozen=True)
class LaunchOutcome:
    """How a launch ended."""

    record: StudyRecord
    state: State
    reason: str


def launch_experiment(
    experiment: Experiment,
    *,
    storage: str,
    study_name: str,
    observer: StudyObserver | None = None,
    signal: StopSignal | None = None,
    executor: Executor | None = None,
) -> LaunchOutcome:
    """Run or resume a study until its budget is used, and verify its winner.

    Args:
        experiment: what to tune.
        storage: SQLAlchemy URL of the database; created where it does not exist.
        study_name: the study's name; an existing one is resumed.
        observer: told what happens.
        signal: asked to end the launch.
        executor: where measurements run; default: what the experiment says. Closed at the end.

    Raises:
        InputError: if the experiment, the database or the data are not fit for it.
        StudyConflict: if the study exists with another experiment, machine or data set, or
            another driver runs it.
        UnsupportedError: if the machine lacks what the baseline needs.
        StorageError: if the database fails for good.
    """
    plan = resolve(experiment)
    observer = observer or StudyObserver()
    signal = signal or StopSignal()
    database = Database.open(storage, writable=True, retry=PATIENT)
    try:
        if experiment.enqueue_from is not None:  # a mistake in it is told before anything starts
            configurations_from(database, experiment.enqueue_from, plan.searched)
        existing = database.find_study(study_name)
        if existing is not None:
            _refuse_changed(existing, identity(plan))
            if existing.state == "finished" and not _budget_left(plan, database, existing):
                database.flush_spool()
                return LaunchOutcome(existing, "finished", existing.state_reason)
        executor = executor or _make_executor(experiment, observer)
        try:
            return _Launch(plan, database, executor, study_name, observer, signal).run(existing)
        finally:
            executor.close()
    finally:
        database.close()


def _make_executor(experiment: Experiment, observer: StudyObserver) -> Executor:
    settings = experiment.executor
    return load_executor(settings.kind).create(
        address=settings.address,
        slots_per_node=settings.slots_per_node,
        on_event=observer.measurement_event,
    )


def _budget_left(plan: Plan, database: Database, record: StudyRecord) -> bool:
    """Whether a finished study may go on, because its budget was raised."""
    budget = plan.experiment.budget
    trials = [t for t in database.trials(record.id) if t.state in ("COMPLETE", "PRUNED", "FAIL")]
    more_trials = budget.trials is None or len(trials) < budget.trials
    more_time = budget.hours is None or record.elapsed_seconds < budget.hours * 3600
    unchanged = Experiment.from_dict(record.experiment).budget == budget
    return more_trials and more_time and not unchanged


def _refuse_changed(record: StudyRecord, fixed: dict[str, object]) -> None:
    changed = difference(record.identity, fixed)
    if changed:
        raise StudyConflict(
            f"study {record.name!r} exists and was made with another experiment; what differs:\n  "
            + "\n  ".join(changed)
            + "\nUse another --study-name, or restore these values to resume it."
        )


def enqueue(proposer: Proposer, plan: Plan) -> None:
    """Put first what is measured in any case: the baselines, then what the experiment names."""
    for params in workload_baselines(plan.searched, plan.baseline):
        proposer.enqueue(params, "baseline")
    for params in plan.enqueued:
        proposer.enqueue(params, "enqueued")


def enqueue_from(proposer: Proposer, plan: Plan, database: Database) -> list[str]:
    """Enqueue the best of the study that the experiment names; returns notes for the user."""
    if plan.experiment.enqueue_from is None:
        return []
    found, notes = configurations_from(database, plan.experiment.enqueue_from, plan.searched)
    for params in found:
        proposer.enqueue(params, "enqueued")
    return notes


def _space_of(record: StudyRecord | None) -> SearchSpace | None:
    """The space that an existing study was begun with."""
    return None if record is None else SearchSpace.from_dict(record.space, f"study {record.name!r}")


class _Launch:
    """The steps of one launch that share an open database and an executor."""

    def __init__(
        self,
        plan: Plan,
        database: Database,
        executor: Executor,
        name: str,
        observer: StudyObserver,
        signal: StopSignal,
    ) -> None:
        self._plan = plan
        self._database = database
        self._executor = executor
        self._name = name
        self._observer = observer
        self._signal = signal
        self._owner = uuid.uuid4().hex
        self._heartbeat: Heartbeat | None = None

    def run(self, existing: StudyRecord | None) -> LaunchOutcome:
        """Probe, open, go through the phases; whatever happens, the study's state is saved."""
        record = existing
        run: StudyRun | None = None
        state: State = "failed"
        reason = ""
        database_failed = False
        if record is not None:
            # Before anything is started: a second driver is told at once.
            self._acquire(record)
        study_uuid = record.uuid if record is not None else uuid.uuid4().hex
        try:
            if record is not None:
                self._take_over(record)
            quiet_optuna()
            with warming_up(self._sampler_kind(), self._plan.experiment.budget.trials):
                nodes = self._probe(study_uuid)
            plan, left_out = narrowed(self._plan, nodes, _space_of(record))
            if record is None:
                record = self._create(study_uuid, nodes[0], plan.searched)
                self._acquire(record)
            else:
                before = self._database.study_fingerprints(record.id)
                refuse_other(record.name, before, nodes[0].fingerprint)
                self._database.update_experiment(record.id, self._plan.experiment.to_dict())
                self._database.clear_requests(record.id)
            self._plan = plan
            for text in left_out:
                self._observer.note(text)
            run, search = self._prepare(record, nodes)
            self._database.set_state(record.id, "running", "")
            self._observer.study_started(
                self._name,
                existing is not None,
                nodes,
                self._plan.searched.searched,
                run.sampler_kind,
            )
            for phase in _phases(run, search):
                if (ending := phase()) is not None:
                    state, reason = ending
                    break
        except AutotuneError as error:
            reason = str(error)
            database_failed = isinstance(error, StorageError)
            if run is not None:
                # a database that is out need not cost what is being measured meanwhile
                run.keep_results(wait=database_failed)
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                state, reason = "interrupted", "interrupted by the user"
            else:
                reason = f"{type(error).__name__}: {error}"
            if run is not None:
                run.keep_results(wait=False)
            raise
        finally:
            if self._heartbeat is not None:
                self._heartbeat.stop()
            try:
                if record is not None:
                    self._save(record, run, state, reason)
            except StorageError:
                if not database_failed:  # else it is told already what failed, and while doing what
                    raise
            finally:
                self._observer.study_finished(state, reason)
        return LaunchOutcome(self._database.get_study(self._name), state, reason)

    def _acquire(self, record: StudyRecord) -> None:
        """Become the study's driver, and stay it while this launch lasts."""
        self._database.acquire_lease(record.id, self._owner, patience=LEASE_SECONDS)
        self._heartbeat = Heartbeat(self._database, record.id, self._owner)
        self._heartbeat.start()

    def _take_over(self, record: StudyRecord) -> None:
        """Put in order what an earlier driver left, before anything that takes time."""
        self._database.flush_spool()
        # A trial whose figure was saved before the driver died is complete.
        self._database.clear_running(record.id, lambda m: broken_limits(self._plan, m))

    def _save(self, record: StudyRecord, run: StudyRun | None, state: State, reason: str) -> None:
        """Give the study up, with its state if it ran; nothing is written where it was taken over.

        Raises:
            StudyConflict: if it was.
        """
        if run is None:
            self._database.release_lease(record.id, self._owner)
            return
        self._database.end_launch(record.id, self._owner, state, reason, run.unsaved_seconds)
        self._database.flush_spool()  # no later measurement of this launch does it

    def _sampler_kind(self) -> str:
        experiment = self._plan.experiment
        return choose(experiment.sampler, self._plan.searched, experiment.budget.trials)

    def _probe(self, study_uuid: str) -> list[NodeInfo]:
        nodes = probe_nodes(self._executor, self._plan, study_uuid)
        for node in nodes:
            for text in node.warnings:
                self._observer.note(text)
        refuse_unlike(nodes)
        return nodes

    def _create(self, study_uuid: str, node: NodeInfo, searched: SearchSpace) -> StudyRecord:
        plan = self._plan
        return self._database.create_study(
            self._name,
            uuid=study_uuid,
            target=plan.experiment.target.name,
            experiment=plan.experiment.to_dict(),
            identity=identity(plan),
            space=searched.to_dict(),
            baseline=plan.baseline,
            dataset_samples=node.num_samples,
            machine=node.fingerprint.machine,
            data=node.fingerprint.data,
        )

    def _prepare(self, record: StudyRecord, nodes: list[NodeInfo]) -> tuple[StudyRun, Search]:
        """Everything between an open study and its first trial."""
        import optuna

        plan = self._plan
        experiment = plan.experiment
        kind = self._sampler_kind()
        study = optuna.create_study(
            storage=self._database.optuna_storage(),
            study_name=record.optuna_study_name,
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(),  # unused: every trial is enqueued
            load_if_exists=True,
        )
        if study.metric_names is None:
            with warnings.catch_warnings():  # experimental since Optuna 3.2
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names([METRIC])
        self._end_unstarted(study, record)
        done = self._database.trials(record.id)
        run = StudyRun(
            plan=plan,
            database=self._database,
            record=record,
            executor=self._executor,
            nodes=nodes,
            sampler_kind=kind,
            observer=self._observer,
            signal=self._signal,
            clock=BudgetClock(
                trials=experiment.budget.trials,
                seconds=None if experiment.budget.hours is None else experiment.budget.hours * 3600,
                patience=experiment.budget.patience,
                used_seconds=record.elapsed_seconds,
            ),
            owner=self._owner,
            noise=NoiseFloor.of(record),
        )
        proposer = Proposer(
            study,
            plan.searched,
            nodes[0].names,
            kind,
            experiment.seed,
            figure_constraints=figure_limits(plan),
        )
        search = Search(run, proposer)
        _restore(search, done)
        _settle_optuna(study, search, done)
        enqueue(proposer, plan)
        for text in enqueue_from(proposer, plan, self._database):
            self._observer.note(text)
        return run, search

    def _end_unstarted(self, study: optuna.Study, record: StudyRecord) -> None:
        """Give every trial of Optuna's one of ours: a driver that was killed between asking Optuna
        and starting the trial leaves a number that measurements of trial 0 would refer to."""
        plan = self._plan
        known = {trial.number for trial in self._database.trials(record.id)}
        for frozen in study.get_trials(deepcopy=False):
            if frozen.number in known:
                continue
            searched = plan.searched.complete({**plan.searched.pinned, **frozen.params})
            self._database.start_trial(
                record.id,
                frozen.number,
                plan.baseline if frozen.number == 0 else searched,
                origin=frozen.user_attrs.get(ORIGIN, "sampler"),
            )
            self._database.finish_trial(record.id, frozen.number, "FAIL", failure=DRIVER_ENDED)


def _phases(run: StudyRun, search: Search) -> list[Callable[[], Ending | None]]:
    """What a launch does, in this order; the first that gives an ending ends it. Each takes over
    what earlier launches measured."""
    return [
        search.baseline,
        lambda: measure_noise_floor(run),
        lambda: measure_ceilings(run),
        search.trials,  # the baseline is looked at again in between
        lambda: _warn_of_ignored(run),
        lambda: verify_study(run),
    ]


def _warn_of_ignored(run: StudyRun) -> None:
    """Tell, and record, which parameters the measured program may not read at all."""
    measured = [
        (trial.params, trial.samples_per_second)
        for trial in run.database.trials(run.record.id)
        if trial.samples_per_second is not None and not trial.stopped_early
    ]
    found = ignored_warnings(run.nodes, run.plan.searched.searched, measured)
    run.database.set_study_warnings(run.record.id, found)
    for text in found:
        run.observer.note(text)


def _restore(search: Search, done: Iterable[TrialRecord]) -> None:
    """Take over what earlier launches measured.

    A trial that an infrastructure fault ended, or a driver that died, taught nothing: it counts
    for no budget and may be proposed again. A baseline that failed is measured again too: without
    its figure no gain can be told.
    """
    floor = search.run.noise_floor
    for trial in sorted(done, key=lambda t: t.number):
        is_baseline = trial.params == search.run.plan.baseline
        if trial.failure is not None and (is_baseline or trial.failure.kind == "infrastructure"):
            continue
        search.baseline_done |= is_baseline
        rate = trial.samples_per_second
        search.proposer.remember(trial.number, trial.params, rate)
        stopped = trial.stopped_early
        search.run.clock.count(rate if trial.feasible and not stopped else None, floor=floor)
        if rate is not None:
            search.successes += 1
        if rate is not None and not stopped:
            search.run.note_rate(trial.number, trial.params, rate, trial.feasible)


def _settle_optuna(study: optuna.Study, search: Search, done: Iterable[TrialRecord]) -> None:
    """Tell Optuna what became of trials whose driver was killed before it did.

    Left RUNNING, they would teach it nothing and be avoided for ever by TPE's constant liar.
    """
    from optuna.trial import TrialState

    ours = {trial.number: trial for trial in done}
    proposer = search.proposer
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
        trial = ours.get(frozen.number)
        if frozen.state is TrialState.WAITING or trial is None or not _teaches(trial):
            study.tell(frozen.number, state=TrialState.FAIL)
            continue
        proposal = proposer.take_back(trial.number, trial.params)
        violated = recorded_excesses(search.run.plan, trial)
        if trial.stopped_early and trial.samples_per_second is not None:
            proposer.tell_stopped_early(proposal, trial.samples_per_second, violated)
        else:
            proposer.tell(proposal, trial.samples_per_second, violated)


def _teaches(trial: TrialRecord) -> bool:
    """Whether the sampler learns from a trial: it has a figure, or failed by itself."""
    if trial.failure is not None:
        return trial.failure.kind not in ("infrastructure", "contaminated")
    return trial.samples_per_second is not None

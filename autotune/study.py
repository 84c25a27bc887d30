"""The study loop: propose, measure, record, tell.

The driver is the only writer of results. Everything a measurement gave is in the database
before Optuna hears of it, so a driver killed at any point loses at most what was in flight.
"""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from autotune.budget import BudgetClock
from autotune.config import Plan
from autotune.executors.base import Executor, Job
from autotune.observer import StudyObserver, StudyProgress
from autotune.samplers import Proposal, Proposer
from autotune.stats import published_interval
from autotune.storage import Database, StudyRecord
from autotune.storage.records import MeasurementRecord, Role
from autotune.trial import Failure, Measurement, NodeInfo, Params, TrialResult, TrialSpec
from autotune.verification import verification_runs

LEASE_SECONDS = 30.0
POLL_SECONDS = 0.2
STOP_POLL_SECONDS = 1.0
MAX_INFRASTRUCTURE_RETRIES = 2

GIVE_UP_AFTER = 5
"""So many failures before the first success end the study: the machine fails, not the trials."""

HOPELESS = ("data", "unsupported", "start_up")
"""A baseline that fails like this fails for every configuration."""

State = Literal["finished", "stopped", "interrupted", "failed"]


class StopSignal:
    """How the user asks a launch to end: `request` after the trial in flight, `now` at once."""

    def __init__(self) -> None:
        self._request = threading.Event()
        self._now = threading.Event()

    def request(self) -> None:
        """Finish the measurement in flight, save, and end."""
        self._request.set()

    def stop_now(self) -> None:
        """End the measurement in flight, save, and end."""
        self._request.set()
        self._now.set()

    @property
    def requested(self) -> bool:
        return self._request.is_set()

    @property
    def now(self) -> bool:
        return self._now.is_set()


@dataclass
class _Running:
    """A measurement in flight."""

    proposal: Proposal
    job: Job
    attempts: int


@dataclass
class StudyRun:
    """One launch of a study, from an open database to the last recorded figure."""

    plan: Plan
    database: Database
    record: StudyRecord
    executor: Executor
    nodes: list[NodeInfo]
    sampler_kind: str
    observer: StudyObserver
    signal: StopSignal
    clock: BudgetClock
    proposer: Proposer
    running: dict[str, _Running] = field(default_factory=dict)
    best: tuple[int, Params, float] | None = None
    baseline_rate: float | None = None
    failures_in_a_row: int = 0
    successes: int = 0
    verification_left: int = 0
    """Measurements that verification still needs."""
    searching: bool = True
    last_failure: Failure | None = None
    hopeless: str = ""
    owner: str = ""
    _saved_elapsed: float = 0.0
    _renewed: float = -math.inf
    _asked: float = -math.inf
    _stopped: bool = False

    def __post_init__(self) -> None:
        self.verification_left = verification_runs(self.plan.experiment.verification)

    # ------------------------------------------------------------------ search

    def search(self) -> tuple[State, str] | None:
        """Run trials until the budget is used (None), or until the study must end."""
        while True:
            self.keep_alive()
            ending = self.asked_to_end() or self._failing()
            if ending is not None and not self.running:
                return ending
            if self.signal.now:
                for running in self.running.values():
                    running.job.stop()
            if ending is None and len(self.running) < self.executor.slots:
                spent = self.clock.exhausted(self.verification_left, len(self.running))
                if spent is None:
                    proposal = self.proposer.next()
                    if proposal is not None:
                        self._start(proposal)
                        continue
                    spent = "every valid configuration was measured"
                if not self.running:
                    self.searching = False
                    self.observer.note(f"Search ended: {spent}.")
                    return None
            self._collect()

    def asked_to_end(self) -> tuple[State, str] | None:
        """The state and the reason where the user asked for an end, here or elsewhere."""
        if self.signal.requested:
            return "interrupted", "interrupted by the user"
        if self._stop_requested():
            return "stopped", "stopped by `autotune stop`"
        return None

    def _failing(self) -> tuple[State, str] | None:
        if self.hopeless:
            return "failed", self.hopeless
        if self.successes == 0 and self.failures_in_a_row >= GIVE_UP_AFTER:
            assert self.last_failure is not None
            return "failed", (
                f"the first {self.failures_in_a_row} trials all failed, the last with "
                f"{_describe(self.last_failure)}"
            )
        return None

    def _stop_requested(self) -> bool:
        """Whether `autotune stop` was called; asks the database once a second."""
        moment = self.clock.now()
        if not self._stopped and moment - self._asked >= STOP_POLL_SECONDS:
            self._asked = moment
            self._stopped = self.database.stop_requested(self.record.id)
        return self._stopped

    def _start(self, proposal: Proposal, attempts: int = 0) -> None:
        if attempts == 0:
            broken = self.plan.space.violations(proposal.params, self.nodes[0].names)
            warnings = [f"violates a constraint: {text}" for text in broken]
            for text in warnings:
                self.observer.note(f"Trial {proposal.number} ({proposal.origin}) {text}")
            self.database.start_trial(
                self.record.id,
                proposal.number,
                proposal.params,
                origin=proposal.origin,
                warnings=warnings,
            )
        spec = self.specification(proposal.params)
        self.observer.measurement_started(
            spec.uuid, f"trial {proposal.number}", proposal.params, self.progress()
        )
        job = self.executor.submit(spec)
        self.running[spec.uuid] = _Running(proposal, job, attempts)

    def _collect(self) -> None:
        """Wait a little for a measurement to end; record and tell it."""
        for key, running in list(self.running.items()):
            try:
                result = running.job.result(timeout=POLL_SECONDS / max(1, len(self.running)))
            except TimeoutError:
                continue
            del self.running[key]
            self._finish(running, result)

    def _finish(self, running: _Running, result: TrialResult) -> None:
        proposal = running.proposal
        role: Role = "baseline" if proposal.origin == "baseline" else "search"
        self.record_result(result, proposal.number, role)
        failure = result.failure
        retry = (
            failure is not None
            and failure.kind == "infrastructure"
            and running.attempts < MAX_INFRASTRUCTURE_RETRIES
            and not self.signal.requested
        )
        if retry:
            assert failure is not None
            self.observer.note(f"Trial {proposal.number} is run again: {failure.cause}")
            self._start(proposal, running.attempts + 1)
            return
        label = f"trial {proposal.number}"
        if result.state == "finished" and result.measurement is not None:
            interval = self._complete(proposal, result.measurement, result.wall_seconds)
        else:
            interval = None
            self._fail(proposal, result)
        self.observer.measurement_finished(
            result.uuid, label, proposal.params, result, interval, self.progress()
        )

    def _complete(
        self, proposal: Proposal, measurement: Measurement, wall_seconds: float
    ) -> tuple[float, float]:
        rate = measurement.samples_per_second
        figures = {
            "cpu_percent": measurement.resources.cpu_percent,
            "host_memory_gib": measurement.resources.rss_gib,
            "gpu_memory_gib": measurement.resources.gpu_memory_gib,
            "time_to_first_batch": measurement.time_to_first_batch,
        }
        violated = excesses(self.plan, figures)
        broken = [text for text, excess in violated.items() if excess > 0]
        self.database.finish_trial(self.record.id, proposal.number, "COMPLETE", violated=broken)
        self.proposer.tell(proposal, rate, violated)
        self.failures_in_a_row = 0
        self.clock.count(None if broken else rate, wall_seconds)
        self.note_rate(proposal.number, proposal.params, rate, feasible=not broken)
        return self.interval(measurement)

    def note_rate(self, number: int, params: Params, rate: float, feasible: bool) -> None:
        """Keep the baseline's and the best figure, for the progress shown."""
        self.successes += 1
        if number == 0:
            self.baseline_rate = rate
        if feasible and (self.best is None or rate > self.best[2]):
            self.best = (number, params, rate)

    def _fail(self, proposal: Proposal, result: TrialResult) -> None:
        if result.state == "stopped":
            failure = Failure(kind="infrastructure", cause="stopped before it was measured")
        else:
            failure = result.failure or Failure(kind="infrastructure", cause="no result")
        self.database.finish_trial(self.record.id, proposal.number, "FAIL", failure=failure)
        self.last_failure = failure
        if failure.kind == "infrastructure":
            # Not the configuration's fault: Optuna learns nothing and may propose it again.
            self.proposer.tell_infrastructure(proposal)
            if result.state == "stopped":
                return
        else:
            self.proposer.tell(proposal, None)
        self.clock.count(None, result.wall_seconds)
        self.failures_in_a_row += 1
        if proposal.number == 0 and failure.kind in HOPELESS:
            self.hopeless = f"the baseline failed: {_describe(failure)}"

    # ------------------------------------------------------------------ shared with verification

    def specification(self, params: Params) -> TrialSpec:
        """The measurement of one configuration, as every run of this study makes it."""
        return specification(self.plan, self.record.uuid, params, self.nodes[0])

    def measure(
        self, params: Params, number: int, label: str, role: Role, **where: Any
    ) -> TrialResult:
        """Run one measurement outside the search, and record it. Waits; heeds the stop signal."""
        spec = self.specification(params)
        self.observer.measurement_started(spec.uuid, label, params, self.progress(label))
        job = self.executor.submit(spec)
        while True:
            self.keep_alive()
            if self.signal.now:
                job.stop()
            try:
                result = job.result(timeout=POLL_SECONDS)
            except TimeoutError:
                continue
            break
        self.verification_left = max(0, self.verification_left - 1)
        self.record_result(result, number, role, **where)
        interval = None if result.measurement is None else self.interval(result.measurement)
        self.observer.measurement_finished(
            result.uuid, label, params, result, interval, self.progress(label)
        )
        return result

    def interval(self, measurement: Measurement) -> tuple[float, float]:
        """The 95 % interval of one run's rate, with what differs between runs in it."""
        half = (measurement.within_high - measurement.within_low) / 2
        return published_interval(
            [measurement.samples_per_second], [half], *self.database.between_run_sd(self.record.id)
        )

    def record_result(self, result: TrialResult, number: int, role: Role, **where: Any) -> None:
        """Store a result with the fingerprints of the node that measured it."""
        node = next((n for n in self.nodes if n.node == result.node), self.nodes[0])
        self.database.record(
            self.record.id,
            number,
            role,
            result,
            machine=node.fingerprint.machine,
            data=node.fingerprint.data,
            **where,
        )

    def keep_alive(self) -> None:
        """Renew the lease and save the time used, now and then."""
        moment = self.clock.now()
        if moment - self._renewed < LEASE_SECONDS / 6:
            return
        self._renewed = moment
        self.database.renew_lease(self.record.id, self.owner)
        self.save_elapsed()

    def save_elapsed(self) -> None:
        """Add what this launch used since the last call to the study's total."""
        used = self.clock.this_launch
        self.database.add_elapsed(self.record.id, used - self._saved_elapsed)
        self._saved_elapsed = used

    def progress(self, phase: str = "search") -> StudyProgress:
        """How far the study is."""
        number, params, rate = self.best if self.best is not None else (None, None, None)
        return StudyProgress(
            study=self.record.name,
            trials_done=self.clock.used_trials,
            trials_total=self.plan.experiment.budget.trials,
            elapsed=self.clock.elapsed,
            time_left=self.clock.time_left(self.verification_left, self.searching),
            best_number=number,
            best_params=params,
            best_rate=rate,
            baseline_rate=self.baseline_rate,
            num_samples=self.nodes[0].num_samples,
            phase=phase,
        )


def _describe(failure: Failure) -> str:
    return f"{failure.kind}: {failure.cause}. {failure.advice}".strip()


def figure_limits(plan: Plan) -> dict[str, tuple[str, float, int]]:
    """The experiment's constraints on recorded figures.

    Returns:
        by readable text (``cpu_percent <= 40``): the figure, its limit, and 1 for an upper
        limit or -1 for a lower one.
    """
    limits: dict[str, tuple[str, float, int]] = {}
    for name, limit in plan.experiment.constraints.items():
        if limit.max is not None:
            limits[f"{name} <= {limit.max:g}"] = (name, limit.max, 1)
        if limit.min is not None:
            limits[f"{name} >= {limit.min:g}"] = (name, limit.min, -1)
    return limits


def excesses(plan: Plan, figures: Mapping[str, float | None]) -> dict[str, float]:
    """For each constraint on a figure by how much it is exceeded, relative to its limit.

    Negative where it is met; 0 for a figure that this machine does not record.
    """
    found: dict[str, float] = {}
    for text, (name, limit, sign) in figure_limits(plan).items():
        value = figures[name]
        found[text] = 0.0 if value is None else sign * (value - limit) / max(abs(limit), 1e-9)
    return found


def broken_limits(plan: Plan, measurement: MeasurementRecord) -> list[str]:
    """The constraints on figures that a recorded measurement breaks, as readable text."""
    figures = {
        "cpu_percent": measurement.cpu_percent,
        "host_memory_gib": measurement.rss_gib,
        "gpu_memory_gib": measurement.gpu_memory_gib,
        "time_to_first_batch": measurement.time_to_first_batch,
    }
    return [text for text, excess in excesses(plan, figures).items() if excess > 0]


def specification(plan: Plan, study: str, params: Params, node: NodeInfo) -> TrialSpec:
    """One measurement of ``params`` as ``plan`` says."""
    experiment = plan.experiment
    gpus = int(node.names.get("gpu_count", 0) or 0)
    ranks = experiment.target.ranks or (
        max(1, gpus // experiment.executor.slots_per_node) if params.get("device") == "nvdec" else 1
    )
    return TrialSpec(
        uuid=uuid.uuid4().hex,
        study=study,
        target=experiment.target.name,
        params=params,
        settings=plan.settings,
        data_dir=None if plan.data_dir is None else str(plan.data_dir),
        manifest=node.manifest,
        consumer=experiment.target.consumer,
        ranks=ranks,
        seed=experiment.seed,
        measurement=experiment.measurement,
        limits=experiment.limits,
    )

"""One launch of a study: what its phases share. One measurement, recorded, is its only verb.

The driver is the only writer of results. Everything a measurement gave is in the database
before Optuna hears of it, so a driver killed at any point loses at most what was in flight.

    launching -> noise floor -> search (drift in between) -> verification     each drives a StudyRun
"""

from __future__ import annotations

import contextlib
import math
import threading
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from autotune import plugins
from autotune.config import Plan
from autotune.executors.base import Executor, Job
from autotune.repeats import Attempts, disturbance, half_width
from autotune.stats import noise_floor, published_interval
from autotune.storage import Database, StudyRecord
from autotune.storage.leases import RENEW_SECONDS
from autotune.storage.records import Role
from autotune.study.budget import BudgetClock
from autotune.study.incumbents import Incumbents
from autotune.study.observer import CEILING_PHASE, StudyObserver, StudyProgress
from autotune.study.verification import verification_runs
from autotune.trial import (
    Incumbent,
    Measurement,
    NodeInfo,
    Params,
    TrialResult,
    TrialSpec,
)

if TYPE_CHECKING:
    from autotune.storage.figures import Spread
    from autotune.study.ceilings import Ceilings
    from autotune.study.noise import NoiseFloor
    from autotune.study.workloads import Workload

PHASES: dict[Role, str] = {
    "noise": "noise floor",
    "drift": "drift check",
    "ceiling": CEILING_PHASE,
    "selection": "verification",
    "verification": "verification",
}
"""What a study does while it measures for a purpose, as shown; else it searches."""

POLL_SECONDS = 0.2
STOP_POLL_SECONDS = 1.0

State = Literal["finished", "stopped", "interrupted", "failed"]

Ending = tuple[State, str]
"""The state that a study ends in, and why."""


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


@dataclass(frozen=True)
class _InFlight:
    """A measurement whose result is not recorded yet, and what its record will say."""

    job: Job
    number: int
    role: Role
    where: dict[str, Any]


@dataclass
class StudyRun:
    """An open study, its executor and its budget, from the first measurement to the last."""

    plan: Plan
    database: Database
    record: StudyRecord
    executor: Executor
    nodes: list[NodeInfo]
    sampler_kind: str
    observer: StudyObserver
    signal: StopSignal
    clock: BudgetClock
    owner: str = ""
    ceilings: Ceilings | None = None
    """What no configuration can exceed, once it was measured."""
    noise: NoiseFloor | None = None
    """What differs between runs of one configuration, once it was measured."""
    best: tuple[int, Params, float] | None = None
    baseline_rate: float | None = None
    workloads: set[Workload] = field(default_factory=set)
    """Those that have a figure: each will be verified."""
    incumbents: Incumbents = field(init=False)
    """What the trials to come have to beat."""
    searching: bool = True
    verification_left: int = 0
    """Measurements that verification may still need, once the search is over."""
    _in_flight: dict[str, _InFlight] = field(default_factory=dict)
    _spread: Spread | None = None
    _saved_elapsed: float = 0.0
    _renewed: float = -math.inf
    _asked: float = -math.inf
    _stopped: bool = False

    def __post_init__(self) -> None:
        self.incumbents = Incumbents(self.plan.space)

    @property
    def reserved_runs(self) -> int:
        """Measurements to keep time for: at most so many does verification need."""
        if not self.searching:
            return self.verification_left
        settings = self.plan.experiment.verification
        return verification_runs(settings) * max(1, len(self.workloads))

    def asked_to_end(self) -> Ending | None:
        """The state and the reason where the user asked for an end, here or elsewhere."""
        if self.signal.requested:
            return "interrupted", "interrupted by the user"
        if self._stop_requested():
            return "stopped", "`autotune stop` asked for it; launch it again to go on"
        return None

    def _stop_requested(self) -> bool:
        """Whether `autotune stop` was called; asks the database once a second."""
        moment = self.clock.now()
        if not self._stopped and moment - self._asked >= STOP_POLL_SECONDS:
            self._asked = moment
            self._stopped = self.database.stop_requested(self.record.id)
        return self._stopped

    def note_rate(self, number: int, params: Params, rate: float, feasible: bool) -> None:
        """Keep the baseline's and the best figure, for the progress shown."""
        self.workloads.add(self.plan.space.workload_key(params))
        if params == self.plan.baseline:
            self.baseline_rate = rate
        if feasible:
            self.incumbents.note(params, rate)
        if feasible and (self.best is None or rate > self.best[2]):
            self.best = (number, params, rate)

    def incumbent(self, params: Params) -> Incumbent | None:
        """What a trial of ``params`` is stopped early against; None where it is not to be."""
        if not self.plan.experiment.measurement.early_stopping:
            return None
        return self.incumbents.facing(params, *self.spread[:2])

    def specification(self, params: Params) -> TrialSpec:
        """The measurement of one configuration, as every run of this study makes it."""
        return specification(self.plan, self.record.uuid, params, self.nodes[0])

    def measure(
        self,
        params: Params,
        number: int,
        label: str,
        role: Role,
        *,
        max_failures: int = 0,
        **where: Any,
    ) -> TrialResult:
        """Run one measurement outside the search, and record it. Waits; heeds the stop signal.

        Args:
            max_failures: so many failures are not believed; see `Attempts`.
            where: the block and the arm.
        """
        spec = self.specification(params)
        return self.measure_as(spec, number, label, role, max_failures=max_failures, **where)

    def measure_as(
        self,
        spec: TrialSpec,
        number: int,
        label: str,
        role: Role,
        *,
        max_failures: int = 0,
        **where: Any,
    ) -> TrialResult:
        """The same for a measurement that is not made as those of the search are.

        One that was disturbed is repeated, and so is one that the infrastructure ended; the
        result is that of the least disturbed one.
        """
        made = self.attempts(max_failures)
        while made.add(self._measured(spec, number, label, role, attempt=made.number, **where)):
            if self.asked_to_end() is not None:
                break
            self.observer.note(f"{label} is measured again: {disturbance(made.last)}")
            spec = spec.model_copy(update={"uuid": uuid.uuid4().hex})
        return self.settle(made)

    def measure_once(
        self, params: Params, number: int, label: str, role: Role, **where: Any
    ) -> TrialResult:
        """One run, whatever becomes of it: a run of a block, which is repeated as a whole."""
        return self._measured(self.specification(params), number, label, role, **where)

    def attempts(self, max_failures: int = 0) -> Attempts:
        """To collect the measurements of one figure in; see `Attempts`."""
        return Attempts(self.plan.experiment.measurement.repeats, max_failures)

    def settle(self, made: Attempts) -> TrialResult:
        """Keep one of several measurements of the same thing; the others are superseded."""
        if made.superseded:
            self.database.supersede(made.superseded)
            self._spread = None
        return made.kept

    @property
    def spread(self) -> Spread:
        """What fresh runs of one configuration differ by, as far as this study knows.

        Read anew only after a run was recorded: reading takes longer the longer the study is (46 ms
        at 500 trials), and several figures of a trial rest on it.
        """
        if self._spread is None:
            self._spread = self.database.run_spread(self.record.id)
        return self._spread

    @property
    def noise_floor(self) -> float:
        """The smallest relative difference that two single runs can show, by what is known now;
        see `stats.noise_floor`. It rests on a prior where the baseline was not repeated."""
        return noise_floor(*self.spread[:2])

    def _measured(
        self, spec: TrialSpec, number: int, label: str, role: Role, **where: Any
    ) -> TrialResult:
        params = spec.params
        phase = PHASES.get(role, "search")
        self.observer.measurement_started(spec.uuid, label, params, self.progress(phase))
        job = self.submit(spec, number, role, **where)
        while True:
            self.keep_alive()
            if self.signal.now:
                job.stop()
            try:
                result = job.result(timeout=POLL_SECONDS)
            except TimeoutError:
                continue
            break
        self.clock.took(result.wall_seconds)
        self.record_result(result, number, role, **where)
        interval = None if result.measurement is None else self.interval(result.measurement)
        self.observer.measurement_finished(
            result.uuid, label, params, result, interval, self.progress(phase)
        )
        return result

    def interval(self, measurement: Measurement) -> tuple[float, float]:
        """The 95 % interval of one run's rate, with what differs between runs in it."""
        half = half_width(measurement)
        return published_interval([measurement.samples_per_second], [half], *self.spread)

    def submit(self, spec: TrialSpec, number: int, role: Role, **where: Any) -> Job:
        """Start a measurement whose result will be recorded as these arguments say.

        Until it is, `keep_results` knows of it.
        """
        job = self.executor.submit(spec)
        self._in_flight[spec.uuid] = _InFlight(job, number, role, where)
        return job

    def record_result(self, result: TrialResult, number: int, role: Role, **where: Any) -> None:
        """Store a result with the fingerprints of the node that measured it.

        Raises:
            StudyConflict: if another driver took the study over. The result is stored all the
                same, but what becomes of its trial is for the other driver to say.
        """
        self.database.record(
            self.record.id, number, role, result, **self._fingerprints(result), **where
        )
        self._spread = None
        self._in_flight.pop(result.uuid, None)
        self.database.renew_lease(self.record.id, self.owner)

    def keep_results(self, wait: bool) -> None:
        """Write the results in flight to the spool: the launch ends, and not as it should.

        The spool and not the database, which may be what ends it; what is spooled is written there
        by the next launch, if not by the end of this one.

        Args:
            wait: wait for measurements that have not ended, unless the user stops them; without
                it they are dropped.
        """
        for flight in list(self._in_flight.values()):
            while wait and not flight.job.done() and not self.signal.now:
                with contextlib.suppress(TimeoutError):
                    flight.job.result(timeout=POLL_SECONDS)
            if not flight.job.done():
                continue
            result = flight.job.result()
            self.database.spool_result(
                self.record.id,
                flight.number,
                flight.role,
                result,
                **self._fingerprints(result),
                **flight.where,
            )
            del self._in_flight[result.uuid]

    def _fingerprints(self, result: TrialResult) -> dict[str, Any]:
        node = next((n for n in self.nodes if n.node == result.node), self.nodes[0])
        return {"machine": node.fingerprint.machine, "data": node.fingerprint.data}

    def keep_alive(self) -> None:
        """Renew the lease and save the time used, now and then."""
        moment = self.clock.now()
        if moment - self._renewed < RENEW_SECONDS:
            return
        self._renewed = moment
        self.database.renew_lease(self.record.id, self.owner)
        self.save_elapsed()

    def save_elapsed(self) -> None:
        """Add what this launch used since the last call to the study's total."""
        unsaved = self.unsaved_seconds
        self.database.add_elapsed(self.record.id, unsaved)
        self._saved_elapsed += unsaved

    @property
    def unsaved_seconds(self) -> float:
        """What this launch used and `save_elapsed` has not added yet."""
        return self.clock.this_launch - self._saved_elapsed

    def progress(self, phase: str = "search") -> StudyProgress:
        """How far the study is."""
        number, params, rate = self.best if self.best is not None else (None, None, None)
        return StudyProgress(
            study=self.record.name,
            trials_done=self.clock.used_trials,
            trials_total=self.plan.experiment.budget.trials,
            elapsed=self.clock.elapsed,
            time_left=self.clock.time_left(self.reserved_runs, self.searching),
            best_number=number,
            best_params=params,
            best_rate=rate,
            baseline_rate=self.baseline_rate,
            num_samples=self.nodes[0].num_samples,
            phase=phase,
        )


def specification(plan: Plan, study: str, params: Params, node: NodeInfo) -> TrialSpec:
    """One measurement of ``params`` as ``plan`` says."""
    experiment = plan.experiment
    return TrialSpec(
        uuid=uuid.uuid4().hex,
        study=study,
        target=experiment.target.name,
        params=plan.given(params),
        settings=plan.settings,
        data_dir=None if plan.data_dir is None else str(plan.data_dir),
        manifest=node.manifest,
        consumer=experiment.target.consumer,
        ranks=experiment.target.ranks or _ranks(plan, node),
        seed=experiment.seed,
        # what `auto` means on this node is settled once, for all measurements alike
        measurement=experiment.measurement.model_copy(
            update={"page_cache": node.page_cache or experiment.measurement.page_cache}
        ),
        limits=experiment.limits,
    )


def _ranks(plan: Plan, node: NodeInfo) -> int:
    """Copies to run where the experiment names no number: one a GPU, as a training would. What a
    node tells is what one of its slots has."""
    if not plugins.load_target(plan.experiment.target.name).takes_ranks:
        return 1
    return max(1, int(node.names.get("gpu_count", 0)))

"""The search: propose, measure, record, tell; between trials the baseline is looked at again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from autotune.executors.base import Job
from autotune.repeats import Attempts, disturbance
from autotune.samplers import Proposal, Proposer
from autotune.storage.records import Role
from autotune.study.ceilings import Goal
from autotune.study.constraints import measured_excesses
from autotune.study.noise import DriftWatch
from autotune.study.run import POLL_SECONDS, Ending, StudyRun
from autotune.trial import Failure, Measurement, TrialResult

GIVE_UP_AFTER = 5
"""So many failures before the first success end the study: the machine fails, not the trials."""

CHECK_AFTER = 8
"""So many failures in a row later on, and the baseline is measured again: if it fails as well,
the machine fails."""

HOPELESS = ("data", "unsupported", "start_up")
"""A baseline that fails like this fails for every configuration."""

BASELINE_RETRIES = 1
"""The baseline is measured again so often before a failure of it is believed: all that a study
says is said beside it."""


@dataclass
class _Running:
    """A measurement in flight."""

    proposal: Proposal
    job: Job
    made: Attempts
    """The measurements of this trial so far."""


@dataclass
class Search:
    """The trials of one launch: the baseline first, then what the proposer asks for."""

    run: StudyRun
    proposer: Proposer
    running: dict[str, _Running] = field(default_factory=dict)
    failures_in_a_row: int = 0
    successes: int = 0
    last_failure: Failure | None = None
    baseline_done: bool = False
    """Whether the configuration in use today was measured, here or by an earlier launch."""
    hopeless: str = ""

    def baseline(self) -> Ending | None:
        """Measure trial 0, the baseline, unless an earlier launch did.

        Returns:
            how the study must end; None where it goes on.
        """
        _, ending = self._until(
            lambda: "measured" if self.baseline_done or self.running else None, lambda: False
        )
        return ending

    def trials(self) -> Ending | None:
        """Run trials until the budget is used.

        Returns:
            how the study must end; None where its search is over and verification follows.
        """
        run, goal = self.run, Goal(self.run)
        reason, ending = self._until(
            lambda: run.clock.exhausted(run.reserved_runs, len(self.running)) or goal.reached(),
            DriftWatch(run).look,
        )
        if ending is None:
            run.searching = False
            run.observer.note(f"Search ended: {reason}.")
        return ending

    def _until(
        self, enough: Callable[[], str | None], between: Callable[[], bool]
    ) -> tuple[str, Ending | None]:
        """Start trials while slots are free, until ``enough`` gives a reason to stop and none is
        in flight, or until the study must end. ``between`` trials may measure something else, and
        says whether it did."""
        run = self.run
        while True:
            run.keep_alive()
            ending = run.asked_to_end() or self._failing()
            if ending is not None and not self.running:
                return ending[1], ending
            if run.signal.now:
                for running in self.running.values():
                    running.job.stop()
            if ending is None and len(self.running) < run.executor.slots:
                reason = enough()
                if reason is None:
                    if between():
                        continue
                    proposal = self.proposer.next()
                    if proposal is not None:
                        self._start(proposal)
                        continue
                    reason = "every valid configuration was measured"
                if not self.running:
                    return reason, None
            self._collect()

    def _failing(self) -> Ending | None:
        if self.hopeless:
            return "failed", self.hopeless
        if self.successes == 0 and self.failures_in_a_row >= GIVE_UP_AFTER:
            assert self.last_failure is not None
            return "failed", (
                f"the first {self.failures_in_a_row} trials all failed, the last with "
                f"{_describe(self.last_failure)}"
            )
        if self.failures_in_a_row >= CHECK_AFTER and len(self.running) < self.run.executor.slots:
            return self._check_machine()
        return None

    def _check_machine(self) -> Ending | None:
        """Measure the baseline once more: are the configurations at fault, or the machine?"""
        run, count = self.run, self.failures_in_a_row
        run.observer.note(f"{count} trials in a row failed: measuring the baseline again.")
        result = run.measure(
            run.plan.baseline,
            0,
            "check of the baseline",
            "drift",
            max_failures=BASELINE_RETRIES,
        )
        if result.failure is None:
            self.failures_in_a_row = 0
            return None
        return "failed", (
            f"{count} trials in a row failed, and then the baseline, which had run before: "
            f"{_describe(result.failure)}"
        )

    def _start(self, proposal: Proposal, made: Attempts | None = None) -> None:
        run = self.run
        if made is None:
            broken = run.plan.space.violations(proposal.params, run.nodes[0].names)
            warnings = [f"violates a constraint: {text}" for text in broken]
            for text in warnings:
                run.observer.note(f"Trial {proposal.number} ({proposal.origin}) {text}")
            run.database.start_trial(
                run.record.id,
                proposal.number,
                proposal.params,
                origin=proposal.origin,
                warnings=warnings,
            )
        spec = run.specification(proposal.params)
        # a disturbed run is repeated to its end: what slowed it down was not its configuration
        if proposal.origin != "baseline" and (made is None or not made.results):
            spec = spec.model_copy(update={"incumbent": run.incumbent(proposal.params)})
        run.observer.measurement_started(
            spec.uuid, f"trial {proposal.number}", proposal.params, run.progress()
        )
        made = made or run.attempts(BASELINE_RETRIES if self._is_baseline(proposal) else 0)
        job = run.submit(spec, proposal.number, _role(proposal), attempt=made.number)
        self.running[spec.uuid] = _Running(proposal, job, made)

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
        run, proposal = self.run, running.proposal
        run.record_result(result, proposal.number, _role(proposal), attempt=running.made.number)
        again = running.made.add(result) and run.asked_to_end() is None
        if not again:
            self._settle(proposal, running.made)
        interval = None if result.measurement is None else run.interval(result.measurement)
        run.observer.measurement_finished(
            result.uuid,
            f"trial {proposal.number}",
            proposal.params,
            result,
            interval,
            run.progress(),
        )
        if again:
            run.observer.note(f"Trial {proposal.number} is measured again: {disturbance(result)}")
            self._start(proposal, running.made)
        elif running.made.kept.uuid != result.uuid:
            rate = running.made.kept.measurement
            run.observer.note(
                f"Trial {proposal.number}: what counts is the run that was disturbed least"
                + ("" if rate is None else f", {rate.samples_per_second:,.4g} samples/s")
            )

    def _settle(self, proposal: Proposal, made: Attempts) -> None:
        """Record and tell what became of a trial that is not measured again."""
        result = self.run.settle(made)
        if result.state == "finished" and result.measurement is not None:
            self._complete(proposal, result.measurement, result.wall_seconds)
        else:
            self._fail(proposal, result)
        self.baseline_done |= self._is_baseline(proposal) and result.state != "stopped"

    def _is_baseline(self, proposal: Proposal) -> bool:
        """Whether this is the configuration in use today, and not another workload's baseline."""
        return proposal.origin == "baseline" and proposal.params == self.run.plan.baseline

    def _complete(self, proposal: Proposal, measurement: Measurement, wall_seconds: float) -> None:
        run = self.run
        rate = measurement.samples_per_second
        violated = measured_excesses(run.plan, measurement)
        broken = [text for text, excess in violated.items() if excess > 0]
        stopped = measurement.stopped_early
        run.database.finish_trial(
            run.record.id,
            proposal.number,
            self.proposer.stopped_state if stopped else "COMPLETE",
            violated=broken,
            stopped_early=stopped,
        )
        if stopped:
            self.proposer.tell_stopped_early(proposal, rate, violated)
        else:
            self.proposer.tell(proposal, rate, violated)
        self.failures_in_a_row = 0
        self.successes += 1
        run.clock.count(None if broken or stopped else rate, wall_seconds, run.noise_floor)
        if not stopped:
            run.note_rate(proposal.number, proposal.params, rate, feasible=not broken)

    def _fail(self, proposal: Proposal, result: TrialResult) -> None:
        run = self.run
        if result.state == "stopped":
            failure = Failure(kind="infrastructure", cause="stopped before it was measured")
        else:
            failure = result.failure or Failure(kind="infrastructure", cause="no result")
        teaches = failure.kind not in ("infrastructure", "contaminated")
        run.database.finish_trial(
            run.record.id, proposal.number, "FAIL", failure=failure, penalty=teaches
        )
        self.last_failure = failure
        if not teaches:
            # Not the configuration's fault: Optuna learns nothing and may propose it again.
            self.proposer.tell_infrastructure(proposal)
            if result.state == "stopped":
                return
        else:
            self.proposer.tell(proposal, None)
        run.clock.count(None, result.wall_seconds)
        self.failures_in_a_row += 1
        if self._is_baseline(proposal) and failure.kind in HOPELESS:
            self.hopeless = f"the baseline failed: {_describe(failure)}"


def _role(proposal: Proposal) -> Role:
    return "baseline" if proposal.origin == "baseline" else "search"


def _describe(failure: Failure) -> str:
    return f"{failure.kind}: {failure.cause}. {failure.advice}".strip()

"""What a launch would do, without doing it: space, sampler, first trials, expected time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autotune.config import Experiment, Plan, resolve
from autotune.samplers import Proposer, choose, quiet_optuna
from autotune.storage import Database
from autotune.study.launching import enqueue, enqueue_from
from autotune.study.verification import verification_runs
from autotune.study.workloads import workload_baselines
from autotune.system import machine
from autotune.trial import Params

FIXED_TRIAL_SECONDS = 3.0
"""What a trial takes besides measuring, for an estimate before the first one: imports, first
batch, warm-up and clean-up on two cores. Shown as an expectation only, never recorded."""


@dataclass(frozen=True)
class DryRun:
    """What a launch would do."""

    plan: Plan
    sampler: str
    space_size: int | None
    """Distinct configurations; None for a continuous space."""
    searched: list[str]
    first_trials: list[tuple[str, Params]]
    """(origin, configuration) of the first trials. Those of a sampler that learns are what it
    would propose before it has learnt anything."""
    expected_seconds: float | None
    verification_runs: int
    """The most that verification may take."""


def dry_run(experiment: Experiment, first: int = 8, storage: str | None = None) -> DryRun:
    """What `launch_experiment` would do, without measuring, probing or writing anything.

    Constraints are checked with this machine's names. ``storage`` is read only for
    ``enqueue_from``.
    """
    import optuna

    plan = resolve(experiment)
    names = machine.names()
    kind = choose(experiment.sampler, plan.searched, experiment.budget.trials)
    quiet_optuna()
    study = optuna.create_study(direction="maximize")
    proposer = Proposer(study, plan.searched, names, kind, experiment.seed)
    enqueue(proposer, plan)
    if experiment.enqueue_from is not None and storage is not None:
        with Database.open(storage, create=False) as database:
            enqueue_from(proposer, plan, database)
    trials: list[tuple[str, Params]] = []
    limit = first if experiment.budget.trials is None else min(first, experiment.budget.trials)
    while len(trials) < limit and (proposal := proposer.next()) is not None:
        trials.append((proposal.origin, proposal.params))
    workloads = len(workload_baselines(plan.searched, plan.baseline))
    runs = verification_runs(experiment.verification) * workloads
    return DryRun(
        plan=plan,
        sampler=kind,
        space_size=plan.searched.size(),
        searched=plan.searched.searched,
        first_trials=trials,
        expected_seconds=_expected_seconds(plan, runs),
        verification_runs=runs,
    )


def _expected_seconds(plan: Plan, runs: int) -> float | None:
    """From the measuring times asked for, between the shortest and the longest of them, and the
    most runs that verification may take."""
    experiment = plan.experiment
    measuring = math.sqrt(experiment.measurement.min_seconds * experiment.measurement.max_seconds)
    per_run = measuring + FIXED_TRIAL_SECONDS
    size = plan.searched.size()
    limits = [n for n in (experiment.budget.trials, size) if n is not None]
    trials = min(limits, default=0)
    noise = experiment.noise
    again = max(0, noise.runs - 1) + (trials // noise.drift_every if noise.drift_every else 0)
    estimates = [(trials + again + runs) * per_run] if limits else []
    if experiment.budget.hours is not None:
        estimates.append(experiment.budget.hours * 3600)
    return min(estimates) if estimates else None

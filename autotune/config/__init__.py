"""Experiment files: one YAML file says what to tune, on what, for how long.

experiment = load_experiment("experiments/quickstart.yaml", ["budget.trials=20"])
plan = resolve(experiment)
"""

from autotune.config.load import experiment_from, load_experiment
from autotune.config.models import (
    Bound,
    Budget,
    ExecutorSection,
    Experiment,
    Noise,
    SpaceSection,
    TargetSection,
    Verification,
    checked_study_name,
)
from autotune.config.plan import Plan, difference, identity, resolve
from autotune.config.urls import DEFAULT_STORAGE, STORAGE_VARIABLE, redact_url, storage_url

__all__ = [
    "DEFAULT_STORAGE",
    "STORAGE_VARIABLE",
    "Bound",
    "Budget",
    "ExecutorSection",
    "Experiment",
    "Noise",
    "Plan",
    "SpaceSection",
    "TargetSection",
    "Verification",
    "checked_study_name",
    "difference",
    "experiment_from",
    "identity",
    "load_experiment",
    "redact_url",
    "resolve",
    "storage_url",
]

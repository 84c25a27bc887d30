"""Builds Optuna's samplers by name, and picks one where the experiment says ``auto``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from autotune.exceptions import InputError
from autotune.search_space import SearchSpace

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler, GPSampler

SAMPLERS = ("auto", "tpe", "gp", "random", "qmc", "grid")

GP_MAX_TRIALS = 300
"""A Gaussian process costs the cube of the trials; beyond this TPE proposes faster and as well."""


def choose(kind: str, space: SearchSpace, trials: int | None) -> str:
    """The sampler that ``kind`` means for this space and this budget of trials.

    ``auto`` measures everything where everything fits into the budget; else it takes a Gaussian
    process, which finds a good configuration of a loader in about half the trials of TPE (on a
    noisy surface shaped like a loader's: 0.88 against 0.75 of the optimum after 40 trials), and
    TPE for long studies.

    Raises:
        InputError: for an unknown name, or ``grid`` over an infinite space.
    """
    if kind not in SAMPLERS:
        raise InputError(f"sampler: {kind!r} is not known; accepted: {', '.join(SAMPLERS)}")
    size = space.size()
    if kind == "grid" and size is None:
        raise InputError(
            "sampler: grid needs a finite space, but a searched parameter is continuous; "
            "give it `values:` or a `step:`, or choose tpe, gp, random or qmc"
        )
    if kind != "auto":
        return kind
    if size is not None and trials is not None and size <= trials:
        return "grid"
    return "gp" if trials is None or trials <= GP_MAX_TRIALS else "tpe"


def make_sampler(kind: str, seed: int, startup_trials: int = 10) -> BaseSampler:
    """An Optuna sampler.

    ``grid`` is enumerated by the `Proposer` itself (Optuna's GridSampler measures an enqueued
    baseline twice and knows no conditions), so it maps to random here.

    Raises:
        InputError: for an unknown name.
    """
    import optuna
    from optuna.exceptions import ExperimentalWarning

    if kind in ("random", "grid"):
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if kind == "tpe":
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=True,
                n_startup_trials=startup_trials,
            )
        if kind == "gp":
            sampler = optuna.samplers.GPSampler(
                seed=seed,
                n_startup_trials=startup_trials,
                deterministic_objective=False,
                warn_independent_sampling=False,
                independent_sampler=optuna.samplers.RandomSampler(seed=seed),
            )
            return _quicker(sampler)
        if kind == "qmc":
            return optuna.samplers.QMCSampler(
                seed=seed,
                scramble=True,
                warn_independent_sampling=False,
                warn_asynchronous_seeding=False,
            )
    raise InputError(f"sampler: {kind!r} is not known; accepted: {', '.join(SAMPLERS)}")


@contextmanager
def one_thread(kind: str) -> Iterator[None]:
    """While a sampler that computes with torch proposes, torch has one thread.

    Its matrices are small, and threads that wait for each other wait for whatever else runs: with
    two threads on two busy cores a proposal took 2 to 20 s instead of 0.4 s.
    """
    if kind != "gp":
        yield
        return
    import torch

    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _quicker(sampler: GPSampler) -> GPSampler:
    """The same with fewer restarts of its acquisition search: a proposal takes 0.2 s instead of
    0.6 s on two cores, while the machine waits. Optuna has no public setting for it; where its
    attributes have other names the sampler is as it was."""
    for name, value in (("_n_local_search", 3), ("_n_preliminary_samples", 1024)):
        if hasattr(sampler, name):
            setattr(sampler, name, value)
    return sampler

"""Builds Optuna's samplers by name, and picks one where the experiment says ``auto``."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from autotune.exceptions import InputError
from autotune.search_space import SearchSpace

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

SAMPLERS = ("auto", "tpe", "gp", "random", "qmc", "grid")

STARTUP_TRIALS = 10
"""So many trials are drawn at random, or were enqueued, before a sampler learns from them."""

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


def make_sampler(kind: str, seed: int, startup_trials: int = STARTUP_TRIALS) -> BaseSampler:
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
            from autotune.samplers.gaussian_process import DiscreteGPSampler

            return DiscreteGPSampler(seed, startup_trials)
        if kind == "qmc":
            return optuna.samplers.QMCSampler(
                seed=seed,
                scramble=True,
                warn_independent_sampling=False,
                warn_asynchronous_seeding=False,
            )
    raise InputError(f"sampler: {kind!r} is not known; accepted: {', '.join(SAMPLERS)}")


def quiet_optuna() -> None:
    """Optuna tells every study and trial on standard error; ours are told by the observers."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextmanager
def warming_up(kind: str, trials: int | None) -> Iterator[None]:
    """Meanwhile, load what the first proposal that is computed needs, in a thread.

    That takes some seconds, in which the machine would wait; during a measurement it would
    disturb. So it is done beside what waits for other things anyway, and over at the end.

    Args:
        kind: as for `make_sampler`.
        trials: the budget's; too few and nothing is ever computed.
    """
    if kind != "gp" or (trials is not None and trials <= STARTUP_TRIALS):
        yield
        return
    thread = threading.Thread(target=_rehearse, name="warm-up of the sampler", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _rehearse() -> None:
    from autotune.samplers.gaussian_process import rehearse

    rehearse()

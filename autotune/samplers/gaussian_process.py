"""Optuna's Gaussian process, with an acquisition search for spaces of steps and choices.

While a proposal is made the machine waits. Nearly all of that time goes into the search for the
configuration with the best expected improvement: Optuna's evaluates one parameter of one start at
a time, several hundred calls of a few points each, and each call costs about as much as a
thousand points in one. Here all neighbours of all starts are one call.

Imports Optuna; import it only where a sampler is made.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import GPSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from optuna._gp.acqf import BaseAcquisitionFunc
    from optuna._gp.search_space import SearchSpace

PRELIMINARY = 2048
"""Random configurations, of which the starts are taken; Optuna's own number."""

STARTS = 5
"""Local searches, half of Optuna's own number: the time of a proposal is proportional to it."""

MAX_STEPS = 100

MOST_FITTED = 100
"""So many trials a proposal is computed from. Fitting costs the cube of their number, the search in
proportion to it, and a night of short trials has thousands."""

FEW_CHOICES = 16
"""A parameter with at most so many values is tried at all of them in each step."""


class DiscreteGPSampler(GPSampler):
    """`optuna.samplers.GPSampler`, quicker where every parameter has steps or choices.

    Where one is continuous, Optuna's search is used as it is.
    """

    def __init__(self, seed: int, startup_trials: int) -> None:
        """Args:
        startup_trials: so many completed trials are needed before anything is computed.
        """
        super().__init__(
            seed=seed,
            n_startup_trials=startup_trials,
            deterministic_objective=False,
            warn_independent_sampling=False,
            independent_sampler=RandomSampler(seed=seed),
        )
        self._startup = startup_trials

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """As Optuna's, computed in one thread."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(done) < self._startup:  # nothing is computed, so torch need not be loaded
            return super().sample_relative(study, trial, search_space)
        with one_thread():
            return super().sample_relative(study, trial, search_space)

    def _sample_relative_impl(
        self,
        study: optuna.Study,
        completed_trials: list[FrozenTrial],
        running_trials: list[FrozenTrial],
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """As Optuna's, from the most telling trials alone. It is a method of Optuna's own: should a
        later version have another, all is fitted again, and a test says so."""
        told = without_idle_constraints(most_telling(completed_trials, MOST_FITTED))
        proposed: dict[str, Any] = super()._sample_relative_impl(
            study, told, running_trials, search_space
        )
        return proposed

    def _optimize_acqf(
        self, acqf: BaseAcquisitionFunc, best_params: np.ndarray | None
    ) -> np.ndarray:
        """Optuna offers this method to be overridden, without a promise for later versions: where
        what it hands over has changed, its own search does the work.

        Args:
            acqf: to be maximized.
            best_params: where to start besides, (starts, parameters), normalized; may be None.

        Returns:
            the best configuration found, (parameters,), normalized.
        """
        try:
            if not len(acqf.search_space.continuous_indices):
                return maximize(acqf, self._rng.rng, best_params)
        except (AttributeError, TypeError):
            pass
        found: np.ndarray = super()._optimize_acqf(acqf, best_params)
        return found


def most_telling(trials: Sequence[FrozenTrial], most: int) -> list[FrozenTrial]:
    """The trials to learn from: the latest ones, which lie where the search is; of those before
    the best ones, those that broke a constraint, and an even sample of all others by value.

    Not simply the best ones: a value is noisy, and those of the best are so by luck in part. Fitted
    without their unlucky neighbours they promise too much.

    Args:
        trials: completed, of one objective that is maximized, in their order.
        most: to choose; where there are no more, all are kept. Half of them are the latest, a tenth
            the best before, a quarter at most broke a constraint, as long as there are others.
    """
    if len(trials) <= most:
        return list(trials)
    latest, before = list(trials[-(most // 2) :]), trials[: -(most // 2)]
    broke = [t for t in before if any(value > 0 for value in t.constraints.values())]
    warned = {id(trial) for trial in broke}
    held = sorted((t for t in before if id(t) not in warned), key=lambda t: t.values[0])
    best, others = held[len(held) - most // 10 :], held[: len(held) - most // 10]
    room = most - len(latest) - len(best)
    warnings = _evenly(broke, max(min(most // 4, room), room - len(others)))
    return latest + best + warnings + _evenly(others, room - len(warnings))


def _evenly(trials: list[FrozenTrial], most: int) -> list[FrozenTrial]:
    count = min(most, len(trials))
    return [trials[i * len(trials) // count] for i in range(count)]


def without_idle_constraints(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials with those constraints alone that one of them broke. Each is a Gaussian process of
    its own, to be fitted and asked, and one that always held has nothing to tell."""
    broken = {name for t in trials for name, value in t.constraints.items() if value > 0}
    told = []
    for trial in trials:
        short = copy.copy(trial)
        short.system_attrs = {}
        for name, value in trial.constraints.items():
            if name in broken:
                short.set_constraint(name, value)
        told.append(short)
    return told


@contextmanager
def one_thread() -> Iterator[None]:
    """torch has one thread meanwhile.

    The matrices are small, and threads that wait for each other wait for whatever else runs: with
    two threads on two busy cores a proposal took 2 to 20 s instead of 0.4 s.
    """
    import torch

    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def rehearse() -> None:
    """Make one small proposal: it imports torch and scipy, and whatever they load when used."""
    study = optuna.create_study(direction="maximize", sampler=DiscreteGPSampler(0, 2))
    space: dict[str, BaseDistribution] = {"x": IntDistribution(0, 3)}
    for value in (0.0, 1.0):
        trial = study.ask(space)
        trial.set_constraint("ran", -1.0)
        study.tell(trial, value)
    study.ask(space)


def maximize(
    acqf: BaseAcquisitionFunc, rng: np.random.RandomState, starts: np.ndarray | None = None
) -> np.ndarray:
    """Steepest ascent from several starts at once, over one parameter at a time.

    Args:
        acqf: over a space without continuous parameters.
        starts: configurations to start from besides random ones, (starts, parameters), normalized.

    Returns:
        the best configuration found, (parameters,), normalized: no change of a single parameter
        to one of its `neighbours` makes it better.
    """
    space = acqf.search_space
    here = _starts(acqf, rng, starts)
    values = acqf.eval_acqf_no_grad(here)
    climbing = np.arange(len(here))
    for _ in range(MAX_STEPS):
        around = [neighbours(space, here[i]) for i in climbing]
        found = acqf.eval_acqf_no_grad(np.concatenate(around))
        ends = np.cumsum([len(points) for points in around])
        still = []
        for i, points, reached in zip(climbing, around, np.split(found, ends[:-1]), strict=True):
            best = int(np.argmax(reached))
            if reached[best] > values[i]:
                here[i], values[i] = points[best], reached[best]
                still.append(i)
        climbing = np.array(still, dtype=int)
        if not len(climbing):
            break
    best_of_all: np.ndarray = here[int(np.argmax(values))]
    return best_of_all


def neighbours(space: SearchSpace, point: np.ndarray) -> np.ndarray:
    """The configurations that differ from one in a single parameter.

    A parameter with many values is tried 1, 2, 4, ... steps away, so that few tries cross its
    range and none stands between a point and the next.

    Args:
        point: (parameters,), normalized.

    Returns:
        (neighbours, parameters), normalized.
    """
    changes: list[tuple[int, np.ndarray]] = []
    for index, choices in zip(
        space.discrete_indices, space.get_choices_of_discrete_params(), strict=True
    ):
        current = int(np.argmin(np.abs(choices - point[index])))
        if len(choices) <= FEW_CHOICES or space.is_categorical[index]:
            others = np.delete(np.arange(len(choices)), current)
        else:
            strides = 2 ** np.arange(int(np.log2(len(choices))) + 1)
            others = np.concatenate([current - strides, current + strides])
            others = others[(others >= 0) & (others < len(choices))]
        changes.append((index, choices[others]))
    points = np.repeat(point[None, :], sum(len(values) for _, values in changes), axis=0)
    row = 0
    for index, values in changes:
        points[row : row + len(values), index] = values
        row += len(values)
    return points


def _starts(
    acqf: BaseAcquisitionFunc, rng: np.random.RandomState, given: np.ndarray | None
) -> np.ndarray:
    """The best of many random configurations, others drawn by what they promise, and those given:
    (starts, parameters)."""
    sampled = acqf.search_space.sample_normalized_params(PRELIMINARY, rng=rng)
    values = acqf.eval_acqf_no_grad(sampled)
    best = int(np.argmax(values))
    # The acquisition function is a logarithm, so its exponential is what is promised. Where all is
    # hopeless that is no number; and the smallest shares are rounded to none.
    with np.errstate(invalid="ignore"):
        promise = np.nan_to_num(np.exp(values - values[best]))
    promise[best] = 0.0
    shares = promise / max(promise.sum(), np.finfo(float).tiny)
    wanted = STARTS - 1 - (0 if given is None else len(given))
    drawn = min(wanted, int(np.count_nonzero(shares)))
    chosen = [best]
    if drawn > 0:
        chosen.extend(rng.choice(len(sampled), size=drawn, replace=False, p=shares))
    picked: np.ndarray = sampled[chosen]
    return picked if given is None else np.vstack([picked, given])

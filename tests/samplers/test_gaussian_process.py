"""The search of the best expected improvement, on Gaussian processes that Optuna fitted."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna._gp import optim_mixed
from optuna._gp.search_space import SearchSpace
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from autotune.samplers import gaussian_process
from autotune.samplers.factory import make_sampler
from autotune.samplers.gaussian_process import (
    FEW_CHOICES,
    DiscreteGPSampler,
    maximize,
    most_telling,
    neighbours,
    without_idle_constraints,
)

SMALL: dict[str, BaseDistribution] = {
    "threads": IntDistribution(1, 6),
    "buffer": IntDistribution(1, 32, log=True),
    "mode": CategoricalDistribution(["in_process", "subprocess", "spawn"]),
}


class Recording(DiscreteGPSampler):
    """Keeps the acquisition functions it was asked to maximize, and what came out."""

    seen: list[tuple[object, np.ndarray | None, np.ndarray]]

    def _optimize_acqf(self, acqf, best_params):
        found = super()._optimize_acqf(acqf, best_params)
        self.seen.append((acqf, best_params, found))
        return found


def searched(space: dict[str, BaseDistribution], trials: int, seed: int = 0) -> Recording:
    """A sampler that proposed the last of so many trials from a fit."""
    sampler = Recording(seed, startup_trials=5)
    sampler.seen = []
    study = optuna.create_study(direction="maximize", sampler=sampler)
    draw = random.Random(seed)
    for _ in range(trials):
        trial = study.ask(space)
        trial.set_constraint("ran", -1.0)
        best = trial.params.get("threads", 0) * 3 - abs(trial.params.get("buffer", 0) - 9)
        study.tell(trial, 100.0 + best + draw.gauss(0, 1))
    return sampler


def grid_spaces() -> st.SearchStrategy[SearchSpace]:
    integers = st.builds(
        lambda low, size, log: IntDistribution(low, low + size, log=log),
        st.integers(1, 8),
        st.integers(1, 300),
        st.booleans(),
    )
    choices = st.integers(2, 40).map(lambda n: CategoricalDistribution(list(range(n))))
    return st.lists(integers | choices, min_size=1, max_size=5).map(
        lambda found: SearchSpace({f"p{i}": d for i, d in enumerate(found)})
    )


@given(grid_spaces(), st.integers(0, 1000))
def test_neighbours_differ_in_one_parameter_and_lie_on_the_grid(
    space: SearchSpace, seed: int
) -> None:
    point = space.sample_normalized_params(1, rng=np.random.RandomState(seed))[0]
    around = neighbours(space, point)
    assert ((around != point).sum(axis=1) == 1).all()
    assert len(np.unique(around, axis=0)) == len(around)
    for index, choices in zip(
        space.discrete_indices, space.get_choices_of_discrete_params(), strict=True
    ):
        changed = around[around[:, index] != point[index], index]
        assert np.isin(changed, choices).all()
        if len(choices) <= FEW_CHOICES or space.is_categorical[index]:
            assert len(changed) == len(choices) - 1
        else:  # never a gap beside the point, and a few tries cross the range
            current = int(np.argmin(np.abs(choices - point[index])))
            beside = choices[[i for i in (current - 1, current + 1) if 0 <= i < len(choices)]]
            assert np.isin(beside, changed).all()
            assert len(changed) <= 2 * (np.log2(len(choices)) + 1)


def test_it_finds_the_best_of_all_configurations() -> None:
    sampler = searched(SMALL, 12)
    for acqf, _, found in sampler.seen:
        choices = acqf.search_space.get_choices_of_discrete_params()
        everything = np.array(list(itertools.product(*choices)))
        best = acqf.eval_acqf_no_grad(everything).max()
        assert acqf.eval_acqf_no_grad(found[None])[0] == pytest.approx(best, abs=1e-9)


@pytest.mark.long
def test_it_is_no_worse_than_optunas_own_search_at_a_fraction_of_the_calls() -> None:
    space: dict[str, BaseDistribution] = {
        "threads": IntDistribution(1, 16),
        "buffer": IntDistribution(1, 64, log=True),
        **{f"switch{i}": CategoricalDistribution([False, True]) for i in range(4)},
        **{f"queue{i}": IntDistribution(1, 12) for i in range(4)},
    }
    sampler = searched(space, 9)
    ours, theirs = [], []
    for acqf, starts, found in sampler.seen:
        calls = _counted(acqf)
        maximize(acqf, np.random.RandomState(0), starts)
        ours.append(calls())
        reference, value = optim_mixed.optimize_acqf_mixed(
            acqf, warmstart_normalized_params_array=starts, rng=np.random.RandomState(0)
        )
        theirs.append(calls() - ours[-1])
        assert acqf.eval_acqf_no_grad(found[None])[0] >= value - 0.01, (found, reference)
    assert len(ours) == 4
    assert max(ours) <= 25
    assert sum(theirs) >= 10 * sum(ours)


def _counted(acqf) -> Callable[[], int]:
    """How often an acquisition function was called since."""
    count = 0
    inner = acqf.eval_acqf

    def counting(x):
        nonlocal count
        count += 1
        return inner(x)

    acqf.eval_acqf = counting
    return lambda: count


class Flat:
    """An acquisition function with planted values, the same wherever it is asked."""

    search_space = SearchSpace(SMALL)

    def __init__(self, best: float, others: float) -> None:
        self._best, self._others = best, others

    def eval_acqf_no_grad(self, points: np.ndarray) -> np.ndarray:
        values = np.full(len(points), self._others)
        values[:3] = self._best
        return values


@pytest.mark.parametrize(
    ("best", "others"),
    [(0.0, -744.9), (0.0, -np.inf), (-np.inf, -np.inf), (0.0, 0.0)],
    ids=["shares too small for a number", "one hope", "hopeless", "all alike"],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_starts_are_found_whatever_is_promised(best: float, others: float) -> None:
    found = maximize(Flat(best, others), np.random.RandomState(0))
    assert found.shape == (len(SMALL),)


def test_a_continuous_parameter_is_left_to_optunas_search(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    search = optuna.samplers.GPSampler._optimize_acqf

    def spied(self, acqf, best_params):
        asked.append(acqf)
        return search(self, acqf, best_params)

    monkeypatch.setattr(optuna.samplers.GPSampler, "_optimize_acqf", spied)
    searched(SMALL, 7)
    assert not asked
    searched(SMALL | {"share": FloatDistribution(0, 1)}, 7)
    assert len(asked) == 2


def test_where_optuna_changed_inside_its_own_search_does_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(SearchSpace, "get_choices_of_discrete_params")
    monkeypatch.setattr(
        optuna.samplers.GPSampler, "_optimize_acqf", lambda self, acqf, best: best[0]
    )
    assert len(searched(SMALL, 7).seen) == 2


def test_a_gp_study_searches_this_way() -> None:
    assert isinstance(make_sampler("gp", 0), DiscreteGPSampler)


WARM_UP = """
import sys
from autotune.samplers import quiet_optuna, warming_up
quiet_optuna()  # as a launch does
with warming_up({kind!r}, {trials}):
    pass
print("torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("kind", "trials", "loads"),
    [("gp", 11, True), ("gp", 10, False), ("tpe", None, False)],
)
def test_what_a_first_proposal_loads_is_loaded_before_it(
    kind: str, trials: int | None, loads: bool
) -> None:
    code = WARM_UP.format(kind=kind, trials=trials)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(loads)
    assert "study" not in told.stderr


def told(values: list[int], broke: list[bool]) -> list[optuna.trial.FrozenTrial]:
    return [
        optuna.trial.create_trial(
            value=float(value), system_attrs={"constraints:ran": 1.0 if b else -1.0}
        )
        for value, b in zip(values, broke, strict=True)
    ]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=80),
    st.integers(2, 40),
)
def test_the_latest_the_best_and_a_sample_of_the_others_tell_most(
    trials: list[tuple[int, bool]], most: int
) -> None:
    given_trials = told([v for v, _ in trials], [b for _, b in trials])
    chosen = most_telling(given_trials, most)
    ids = {id(t) for t in chosen}
    assert len(chosen) == len(ids) == min(most, len(given_trials))
    assert ids >= {id(t) for t in given_trials[-(most // 2) :]}
    if len(given_trials) <= most:
        return
    before = given_trials[: -(most // 2)]
    held = sorted((t.values[0] for t in before if t.constraints["ran"] < 0), reverse=True)
    found = sorted((t.values[0] for t in chosen if t.constraints["ran"] < 0), reverse=True)
    assert all(value in found for value in held[: most // 10])
    broke = sum(t.constraints["ran"] > 0 for t in before)
    kept = sum(t.constraints["ran"] > 0 and id(t) in ids for t in before)
    assert kept >= min(broke, most // 4)
    assert kept <= max(most // 4, most - most // 2 - len(held))


def test_constraints_that_always_held_are_left_out() -> None:
    attrs = [{"constraints:ran": -1.0, "constraints:cpu": -0.5, "other": 1}] * 2
    attrs.append({"constraints:ran": 1.0, "constraints:cpu": 0.0})
    trials = [optuna.trial.create_trial(value=1.0, system_attrs=given) for given in attrs]
    short = without_idle_constraints(trials)
    assert [t.constraints for t in short] == [{"ran": -1.0}, {"ran": -1.0}, {"ran": 1.0}]
    assert trials[0].constraints == {"ran": -1.0, "cpu": -0.5}
    assert [t.constraints for t in without_idle_constraints(trials[:2])] == [{}, {}]


def test_a_long_study_is_fitted_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = []

    def count(sampler, study, completed_trials, running_trials, search_space):
        fitted.append(len(completed_trials))
        return {}

    monkeypatch.setattr(gaussian_process, "MOST_FITTED", 8)
    monkeypatch.setattr(optuna.samplers.GPSampler, "_sample_relative_impl", count)
    searched(SMALL, 14)
    assert fitted == [5, 6, 7, 8, 8, 8, 8, 8, 8]


def test_ten_random_trials_never_load_torch() -> None:
    code = (
        "import sys, optuna; from autotune.samplers import make_sampler\n"
        "study = optuna.create_study(sampler=make_sampler('gp', 0))\n"
        "for _ in range(10): study.tell(t := study.ask(), t.suggest_int('x', 0, 9))\n"
        "print('torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"

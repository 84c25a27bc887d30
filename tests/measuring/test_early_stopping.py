"""The stopping rule, the worker that obeys it, and what a study makes of a stopped trial."""

from __future__ import annotations

import itertools
import math
import os
import random
from typing import Any

import optuna
import pytest
from helpers import FOLDER, ROOT, marked, specification
from hypothesis import given
from hypothesis import strategies as st

from autotune.exceptions import InputError
from autotune.measuring.early_stopping import (
    TOLERATED,
    EarlyStopping,
    enough_data,
    reachable,
    required,
)
from autotune.measuring.figures import Record, decide
from autotune.results import all_trials, export_study
from autotune.storage import Database
from autotune.supervision.supervisor import supervise
from autotune.trial import Incumbent, MeasurementSettings, Params, TrialSpec, Window
from tests.fakes import FakeExecutor, FakeJob, measurement
from tests.launches import experiment, launch, records, url

__all__ = ["experiment", "url"]  # fixtures

SETTINGS = MeasurementSettings()


def facing(rate: float, spread: float = 0.01, dof: float = 20.0) -> Incumbent:
    return Incumbent(samples_per_second=rate, spread=spread, dof=dof)


def run_of(gaps: list[float], samples: int = 4) -> Record:
    """A run in windows of 5 batches."""
    times = list(itertools.accumulate(gaps, initial=100.0))
    record = Record()
    for index, begin in enumerate(range(0, len(gaps), 5)):
        arrivals = times[begin + 1 : begin + 6]
        record.add(
            Window(
                index=index,
                start=times[begin],
                end=arrivals[-1],
                batches=len(arrivals),
                arrivals=arrivals,
                batch_samples=[samples] * len(arrivals),
            )
        )
    return record


def hopeless(gaps: list[float], incumbent: Incumbent | None) -> bool:
    record = run_of(gaps)
    early = EarlyStopping(incumbent, SETTINGS)
    return early.hopeless([record], decide([record], SETTINGS))


def noisy(count: int, mean: float, noise: float = 0.2, seed: int = 0) -> list[float]:
    source = random.Random(seed)
    return [mean * source.uniform(1 - noise, 1 + noise) for _ in range(count)]


# ------------------------------------------------------------------ the rule


def test_a_run_at_half_the_incumbents_rate_is_stopped_and_one_at_its_rate_is_not() -> None:
    half = noisy(150, 0.02)  # 200 samples/s
    assert hopeless(half, facing(400.0))
    assert not hopeless(half, facing(200.0))
    assert not hopeless(half, None)


def test_nothing_is_stopped_before_there_is_enough_steady_data() -> None:
    assert not hopeless(noisy(14, 0.5), facing(1e6)), "14 batches"
    assert not hopeless(noisy(140, 0.01), facing(1e6)), "1.4 s"
    assert enough_data([0.1 * i for i in range(17)], min_seconds=3.0)
    assert enough_data([0.01 * i for i in range(22)], min_seconds=0.2), "shorter than usual runs"


def test_a_run_that_gets_faster_is_not_stopped() -> None:
    rising = [0.04 / (1 + 0.01 * i) for i in range(100)]
    assert math.isinf(reachable(run_of(rising).times, [4] * 100))
    assert not hopeless(rising, facing(1000.0))


def test_bursts_out_of_a_large_buffer_are_no_slow_rate() -> None:
    # 16 batches at once every 1.6 s: as fast as the incumbent, though most of the time idle
    bursts = ([1.6] + [0.0001] * 15) * 3
    assert not hopeless(bursts[:40], facing(40.0))


def test_an_unknown_spread_between_runs_stops_nothing() -> None:
    assert required(facing(1000.0, dof=0.0)) == 0.0
    assert not hopeless(noisy(150, 0.02), facing(1e6, dof=0.0))


RATES = st.floats(1.0, 1e5)
SPREADS = st.floats(0.0, 0.3)
DOFS = st.floats(1.0, 100.0)


@given(rate=RATES, factor=st.floats(1 - TOLERATED, 10.0), spread=SPREADS, dof=DOFS)
def test_a_noiseless_run_within_3_percent_of_the_incumbent_is_never_stopped(
    rate: float, factor: float, spread: float, dof: float
) -> None:
    gap = 4 / (rate * factor)
    times = [gap * i for i in range(60)]
    bound = reachable(times, [4] * 60)
    assert bound >= rate * factor * (1 - 1e-9)
    assert bound * (1 + 1e-9) >= required(facing(rate, spread, dof))


@given(
    st.lists(st.floats(0.01, 0.5), min_size=20, max_size=120),
    st.lists(RATES, min_size=2, max_size=6),
    SPREADS,
    DOFS,
)
def test_a_faster_incumbent_stops_no_less(
    gaps: list[float], rates: list[float], spread: float, dof: float
) -> None:
    verdicts = [hopeless(gaps, facing(rate, spread, dof)) for rate in sorted(rates)]
    assert verdicts == sorted(verdicts)


@given(st.lists(st.floats(0.01, 0.5), min_size=20, max_size=80), st.integers(1, 30))
def test_the_bound_is_above_the_rate_and_grows_with_every_look(
    gaps: list[float], look: int
) -> None:
    times = list(itertools.accumulate(gaps, initial=0.0))
    samples = [4] * len(times)
    rate = 4 * (len(times) - 1) / times[-1]
    bound = reachable(times, samples, look)
    assert bound >= rate * (1 - 1e-9)
    assert reachable(times, samples, look + 1) >= bound * (1 - 1e-9)


@given(RATES, st.tuples(SPREADS, SPREADS), DOFS)
def test_what_is_required_falls_as_runs_differ_more(
    rate: float, spreads: tuple[float, float], dof: float
) -> None:
    calm, wild = sorted(spreads)
    assert required(facing(rate, wild, dof)) <= required(facing(rate, calm, dof)) <= rate


# ------------------------------------------------------------------ in worker processes


@pytest.fixture
def _targets_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}{ROOT}")


LONG = {"min_seconds": 20.0, "max_seconds": 30.0, "window_seconds": 0.1}


@pytest.mark.usefixtures("_targets_importable")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_slow_run_ends_early_with_its_estimate(ranks: int) -> None:
    rate = 400.0 * ranks
    spec = specification(measurement=LONG, ranks=ranks, incumbent=facing(4 * rate))
    result = supervise(spec)
    assert result.state == "finished", result
    assert result.measurement is not None
    assert result.measurement.stopped_early
    assert 0.5 * rate < result.measurement.samples_per_second < 1.05 * rate
    assert result.measurement.seconds < LONG["min_seconds"]
    assert marked(spec) == []


@pytest.mark.usefixtures("_targets_importable")
def test_a_run_as_fast_as_the_incumbent_is_measured_to_its_end() -> None:
    result = supervise(specification(incumbent=facing(300.0)))
    assert result.measurement is not None
    assert not result.measurement.stopped_early


# ------------------------------------------------------------------ in a study


class Obedient(FakeExecutor):
    """Stops what lies below half of the incumbent."""

    def submit(self, spec: TrialSpec, node: str | None = None) -> FakeJob:
        job = super().submit(spec, node)
        result = job.result()
        if spec.incumbent is None or result.measurement is None:
            return job
        rate = result.measurement.samples_per_second
        stopped = rate < 0.5 * spec.incumbent.samples_per_second
        figures = measurement(rate).model_copy(update={"stopped_early": stopped})
        return FakeJob(spec, result.model_copy(update={"measurement": figures}))


def steep(params: Params) -> float:
    return 100.0 / int(params["num_demux_threads"])


@pytest.mark.parametrize(("sampler", "state"), [("tpe", "PRUNED"), ("random", "COMPLETE")])
def test_what_was_stopped_is_told_kept_and_never_ranked(
    experiment: dict[str, Any], url: str, sampler: str, state: str
) -> None:
    experiment |= {"sampler": sampler, "baseline": {"num_demux_threads": 1}}
    executor = Obedient(steep)
    outcome = launch(experiment, url, executor)
    assert outcome.state == "finished", outcome
    study, trials, measurements, _ = records(url)
    stopped = [t for t in trials if t.stopped_early]
    assert stopped
    assert {t.state for t in stopped} == {state}
    assert not any(t.rankable for t in stopped)
    assert all(t.samples_per_second is not None for t in stopped)
    told = optuna.load_study(study_name=study.optuna_study_name, storage=url).trials
    for trial in told:
        assert trial.state.name in ("COMPLETE", "PRUNED")
        assert (trial.number in {t.number for t in stopped}) == bool(
            trial.user_attrs.get("autotune:stopped_early")
        )
    first, *others = [spec for spec in executor.specs if spec.incumbent is None]
    assert first.params == trials[0].params
    again = {m.uuid for m in measurements if m.role not in ("search",)}
    assert {spec.uuid for spec in (first, *others)} == again, "only the search faces an incumbent"
    with Database.open(url) as database:
        assert all(not t.stopped_early for g in database.best(study.id, top=99) for t in g.trials)
        shown = all_trials(database, study)
        with pytest.raises(InputError, match="stopped early"):
            export_study(database, study, "flags", trial=stopped[0].number, unverified=True)
    assert [t.number for t in shown if t.stopped_early] == [t.number for t in stopped]


def test_it_can_be_switched_off(experiment: dict[str, Any], url: str) -> None:
    experiment["measurement"] = {"early_stopping": False}
    executor = Obedient(steep)
    launch(experiment, url, executor)
    assert all(spec.incumbent is None for spec in executor.specs)


def test_a_resumed_study_does_not_take_a_stopped_trial_for_its_best(
    experiment: dict[str, Any], url: str
) -> None:
    experiment |= {"sampler": "tpe", "baseline": {"num_demux_threads": 1}}
    launch(experiment, url, Obedient(steep))
    before = records(url)[1]
    experiment["budget"] = {"trials": len(before) + 3}
    executor = Obedient(steep)
    launch(experiment, url, executor)
    after = records(url)[1]
    assert len(after) == len(before) + 3
    searched = [spec for spec in executor.specs if spec.incumbent is not None]
    best = max(t.samples_per_second or 0.0 for t in before if not t.stopped_early)
    assert all(spec.incumbent.samples_per_second >= best for spec in searched if spec.incumbent)

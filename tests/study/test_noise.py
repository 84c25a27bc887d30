"""The noise floor at the start of a study, and the watch for a machine that changes."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.results import summary
from autotune.stats import between_run_sd, noise_floor, rates_tie
from autotune.storage import Database
from autotune.study.noise import NoiseFloor, moved
from autotune.study.observer import StudyObserver
from autotune.study.run import StopSignal
from autotune.trial import Contamination, Failure, Params, TrialSpec
from tests.fakes import FakeExecutor, FakeJob
from tests.launches import experiment, launch, records, surface, url

__all__ = ["experiment", "url"]  # fixtures


class Notes(StudyObserver):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_the_baseline_is_repeated_before_the_search(experiment: dict[str, Any], url: str) -> None:
    experiment["noise"] = {"runs": 5, "drift_every": 0}
    told = Notes()
    launch(experiment, url, FakeExecutor(surface, noise=0.03, seed=3), observer=told)
    study, trials, measurements, _ = records(url)
    roles = [m.role for m in measurements]
    assert roles[:6] == ["baseline", "noise", "noise", "noise", "noise", "search"]
    assert {m.trial_number for m in measurements if m.role == "noise"} == {0}
    # They are not the baseline's figure: that is its trial's own run.
    assert trials[0].samples_per_second == measurements[0].samples_per_second
    floor = NoiseFloor.of(study)
    assert floor is not None
    repeats = [m.samples_per_second for m in measurements[:5]]
    sd, dof = between_run_sd([repeats])
    assert (floor.runs, floor.dof, floor.prior) == (5, dof, False)
    assert floor.sd == pytest.approx(sd)
    assert floor.floor == pytest.approx(noise_floor(sd, dof))
    assert floor.samples_per_second == pytest.approx(
        math.exp(sum(math.log(rate) for rate in repeats) / 5)
    )
    [line] = [note for note in told.notes if note.startswith("Noise floor")]
    assert line == f"Noise floor {100 * floor.floor:.1f} % (5 runs of the baseline)."


def test_a_launch_that_goes_on_makes_only_the_runs_that_are_missing(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["noise"] = {"runs": 5, "drift_every": 0}
    signal = StopSignal()
    executor = FakeExecutor(surface, noise=0.03)

    def interrupt(spec: TrialSpec) -> None:
        if len(executor.specs) == 2:
            signal.request()

    executor.before = interrupt
    assert launch(experiment, url, executor, signal).state == "interrupted"
    assert [m.role for m in records(url)[2]] == ["baseline", "noise", "noise"]
    assert launch(experiment, url, FakeExecutor(surface, noise=0.03)).state == "finished"
    study, _, measurements, _ = records(url)
    assert sum(m.role == "noise" for m in measurements) == 4
    assert study.noise["runs"] == 5


def disturb(executor: FakeExecutor, runs: set[int]) -> None:
    """Another program takes half of the machine in these measurements, counted from 1."""
    submit = executor.submit

    def disturbed(spec: TrialSpec, node: str | None = None) -> FakeJob:
        job = submit(spec, node)
        measured = job.result().measurement
        if len(executor.specs) not in runs or measured is None:
            return job
        half = {
            "samples_per_second": measured.samples_per_second / 2,
            "contamination": Contamination(lost=0.5, marked=True, causes=["foreign load"]),
        }
        changed = {"measurement": measured.model_copy(update=half)}
        return FakeJob(spec, job.result().model_copy(update=changed))

    executor.submit = disturbed  # type: ignore[method-assign]


def test_disturbed_runs_are_no_part_of_the_floor(experiment: dict[str, Any], url: str) -> None:
    experiment["noise"] = {"runs": 5, "drift_every": 3}
    experiment["measurement"] = {"repeats": 0}
    executor = FakeExecutor(surface, noise=0.01, seed=2)
    disturb(executor, {2, 4, 11})  # two of the noise floor, then the first look after it
    launch(experiment, url, executor)
    study, _, measurements, _ = records(url)
    assert sum(m.role == "noise" for m in measurements) == 6
    assert [m.role for m in measurements if m.contaminated] == ["noise", "noise", "drift"]
    assert study.noise["runs"] == 6
    assert study.noise["floor"] < 0.06
    assert study.noise["drift"] == []


def test_where_all_is_disturbed_there_is_no_floor(experiment: dict[str, Any], url: str) -> None:
    experiment["noise"] = {"runs": 5, "drift_every": 3}
    experiment["measurement"] = {"repeats": 0}
    executor = FakeExecutor(surface, noise=0.01)
    disturb(executor, set(range(2, 100)))
    told = Notes()
    launch(experiment, url, executor, observer=told)
    assert records(url)[0].noise is None
    assert any(note.startswith("No noise floor: 1 of 5 runs") for note in told.notes)


def test_below_five_runs_it_says_that_a_prior_stands_in(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["noise"] = {"runs": 3, "drift_every": 0}
    told = Notes()
    launch(experiment, url, FakeExecutor(surface, noise=0.03), observer=told)
    assert any("(3 runs of the baseline, pooled with a prior)" in note for note in told.notes)
    assert records(url)[0].noise["prior"] is True


def test_without_a_figure_of_the_baseline_there_is_no_floor(
    experiment: dict[str, Any], url: str
) -> None:
    def broken(params: Params) -> float | Failure:
        if int(params["num_decode_threads"]) == 8:
            return Failure(kind="crash", cause="SIGSEGV")
        return surface(params)

    experiment["noise"] = {"runs": 5, "drift_every": 2}
    told = Notes()
    launch(experiment, url, FakeExecutor(broken), observer=told)
    study, _, measurements, _ = records(url)
    assert study.noise is None
    assert not [m for m in measurements if m.role in ("noise", "drift")]
    assert "No noise floor: the baseline has no figure." in told.notes


def test_the_baseline_is_looked_at_again_and_refines_the_floor(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["noise"] = {"runs": 5, "drift_every": 3}
    experiment["budget"] = {"trials": 8}
    launch(experiment, url, FakeExecutor(surface, noise=0.01, seed=2))
    study, _, measurements, _ = records(url)
    roles = [m.role for m in measurements if m.role != "verification"]
    three = ["search"] * 3
    assert roles == ["baseline", *["noise"] * 4, *three, "drift", *three, "drift", "search"]
    assert study.noise["runs"] == 7
    assert study.noise["drift"] == []


def test_a_machine_that_becomes_slower_is_told_with_figures(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["noise"] = {"runs": 5, "drift_every": 3}
    experiment["budget"] = {"trials": 8}
    executor = FakeExecutor(lambda params: 0.0, noise=0.01, seed=2)

    def slower(params: Params) -> float:
        factor = 1.0 if len(executor.specs) < 7 else 0.6
        return factor * 100.0

    executor._surface = slower
    told = Notes()
    launch(experiment, url, executor, observer=told)
    study, _, measurements, _ = records(url)
    # The look that seems to show it is made twice.
    assert [m.role for m in measurements].count("drift") == 3
    [drift] = NoiseFloor.of(study).drift
    assert drift.after_trials == 4
    assert drift.then == pytest.approx(100, rel=0.02)
    assert drift.now == pytest.approx(60, rel=0.02)
    [line] = [note for note in told.notes if "became slower" in note]
    assert f"{drift.then:.4g} samples/s and now gives {drift.now:.4g}" in line
    with Database.open(url, create=False) as database:
        shown = summary(database, study).model_dump(mode="json")
    assert shown["noise"]["drift"][0]["now"] == drift.now


@settings(max_examples=50, deadline=None)
@given(
    before=st.lists(st.floats(-1, 1), min_size=2, max_size=8),
    shift=st.floats(0, 5),
    sd=st.floats(0.001, 0.2),
    dof=st.floats(4, 50),
)
def test_a_larger_change_is_never_harder_to_see(
    before: list[float], shift: float, sd: float, dof: float
) -> None:
    mean = sum(before) / len(before)
    assert not moved(before, [mean], sd, dof)
    if moved(before, [mean + shift], sd, dof):
        assert moved(before, [mean + 2 * shift], sd, dof)
        assert moved(before, [mean - shift * 1.001], sd, dof)


def test_a_machine_that_does_not_change_is_seldom_said_to() -> None:
    draw = random.Random(7)
    checks = alarms = 0
    for _ in range(400):
        runs = [draw.gauss(0, 0.03) for _ in range(5)]
        for _ in range(19):
            sd, dof = between_run_sd([[math.exp(x) for x in runs]])
            now = [draw.gauss(0, 0.03)]
            checks += 1
            if moved(runs, now, sd, dof):
                now.append(draw.gauss(0, 0.03))
                alarms += moved(runs, now, sd, dof)
            runs += now
    assert alarms / checks <= 0.01  # what the docstring promises; 0.0035 is usual


def test_ties_are_named(experiment: dict[str, Any], url: str) -> None:
    experiment["noise"] = {"runs": 5, "drift_every": 0}
    launch(experiment, url, FakeExecutor(surface, noise=0.02, seed=1))
    import autotune

    study = autotune.load_study("study", storage=url)
    best, *others = study.best(top=20)
    floor = study.record.noise["floor"]
    assert not best.tied
    assert any(trial.tied for trial in others)
    assert not all(trial.tied for trial in others)
    for trial in others:
        same = rates_tie(best.samples_per_second, trial.samples_per_second, floor)
        assert trial.tied == same
    by_number = {trial.number: trial.tied for trial in study.trials()}
    assert all(by_number[trial.number] == trial.tied for trial in others)


def test_a_study_without_a_floor_has_no_ties(experiment: dict[str, Any], url: str) -> None:
    launch(experiment, url)
    import autotune

    study = autotune.load_study("study", storage=url)
    assert study.status().noise is None
    assert not any(trial.tied for trial in study.trials())


def test_noise_may_change_on_resume(experiment: dict[str, Any], url: str, tmp_path: Path) -> None:
    launch(experiment, url)
    experiment["noise"] = {"runs": 2, "drift_every": 5}
    experiment["budget"] = {"trials": 9}
    assert launch(experiment, url).state == "finished"
    assert records(url)[0].noise["runs"] == 2

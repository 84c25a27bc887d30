"""A disturbed measurement is made again at most twice; the least disturbed one is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.config import Experiment
from autotune.executors.base import Job
from autotune.repeats import MAX_REPEATS, Attempts, half_width, warning, widened
from autotune.results import trial_figures
from autotune.storage import Database
from autotune.study.launching import launch_experiment
from autotune.study.observer import StudyObserver
from autotune.trial import Contamination, Failure, TrialResult, TrialSpec
from tests.fakes import FakeExecutor, FakeJob, measurement


def result(uuid: str, lost: float | None, marked: bool = True) -> TrialResult:
    """A finished measurement; ``lost`` None: it was not looked for."""
    found = None if lost is None else Contamination(lost=lost, marked=marked, causes=["load"])
    made = measurement(100.0).model_copy(update={"contamination": found})
    return TrialResult(uuid=uuid, state="finished", measurement=made)


def failed(uuid: str, kind: Any) -> TrialResult:
    return TrialResult(uuid=uuid, state="failed", failure=Failure(kind=kind, cause="why"))


def test_an_undisturbed_measurement_is_made_once() -> None:
    for first in (result("a", None), result("a", 0.01, marked=False), failed("a", "crash")):
        made = Attempts()
        assert made.number is None
        assert not made.add(first)
        assert made.kept is first
        assert made.superseded == []


@given(st.lists(st.floats(0.05, 0.9), min_size=1, max_size=MAX_REPEATS + 1))
def test_the_least_disturbed_is_kept_and_the_others_superseded(lost: list[float]) -> None:
    made = Attempts()
    for number, share in enumerate(lost):
        again = made.add(result(str(number), share))
        assert again == (number < MAX_REPEATS)
        assert made.number == number + 1
    kept = lost.index(min(lost))
    assert made.kept.uuid == str(kept)
    assert made.superseded == [str(i) for i in range(len(lost)) if i != kept]


def test_a_measurement_that_could_not_be_judged_is_repeated_too() -> None:
    made = Attempts()
    assert made.add(failed("a", "contaminated"))
    assert made.add(result("b", 0.3))
    assert not made.add(failed("c", "hang"))
    assert made.kept.uuid == "b"
    made = Attempts()
    assert [made.add(failed(name, "contaminated")) for name in "abc"] == [True, True, False]
    assert made.kept.uuid == "c"


def test_a_run_that_was_measured_to_its_end_is_kept_before_one_that_was_stopped_early() -> None:
    stopped = result("a", 0.1)
    assert stopped.measurement is not None
    early = stopped.measurement.model_copy(update={"stopped_early": True})
    made = Attempts()
    assert made.add(stopped.model_copy(update={"measurement": early}))
    assert made.add(result("b", 0.5))
    assert not made.add(result("c", 0.4))
    assert made.kept.uuid == "c"
    assert made.superseded == ["a", "b"]


def test_what_the_infrastructure_ended_is_made_again_twice_and_costs_no_repeat() -> None:
    made = Attempts()
    assert made.add(failed("a", "infrastructure"))
    assert made.number is None
    assert made.add(failed("b", "infrastructure"))
    assert made.add(result("c", 0.5))
    assert not made.add(failed("d", "infrastructure"))
    assert (made.kept.uuid, made.superseded, made.last.uuid) == ("c", ["d"], "d")


def test_a_failure_of_what_everything_rests_on_is_believed_the_second_time() -> None:
    made = Attempts(max_failures=1)
    assert made.add(failed("a", "infrastructure"))
    assert made.add(failed("b", "start_up"))
    assert made.kept.uuid == "b", "where the user ends it now, this is what became of it"
    assert not made.add(failed("c", "start_up"))
    assert made.kept.uuid == "c"
    with pytest.raises(ValueError, match="nothing was measured"):
        _ = Attempts().last


def test_repeats_can_be_switched_off() -> None:
    assert not Attempts(max_repeats=0).add(result("a", 0.5))


def test_nothing_measured_is_nothing_kept() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        _ = Attempts().kept


@given(st.floats(0, 50), st.floats(1, 1000), st.floats(0, 0.99))
def test_a_widened_interval_holds_the_undisturbed_rate(
    half: float, rate: float, lost: float
) -> None:
    assert rate + widened(half, rate, lost) >= rate / (1 - lost) - 1e-6
    assert widened(half, rate, lost) >= half


def test_only_a_marked_measurement_is_widened_and_warned_of() -> None:
    plain, marked = result("a", 0.03, marked=False).measurement, result("b", 0.5).measurement
    assert plain is not None
    assert marked is not None
    assert half_width(plain) == pytest.approx(2.0)
    assert half_width(marked) == pytest.approx(102.0)
    assert widened(1.0, 100.0, 1.0) == float("inf")
    assert warning(plain.contamination) is None
    assert warning(marked.contamination) == "contaminated: others took 50% of its capacity (load)"


# ------------------------------------------------------------------ in a study


class Disturbed(FakeExecutor):
    """Every measurement of the first configuration loses the next of the planted shares."""

    def __init__(self, lost: Sequence[float]) -> None:
        super().__init__(lambda params: 100.0)
        self._lost = list(lost)

    def submit(self, spec: TrialSpec, node: str | None = None) -> Job:
        made = super().submit(spec, node).result()
        if not self._lost or made.measurement is None:
            return FakeJob(spec, made)
        lost = self._lost.pop(0)
        found = Contamination(lost=lost, marked=lost > 0.04, causes=["foreign load"])
        changed = made.measurement.model_copy(update={"contamination": found})
        return FakeJob(spec, made.model_copy(update={"measurement": changed}))


class Notes(StudyObserver):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.in_flight: set[str] = set()
        self.told: list[float] = []

    def measurement_started(self, uuid: str, *_: Any) -> None:
        self.in_flight.add(uuid)

    def measurement_finished(
        self, uuid: str, label: str, params: Any, result: TrialResult, *_: Any
    ) -> None:
        self.in_flight.remove(uuid)
        if label.startswith("trial"):
            assert result.measurement is not None
            assert result.measurement.contamination is not None
            self.told.append(result.measurement.contamination.lost)

    def note(self, message: str) -> None:
        self.notes.append(message)


def one_trial(folder: Path) -> Experiment:
    return Experiment.from_dict(
        {
            "target": {"name": "spdl_video", "data_dir": str(folder)},
            "search_space": {"parameters": {}},
            "budget": {"trials": 1},
            "verification": {"finalists": 0},
            "noise": {"runs": 0, "drift_every": 0},
        }
    )


class Stopping(Disturbed):
    """While the first measurement runs, somebody asks for a stop."""

    def __init__(self, storage: str) -> None:
        super().__init__([0.5, 0.5, 0.5])
        self._storage = storage

    def submit(self, spec: TrialSpec, node: str | None = None) -> Job:
        with Database.open(self._storage, create=False) as database:
            database.request_stop("s")
        return super().submit(spec, node)


def test_a_trial_is_not_repeated_once_a_stop_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.study.run.STOP_POLL_SECONDS", 0.0)
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    executor = Stopping(storage)
    outcome = launch_experiment(
        one_trial(tmp_path), storage=storage, study_name="s", executor=executor
    )
    assert outcome.state == "stopped"
    assert len(executor.specs) == 1


@pytest.mark.parametrize(
    ("lost", "kept", "runs"),
    [([0.5, 0.01], 1, 2), ([0.5, 0.3, 0.4, 0.0], 1, 3), ([0.02], 0, 1)],
)
def test_a_study_repeats_keeps_and_shows(
    tmp_path: Path, lost: list[float], kept: int, runs: int
) -> None:
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    executor, observer = Disturbed(lost), Notes()
    outcome = launch_experiment(
        one_trial(tmp_path), storage=storage, study_name="s", observer=observer, executor=executor
    )
    with Database.open(storage, create=False) as database:
        made = [m for m in database.measurements(outcome.record.id) if m.role == "baseline"]
        trial = database.trials(outcome.record.id)[0]
    assert [m.attempt for m in made] == [None, 1, 2][:runs]
    assert [m.superseded for m in made] == [i != kept for i in range(runs)]
    assert len([n for n in observer.notes if "measured again" in n]) == runs - 1
    assert observer.in_flight == set(), "every attempt is told as it ends"
    assert observer.told == lost[:runs]
    kept_before_the_last = kept != runs - 1
    assert any("disturbed least" in n for n in observer.notes) == kept_before_the_last
    figures = trial_figures(trial)
    assert figures.measurements == 1
    assert figures.ci_low is not None
    if lost[kept] > 0.04:
        assert figures.warnings == ["contaminated: others took 30% of its capacity (foreign load)"]
        assert figures.ci_low < 70
    else:
        assert figures.warnings == []
        assert figures.ci_low > 85

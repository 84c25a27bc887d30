"""The study loop with a made-up surface: order, budgets, failures, resume, verification."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest

from autotune.config import Experiment
from autotune.dry_run import dry_run
from autotune.exceptions import InputError, StudyConflict
from autotune.storage import Database
from autotune.study.run import StopSignal
from autotune.trial import Failure, Params, TrialSpec
from tests.fakes import FakeExecutor
from tests.launches import experiment, launch, records, surface, url

__all__ = ["experiment", "url"]  # fixtures


def test_the_baseline_is_trial_0_and_the_winner_is_verified_in_fresh_blocks(
    experiment: dict[str, Any], url: str
) -> None:
    executor = FakeExecutor(surface, noise=0.01)
    outcome = launch(experiment, url, executor)
    assert outcome.state == "finished"
    study, trials, measurements, verifications = records(url)
    assert study.state == "finished"
    assert trials[0].number == 0
    assert trials[0].origin == "baseline"
    assert trials[0].params["num_demux_threads"] == 8
    assert len(trials) == 8
    [verification] = verifications
    assert verification.verified
    assert verification.ratio_low > 1
    fresh = [m for m in measurements if m.role == "verification"]
    assert len(fresh) == 8
    assert {m.arm for m in fresh} == {"candidate", "baseline"}
    assert sorted(m.block for m in fresh) == [0, 0, 1, 1, 2, 2, 3, 3]
    # The interval comes from these runs alone.
    rates = {
        a: [m.samples_per_second for m in fresh if m.arm == a] for a in ("candidate", "baseline")
    }
    assert verification.candidate_mean == pytest.approx(sum(rates["candidate"]) / 4)
    assert executor.closed


def test_optunas_tools_know_what_the_value_is(experiment: dict[str, Any], url: str) -> None:
    launch(experiment, url, FakeExecutor(surface))
    name = records(url)[0].optuna_study_name
    assert optuna.load_study(storage=url, study_name=name).metric_names == ["samples/s"]


def test_enqueued_configurations_come_right_after_the_baseline(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["enqueue"] = [{"num_demux_threads": 2}, "--num-demux-threads 3"]
    launch(experiment, url)
    trials = records(url)[1]
    assert [t.origin for t in trials[:4]] == ["baseline", "enqueued", "enqueued", "sampler"]
    assert trials[2].params["num_demux_threads"] == 3


def test_no_gain_is_said_where_there_is_none(experiment: dict[str, Any], url: str) -> None:
    outcome = launch(experiment, url, FakeExecutor(lambda params: 100.0, noise=0.02, seed=5))
    assert outcome.state == "finished"
    verifications = records(url)[3]
    assert not any(v.verified for v in verifications)
    assert "no " in outcome.reason


def test_a_baseline_that_is_the_best_beyond_doubt_needs_no_verification(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["baseline"] = {"num_demux_threads": 2, "num_decode_threads": 4}

    def steep(params: Params) -> float:
        return 100.0 if params["num_demux_threads"] == 2 == params["num_decode_threads"] - 2 else 60

    outcome = launch(experiment, url, FakeExecutor(steep))
    assert "no configuration was faster than the baseline" in outcome.reason
    assert records(url)[3] == []


def test_a_failed_trial_has_a_cause_and_no_figure_anywhere(
    experiment: dict[str, Any], url: str
) -> None:
    def broken(params: Params) -> float | Failure:
        if int(params["num_decode_threads"]) < 5:
            return Failure(kind="host_out_of_memory", cause="killed at 14 GiB")
        return surface(params)

    launch(experiment, url, FakeExecutor(broken))
    trials = records(url)[1]
    failed = [t for t in trials if t.state == "FAIL"]
    assert failed
    for trial in failed:
        assert trial.samples_per_second is None
        assert trial.failure.kind == "host_out_of_memory"
        assert trial.failure.cause == "killed at 14 GiB"
        assert trial.penalty
    assert not any(trial.penalty for trial in trials if trial.state != "FAIL")
    # Optuna is told a penalty, so that it learns; it is marked as one.
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        marks = connection.execute(
            "select value_json from trial_user_attributes where key = 'autotune:penalty'"
        ).fetchall()
    assert len(marks) >= len(failed)


def test_a_baseline_that_cannot_run_ends_the_study_with_its_cause(
    experiment: dict[str, Any], url: str
) -> None:
    failure = Failure(kind="data", cause="12 of 40 clips failed")
    executor = FakeExecutor(lambda params: failure)
    outcome = launch(experiment, url, executor)
    assert outcome.state == "failed"
    assert "12 of 40 clips failed" in outcome.reason
    assert len(executor.specs) == 2, "it is believed the second time"
    # Launched again it is measured again: the cause may be gone.
    again = FakeExecutor(surface)
    assert launch(experiment, url, again).state == "finished"
    study, trials, measurements, _ = records(url)
    assert study.state == "finished"
    [baseline] = [t for t in trials if t.origin == "baseline" and t.samples_per_second is not None]
    assert baseline.params == trials[0].params
    made = [m for m in measurements if m.state == "finished"]
    assert made[0].trial_number == baseline.number, "it comes before everything else"


def failing(times: int, after: int = 0) -> FakeExecutor:
    """The measurements after the first ``after`` fail, so many of them."""
    executor = FakeExecutor(surface)

    def flaky(params: Params) -> float | Failure:
        if after < len(executor.specs) <= after + times:
            return Failure(kind="start_up", cause="the port was taken")
        return surface(params)

    executor._surface = flaky
    return executor


def test_a_baseline_that_fails_once_does_not_end_the_study(
    experiment: dict[str, Any], url: str
) -> None:
    assert launch(experiment, url, failing(1)).state == "finished"
    _, trials, measurements, _ = records(url)
    assert trials[0].samples_per_second is not None
    assert trials[0].failure is None
    assert [m.state for m in measurements if m.role == "baseline"] == ["failed", "finished"]


@pytest.mark.parametrize(("times", "state"), [(9, "finished"), (10, "failed")])
def test_a_machine_is_given_up_when_the_baseline_fails_twice_in_a_row(
    experiment: dict[str, Any], url: str, times: int, state: str
) -> None:
    experiment["budget"] = {"trials": 12}
    outcome = launch(experiment, url, failing(times, after=2))
    assert outcome.state == state, outcome.reason
    checks = [m.state for m in records(url)[2] if m.role == "drift"]
    assert checks[:2] == ["failed", "finished" if state == "finished" else "failed"]


def test_a_machine_that_fails_everything_does_not_go_on_for_ever(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["budget"] = {"trials": 500}
    executor = FakeExecutor(lambda params: Failure(kind="crash", cause="SIGSEGV"))
    assert launch(experiment, url, executor).state == "failed"
    assert len(executor.specs) <= 6, "the baseline twice"


def test_infrastructure_faults_are_run_again_and_cost_no_trial(
    experiment: dict[str, Any], url: str
) -> None:
    faults = iter([Failure(kind="infrastructure", cause="the node went away")])

    def flaky(params: Params) -> float | Failure:
        return next(faults, None) or surface(params)

    executor = FakeExecutor(flaky)
    assert launch(experiment, url, executor).state == "finished"
    _, trials, measurements, _ = records(url)
    assert len(trials) == 8
    assert trials[0].samples_per_second is not None
    assert not trials[0].penalty
    assert sum(m.state == "failed" for m in measurements) == 1


def test_the_spread_of_runs_is_read_anew_only_after_a_run(
    experiment: dict[str, Any], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it takes longer the longer a study is, and several figures of a trial rest on it."""
    read: list[int] = []
    run_spread = Database.run_spread

    def counted(self: Database, study_id: int) -> Any:
        read.append(study_id)
        return run_spread(self, study_id)

    monkeypatch.setattr(Database, "run_spread", counted)
    experiment["noise"] = {"runs": 5, "drift_every": 3}
    launch(experiment, url, FakeExecutor(surface, noise=0.02))
    assert len(read) <= len(records(url)[2]) + 2


def test_outside_the_search_infrastructure_faults_are_run_again_too(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["noise"] = {"runs": 3, "drift_every": 0}
    executor = FakeExecutor(surface)

    def flaky(params: Params) -> float | Failure:
        if len(executor.specs) in (2, 3, 5, 6):  # more than the spare runs of the noise floor
            return Failure(kind="infrastructure", cause="the node went away")
        return surface(params)

    executor._surface = flaky
    assert launch(experiment, url, executor).state == "finished"
    states = [m.state for m in records(url)[2] if m.role == "noise"]
    assert states == ["failed", "failed", "finished"] * 2
    assert records(url)[0].noise["runs"] == 3


def test_an_interrupted_study_goes_on_where_it_was(experiment: dict[str, Any], url: str) -> None:
    signal = StopSignal()
    executor = FakeExecutor(surface)

    def interrupt(spec: TrialSpec) -> None:
        if len(executor.specs) == 3:
            signal.request()

    executor.before = interrupt
    outcome = launch(experiment, url, executor, signal)
    assert outcome.state == "interrupted"
    before = records(url)[1]
    assert len(before) == 4
    again = FakeExecutor(surface)
    assert launch(experiment, url, again).state == "finished"
    after = records(url)[1]
    assert len(after) == 8
    assert [t.params for t in after[:4]] == [t.params for t in before]
    assert len(again.specs) == 4 + 8
    assert len({json.dumps(t.params, sort_keys=True) for t in after}) == 8


def test_a_finished_study_launched_again_measures_nothing(
    experiment: dict[str, Any], url: str
) -> None:
    launch(experiment, url)
    executor = FakeExecutor(surface)
    outcome = launch(experiment, url, executor)
    assert outcome.state == "finished"
    assert executor.specs == []


def test_a_raised_budget_goes_on_with_a_finished_study(
    experiment: dict[str, Any], url: str
) -> None:
    launch(experiment, url)
    experiment["budget"] = {"trials": 11}
    launch(experiment, url)
    assert len(records(url)[1]) == 11


def test_another_experiment_under_the_same_name_is_refused_with_the_difference(
    experiment: dict[str, Any], url: str
) -> None:
    launch(experiment, url)
    experiment["measurement"] = {"min_seconds": 9}
    with pytest.raises(StudyConflict, match=r"measurement\.min_seconds: 3\.0 -> 9\.0"):
        launch(experiment, url)


def test_another_machine_is_refused_with_the_difference(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["budget"] = {"trials": 3}
    launch(experiment, url)
    experiment["budget"] = {"trials": 5}
    other = FakeExecutor(surface)
    other.machine = {"cpu": "another", "cores": 2}
    with pytest.raises(StudyConflict, match="'fake' -> 'another'"):
        launch(experiment, url, other)
    assert other.closed


def test_a_second_driver_is_refused(experiment: dict[str, Any], url: str) -> None:
    executor = FakeExecutor(surface)
    seen: list[str] = []

    def second(spec: TrialSpec) -> None:
        if not seen:
            seen.append("asked")
            with pytest.raises(StudyConflict, match="driven by process"):
                launch(experiment, url)

    executor.before = second
    assert launch(experiment, url, executor).state == "finished"
    assert seen


def test_patience_and_hours_end_a_search(experiment: dict[str, Any], url: str) -> None:
    experiment["budget"] = {"trials": 100, "patience": 3}
    executor = FakeExecutor(lambda params: 10.0)
    launch(experiment, url, executor)
    assert len(records(url)[1]) == 4


def test_every_workload_value_has_its_own_baseline_and_winner(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["vary_workload"] = ["subclip_duration"]
    experiment["budget"] = {"trials": 24}
    launch(experiment, url, FakeExecutor(surface, noise=0.002))
    _, trials, _, verifications = records(url)
    baselines = [t for t in trials if t.origin == "baseline"]
    assert [t.params["subclip_duration"] for t in baselines] == [2.0, 0.5, 1.0, 4.0]
    assert len(verifications) >= 3
    by_number = {t.number: t for t in trials}
    for verification in verifications:
        winner = by_number[verification.trial_number]
        # Compared within one value: the gain is that of threads, never that of less work.
        assert 1.0 < verification.ratio < 1.5
        assert verification.workload == f"subclip_duration={winner.params['subclip_duration']}"


def test_several_finalists_are_chosen_among_by_runs_of_their_own(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["verification"] = {"finalists": 3, "blocks": 4}
    launch(experiment, url, FakeExecutor(surface, noise=0.01))
    _, _, measurements, [verification] = records(url)
    selection = [m for m in measurements if m.role == "selection"]
    # Two blocks of three finalists and the baseline, then two of the better half.
    assert len(selection) == 2 * (3 + 1) + 2 * (2 + 1)
    assert sum(m.arm == "baseline" for m in selection) == 4
    last = max(m.id for m in selection)
    assert all(m.id > last for m in measurements if m.role == "verification")
    assert verification.blocks == 4


def test_a_figure_constraint_makes_a_trial_infeasible_not_failed(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["constraints"] = {"time_to_first_batch": {"max": 0.5}}
    experiment["budget"] = {"trials": 3}
    outcome = launch(experiment, url)
    trials = records(url)[1]
    assert all(t.state == "COMPLETE" and not t.feasible for t in trials)
    assert outcome.state == "failed"
    assert "time_to_first_batch <= 0.5" in outcome.reason


def test_a_dry_run_shows_the_first_trials_and_touches_nothing(
    experiment: dict[str, Any], tmp_path: Path
) -> None:
    before = sorted(p.name for p in tmp_path.iterdir())
    plan = dry_run(Experiment.from_dict(experiment))
    assert plan.first_trials[0][0] == "baseline"
    assert len(plan.first_trials) == 8
    assert plan.space_size is not None
    assert plan.space_size > 8
    assert plan.verification_runs == 8
    assert plan.expected_seconds is not None
    assert plan.expected_seconds > 8 * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_node_that_cannot_measure_is_the_users_input(
    experiment: dict[str, Any], url: str
) -> None:
    executor = FakeExecutor(surface)
    real = executor.start

    def start(probe: Any) -> Any:
        return [
            real(probe)[0].model_copy(
                update={"error": "no GPU: target.device: nvdec needs one", "error_kind": "input"}
            )
        ]

    executor.start = start  # type: ignore[method-assign]
    with pytest.raises(InputError, match="no GPU"):
        launch(experiment, url, executor)
    database = Database.open(url, create=False)
    assert database.studies() == []
    database.close()


def test_the_best_of_another_study_is_measured_after_the_baseline(
    experiment: dict[str, Any], url: str
) -> None:
    launch(experiment, url, name="first")
    _, trials, _, _ = records(url, "first")
    ranked = sorted(trials, key=lambda t: (not t.verified, -t.samples_per_second))
    again = {**experiment, "enqueue_from": "first", "budget": {"trials": 7}}
    launch(again, url, name="second")
    _, found, _, _ = records(url, "second")
    best = [t.params for t in ranked[:5] if t.params != found[0].params]
    assert len(best) >= 4
    assert [t.params for t in found if t.origin == "enqueued"] == best
    assert [t.number for t in found if t.origin == "enqueued"] == [1, 2, 3, 4, 5][: len(best)]
    dry = dry_run(Experiment.from_dict(again), storage=url)
    assert [origin for origin, _ in dry.first_trials[:3]] == ["baseline", "enqueued", "enqueued"]


def test_what_does_not_fit_this_space_is_not_enqueued_and_told(
    experiment: dict[str, Any], url: str
) -> None:
    launch(experiment, url, name="first")
    narrow = {
        **experiment,
        "search_space": {
            "base": "spdl_video",
            "parameters": {
                "num_demux_threads": {"max": 2, "default": 2},
                "num_decode_threads": {"max": 8, "default": 8},
            },
        },
        "enqueue_from": "first",
    }
    launch(narrow, url, name="second")
    _, found, _, _ = records(url, "second")
    assert all(t.params["num_demux_threads"] <= 2 for t in found)


def test_a_study_to_start_from_must_exist(experiment: dict[str, Any], url: str) -> None:
    with pytest.raises(InputError, match="no study 'nothing'"):
        launch({**experiment, "enqueue_from": "nothing"}, url)

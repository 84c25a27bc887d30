"""A study whose trials fail: what is retried, what teaches the sampler, and when it gives up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from autotune.config import Experiment
from autotune.storage import Database
from autotune.study.launching import LaunchOutcome, launch_experiment
from autotune.study.search import BASELINE_RETRIES, CHECK_AFTER
from autotune.trial import Failure, FailureKind, Params
from tests.fakes import FakeExecutor

pytestmark = pytest.mark.long


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'autotune.db'}"


def launch(tmp_path: Path, url: str, executor: FakeExecutor, trials: int) -> LaunchOutcome:
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    (data / "clip.mp4").write_bytes(b"x")
    experiment: dict[str, Any] = {
        "target": {"name": "spdl_video", "data_dir": str(data), "device": "cpu"},
        "search_space": {
            "base": "spdl_video",
            "parameters": {
                "num_demux_threads": {"max": 8},
                "num_decode_threads": {"max": 8, "default": 8},
            },
        },
        "budget": {"trials": trials},
        "noise": {"runs": 0, "drift_every": 0},
        "verification": {"finalists": 0},
        "sampler": "random",
        "executor": {"kind": "local"},
    }
    return launch_experiment(
        Experiment.from_dict(experiment), storage=url, study_name="study", executor=executor
    )


def trials_told(url: str) -> list[optuna.trial.FrozenTrial]:
    with Database.open(url, create=False) as database:
        name = database.get_study("study").optuna_study_name
        return optuna.load_study(storage=database.optuna_storage(), study_name=name).trials


@pytest.mark.parametrize("kind", ["host_out_of_memory", "gpu_out_of_memory", "hang", "crash"])
def test_a_configuration_that_failed_teaches_the_sampler(
    tmp_path: Path, url: str, kind: FailureKind
) -> None:
    def surface(params: Params) -> float | Failure:
        if int(params["num_decode_threads"]) == 8 and int(params["num_demux_threads"]) == 8:
            return 100.0
        return Failure(kind=kind, cause="as told")

    executor = FakeExecutor(surface)
    launch(tmp_path, url, executor, trials=4)
    told = trials_told(url)
    failed = [t for t in told if "autotune:penalty" in t.user_attrs]
    assert len(failed) == 3
    for trial in failed:
        assert trial.state is TrialState.COMPLETE
        assert trial.value == 100.0, "the worst that was measured"
        assert trial.constraints["ran"] > 0
    assert told[0].constraints["ran"] < 0
    # one that failed by itself is not run again
    searched = [s.uuid for s in executor.specs if s.mode == "loader"]
    assert len(searched) == 4


def failing_after(successes: int, baseline_fails: bool) -> FakeExecutor:
    """Everything fails after so many successes; the baseline too, or not."""
    left = {"successes": successes}

    def surface(params: Params) -> float | Failure:
        is_baseline = (params["num_demux_threads"], params["num_decode_threads"]) == (8, 8)
        left["successes"] -= 1
        if left["successes"] >= 0 or (is_baseline and not baseline_fails):
            return 100.0
        return Failure(kind="crash", cause="SIGSEGV")

    return FakeExecutor(surface)


def runs(url: str) -> list[tuple[str, str]]:
    with Database.open(url, create=False) as database:
        study = database.get_study("study")
        return [(m.role, m.state) for m in database.measurements(study.id) if m.role != "ceiling"]


def test_a_machine_that_breaks_later_ends_the_study_with_the_reason(
    tmp_path: Path, url: str
) -> None:
    outcome = launch(tmp_path, url, failing_after(4, baseline_fails=True), trials=500)
    assert outcome.state == "failed"
    assert f"{CHECK_AFTER} trials in a row failed, and then the baseline" in outcome.reason
    assert "crash: SIGSEGV" in outcome.reason
    assert len(runs(url)) <= 4 + CHECK_AFTER + 1 + BASELINE_RETRIES


def test_configurations_that_fail_do_not_end_it_while_the_baseline_runs(
    tmp_path: Path, url: str
) -> None:
    outcome = launch(tmp_path, url, failing_after(4, baseline_fails=False), trials=30)
    assert outcome.state == "finished"
    found = runs(url)
    assert sum(role == "search" for role, _ in found) == 29
    assert found.count(("drift", "finished")) >= 2

"""A driver whose database fails, that is ousted, interrupted or killed: what was measured stays."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import text
from typer.testing import CliRunner

from autotune.cli.app import app
from autotune.exceptions import StorageError, StudyConflict
from autotune.samplers import Proposer
from autotune.storage import Database, Retry
from autotune.study import launching
from autotune.trial import Failure, NodeInfo, Params, ProbeRequest, TrialResult, TrialSpec
from tests.fakes import FakeExecutor, FakeJob
from tests.launches import experiment, launch, records, surface, url

__all__ = ["experiment", "url"]  # fixtures

HURRIED = Retry(attempts=3, first_delay=0.02, disk=True)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that gives its database up after a fraction of a second."""
    monkeypatch.setattr(launching, "PATIENT", HURRIED)


class SlowJob(FakeJob):
    """Ends so many seconds after it began."""

    def __init__(self, spec: TrialSpec, result: TrialResult, seconds: float) -> None:
        super().__init__(spec, result)
        self._end = time.monotonic() + seconds

    def done(self) -> bool:
        return time.monotonic() >= self._end

    def result(self, timeout: float | None = None) -> TrialResult:
        left = self._end - time.monotonic()
        time.sleep(max(0.0, left if timeout is None else min(left, timeout)))
        if not self.done():
            raise TimeoutError
        return super().result()


class SlowExecutor(FakeExecutor):
    """Measurement number ``slow`` (from 0) takes ``seconds``; ``meanwhile`` is called first."""

    def __init__(self, slow: int, seconds: float, meanwhile: Callable[[], object]) -> None:
        super().__init__(surface)
        self._slow, self._seconds, self._meanwhile = slow, seconds, meanwhile

    def submit(self, spec: TrialSpec, node: str | None = None) -> FakeJob:
        job = super().submit(spec, node)
        if spec.mode != "loader" or len(self.specs) - 1 != self._slow:
            return job
        self._meanwhile()
        return SlowJob(spec, job.result(), self._seconds)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("slow", "role"),
    [
        pytest.param(0, "baseline", marks=pytest.mark.long),
        (2, "search"),
        pytest.param(9, "verification", marks=pytest.mark.long),
    ],
)
def test_a_result_in_flight_outlives_a_database_that_is_out(
    experiment: dict[str, Any], url: str, tmp_path: Path, slow: int, role: str
) -> None:
    path, away = tmp_path / "autotune.db", tmp_path / "away.db"
    executor = SlowExecutor(slow, 2.5, lambda: path.rename(away))
    with pytest.raises(StorageError, match="the file is gone"):
        launch(experiment, url, executor)
    last = executor.specs[-1].uuid
    assert len(executor.specs) == slow + 1
    away.rename(path)
    with Database.open(url) as database, database.engine.begin() as connection:
        connection.execute(text("UPDATE autotune_leases SET process_started = 'gone'"))
    again = FakeExecutor(surface)
    assert launch(experiment, url, again).state == "finished"
    _, trials, measurements, _ = records(url)
    assert [m.role for m in measurements if m.uuid == last] == [role]
    assert len([t for t in trials if t.samples_per_second is not None]) == 8
    # 8 trials and 8 runs of the verification, none of them made twice
    assert len(executor.specs) + len(again.specs) == 16
    assert len(measurements) == 16


# ------------------------------------------------------------------ ousted


def test_an_ousted_driver_ends_and_changes_nothing(experiment: dict[str, Any], url: str) -> None:
    """The other driver's study stays as it is, and what this one measured is stored."""
    executor = FakeExecutor(surface)

    def oust(spec: TrialSpec) -> None:
        if len(executor.specs) == 2:
            with Database.open(url) as other, other.engine.begin() as connection:
                connection.execute(text("UPDATE autotune_leases SET owner = 'other'"))
                connection.execute(text("UPDATE autotune_studies SET elapsed_seconds = 100"))

    executor.before = oust
    with pytest.raises(StudyConflict, match="was taken over by process"):
        launch(experiment, url, executor)
    study, trials, measurements, _ = records(url)
    assert (study.state, study.state_reason, study.elapsed_seconds) == ("running", "", 100.0)
    assert [t.state for t in trials] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert measurements[-1].uuid == executor.specs[-1].uuid
    with Database.open(url) as database:
        lease = database.lease(study.id)
        assert lease is not None
        assert lease.owner == "other"


def test_ctrl_c_in_the_middle_is_an_interruption(experiment: dict[str, Any], url: str) -> None:
    executor = FakeExecutor(surface)

    def interrupt(spec: TrialSpec) -> None:
        if len(executor.specs) == 2:
            raise KeyboardInterrupt

    executor.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        launch(experiment, url, executor)
    study = records(url)[0]
    assert (study.state, study.state_reason) == ("interrupted", "interrupted by the user")
    assert launch(experiment, url).state == "finished"


def test_a_database_that_may_not_be_written_is_the_users_input(
    experiment: dict[str, Any], url: str, tmp_path: Path
) -> None:
    Database.open(url).close()
    file = tmp_path / "exp.yaml"
    file.write_text(json.dumps(experiment))
    storage = f"sqlite:///file:{tmp_path / 'autotune.db'}?mode=ro&uri=true"
    done = CliRunner().invoke(app, ["launch", str(file), "--storage", storage])
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"Error: storage {tmp_path / 'autotune.db'}: the database is read-only")
    assert "pass another one with --storage" in line


# ------------------------------------------------------------------ the spool


def test_the_last_result_of_a_study_does_not_stay_in_the_spool(
    experiment: dict[str, Any], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Database.record

    def out_at_the_end(self: Database, *args: Any, **where: Any) -> bool:
        if where.get("block") == 3 and where.get("arm") is not None:
            self.spool_result(*args, **where)
            return False
        return record(self, *args, **where)

    monkeypatch.setattr(Database, "record", out_at_the_end)
    assert launch(experiment, url).state == "finished"
    assert len(records(url)[2]) == 16
    with Database.open(url) as database:
        assert database.spool.waiting == []


def test_a_finished_study_takes_in_what_waits_for_it(experiment: dict[str, Any], url: str) -> None:
    executor = FakeExecutor(surface)
    launch(experiment, url, executor)
    left = executor.submit(executor.specs[0].model_copy(update={"uuid": uuid.uuid4().hex}))
    with Database.open(url) as database:
        study = database.get_study("study")
        database.spool_result(study.id, 0, "drift", left.result())
    again = FakeExecutor(surface)
    assert launch(experiment, url, again).state == "finished"
    assert again.specs == []
    assert [m.role for m in records(url)[2] if m.uuid == left.uuid] == ["drift"]


def test_what_a_dead_driver_left_is_in_order_before_anything_is_probed(
    experiment: dict[str, Any], url: str
) -> None:
    executor = FakeExecutor(surface)
    launch(experiment, url, executor)
    left = executor.submit(executor.specs[0].model_copy(update={"uuid": uuid.uuid4().hex}))
    with Database.open(url) as database:
        study = database.get_study("study")
        database.start_trial(study.id, 7, {})
        database.set_state(study.id, "running")
        database.spool_result(study.id, 7, "search", left.result())
    seen: list[Any] = []

    class Looking(FakeExecutor):
        def start(self, probe: ProbeRequest) -> list[NodeInfo]:
            _, trials, measurements, _ = records(url)
            seen.append(trials[7].state)
            seen.append([m.role for m in measurements if m.uuid == left.uuid])
            return super().start(probe)

    launch(experiment, url, Looking(surface))
    assert seen == ["COMPLETE", ["search"]]


# ------------------------------------------------------------------ killed in between


class Killed(BaseException):
    """Ends the driver where it is raised; what it would have done after is not done."""


def launch_killed(
    experiment: dict[str, Any],
    url: str,
    owner: type,
    name: str,
    call: int,
    executor: FakeExecutor | None = None,
) -> None:
    """A launch that ends at the beginning of the call of this number, from 0."""
    with pytest.MonkeyPatch.context() as patch:
        real, calls = getattr(owner, name), iter(range(1_000_000))

        def method(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == call:
                raise Killed
            return real(*args, **kwargs)

        patch.setattr(owner, name, method)
        with pytest.raises(Killed):
            launch(experiment, url, executor)


def optuna_trials(url: str) -> list[optuna.trial.FrozenTrial]:
    with Database.open(url, create=False) as database:
        name = database.get_study("study").optuna_study_name
        return optuna.load_study(storage=database.optuna_storage(), study_name=name).trials


def test_a_driver_killed_before_trial_0_began_can_be_resumed(
    experiment: dict[str, Any], url: str
) -> None:
    launch_killed(experiment, url, Database, "start_trial", 0)
    assert records(url)[1] == []
    assert [t.number for t in optuna_trials(url)] == [0]
    assert launch(experiment, url).state == "finished"
    _, trials, _, verifications = records(url)
    assert [t.number for t in trials] == list(range(9))
    assert (trials[0].state, trials[0].origin) == ("FAIL", "baseline")
    assert trials[0].failure.kind == "infrastructure"
    assert trials[1].origin == "baseline"
    assert trials[0].params == trials[1].params
    assert verifications[0].baseline_number in (0, 1)
    assert launch(experiment, url).state == "finished"


def test_optuna_learns_late_what_a_killed_driver_did_not_tell(
    experiment: dict[str, Any], url: str
) -> None:
    def broken(params: Params) -> float | Failure:
        if params["num_demux_threads"] == 3:
            return Failure(kind="crash", cause="SIGSEGV")
        return surface(params)

    experiment["constraints"] = {"time_to_first_batch": {"max": 5.0}}
    experiment["enqueue"] = [{"num_demux_threads": 2}, {"num_demux_threads": 3}]
    launch_killed(experiment, url, Proposer, "tell", 1, FakeExecutor(broken))
    assert optuna_trials(url)[1].state is TrialState.RUNNING
    # The resumed launch tells the first late, in call 0, then what it measured itself.
    launch_killed(experiment, url, Proposer, "tell", 1, FakeExecutor(broken))
    assert optuna_trials(url)[2].state is TrialState.RUNNING
    launch(experiment, url, FakeExecutor(broken))
    measured = {t.number: t for t in records(url)[1]}
    told = {t.number: t for t in optuna_trials(url)}
    assert told[1].state is TrialState.COMPLETE
    assert told[1].value == measured[1].samples_per_second
    assert told[1].constraints.keys() == told[4].constraints.keys()
    assert all(excess < 0 for excess in told[1].constraints.values())
    assert "autotune:penalty" in told[2].user_attrs

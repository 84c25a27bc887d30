"""One driver a study; a dead driver's study can be resumed at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import cast

import pytest
from sqlalchemy import text

from autotune.exceptions import InputError, StorageError, StudyConflict
from autotune.storage import Database, StudyRecord, leases
from autotune.storage.leases import process_started
from autotune.trial import Contamination, TrialResult

DRIVER = """
import sys, time
from autotune.storage import Database
database = Database.open(sys.argv[1])
study = database.get_study("kinetics")
database.acquire_lease(study.id, "other driver", ttl=600)
database.start_trial(study.id, 4, {"num_demux_threads": 3})
print("ready", flush=True)
time.sleep(600)
"""


def _move_elsewhere(database: Database) -> None:
    """Make the holder a process of another container: its pid means nothing here, not even one
    that does not exist."""
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE autotune_leases SET host_key = 'elsewhere', pid = 4194304"))


def _age(database: Database, seconds: float) -> None:
    with database.engine.begin() as connection:
        connection.execute(
            text("UPDATE autotune_leases SET renewed_at = renewed_at - :s"), {"s": seconds}
        )


def test_a_second_driver_is_refused_and_a_killed_one_taken_over(
    url: str, database: Database, study: StudyRecord
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, url], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert database.is_driven(study.id)
        with pytest.raises(StudyConflict) as caught:
            database.acquire_lease(study.id, "me")
        assert f"process {process.pid} on {os.uname().nodename}" in str(caught.value)
        assert f"kill -INT {process.pid}" in str(caught.value)
        process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while process_started(process.pid) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        # Killed and not even reaped, long before its 600 s are over.
        assert not database.is_driven(study.id)
        before = database.acquire_lease(study.id, "me")
        assert before is not None
        assert (before.owner, before.pid) == ("other driver", process.pid)
        assert database.clear_running(study.id) == [4]
        [trial] = database.trials(study.id)
        assert trial.state == "FAIL"
        assert trial.failure is not None
        assert (trial.failure.kind, trial.failure.cause) == (
            "infrastructure",
            "the driver ended while this trial ran",
        )
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_reused_pid_is_not_the_driver(database: Database, study: StudyRecord) -> None:
    database.acquire_lease(study.id, "first", ttl=600)
    with pytest.raises(StudyConflict):
        database.acquire_lease(study.id, "second")
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE autotune_leases SET process_started = '1'"))
    assert database.acquire_lease(study.id, "second") is not None


def test_a_living_driver_here_keeps_its_study_whatever_the_clocks_say(
    database: Database, study: StudyRecord
) -> None:
    database.acquire_lease(study.id, "first", ttl=0.1)
    # As after a step of the clock, forth or back, or where the database was out for a day.
    for seconds in (86_400, -2 * 86_400):
        _age(database, seconds)
        assert database.is_driven(study.id)
        with pytest.raises(StudyConflict, match="is being driven by process"):
            database.acquire_lease(study.id, "second")


def test_a_launch_of_this_process_that_ended_without_a_word_is_noticed(
    database: Database, study: StudyRecord
) -> None:
    # Its process lives, as in a notebook, but nothing renews the lease.
    database.acquire_lease(study.id, "first", ttl=0.3)
    before = database.acquire_lease(study.id, "second", ttl=0.3, patience=0.3)
    assert before is not None
    assert before.owner == "first"


def test_a_driver_elsewhere_is_never_judged_by_a_clock(
    database: Database, study: StudyRecord
) -> None:
    database.acquire_lease(study.id, "first", ttl=0.1)
    _move_elsewhere(database)
    for seconds in (86_400, -2 * 86_400):
        _age(database, seconds)
        with pytest.raises(StudyConflict):
            database.acquire_lease(study.id, "second")
    before = database.acquire_lease(study.id, "second", patience=0.1)
    assert before is not None
    assert before.owner == "first"


def test_a_driver_elsewhere_whose_clock_is_another_is_seen_to_live(
    database: Database, study: StudyRecord
) -> None:
    database.acquire_lease(study.id, "first", ttl=600)
    _move_elsewhere(database)
    assert database.is_driven(study.id)
    _age(database, 3600)
    assert not database.is_driven(study.id)
    if database.address.path is None:
        return  # a server's clock is one for all
    ended = threading.Event()

    def renew() -> None:  # by a clock that is an hour behind
        with Database.open(database.address.url.render_as_string(False)) as own:
            while not ended.wait(0.2):
                _age(own, -0.2)

    driver = threading.Thread(target=renew)
    driver.start()
    try:
        assert database.is_driven(study.id)
    finally:
        ended.set()
        driver.join()


def test_a_driver_that_was_taken_over_is_told_and_writes_nothing(
    database: Database, study: StudyRecord
) -> None:
    database.acquire_lease(study.id, "first", ttl=0.1)
    database.renew_lease(study.id, "first")
    _move_elsewhere(database)
    database.acquire_lease(study.id, "second", patience=0.1)
    database.request_stop("kinetics")
    with pytest.raises(StudyConflict, match="was taken over by process"):
        database.renew_lease(study.id, "first")
    with pytest.raises(StudyConflict, match="was taken over by process"):
        database.end_launch(study.id, "first", "failed", "it was ousted", 100.0)
    database.release_lease(study.id, "first")  # not its own any more: nothing happens
    lease = database.lease(study.id)
    assert lease is not None
    assert lease.owner == "second"
    now = database.get_study("kinetics")
    assert (now.state, now.state_reason, now.elapsed_seconds) == ("running", "", 0.0)
    assert database.stop_requested(study.id)
    database.end_launch(study.id, "second", "stopped", "as asked", 7.0)
    now = database.get_study("kinetics")
    assert (now.state, now.state_reason, now.elapsed_seconds) == ("stopped", "as asked", 7.0)
    assert not database.stop_requested(study.id)
    assert database.lease(study.id) is None
    assert database.acquire_lease(study.id, "third") is None


def test_renewing_goes_on_whatever_goes_wrong(
    database: Database, study: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [
        InputError("the file cannot be opened"),
        StorageError("the disk is full"),
        RuntimeError("whatever"),
    ]
    renewed = threading.Event()

    class Failing:
        def renew_lease(self, study_id: int, owner: str) -> None:
            if errors:
                raise errors.pop()
            renewed.set()

    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.01)
    heartbeat = leases.Heartbeat(cast(Database, Failing()), study.id, "me")
    heartbeat.start()
    try:
        assert renewed.wait(30)
    finally:
        heartbeat.stop()


def test_of_many_drivers_at_once_one_gets_the_study(
    url: str, database: Database, study: StudyRecord
) -> None:
    won: list[str] = []
    refused: list[str] = []
    start = threading.Barrier(4)

    def drive(owner: str) -> None:
        with Database.open(url) as own:
            start.wait()
            try:
                own.acquire_lease(study.id, owner)
                won.append(owner)
            except StudyConflict:
                refused.append(owner)

    threads = [threading.Thread(target=drive, args=(f"driver {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(won) == 1
    assert len(refused) == 3
    lease = database.lease(study.id)
    assert lease is not None
    assert lease.owner == won[0]


def test_a_trial_measured_before_the_driver_died_is_complete(
    database: Database, study: StudyRecord, make_result: Callable[..., TrialResult]
) -> None:
    database.start_trial(study.id, 0, {})
    database.record(study.id, 0, "search", make_result(100.0))
    database.start_trial(study.id, 1, {})
    assert database.clear_running(study.id) == [0, 1]
    first, second = database.trials(study.id)
    assert (first.state, first.samples_per_second) == ("COMPLETE", 100.0)
    assert (second.state, second.samples_per_second) == ("FAIL", None)
    assert database.clear_running(study.id) == []


def test_of_runs_that_a_killed_driver_repeated_the_least_disturbed_is_kept(
    database: Database, study: StudyRecord, make_result: Callable[..., TrialResult]
) -> None:
    def run(rate: float, lost: float) -> TrialResult:
        causes = ["another program"] if lost else []
        return make_result(
            rate, contamination=Contamination(marked=lost > 0, lost=lost, causes=causes)
        )

    database.start_trial(study.id, 0, {})
    database.record(study.id, 0, "baseline", run(100.0, 0.0))
    database.finish_trial(study.id, 0, "COMPLETE")
    # Two runs of the noise floor: the first was settled, the second was not.
    settled = [run(40.0, 0.6), run(99.0, 0.0)]
    database.record(study.id, 0, "noise", settled[0])
    database.record(study.id, 0, "noise", settled[1], attempt=1)
    database.supersede([settled[0].uuid])
    database.record(study.id, 0, "noise", run(60.0, 0.4))
    database.record(study.id, 0, "noise", run(101.0, 0.0), attempt=1)
    database.start_trial(study.id, 1, {"num_demux_threads": 3})
    database.record(study.id, 1, "search", run(120.0, 0.1))
    database.record(study.id, 1, "search", run(60.0, 0.5), attempt=1)
    # Killed before it said which one is kept.
    assert database.clear_running(study.id) == [1]
    current = [m.samples_per_second for m in database.measurements(study.id) if not m.superseded]
    assert current == [100.0, 99.0, 101.0, 120.0]
    assert database.trial(study.id, 1).samples_per_second == 120.0
    assert database.clear_running(study.id) == []


def test_constraints_on_figures_are_checked_for_such_a_trial(
    database: Database,
    make_study: Callable[..., StudyRecord],
    make_result: Callable[..., TrialResult],
) -> None:
    limited = make_study("limited", experiment={"constraints": {"cpu_percent": {"max": 10}}})
    for number in (0, 1):
        database.start_trial(limited.id, number, {})
        database.record(limited.id, number, "search", make_result())
        if number == 0:
            assert database.clear_running(limited.id) == [0]
        else:
            broken = database.clear_running(
                limited.id,
                lambda m: ["cpu_percent <= 10"] if (m.cpu_percent or 0) > 10 else [],
            )
            assert broken == [1]
    unchecked, checked = database.trials(limited.id)
    assert unchecked.state == "FAIL"
    assert (checked.state, checked.feasible, checked.violated) == (
        "COMPLETE",
        False,
        ["cpu_percent <= 10"],
    )


def test_a_stop_is_asked_for_seen_and_handled(database: Database, study: StudyRecord) -> None:
    assert not database.stop_requested(study.id)
    assert database.request_stop("kinetics")
    assert database.stop_requested(study.id)
    database.clear_requests(study.id)
    assert not database.stop_requested(study.id)
    database.set_state(study.id, "finished", "budget used")
    assert not database.request_stop("kinetics")
    assert not database.stop_requested(study.id)
    with pytest.raises(InputError, match="did you mean 'kinetics'"):
        database.request_stop("kinetiks")

"""One driver a study; a dead driver's study can be resumed at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import text

from autotune.exceptions import InputError, StudyConflict
from autotune.storage import Database, StudyRecord
from autotune.storage.leases import process_started
from autotune.trial import TrialResult

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


def test_a_driver_elsewhere_is_judged_by_its_last_renewal(
    database: Database, study: StudyRecord
) -> None:
    database.acquire_lease(study.id, "first", ttl=30)
    with database.engine.begin() as connection:
        # Another container: its pids mean nothing here, not even ones that do not exist.
        connection.execute(text("UPDATE autotune_leases SET host_key = 'elsewhere', pid = 4194304"))
    _age(database, 25)
    with pytest.raises(StudyConflict, match=r"seen 2[56] s ago"):
        database.acquire_lease(study.id, "second")
    _age(database, 10)
    assert not database.is_driven(study.id)
    assert database.acquire_lease(study.id, "second") is not None


def test_a_driver_that_was_taken_over_is_told(database: Database, study: StudyRecord) -> None:
    database.acquire_lease(study.id, "first")
    database.renew_lease(study.id, "first")
    _age(database, 100)
    database.acquire_lease(study.id, "second")
    with pytest.raises(StudyConflict, match="was taken over by process"):
        database.renew_lease(study.id, "first")
    database.release_lease(study.id, "first")  # not its own any more: nothing happens
    lease = database.lease(study.id)
    assert lease is not None
    assert lease.owner == "second"
    database.release_lease(study.id, "second")
    assert database.lease(study.id) is None
    assert database.acquire_lease(study.id, "third") is None


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

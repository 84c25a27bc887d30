"""A database that is locked, gone, full or taken: nothing measured is lost."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from sqlalchemy import text

from autotune.exceptions import StorageError, StudyConflict
from autotune.storage import Database, Retry, StudyRecord
from autotune.storage.leases import LEASE_SECONDS, Heartbeat
from autotune.trial import TrialResult
from tests.fakes import measurement

pytestmark = pytest.mark.long

PATIENT = Retry(attempts=1000, first_delay=0.02, longest_delay=0.05, seconds=20.0, disk=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with Database.open(f"sqlite:///{path}?timeout=0.05", retry=PATIENT) as opened:
        yield opened


@pytest.fixture
def study(database: Database) -> StudyRecord:
    return database.create_study(
        "kinetics",
        target="spdl_video",
        experiment={},
        identity={},
        space={"target": "spdl_video", "parameters": {}},
        baseline={},
        dataset_samples=1,
    )


def result(uuid: str) -> TrialResult:
    return TrialResult(uuid=uuid, state="finished", measurement=measurement(100.0))


def in_thread(action: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(action()))
    thread.start()
    return thread, answers


def test_a_locked_database_is_waited_for_by_us_and_by_optuna(
    path: Path, database: Database, study: StudyRecord
) -> None:
    optuna_study = optuna.create_study(storage=database.optuna_storage(), study_name="o")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ours, recorded = in_thread(lambda: database.record(study.id, None, "search", result("a" * 32)))
    theirs, asked = in_thread(lambda: optuna_study.ask().number)
    time.sleep(0.5)
    assert (recorded, asked) == ([], [])
    other.execute("ROLLBACK")
    other.close()
    ours.join(30)
    theirs.join(30)
    assert (recorded, asked) == ([True], [0])
    assert [m.uuid for m in database.measurements(study.id)] == ["a" * 32]


def test_a_database_that_is_gone_is_waited_for_and_not_made_anew(
    path: Path, database: Database, study: StudyRecord
) -> None:
    away = path.with_suffix(".away")
    path.rename(away)
    thread, recorded = in_thread(
        lambda: database.record(study.id, None, "search", result("b" * 32))
    )
    reading, read = in_thread(lambda: database.get_study("kinetics").uuid)
    time.sleep(0.5)
    assert not path.exists()
    assert (recorded, read) == ([], [])
    away.rename(path)
    thread.join(30)
    reading.join(30)
    assert (recorded, read) == ([True], [study.uuid])


def test_what_cannot_be_written_waits_on_disk_and_is_written_once(
    path: Path, study: StudyRecord, tmp_path: Path
) -> None:
    away = path.with_suffix(".away")
    hurried = Retry(attempts=2, first_delay=0.01, disk=True)
    with Database.open(f"sqlite:///{path}", retry=hurried) as driver:
        path.rename(away)
        assert not driver.record(study.id, None, "search", result("c" * 32))
        with pytest.raises(StorageError, match="the file is gone while starting trial 1"):
            driver.start_trial(study.id, 1, {})
    away.rename(path)
    with Database.open(f"sqlite:///{path}") as driver:
        assert driver.flush_spool() == 1
        assert driver.flush_spool() == 0
        assert [m.uuid for m in driver.measurements(study.id)] == ["c" * 32]


# ------------------------------------------------------------------ the lease


def move_elsewhere(database: Database) -> None:
    """Make the holder a process of another machine."""
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE autotune_leases SET host_key = 'elsewhere', pid = 4194304"))


def test_a_dead_driver_elsewhere_is_found_out_by_watching(
    database: Database, study: StudyRecord
) -> None:
    database.acquire_lease(study.id, "first", ttl=1.0)
    move_elsewhere(database)
    with pytest.raises(StudyConflict):
        database.acquire_lease(study.id, "second", ttl=1.0)
    taken = database.acquire_lease(study.id, "second", ttl=1.0, patience=1.0)
    assert taken is not None
    assert taken.owner == "first"


def test_a_living_driver_elsewhere_keeps_its_study(database: Database, study: StudyRecord) -> None:
    database.acquire_lease(study.id, "first", ttl=3.0)
    move_elsewhere(database)
    heartbeat = Heartbeat(database, study.id, "first")
    heartbeat.start()
    try:
        with pytest.raises(StudyConflict, match="is being driven by"):
            database.acquire_lease(study.id, "second", ttl=3.0, patience=3.0)
    finally:
        heartbeat.stop()


def test_a_dead_driver_elsewhere_is_found_out_within_ten_seconds(
    database: Database, study: StudyRecord
) -> None:
    database.acquire_lease(study.id, "first")
    move_elsewhere(database)
    with database.engine.begin() as connection:  # its clock was an hour ahead
        connection.execute(text("UPDATE autotune_leases SET renewed_at = renewed_at + 3600"))
    began = time.monotonic()
    assert database.acquire_lease(study.id, "second", patience=LEASE_SECONDS) is not None
    assert time.monotonic() - began < 10.0


def test_a_driver_elsewhere_does_not_lose_its_study_while_nobody_can_write(
    path: Path, database: Database, study: StudyRecord
) -> None:
    database.acquire_lease(study.id, "first", ttl=3.0)
    move_elsewhere(database)

    def take_over() -> str:
        with pytest.raises(StudyConflict) as refused:
            database.acquire_lease(study.id, "second", ttl=3.0, patience=3.0)
        return str(refused.value)

    second, answers = in_thread(take_over)
    time.sleep(0.7)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    time.sleep(5.0)
    other.execute("ROLLBACK")
    other.close()
    # It could not renew its lease for longer than the ttl; now it can.
    time.sleep(1.0)
    database.renew_lease(study.id, "first")
    second.join(30)
    assert len(answers) == 1


# ------------------------------------------------------------------ what errors are told as


def test_a_whole_read_is_tried_again(path: Path, database: Database, study: StudyRecord) -> None:
    # Exclusive locking keeps readers off as well, from their first SELECT on.
    database.engine.dispose()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE autotune_studies SET state_reason = 'seen'")
    other.execute("COMMIT")
    reading, read = in_thread(lambda: database.get_study("kinetics").state_reason)
    time.sleep(0.5)
    assert read == []
    other.close()
    reading.join(30)
    assert read == ["seen"]


def test_what_optuna_cannot_write_is_told_as_what_we_cannot(path: Path, study: StudyRecord) -> None:
    hurried = Retry(attempts=2, first_delay=0.01)
    with Database.open(f"sqlite:///{path}?timeout=0.05", retry=hurried) as driver:
        optuna_study = optuna.create_study(storage=driver.optuna_storage(), study_name="o")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="another process kept the database locked"):
            optuna_study.ask()
        other.execute("ROLLBACK")
        other.close()
        assert optuna_study.ask().number == 0


def test_a_database_that_is_locked_while_it_is_made_is_told(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StorageError, match="another process kept the database locked"):
            Database.open(f"sqlite:///{path}?timeout=0.05", retry=Retry(attempts=1))
    finally:
        other.close()

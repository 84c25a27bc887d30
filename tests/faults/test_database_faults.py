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
from autotune.storage.leases import Heartbeat
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


def test_a_clock_that_was_set_back_frees_a_dead_drivers_study(
    database: Database, study: StudyRecord
) -> None:
    database.acquire_lease(study.id, "first", ttl=9.0)
    move_elsewhere(database)
    with database.engine.begin() as connection:  # renewed an hour from now
        connection.execute(text("UPDATE autotune_leases SET renewed_at = renewed_at + 3600"))
    assert not database.is_driven(study.id)
    assert database.acquire_lease(study.id, "second") is not None

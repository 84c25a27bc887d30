"""What the database does not take waits on disk: nothing lost, nothing doubled."""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from autotune.exceptions import StorageError
from autotune.storage import Database, Retry, StudyRecord
from autotune.storage.address import Address
from autotune.storage.spool import Fate, Spool
from autotune.trial import TrialResult

MakeResult = Callable[..., TrialResult]


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[Database, Callable[[], object]]]:
    """An SQLite database that gives up at once, and a lock that another process holds."""
    path = tmp_path / "study.db"
    with Database.open(
        f"sqlite:///{path}?timeout=0.02", retry=Retry(attempts=2, first_delay=0.01)
    ) as database:

        @contextmanager
        def lock() -> Iterator[None]:
            holder = sqlite3.connect(path, isolation_level=None)
            holder.execute("BEGIN IMMEDIATE")
            yield
            holder.execute("ROLLBACK")
            holder.close()

        yield database, lock


def _study(database: Database) -> StudyRecord:
    study = database.create_study(
        "s",
        target="t",
        experiment={},
        identity={},
        space={"target": "t", "parameters": {"n": {"min": 1, "max": 2, "default": 1}}},
        baseline={},
    )
    database.start_trial(study.id, 0, {"n": 1})
    return study


def test_a_waiting_result_is_written_after_the_next_one(
    locked: tuple[Database, Callable[[], object]], make_result: MakeResult
) -> None:
    database, lock = locked
    study = _study(database)
    first, second = make_result(within_high=math.inf), make_result()
    with lock():  # type: ignore[attr-defined]
        assert not database.record(
            study.id, 0, "verification", first, block=2, arm="candidate", machine={"cpu": "x"}
        )
    assert database.record(study.id, 0, "search", second)
    assert database.spool.waiting == []
    stored = {m.uuid: m for m in database.measurements(study.id)}
    assert stored.keys() == {first.uuid, second.uuid}
    found = stored[first.uuid]
    assert (found.role, found.block, found.arm) == ("verification", 2, "candidate")
    assert found.machine is not None
    assert database.windows(found.id) == first.windows


def test_a_result_that_waits_and_was_written_is_not_doubled(
    locked: tuple[Database, Callable[[], object]], make_result: MakeResult
) -> None:
    database, lock = locked
    study = _study(database)
    result = make_result()
    with lock():  # type: ignore[attr-defined]
        database.record(study.id, 0, "search", result)
        database.record(study.id, 0, "search", result)
    # A driver killed between writing the database and clearing the file.
    kept = database.spool.waiting[0].read_bytes()
    assert database.flush_spool() == 2
    path = database.spool._paths[0]
    path.write_bytes(kept)
    database.flush_spool()
    assert len(database.measurements(study.id)) == 1


def test_another_process_of_the_same_database_finds_what_waits(
    locked: tuple[Database, Callable[[], object]], make_result: MakeResult
) -> None:
    database, lock = locked
    study = _study(database)
    with lock():  # type: ignore[attr-defined]
        database.record(study.id, 0, "search", make_result())
    with Database.open(f"sqlite:///{database.address.path}") as later:
        assert later.flush_spool() == 1
        assert len(later.measurements(study.id)) == 1


def test_a_torn_line_is_set_aside_once_and_swallows_nothing(
    locked: tuple[Database, Callable[[], object]],
    make_result: MakeResult,
    caplog: pytest.LogCaptureFixture,
) -> None:
    database, lock = locked
    study = _study(database)
    path = database.spool._paths[0]
    path.write_bytes(b'{"study_id": 1, "resu')
    with lock():  # type: ignore[attr-defined]
        database.record(study.id, 0, "search", make_result())
    assert database.flush_spool() == 1
    aside = path.with_name(f"{path.name}.bad")
    assert aside.read_bytes() == b'{"study_id": 1, "resu\n'
    assert caplog.text.count(str(aside)) == 1
    assert database.spool.waiting == []
    assert database.record(study.id, 0, "search", make_result())
    assert caplog.text.count(str(aside)) == 1


def test_a_result_of_a_database_made_anew_is_not_given_to_another_study(
    locked: tuple[Database, Callable[[], object]], make_result: MakeResult, tmp_path: Path
) -> None:
    database, lock = locked
    study = _study(database)
    database.record(study.id, 0, "search", make_result())
    with lock():  # type: ignore[attr-defined]
        database.record(study.id, 0, "search", make_result())
    with database.engine.begin() as connection:
        connection.execute(text("DELETE FROM autotune_studies"))
    again = _study(database)
    assert again.id == study.id
    assert database.flush_spool() == 0
    assert database.measurements(again.id) == []
    assert database.spool.waiting == []
    assert list(tmp_path.glob("*-spool.jsonl.bad"))


def test_a_waiting_result_that_a_repeat_superseded_counts_nowhere(
    locked: tuple[Database, Callable[[], object]], make_result: MakeResult
) -> None:
    database, lock = locked
    study = _study(database)
    disturbed, kept = make_result(50.0), make_result(100.0)
    with lock():  # type: ignore[attr-defined]
        database.record(study.id, 0, "search", disturbed)
        database.record(study.id, 0, "search", kept, attempt=1)
    database.supersede([disturbed.uuid])
    database.finish_trial(study.id, 0, "COMPLETE")
    assert database.flush_spool() == 2
    superseded = {m.uuid: m.superseded for m in database.measurements(study.id)}
    assert superseded == {disturbed.uuid: True, kept.uuid: False}
    assert database.trial(study.id, 0).samples_per_second == 100.0


def test_a_result_kept_without_asking_the_database_is_written_later(
    locked: tuple[Database, Callable[[], object]], make_result: MakeResult
) -> None:
    database, _ = locked
    study = _study(database)
    result = make_result()
    database.spool_result(study.id, 0, "search", result, attempt=2, machine={"cpu": "x"})
    assert database.measurements(study.id) == []
    assert database.flush_spool() == 1
    [found] = database.measurements(study.id)
    assert (found.uuid, found.role, found.attempt) == (result.uuid, "search", 2)


def test_the_state_directory_is_the_second_place(tmp_path: Path) -> None:
    spool = Spool(Address.parse(f"sqlite:///{tmp_path / 'study.db'}"))
    (tmp_path / "study.db-spool.jsonl").mkdir()
    path = spool.append({"a": 1})
    assert path.is_relative_to(os.environ["XDG_STATE_HOME"])
    taken: list[dict[str, object]] = []

    def take(document: dict[str, object]) -> Fate:
        taken.append(document)
        return Fate.WRITTEN

    assert spool.drain(take) == (1, 0, [])
    assert taken == [{"a": 1}]


def test_a_result_that_cannot_be_kept_anywhere_is_told(
    locked: tuple[Database, Callable[[], object]],
    make_result: MakeResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database, lock = locked
    study = _study(database)
    (tmp_path / "study.db-spool.jsonl").mkdir()
    (tmp_path / "state").write_text("a file")
    with lock(), pytest.raises(StorageError, match="could not be kept on disk either"):  # type: ignore[attr-defined]
        database.record(study.id, 0, "search", make_result())


def test_a_server_that_went_away_and_came_back(
    database: Database, study: StudyRecord, make_result: MakeResult
) -> None:
    if database.address.path is not None:
        pytest.skip("SQLite has no server")
    database.start_trial(study.id, 0, {})
    admin = create_engine(os.environ["AUTOTUNE_TEST_POSTGRES"], isolation_level="AUTOCOMMIT")
    name = database.address.url.database
    with admin.connect() as connection:
        ended = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :n")
        connection.execute(ended, {"n": name})
        # Every connection is gone; the next write makes a new one.
        assert database.record(study.id, 0, "search", make_result())
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        connection.execute(ended, {"n": name})
        assert not database.record(study.id, 0, "search", make_result())
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    admin.dispose()
    assert database.flush_spool() == 1
    assert len(database.measurements(study.id)) == 2

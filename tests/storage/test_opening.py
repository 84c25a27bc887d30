"""Opening a database: each thing that can be wrong is told in one message, without the password."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import make_url

from autotune.exceptions import AutotuneError, InputError, StorageError, UnsupportedError
from autotune.storage import Database, Retry, StudyRecord
from autotune.storage import connection as connection_module
from autotune.storage.address import Address
from autotune.trial import TrialResult


def _refused(url: str, kind: type[AutotuneError] = InputError, **options: bool) -> str:
    with pytest.raises(kind) as caught:
        Database.open(url, retry=Retry(attempts=1), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("study.db", "sqlite:///"),
        ("", "not a database URL"),
        ("mysql://root:s3cret@host/db", "'mysql' is not supported"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file:x?mode=memory&uri=true", "in memory"),
        ("postgresql://u:s3cret@host:port/db", "port"),
    ],
)
def test_addresses_that_are_none(url: str, says: str) -> None:
    message = _refused(url)
    assert says in message
    assert "s3cret" not in message


def test_a_missing_file_is_no_new_database_for_a_query(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    message = _refused(f"sqlite:///{path}", create=False)
    assert f"no database {path}; launch a study first or pass --storage" in message
    assert not path.exists()


def test_a_missing_directory(tmp_path: Path) -> None:
    message = _refused(f"sqlite:///{tmp_path}/none/x.db")
    assert f"the directory {tmp_path}/none does not exist" in message


def test_a_directory(tmp_path: Path) -> None:
    assert "this is a directory" in _refused(f"sqlite:///{tmp_path}")


@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_no_database(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"\x00\x00\x00\x20ftypisom" * 100)
    before = path.read_bytes()
    assert "is not an SQLite database" in _refused(f"sqlite:///{path}", create=create)
    assert path.read_bytes() == before


def test_a_database_of_somebody_else_is_no_study_database(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    assert "holds no autotune studies" in _refused(f"sqlite:///{path}", create=False)


def test_a_read_only_database_is_read_but_not_written(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    Database.open(f"sqlite:///{path}").close()
    url = f"sqlite:///file:{path}?mode=ro&uri=true"
    with Database.open(url, create=False) as database:
        assert database.studies() == []
        with pytest.raises(StorageError, match=r"read-only; make the file"):
            database.create_study(
                "x", target="t", experiment={}, identity={}, space={}, baseline={}
            )


def test_a_server_that_does_not_answer() -> None:
    pytest.importorskip("psycopg")
    message = _refused("postgresql+psycopg://me:s3cret@127.0.0.1:1/studies?options=s3cret")
    assert "127.0.0.1:1 does not answer" in message
    assert "check that it runs, the host, the port" in message
    assert "s3cret" not in message


def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    message = _refused("postgresql+psycopg://me:s3cret@h/studies", UnsupportedError)
    assert "pip install 'psycopg[binary]'" in message
    assert "s3cret" not in message


def test_the_url_is_absolute_and_shown_without_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    address = Address.parse("sqlite:///autotune.db")
    assert address.shown == str(tmp_path / "autotune.db")
    assert address.url.database == str(tmp_path / "autotune.db")
    server = Address.parse("postgresql://me:s3cret@h:5433/studies?password=s3cret")
    assert "s3cret" not in server.shown + server.key + server.place
    assert server.place == "h:5433"
    assert server.url.drivername == "postgresql+psycopg"
    # The password is there for those who connect, Optuna included.
    assert make_url("postgresql://me:s3cret@h/db").password == server.url.password


def test_sqlite_keeps_a_log_ahead_so_that_readers_do_not_block(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    with Database.open(url) as database, database.engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert connection.scalar(text("PRAGMA busy_timeout")) >= 5000


def test_a_measurement_alone_waits_for_the_disk(
    tmp_path: Path, make_result: Callable[..., TrialResult]
) -> None:
    normal, full = 1, 2
    seen: list[int] = []
    with Database.open(f"sqlite:///{tmp_path / 's.db'}") as database:

        @event.listens_for(database.engine, "commit")
        def look(connection: Connection) -> None:
            seen.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())

        study = database.create_study(
            "x", target="t", experiment={}, identity={}, space={}, baseline={}
        )
        database.record(study.id, None, "search", make_result())
        database.set_state(study.id, "finished")
        database.spool_result(study.id, None, "search", make_result())
        database.flush_spool()
        assert seen == [normal, full, normal, full]
        with database.optuna_storage().engine.connect() as connection:
            assert connection.scalar(text("PRAGMA synchronous")) == normal


def test_without_a_log_ahead_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    Database.open(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    with Database.open(f"sqlite:///{path}") as database:
        for engine in (database.engine, database.optuna_storage().engine):
            with engine.connect() as opened:
                assert opened.scalar(text("PRAGMA journal_mode")) == "delete"
                assert opened.scalar(text("PRAGMA synchronous")) == 2


def test_the_log_is_cut_back_after_a_long_reader_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "LOG_BYTES", 2**20)
    path = tmp_path / "s.db"
    log = path.with_name("s.db-wal")

    def create(name: str, size: int) -> None:
        database.create_study(
            name,
            target="t",
            experiment={"text": "x" * size},
            identity={},
            space={},
            baseline={},
        )

    with Database.open(f"sqlite:///{path}") as database:
        create("first", 1)
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM autotune_studies").fetchone()
        create("large", 6_000_000)
        assert log.stat().st_size > 6_000_000
        reader.execute("ROLLBACK")
        reader.close()
        create("second", 1)  # checkpoints the log
        create("third", 1)  # begins it anew
        assert log.stat().st_size <= 2**20


def test_a_launch_finds_out_at_once_that_it_may_not_write(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    Database.open(f"sqlite:///{path}").close()
    patient = Retry(attempts=1000, disk=True)
    with pytest.raises(InputError, match=r"read-only; make the file"):
        Database.open(f"sqlite:///file:{path}?mode=ro&uri=true", writable=True, retry=patient)


def test_a_locked_database_is_told_after_retries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.db"
    url = f"sqlite:///{path}?timeout=0.05"
    with Database.open(url, retry=Retry(attempts=3, first_delay=0.01)) as database:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="another process kept the database locked"):
            database.create_study(
                "x", target="t", experiment={}, identity={}, space={}, baseline={}
            )
        assert caplog.text.count("trying again") == 2
        # A reader is not in the way of a writer, nor the writer in its.
        assert database.studies() == []
        holder.execute("ROLLBACK")
        holder.close()
        database.create_study("x", target="t", experiment={}, identity={}, space={}, baseline={})
        assert [study.name for study in database.studies()] == ["x"]


def test_a_full_disk_is_told_and_nothing_is_left_half_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Database.open(f"sqlite:///{tmp_path / 's.db'}") as database:
        _limit(database)
        with pytest.raises(StorageError, match=r"s\.db: the disk .* is full") as caught:
            database.create_study(
                "x",
                target="t",
                experiment={"text": "x" * 500_000},
                identity={},
                space={},
                baseline={},
            )
        assert "free space" in str(caught.value)
        assert database.studies() == []


def _limit(database: Database) -> Callable[..., None]:
    """Let the file not grow: SQLite then fails as it does on a full disk."""

    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count=1")  # SQLite raises it to the current size

    database.engine.dispose()
    event.listen(database.engine, "connect", limit)
    return limit


def test_a_result_that_meets_a_full_disk_waits_and_is_written_later(
    database: Database,
    study: StudyRecord,
    make_result: Callable[..., object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    if database.address.path is None:
        pytest.skip("an SQLite file is limited here")
    database.start_trial(study.id, 0, {})
    limit = _limit(database)
    results = [make_result(), make_result(), make_result()]
    big = [r.model_copy(update={"log_tail": "x" * 300_000}) for r in results]  # type: ignore[attr-defined]
    assert [database.record(study.id, 0, "search", result) for result in big] == [False] * 3
    assert "is full" in caplog.text
    [spool] = database.spool.waiting
    assert spool.parent == database.address.path.parent
    assert str(spool) in caplog.text
    assert database.measurements(study.id) == []
    assert database.flush_spool() == 0  # still full: all three go on waiting
    event.remove(database.engine, "connect", limit)
    database.engine.dispose()
    assert database.flush_spool() == 3
    assert [m.uuid for m in database.measurements(study.id)] == [r.uuid for r in big]
    assert database.spool.waiting == []

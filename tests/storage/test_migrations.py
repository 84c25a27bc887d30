"""Versions of our tables, beside Optuna's, which nothing of ours may change."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, create_engine, inspect, text
from sqlalchemy.engine import Connection

from autotune.exceptions import InputError, StorageError
from autotune.storage import Database, StudyRecord, schema
from autotune.storage.models import Base


def _optuna_tables(connection: Connection) -> dict[str, object]:
    """Definition and contents of every table that is not ours."""
    found = MetaData()
    found.reflect(connection)
    return {
        name: (
            [(c.name, str(c.type), c.nullable, c.primary_key) for c in table.columns],
            [tuple(row) for row in connection.execute(table.select())],
        )
        for name, table in found.tables.items()
        if not name.startswith("autotune_")
    }


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _run_optuna(url: str) -> None:
    study = optuna.create_study(storage=url, study_name="old", load_if_exists=True)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)


def test_our_tables_are_made_beside_optunas_and_leave_them_alone(url: str) -> None:
    _run_optuna(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        before = _optuna_tables(connection)
    assert "trials" in before
    with Database.open(url) as database:
        assert database.schema_version() == schema.head()
        with engine.connect() as connection:
            assert _optuna_tables(connection) == before
            assert connection.scalar(text("SELECT count(*) FROM alembic_version")) == 1
        _run_optuna(url)
        assert len(optuna.load_study(study_name="old", storage=url).trials) == 4
        assert len(optuna.load_study(study_name="old", storage=database.optuna_storage()).trials)
    engine.dispose()


def test_the_migrations_make_the_tables_of_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_name": lambda name, kind, _: (
                    kind != "table"
                    or (name.startswith("autotune_") and name != schema.VERSION_TABLE)
                ),
                "compare_type": True,
            },
        )
        assert compare_metadata(context, Base.metadata) == []


def test_from_the_first_version_to_the_newest(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        schema.upgrade(connection, "0001")
    engine.dispose()
    with Database.open(url, upgrade=True) as database:
        before, after = database.upgrade()
        assert (before, after) == ("0001", schema.head())
        assert database.upgrade() == (after, after)
        assert database.studies() == []


def _set_version(url: str, version: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(f"UPDATE {schema.VERSION_TABLE} SET version_num = :v"), {"v": version}
        )
    engine.dispose()


def test_tables_of_a_newer_version_are_refused(url: str) -> None:
    Database.open(url).close()
    _set_version(url, "9999")
    for options in ({}, {"create": False}):
        with pytest.raises(InputError, match=r"newer than the .* upgrade autotune"):
            Database.open(url, **options)
    with Database.open(url, upgrade=True) as database, pytest.raises(InputError, match="newer"):
        database.upgrade()


def test_tables_of_an_older_version_name_the_command(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Database.open(url).close()
    monkeypatch.setattr(schema, "head", lambda: "9998")
    with pytest.raises(InputError, match="run `autotune db upgrade`"):
        Database.open(url)
    Database.open(url, upgrade=True).close()


def test_optuna_and_our_tables_work_in_one_database(
    database: Database, study: StudyRecord, add_trial: Callable[..., None]
) -> None:
    search = optuna.create_study(
        storage=database.optuna_storage(), study_name=study.optuna_study_name, direction="maximize"
    )
    for rate in (100.0, 120.0):
        trial = search.ask()
        trial.suggest_int("num_demux_threads", 1, 16)
        add_trial(study, trial.number, rate)
        search.tell(trial, -1e6)  # a penalty in Optuna's value reaches no figure of ours
    assert [t.samples_per_second for t in database.trials(study.id)] == [100.0, 120.0]
    again = optuna.load_study(study_name="kinetics", storage=database.optuna_storage())
    assert [t.value for t in again.trials] == [-1e6, -1e6]
    names = inspect(database.engine).get_table_names()
    assert {"trials", "studies", "autotune_trials", "autotune_studies"} <= set(names)


def test_results_of_the_first_version_survive_the_upgrade(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        schema.upgrade(connection, "0001")
        connection.execute(
            text(
                "INSERT INTO autotune_measurements (uuid, role, state, samples_per_second,"
                " timeline, log_tail, command_line, node, started_at, wall_seconds) VALUES ("
                "'m', 'measure', 'finished', 123.5,"
                " '{}', '', '', 'n', '2026-11-20 00:00:00', 3)"
            )
        )
    engine.dispose()
    with pytest.raises(InputError, match="run `autotune db upgrade`"):
        Database.open(url)
    with Database.open(url, upgrade=True) as database:
        database.upgrade()
    with Database.open(url) as database, database.engine.connect() as connection:
        row = connection.execute(
            text(
                "SELECT samples_per_second, stopped_early, contaminated FROM autotune_measurements"
            )
        ).one()
        assert (row[0], bool(row[1]), row[2]) == (123.5, False, None)


def test_a_closed_database_can_be_closed_again(url: str) -> None:
    database = Database.open(url)
    database.optuna_storage()
    database.close()
    database.close()


def test_a_study_that_is_gone_is_told(database: Database) -> None:
    with pytest.raises(StorageError, match="no longer in the database"):
        database.trials(99)

"""Studies: their records, names, time used, and what never reaches the database."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import MetaData

from autotune.exceptions import InputError, StudyConflict
from autotune.search_space import SearchSpace
from autotune.storage import Database, StudyRecord, redact, workload_key
from autotune.storage.redaction import clean_json, clean_text
from autotune.trial import TrialResult

MakeStudy = Callable[..., StudyRecord]


def test_a_study_comes_back_as_it_was_created(database: Database, make_study: MakeStudy) -> None:
    experiment = {"budget": {"hours": 8.0}, "vary_workload": ["subclip_duration"], "n": None}
    made = make_study(experiment=experiment, uuid="u" * 32, machine={"cpu": "x"})
    assert database.get_study("kinetics") == made == database.study_by_id(made.id)
    assert made.experiment == experiment
    assert (made.uuid, made.state, made.elapsed_seconds) == ("u" * 32, "running", 0.0)
    assert made.baseline["subclip_duration"] == 2.0
    assert isinstance(made.baseline["subclip_duration"], float)
    assert made.created_at.utcoffset() is not None
    assert SearchSpace.from_dict(made.space).parameters["arena"].when is not None
    assert database.study_fingerprints(made.id) == ({"cpu": "x"}, None)


def test_names_are_unique_and_unknown_ones_are_explained(
    database: Database, make_study: MakeStudy
) -> None:
    with pytest.raises(InputError, match="it holds none; launch one first"):
        database.get_study("kinetics")
    make_study()
    make_study("other")
    with pytest.raises(StudyConflict, match="'kinetics' exists already"):
        make_study()
    with pytest.raises(InputError, match="did you mean 'kinetics'") as caught:
        database.get_study("kinetic")
    assert "It holds: other, kinetics" in str(caught.value)
    assert database.find_study("kinetic") is None
    assert [s.name for s in database.studies()] == ["kinetics", "other"]


def test_state_and_time_are_updated(database: Database, study: StudyRecord) -> None:
    database.set_state(study.id, "stopped", "asked to")
    threads = [
        threading.Thread(target=lambda: [database.add_elapsed(study.id, 0.5) for _ in range(4)])
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert database.add_elapsed(study.id, 1.0) == 7.0
    database.set_dataset_samples(study.id, 240_000)
    database.update_experiment(study.id, {"budget": {"trials": 9}})
    after = database.get_study("kinetics")
    assert (after.state, after.state_reason) == ("stopped", "asked to")
    assert (after.elapsed_seconds, after.dataset_samples) == (7.0, 240_000)
    assert after.experiment == {"budget": {"trials": 9}}
    assert after.updated_at >= study.updated_at


def test_no_password_reaches_the_database(
    database: Database, make_study: MakeStudy, make_failure: Callable[..., TrialResult]
) -> None:
    secret = "hunter2"
    study = make_study(
        experiment={
            "storage": f"postgresql://me:{secret}@db/x",
            "executor": {"address": "auto", "token": secret, "env": [f"RAY_AUTH_TOKEN={secret}"]},
        }
    )
    database.start_trial(study.id, 0, {}, warnings=[f"s3://key:{secret}@bucket"])
    database.record(
        study.id,
        0,
        "search",
        make_failure(
            f"cannot open rtsp://me:{secret}@camera",
            log_tail=f"password={secret}\n",
            command_line=f"python -m x --api-key {secret} --token={secret}",
        ),
        machine={"env": {"db_password": secret}},
    )
    database.set_state(study.id, "failed", f"postgresql://me:{secret}@db went away")
    found = MetaData()
    found.reflect(database.engine)
    with database.engine.connect() as connection:
        for table in found.tables.values():
            for row in connection.execute(table.select()):
                assert secret not in json.dumps(list(row), default=str), table.name
    assert database.get_study("kinetics").experiment["executor"]["address"] == "auto"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pw@h:5432/db", "postgresql://me:***@h:5432/db"),
        ("see https://h:8080/a@b for more", "see https://h:8080/a@b for more"),
        ("RAY_AUTH_TOKEN=abc rest", "RAY_AUTH_TOKEN=*** rest"),
        ("'password': 'a b', x", "'password': '*** b', x"),
        ("tokenize=fast, 12:30@noon", "tokenize=fast, 12:30@noon"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.timeout(30)
@pytest.mark.parametrize("part", ["x", "a:", "--token-", "token ", "a://b", "\x00", "a.b-"])
def test_redaction_of_a_long_log_takes_no_time(part: str) -> None:
    text = part * (400_000 // len(part))
    assert len(redact(text)) > 0


@given(st.text())
def test_clean_text_is_text_that_every_database_takes(text: str) -> None:
    cleaned = clean_text(text)
    assert "\x00" not in cleaned
    cleaned.encode("utf-8")
    assert clean_text(cleaned) == cleaned


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(_JSON)
def test_clean_json_is_strict_json(value: object) -> None:
    cleaned = clean_json(value)
    text = json.dumps(cleaned, allow_nan=False)
    assert json.loads(text) == cleaned


def test_workload_keys_name_what_figures_compare_within() -> None:
    space = SearchSpace.from_dict(
        {
            "target": "t",
            "parameters": {
                "size": {"min": 1, "max": 9, "default": 2, "flag": "--size", "workload": True},
                "mode": {"values": ["a", "b"], "default": "a", "flag": "--mode", "workload": True},
                "crop": {
                    "values": [True, False],
                    "default": False,
                    "flag": "--crop",
                    "workload": True,
                    "when": 'mode == "b"',
                },
                "threads": {"min": 1, "max": 9, "default": 2, "flag": "--threads"},
            },
        }
    )
    assert workload_key(space, {"size": 2, "mode": "a", "crop": True}) == "mode=a, size=2"
    assert workload_key(space, {"size": 2, "mode": "b"}) == "crop=false, mode=b, size=2"
    plain = {"target": "t", "parameters": {"threads": {"min": 1, "max": 9, "default": 2}}}
    assert workload_key(SearchSpace.from_dict(plain), {"threads": 3}) == ""

"""A fresh database a test: SQLite, and PostgreSQL when AUTOTUNE_TEST_POSTGRES names a server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from autotune.search_space import SearchSpace
from autotune.storage import Database, Retry, StudyRecord
from autotune.trial import (
    FailedClip,
    Failure,
    Measurement,
    RankFigures,
    Resources,
    StageStats,
    TrialResult,
    Window,
)

SPACE = {
    "target": "spdl_video",
    "parameters": {
        "num_demux_threads": {"min": 1, "max": 16, "default": 8, "flag": "--num-demux-threads"},
        "subclip_duration": {
            "values": [0.5, 1.0, 2.0],
            "default": 2.0,
            "flag": "--subclip-duration",
            "workload": True,
        },
        "process_mode": {
            "values": ["in_process", "subprocess"],
            "default": "in_process",
            "flag": "--process-mode",
        },
        "arena": {
            "values": ["off", "pool"],
            "default": "off",
            "flag": "--arena",
            "when": 'process_mode == "subprocess"',
        },
    },
}
BASELINE = {
    "num_demux_threads": 8,
    "subclip_duration": 2.0,
    "process_mode": "in_process",
    "arena": "off",
}


def _postgres() -> Iterator[str]:
    server = make_url(os.environ["AUTOTUNE_TEST_POSTGRES"])
    name = f"autotune_test_{uuid.uuid4().hex[:12]}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param(
            "postgresql",
            marks=[
                pytest.mark.postgres,
                pytest.mark.skipif(
                    "AUTOTUNE_TEST_POSTGRES" not in os.environ,
                    reason="AUTOTUNE_TEST_POSTGRES names no server",
                ),
            ],
        ),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that does not exist yet (SQLite) or is empty (PostgreSQL)."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'study.db'}"
    else:
        yield from _postgres()


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """An open database; a failing write is given up soon."""
    with Database.open(url, retry=Retry(attempts=3, first_delay=0.05)) as opened:
        yield opened


MakeStudy = Callable[..., StudyRecord]


@pytest.fixture
def make_study(database: Database) -> MakeStudy:
    """Creates a study; keyword arguments replace its defaults."""

    def make(name: str = "kinetics", **changes: Any) -> StudyRecord:
        values: dict[str, Any] = {
            "target": "spdl_video",
            "experiment": {"target": {"name": "spdl_video"}},
            "identity": {"seed": 0},
            "space": SearchSpace.from_dict(SPACE).to_dict(),
            "baseline": BASELINE,
            "dataset_samples": 1000,
        }
        return database.create_study(name, **(values | changes))

    return make


@pytest.fixture
def study(make_study: MakeStudy) -> StudyRecord:
    return make_study()


MakeResult = Callable[..., TrialResult]


@pytest.fixture
def make_result() -> MakeResult:
    """A finished result with every field set; ``figures`` replaces those of the measurement."""

    def make(rate: float = 100.0, *, key: str | None = None, **figures: Any) -> TrialResult:
        stages = [
            StageStats(
                name=name,
                concurrency=4,
                tasks=60,
                failures=1,
                busy_seconds=2.5,
                queue_size=3,
                queue_occupancy=0.25,
                get_seconds=0.001,
                put_seconds=0.002,
            )
            for name in ("fetch", "demux", "decode")
        ]
        values: dict[str, Any] = {
            "samples_per_second": rate,
            "within_low": rate * 0.99,
            "within_high": rate * 1.01,
            "fps": rate * 16,
            "decoded_fps": rate * 60,
            "unique_frames": 14.5,
            "time_to_first_batch": 1.25,
            "accelerator_utilization": 0.5,
            "warmup_seconds": 0.75,
            "seconds": 3.5,
            "steady": True,
            "batches": 40,
            "samples": 640,
            "frames": 10240,
            "decoded_frames": 5_000_000_000,
            "failed": 2,
            "failed_clips": [FailedClip(name="a/b.mp4", cause="moov atom not found")],
            "stages": stages,
            "resources": Resources(
                cpu_percent=35.0, rss_gib=2.5, processes=3, threads=40, nvdec_percent=80.0
            ),
            "ranks": [RankFigures(rank=0, samples_per_second=rate, time_to_first_batch=1.25)],
            "slowest_rank": rate,
            "readback": BASELINE,
            "versions": {"ffmpeg": "8.0", "spdl": "0.8.0"},
        }
        windows = [
            Window(
                index=i,
                rank=i % 2,
                start=10.0 + i,
                end=11.0 + i,
                batches=2,
                samples=32,
                frames=512,
                unique_frames=464,
                decoded_frames=1920,
                failed=1,
                busy_seconds=0.5,
                arrivals=[10.25 + i, 10.75 + i],
                batch_samples=[16, 16],
                stages=stages,
                steady=i > 0,
            )
            for i in range(4)
        ]
        return TrialResult(
            uuid=key or uuid.uuid4().hex,
            state="finished",
            measurement=Measurement(**(values | figures)),
            windows=windows,
            log_tail="ok",
            command_line="python -m autotune.worker",
            exit_code=0,
            node="node-1",
            started_at=1_700_000_000.5,
            wall_seconds=6.5,
            timeline={"started": 0.5, "first_batch": 1.75},
        )

    return make


@pytest.fixture
def make_failure() -> MakeResult:
    """A failed result."""

    def make(cause: str = "killed by signal 11", **changes: Any) -> TrialResult:
        values: dict[str, Any] = {
            "uuid": uuid.uuid4().hex,
            "state": "failed",
            "failure": Failure(kind="crash", cause=cause, advice="look at the log"),
            "exit_code": -11,
        }
        return TrialResult(**(values | changes))

    return make


@pytest.fixture
def add_trial(database: Database, make_result: MakeResult) -> Callable[..., None]:
    """Records a whole trial: started, measured at each of ``rates``, finished COMPLETE."""

    def add(
        study: StudyRecord,
        number: int,
        *rates: float,
        origin: Any = "sampler",
        violated: tuple[str, ...] = (),
        machine: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        **params: Any,
    ) -> None:
        database.start_trial(study.id, number, BASELINE | params, origin=origin)
        role = "baseline" if origin == "baseline" else "search"
        for rate in rates:
            database.record(study.id, number, role, make_result(rate), machine=machine, data=data)
        database.finish_trial(study.id, number, "COMPLETE", violated=violated)

    return add

"""A study in a database, written through the storage as a driver writes it; every figure is
made up here for rendering, none is a measurement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from autotune.stats import ratio_interval
from autotune.storage import Database, StudyRecord
from autotune.trial import Failure, Measurement, Params, TrialResult, Window

SPACE: dict[str, Any] = {
    "target": "spdl_video",
    "parameters": {
        "num_demux_threads": {"min": 1, "max": 16, "default": 8, "flag": "--num-demux-threads"},
        "sink_buffer_size": {"min": 1, "max": 8, "default": 3, "flag": "--sink-buffer-size"},
        "subclip_duration": {
            "values": [0.5, 2.0],
            "default": 2.0,
            "flag": "--subclip-duration",
            "workload": True,
        },
    },
    "constraints": [],
}
BASELINE: Params = {"num_demux_threads": 8, "sink_buffer_size": 3, "subclip_duration": 2.0}
MACHINE = {"cpu": "Test CPU", "cores": 2, "gpus": ["NVIDIA H100 80GB HBM3 80 GiB"]}
DATA = {"hash": "abc", "num_samples": 240_000}


def params(**changed: Any) -> Params:
    return BASELINE | changed


def measurement(rate: float) -> Measurement:
    return Measurement(
        samples_per_second=rate,
        within_low=rate * 0.98,
        within_high=rate * 1.02,
        fps=rate * 16,
        decoded_fps=rate * 23,
        unique_frames=14.0,
        time_to_first_batch=1.9,
        accelerator_utilization=0.5,
        warmup_seconds=0.5,
        seconds=3.0,
        steady=True,
        batches=30,
        samples=480,
        frames=480 * 16,
        decoded_frames=480 * 23,
        failed=1,
        slowest_rank=rate,
        versions={"ffmpeg": "8.0"},
        readback=dict(BASELINE),
    )


def result(uuid: str, rate: float | None, failure: Failure | None = None) -> TrialResult:
    window = Window(index=0, start=1.0, end=1.25, samples=12, frames=192)
    return TrialResult(
        uuid=uuid,
        state="finished" if rate is not None else "failed",
        measurement=None if rate is None else measurement(rate),
        failure=failure,
        windows=[window],
        log_tail="" if failure is None else f"log of a {failure.kind}\n",
        started_at=1_700_000_000.0,
        wall_seconds=5.0,
        node="node-1",
    )


class Writer:
    """Writes trials of one study."""

    def __init__(self, database: Database, record: StudyRecord) -> None:
        self.database = database
        self.record = record
        self._runs = 0

    def run(self, number: int, role: str, rate: float | None, **where: Any) -> None:
        self._runs += 1
        failure = where.pop("failure", None)
        self.database.record(
            self.record.id,
            number,
            role,
            result(f"{self.record.name}-{self._runs}", rate, failure),
            machine=MACHINE,
            data=DATA,
            **where,
        )

    def trial(
        self,
        number: int,
        rate: float | None,
        origin: Any = "sampler",
        failure: Failure | None = None,
        **changed: Any,
    ) -> None:
        self.database.start_trial(self.record.id, number, params(**changed), origin=origin)
        role = "baseline" if origin == "baseline" else "search"
        self.run(number, role, rate, failure=failure)
        state: Any = "COMPLETE" if rate is not None else "FAIL"
        self.database.finish_trial(self.record.id, number, state, failure=failure)

    def verify(self, number: int, candidate: list[float], baseline: list[float]) -> None:
        for block, (fast, slow) in enumerate(zip(candidate, baseline, strict=True)):
            self.run(number, "verification", fast, block=block, arm="candidate")
            self.run(number, "verification", slow, block=block, arm="baseline")
        self.database.add_verification(
            self.record.id,
            number,
            workload="",
            outcome=ratio_interval(candidate, baseline),
            candidate_rates=candidate,
            baseline_rates=baseline,
            baseline_params=BASELINE,
        )


MakeStudy = Callable[..., Writer]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'studies.db'}"


@pytest.fixture
def make_study(url: str) -> Any:
    """Creates studies in the database at ``url``."""
    opened: list[Database] = []

    def make(name: str, *, vary: bool = False, state: Any = "finished", reason: str = "") -> Writer:
        database = Database.open(url)
        opened.append(database)
        pinned = {} if vary else {"subclip_duration": 2.0}
        record = database.create_study(
            name,
            target="spdl_video",
            experiment={
                "target": {"name": "spdl_video"},
                "budget": {"trials": 20, "hours": None, "patience": None},
                "verification": {"finalists": 1, "blocks": 4},
            },
            identity={"seed": 0},
            space=SPACE | {"pinned": pinned},
            baseline=BASELINE,
            dataset_samples=240_000,
        )
        database.set_state(record.id, state, reason)
        return Writer(database, record)

    yield make
    for database in opened:
        database.close()


@pytest.fixture
def verified(make_study: MakeStudy) -> Writer:
    """A finished study: a slow baseline, a verified winner, brackets in a failure's cause."""
    writer = make_study("kinetics", reason="trial 2 verified")
    writer.trial(0, 16.5, origin="baseline")
    hang = Failure(kind="hang", cause="no event for 30 s [last event: built]", advice="Be patient.")
    writer.trial(1, None, failure=hang, num_demux_threads=16)
    writer.trial(2, 129.0, num_demux_threads=3, sink_buffer_size=5)
    writer.trial(3, 131.0, num_demux_threads=4)
    writer.verify(2, [128.0, 130.0, 127.0, 129.0], [16.4, 16.6, 16.5, 16.5])
    return writer


ROOT = Path(__file__).resolve().parents[1]

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `autotune` in this process, in an empty folder, with 80 columns and no terminal."""
    from autotune.cli.app import app

    monkeypatch.chdir(tmp_path)

    def run(*words: str, **environment: str) -> Result:
        clean = {"FORCE_COLOR": None, "NO_COLOR": None, "TTY_COMPATIBLE": None}
        given = {"COLUMNS": "80", "AUTOTUNE_STORAGE": url, **environment}
        return CliRunner().invoke(app, list(words), env={**clean, **given})

    return run

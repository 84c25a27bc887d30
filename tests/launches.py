"""Launches of a study with a made-up surface, for tests of the loop's own logic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotune.config import Experiment
from autotune.storage import Database
from autotune.study.launching import LaunchOutcome, launch_experiment
from autotune.study.observer import StudyObserver
from autotune.study.run import StopSignal
from autotune.trial import Failure, Params
from tests.fakes import FakeExecutor


def surface(params: Params) -> float | Failure:
    """Fewer demux threads and more decode threads are faster; work per second of clip."""
    rate = 100.0 - 3 * abs(int(params["num_demux_threads"]) - 2)
    rate -= 2 * abs(int(params["num_decode_threads"]) - 4)
    return rate / float(params["subclip_duration"])


@pytest.fixture
def experiment(tmp_path: Path) -> dict[str, Any]:
    data = tmp_path / "data"
    data.mkdir()
    (data / "clip.mp4").write_bytes(b"x")
    return {
        "target": {"name": "spdl_video", "data_dir": str(data), "device": "cpu"},
        "search_space": {
            "base": "spdl_video",
            "parameters": {
                "num_demux_threads": {"max": 8},
                "num_decode_threads": {"max": 8, "default": 8},
            },
        },
        "budget": {"trials": 8},
        "noise": {"runs": 0, "drift_every": 0},
        "verification": {"finalists": 1, "blocks": 4},
        "sampler": "random",
        "executor": {"kind": "local"},
    }


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'autotune.db'}"


def launch(
    experiment: dict[str, Any],
    url: str,
    executor: FakeExecutor | None = None,
    signal: StopSignal | None = None,
    name: str = "study",
    observer: StudyObserver | None = None,
) -> LaunchOutcome:
    return launch_experiment(
        Experiment.from_dict(experiment),
        storage=url,
        study_name=name,
        executor=executor or FakeExecutor(surface),
        signal=signal,
        observer=observer,
    )


def records(url: str, name: str = "study") -> Any:
    """The study, its trials, its measurements of a loader, its verifications."""
    database = Database.open(url, create=False)
    study = database.get_study(name)
    try:
        return (
            study,
            database.trials(study.id),
            [m for m in database.measurements(study.id) if m.role != "ceiling"],
            database.verifications(study.id),
        )
    finally:
        database.close()

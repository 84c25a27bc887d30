"""The Python API: what is exported, what importing costs, what a study answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.api import Study, Trial, load_study
from autotune.exceptions import InputError
from autotune.study.launching import launch_experiment
from tests.studies import BASELINE, ROOT, Writer, make_study, url, verified

__all__ = ["make_study", "url", "verified"]  # fixtures

HEAVY = ("torch", "ray", "spdl", "av", "pandas", "optuna", "plotly")


def test_the_package_exports_what_is_documented() -> None:
    assert autotune.__all__ == [
        "AutotuneError",
        "DataError",
        "ExpressionError",
        "InputError",
        "MeasurementFailed",
        "StorageError",
        "Study",
        "StudyConflict",
        "UnsupportedError",
        "__version__",
        "launch",
        "load_study",
        "loaders",
    ]
    for name in autotune.__all__:
        assert getattr(autotune, name) is not None
    assert issubclass(autotune.StudyConflict, autotune.InputError)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = autotune.nonsense


def test_launch_is_the_function_although_a_module_has_that_name() -> None:
    assert callable(launch_experiment)  # the submodule was imported before
    assert autotune.launch.__module__ == "autotune.api"


@pytest.mark.parametrize(
    "code",
    [
        "import autotune; autotune.__version__",
        "import autotune; autotune.launch, autotune.load_study",
        "import autotune; autotune.loaders.spdl_video, autotune.loaders.VideoLoader",
        "import sys; sys.argv = ['autotune', '--help']\n"
        "from autotune.cli import main\n"
        "try: main()\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    tail = "\nimport sys, json; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "autotune" in loaded
    assert not loaded & set(HEAVY)


def test_best_is_the_verified_trial(verified: Writer, url: str) -> None:
    study = load_study("kinetics", storage=url)
    best = study.best()
    assert isinstance(best, Trial)
    assert best.number == 2
    assert best.verified
    assert best.params["num_demux_threads"] == 3
    assert best.flags == "--num-demux-threads 3 --sink-buffer-size 5 --subclip-duration 2.0"
    listed = study.best(top=2)
    assert isinstance(listed, list)
    assert [trial.number for trial in listed] == [2, 3]
    slow = study.best(where="samples_per_second < 100")
    assert isinstance(slow, Trial)
    assert slow.number == 0
    with pytest.raises(InputError, match="no trial with a figure for which"):
        study.best(where="samples_per_second > 1000")


def test_trials_dataframe(verified: Writer, url: str) -> None:
    frame = load_study("kinetics", url).trials_dataframe()
    assert list(frame["number"]) == [0, 1, 2, 3]
    assert list(frame["params_num_demux_threads"]) == [8, 16, 3, 4]
    failed = frame.set_index("number").loc[1]
    assert failed["failure_kind"] == "hang"
    assert failed["log_tail"] == "log of a hang\n"
    assert failed[["samples_per_second", "fps", "ci_low"]].isna().all()
    assert frame["samples_per_second"].max() == 131.0


def test_measurements_and_windows_dataframes(verified: Writer, url: str) -> None:
    study = load_study("kinetics", url)
    runs = study.measurements_dataframe()
    assert len(runs) == 4 + 8
    assert set(runs["role"]) == {"baseline", "search", "verification"}
    assert runs["uuid"].is_unique
    windows = study.windows_dataframe()
    assert len(windows) == 12
    assert windows["samples_per_second"].iloc[0] == pytest.approx(12 / 0.25)


def test_a_figure_that_no_trial_has_is_a_number_all_the_same(make_study: Any, url: str) -> None:
    writer = make_study("searched")
    writer.trial(0, 16.0, origin="baseline")
    study = load_study("searched", url)
    trials, runs = study.trials_dataframe(), study.measurements_dataframe()
    for frame, names in (
        (trials, ("gpu_memory_gib", "nvdec_percent", "ceiling_share", "verified_ratio")),
        (runs, ("gpu_memory_gib", "nvdec_percent", "cache_gib")),
    ):
        assert frame[list(names)].isna().all().all()
        assert {str(frame[name].dtype) for name in names} == {"float64"}
    with pytest.raises(InputError, match="top: 0 is not accepted"):
        study.best(top=0)


def test_empty_frames_have_columns(make_study: Any, url: str) -> None:
    make_study("empty")
    study = load_study("empty", url)
    trials = study.trials_dataframe()
    assert {"number", "samples_per_second"} <= set(trials.columns)
    assert trials["samples_per_second"].dtype == "float64"
    assert study.measurements_dataframe().empty
    assert study.windows_dataframe().empty
    with pytest.raises(InputError, match="no trial with a figure"):
        study.best()


def test_export(verified: Writer, url: str) -> None:
    study = load_study("kinetics", url)
    assert "--num-demux-threads 3" in study.export()
    document = json.loads(study.export(format="json"))
    assert document["params"]["sink_buffer_size"] == 5
    with pytest.raises(InputError, match="not verified"):
        study.export(trial=3)
    assert "--num-demux-threads 4" in study.export(trial=3, unverified=True)
    with pytest.raises(InputError, match="xml"):
        study.export(format="xml")


def test_record_status_and_winners(verified: Writer, url: str) -> None:
    study = load_study("kinetics", url)
    assert study.record.baseline == BASELINE
    status = study.status()
    assert (status.state, status.trials_done, status.trials_failed) == ("finished", 4, 1)
    assert status.verified
    (winner,) = study.winners()
    assert winner.verified
    assert winner.trial.verification is not None
    assert winner.trial.verification.baseline_epoch_seconds == pytest.approx(240_000 / 16.5)


def test_the_best_of_a_study_that_varies_its_workload_stays_within_one(
    make_study: Any, url: str
) -> None:
    writer = make_study("varied", vary=True)
    writer.trial(0, 16.0, origin="baseline")
    writer.trial(1, 64.0, origin="baseline", subclip_duration=0.5)
    writer.trial(2, 32.0, num_demux_threads=3)
    writer.trial(3, 96.0, num_demux_threads=3, subclip_duration=0.5)
    study = load_study("varied", url)
    listed = study.best(top=4)
    assert isinstance(listed, list)
    assert {trial.params["subclip_duration"] for trial in listed} == {0.5}
    assert listed[0].ratio == pytest.approx(1.5)  # to the baseline of its own workload
    by_workload = {winner.workload: winner.trial.number for winner in study.winners()}
    assert by_workload == {"subclip_duration=0.5": 3, "subclip_duration=2.0": 2}


def test_stop_asks_a_study_that_runs_and_no_other(verified: Writer, url: str) -> None:
    study = autotune.load_study("kinetics", storage=url)
    verified.database.set_state(verified.record.id, "finished", "")
    assert not study.stop()
    verified.database.set_state(verified.record.id, "running", "")
    assert not study.stop(), "no driver holds it"
    verified.database.acquire_lease(verified.record.id, "driver")
    assert study.stop()
    assert verified.database.stop_requested(verified.record.id)


def test_unknown_study_and_database(verified: Writer, url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'kinetics'"):
        load_study("kinetic", url)
    with pytest.raises(InputError, match="no database"):
        load_study("kinetics", f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()


def test_repr_holds_no_password() -> None:
    assert "secret" not in repr(Study("s", "postgresql://user:secret@host/db"))


def test_launch_needs_a_name_for_a_mapping() -> None:
    with pytest.raises(InputError, match="study_name"):
        autotune.launch({"target": {"name": "spdl_video", "data_dir": "/nowhere"}})

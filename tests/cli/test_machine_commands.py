"""`doctor`, `clips`, `dashboard`, `version`: this machine, its data, the database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from autotune.doctor import Check, nvdec_engines, works
from autotune.storage import Database
from tests.studies import ROOT, Run, Writer

SHARED = ROOT.parent / "shared" / "clips"


def test_doctor_reads_back_what_is_loaded(run: Run, tmp_path: Path) -> None:
    done = run("doctor", "-f", "json")
    assert done.exit_code == 0, done.stdout
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    bundled = checks["FFmpeg, bundled"]
    assert bundled["state"] == "ok"
    assert "avcodec 6" in bundled["found"]
    assert checks["spdl"]["required"] is True
    assert {"CPU", "memory", "shared memory", "open files", "NVDEC", "ray"} <= checks.keys()
    assert "is not there yet" in checks["database"]["found"]
    assert all(check["remedy"] for check in checks.values() if check["state"] != "ok")
    assert list(tmp_path.glob("*.db")) == []


def test_doctor_fails_where_the_data_or_the_database_is_not_usable(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # FFmpeg was looked at above; loading it again takes seconds.
    monkeypatch.setattr("autotune.doctor._ffmpeg", lambda: iter(()))
    (tmp_path / "empty").mkdir()
    done = run("doctor", "--data-dir", "empty", "--storage", "sqlite:////nowhere/at/all.db")
    assert done.exit_code == 1
    assert "holds no video" in done.stdout
    assert "/nowhere/at/all.db" in done.stdout
    assert "--storage" in done.stdout


def test_only_required_things_count() -> None:
    missing = Check(name="GPU", state="missing", found="none")
    assert works([missing])
    assert not works([missing, missing.model_copy(update={"required": True})])


@pytest.mark.parametrize(
    ("name", "engines"),
    [
        ("NVIDIA H100 80GB HBM3", 7),
        ("NVIDIA L40S", 3),
        ("NVIDIA L4", 4),
        ("NVIDIA A100-SXM4-40GB", 5),
        ("NVIDIA GeForce RTX 5090", None),
    ],
)
def test_nvdec_engines_by_name(name: str, engines: int | None) -> None:
    assert nvdec_engines(name) == engines


def test_clips_are_made_kept_and_probed(run: Run, tmp_path: Path) -> None:
    words = ("clips", "make", "clips", "--count", "2", "--classes", "2", "--seconds", "0.5s")
    done = run(*words)
    assert done.exit_code == 0, done.stderr
    assert "2 of 0.5 s in 2 class folders" in done.stdout
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert len(before) == 2
    size = sum(path.stat().st_size for path in before)
    told = {"directory": "clips", "clips": 2, "classes": 2, "seconds": 0.5, "bytes": size}
    assert json.loads(run(*words, "-f", "json").stdout) == told
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")} == before
    (tmp_path / "clips" / "bad.mp4").write_bytes(b"no video")
    probed = run("clips", "probe", "clips", "-f", "json")
    assert probed.exit_code == 0
    found = json.loads(probed.stdout)
    assert (found["files"], found["clips"]) == (3, 3)
    assert found["codecs"] == {"h264": 2}
    assert list(found["bad"]) == ["bad.mp4"]
    assert "bad.mp4" in run("clips", "probe", "clips").stdout


def test_a_folder_of_bad_clips_is_a_failure(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"")
    assert run("clips", "probe", ".").exit_code == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the shared clips at {SHARED}")
def test_real_clips_are_probed(run: Run) -> None:
    done = run("clips", "probe", str(SHARED))
    assert done.exit_code == 0
    assert "340x256" in done.stdout
    assert "odd/empty.mp4" in done.stdout


def test_version(run: Run) -> None:
    assert run("--version").stdout.startswith("autotune ")
    found = json.loads(run("version", "-f", "json").stdout)
    assert found["optuna"]
    assert found["python"] == sys.version.split()[0]


def test_the_dashboard_serves_the_study_on_loopback(
    verified: Writer, url: str, tmp_path: Path
) -> None:
    with Database.open(url) as database:
        import optuna

        optuna.create_study(storage=database.optuna_storage(), study_name="kinetics")
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune", "dashboard", "--port", "0", "--storage", url],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("Listening on http://127.0.0.1:"), line
        address = line.split()[2].rstrip(";")
        with urllib.request.urlopen(f"{address}api/studies", timeout=20) as answer:
            studies = json.load(answer)
        assert "kinetics" in json.dumps(studies)
        # A study's driver writes while the dashboard is open.
        verified.trial(4, 50.0, num_demux_threads=5)
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "Traceback" not in err


def test_clips_cannot_be_made_where_nothing_can_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "arm_wrestling").symlink_to("/proc/self")  # root may not write there
    done = run("clips", "make", "clips", "--count", "3", "--classes", "1", "--seconds", "0.2")
    assert done.exit_code == 2, done.stderr
    assert "Error: cannot make the clip clips/arm_wrestling/clip_000" in done.stderr
    assert "name a folder that you may write to" in done.stderr
    assert "Traceback" not in done.stderr


def test_clips_cannot_be_made_on_a_full_disk(tmp_path: Path) -> None:
    command = f"ulimit -f 4; exec {sys.executable} -m autotune clips make clips --count 1"
    done = subprocess.run(
        ["bash", "-c", f"{command} --seconds 1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot make the clip" in done.stderr
    assert "has room left" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path for path in (tmp_path / "clips").rglob("*") if path.is_file()] == []


def test_a_result_for_which_there_is_no_room_is_no_traceback(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "autotune", "version", "-f", "json"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "Error: where the output goes: No space left on device; make room there\n"

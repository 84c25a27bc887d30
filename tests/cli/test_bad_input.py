"""Wrong input ends with status 2 and one message that names the remedy; never a traceback."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.studies import ROOT, Run, Writer

CASES = [
    (("nonsense",), "No such command"),
    (("status",), "Missing argument"),
    (("trials", "kinetics", "--nonsense"), "No such option"),
    (("trials", "kinetics", "-f", "xml"), "'xml'"),
    (("best",), "--target"),
    (("best", "kinetics", "--target", "spdl_video"), "--target"),
    (("best", "kinetics", "--gpu", "H100"), "--gpu"),
    (("best", "--target", "spdl_video", "--per", "sink_buffer_size"), "--per"),
    (("best", "--target", "nonsense"), "spdl_video"),
    (("best", "kinetics", "--top", "0"), "--top"),
    (("best", "kinetics", "--where", "samples_per_second >"), "--where"),
    (("best", "kinetics", "--where", "sample_rate > 1"), "sample_rate"),
    (("best", "kinetics", "--per", "nonsense"), "num_demux_threads"),
    (("status", "kinetic"), "did you mean 'kinetics'"),
    (("export", "kinetics", "--trial", "99"), "99"),
    (("export", "kinetics", "-o", "none/there/flags.txt"), "--output none/there/flags.txt"),
    (("launch", "nonsense.yaml"), "nonsense.yaml: no such file"),
    (("launch", "e.yaml", "--timeout", "8"), "8s, 8m or 8h"),
    (("launch", "e.yaml", "--timeout", "0s"), "more than 0s"),
    (("launch", "e.yaml", "--trials", "0"), "trials"),
    (("launch", "e.yaml", "--seed", "x"), "--seed"),
    (("launch", "e.yaml", "--set", "budget"), "key.path=value"),
    (("launch", "e.yaml", "--set", "budgets.trials=3"), "budget"),
    (("launch", "e.yaml", "--executor", "slurm"), "local"),
    (("launch", "e.yaml", "--baseline", "--num-demux-thread 3"), "--num-demux-threads"),
    (("launch", "e.yaml", "--data-dir", "nowhere"), "nowhere"),
    (("launch", "e.yaml", "--study-name", "a:b"), "colon"),
    (("launch", "e.yaml", "--storage", "nonsense"), "sqlite:///"),
    (("launch", "bad.yaml",), "bad.yaml:2"),
    (("launch", "e.yaml", "--data-dir", "empty"), "holds no video"),
    (("measure", "spdl_video", "--data-dir", "empty"), "holds no video"),
    (("launch", "e.yaml", "--set", "target.device=nvdec"), "use device: cpu"),
    (("measure", "spdl_video", "--data-dir", "clips", "--device", "nvdec"), "use device: cpu"),
    (("measure", "spdl_vide"), "spdl_video"),
    (("measure", "spdl_video", "--num-demux-threads", "0"), "1 to"),
    (("measure", "spdl_video", "--max-time", "soon"), "--max-time"),
    (("clips", "probe", "nowhere"), "nowhere"),
    (("clips", "make", "clips", "--seconds", "x"), "--seconds"),
    (("clips", "make", "clips", "--count", "0"), "--count"),
    (("studies", "--storage", "nonsense://user:secret@host/db"), "accepted"),
    (("studies", "--storage", "sqlite:////nowhere/at/all.db"), "does not exist"),
    (("dashboard", "--port", "99999"), "--port"),
    (("dashboard", "--host", "256.0.0.1", "--port", "0"), "256.0.0.1"),
]  # fmt: skip

FAKE_NVML = """
from types import SimpleNamespace

class NVMLError(Exception):
    pass

def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlSystemGetDriverVersion(): return "0"
def nvmlDeviceGetName(handle): return "a GPU with nothing behind it"
def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(total=2**30, used=0)
"""


@pytest.mark.parametrize(("words", "told"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_one_clear_message(
    words: tuple[str, ...], told: str, verified: Writer, run: Run, tmp_path: Path
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "a.mp4").write_bytes(b"x")
    (tmp_path / "empty" / "class").mkdir(parents=True)
    (tmp_path / "e.yaml").write_text(
        "target: {name: spdl_video, data_dir: clips}\nbudget: {trials: 2}\n"
    )
    (tmp_path / "bad.yaml").write_text("target: {name: spdl_video}\nbudget: {trials: [}\n")
    done = run(*words, CUDA_VISIBLE_DEVICES="")
    assert done.exit_code == 2, done.stderr
    assert told.casefold() in " ".join(done.stderr.split()).casefold()
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("sink", "told"),
    [
        ("{values: [1, 2], default: 1, when: 'process_mode =='}", "sink_buffer_size.when"),
        ("{values: [1, 2], default: 1, when: 'mode == 1'}", "'mode' is no parameter"),
        ("{values: [], default: 1}", "sink_buffer_size.values"),
        ("{min: 4, max: 3, default: 4}", "sink_buffer_size"),
        ("{min: 1, max: 3, default: 4}", "sink_buffer_size.default"),
    ],
)
def test_a_search_space_that_makes_no_sense(sink: str, told: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "space.yaml").write_text(
        "target: spdl_video\n"
        "parameters:\n"
        "  process_mode: {values: [in_process, subprocess], default: in_process}\n"
        f"  sink_buffer_size: {sink}\n"
    )
    (tmp_path / "e.yaml").write_text(
        "target: {name: spdl_video, data_dir: clips}\nsearch_space: space.yaml\n"
    )
    done = run("launch", "e.yaml")
    assert done.exit_code == 2, done.stderr
    message = " ".join(done.stderr.split())
    assert message.startswith("Error: ")
    assert "space.yaml" in message
    assert told in message
    assert "Traceback" not in message
    assert list(tmp_path.glob("*.db")) == []


@pytest.mark.parametrize("words", [("launch", "e.yaml"), ("measure", "spdl_video")])
def test_a_driver_without_nvdec_is_named(
    words: tuple[str, ...], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotune.media.library_search import find_library

    if find_library("libnvcuvid.so.1", usual_folders=True) is not None:
        pytest.skip("this machine has libnvcuvid")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"x")
    (tmp_path / "e.yaml").write_text("target: {name: spdl_video, data_dir: clips, device: nvdec}\n")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libcuda.so.1").write_bytes(b"")  # as a container without video has it
    (tmp_path / "lib" / "pynvml.py").write_text(FAKE_NVML)
    environment = {"LD_LIBRARY_PATH": str(tmp_path / "lib"), "PYTHONPATH": f"{tmp_path}/lib:{ROOT}"}
    options = () if words[0] == "launch" else ("--data-dir", "clips", "--device", "nvdec")
    done = run(*words, *options, CUDA_VISIBLE_DEVICES="0", **environment)
    assert done.exit_code == 2, done.stderr
    message = " ".join(done.stderr.split())
    assert "libnvcuvid" in message
    assert "NVIDIA_DRIVER_CAPABILITIES" in message
    assert "use device: cpu" in message
    assert "Traceback" not in message


def test_no_database_is_made_by_a_question(run: Run, tmp_path: Path) -> None:
    done = run("studies", AUTOTUNE_STORAGE="")
    assert done.exit_code == 2
    assert "autotune.db" in done.stderr
    assert list(tmp_path.glob("*.db")) == []


def test_the_option_wins_over_the_environment(verified: Writer, run: Run, url: str) -> None:
    elsewhere = "sqlite:////nowhere/at/all.db"
    assert run("status", "kinetics", AUTOTUNE_STORAGE=elsewhere).exit_code == 2
    assert run("status", "kinetics", "--storage", url, AUTOTUNE_STORAGE=elsewhere).exit_code == 0


def test_a_newer_database_is_refused(verified: Writer, run: Run, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "studies.db") as connection:
        connection.execute("UPDATE autotune_alembic_version SET version_num = '9999'")
    for words in (("studies",), ("db", "upgrade")):
        done = run(*words)
        assert done.exit_code == 2
        assert "newer" in done.stderr


def test_db_upgrade_with_nothing_to_do(verified: Writer, run: Run) -> None:
    done = run("db", "upgrade")
    assert done.exit_code == 0
    assert "nothing to do" in done.stdout
    found = json.loads(run("db", "upgrade", "-f", "json").stdout)
    assert (
        found["before"] == found["after"] == run("db", "upgrade", "-f", "value").stdout.split()[1]
    )
    assert found["database"].endswith("studies.db")


def test_the_console_script_ends_with_the_same_status(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from autotune.cli import main; main()", "studies"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: no database ")
    assert len(done.stderr.splitlines()) == 1

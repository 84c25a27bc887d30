"""The main job on real video, by the commands a user types: launch, query, export, kill, resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autotune.exceptions import InputError
from autotune.storage import Database
from autotune.system import processes

ROOT = Path(__file__).resolve().parents[1]
CLIPS = ROOT.parent / "shared" / "clips" / "real"

EXPERIMENT = f"""
target:
  name: spdl_video
  data_dir: {CLIPS}
  device: cpu
  subclip_duration: 0.5
  batch_size: 8
  scale_algorithm: fast_bilinear
search_space:
  base: spdl_video
  parameters:
    num_fetch_threads: {{max: 4, default: 2}}
    num_demux_threads: {{max: 4, default: 1}}
    num_decode_threads: {{max: 4, default: 1}}
enqueue:
  - {{num_decode_threads: 2, process_mode: subprocess, arena: pool}}
budget: {{trials: 3}}
measurement: {{min_seconds: 0.5, max_seconds: 1.0, repeats: 0}}
noise: {{runs: 0, drift_every: 0}}
verification: {{finalists: 1, blocks: 4}}
executor: {{kind: local}}
"""

pytestmark = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"needs the test clips in {CLIPS}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(EXPERIMENT)
    return tmp_path


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE")}
    return subprocess.Popen(
        [sys.executable, "-m", "autotune", *words],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *words: str, status: int = 0) -> str:
    process = start(folder, *words)
    out, err = process.communicate(timeout=240)
    assert process.returncode == status, f"{words}: {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err
    return out


def measured(folder: Path) -> dict[str, Any]:
    with Database.open(f"sqlite:///{folder / 'autotune.db'}", create=False) as database:
        return {m.uuid: m for m in database.measurements(database.get_study("study").id)}


def has_measured(folder: Path) -> bool:
    try:
        return bool(measured(folder))
    except InputError:  # the database or the study does not exist yet
        return False


def marked(folder: Path) -> list[int]:
    with Database.open(f"sqlite:///{folder / 'autotune.db'}", create=False) as database:
        return processes.marked("AUTOTUNE_STUDY", database.get_study("study").uuid)


def wait_until(what: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.long
def test_a_study_on_real_clips_is_killed_resumed_queried_and_exported(folder: Path) -> None:
    driver = start(folder, "launch", "study.yaml")
    # In the second trial demuxing runs in SPDL's forkserver: kill the driver right there.
    wait_until(lambda: driver.poll() is not None or has_measured(folder), 90)
    wait_until(lambda: driver.poll() is not None or len(marked(folder)) >= 3, 60)
    assert driver.poll() is None, driver.communicate()
    before = measured(folder)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    wait_until(lambda: marked(folder) == [], 10)

    run(folder, "launch", "study.yaml")

    after = measured(folder)
    assert set(before) <= set(after)
    assert all(after[uuid] == before[uuid] for uuid in before)
    trials = json.loads(run(folder, "trials", "study", "-f", "json"))
    complete = [t for t in trials if t["state"] == "COMPLETE"]
    assert len(complete) == 3
    assert trials[0]["origin"] == "baseline"
    for trial in complete:
        assert trial["samples_per_second"] > 0
        assert trial["ci_low"] < trial["samples_per_second"] < trial["ci_high"]
        assert trial["fps"] == pytest.approx(16 * trial["samples_per_second"], rel=1e-6)
        assert 0 < trial["unique_frames"] <= 16
        # SPDL's own window demux decodes 0.3 s too much; this one only what it delivers.
        assert trial["decoded_fps"] < 2 * trial["unique_frames"] * trial["samples_per_second"]
    # The figures of the subprocess trial come from a pipeline that really had one.
    subprocess_trials = [t for t in complete if t["params"]["process_mode"] == "subprocess"]
    assert subprocess_trials

    state = json.loads(run(folder, "status", "study", "-f", "json"))
    assert state["state"] == "finished"
    verified = [t for t in trials if t["verified"]]
    if verified:
        flags = run(folder, "export", "study", "-f", "flags")
        assert f"--num-decode-threads {verified[0]['params']['num_decode_threads']}" in flags
    else:
        run(folder, "export", "study", "-f", "flags", status=2)
    assert "--num-decode-threads" in run(
        folder, "export", "study", "--trial", "0", "--unverified", "-f", "flags"
    )
    best = json.loads(run(folder, "best", "study", "-f", "json"))
    assert best
    # A finished study launched again prints its result and measures nothing.
    run(folder, "launch", "study.yaml")
    assert set(measured(folder)) == set(after)
    assert marked(folder) == []


def test_two_ranks_share_the_data_and_their_rates_add_up(folder: Path) -> None:
    out = run(
        folder,
        "measure",
        "spdl_video",
        "--data-dir",
        str(CLIPS),
        "--set",
        "target.ranks=2",
        "--set",
        "measurement.min_seconds=1",
        "--set",
        "measurement.max_seconds=1.5",
        "--num-decode-threads",
        "1",
        "--subclip-duration",
        "0.5",
        "--batch-size",
        "8",
        "-f",
        "json",
    )
    figures = json.loads(out)
    total, slowest = figures["samples_per_second"], figures["slowest_rank"]
    # The sum of two shards: the slower one gives less than half of it, and not next to nothing.
    assert 0.1 * total < slowest <= 0.5 * total * 1.001


def test_odd_clips_are_counted_by_name_and_fail_the_measurement(folder: Path) -> None:
    odd = CLIPS.parent / "odd"
    process = start(
        folder, "measure", "spdl_video", "--data-dir", str(odd), "--num-decode-threads", "1"
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "clips failed" in out + err
    assert any(name in out + err for name in ("truncated.mp4", "empty.mp4", "text.mp4"))

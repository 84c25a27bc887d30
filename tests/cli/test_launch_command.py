"""`autotune launch` and `measure` with real processes, on a target that announces itself as a
plug-in does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.studies import ROOT

PLUGIN = Path(__file__).parent / "plugin"

SPACE = """
target: paced
parameters:
  threads: {min: 1, max: 4, default: 1, flag: --threads, help: More are faster.}
"""

EXPERIMENT = """
target: {name: paced}
search_space: paced_space.yaml
budget: {trials: 4}
measurement: {min_seconds: 0.3, max_seconds: 0.4, window_seconds: 0.1, repeats: 0}
noise: {runs: 2, drift_every: 0}
verification: {finalists: 1, blocks: 4}
sampler: grid
"""


class Workplace:
    """A folder with an experiment, in which `autotune` finds the plug-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        metadata = folder / "site" / "paced_target-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: paced-target\nVersion: 1.0\n"
        )
        (metadata / "entry_points.txt").write_text(
            "[autotune.targets]\npaced = paced_target:Paced\n"
        )
        (folder / "paced_space.yaml").write_text(SPACE)
        (folder / "quick.yaml").write_text(EXPERIMENT)

    @property
    def environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE")}
        path = os.pathsep.join([str(ROOT), str(PLUGIN), str(self.folder / "site")])
        return {**clean, "PYTHONPATH": path, "COLUMNS": "80", "XDG_CACHE_HOME": str(self.folder)}

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "autotune", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=150)
        return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, str, str]:
    """A workplace where a study was launched, with what it printed."""
    workplace = Workplace(tmp_path_factory.mktemp("launch"))
    done = workplace.run("launch", "quick.yaml")
    assert done.returncode == 0, done.stderr
    return workplace, done.stdout, done.stderr


def test_the_result_goes_to_stdout(finished: tuple[Workplace, str, str]) -> None:
    _, out, _ = finished
    lines = out.splitlines()
    assert lines[0].startswith("Study quick: finished (trial ")
    assert re.fullmatch(
        r"Winner: trial \d, \d\.\d\dx \(\d\.\d\d to \d\.\d\d\), verified over 4 blocks; epoch .*",
        lines[1],
    )
    assert lines[2] == "Flags:  --threads 4"
    assert len(lines) == 3


def test_progress_is_one_plain_line_a_measurement_on_stderr(
    finished: tuple[Workplace, str, str],
) -> None:
    _, _, err = finished
    assert "\x1b" not in err
    measured = [line for line in err.splitlines() if line.startswith("[")]
    # A run that was disturbed by another program is made again, and has a line of its own.
    labels = {line.partition("] ")[2].partition(": ")[0] for line in measured}
    assert {label for label in labels if label.startswith("trial")} == {
        f"trial {number}" for number in range(4)
    }
    assert "baseline, run 2 of 2 for the noise floor" in labels
    assert {label for label in labels if label.startswith("block")} == {
        f"block {block}/4 {arm}" for block in range(1, 5) for arm in ("candidate", "baseline")
    }
    noise = [line for line in err.splitlines() if line.startswith("Noise floor ")]
    assert len(noise) == 1
    assert noise[0].endswith("(2 runs of the baseline, pooled with a prior).")
    assert re.match(r"\[1/4 trials\] trial 0: [\d.]+ samples/s \(.*; as the baseline$", measured[0])
    crashed = [line for line in measured if "] trial" in line and "failed (" in line]
    assert len(crashed) == 1
    assert "threads=3" in crashed[0]
    assert "status 9" in crashed[0]


def test_a_finished_study_launched_again_prints_its_result(
    finished: tuple[Workplace, str, str],
) -> None:
    workplace, out, _ = finished
    again = workplace.run("launch", "quick.yaml")
    assert (again.returncode, again.stdout) == (0, out)
    assert "trial 0" not in again.stderr
    as_json = workplace.run("launch", "quick.yaml", "-f", "json")
    result = json.loads(as_json.stdout)
    assert result["state"] == "finished"
    assert result["verified"] is True
    assert result["flags"] == "--threads 4"
    (winner,) = result["winners"]
    assert winner["trial"]["verification"]["ratio_low"] > 1
    assert result["across_workloads"] is None


def test_queries_answer_from_the_database(finished: tuple[Workplace, str, str]) -> None:
    workplace, _, _ = finished
    exported = workplace.run("export", "quick")
    assert (exported.returncode, exported.stdout) == (0, "--threads 4\n")
    trials = json.loads(workplace.run("trials", "quick", "-f", "json").stdout)
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    (failed,) = [trial for trial in trials if trial["failure"]]
    assert failed["samples_per_second"] is None
    assert failed["params"] == {"threads": 3}
    assert failed["state"] == "FAIL"


def test_a_changed_experiment_is_refused(finished: tuple[Workplace, str, str]) -> None:
    workplace, _, _ = finished
    refused = workplace.run("launch", "quick.yaml", "--set", "measurement.max_seconds=0.9")
    assert refused.returncode == 2
    assert "measurement.max_seconds: 0.4 -> 0.9" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_measure_prints_one_object(finished: tuple[Workplace, str, str]) -> None:
    workplace, _, _ = finished
    words = ("--set", "search_space=paced_space.yaml", "--max-time", "1s")
    done = workplace.run("measure", "paced", "--threads", "2", *words, "-f", "json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["params"] == {"threads": 2}
    assert result["ci_low"] < result["samples_per_second"] < result["ci_high"]
    assert result["failure"] is None
    assert not {"number", "state"} & result.keys()
    crashed = workplace.run("measure", "paced", "--threads=3", *words, "-f", "json")
    assert crashed.returncode == 1
    assert json.loads(crashed.stdout)["samples_per_second"] is None
    assert "Error: the measurement failed (" in crashed.stderr
    wrong = workplace.run("measure", "paced", "--thread", "2", *words)
    assert wrong.returncode == 2
    assert "--thread" in wrong.stderr
    assert "'--threads'" in wrong.stderr


@pytest.mark.long
def test_compare_prints_a_ratio_and_stores_nothing(finished: tuple[Workplace, str, str]) -> None:
    workplace, _, _ = finished
    short = ("--max-time", "0.4s", "--blocks", "4")
    space = ("--set", "search_space=paced_space.yaml", "--set", "measurement.window_seconds=0.1")
    measured = workplace.run("trials", "quick", "-f", "json").stdout
    done = workplace.run("compare", "paced --threads 4", "quick:baseline", *short, "-f", "json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["significant"] is True
    assert 2 < result["ratio_low"] <= result["ratio"] <= result["ratio_high"] < 8
    assert (result["a_flags"], result["b_flags"]) == ("--threads 4", "--threads 1")
    assert result["blocks"] == 4
    assert len([line for line in done.stderr.splitlines() if line.startswith("block ")]) == 8
    assert workplace.run("trials", "quick", "-f", "json").stdout == measured
    failed = workplace.run("compare", "paced --threads 3", "paced", *short, *space)
    assert failed.returncode == 1
    assert "Error: A failed (" in failed.stderr
    assert "result" not in failed.stdout
    wrong = workplace.run("compare", "pased --threads 3", "paced", *short, *space)
    assert wrong.returncode == 2
    assert "there is no target 'pased'" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Workplace, subprocess.Popen[str]]]:
    """A launch whose first measurement is under way and takes long."""
    workplace = Workplace(tmp_path)
    long = ("measurement.min_seconds=5", "measurement.max_seconds=5")
    overrides = [word for value in long for word in ("--set", value)]
    process = workplace.start("launch", "quick.yaml", *overrides)
    assert process.stderr is not None
    assert "Starting study 'quick'" in process.stderr.readline()
    time.sleep(1.0)
    yield workplace, process
    process.kill()
    process.communicate()


def test_ctrl_c_twice_stops_now_and_saves(
    running: tuple[Workplace, subprocess.Popen[str]],
) -> None:
    workplace, process = running
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "Finishing the measurement in flight; Ctrl-C again" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Stopping now." in err
    status = json.loads(workplace.run("status", "quick", "-f", "json").stdout)
    assert status["state"] == "interrupted"


def test_a_killed_driver_shows_as_interrupted(
    running: tuple[Workplace, subprocess.Popen[str]],
) -> None:
    workplace, process = running
    process.kill()
    process.wait()
    status = json.loads(workplace.run("status", "quick", "-f", "json").stdout)
    assert status["state"] == "interrupted"
    assert "launch it again" in status["reason"]


def test_stop_ends_it_after_the_measurement_in_flight_and_launching_goes_on(
    running: tuple[Workplace, subprocess.Popen[str]],
) -> None:
    workplace, process = running
    asked = workplace.run("stop", "quick", "-f", "json")
    assert json.loads(asked.stdout) == {"study": "quick", "state": "running", "asked": True}
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.startswith("Study quick: stopped (`autotune stop` asked for it; launch it again")
    trials = json.loads(workplace.run("trials", "quick", "-f", "json").stdout)
    assert [trial["samples_per_second"] is not None for trial in trials] == [True]
    status = json.loads(workplace.run("status", "quick", "-f", "json").stdout)
    assert status["state"] == "stopped"
    again = workplace.run("stop", "quick")
    assert again.returncode == 0
    assert "It does not run, so nothing was asked: `autotune stop` asked for it" in again.stderr
    unknown = workplace.run("stop", "quik")
    assert unknown.returncode == 2
    assert "did you mean 'quick'?" in unknown.stderr


@pytest.mark.long
def test_sigterm_finishes_the_measurement_and_saves(
    running: tuple[Workplace, subprocess.Popen[str]],
) -> None:
    workplace, process = running
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.startswith("Study quick: interrupted")
    trials = json.loads(workplace.run("trials", "quick", "-f", "json").stdout)
    assert [trial["samples_per_second"] is not None for trial in trials] == [True]

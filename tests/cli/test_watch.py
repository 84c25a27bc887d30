"""`autotune watch`: a study that runs, one that does not, and a command of the user's own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from autotune.cli.watch_view import bar, graph, plain_line, scaled, view
from autotune.live.lines import Line, QueueLine, StageLine
from autotune.live.usage import Usage
from autotune.live.watcher import Watcher
from tests.cli.test_launch_command import Workplace
from tests.studies import ROOT, MakeStudy, Run, Writer

# --------------------------------------------------------------------------- the view


class Told:
    """A channel that brings what a test made up."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines

    def read(self) -> list[Line]:
        found, self._lines = self._lines, []
        return found

    def close(self) -> None:
        self._lines = []


def told(count: int = 60, **changes: Any) -> list[Line]:
    """A line a second until now: decode is slow, so its own queue is empty and fetch's is full."""
    now = time.time()
    fields: dict[str, Any] = {
        "pid": 1,
        "seconds": 1.0,
        "samples": 1294,
        "frames": 20704,
        "batches": 81,
        "queues": [
            QueueLine(name="fetch", size=16, capacity=16, filled=0.99),
            QueueLine(name="decode", size=1, capacity=16),
            QueueLine(name="of the user's own, at length", size=3),
        ],
        "stages": [
            StageLine(name="fetch", concurrency=8, tasks=1294, busy_seconds=0.4),
            StageLine(name="decode", concurrency=16, tasks=1294, busy_seconds=15.2, failures=3),
            StageLine(name="sink", concurrency=1, tasks=81),
        ],
    }
    return [Line(time=now - count + i, **(fields | changes)) for i in range(1, count + 1)]


def drawn(watcher: Watcher, rows: list[tuple[str, str]], width: int = 80) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=False).print(view(rows, watcher, width))
    return file.getvalue().splitlines()


def test_the_view_fits_into_80_columns_and_shows_where_it_jams() -> None:
    watcher = Watcher(Told(told()), None)
    watcher.look()
    changed = "num_demux_threads=3 num_decode_threads=16 sink_buffer_size=5 " * 3
    lines = drawn(watcher, [("study", "kinetics: running, 7/40 trials done"), ("now", changed)])
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "1,294 samples/s, 20,704 fps" in text
    fetch = next(line for line in lines if line.startswith("fetch"))
    decode = next(line for line in lines if line.startswith("decode"))
    assert "██████████ 16/16" in fetch
    assert "░░░░░░░░░░ 1/16" in decode or "█░░░░░░░░░ 1/16" in decode
    assert "95 %" in decode
    assert "11.7" in decode
    assert "(3 failed)" not in fetch
    assert fetch.rstrip().endswith("█" * 14)
    sink = next(line for line in lines if line.startswith("sink"))
    assert "%" not in sink, "a stage that only hands over has no load"
    assert any(line.startswith("of the user") and line.rstrip().endswith("3") for line in lines)


def test_a_loader_that_fell_silent_says_for_how_long() -> None:
    old = [line.model_copy(update={"time": line.time - 45}) for line in told()]
    watcher = Watcher(Told(old), None)
    watcher.look()
    assert any("nothing published for 45 s" in line for line in drawn(watcher, []))


def test_a_loader_without_stages_and_queues_has_no_table() -> None:
    watcher = Watcher(Told(told(queues=[], stages=[])), None)
    watcher.look()
    lines = drawn(watcher, [("now", "a script")])
    assert [line.split()[0] for line in lines] == ["now", "rate"]


def test_before_anything_is_published_the_view_says_so() -> None:
    watcher = Watcher(Told([]), None)
    assert watcher.look() is None
    assert any("nothing published" in line for line in drawn(watcher, []))
    assert plain_line(None) == "nothing published"


def test_memory_of_living_processes_is_shown() -> None:
    mark = "AUTOTUNE_WATCHED_BY_THIS_TEST"
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
        env={**os.environ, mark: "yes"},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        watcher = Watcher(Told(told()), Usage(mark, "yes", process.pid))
        watcher.look()
        assert any("GiB in 1 process" in line for line in drawn(watcher, []))
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_small_graphs() -> None:
    assert graph([0.0, 0.5, 1.0, None, 2.0]) == "▁▅█ █"  # round half to even
    assert bar(0.5, 4) == "██░░"
    assert scaled([None, 1.0, 4.0]) == [None, 0.25, 1.0]
    assert scaled([None, 0.0]) == [None, None]


# --------------------------------------------------------------------------- input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "watch: give one of these: the name of a study"),
        (("study", "--pid", "1"), "watch: give one of these"),
        (("absent",), "no study 'absent'"),
        (("./absent",), "absent: No such file or directory. Give the folder, named pipe or file"),
        (("--pid", "999999999"), "--pid 999999999: there is no such process"),
        (("--",), "watch --: give the command to run"),
        (("--", "/nowhere/train"), "watch --: /nowhere/train: No such file or directory"),
        (("--once", "--", "true"), "--once: a command that is run is watched until it ends"),
        (("kinetics", "--interval", "soon"), "--interval: 'soon' is not a duration"),
    ],
)
def test_bad_input_is_one_message(
    run: Run, verified: Writer, words: tuple[str, ...], message: str
) -> None:
    done = run("watch", *words)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# --------------------------------------------------------------------------- a study


def test_a_study_that_is_over_shows_what_the_database_has(run: Run, verified: Writer) -> None:
    done = run("watch", "kinetics")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "study     kinetics: finished (trial 2 verified), 4/20 trials done, 0.0 s elapsed",
        done.stdout.splitlines()[1],
        "          num_demux_threads=3 sink_buffer_size=5",
        "now       it does not run",
    ]
    best = done.stdout.splitlines()[1]
    assert best.startswith("best      trial 2: 129 samples/s (")
    assert best.endswith("), verified")
    document = json.loads(run("watch", "kinetics", "-f", "json").stdout)
    assert document["state"] == "finished"
    assert document["best"]["number"] == 2
    assert (document["trial"], document["live"], document["note"]) == (
        None,
        None,
        "it does not run",
    )


def test_a_study_that_runs_on_another_machine_says_where(
    run: Run, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotune.storage import leases

    writer = make_study("elsewhere", state="running")
    with monkeypatch.context() as there:
        there.setattr(leases, "host_key", lambda: "another-boot:1")
        there.setattr("socket.gethostname", lambda: "gpu-node-7")
        writer.database.acquire_lease(writer.record.id, "somebody")
    done = run("watch", "elsewhere", "--once")
    assert done.exit_code == 0, done.output
    assert f"its driver is process {os.getpid()} on gpu-node-7" in done.stdout
    assert "queues are seen on the machine that measures" in done.stdout


class RunningStudy:
    """A study of the paced target that runs until it is interrupted."""

    def __init__(self, folder: Path) -> None:
        self.place = Workplace(folder)
        text = (folder / "quick.yaml").read_text()
        text = text.replace(
            "min_seconds: 0.3, max_seconds: 0.4", "min_seconds: 20, max_seconds: 20"
        )
        (folder / "long.yaml").write_text(text)
        self.driver = self.place.start("launch", "long.yaml")

    def end(self) -> None:
        for _ in range(2):  # the second stops the measurement in flight
            self.driver.send_signal(signal.SIGINT)
            time.sleep(0.2)
        self.driver.communicate(timeout=60)


@pytest.fixture
def running(tmp_path: Path) -> Any:
    study = RunningStudy(tmp_path)
    deadline = time.monotonic() + 60
    while study.place.run("status", "long", "-f", "json").returncode != 0:
        assert study.driver.poll() is None
        assert time.monotonic() < deadline
    yield study
    if study.driver.poll() is None:
        study.end()


def test_a_running_study_is_watched_from_outside_and_left_alone(running: RunningStudy) -> None:
    viewer = running.place.start("watch", "long", "-f", "json", "--interval", "0.3s")
    assert viewer.stdout is not None
    seen: dict[str, Any] = {}
    for line in viewer.stdout:
        seen = json.loads(line)
        if seen["live"] and seen["live"]["samples_per_second"] > 0:
            break
    assert seen["state"] == "running"
    assert seen["trial"]["params"] == {"threads": 1}
    assert seen["live"]["fps"] == pytest.approx(16 * seen["live"]["samples_per_second"])
    assert seen["live"]["memory_gib"] > 0
    viewer.stdout.close()  # as `head` does
    assert viewer.wait(timeout=30) == 0
    assert viewer.stderr is not None
    assert "Traceback" not in viewer.stderr.read()
    viewer.stderr.close()
    assert running.driver.poll() is None


@pytest.mark.long
def test_once_by_process_and_until_ctrl_c(running: RunningStudy) -> None:
    once = running.place.run("watch", "long", "--once")
    assert once.returncode == 0, once.stderr
    deadline = time.monotonic() + 60
    while "samples/s" not in once.stdout:  # its first trial was not there yet
        assert time.monotonic() < deadline, once.stdout
        once = running.place.run("watch", "long", "--once")
    assert once.stdout.splitlines()[0].startswith("study     long: running, 0/4 trials done")
    assert "samples/s" in once.stdout.splitlines()[-1]

    by_pid = running.place.run("watch", "--pid", str(running.driver.pid), "--once")
    assert "samples/s" in by_pid.stdout, by_pid.stderr

    viewer = running.place.start("watch", "long")
    assert viewer.stdout is not None
    viewer.stdout.readline()
    viewer.send_signal(signal.SIGINT)
    assert viewer.wait(timeout=30) == 0, "leaving is how watching ends"
    viewer.communicate()
    assert running.driver.poll() is None


# --------------------------------------------------------------------------- a command

TRAIN = """
import sys, time
from autotune import probe
probe.queue("mine", [1, 2, 3], 4)
for _ in range(150):
    time.sleep(0.01)
    probe.step(samples=8)
print("trained")
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("status", [pytest.param(0, marks=pytest.mark.long), 3])
def test_a_command_is_run_watched_and_its_status_handed_on(tmp_path: Path, status: int) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE")}
    words = ["watch", "-f", "json", "--interval", "0.5s", "--", sys.executable, "train.py"]
    done = subprocess.run(
        [sys.executable, "-m", "autotune", *words, str(status)],
        cwd=tmp_path,
        env={**clean, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    points = [json.loads(line)["live"] for line in done.stdout.splitlines()]
    seen = [point for point in points if point is not None]
    assert any(point["samples_per_second"] > 0 for point in seen)
    assert {queue["name"] for point in seen for queue in point["queues"]} == {"mine"}
    assert "trained" in done.stderr, "what it prints does not mix with the lines"
    assert os.listdir(tmp_path) == ["train.py"], "no folder is left behind"

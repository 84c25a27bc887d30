"""Every way a worker can end, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import FOLDER, ROOT, marked, specification, wait_for

from autotune.manifest import scan
from autotune.supervision.cleanup import end_leftovers
from autotune.supervision.supervisor import child_environment, supervise
from autotune.supervision.verdict import ADVICE, Evidence, judge
from autotune.system import processes
from autotune.trial import (
    STUDY_MARK,
    TRIAL_MARK,
    Event,
    PreparingEvent,
    StartedEvent,
    TrialResult,
    TrialSpec,
    WindowEvent,
)


@pytest.fixture(autouse=True)
def _targets_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}{ROOT}")


def fail(spec: TrialSpec, stop: threading.Event | None = None) -> TrialResult:
    result = supervise(spec, stop=stop)
    assert result.state == "failed", result
    assert result.measurement is None
    assert result.failure is not None
    assert result.failure.advice
    assert marked(spec) == []
    return result


def test_a_measurement_finishes_with_its_figures_and_leaves_nothing() -> None:
    events: list[Event] = []
    spec = specification(settings={"prefetched": 30, "failed_share": 0.02})
    result = supervise(spec, events.append)
    assert result.state == "finished", result
    figures = result.measurement
    assert figures is not None
    assert 200 < figures.samples_per_second < 400, "30 batches at once must not count"
    assert figures.fps == pytest.approx(16 * figures.samples_per_second)
    assert figures.decoded_fps == pytest.approx(20 * figures.samples_per_second)
    assert figures.unique_frames == 14
    assert figures.within_low <= figures.samples_per_second <= figures.within_high
    assert figures.failed > 0
    assert figures.failed_clips[0].name == "a/bad.mp4"
    assert figures.readback == spec.params
    assert [e.event for e in events][:3] == ["started", "built", "first_batch"]
    assert events[-1].event == "finished"
    assert [w.index for w in result.windows] == list(range(len(result.windows)))
    assert not result.windows[0].steady
    assert result.windows[-1].steady
    assert list(result.timeline)[:2] == ["started", "built"]
    assert result.timeline["finished"] <= result.timeline["exited"] <= result.wall_seconds
    assert result.exit_code == 0
    assert result.log_tail == ""
    assert "autotune.worker" in result.command_line
    assert marked(spec) == []


def test_the_worker_starts_anew_in_the_environment_that_the_target_asks_for() -> None:
    seen: list[Event] = []
    spec = specification(settings={"library": "first"})
    result = supervise(spec, seen.append)
    assert result.measurement is not None
    assert result.measurement.versions["given"] == "first"
    started = next(e for e in seen if isinstance(e, StartedEvent))
    assert started.environment == {"SYNTHETIC_LIBRARY": "first"}
    # a wrong guess is corrected, and one for a target that asks for nothing is taken back
    for settings, expected in [({"library": "second"}, "second"), ({}, "")]:
        result = supervise(specification(settings=settings), ahead=started.environment)
        assert result.measurement is not None
        assert result.measurement.versions["given"] == expected


@pytest.mark.parametrize(
    ("settings", "kind", "cause"),
    [
        ({"fault": (20, "segfault")}, "crash", "killed by SIGSEGV"),
        ({"fault": (20, "exit")}, "crash", "status 7"),
        ({"fault": (-1, "exit")}, "start_up", "status 7"),
        ({"fault": (20, "error")}, "crash", "RuntimeError: the decoder is broken"),
        ({"fault": (-1, "error")}, "start_up", "RuntimeError: the decoder is broken"),
        ({"fault": (20, "data_error")}, "data", "b/odd.mp4: no video stream"),
        ({"fault": (20, "memory_error")}, "host_out_of_memory", "MemoryError"),
        ({"fault": (20, "garbage")}, "crash", "Segmentation fault (no event)"),
        ({"fault": (20, "sigkill")}, "crash", "killed by SIGKILL"),
        ({"error_in_build": "no such codec"}, "start_up", "ValueError: no such codec"),
        ({"unsupported": True}, "unsupported", "no GPU; use device: cpu"),
        ({"failed_share": 0.5}, "data", "a/bad.mp4: no frame"),
        ({"failed_share": 1.0}, "data", "a/bad.mp4: no frame"),
        ({"built": {"num_threads": 4}}, "start_up", "num_threads: asked for 1, built 4"),
        ({"not_read_back": ["num_threads"]}, "start_up", "not read back"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_failure_is_named_by_what_happened(
    settings: dict[str, object], kind: str, cause: str
) -> None:
    result = fail(specification(settings=settings))
    assert result.failure is not None
    assert result.failure.kind == kind
    assert cause in result.failure.cause
    assert "\n" not in result.failure.cause


def test_an_unknown_target_names_what_is_wrong() -> None:
    result = fail(specification(target="synthetic:Nothing"))
    assert result.failure is not None
    assert result.failure.kind == "start_up"
    assert "synthetic:Nothing" in result.failure.cause


def test_an_interpreter_that_is_not_there_is_a_failed_start() -> None:
    result = supervise(specification(), python="/nowhere/python")
    assert result.failure is not None
    assert result.failure.kind == "start_up"
    assert "/nowhere/python" in result.log_tail


@pytest.mark.parametrize("how", ["hang", "hang_with_the_gil"])
def test_silence_is_a_hang_and_its_children_end_too(how: str) -> None:
    limits = {"startup_seconds": 40, "silence_seconds": 1.0, "shutdown_seconds": 2}
    settings = {"fault": (40, how), "forkserver": True}
    result = fail(specification(settings=settings, limits=limits))
    assert result.failure is not None
    assert result.failure.kind == "hang"
    assert "no event for 1 s" in result.failure.cause


def test_no_first_batch_in_time_is_a_hang_that_says_so() -> None:
    limits = {"startup_seconds": 2.0, "silence_seconds": 20, "shutdown_seconds": 2}
    result = fail(specification(settings={"slow_start": 60}, limits=limits))
    assert result.failure is not None
    assert result.failure.kind == "hang"
    assert "no first batch within 2 s" in result.failure.cause


def _with_a_slow_clip(folder: Path) -> tuple[str, Path]:
    """A manifest, and its only clip: a named pipe, which opens for reading once it is written."""
    clip = folder / "clips" / "a" / "clip.mp4"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(b"x")
    manifest = scan(folder / "clips").write(folder)
    clip.unlink()
    os.mkfifo(clip)
    return str(manifest), clip


def test_preparing_the_files_has_a_limit_of_its_own(tmp_path: Path) -> None:
    manifest, _ = _with_a_slow_clip(tmp_path)
    limits = {"startup_seconds": 40, "preparation_seconds": 1.0, "shutdown_seconds": 2}
    result = fail(specification(manifest=manifest, limits=limits))
    assert result.failure is not None
    assert result.failure.kind == "infrastructure", "no configuration is to blame"
    assert "measurement.page_cache" in result.failure.cause
    assert "within 1 s" in result.failure.cause
    assert "limits.preparation_seconds" in result.failure.advice


@pytest.mark.long
def test_preparing_the_files_is_no_part_of_the_start_up(tmp_path: Path) -> None:
    manifest, clip = _with_a_slow_clip(tmp_path)
    limits = {"startup_seconds": 8.0, "preparation_seconds": 40, "shutdown_seconds": 10}

    def appear_late(event: Event) -> None:
        if isinstance(event, PreparingEvent):
            threading.Timer(8.5, lambda: os.close(os.open(clip, os.O_WRONLY))).start()

    result = supervise(specification(manifest=manifest, limits=limits), appear_late)
    assert result.state == "finished", result
    assert result.timeline["prepared"] - result.timeline["preparing"] > 8.0


def test_a_worker_that_measures_past_its_deadline_is_ended() -> None:
    # two batches give no rate, so the worker goes on; its windows are no silence
    limits = {"startup_seconds": 40, "silence_seconds": 3.0, "shutdown_seconds": 0.1}
    measurement = {"min_seconds": 0.1, "max_seconds": 0.1, "window_seconds": 0.05}
    spec = specification(
        settings={"seconds_per_batch": 1.5}, limits=limits, measurement=measurement
    )
    result = fail(spec)
    assert result.failure is not None
    assert result.failure.kind == "deadline"


@pytest.mark.parametrize("how", ["hang_in_close", "thread_stays"])
def test_a_finished_measurement_survives_a_bad_shutdown(how: str) -> None:
    limits = {"startup_seconds": 40, "silence_seconds": 20, "shutdown_seconds": 1.5}
    spec = specification(settings={how: True}, limits=limits)
    result = supervise(spec)
    assert result.state == "finished"
    assert "did not end within" in result.log_tail
    assert marked(spec) == []


def test_stop_ends_the_measurement_and_all_its_processes() -> None:
    stop = threading.Event()

    def on_event(event: Event) -> None:
        if isinstance(event, WindowEvent):
            stop.set()

    measurement = {"min_seconds": 60, "max_seconds": 60, "window_seconds": 0.1}
    spec = specification(settings={"forkserver": True}, measurement=measurement)
    result = supervise(spec, on_event, stop)
    assert result.state == "stopped"
    assert result.failure is None
    assert result.windows
    assert marked(spec) == []


def test_a_display_that_raises_costs_no_measurement() -> None:
    def on_event(event: Event) -> None:
        raise OSError("terminal gone")

    assert supervise(specification(), on_event).state == "finished"


def test_two_ranks_are_summed_over_the_time_they_share() -> None:
    spec = specification(ranks=2, settings={"prefetched": 20, "library": "x"})
    result = supervise(spec)
    assert result.state == "finished", result
    figures = result.measurement
    assert figures is not None
    assert [r.rank for r in figures.ranks] == [0, 1]
    total = sum(r.samples_per_second for r in figures.ranks)
    assert figures.samples_per_second == pytest.approx(total, rel=0.01)
    assert 300 < figures.samples_per_second < 800
    assert figures.slowest_rank == min(r.samples_per_second for r in figures.ranks)
    assert figures.resources.processes >= 3
    first = [min(w.start for w in result.windows if w.rank == rank) for rank in (0, 1)]
    assert result.timeline["first_batch"] <= result.timeline["window"]
    assert abs(first[0] - first[1]) < 2.0, "no rank counts before all are ready"
    assert marked(spec) == []


def test_the_barrier_waits_for_the_last_rank() -> None:
    spec = specification(ranks=2, settings={"slow_rank": 1, "slow_start": 1.0})
    ready: list[float] = []
    windows: list[float] = []

    def on_event(event: Event) -> None:
        if event.event == "first_batch":
            ready.append(event.time)
        elif isinstance(event, WindowEvent):
            windows.append(event.window.start)

    assert supervise(spec, on_event).state == "finished"
    assert len(ready) == 2
    assert max(ready) <= min(windows)


def test_one_rank_that_fails_ends_all() -> None:
    spec = specification(ranks=2, settings={"fault": (20, "error"), "fault_rank": 1})
    result = fail(spec)
    assert result.failure is not None
    assert result.failure.kind == "crash"
    assert result.failure.cause == "rank 1: RuntimeError: the decoder is broken"


def test_the_silence_of_one_rank_is_a_hang_although_the_others_speak() -> None:
    spec = specification(
        ranks=2,
        settings={"fault": (20, "hang"), "fault_rank": 1},
        measurement={"min_seconds": 30, "max_seconds": 60, "window_seconds": 0.1},
        limits={"startup_seconds": 40, "silence_seconds": 2, "shutdown_seconds": 1},
    )
    result = fail(spec)
    assert result.failure is not None
    assert result.failure.kind == "hang"
    assert "no event for 2 s" in result.failure.cause
    assert "of rank 1" in result.failure.cause
    assert result.wall_seconds < 30


def test_a_rank_that_waits_for_another_s_first_batch_is_not_silent() -> None:
    spec = specification(
        ranks=2,
        settings={"slow_rank": 1, "slow_start": 3.0},
        limits={"startup_seconds": 40, "silence_seconds": 2, "shutdown_seconds": 10},
    )
    assert supervise(spec).state == "finished"


# ------------------------------------------------------------------ the supervisor dies


@pytest.fixture
def driver() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def start_driver(kind: str, spec: TrialSpec) -> subprocess.Popen[str]:
    command = [sys.executable, f"{FOLDER}/driver.py", kind, spec.model_dump_json()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_window(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "window":
            return
    pytest.fail("the driver ended before its first window")


LONG = {"min_seconds": 600, "max_seconds": 600, "window_seconds": 0.1}


@pytest.mark.parametrize(("ranks", "fault"), [(1, ""), (2, ""), (1, "hang_with_the_gil")])
def test_nothing_outlives_a_driver_that_is_killed(
    driver: list[subprocess.Popen[str]], ranks: int, fault: str
) -> None:
    segment = f"autotune-test-{os.getpid()}-{ranks}{len(fault)}"
    settings: dict[str, object] = {"forkserver": True}
    if ranks == 1:
        settings["segment"] = segment
    if fault:
        settings["fault"] = (200, fault)
    spec = specification(settings=settings, measurement=LONG, ranks=ranks)
    driver.append(start_driver("local", spec))
    wait_for_window(driver[0])
    assert len(marked(spec)) >= 4, "worker, guardian, forkserver and its child"
    if ranks == 1:
        threading.Event().wait(1.5)  # the guardian looks at shared memory once a second
        assert os.path.exists(f"/dev/shm/{segment}")
    os.kill(driver[0].pid, signal.SIGKILL)
    driver[0].wait()
    assert wait_for(lambda: not marked(spec), 10), [processes.command_of(p) for p in marked(spec)]
    assert wait_for(lambda: not os.path.exists(f"/dev/shm/{segment}"), 5)


def test_leftovers_of_a_study_are_ended_and_others_kept() -> None:
    spec = specification()
    marks = {TRIAL_MARK: spec.uuid, STUDY_MARK: spec.study}
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    living = child_environment(marks)
    orphaned = {**living, processes.SUPERVISOR_MARK: "1:1"}
    other = {**orphaned, STUDY_MARK: "another"}
    started = [subprocess.Popen(sleep, env=env) for env in (orphaned, living, other)]
    try:
        assert wait_for(lambda: len(processes.marked(STUDY_MARK, spec.study)) == 2)
        ended = end_leftovers(spec.study)
        assert len(ended) == 1
        assert started[0].wait(timeout=5) == -signal.SIGTERM
        assert [p.poll() for p in started[1:]] == [None, None]
        assert end_leftovers(spec.study) == []
    finally:
        for process in started:
            process.kill()
            process.wait()


# ------------------------------------------------------------------ evidence


def test_memory_kills_are_told_from_other_kills_by_the_kernels_counter() -> None:
    killed = Evidence(exit_code=-9, last_event="window", had_batch=True)
    assert judge(killed).kind == "crash"
    killed.memory_killed = True
    assert judge(killed).kind == "host_out_of_memory"


def test_every_kind_of_failure_has_advice() -> None:
    assert all(ADVICE.values())

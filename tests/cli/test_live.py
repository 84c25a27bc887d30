"""The view of a running study, on a terminal of 80 columns and in a pipe."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest
from rich.console import Console

from autotune.cli.live import LiveObserver, OnceObserver, PlainObserver
from autotune.measure import once_progress
from autotune.study.observer import StudyProgress
from autotune.trial import (
    Failure,
    Fingerprint,
    FirstBatchEvent,
    NodeInfo,
    Params,
    StartedEvent,
    TrialResult,
    Window,
    WindowEvent,
)
from tests.studies import BASELINE, params, result

NODE = NodeInfo(node="node-1", fingerprint=Fingerprint(), names={}, num_samples=240_000)


def progress(**changes: Any) -> StudyProgress:
    fields: dict[str, Any] = {
        "study": "kinetics",
        "trials_done": 7,
        "trials_total": 20,
        "elapsed": 600.0,
        "time_left": 1860.0,
        "best_number": 4,
        "best_params": params(num_demux_threads=3),
        "best_rate": 128.0,
        "baseline_rate": 16.0,
        "num_samples": 240_000,
    }
    return StudyProgress(**fields | changes)


def window(rate: float | None, steady: bool = True) -> WindowEvent:
    return WindowEvent(
        time=2.0,
        window=Window(index=1, start=1.0, end=1.25, samples=30, steady=steady),
        samples_per_second=rate,
        low=None if rate is None else rate * 0.9,
        high=None if rate is None else rate * 1.1,
    )


def unsteady(outcome: TrialResult) -> TrialResult:
    assert outcome.measurement is not None
    changed = outcome.measurement.model_copy(update={"steady": False})
    return outcome.model_copy(update={"measurement": changed})


class Screen:
    """A terminal in memory and a view on it."""

    def __init__(self, **options: Any) -> None:
        self.file = io.StringIO()
        console = Console(file=self.file, force_terminal=True, width=80, height=24)
        self.started = threading.Event()
        self.view = LiveObserver(BASELINE, self.started.set, console, **options)

    def text(self) -> str:
        console = Console(file=io.StringIO(), width=80, color_system=None)
        with console.capture() as capture:
            console.print(self.view.render())
        return capture.get()


def test_it_shows_what_is_measured_and_the_best_so_far() -> None:
    screen = Screen()
    view = screen.view
    view.study_started("kinetics", False, [NODE], ["num_demux_threads"], "gp")
    assert screen.started.is_set()
    changed = params(num_demux_threads=5, sink_buffer_size=6)
    view.measurement_started("u", "trial 7", changed, progress())
    assert "trial 7, starting" in screen.text()
    view.measurement_event("u", StartedEvent(time=0.1, pid=1))
    assert "trial 7, building the pipeline" in screen.text()
    view.measurement_event("u", FirstBatchEvent(time=1.0, seconds=1.0))
    view.measurement_event("u", window(None, steady=False))
    assert "trial 7, warming up" in screen.text()
    view.measurement_event("u", window(100.0))
    text = screen.text()
    assert "trial 7, measuring" in text
    assert "100 samples/s (90.0 to 110), epoch 40 min" in text
    assert "num_demux_threads=5 sink_buffer_size=6" in text
    assert "kinetics  search | 7/20 trials done | 10 min elapsed | 31 min left" in text
    assert "trial 4: 128 samples/s, ~8.00x the baseline, epoch 4 h 10 min -> 31 min" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_a_measurement_of_no_study_is_shown_without_one() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, color_system=None)
    started = threading.Event()
    view = OnceObserver(started.set, console, tells_runs=True)
    once = once_progress("compare", NODE)
    view.study_started("compare", False, [NODE], [], "none")
    assert started.is_set()
    view.measurement_started("u", "block 1/6 A", params(), once)
    view.measurement_event("u", window(100.0))
    with console.capture() as capture:
        console.print(view.render())
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert lines[0].startswith("compare  ")
    assert lines[0].endswith(" elapsed")
    assert lines[1].startswith("now      block 1/6 A, measuring, ")
    assert lines[2] == "         100 samples/s (90.0 to 110), epoch 40 min"
    assert len(lines) == 3, "no trials, no baseline, no best"
    view.measurement_finished("u", "block 1/6 A", params(), result("u", 100.0), None, once)
    assert file.getvalue() == "block 1/6 A: 100 samples/s, epoch 40 min\n"


def test_it_shows_the_last_measurements_with_their_failures() -> None:
    screen = Screen()
    view = screen.view
    failure = Failure(kind="hang", cause="no event for 30 s [last event: built]")
    for number in range(6):
        label = f"trial {number}"
        outcome = result("u", 100.0 + number) if number < 5 else result("u", None, failure)
        view.measurement_started("u", label, BASELINE, progress())
        view.measurement_finished("u", label, BASELINE, outcome, (95.0, 111.0), progress())
    text = screen.text()
    assert "trial 5: failed (hang): no event for 30 s [last event: built]" in text
    assert "trial 4: 104 samples/s (95.0 to 111)" in text
    assert "trial 1" not in text
    assert "now " not in text


@pytest.mark.parametrize("phase", ["verification", "noise floor", "drift check"])
def test_what_it_measures_for_is_named(phase: str) -> None:
    screen = Screen()
    label = "block 2/4 candidate"
    screen.view.measurement_started("u", label, BASELINE, progress(phase=phase))
    text = screen.text()
    assert f"{phase} | 7/20 trials" in text
    assert "block 2/4 candidate, starting" in text


def test_no_gain_is_shown_across_workloads() -> None:
    screen = Screen(comparable=lambda p: p["subclip_duration"] == 2.0)
    other = params(subclip_duration=0.5)
    screen.view.measurement_started("u", "trial 8", other, progress(best_params=other))
    text = screen.text()
    assert "trial 4: 128 samples/s, epoch 31 min" in text
    assert "the baseline" not in text.replace("as the baseline", "")


def test_events_of_another_measurement_are_ignored() -> None:
    screen = Screen()
    screen.view.measurement_event("unknown", window(1.0))
    assert "samples/s" not in screen.text()


def test_the_view_leaves_nothing_running_and_prints_late_messages() -> None:
    screen = Screen()
    before = threading.active_count()
    with screen.view as view:
        view.note("A note with [brackets].")
        view.later("Finishing the measurement in flight.")
        for _ in range(100):
            if "Finishing" in screen.file.getvalue():
                break
            threading.Event().wait(0.05)
    assert threading.active_count() == before
    assert "A note with [brackets]." in screen.file.getvalue()
    assert "Finishing the measurement in flight." in screen.file.getvalue()


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (
            result("u", 128.0),
            "[7/20 trials] trial 7: 128 samples/s (120 to 136), epoch 31 min; "
            "num_demux_threads=3\n",
        ),
        (
            unsteady(result("u", 128.0)),
            "[7/20 trials] trial 7: 128 samples/s (120 to 136), epoch 31 min, not steady; "
            "num_demux_threads=3\n",
        ),
        (
            result("u", None, Failure(kind="crash", cause="SIGSEGV")),
            "[7/20 trials] trial 7: failed (crash): SIGSEGV; num_demux_threads=3\n",
        ),
        (
            TrialResult(uuid="u", state="stopped"),
            "[7/20 trials] trial 7: stopped; num_demux_threads=3\n",
        ),
    ],
)
def test_a_pipe_gets_one_line_a_measurement(
    outcome: TrialResult, expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    observer = PlainObserver(BASELINE, lambda: None)
    changed: Params = params(num_demux_threads=3)
    interval = (120.0, 136.0) if outcome.measurement else None
    observer.measurement_started("u", "trial 7", changed, progress())
    observer.measurement_event("u", window(100.0))
    observer.measurement_finished("u", "trial 7", changed, outcome, interval, progress())
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", expected)

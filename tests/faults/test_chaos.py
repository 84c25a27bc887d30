"""A short chaos run; the long one is `python -m experiments.benchmarks.chaos --faults 500`."""

from __future__ import annotations

import random
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks.chaos import check, run
from experiments.benchmarks.chaos_faults import Hit, kill_raylet
from experiments.benchmarks.chaos_scene import Scene
from experiments.benchmarks.faulty import Fault, drawn
from tests.targets_for_tests.helpers import wait_for

BEHAVES = 0
CRASHES = next(n for n in range(10_000) if drawn(n) == Fault("segfault", "middle"))


def test_nothing_is_lost_doubled_misnamed_or_left_by_random_faults(tmp_path: Path) -> None:
    outcome = run(tmp_path, "local", faults=15, seed=1, pause=0.7, seconds=150)
    assert outcome.injected >= 15
    assert outcome.measurements > 0
    assert outcome.lost == []
    assert outcome.doubled == []
    assert outcome.wrong == []
    assert outcome.left == []


# ------------------------------------------------------------------ signals to the driver


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    found = Scene(tmp_path, "local", seed=2)
    yield found
    found.end()


def ended(scene: Scene, *signals: signal.Signals) -> int:
    """The status of a driver that got these signals while it measured."""
    scene.launch()
    driver = scene.driver
    assert driver is not None
    assert wait_for(lambda: driver.poll() is not None or scene.trial(), 60)
    measured = len(scene.query("SELECT 1 FROM autotune_trials WHERE state <> 'RUNNING'"))
    assert wait_for(
        lambda: (
            len(scene.query("SELECT 1 FROM autotune_trials WHERE state <> 'RUNNING'")) > measured
        ),
        60,
    )
    assert wait_for(scene.trial, 30)
    for signum in signals:
        driver.send_signal(signum)
    status = driver.wait(60)
    left = scene.nothing_left()
    if status < 0:
        # killed before the worker had its guardian: the next launch takes the folder away
        left = [what for what in left if not what.startswith(tempfile.gettempdir())]
    assert left == []
    assert scene.query("SELECT 1 FROM autotune_leases") == [] or status < 0
    return status


@pytest.mark.long
def test_a_driver_ends_in_order_by_its_signals_and_goes_on_after_each(scene: Scene) -> None:
    assert ended(scene, signal.SIGINT) == 130
    assert ended(scene, signal.SIGTERM) == 130
    assert ended(scene, signal.SIGINT, signal.SIGINT) == 130
    assert ended(scene, signal.SIGKILL) == -signal.SIGKILL
    assert ended(scene, signal.SIGINT) == 130
    assert scene.query("SELECT 1 FROM autotune_trials WHERE state = 'RUNNING'") == []


@pytest.mark.long
def test_a_study_goes_on_after_its_raylet_was_killed(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "ray", seed=3)
    finished = "SELECT uuid FROM autotune_measurements WHERE state = 'finished'"
    try:
        scene.launch()
        assert wait_for(scene.trial, 90)
        assert kill_raylet(scene, random.Random(0)) is not None
        before = set(scene.query(finished))
        assert wait_for(scene.driver_ended, 60)
        scene.launch()
        assert wait_for(lambda: set(scene.query(finished)) - before, 90)
        assert before <= set(scene.query(finished))
    finally:
        scene.end()
    assert scene.nothing_left() == []


# ------------------------------------------------------------------ the check itself can fail


def row(uuid: str, number: int, state: str = "finished", kind: str | None = None) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "trial": int(uuid, 16),
        "attempt": None,
        "role": "search",
        "state": state,
        "kind": kind,
        "cause": "",
        "number": number,
    }


def test_a_lost_measurement_is_found_unless_a_kill_took_it() -> None:
    assert check([], {"a": 10.0}, []).lost == ["a"]
    kill = Hit("driver SIGKILL", 11.0, None, frozenset(), takes=True)
    assert check([], {"a": 10.0}, [kill]).lost == []
    assert check([], {"a": 10.0, "b": 10.5}, [kill]).lost == ["b"], "a kill takes one at most"
    assert check([], {"a": 12.0}, [kill]).lost == ["a"]


def test_a_wrong_kind_and_a_double_are_found() -> None:
    assert check([row("a", BEHAVES)], {}, []).good
    assert check([row("a", CRASHES, "failed", "crash")], {}, []).good
    assert check([row("a", CRASHES, "failed", "hang")], {}, []).wrong
    assert check([row("a", BEHAVES, "failed", "crash")], {}, []).wrong
    hit = Hit("worker SIGKILL", 1.0, "a", frozenset({"crash"}))
    assert check([row("a", BEHAVES, "failed", "crash")], {}, [hit]).good
    assert check([row("a", BEHAVES), row("a", BEHAVES)], {}, []).doubled == ["a", "trial 10"]

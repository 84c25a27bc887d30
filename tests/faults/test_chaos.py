"""A short chaos run; the long one is `python -m experiments.benchmarks.chaos --faults 500`."""

from __future__ import annotations

import random
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks.chaos import run
from experiments.benchmarks.chaos_check import check, check_launches
from experiments.benchmarks.chaos_faults import kill_raylet
from experiments.benchmarks.chaos_plans import PLANS, SHORT
from experiments.benchmarks.chaos_scene import Hit, Launch, Scene
from experiments.benchmarks.faulty import Fault, drawn
from tests.targets_for_tests.helpers import wait_for

BEHAVES = 0
CRASHES = next(n for n in range(10_000) if drawn(n) == Fault("segfault", "middle"))


def test_nothing_is_lost_doubled_misnamed_or_left_by_random_faults(tmp_path: Path) -> None:
    outcome = run(tmp_path, "local", faults=15, seed=1, pause=0.7, seconds=150, plans=[SHORT])
    assert outcome.injected >= 15
    assert outcome.measurements > 0
    assert outcome.lost == []
    assert outcome.doubled == []
    assert outcome.wrong == []
    assert outcome.wrong_endings == []
    assert outcome.left == []


# ------------------------------------------------------------------ signals to the driver


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    found = Scene(tmp_path, "local", seed=2, plans=PLANS[:1])
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
    scene = Scene(tmp_path, "ray", seed=3, plans=PLANS[:1])
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


def row(
    uuid: str, number: int, state: str = "finished", kind: str | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "study": "chaos",
        "trial": int(uuid, 16),
        "attempt": None,
        "role": "search",
        "block": None,
        "arm": None,
        "state": state,
        "kind": kind,
        "cause": "",
        "number": number,
        "noise_runs": 2,
        "contaminated": False,
        "superseded": False,
        "samples_per_second": 100.0,
    } | more


@pytest.mark.parametrize("role", ["search", "noise", "drift", "selection", "verification"])
def test_a_lost_measurement_is_found_unless_a_kill_took_it(role: str) -> None:
    assert check([row("a", BEHAVES, role=role)], {"a": 10.0}, []).lost == []
    failed = row("a", BEHAVES, "failed", "crash", role=role)
    assert check([failed], {"a": 10.0}, []).lost == ["a"]
    assert check([], {"a": 10.0}, []).lost == ["a"]
    kill = Hit("driver SIGKILL", 11.0, None, takes=True)
    assert check([], {"a": 10.0}, [kill]).lost == []
    assert check([], {"a": 10.0, "b": 10.5}, [kill]).lost == ["b"], "a kill takes one at most"
    assert check([], {"a": 12.0}, [kill]).lost == ["a"]


def test_a_wrong_kind_and_a_double_are_found() -> None:
    assert check([row("a", BEHAVES)], {}, []).findings == []
    assert check([row("a", CRASHES, "failed", "crash")], {}, []).findings == []
    assert check([row("a", CRASHES, "failed", "hang")], {}, []).wrong
    assert check([row("a", BEHAVES, "failed", "crash")], {}, []).wrong
    hit = Hit("worker SIGKILL", 1.0, "a", frozenset({"crash"}))
    assert check([row("a", BEHAVES, "failed", "crash")], {}, [hit]).findings == []
    assert check([row("a", BEHAVES), row("a", BEHAVES)], {}, []).doubled == [
        "a",
        "chaos trial 10 None",
    ]


def of_trial(trial: int, role: str, uuids: str, **more: Any) -> list[dict[str, Any]]:
    return [row(uuid, BEHAVES, trial=trial, role=role, **more) for uuid in uuids]


def test_repeats_of_the_baseline_beyond_those_asked_for_are_found() -> None:
    baseline = of_trial(0, "baseline", "a")
    assert check([*baseline, *of_trial(0, "noise", "b")], {}, []).findings == []
    assert check([*baseline, *of_trial(0, "noise", "bc")], {}, []).doubled
    disturbed = of_trial(0, "noise", "b", contaminated=True)
    assert check([*baseline, *disturbed, *of_trial(0, "noise", "c")], {}, []).findings == []
    look = of_trial(0, "drift", "bc")
    later = [*of_trial(1, "search", "d"), *of_trial(0, "drift", "ef")]
    assert check([*baseline, *look, *later], {}, []).findings == []
    assert check([*baseline, *look, *of_trial(0, "drift", "ef")], {}, []).doubled


def test_a_selection_run_that_was_known_already_is_found() -> None:
    runs = of_trial(1, "selection", "a", arm="candidate", block=0)
    again = of_trial(1, "selection", "b", arm="candidate", block=0)
    assert check([*runs, *again], {}, []).doubled
    other = of_trial(1, "selection", "b", arm="baseline", block=0)
    assert check([*runs, *other], {}, []).findings == []
    assert check([*runs, *of_trial(2, "search", "c"), *again], {}, []).findings == []


def block(uuids: str, *, arms: str = "cb", **more: Any) -> list[dict[str, Any]]:
    names = {"c": "candidate", "b": "baseline"}
    return [
        row(uuid, BEHAVES, trial=1, role="verification", block=0, arm=names[arm], **more)
        for uuid, arm in zip(uuids, arms, strict=True)
    ]


def test_a_verification_block_that_was_complete_is_not_measured_again() -> None:
    assert check(block("ab"), {}, []).findings == []
    assert check([*block("ab"), *block("cd", arms="bc")], {}, []).doubled
    assert check([*block("ab", contaminated=True), *block("cd")], {}, []).findings == []
    half = block("a", arms="c")  # the driver was killed after it
    assert check([*half, *block("bc")], {}, []).findings == []


def test_a_verification_has_to_rest_on_blocks_that_were_measured() -> None:
    claimed = {"study": "chaos", "trial": 1, "candidate_rates": [100.0], "baseline_rates": [100.0]}
    assert check(block("ab"), {}, [], [claimed]).findings == []
    assert check(block("ab"), {}, [], [claimed | {"candidate_rates": [143.0]}]).wrong
    assert check(block("a", arms="c"), {}, [], [claimed]).wrong


FAILED = "Error: study 'chaos' failed: the first 5 trials all failed, the last with crash: ...\n"
INTERRUPTED = "Interrupted; what was measured is saved. Launch 'chaos' again to go on.\n"
KILLED = Hit("driver SIGKILL", 5.0, None, takes=True, endings=frozenset({-9}))
STOPPED = Hit("driver SIGINT", 5.0, None, endings=frozenset({130}))


@pytest.mark.parametrize(
    ("status", "state", "log", "hits", "wrong"),
    [
        (0, "finished", "", [], ""),
        (1, "failed", FAILED, [], ""),
        (130, "interrupted", INTERRUPTED, [STOPPED], ""),
        (-9, "running", "", [KILLED], ""),
        (0, "finished", "", [KILLED], ""),  # it had ended when the signal came
        (-9, "running", "", [], "status -9"),
        (130, "interrupted", INTERRUPTED, [], "status 130"),
        (130, "interrupted", INTERRUPTED, [STOPPED._replace(time=50.0)], "status 130"),
        (-2, "running", "", [STOPPED], "status -2"),
        (2, "running", "Error: ...", [KILLED], "status 2"),
        (1, "failed", "Error: storage ...", [], "without a reason"),
        (0, "running", "", [], "but the study is running"),
        (130, "running", INTERRUPTED, [STOPPED], "but the study is running"),
        (0, "finished", "Traceback (most recent call last):\n", [], "with a traceback"),
    ],
)
def test_an_ending_that_the_faults_do_not_explain_is_found(
    tmp_path: Path, status: int, state: str, log: str, hits: list[Hit], wrong: str
) -> None:
    (tmp_path / "log").write_text(log)
    launch = Launch("chaos", tmp_path / "log", 0, 1.0, ended=9.0, status=status, state=state)
    outcome = check([], {}, hits)
    check_launches(outcome, [launch], hits, [])
    assert bool(outcome.wrong_endings) == bool(wrong)
    assert wrong in "".join(outcome.wrong_endings)

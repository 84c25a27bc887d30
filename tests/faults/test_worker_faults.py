"""Everything a trial may do wrong, by real worker processes under the real supervisor."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.supervision.supervisor import supervise
from autotune.system import processes, shared_memory, system_v
from autotune.trial import TRIAL_MARK, Event, Limits, TrialResult, TrialSpec, WindowEvent
from experiments.benchmarks.faulty import FAULTS, MOMENTS, Fault, left_by
from tests.targets_for_tests.helpers import wait_for

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]

LIMITS = Limits(
    startup_seconds=5.0,
    silence_seconds=2.5,
    shutdown_seconds=1.0,
    host_memory_gib=0.3,
    processes=40,
)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """After each measurement the machine is as it was before."""
    before = traces()
    yield
    # what other programs make, they take away again
    wait_for(lambda: not traces() - before, 5)
    assert traces() - before == set()


STUDY = uuid.uuid4().hex


def traces() -> set[str]:
    """Processes of trials, shared memory, System V segments and semaphores, temporary folders."""
    name = left_by(STUDY)
    found = {f"process {p}" for p in processes.pids() if is_of_a_trial(p)}
    found |= {path for path in shared_memory.listing() if name in path}
    found |= {f"System V {item.kind} {item.id}" for item in system_v.items()}
    temporary = Path(tempfile.gettempdir())
    found |= {str(path) for path in temporary.glob(f"{name}*")}
    return found | {str(path) for path in temporary.glob(f"autotune-{STUDY[:8]}-*")}


def is_of_a_trial(pid: int) -> bool:
    if not processes.is_running(pid):
        return False
    environment = processes.environment_of(pid)
    mine = environment.get(processes.SUPERVISOR_MARK) == processes.identity()
    return mine or processes.command_of(pid).startswith(left_by(STUDY))


def specification(fault: str = "", when: str = "middle", **changes: Any) -> TrialSpec:
    fields: dict[str, Any] = {
        "uuid": uuid.uuid4().hex,
        "study": STUDY,
        "target": "experiments.benchmarks.faulty:Faulty",
        "params": {"number": 0},
        "settings": {"fault": fault, "when": when},
        "measurement": {
            "min_seconds": 0.3,
            "max_seconds": 0.6,
            "relative_half_width": 0.5,
            "window_seconds": 0.1,
        },
        "limits": LIMITS,
    }
    return TrialSpec.model_validate(fields | changes)


def outcome(result: TrialResult) -> str:
    return "finished" if result.failure is None else result.failure.kind


WHENS = [(name, "middle") for name in sorted(FAULTS)]
WHENS += [(name, when) for name in ("segfault", "exit", "allocate", "orphan") for when in MOMENTS]
WHENS += [("hang", "close"), ("hang", "build"), ("garbage", "close"), ("leak", "build")]


@pytest.mark.parametrize(("name", "when"), sorted(set(WHENS)))
def test_a_fault_has_its_kind_and_leaves_nothing(name: str, when: Any) -> None:
    result = supervise(specification(name, when))
    assert outcome(result) == Fault(name, when).outcome, (result.failure, result.log_tail)
    assert result.state == ("finished" if result.failure is None else "failed")
    if result.failure is not None:
        assert result.failure.cause
        assert result.failure.advice


def test_the_measurement_after_a_fault_works() -> None:
    supervise(specification("fork_bomb"))
    assert supervise(specification()).state == "finished"


def test_over_its_memory_limit_a_trial_is_ended_with_the_figure() -> None:
    result = supervise(specification("allocate"))
    assert result.failure is not None
    assert "more than its limit of 0.30 GiB (limits.host_memory_gib)" in result.failure.cause
    # by the supervisor, long before the kernel: the worker did not die by itself
    assert result.exit_code == -signal.SIGKILL
    held = float(result.failure.cause.split(" held ")[1].split(" GiB")[0])
    assert 0.3 <= held < 2.0  # told to two digits


def test_a_trial_past_its_wall_time_is_ended() -> None:
    limits = LIMITS.model_copy(update={"wall_seconds": 1.5, "silence_seconds": 60.0})
    result = supervise(specification("hang", limits=limits))
    assert result.failure is not None
    assert result.failure.kind == "deadline"
    assert "1.5 s after its start (limits.wall_seconds)" in result.failure.cause


def running(**changes: Any) -> tuple[threading.Thread, TrialSpec, list[TrialResult], int]:
    """A measurement under way, past its first window, and its worker's pid."""
    measuring = threading.Event()

    def on_event(event: Event) -> None:
        if isinstance(event, WindowEvent):
            measuring.set()

    long = {"min_seconds": 60, "max_seconds": 60, "window_seconds": 0.1}
    spec = specification(measurement=long, **changes)
    results: list[TrialResult] = []
    thread = threading.Thread(target=lambda: results.append(supervise(spec, on_event)))
    thread.start()
    assert measuring.wait(60)
    return thread, spec, results, worker_of(spec)


def worker_of(spec: TrialSpec) -> int:
    """The one that leads the trial's session."""
    return next(
        p
        for p in processes.marked(TRIAL_MARK, spec.uuid)
        if os.getsid(p) == p and processes.name_of(p) != processes.GUARDIAN_NAME
    )


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_killed_from_outside_crashed_by_that_signal(signum: signal.Signals) -> None:
    thread, _, results, worker = running()
    os.kill(worker, signum)
    thread.join(60)
    [result] = results
    assert result.failure is not None
    assert (result.failure.kind, result.exit_code) == ("crash", -signum)
    assert signum.name in result.failure.cause


def test_a_stopped_worker_hangs() -> None:
    thread, _, results, worker = running()
    os.kill(worker, signal.SIGSTOP)
    thread.join(60)
    assert outcome(results[0]) == "hang"


def test_without_its_guardian_a_trial_is_cleaned_up_all_the_same() -> None:
    thread, spec, results, worker = running()
    for pid in processes.marked(TRIAL_MARK, spec.uuid):
        if processes.name_of(pid) == processes.GUARDIAN_NAME:
            os.kill(pid, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    thread.join(60)
    assert outcome(results[0]) == "crash"


def test_a_clock_that_is_set_back_changes_no_limit_and_no_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = time.time
    began = time.monotonic()
    shift = {"seconds": 0.0}
    monkeypatch.setattr(time, "time", lambda: real() + shift["seconds"])

    def on_event(event: Event) -> None:
        shift["seconds"] = -3600.0

    result = supervise(specification("leak", "build"), on_event)
    assert result.state == "finished"
    assert 0 < result.wall_seconds <= time.monotonic() - began


@pytest.mark.parametrize("when", ["build", "middle"])
def test_one_that_hid_is_found_when_worker_and_guardian_die_at_once(when: str) -> None:
    """The orphan has no mark, no session and no parent of the trial any more."""
    spec = specification("orphan", when)
    thread = threading.Thread(target=supervise, args=(spec,))
    thread.start()
    name = left_by(STUDY)
    assert wait_for(lambda: any(processes.command_of(p).startswith(name) for p in processes.pids()))
    for pid in processes.marked(TRIAL_MARK, spec.uuid):
        os.kill(pid, signal.SIGKILL)
    thread.join(60)

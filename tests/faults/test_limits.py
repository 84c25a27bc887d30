"""The limits of a measurement, without a process: who is to blame, and what the defaults are."""

from __future__ import annotations

import dataclasses
import itertools
import os
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.supervision import limits
from autotune.supervision.limits import (
    FLOOR_SHARE,
    GIB,
    MACHINE_SHARE,
    LimitWatch,
    default_host_limit,
)
from autotune.supervision.verdict import Evidence, judge
from autotune.system.control_groups import Limited
from autotune.system.process_tree import Member
from autotune.trial import Failure, Limits
from autotune.worker.faults import failure_of

GIBS = st.floats(0.5, 4096).map(lambda size: int(size * GIB))


@given(total=GIBS, share=st.floats(0.01, 1.0))
def test_the_default_leaves_the_driver_and_rays_monitor_alive(total: int, share: float) -> None:
    available = int(total * share)
    limit = default_host_limit(total, available)
    assert 0 < limit <= max(MACHINE_SHARE * total, GIB)
    assert limit <= available
    if limit > min(GIB, available / 2):
        # used before, and the trial at its limit: still below the 95 % at which Ray kills
        assert total - available + limit <= 0.95 * total


class FakeTree:
    """One process that holds so much."""

    def __init__(self, held_gib: float) -> None:
        self.members = [Member(os.getpid(), int(held_gib * GIB))]

    def update(self) -> list[Member]:
        return self.members

    def resident_bytes(self) -> int:
        return sum(member.resident_bytes for member in self.members)


class Machine:
    """A machine whose available memory is as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: float, available: float) -> None:
        self.gib = available
        monkeypatch.setattr(limits, "memory_bytes", lambda: int(total * GIB))
        monkeypatch.setattr(limits.HostMemory, "available", lambda _: int(self.gib * GIB))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch, total=100, available=80)


def held(monkeypatch: pytest.MonkeyPatch, size: float) -> Any:
    monkeypatch.setattr(limits, "proportional", lambda pid: int(size * GIB))
    return FakeTree(size)


def test_when_others_take_the_memory_the_trial_is_not_to_blame(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a second between two looks, as a look that took long is not soon repeated
    watch = LimitWatch(Limits(), now=itertools.count().__next__)
    assert watch.exceeded(held(monkeypatch, 2)) is None
    machine.gib = 100 * FLOOR_SHARE - 1
    failure = watch.exceeded(held(monkeypatch, 2))
    assert failure is not None
    assert failure.kind == "infrastructure"
    assert "other programs took the memory: 5.00 GiB of the machine's 100.00" in failure.cause


def test_a_trial_that_took_the_memory_is_to_blame(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = LimitWatch(Limits(host_memory_gib=200))
    machine.gib = 100 * FLOOR_SHARE - 1
    failure = watch.exceeded(held(monkeypatch, 60))
    assert failure is not None
    assert failure.kind == "host_out_of_memory"
    assert "held 60.00 GiB" in failure.cause


def test_where_a_control_group_has_the_least_left_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "memory.current").write_text(str(int(0.99 * GIB)))
    group = Limited(tmp_path, int(GIB))
    monkeypatch.setattr(limits.control_groups.Memory, "room", lambda _: group.room())
    monkeypatch.setattr(limits.control_groups.Memory, "scarcest", lambda _: group)
    watch = LimitWatch(Limits(host_memory_gib=200))
    monkeypatch.setattr(watch, "_before", int(GIB))
    monkeypatch.setattr(watch, "_bounds", dataclasses.replace(watch._bounds, floor=int(GIB / 10)))
    failure = watch.exceeded(held(monkeypatch, 0.9))
    assert failure is not None
    assert f"0.01 GiB of the control group's ({tmp_path}) 1.00 GiB are left" in failure.cause


def test_shared_pages_do_not_count_twice(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = LimitWatch(Limits(host_memory_gib=5))
    monkeypatch.setattr(limits, "proportional", lambda pid: int(4 * GIB))
    assert watch.exceeded(FakeTree(8)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("available", [80, 40, 8])
def test_looks_are_as_close_as_memory_could_run_out_and_others_cost_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, available: int
) -> None:
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda pid: range(64))  # 512 GiB a second
    moment = [0.0]
    watch = LimitWatch(Limits(), now=lambda: moment[0])
    machine.gib = available
    assert watch.exceeded(held(monkeypatch, 2)) is None
    limit = default_host_limit(100 * GIB, 80 * GIB) / GIB - 2
    room = min(limit, available - 100 * FLOOR_SHARE)
    assert watch.due_seconds == pytest.approx(min(0.3, max(0.1, room / 512)))
    machine.gib = 1
    assert watch.exceeded(held(monkeypatch, 2)) is None  # not yet
    moment[0] += 1
    assert watch.exceeded(held(monkeypatch, 2)) is not None


def fake_nvml(processes: dict[int, int], used: list[int]) -> Any:
    """NVML with one GPU: memory by pid, and in all (the last answer stays)."""
    nvml = types.ModuleType("pynvml")
    answers = iter(used)
    last = [used[-1]]

    def memory(handle: object) -> Any:
        last[0] = next(answers, last[0])
        return types.SimpleNamespace(used=last[0], total=80 * 2**30)

    found = [types.SimpleNamespace(pid=p, usedGpuMemory=m) for p, m in processes.items()]
    members: dict[str, Any] = {
        "NVMLError": type("NVMLError", (Exception,), {}),
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: found,
    }
    for name, member in members.items():
        setattr(nvml, name, member)
    return nvml


@pytest.mark.parametrize(
    ("processes", "used", "over"),
    [
        ({os.getpid(): 3 * 2**30}, [0, 3 * 2**30], True),
        ({os.getpid(): 1 * 2**30, 1: 9 * 2**30}, [0, 10 * 2**30], False),
        ({}, [2**30, 4 * 2**30], True),  # a container: NVML knows other pids
        ({}, [5 * 2**30, 6 * 2**30], False),
    ],
)
def test_gpu_memory_over_its_limit_is_named(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    processes: dict[int, int],
    used: list[int],
    over: bool,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", fake_nvml(processes, used))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    watch = LimitWatch(Limits(gpu_memory_gib=2))
    failure = watch.exceeded(FakeTree(1))  # type: ignore[arg-type]
    watch.close()
    assert (failure is not None and failure.kind == "gpu_out_of_memory") == over


# ------------------------------------------------------------------ evidence


@pytest.mark.parametrize(
    ("evidence", "kind"),
    [
        (Evidence(exit_code=-9, memory_killed=True), "host_out_of_memory"),
        (Evidence(exit_code=1, had_batch=True, memory_killed=True), "host_out_of_memory"),
        # somebody else's process was killed for memory while this one crashed
        (Evidence(exit_code=-11, memory_killed=True), "crash"),
        (Evidence(why="silence", memory_killed=True), "hang"),
        (Evidence(exit_code=-11), "crash"),
        (Evidence(exit_code=3), "start_up"),
        (Evidence(exit_code=3, had_batch=True), "crash"),
        (Evidence(why="closed", last_event="built"), "crash"),
        (
            Evidence(why="limit", excess=Failure(kind="host_out_of_memory", cause="2 GiB")),
            "host_out_of_memory",
        ),
    ],
)
def test_the_kind_of_failure_follows_from_the_evidence(evidence: Evidence, kind: str) -> None:
    assert judge(evidence).kind == kind


def test_a_memory_kill_names_the_control_group_that_was_full() -> None:
    group = Limited(Path("/sys/fs/cgroup/job"), 400 * 2**20)
    failure = judge(Evidence(exit_code=-9, memory_killed=True, full_group=group))
    assert "control group /sys/fs/cgroup/job reached its limit of 0.39 GiB" in failure.cause
    # full it may be, with page cache that can go: without a kill it is no reason
    assert judge(Evidence(exit_code=-9, full_group=group)).kind == "crash"


def test_gpu_memory_is_known_by_type_and_code_not_by_prose() -> None:
    import torch

    accelerator = torch.AcceleratorError("CUDA error")
    accelerator.error_code = 2
    assert failure_of(torch.OutOfMemoryError("x"), True).kind == "gpu_out_of_memory"
    assert failure_of(accelerator, True).kind == "gpu_out_of_memory"
    named = RuntimeError("Failed to allocate (CUDA_ERROR_OUT_OF_MEMORY)")
    assert failure_of(named, True).kind == "gpu_out_of_memory"
    grouped = ExceptionGroup("pipeline stages failed", [ValueError("x"), MemoryError()])
    assert failure_of(grouped, True).kind == "host_out_of_memory"
    prose = RuntimeError("the decoder is out of memory for reference frames")
    assert failure_of(prose, True).kind == "crash"

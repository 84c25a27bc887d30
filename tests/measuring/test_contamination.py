"""What others take from a measurement: real load beside real workers, planted counters beside
the verdict."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import FOLDER, ROOT, specification
from hypothesis import given
from hypothesis import strategies as st
from lying import SPIN

from autotune.measuring.census import Census, Entry, Others, others, waits
from autotune.measuring.contamination import LOST_THRESHOLD, SWAP_THRESHOLD, Stretch, blame, judge
from autotune.measuring.counters import Counters, Reader
from autotune.measuring.gpu import Gpus, GpuSample
from autotune.supervision.supervisor import supervise
from autotune.trial import Contamination, Failure

CORES = len(os.sched_getaffinity(0))
NONE = Counters(*[0.0] * len(Counters._fields))


@pytest.fixture(autouse=True)
def _targets_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}{ROOT}")


@pytest.fixture
def spinners() -> Iterator[list[subprocess.Popen[bytes]]]:
    """One process a core that spins, and is no child of the measurement."""
    started = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(CORES)]
    yield started
    for process in started:
        process.kill()
        process.wait()


# ------------------------------------------------------------------ real load


def contamination(ranks: int = 1, **settings: Any) -> Contamination:
    measurement = {"min_seconds": 1.2, "max_seconds": 1.5, "window_seconds": 0.1}
    spec = specification(
        target="lying:Lying",
        params={"batch_size": 4, "device": "cpu"},
        settings={"lie": "counts_only", "unknown": True, **settings},
        ranks=ranks,
        measurement=measurement,
    )
    result = supervise(spec)
    assert result.measurement is not None, result.failure
    found = result.measurement.contamination
    assert found is not None
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_foreign_load_is_seen_named_and_marked(
    spinners: list[subprocess.Popen[bytes]], ranks: int
) -> None:
    for _ in range(3):  # the scheduler may give the pipeline all it asks for, for a while
        found = contamination(ranks, burners=1)
        assert found.figures["foreign_cpu"] > 0.3
        if found.marked:
            break
    assert found.figures["own_cpu"] > 0.05
    assert found.marked
    assert found.lost > LOST_THRESHOLD
    load = next(text for text in found.causes if text.startswith("foreign load"))
    assert "python" in load


def test_the_pipelines_own_load_is_not_foreign() -> None:
    found = contamination(burners=CORES)
    figures = found.figures
    assert figures["own_cpu"] > 0.1, "what these get of a machine that others use too"
    assert figures["own_cpu"] + figures["foreign_cpu"] < CORES + 0.3


# ------------------------------------------------------------------ the verdict


def stretch(**changes: Any) -> Stretch:
    """10 s on 4 cores; the pipeline used 2 of them, and 1 was idle."""
    after = {"idle": 10.0, "cpu_waiting": 10.0, **changes.pop("after", {})}
    fields: dict[str, Any] = {
        "seconds": 10.0,
        "cpus": 4,
        "before": NONE,
        "after": NONE._replace(**after),
        "own_seconds": 20.0,
    }
    return Stretch(**{**fields, **changes})


def test_what_was_busy_and_not_ours_is_foreign() -> None:
    found = judge(stretch())
    assert found.figures["foreign_cpu"] == pytest.approx(1.0)
    assert found.lost == pytest.approx(1 / 3), "one core taken of three that it would have had"
    assert found.causes == [
        "foreign load: 1 of 4 cores (by programs that cannot be seen from here)"
    ]


def test_foreign_load_on_idle_cores_takes_nothing() -> None:
    found = judge(stretch(after={"cpu_waiting": 0.0}))
    assert found.figures["foreign_cpu"] == pytest.approx(1.0)
    assert found.lost == 0.0
    assert not found.marked
    assert found.causes == []


def test_no_more_is_lost_than_the_pipelines_threads_waited() -> None:
    assert judge(stretch(own_waiting=0.05)).lost == pytest.approx(0.05 / 2.05)


def test_interrupts_and_kernel_threads_are_not_foreign() -> None:
    quiet = stretch(after={"interrupts": 5.0}, others=Others(kernel=0.5, programs=[]))
    assert judge(quiet).figures["foreign_cpu"] == pytest.approx(0.0)
    assert judge(quiet).lost == 0.0


def test_programs_are_named_by_what_they_used() -> None:
    seen = Others(kernel=0.0, programs=[("ffmpeg", 0.7), ("cron", 0.3), ("sshd", 0.01)])
    assert judge(stretch(others=seen)).causes == [
        "foreign load: 1 of 4 cores (ffmpeg 0.7, cron 0.3)"
    ]


def test_steal_counts_in_full_and_without_pressure_figures_busy_cores_decide() -> None:
    stolen = judge(stretch(after={"idle": 0.0, "steal": 20.0, "cpu_waiting": 0.0}))
    assert stolen.lost == pytest.approx(0.5)
    assert stolen.causes == ["the hypervisor took 2 of 4 cores"]
    guessed = judge(stretch(after={"cpu_waiting": math.nan}))
    assert guessed.lost == pytest.approx(0.75 / 2.75), "three of four cores were busy"
    assert "cpu_waiting" not in guessed.figures


def test_swapping_marks_whatever_it_cost() -> None:
    rate = 2 * SWAP_THRESHOLD
    free = {"idle": 20.0, "swapped_mib": 10 * rate}
    found = judge(stretch(after={**free, "memory_waiting": 1.0}))
    assert (found.marked, found.lost) == (True, pytest.approx(0.1))
    assert found.causes == ["swapping: 2 MiB/s"]
    assert judge(stretch(after={**free, "memory_waiting": math.nan})).marked
    assert not judge(stretch(after={"idle": 20.0, "memory_waiting": 5.0})).marked, "no swapping"


def test_a_low_clock_counts_only_where_the_cpu_throttled() -> None:
    idle = {"idle": 20.0}
    assert judge(stretch(after=idle, clocks=[0.5, 0.5])).lost == 0.0
    throttled = judge(stretch(after={**idle, "throttle_events": 3.0}, clocks=[0.5, 0.7]))
    assert throttled.lost == pytest.approx(0.4)
    assert throttled.causes == ["the CPU throttled 3 times, clock at 60% of the full one"]


def test_a_used_up_quota_is_told_and_costs_nothing() -> None:
    found = judge(stretch(after={"idle": 20.0, "quota_periods": 100.0, "quota_throttled": 80.0}))
    assert found.figures["quota_throttled"] == pytest.approx(0.8)
    assert found.lost == 0.0


def test_other_users_of_the_gpu() -> None:
    idle = {"idle": 20.0}
    busy = GpuSample(foreign_processes=1, foreign_percent=30.0)
    found = judge(stretch(after=idle, gpus=[busy, GpuSample()]))
    assert found.lost == pytest.approx(0.15)
    assert found.causes == ["1 foreign processes used the GPU for 15 %"]
    unknown = judge(stretch(after=idle, gpus=[GpuSample(foreign_processes=2)]))
    assert (unknown.marked, unknown.lost) == (True, 0.0)
    hot = judge(stretch(after=idle, gpus=[GpuSample(clock_lost=0.2)]))
    assert hot.lost == pytest.approx(0.2)
    resting = judge(stretch(after=idle, gpus=[GpuSample(foreign_processes=1, foreign_percent=0.0)]))
    assert not resting.marked, "a process that holds the GPU and does nothing"


def test_a_short_stretch_has_to_show_more() -> None:
    taken = 2 * (LOST_THRESHOLD + 0.01)
    lasting = stretch(after={"idle": 10 * (2 - taken)})
    short = stretch(
        after={"idle": 0.5 * (2 - taken), "cpu_waiting": 0.5}, seconds=0.5, own_seconds=1.0
    )
    assert judge(lasting).lost == pytest.approx(judge(short).lost)
    assert judge(lasting).marked
    assert not judge(short).marked


share = st.floats(0, 1)


@given(idle=share, own=share, steal=share, waiting=share, gpu=share, clock=share)
def test_lost_is_a_share_and_grows_with_what_waits(
    idle: float, own: float, steal: float, waiting: float, gpu: float, clock: float
) -> None:
    def lost(waiting: float) -> float:
        after = {"idle": 40 * idle, "steal": 10 * steal, "cpu_waiting": 10 * waiting}
        gpus = [GpuSample(foreign_processes=1, foreign_percent=100 * gpu, clock_lost=clock)]
        return judge(stretch(after=after, own_seconds=40 * own, gpus=gpus)).lost

    assert 0.0 <= lost(waiting) <= 1.0
    assert lost(waiting) >= lost(waiting / 2) - 1e-12


# ------------------------------------------------------------------ the readers


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_the_kernels_files_are_read(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    cpu = f"1 2 3 {4 * ticks} {ticks} {2 * ticks} {ticks} {7 * ticks} 0 0"
    write(
        tmp_path,
        {
            "proc/stat": f"cpu 9 9 9 9 9 9 9 9 9 9\ncpu0 {cpu}\ncpu1 {cpu}\ncpu2 {cpu}\nintr 1 2\n",
            "proc/pressure/cpu": "some avg10=1.0 avg60=1.0 total=2500000\nfull total=7\n",
            "proc/vmstat": "nr_free_pages 4\npswpin 256\npswpout 256\n",
            "proc/self/cgroup": "0::/jobs/a\n",
            "sys/fs/cgroup/jobs/a/cpu.stat": "usage_usec 5\nnr_periods 40\nnr_throttled 30\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "2\n",
            "sys/devices/system/cpu/cpu2/thermal_throttle/core_throttle_count": "5\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500\n",
            "sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq": "2500\n",
            "sys/devices/system/cpu/cpu0/cpufreq/base_frequency": "2000\n",
            "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "4000\n",
        },
    )
    reader = Reader([0, 2], tmp_path / "proc", tmp_path / "sys")
    page = os.sysconf("SC_PAGE_SIZE")
    seen = reader.read()
    assert seen._replace(memory_waiting=0.0) == Counters(
        idle=10.0,
        steal=14.0,
        interrupts=6.0,
        cpu_waiting=2.5,
        memory_waiting=0.0,
        swapped_mib=512 * page / 2**20,
        throttle_events=7.0,
        quota_periods=40.0,
        quota_throttled=30.0,
    )
    assert math.isnan(seen.memory_waiting), "no such file here"
    assert reader.clock_share() == pytest.approx(1.0)


def test_what_a_machine_does_not_keep_is_not_a_number(tmp_path: Path) -> None:
    write(tmp_path, {"proc/stat": "cpu0 0 0 0 0 0 0 0 0 0 0\n", "proc/self/cgroup": "4:cpu:/x\n"})
    reader = Reader([0], tmp_path / "proc", tmp_path / "sys")
    seen = reader.read()
    assert (seen.idle, seen.steal) == (0.0, 0.0)
    assert all(math.isnan(value) for value in seen[3:])
    assert math.isnan(reader.clock_share())


def test_counters_of_this_machine_grow() -> None:
    reader = Reader(os.sched_getaffinity(0))
    first = reader.read()
    sum(range(10**7))
    second = reader.read()
    for name, before, after in zip(Counters._fields, first, second, strict=True):
        assert math.isnan(after) or after >= before, name


def test_a_census_tells_the_tree_from_the_others() -> None:
    def seen(parent: int, cpu: float, kernel: bool = False) -> Entry:
        return Entry(parent, "S", kernel, cpu, 0.0, 1, 0)

    before = Census(0.0, {1: seen(0, 5.0), 2: seen(1, 1.0), 9: seen(1, 1.0), 3: seen(2, 0.0)})
    after = Census(
        2.0,
        {
            1: seen(0, 5.0),
            2: seen(1, 2.0),
            3: seen(2, 4.0),
            7: seen(0, 1.0, kernel=True),
            9: seen(1, 3.0),
        },
    )
    assert set(after.tree(2)) == {2, 3}
    found = others(before, after, {2, 3})
    assert found.kernel == 0.5
    assert [cores for _, cores in found.programs] == [1.0]
    assert others(after, after, ()).programs == []


def test_threads_that_wait_for_a_cpu_are_counted(
    spinners: list[subprocess.Popen[bytes]],
) -> None:
    crowd = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(CORES)]
    try:
        first = waits(p.pid for p in crowd)
        if not first:
            pytest.skip("this kernel does not count how long threads wait (schedstat)")
        sum(range(3 * 10**7))
        second = waits(p.pid for p in crowd)
        assert sum(second.values()) > sum(first.values())
    finally:
        for process in crowd:
            process.kill()
            process.wait()


class FakeNvml:
    """One GPU of 80 GiB; ``clients`` are the processes on it, by pid, with GiB and SM %."""

    NVMLError = RuntimeError
    NVML_ERROR_NOT_FOUND = 6
    NVML_CLOCK_SM = 1

    def __init__(self, clients: dict[int, tuple[float, int]], reasons: int = 0) -> None:
        self.clients = clients
        self.reasons = reasons
        self.tells_by_process = True

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=sum(g for g, _ in self.clients.values()) * 2**30)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=g * 2**30)
            for pid, (g, _) in self.clients.items()
        ]

    def nvmlDeviceGetProcessUtilization(self, handle: int, since: int) -> list[Any]:
        if not self.tells_by_process:
            raise RuntimeError("not supported")
        return [
            SimpleNamespace(pid=pid, timeStamp=since + 1, smUtil=percent, decUtil=0)
            for pid, (_, percent) in self.clients.items()
        ]

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=sum(percent for _, percent in self.clients.values()))

    def nvmlDeviceGetDecoderUtilization(self, handle: int) -> tuple[int, int]:
        return 25, 1000

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return self.reasons

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return 1500

    def nvmlDeviceGetMaxClockInfo(self, handle: int, kind: int) -> int:
        return 2000


def gpus(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> Gpus:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    opened = Gpus.open()
    assert opened is not None
    return opened


def test_ours_and_foreign_processes_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = gpus(monkeypatch, FakeNvml({10: (2.0, 40), 99: (5.0, 30)})).read({10})
    assert found == GpuSample(
        memory_gib=2.0,
        sm_percent=70.0,
        nvdec_percent=25.0,
        foreign_processes=1,
        foreign_memory_gib=5.0,
        foreign_percent=30.0,
        clock_lost=0.0,
    )


def test_in_a_container_those_are_foreign_that_were_there_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvml = FakeNvml({99: (5.0, 30)})
    opened = gpus(monkeypatch, nvml)
    nvml.clients[77] = (2.0, 40)  # ours, under a pid that is not known here
    found = opened.read({10})
    assert (found.foreign_processes, found.foreign_percent) == (1, 30.0)
    assert found.memory_gib == 2.0, "what came on top since the start"


def test_a_driver_that_does_not_tell_by_process(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml({10: (2.0, 40), 99: (5.0, 30)})
    nvml.tells_by_process = False
    found = gpus(monkeypatch, nvml).read({10})
    assert (found.foreign_processes, found.foreign_percent) == (1, None)
    assert found.sm_percent == 70.0


@pytest.mark.parametrize(("reasons", "lost"), [(0x4, 0.0), (0x1, 0.0), (0x20, 0.25), (0x48, 0.25)])
def test_only_heat_and_power_supply_count_as_a_lost_clock(
    monkeypatch: pytest.MonkeyPatch, reasons: int, lost: float
) -> None:
    assert gpus(monkeypatch, FakeNvml({}, reasons)).read(()).clock_lost == lost


def test_a_gpu_that_others_filled_is_no_fault_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = Failure(kind="gpu_out_of_memory", cause="CUDA out of memory")
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml({10: (2.0, 40), 99: (70.0, 0)}))
    blamed = blame(full, {10})
    assert blamed.kind == "contaminated"
    assert "foreign processes hold 70.0 GiB" in blamed.cause
    assert blame(full, {10, 99}) == full, "all of them are ours"
    assert blame(full, {5}) == full, "in a container it cannot be told"
    crash = Failure(kind="crash", cause="x")
    assert blame(crash, {10}) == crash


def test_without_nvml_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Gpus.open() is None

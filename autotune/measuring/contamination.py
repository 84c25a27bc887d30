"""What others did to a measurement, and whether it still says something of the configuration.

Every indicator is a figure of its own; `lost` puts into one number what the measured pipeline
could not use because somebody else did. Only what comes from outside counts: a pipeline that
starts more threads than there are cores makes its own threads wait, and loses nothing by it.
What disturbs without taking time (a shared cache, memory bandwidth, a disk) is not seen.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from autotune.measuring.census import Others
from autotune.measuring.counters import Counters
from autotune.measuring.gpu import Gpus, GpuSample
from autotune.trial import Contamination, Failure

LOST_THRESHOLD = 0.04
"""A measurement that lost more is marked. An idle machine stays below it in 99 of 100
measurements, with Ray's daemons (0.05 of a core) on two cores too; a process that spins for a
quarter of the time on two busy cores takes about 0.12.
`python -m experiments.benchmarks.contamination` measures both."""

GRAIN_SECONDS = 0.02
"""Divided by a stretch's seconds it is added to the threshold: the counters tick every hundredth
of a second, and what they leave unexplained on two cores has a standard deviation of 0.019 cores
over one second."""

SWAP_THRESHOLD = 1.0
"""MiB/s swapped in and out above which a measurement is marked, whatever it lost: 256 pages a
second, each of which somebody waits for."""

FOREIGN_GPU_GIB = 1.0
"""An idle CUDA context holds about half of it; a desktop, a few hundred MiB."""

_NAMED_CORES = 0.05
"""A program that used less is not named."""


@dataclass(frozen=True)
class Stretch:
    """What was seen over the steady part of a measurement."""

    seconds: float
    cpus: int
    """That the processes of the measurement may use."""
    before: Counters
    after: Counters
    own_seconds: float
    """CPU time of the pipeline and of those that supervise it."""
    own_waiting: float = math.inf
    """Seconds a second, over the threads of the pipeline, that they were ready to run and had no
    CPU, whoever had it; infinite where the kernel does not count them."""
    others: Others = field(default_factory=lambda: Others(0.0, []))
    clocks: Sequence[float] = ()
    """Clock of the CPUs as a share of the full one, at each look."""
    gpus: Sequence[GpuSample] = ()


def judge(stretch: Stretch) -> Contamination:
    """What a stretch lost to others, why, and whether that marks it.

    **CPU.** Foreign load is what the CPUs were busy with besides the pipeline, its supervision,
    interrupts and threads of the kernel (those work for whoever reads or writes, as a rule for
    the pipeline). It costs nothing while there are idle cores: only the share of it counts
    during which work waited for a CPU (PSI; where the kernel keeps none, the share of the CPUs
    that was busy), and no more of it than the pipeline's own threads waited. (Their waiting alone
    is no evidence: more threads than cores wait for each other.) Time stolen by the hypervisor
    counts in full. With own and taken cores::

        lost = taken / max(1, own + taken)
        taken = min(foreign * waiting, own_waiting) + steal

    that is, the share of the time the pipeline would have had; a pipeline that needs less than
    one core is not limited by it and so is measured against one.

    **Memory.** The share of the time in which tasks waited for memory, where the machine swaps.
    **Clock.** How far the clock was below the full one, where a CPU reported that it throttled.
    **GPU.** The share of SM or decoder time that foreign processes had, and how far the clock
    was down for heat or power supply.

    The parts are shares of what the others left: ``lost = 1 - (1 - a)(1 - b)...``.

    A quota of the control group is part of the machine's size: that it was used up is recorded
    (``quota_throttled``) and no loss.
    """
    figures: dict[str, float] = {}
    causes: list[str] = []
    unknown_gpu = _gpu_figures(stretch.gpus, figures)
    parts = [
        _cpu(stretch, figures, causes),
        _memory(stretch, figures),
        _clock(stretch, figures),
        figures.get("gpu_foreign_percent", 0.0) / 100,
        figures.get("gpu_clock_lost", 0.0),
    ]
    lost = 1.0 - math.prod(1.0 - min(1.0, max(0.0, part)) for part in parts)
    swaps = figures.get("swap_mib_per_second", 0.0) > SWAP_THRESHOLD
    limit = LOST_THRESHOLD + GRAIN_SECONDS / stretch.seconds
    marked = lost > limit or swaps or unknown_gpu
    if marked:
        causes += _other_causes(figures, unknown_gpu, swaps)
    return Contamination(lost=lost, marked=marked, causes=causes if marked else [], figures=figures)


def blame(failure: Failure, ours: Collection[int]) -> Failure:
    """The failure itself, or of kind ``contaminated`` where others are to blame: the GPU ran out
    of memory of which foreign processes hold `FOREIGN_GPU_GIB` and more. Such a configuration was
    not judged, and must not be avoided for it.

    Args:
        failure: how the measurement ended.
        ours: pids of its processes.
    """
    if failure.kind != "gpu_out_of_memory" or (gpus := Gpus.open()) is None:
        return failure
    foreign = gpus.foreign_memory_gib(ours)
    gpus.close()
    if foreign < FOREIGN_GPU_GIB:
        return failure
    cause = f"{failure.cause}; foreign processes hold {foreign:.1f} GiB of the GPU"
    return Failure(kind="contaminated", cause=cause)


def _rate(stretch: Stretch, name: str) -> float:
    """Growth of a counter a second; NaN where it is not kept."""
    change: float = getattr(stretch.after, name) - getattr(stretch.before, name)
    return change / stretch.seconds


def _cpu(stretch: Stretch, figures: dict[str, float], causes: list[str]) -> float:
    own = stretch.own_seconds / stretch.seconds
    idle, steal = _rate(stretch, "idle"), _rate(stretch, "steal")
    interrupts, waiting = _rate(stretch, "interrupts"), _rate(stretch, "cpu_waiting")
    kernel = stretch.others.kernel
    foreign = max(0.0, stretch.cpus - idle - steal - interrupts - kernel - own)
    if math.isnan(waiting):
        waiting = 1.0 - idle / stretch.cpus
    else:
        figures["cpu_waiting"] = waiting
    taken = min(foreign * min(1.0, max(0.0, waiting)), stretch.own_waiting) + steal
    figures.update(
        own_cpu=own, foreign_cpu=foreign, kernel_cpu=kernel, interrupts=interrupts, steal=steal
    )
    if math.isfinite(stretch.own_waiting):
        figures["own_waiting"] = stretch.own_waiting
    periods = _rate(stretch, "quota_periods")
    if periods > 0:
        figures["quota_throttled"] = _rate(stretch, "quota_throttled") / periods
    if foreign >= _NAMED_CORES:
        names = [f"{n} {cores:.2g}" for n, cores in stretch.others.programs if cores > _NAMED_CORES]
        named = ", ".join(names[:3]) or "by programs that cannot be seen from here"
        causes.append(f"foreign load: {foreign:.2g} of {stretch.cpus} cores ({named})")
    if steal >= _NAMED_CORES:
        causes.append(f"the hypervisor took {steal:.2g} of {stretch.cpus} cores")
    return taken / max(1.0, own + taken)


def _memory(stretch: Stretch, figures: dict[str, float]) -> float:
    swapped, waiting = _rate(stretch, "swapped_mib"), _rate(stretch, "memory_waiting")
    if not math.isnan(waiting):
        figures["memory_waiting"] = waiting
    if not math.isnan(swapped):
        figures["swap_mib_per_second"] = swapped
    return waiting if swapped > SWAP_THRESHOLD and not math.isnan(waiting) else 0.0


def _clock(stretch: Stretch, figures: dict[str, float]) -> float:
    clocks = [clock for clock in stretch.clocks if not math.isnan(clock)]
    if clocks:
        figures["clock_share"] = statistics.fmean(clocks)
    events = stretch.after.throttle_events - stretch.before.throttle_events
    if math.isnan(events):
        return 0.0
    figures["throttle_events"] = events
    # without an event a low clock is a governor's choice, for want of work
    return max(0.0, 1.0 - figures["clock_share"]) if events > 0 and clocks else 0.0


def _gpu_figures(samples: Sequence[GpuSample], figures: dict[str, float]) -> bool:
    """Add the figures of the GPUs; whether others used them to a degree that nobody tells."""
    if not samples:
        return False
    figures["gpu_foreign_processes"] = max(s.foreign_processes for s in samples)
    figures["gpu_foreign_memory_gib"] = max(s.foreign_memory_gib for s in samples)
    told = [s.foreign_percent for s in samples if s.foreign_percent is not None]
    if told:
        figures["gpu_foreign_percent"] = sum(told) / len(samples)
    clocks = [s.clock_lost for s in samples if s.clock_lost is not None]
    if clocks:
        figures["gpu_clock_lost"] = statistics.fmean(clocks)
    return any(s.foreign_processes and s.foreign_percent is None for s in samples)


def _other_causes(figures: dict[str, float], unknown_gpu: bool, swaps: bool) -> list[str]:
    causes = []
    if swaps:
        causes.append(f"swapping: {figures['swap_mib_per_second']:.3g} MiB/s")
    if figures.get("throttle_events", 0) > 0:
        share = figures.get("clock_share")
        clock = "" if share is None else f", clock at {share:.0%} of the full one"
        causes.append(f"the CPU throttled {figures['throttle_events']:.0f} times{clock}")
    if unknown_gpu or figures.get("gpu_foreign_percent", 0.0) >= 1.0:
        percent = figures.get("gpu_foreign_percent")
        used = "to a degree NVML does not tell" if percent is None else f"for {percent:.0f} %"
        count = figures["gpu_foreign_processes"]
        causes.append(f"{count:.0f} foreign processes used the GPU {used}")
    if figures.get("gpu_clock_lost", 0.0) >= 0.01:
        lost = figures["gpu_clock_lost"]
        causes.append(f"heat or power supply lowered the GPU's clock by {lost:.0%}")
    return causes

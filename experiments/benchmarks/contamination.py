"""How often an idle machine is called contaminated, and how surely foreign load is seen.

    python -m experiments.benchmarks.contamination [--clips DIR] [-o contamination.json]

Run it alone on the machine: whatever else runs is foreign load. One configuration of spdl_video
with more threads than cores runs for some minutes with nothing beside it, then once for each
planted load: a process that spins for a share of each tenth of a second. Each run is cut into
stretches, and each stretch is judged by the product's own code, from samples taken as a
measurement takes them. A stretch is shorter than the steady part of a measurement is by
default (3 s), and so its figures are noisier.

A last pair of runs leaves cores idle (a paced consumer): there a spinning process costs next to
nothing. It is marked all the same, out of caution: the pipeline's threads do wait for a CPU, and
whether its buffers make up for it cannot be told from outside.

Beside what was estimated as lost stands what really was: 1 - rate / rate without the load. Marks
for time that the hypervisor took, by the kernel's own count, are told apart: they are not false.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune.exceptions import AutotuneError
from autotune.measuring.contamination import GRAIN_SECONDS, LOST_THRESHOLD
from autotune.measuring.telemetry import Telemetry
from autotune.trial import (
    ConsumerSpec,
    Contamination,
    Event,
    FirstBatchEvent,
    Limits,
    MeasurementSettings,
    Params,
    StartedEvent,
    TrialSpec,
    Window,
)
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set

DUTY_CYCLES = (0.05, 0.1, 0.25, 0.5, 1.0)
FALSE_MARK_GOAL = 0.01
DETECTION_GOAL = 0.95
"""Of stretches with half a core of foreign load and more, on a pipeline that fills the cores."""

_PERIOD_SECONDS = 0.1
_SETTLE_SECONDS = 2.0
_SPIN = """
import sys, time
duty = float(sys.argv[1]); period = float(sys.argv[2])
while True:
    began = time.monotonic()
    while time.monotonic() - began < duty * period: pass
    time.sleep(max(0.0, began + period - time.monotonic()))
"""


@dataclass(frozen=True)
class Arm:
    """One run: what is measured, beside what load."""

    pipeline: str
    """``full`` (more threads than cores) or ``paced`` (cores idle)."""
    duty: float
    seconds: float


@dataclass(frozen=True)
class ArmResult:
    """What a run gave."""

    arm: Arm
    stretches: list[Contamination]
    rates: list[float]
    """samples/s of each stretch."""

    @property
    def marked(self) -> int:
        """Stretches that were marked."""
        return sum(c.marked for c in self.stretches)


@contextmanager
def planted(duty: float) -> Iterator[None]:
    """A process that spins for a share of the time; none for 0."""
    if duty <= 0:
        yield
        return
    spinner = subprocess.Popen([sys.executable, "-c", _SPIN, str(duty), str(_PERIOD_SECONDS)])
    try:
        yield
    finally:
        spinner.kill()
        spinner.wait()


class _Watch:
    """Samples the worker from outside, as the worker samples itself."""

    def __init__(self) -> None:
        self.telemetry: Telemetry | None = None
        self.began = 0.0
        self._pid = 0

    def event(self, event: Event) -> None:
        if isinstance(event, StartedEvent):
            self._pid = event.pid
        elif isinstance(event, FirstBatchEvent):
            self.telemetry = Telemetry(self._pid, supervisor=os.getpid())
            self.telemetry.start()
            self.began = time.monotonic()


def run(arm: Arm, runner: _common.Runner, stretch: float) -> ArmResult:
    """One run of an arm, cut into stretches of ``stretch`` seconds.

    Raises:
        AutotuneError: if the measurement failed.
    """
    watch = _Watch()
    with planted(arm.duty):
        result = runner.supervise(_specification(arm, runner), watch.event)
    if result.measurement is None or watch.telemetry is None:
        raise AutotuneError(f"{arm}: {_common.why_failed(result)}")
    watch.telemetry.stop()
    found, rates = [], []
    start = watch.began + _SETTLE_SECONDS
    end = result.windows[-1].end
    while start + stretch <= end:
        seen = watch.telemetry.contamination(start, start + stretch)
        if seen is not None:
            found.append(seen)
            rates.append(_rate(result.windows, start, start + stretch))
        start += stretch
    return ArmResult(arm, found, rates)


def _rate(windows: Sequence[Window], start: float, end: float) -> float:
    samples = sum(
        count
        for window in windows
        for arrival, count in zip(window.arrivals, window.batch_samples, strict=True)
        if start < arrival <= end
    )
    return samples / (end - start)


def _specification(arm: Arm, runner: _common.Runner) -> TrialSpec:
    cores = len(os.sched_getaffinity(0))
    threads = 2 * cores if arm.pipeline == "full" else cores
    params: Params = {
        "num_fetch_threads": 1,
        "num_demux_threads": cores,
        "num_decode_threads": threads,
        "subclip_duration": 0.5,
        "batch_size": 4,
    }
    paced = arm.pipeline == "paced"
    # a sample takes about 15 ms of one core: a quarter of a core is used
    consumer = ConsumerSpec(kind="paced", ms_per_sample=60.0) if paced else ConsumerSpec()
    return runner.specification(
        "spdl_video",
        params,
        settings=dict(_common.SETTINGS),
        consumer=consumer,
        measurement=MeasurementSettings(
            min_seconds=arm.seconds, max_seconds=arm.seconds, relative_half_width=1e-9
        ),
        limits=Limits(silence_seconds=30),
    )


def by_hypervisor(judged: Contamination) -> bool:
    """Whether a mark is the hypervisor's: its kernel counted more time as stolen than others took.
    No machine is idle whose cores are taken away, so that such a mark is not a false one."""
    return judged.figures["steal"] > judged.figures["foreign_cpu"]


def summarize(results: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """One row an arm: how many stretches were marked, what was estimated, what was really lost."""
    from scipy.stats import binomtest

    quiet = {
        r.arm.pipeline: statistics.fmean(r.rates) for r in results if r.arm.duty == 0 and r.rates
    }
    rows = []
    for result in results:
        count = len(result.stretches)
        exact = binomtest(result.marked, count).proportion_ci(method="exact")
        lost = sorted(c.lost for c in result.stretches)
        stolen = sum(c.marked and by_hypervisor(c) for c in result.stretches)
        rows.append(
            {
                "pipeline": result.arm.pipeline,
                "load": result.arm.duty,
                "stretches": count,
                "marked": result.marked,
                "stolen": stolen,
                "marked_low": exact.low,
                "marked_high": exact.high,
                "lost_median": statistics.median(lost),
                "lost_99": lost[min(count - 1, round(0.99 * count))],
                "foreign_cpu": statistics.fmean(c.figures["foreign_cpu"] for c in result.stretches),
                "foreign_cpu_sd": statistics.pstdev(
                    c.figures["foreign_cpu"] for c in result.stretches
                ),
                "rate": statistics.fmean(result.rates),
                "really_lost": 1.0 - statistics.fmean(result.rates) / quiet[result.arm.pipeline],
            }
        )
    return rows


def report(rows: Sequence[dict[str, Any]], stretch: float) -> str:
    """Table and verdict; ``stretch``: seconds judged at a time."""
    limit = LOST_THRESHOLD + GRAIN_SECONDS / stretch
    header = [
        "pipeline",
        "planted load (cores)",
        "stretches",
        "marked",
        "of them for stolen time",
        "95 % interval of the share",
        "foreign load seen (cores, ± standard deviation)",
        "lost, median",
        "lost, 99th of 100",
        "really lost",
    ]
    cells = [
        [
            row["pipeline"],
            row["load"],
            row["stretches"],
            row["marked"],
            row["stolen"],
            f"{row['marked_low']:.1%} to {row['marked_high']:.1%}",
            f"{row['foreign_cpu']:.2f} ± {row['foreign_cpu_sd']:.2f}",
            f"{row['lost_median']:.1%}",
            f"{row['lost_99']:.1%}",
            f"{row['really_lost']:.1%}",
        ]
        for row in rows
    ]
    failed = problems(rows)
    verdict = "passed" if not failed else "NOT passed: " + "; ".join(failed)
    return (
        _common.markdown_table(header, cells)
        + f"\n\n{verdict}. A stretch is marked above {limit:.1%}."
    )


def problems(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What misses its goal."""
    found = []
    for row in rows:
        share = row["marked"] / row["stretches"]
        what = f"{row['pipeline']} pipeline, load {row['load']:g}: {share:.1%} marked"
        falsely = (row["marked"] - row["stolen"]) / row["stretches"]
        if row["load"] == 0 and falsely > FALSE_MARK_GOAL:
            found.append(f"{what}, {falsely:.1%} falsely, at most {FALSE_MARK_GOAL:.0%} wanted")
        if row["pipeline"] == "full" and row["load"] >= 0.5 and share < DETECTION_GOAL:
            found.append(f"{what}, at least {DETECTION_GOAL:.0%} wanted")
    return found


def arms(idle: float, loaded: float) -> list[Arm]:
    """The runs, in their order: seconds of the idle one and of each loaded one."""
    return [
        Arm("full", 0.0, idle),
        *(Arm("full", duty, loaded) for duty in DUTY_CYCLES),
        Arm("paced", 0.0, loaded),
        Arm("paced", 1.0, loaded),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 passed, 1 not, 2 where the input is wrong."""
    p = argparse.ArgumentParser(prog="python -m experiments.benchmarks.contamination")
    p.add_argument("--clips", type=Path, default=_common.SHARED_CLIPS, help="340x256 H.264 clips")
    p.add_argument("--idle", type=float, default=305.0, help="seconds of the idle run")
    p.add_argument("--loaded", type=float, default=17.0, help="seconds of each other run")
    p.add_argument("--stretch", type=float, default=1.0, help="seconds that are judged at a time")
    p.add_argument("-o", "--output", type=Path)
    options = p.parse_args(argv)
    try:
        with _common.scratch_folder("contamination") as scratch:
            folder, _ = linked_set(options.clips, scratch / "clips")
            runner = _common.Runner(folder, scratch)
            runner.prewarm()
            results = []
            for arm in arms(options.idle, options.loaded):
                results.append(run(arm, runner, options.stretch))
                _common.say(f"{arm}: {results[-1].marked} of {len(results[-1].stretches)} marked")
    except AutotuneError as error:
        _common.say(f"error: {error}")
        return 2
    rows = summarize(results)
    text = report(rows, options.stretch)
    print(text)
    if options.output:
        document = {
            "benchmark": "contamination",
            "date": _common.today(),
            "machine": _common.machine_facts(),
            "threshold": LOST_THRESHOLD,
            "stretch_seconds": options.stretch,
            "passed": not problems(rows),
            "arms": rows,
            "stretches": [
                {"arm": asdict(r.arm), "judged": [c.model_dump() for c in r.stretches]}
                for r in results
            ],
        }
        _common.write_json(options.output, document)
        options.output.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    return 0 if not problems(rows) else 1


if __name__ == "__main__":
    sys.exit(main())

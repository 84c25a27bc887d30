"""What our own processes cost: driver and supervisor while a trial measures, and driver memory.

    python -m experiments.benchmarks.overhead [--clips DIR] [--trials N] [-o overhead.json]

A short real study runs for each sampler and executor, in a fresh driver process.
CPU time is taken between the first batch and the end of every trial, of the driver (with `local`
the supervisor is a thread of it) and of everything it started that is no part of the trial's own
pipeline (the guardian, helpers; with `ray` all of Ray, and the actor that supervises), over wall
time and all cores of the machine. Ray costs something when nothing runs on it: that is
measured before the first trial and subtracted. Memory is the kernel's own peak of the driver's
resident set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.config import Experiment
from autotune.exceptions import AutotuneError
from autotune.study.launching import launch_experiment
from autotune.study.observer import StudyObserver, StudyProgress
from autotune.system import processes
from autotune.trial import TRIAL_MARK, Event, NodeInfo, Params, TrialResult
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set

CPU_GOAL_PERCENT = 1.0
MEMORY_GOALS_MIB = {"tpe": 300.0, "gp": 500.0}

SETTLE_SECONDS = 5.0
"""Ray is still starting when the study is."""
IDLE_SECONDS = 10.0


class CostObserver(StudyObserver):
    """Takes the CPU time of our own processes at the start and the end of every measurement.

    Only there: looking more often would itself be most of what is seen.
    """

    def __init__(self, idle: bool) -> None:
        """Args:
        idle: whether to measure first what everything costs while nothing runs.
        """
        self._idle = idle
        self.idle_share = 0.0
        """CPU seconds a second, of all our processes, before the first trial."""
        self._lock = threading.Lock()
        self._began: dict[str, tuple[float, dict[str, float]]] = {}
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.measured = 0
        self.finished = 0
        self.failures: list[str] = []

    def study_started(
        self,
        name: str,
        resumed: bool,
        nodes: Sequence[NodeInfo],
        searched: Sequence[str],
        sampler: str,
    ) -> None:
        """Everything is up, and nothing is measured yet."""
        if self._idle:
            time.sleep(SETTLE_SECONDS)
            began, before = time.monotonic(), own_cpu()
            time.sleep(IDLE_SECONDS)
            self.idle_share = _since(before) / (time.monotonic() - began)

    def measurement_event(self, uuid: str, event: Event) -> None:
        """First batch: start counting. Finished: stop."""
        if event.event == "first_batch":
            with self._lock:
                self._began[uuid] = (time.monotonic(), own_cpu())
        elif event.event == "finished":
            with self._lock:
                begun = self._began.pop(uuid, None)
                if begun is None:
                    return
                start, before = begun
                self.seconds += time.monotonic() - start
                self.cpu_seconds += _since(before)
                self.measured += 1

    def measurement_finished(
        self,
        uuid: str,
        label: str,
        params: Params,
        result: TrialResult,
        interval: tuple[float, float] | None,
        progress: StudyProgress,
    ) -> None:
        """Count what came of it."""
        if result.measurement is None:
            self.failures.append(f"{label}: {_common.why_failed(result)}")
        else:
            self.finished += 1


def own_cpu() -> dict[str, float]:
    """CPU seconds so far of this process and of its descendants that are ours: name -> seconds.

    A trial's processes carry its mark; its guardian does too, and is ours nevertheless.
    """
    ticks = float(os.sysconf("SC_CLK_TCK"))
    found = {str(os.getpid()): time.process_time()}
    for pid in processes.descendants(os.getpid()):
        guardian = processes.name_of(pid) == processes.GUARDIAN_NAME
        if TRIAL_MARK in processes.environment_of(pid) and not guardian:
            continue
        fields = processes.stat_fields(pid)
        if fields is not None:
            found[f"{pid}:{fields[19]}"] = (int(fields[11]) + int(fields[12])) / ticks
    return found


def _since(before: Mapping[str, float]) -> float:
    """CPU seconds since `own_cpu` said ``before``."""
    return sum(seconds - before.get(who, 0.0) for who, seconds in own_cpu().items())


def peak_rss_mib() -> float:
    """Peak resident memory of this process. VmHWM: ru_maxrss keeps the parent's over exec."""
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def experiment(data: Path, sampler: str, executor: str, trials: int, seconds: float) -> Experiment:
    """A small study over thread counts."""
    return Experiment.from_dict(
        {
            "target": {"name": "spdl_video", "data_dir": str(data), "device": "cpu"},
            "baseline": {"subclip_duration": 0.5},
            "budget": {"trials": trials},
            "sampler": sampler,
            "measurement": {"min_seconds": seconds, "max_seconds": seconds},
            "verification": {"finalists": 0},
            "executor": {"kind": executor},
        },
        where=f"overhead ({sampler}, {executor})",
    )


def drive(
    data: Path, sampler: str, executor: str, trials: int, seconds: float, folder: Path
) -> dict[str, Any]:
    """Run the study in this process and return what it cost."""
    observer = CostObserver(idle=executor == "ray")
    began = time.monotonic()
    outcome = launch_experiment(
        experiment(data, sampler, executor, trials, seconds),
        storage=f"sqlite:///{folder / f'{sampler}.db'}",
        study_name=f"overhead-{sampler}",
        observer=observer,
    )
    cores = len(os.sched_getaffinity(0))
    share = None
    if observer.seconds:
        share = (observer.cpu_seconds / observer.seconds - observer.idle_share) / cores
    return {
        "sampler": sampler,
        "executor": executor,
        "state": outcome.state,
        "trials_finished": observer.finished,
        "failures": observer.failures,
        "seconds": time.monotonic() - began,
        "measured_seconds": observer.seconds,
        "own_cpu_seconds": observer.cpu_seconds,
        "idle_cpu_percent_of_machine": 100 * observer.idle_share / cores,
        "own_cpu_percent_of_machine": None if share is None else 100 * share,
        "driver_cpu_seconds_in_all": time.process_time(),
        "driver_peak_rss_mib": peak_rss_mib(),
        "modules": sorted(
            name for name in ("torch", "ray", "spdl", "av", "pandas") if name in sys.modules
        ),
    }


def report(figures: Sequence[dict[str, Any]]) -> str:
    """Markdown rows, one a sampler and executor."""
    rows = []
    for f in figures:
        cpu, goal = f["own_cpu_percent_of_machine"], MEMORY_GOALS_MIB.get(f["sampler"])
        rows.append(
            [
                f["sampler"],
                f["executor"],
                f["trials_finished"],
                f"{f['idle_cpu_percent_of_machine']:.2f} %" if f["executor"] == "ray" else "-",
                "-" if cpu is None else f"{cpu:.2f} %",
                f"<= {CPU_GOAL_PERCENT:g} %",
                f"{f['driver_peak_rss_mib']:.0f} MiB",
                "-" if goal is None else f"<= {goal:.0f} MiB",
                met(f),
            ]
        )
    header = [
        "sampler",
        "executor",
        "trials",
        "CPU of the machine, idle",
        "own CPU beyond it",
        "goal",
        "driver peak RSS",
        "goal",
        "met",
    ]
    return _common.markdown_table(header, rows)


def met(figures: dict[str, Any]) -> bool:
    """Whether both goals were reached, by a study whose trials ran."""
    cpu = figures["own_cpu_percent_of_machine"]
    memory = MEMORY_GOALS_MIB.get(figures["sampler"], max(MEMORY_GOALS_MIB.values()))
    return cpu is not None and cpu <= CPU_GOAL_PERCENT and figures["driver_peak_rss_mib"] <= memory


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0, 1 where a study failed, 2 where the input is wrong."""
    p = argparse.ArgumentParser(prog="python -m experiments.benchmarks.overhead")
    p.add_argument("--clips", type=Path, default=_common.SHARED_CLIPS, help="340x256 H.264 clips")
    p.add_argument("--data", type=Path, help="a data folder to measure on as it is")
    p.add_argument("--samplers", default="tpe,gp")
    p.add_argument("--executors", default="local,ray")
    p.add_argument("--trials", type=int, default=14, help="above 10, or GP has not begun to fit")
    p.add_argument("--seconds", type=float, default=3.0)
    p.add_argument("-o", "--output", type=Path)
    p.add_argument("--drive", help=argparse.SUPPRESS)
    options = p.parse_args(argv)
    try:
        with _common.scratch_folder("overhead") as scratch:
            if options.drive:
                sampler, executor = options.drive.split(":")
                figures = drive(
                    options.data, sampler, executor, options.trials, options.seconds, scratch
                )
                print(json.dumps(figures))
                return 0
            data = options.data or linked_set(options.clips, scratch)[0]
            found = [
                _in_fresh_driver(data, f"{sampler}:{executor}", options)
                for sampler in options.samplers.split(",")
                for executor in options.executors.split(",")
            ]
    except AutotuneError as error:
        _common.say(f"error: {error}")
        return 2
    figures_found = [f for f in found if f is not None]
    print(report(figures_found))
    if options.output:
        document = {
            "benchmark": "overhead",
            "date": _common.today(),
            "machine": _common.machine_facts(),
            "figures": figures_found,
        }
        _common.write_json(options.output, document)
    return 0 if len(figures_found) == len(found) else 1


def _in_fresh_driver(data: Path, what: str, options: argparse.Namespace) -> Any:
    command = [sys.executable, "-m", "experiments.benchmarks.overhead", "--drive", what]
    command += ["--data", str(data), "--trials", str(options.trials)]
    command += ["--seconds", str(options.seconds)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, cwd=_common.REPOSITORY, check=False
    )
    if done.returncode != 0:
        _common.say(f"{what}: the driver ended with {done.returncode}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())

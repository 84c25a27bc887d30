"""What it costs a loader to be watched: its rate, and the CPU time that watching takes.

    python -m experiments.benchmarks.watching [--clips DIR] [--blocks N] -o OUT.json

Each block measures each target twice, in random order: once alone, once with `autotune watch`
drawing it on a terminal of 80 columns once a second. The ratio of the rates is paired within
blocks. CPU time is sharper: what the loader's processes spend on a sample, paired likewise, and
what the publishing thread (as it says itself) and the watching process spend in a second.
"""

from __future__ import annotations

import argparse
import os
import pty
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune import stats
from autotune.live.channel import FolderChannel
from autotune.publishing.publisher import LIVE_VARIABLE
from autotune.system import processes
from autotune.trial import Event, MeasurementSettings, Params
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set

GOAL = 0.01
"""The most that being watched may cost, of the rate."""

TARGETS: dict[str, Params] = {
    "spdl_video": {"subclip_duration": 0.5, "num_decode_threads": 2},
    "torch_dataloader": {"subclip_duration": 0.5, "num_workers": 2},
}


@dataclass
class Run:
    """One measurement."""

    target: str
    block: int
    watched: bool
    samples_per_second: float | None
    failure: str = ""
    cpu_milliseconds_per_sample: float | None = None
    """Of the loader's processes, the publishing thread included."""
    seconds: float = 0.0
    """Counted, after the first batch."""
    watcher_cpu_seconds: float = 0.0
    """Of the process of `autotune watch`, in those seconds."""
    publisher_cpu_seconds: float = 0.0
    """Of the publishing thread, in the seconds that its lines cover."""
    published_seconds: float = 0.0
    lines: int = 0
    dropped: int = 0
    foreign_load: float | None = None
    """Share of the machine that others took while it was measured, as the product judges it."""


class Meter:
    """Takes the watcher's CPU time from the first batch to the end."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._ticks = float(os.sysconf("SC_CLK_TCK"))
        self._began: tuple[float, float] | None = None
        self.seconds = self.cpu_seconds = 0.0

    def __call__(self, event: Event) -> None:
        """An event of the worker."""
        if event.event == "first_batch":
            self._began = (event.time, self._cpu())
        elif event.event in ("window", "finished") and self._began is not None:
            self.seconds = event.time - self._began[0]
            self.cpu_seconds = self._cpu() - self._began[1]

    def _cpu(self) -> float:
        fields = None if self._pid is None else processes.stat_fields(self._pid)
        return 0.0 if fields is None else (int(fields[11]) + int(fields[12])) / self._ticks


@contextmanager
def watching(folder: Path) -> Iterator[int]:
    """`autotune watch` on a terminal of its own; gives its pid."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune", "watch", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
        cwd=_common.REPOSITORY,
        start_new_session=True,
    )
    os.close(its)

    def drain() -> None:
        try:
            while os.read(ours, 65536):
                pass
        except OSError:  # the terminal of a process that has ended
            return

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()
        reader.join()
        os.close(ours)


def measure(runner: _common.Runner, target: str, block: int, watched: bool, seconds: float) -> Run:
    """One measurement, watched or not."""
    spec = runner.specification(
        target,
        TARGETS[target],
        settings=_common.SETTINGS,
        measurement=MeasurementSettings(
            min_seconds=seconds, max_seconds=seconds, relative_half_width=1e-9
        ),
    )
    if not watched:
        result = runner.supervise(spec)
        return _run(target, block, watched, result, Meter(None))
    with _common.scratch_folder("watching") as folder:
        os.environ[LIVE_VARIABLE] = str(folder)
        try:
            with watching(folder) as pid:
                meter = Meter(pid)
                result = runner.supervise(spec, meter)
            lines = FolderChannel(folder).read()
        finally:
            del os.environ[LIVE_VARIABLE]
    run = _run(target, block, watched, result, meter)
    if len(lines) > 1:
        run.publisher_cpu_seconds = lines[-1].cost_seconds - lines[0].cost_seconds
        run.published_seconds = lines[-1].time - lines[0].time
        run.lines, run.dropped = len(lines), lines[-1].dropped
    return run


def _run(target: str, block: int, watched: bool, result: Any, meter: Meter) -> Run:
    measured = result.measurement
    disturbed = measured.contamination if measured is not None else None
    spent = None
    if measured is not None:
        cores_used = measured.resources.cpu_percent / 100 * len(os.sched_getaffinity(0))
        spent = 1000 * cores_used / measured.samples_per_second
    return Run(
        target=target,
        block=block,
        watched=watched,
        samples_per_second=_common.rate_of(result),
        cpu_milliseconds_per_sample=spent,
        failure="" if measured is not None else _common.why_failed(result),
        seconds=meter.seconds,
        watcher_cpu_seconds=meter.cpu_seconds,
        foreign_load=None if disturbed is None else disturbed.lost,
    )


def summarize(runs: Sequence[Run], cores: int) -> list[dict[str, Any]]:
    """One object a target: the paired ratio of rates, and CPU time over wall time and cores."""
    found = []
    for target in dict.fromkeys(run.target for run in runs):
        of_target = [run for run in runs if run.target == target]
        rates = _pairs(of_target, lambda run: run.samples_per_second)
        spent = _pairs(of_target, lambda run: run.cpu_milliseconds_per_sample)
        on = [run for run in of_target if run.watched and run.seconds > 0]
        entry: dict[str, Any] = {"target": target, "blocks": len(rates)}
        if len(rates) >= 2:
            entry |= {
                "alone": sum(alone for _, alone in rates) / len(rates),
                "watched": sum(watched for watched, _ in rates) / len(rates),
                "rate": _ratio(rates),
                "cpu_per_sample": _ratio(spent),
            }
        if on:
            wall = sum(run.seconds for run in on)
            published = sum(run.published_seconds for run in on)
            watcher = sum(run.watcher_cpu_seconds for run in on) / wall
            publisher = sum(run.publisher_cpu_seconds for run in on) / published
            entry |= {
                "watcher_cores": watcher,
                "publisher_cores": publisher,
                "cpu_share_of_machine": (watcher + publisher) / cores,
                "lines": sum(run.lines for run in on),
                "dropped": sum(run.dropped for run in on),
            }
        found.append(entry)
    return found


def _pairs(runs: Sequence[Run], figure: Callable[[Run], float | None]) -> list[tuple[float, float]]:
    """A figure (watched, alone) of each block where both have it."""
    by_block: dict[int, dict[bool, float]] = {}
    for run in runs:
        if (value := figure(run)) is not None:
            by_block.setdefault(run.block, {})[run.watched] = value
    return [(pair[True], pair[False]) for pair in by_block.values() if len(pair) == 2]


def _ratio(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Watched over alone, with its 95 % interval."""
    found = stats.ratio_interval([a for a, _ in pairs], [b for _, b in pairs])
    return {"ratio": found.ratio, "low": found.low, "high": found.high}


def report(document: dict[str, Any]) -> str:
    """Markdown."""
    header = [
        "target",
        "blocks",
        "alone, samples/s",
        "watched, samples/s",
        "rate, watched / alone",
        "CPU time a sample, watched / alone",
        "publishing thread, of a core",
        "`autotune watch`, of a core",
        "both, of the machine",
        "lines",
        "dropped",
    ]
    rows = []
    for f in document["targets"]:
        rows.append(
            [
                f["target"],
                f["blocks"],
                f.get("alone"),
                f.get("watched"),
                _span(f.get("rate")),
                _span(f.get("cpu_per_sample")),
                _percent(f.get("publisher_cores")),
                _percent(f.get("watcher_cores")),
                _percent(f.get("cpu_share_of_machine")),
                f.get("lines"),
                f.get("dropped"),
            ]
        )
    facts = document["machine"]
    return "\n".join(
        [
            "# What being watched costs",
            "",
            f"`{document['command']}`, {facts['cpu']}, {facts['cores']} cores, "
            f"{document['seconds']:g} s a run. Ratios are paired within blocks, with their "
            "95 % intervals; the CPU time of thread and process is measured directly.",
            "",
            _common.markdown_table(header, rows),
            "",
        ]
    )


def _span(found: dict[str, float] | None) -> str:
    if found is None:
        return "-"
    return f"{found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, report, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--clips", type=Path, default=_common.SHARED_CLIPS)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=4.0, help="counted in each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(argv)
    runs: list[Run] = []
    order = random.Random(options.seed)
    with _common.scratch_folder("watching-data") as folder:
        data, _ = linked_set(options.clips, folder)
        runner = _common.Runner(data, folder)
        runner.prewarm()
        for target in TARGETS:
            runner.measure(target, TARGETS[target], 1.0)  # learns its environment; not counted
        for block in range(options.blocks):
            arms = [(target, watched) for target in TARGETS for watched in (False, True)]
            order.shuffle(arms)
            for target, watched in arms:
                run = measure(runner, target, block, watched, options.seconds)
                runs.append(run)
                shown = run.failure or f"{run.samples_per_second:.1f} samples/s"
                _common.say(f"block {block} {target} {'watched' if watched else 'alone'}: {shown}")
    facts = _common.machine_facts()
    document = {
        "command": f"python -m experiments.benchmarks.watching --blocks {options.blocks}",
        "date": _common.today(),
        "seconds": options.seconds,
        "goal": GOAL,
        "machine": facts,
        "targets": summarize(runs, facts["cores"]),
        "runs": [asdict(run) for run in runs],
    }
    _common.write_json(options.output, document)
    text = report(document)
    options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(run.samples_per_second is not None for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())

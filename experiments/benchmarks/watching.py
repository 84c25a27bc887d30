"""What it costs a loader to be watched: its rate, and the CPU time that watching takes.

    python -m experiments.benchmarks.watching [--clips DIR] [--pairs N] -o OUT.json

Each target is measured in one long run beside `autotune watch`, which draws on a terminal of 80
columns once a second. In every second slice of it the watching process is stopped and the
publishing thread held (see `switched`): the ratio of neighbouring slices is what being watched
costs. CPU time is sharper: what the publishing thread (as it says itself) and the watching
process spend in a second of being at work.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune.exceptions import AutotuneError
from autotune.live.channel import FolderChannel
from autotune.publishing.publisher import LIVE_VARIABLE
from autotune.stats import RatioEstimate
from autotune.trial import Params
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set
from experiments.benchmarks.switched import SWITCHED, Plan, Slice, on_over_off, slices_of

GOAL = 0.01
"""The most that being watched may cost, of the rate."""

SLICE_SECONDS = 6.0
"""Twelve lines and six drawings, or one more: what was put off while it was stopped is done at
once."""
SETTLE_SECONDS = 3.0

TARGETS: dict[str, Params] = {
    "spdl_video": {"subclip_duration": 0.5, "num_decode_threads": 2},
    "torch_dataloader": {"subclip_duration": 0.5, "num_workers": 2},
}


@dataclass(frozen=True)
class Watched:
    """One target's run."""

    target: str
    slices: list[Slice]
    publisher_cores: float
    """CPU time of the publishing thread, as it says itself, per second of being watched."""
    lines: int
    dropped: int

    @property
    def ratio(self) -> RatioEstimate:
        """Rate watched over rate alone."""
        return on_over_off(self.slices)

    @property
    def cores(self) -> float:
        """CPU time of the publishing thread and of `autotune watch`, likewise."""
        on = [s for s in self.slices if s.on]
        return sum(s.own_cpu_seconds for s in on) / sum(s.seconds for s in on)

    def mean_rate(self, on: bool) -> float:
        """samples/s over all slices that were watched, or that were not."""
        chosen = [s for s in self.slices if s.on == on]
        return sum(s.samples for s in chosen) / sum(s.seconds for s in chosen)


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
        process.send_signal(signal.SIGCONT)  # it may be stopped where the run ended badly
        process.terminate()
        process.wait()
        reader.join()
        os.close(ours)


def measure(runner: _common.Runner, target: str, pairs: int, seed: int) -> Watched:
    """One run of one target.

    Raises:
        AutotuneError: if it failed.
    """
    seconds = 2 * pairs * SLICE_SECONDS + SETTLE_SECONDS
    with _common.scratch_folder("watching") as folder, watching(folder) as pid:
        plan = Plan(
            target=target,
            what="watching",
            output=str(folder / "slices"),
            stop=[pid],
            slice_seconds=SLICE_SECONDS,
            settle_seconds=SETTLE_SECONDS,
            seed=seed,
        )
        with _environment({**plan.in_environment(), LIVE_VARIABLE: str(folder)}):
            result = runner.measure(SWITCHED, TARGETS[target], seconds)
        if result.measurement is None:
            raise AutotuneError(f"{target} failed: {_common.why_failed(result)}")
        lines = FolderChannel(folder).read()
        slices = slices_of(folder / "slices")
    # the settling, too, was watched; the slice that the end cut short is not written
    on = SETTLE_SECONDS + sum(s.seconds for s in slices if s.on)
    return Watched(
        target=target,
        slices=slices,
        publisher_cores=(lines[-1].cost_seconds - lines[0].cost_seconds) / on,
        lines=len(lines),
        dropped=lines[-1].dropped,
    )


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            with contextlib.suppress(KeyError):
                del os.environ[name]


def report(runs: Sequence[Watched], command: str, facts: Mapping[str, Any]) -> str:
    """Markdown."""
    header = [
        "target",
        "pairs",
        "alone, samples/s",
        "watched, samples/s",
        "watched / alone (95 %)",
        "publishing thread, of a core",
        "with `autotune watch`, of a core",
        "of the machine",
        "lines",
        "dropped",
    ]
    rows = []
    for run in runs:
        ratio = run.ratio
        rows.append(
            [
                run.target,
                ratio.blocks,
                run.mean_rate(False),
                run.mean_rate(True),
                f"{ratio.ratio:.4f} ({ratio.low:.4f} to {ratio.high:.4f})",
                _percent(run.publisher_cores),
                _percent(run.cores),
                _percent(run.cores / facts["cores"]),
                run.lines,
                run.dropped,
            ]
        )
    return "\n".join(
        [
            "# What being watched costs",
            "",
            f"`{command}`, {facts['cpu']}, {facts['cores']} cores, slices of {SLICE_SECONDS:g} s, "
            "watched and not, in random order within a pair. CPU time is per second in which "
            "it was watched.",
            "",
            _common.markdown_table(header, rows),
            "",
        ]
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, report, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--clips", type=Path, default=_common.SHARED_CLIPS)
    parser.add_argument("--pairs", type=int, default=25, help="of slices, for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(argv)
    runs: list[Watched] = []
    with _common.scratch_folder("watching-data") as folder:
        data, _ = linked_set(options.clips, folder)
        runner = _common.Runner(data, folder)
        runner.prewarm()
        for target in TARGETS:
            runs.append(measure(runner, target, options.pairs, options.seed))
            found = runs[-1].ratio
            _common.say(f"{target}: {found.ratio:.4f} ({found.low:.4f} to {found.high:.4f})")
    facts = _common.machine_facts()
    command = f"python -m experiments.benchmarks.watching --pairs {options.pairs}"
    document = {
        "command": command,
        "date": _common.today(),
        "goal": GOAL,
        "machine": facts,
        "targets": [asdict(run) | {"ratio": asdict(run.ratio)} for run in runs],
    }
    _common.write_json(options.output, document)
    text = report(runs, command, facts)
    options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Every loader and every decoder at its tuned best, side by side in one run.

    python -m experiments.benchmarks.every_loader [--clips DIR] [-o every_loader.json]

The targets that `autotune` tunes, on the same clips, windows, frame size and batch size, handing
over the same batches. Each is tuned by the product's own sampler over the parameters that its
target comes with, all with the same number of measurements; then every block runs each of them
once, in a seeded random order, in fresh processes. Frames are extracted to JPEG files before; what
that took is told beside the table. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autotune.exceptions import AutotuneError, InputError
from autotune.media.native import library_environment
from autotune.stats import ratio_interval
from autotune.trial import Params
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set
from experiments.benchmarks.loader_field import FRAMES_TARGET, USUAL, contenders
from experiments.benchmarks.loaders_report import Run, run_of
from experiments.benchmarks.tuning import Searched, Tuned, tune

WHY_UNAVAILABLE = """
import json
from autotune.media.decoders import why_unavailable
print(json.dumps(why_unavailable()))
"""
RUN_OVERHEAD_SECONDS = 4.5
"""What a run takes on two cores besides the time that is counted: imports, workers, the first
batch, the end."""


@dataclass(frozen=True)
class Extraction:
    """What it took to have frames on disk."""

    clips: int
    seconds: float
    mebibytes: float
    video_mebibytes: float


def missing_decoders() -> dict[str, str]:
    """Why a decoder cannot be used, asked in a process that finds the libraries as a worker does.

    Raises:
        AutotuneError: if it cannot be asked.
    """
    environment = {**os.environ, **library_environment("bundled", "cpu")}
    command = [sys.executable, "-c", WHY_UNAVAILABLE]
    asked = subprocess.run(command, env=environment, capture_output=True, text=True)
    if asked.returncode != 0:
        raise AutotuneError(f"decoders: {asked.stderr.strip()}")
    found: dict[str, str] = json.loads(asked.stdout)
    return found


def expected_minutes(contenders: int, options: argparse.Namespace) -> float:
    """How long the comparison takes, extraction aside."""
    tuning: float = options.tuning * (options.tuning_seconds + RUN_OVERHEAD_SECONDS)
    blocks: float = options.rounds * (options.seconds + RUN_OVERHEAD_SECONDS)
    return contenders * (tuning + blocks) / 60


def extract(videos: Path, frames: Path, workers: int) -> Extraction:
    """Extract every clip with the command that users have.

    Raises:
        AutotuneError: if it fails.
    """
    started = time.monotonic()
    command = [sys.executable, "-m", "autotune", "clips", "extract", str(videos), str(frames)]
    made = subprocess.run([*command, "--workers", str(workers)], capture_output=True, text=True)
    if made.returncode != 0:
        raise AutotuneError(f"clips extract: {made.stderr.strip()}")
    return Extraction(
        clips=_count(videos),
        seconds=time.monotonic() - started,
        mebibytes=_mebibytes(frames),
        video_mebibytes=_mebibytes(videos),
    )


def _count(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def _mebibytes(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20


class Comparison:
    """The runs, on videos and on frames."""

    def __init__(self, runners: Mapping[bool, _common.Runner], duration: float) -> None:
        """Args:
        runners: by whether the data are extracted frames.
        duration: of a window, seconds.
        """
        self._runners = runners
        self._duration = duration
        self.runs: list[Run] = []
        self.tuned: dict[str, Tuned] = {}
        """Of every contender that could be measured."""

    def tune(self, field: Sequence[Searched], measurements: int, seconds: float, seed: int) -> None:
        """Find the best configuration of each, with the same number of measurements."""
        for contender in field:
            measure = partial(self._measure, contender, "tuning", 0, seconds)
            found = tune(contender, measurements, seed, measure)
            if found is None:
                _common.say(f"{contender.name}: every measurement failed, it is left out")
            else:
                self.tuned[contender.name] = found

    def blocks(self, field: Sequence[Searched], rounds: int, seconds: float, seed: int) -> None:
        """Run everyone once a block, in random order."""
        order = random.Random(seed)
        running = [contender for contender in field if contender.name in self.tuned]
        for block in range(rounds):
            shuffled = list(running)
            order.shuffle(shuffled)
            for contender in shuffled:
                params = self.tuned[contender.name].params
                self._measure(contender, "block", block, seconds, params)

    def _measure(
        self, contender: Searched, phase: str, block: int, seconds: float, params: Params
    ) -> float | None:
        runner = self._runners[contender.target == FRAMES_TARGET]
        settings = {**_common.SETTINGS, **contender.settings}
        result = runner.measure(contender.target, params, seconds, settings=settings)
        run = run_of(self._duration, contender.name, phase, block, params, result)
        self.runs.append(run)
        shown = run.failure or f"{run.samples_per_second:.1f} samples/s"
        _common.say(f"{phase} {block} {contender.name}: {shown}")
        return run.samples_per_second


def report(
    comparison: Comparison,
    field: Sequence[Searched],
    extraction: Extraction,
    missing: Mapping[str, str],
) -> str:
    """The table, the fastest first, each beside `torch_dataloader` with PyAV of its own block."""
    rates = {c.name: _rates(comparison.runs, c.name) for c in field}
    measured = sorted((c for c in field if rates[c.name]), key=lambda c: -_middle(rates[c.name]))
    rows = [_row(comparison, c, rates[c.name], rates.get(USUAL, {})) for c in measured]
    header = [
        "loader", "samples/s (median)", "range", f"/ {USUAL} (95 % interval)", "first batch (s)",
        "tuned parameters", "tuning measurements",
    ]  # fmt: skip
    share = extraction.mebibytes / extraction.video_mebibytes
    without = [c.name for c in field if not rates[c.name]]
    lines = [
        _common.markdown_table(header, rows),
        "",
        "Handed over by all: float32 in 0..1, [N, C, T, H, W] as a view of [N, T, H, W, C], "
        f"{_common.SETTINGS['num_frames']} frames a sample.",
        f"Frames on disk: {extraction.clips} clips, {extraction.mebibytes:.1f} MiB "
        f"({share:.1f} times the videos), extracted in {extraction.seconds:.1f} s.",
    ]
    if without:
        lines.append(f"Without a figure: {'; '.join(without)}.")
    if missing:
        lines.append(f"Not usable here, so not compared: {', '.join(missing)}.")
    return "\n".join([*lines, ""])


def _row(
    comparison: Comparison,
    contender: Searched,
    by_block: Mapping[int, float],
    usual: Mapping[int, float],
) -> list[object]:
    name = contender.name
    blocks = sorted(by_block.keys() & usual.keys())
    ratio = None
    if len(blocks) >= 2 and name != USUAL:
        found = ratio_interval([by_block[b] for b in blocks], [usual[b] for b in blocks])
        ratio = f"{found.ratio:.2f} ({found.low:.2f} to {found.high:.2f})"
    mine = [r for r in comparison.runs if r.contender == name and r.phase == "block"]
    firsts = [r.time_to_first_batch for r in mine if r.time_to_first_batch is not None]
    tuned = comparison.tuned[name]
    failed = f" ({tuned.failed} failed)" if tuned.failed else ""
    return [
        name,
        f"{_middle(by_block):.1f}",
        f"{min(by_block.values()):.1f} to {max(by_block.values()):.1f}",
        ratio,
        f"{statistics.median(firsts):.2f}" if firsts else None,
        contender.shown(tuned.params),
        f"{tuned.measurements}{failed}",
    ]


def _rates(runs: Sequence[Run], name: str) -> dict[int, float]:
    return {
        r.block: r.samples_per_second
        for r in runs
        if r.contender == name and r.phase == "block" and r.samples_per_second is not None
    }


def _middle(by_block: Mapping[int, float]) -> float:
    return statistics.median(by_block.values())


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    found.add_argument("--clips", type=Path, default=_common.SHARED_CLIPS)
    found.add_argument("--links", type=int, default=64, help="size of the data set")
    found.add_argument("--duration", type=float, default=0.5, help="of a window, seconds")
    found.add_argument("--seconds", type=float, default=3.0, help="length of a block's run")
    found.add_argument("--rounds", type=int, default=8, help="interleaved blocks")
    found.add_argument("--tuning", type=int, default=14, help="measurements to tune each with")
    found.add_argument("--tuning-seconds", type=float, default=1.5, help="length of each")
    found.add_argument("--only", nargs="+", metavar="NAME", help="contenders, by name")
    found.add_argument("--workers", type=int, default=2, help="cores to tune around")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("-o", "--output", type=Path, help="JSON file; a .md is written beside it")
    return found


def chosen(field: Sequence[Searched], names: Sequence[str] | None) -> list[Searched]:
    """Those asked for.

    Raises:
        InputError: if one of the names is no contender's.
    """
    accepted = [contender.name for contender in field]
    for name in names or ():
        if name not in accepted:
            raise InputError(f"--only: {name!r} is no contender; accepted: {'; '.join(accepted)}")
    return [c for c in field if names is None or c.name in names]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 0, or 2 where the input is wrong."""
    options = parser().parse_args(argv)
    started = time.monotonic()
    try:
        with _common.scratch_folder("every_loader") as scratch:
            missing = missing_decoders()
            for decoder, reason in missing.items():
                _common.say(f"left out: {decoder}: {reason}")
            field = chosen(contenders(options.duration, options.workers, missing), options.only)
            _common.say(
                f"{len(field)} contenders, {options.tuning} runs to tune each and {options.rounds} "
                f"blocks: about {expected_minutes(len(field), options):.0f} minutes alone"
            )
            videos, names = linked_set(options.clips, scratch / "videos", options.links)
            extraction = extract(videos, scratch / "frames", options.workers)
            runners = {
                False: _common.Runner(videos, scratch, seed=options.seed),
                True: _common.Runner(scratch / "frames", scratch, seed=options.seed),
            }
            comparison = Comparison(runners, options.duration)
            comparison.tune(field, options.tuning, options.tuning_seconds, options.seed)
            comparison.blocks(field, options.rounds, options.seconds, options.seed)
    except AutotuneError as error:
        _common.say(f"error: {error}")
        return 2
    text = report(comparison, field, extraction, missing)
    print(text)
    if options.output is not None:
        document: dict[str, Any] = {
            "benchmark": "every_loader",
            "date": _common.today(),
            "machine": _common.machine_facts(),
            "clips": names,
            "missing_decoders": missing,
            "extraction": asdict(extraction),
            "tuned": {name: asdict(tuned) for name, tuned in comparison.tuned.items()},
            "minutes": round((time.monotonic() - started) / 60, 1),
            "runs": [asdict(run) for run in comparison.runs],
        }
        _common.write_json(options.output, document)
        options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

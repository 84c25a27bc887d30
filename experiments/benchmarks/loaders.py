"""Compares spdl_video with decode alone, the published example's stages and a torch DataLoader.

    python -m experiments.benchmarks.loaders [--clips DIR | --data DIR] [-o results.json]

A short tuning pass finds each contender's best configuration; then every block runs each of
them once, in a seeded random order, in fresh processes. Ratios are paired within the blocks.
Run it alone on the machine: whatever else runs is in the figures.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from autotune.exceptions import AutotuneError, InputError
from autotune.trial import Params
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set
from experiments.benchmarks.contenders import Contender, contenders
from experiments.benchmarks.loaders_report import Run, report, run_of


class Comparison:
    """The runs of one comparison."""

    def __init__(self, runner: _common.Runner, tuning_seconds: float, seconds: float) -> None:
        self._runner = runner
        self._tuning_seconds = tuning_seconds
        self._seconds = seconds
        self.runs: list[Run] = []
        self.best: dict[float, dict[str, Params]] = {}

    def tune(self, duration: float, field: Sequence[Contender]) -> None:
        """Find every contender's best configuration."""
        self.best[duration] = {}
        for contender in field:
            best = contender.tune(partial(self._measure, duration, contender, "tuning", 0))
            self.best[duration][contender.name] = best
            _common.say(f"{duration:g} s: {contender.name}: {best}")

    def blocks(self, duration: float, field: Sequence[Contender], rounds: int, seed: int) -> None:
        """Run everyone once a block, in random order."""
        order = random.Random(f"{seed}:{duration}")
        for block in range(rounds):
            shuffled = list(field)
            order.shuffle(shuffled)
            for contender in shuffled:
                params = self.best[duration][contender.name]
                self._measure(duration, contender, "block", block, params)

    def _measure(
        self, duration: float, contender: Contender, phase: str, block: int, params: Params
    ) -> float | None:
        seconds = self._tuning_seconds if phase == "tuning" else self._seconds
        settings = {**_common.SETTINGS, **contender.settings}
        result = self._runner.measure(contender.target, params, seconds, settings=settings)
        run = run_of(duration, contender.name, phase, block, params, result)
        self.runs.append(run)
        shown = run.failure or f"{run.samples_per_second:.1f} samples/s"
        _common.say(f"{duration:g} s {phase} {block} {contender.name}: {shown}")
        if run.failure and result.log_tail:
            _common.say(result.log_tail[-1500:])
        return run.samples_per_second


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.loaders", description=__doc__
    )
    p.add_argument("--clips", type=Path, help="folder to take 340x256 H.264 clips from")
    p.add_argument("--data", type=Path, help="a data folder to measure on as it is")
    p.add_argument("--links", type=int, default=64, help="size of the data set made of --clips")
    p.add_argument("--seconds", type=float, default=6.0, help="length of a block's run")
    p.add_argument("--tuning-seconds", type=float, default=2.0, help="length of a tuning run")
    p.add_argument("--rounds", type=int, default=6, help="interleaved blocks")
    p.add_argument("--durations", default="0.5,2", help="subclip durations in seconds")
    p.add_argument(
        "--only", default="", help="contenders whose name contains one of these, by comma"
    )
    p.add_argument(
        "--no-tuning", action="store_true", help="run every contender as it is before tuning"
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("-o", "--output", type=Path, help="JSON file; the table goes beside it as .md")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 0, or 2 where the input is wrong."""
    options = parser().parse_args(argv)
    durations = _common.numbers(options.durations)
    wanted = [part.strip() for part in options.only.split(",") if part.strip()]
    try:
        with _common.scratch_folder("loaders") as scratch:
            if options.data:
                data, names = options.data, [str(options.data)]
            else:
                source = options.clips or _common.SHARED_CLIPS
                if not source.is_dir():
                    raise InputError(f"--clips {source}: no such folder; give --clips or --data")
                data, names = linked_set(source, scratch, options.links)
            runner = _common.Runner(data, scratch, seed=options.seed)
            runner.prewarm()
            machine = _common.machine_facts()
            if machine["load_average"][0] > 0.3 * (os.cpu_count() or 1):
                _common.say(f"warning: the machine is busy (load {machine['load_average'][0]})")
            comparison = Comparison(runner, options.tuning_seconds, options.seconds)
            for duration in durations:
                field = [
                    c
                    for c in contenders(duration)
                    if not wanted or any(part in c.name for part in wanted)
                ]
                if options.no_tuning:
                    field = [replace(c, axes=()) for c in field]
                comparison.tune(duration, field)
                comparison.blocks(duration, field, options.rounds, options.seed)
            clips = len(runner.manifest)
    except AutotuneError as error:
        _common.say(f"error: {error}")
        return 2
    table, judged = report(comparison.runs, durations)
    print(table)
    if options.output:
        document = {
            "benchmark": "loaders",
            "date": _common.today(),
            "machine": machine,
            "data": {"clips": names, "files": clips, "links": not options.data},
            "options": {k: str(v) for k, v in vars(options).items()},
            "ratios": judged,
            "settings": {c.name: {**_common.SETTINGS, **c.settings} for c in field},
            "best": {str(d): best for d, best in comparison.best.items()},
            "runs": [asdict(run) for run in comparison.runs],
        }
        _common.write_json(options.output, document)
        options.output.with_suffix(".md").write_text(table, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
